"""Poses in files: the JSON of OpenPose and of COCO, read from strangers and written.

- OpenPose: {"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}]}, 18 points (COCO) or 25 (BODY_25); its own
  programs do not write the picture's size, those that draw for ControlNet add canvas_width and canvas_height, and some
  of these write x and y as shares of the picture.
- COCO: {"annotations": [{"keypoints": [x, y, v, ...]}]}, 17 points without a neck, or one such annotation; v is 0 for
  missing, 1 for hidden, 2 for seen.

The first person counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_json
from qwenlab.pose.openpose import LIMBS, POINTS, Pose2D
from qwenlab.sniffing import HEAD, file_kind

_FROM_BODY_25 = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]  # 8 is the middle of the hips
_COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
_NECK = POINTS.index("neck")
_LARGEST = 8 * 2**20  # bytes; a file of one person has 2 KiB


def read_pose(path: str | Path, size: tuple[int, int] | None = None) -> Pose2D:
    """The first person of a file of OpenPose or COCO.

    size: (W, H) in pixels of the picture that the points belong to, for a file that does not say it. A pose without
    some points, or partly outside its picture, is a good one. Raises QwenlabError, one line with the file's name, for
    what is no pose: no JSON, nobody in it, another count of numbers, NaN, all points missing or outside the picture,
    two joints of a limb in one place.
    """
    path = Path(path)
    try:
        data = _parsed(path)
        points, said = _coco(data) if _is_coco(data) else _openpose(data)
        pose = Pose2D(points, _size(said or size))
        if np.abs(pose.points[pose.seen, :2]).max(initial=0) <= 2:  # nobody is that small: shares of the picture
            pose = Pose2D(pose.points * [*pose.size, 1], pose.size)
        _check(pose)
    except QwenlabError as error:
        raise QwenlabError(f"{path}: {error}") from None
    return pose


def write_openpose(path: str | Path, pose: Pose2D) -> Path:
    """Write a pose as OpenPose's JSON with 18 points, in pixels to a hundredth; depth has no place in it."""
    numbers = np.round(np.where(pose.seen[:, None], pose.points, 0).astype(float), 2).flatten().tolist()
    width, height = pose.size
    people = [{"pose_keypoints_2d": numbers}]
    return atomic_write_json(path, {"people": people, "canvas_width": width, "canvas_height": height})


def write_coco(path: str | Path, pose: Pose2D) -> Path:
    """Write a pose as COCO's JSON with 17 points, in pixels to a hundredth; a confidence up to 0.5 becomes "hidden"."""
    chosen = np.where(pose.seen[:, None], pose.points, 0)[[POINTS.index(name) for name in _COCO]].astype(float)
    chosen[:, 2] = np.where(chosen[:, 2] > 0.5, 2, np.where(chosen[:, 2] > 0, 1, 0))
    width, height = pose.size
    return atomic_write_json(
        path,
        {
            "images": [{"id": 1, "width": width, "height": height}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "num_keypoints": int((chosen[:, 2] > 0).sum()),
                             "keypoints": np.round(chosen, 2).flatten().tolist()}],
            "categories": [{"id": 1, "name": "person", "keypoints": list(_COCO)}],
        },
    )  # fmt: skip


def _parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise QwenlabError("larger than 8 MiB, which is no file of a pose; give one person's JSON")
        content = path.read_bytes()
    except OSError as error:
        raise QwenlabError(f"cannot be read ({error.strerror}); give a JSON file of OpenPose or COCO") from error
    kind = file_kind(content[:HEAD])
    if kind:
        raise QwenlabError(f"this is {kind}; give a JSON file of OpenPose or COCO")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}, column {error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise QwenlabError(f"no JSON ({where}{getattr(error, 'msg', error)}); write the file anew") from None


def _is_coco(data: Any) -> bool:
    return isinstance(data, dict) and ("annotations" in data or "keypoints" in data)


def _openpose(data: Any) -> tuple[np.ndarray, Any]:
    """(18, 3) points and what the file says of the size."""
    if isinstance(data, list) and data:  # ComfyUI's nodes write a list of frames
        data = data[0]
    if not isinstance(data, dict) or "people" not in data:
        raise QwenlabError('neither "people" (OpenPose) nor "annotations" (COCO) in it; give a file of one of them')
    person = _first(data["people"], "people")
    points = _numbers(person.get("pose_keypoints_2d"), "pose_keypoints_2d", (18, 25))
    if len(points) == 25:
        points = points[_FROM_BODY_25]
    said = (data.get("canvas_width"), data.get("canvas_height"))
    return points, said if None not in said else None


def _coco(data: dict[str, Any]) -> tuple[np.ndarray, Any]:
    person = _first(data["annotations"], "annotations") if "annotations" in data else data
    found = _numbers(person.get("keypoints"), "keypoints", (17,))
    points = np.zeros((len(POINTS), 3))
    points[[POINTS.index(name) for name in _COCO]] = found * [1, 1, 0.5]
    shoulders = points[[POINTS.index("right_shoulder"), POINTS.index("left_shoulder")]]
    if (shoulders[:, 2] > 0).all():  # OpenPose's neck is the middle of the shoulders
        points[_NECK] = [*shoulders[:, :2].mean(0), shoulders[:, 2].min()]
    images = [image for image in data.get("images") or [] if isinstance(image, dict)]
    (image, *_) = [image for image in images if image.get("id") == person.get("image_id")] or [{}]
    said = (image.get("width"), image.get("height"))
    return points, said if None not in said else None


def _first(people: Any, name: str) -> dict[str, Any]:
    if not isinstance(people, list) or not people:
        raise QwenlabError(f'nobody in it: "{name}" is empty; give a picture with a person to the detector')
    if not isinstance(people[0], dict):
        raise QwenlabError(f'"{name}" holds no person, but {type(people[0]).__name__}; write the file anew')
    return people[0]


def _numbers(values: Any, name: str, counts: tuple[int, ...]) -> np.ndarray:
    """(points, 3) float64 of a flat list."""
    if not isinstance(values, list):
        raise QwenlabError(f'no list "{name}" in it; write the file anew')
    wanted = " or ".join(str(3 * count) for count in counts)
    if len(values) not in [3 * count for count in counts]:
        raise QwenlabError(
            f'"{name}" has {len(values)} numbers, and {wanted} are needed: this is another order of joints; '
            "convert it to OpenPose's COCO points, BODY_25 or COCO-17"
        )
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise QwenlabError(f'"{name}" holds something that is no number; 0, 0, 0 stands for a missing point')
    try:
        return np.array(values, float).reshape(-1, 3)
    except OverflowError:
        raise QwenlabError(f'"{name}" holds a number of hundreds of digits; write the file anew') from None


def _size(said: Any) -> tuple[int, int]:
    if said is None:
        raise QwenlabError("does not say how large its picture is; pass size=(width, height) in pixels")
    if not all(isinstance(side, int | float) and 1 <= side <= 2**16 for side in said):
        raise QwenlabError(f"a picture of {said[0]} x {said[1]} pixels; give its real size")
    return int(said[0]), int(said[1])


def _check(pose: Pose2D) -> None:
    places, seen = pose.points[:, :2], pose.seen
    if not seen.any():
        raise QwenlabError("all points are missing; give a picture with a person to the detector")
    inside = seen & (places >= 0).all(1) & (places <= pose.size).all(1)
    if not inside.any():
        raise QwenlabError(
            f"the person is outside its picture of {pose.size[0]} x {pose.size[1]} pixels; check size and canvas"
        )
    if not any(seen[a] and seen[b] for a, b in LIMBS):
        raise QwenlabError(f"no two joints of one limb are there, only {POINTS[int(seen.argmax())]}; nothing to draw")
    for a, b in LIMBS:
        if seen[a] and seen[b] and np.abs(places[a] - places[b]).max() < 1e-3:
            raise QwenlabError(
                f"{POINTS[a]} and {POINTS[b]} are in one place ({places[a][0]:g}, {places[a][1]:g}); "
                "a limb needs a length: give missing points the confidence 0"
            )
