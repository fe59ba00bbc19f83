"""A pose in a picture: the 18 points of OpenPose's COCO model, and how a 3D body gets there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from qwenlab.errors import QwenlabError
from qwenlab.pose.body import INDEX, Body, face_points
from qwenlab.pose.camera import Camera, width_and_height

POINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
#: The 17 limbs in the order in which public programs draw them: indices of two points each.
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_BODY, _FACE = slice(1, 14), [0, 14, 15, 16, 17]  # points that are joints of the body, and those of the head


@dataclass(frozen=True)
class Pose2D:
    """One person in one picture.

    points: (18, 3) float32, in the order of POINTS: x and y in pixels, confidence. Confidence 0: the point is missing.
    size: (W, H) of the picture that the pixels belong to.
    depth: (18,) float32 or None: figure units away from the viewer; smaller is nearer, 0 the figure's axis.

    Raises QwenlabError when a number is none or the arrays have other shapes.
    """

    points: np.ndarray
    size: tuple[int, int]
    depth: np.ndarray | None = None

    def __post_init__(self) -> None:
        points = np.asarray(self.points, np.float32)
        if points.shape != (len(POINTS), 3):
            raise QwenlabError(f"points of a pose: {points.shape}, and (18, 3) is needed: OpenPose's COCO points")
        for point, numbers in zip(POINTS, points, strict=True):
            if not np.isfinite(numbers).all():
                raise QwenlabError(f"{point}: {numbers.tolist()} is no place; give finite numbers, 0 0 0 if missing")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "size", width_and_height(self.size))
        if min(self.size) < 1:
            raise QwenlabError(f"size of a pose's picture: {self.size}; both sides need at least 1 pixel")
        if self.depth is not None:
            depth = np.asarray(self.depth, np.float32)
            if depth.shape != (len(POINTS),) or not np.isfinite(depth).all():
                raise QwenlabError("depth of a pose: needs 18 finite numbers, one for each point")
            object.__setattr__(self, "depth", depth)

    @property
    def seen(self) -> np.ndarray:
        """(18,) bool: which points are there."""
        return self.points[:, 2] > 0

    def resized(self, size: int | tuple[int, int]) -> Pose2D:
        """The same pose in the same picture at another size, (W, H) or the side of a square."""
        width, height = width_and_height(size)
        factors = np.array([width / self.size[0], height / self.size[1], 1], np.float32)
        return Pose2D(self.points * factors, (width, height), self.depth)


def to_openpose(body: Body, camera: Camera, size: int | tuple[int, int]) -> Pose2D:
    """What OpenPose would find in a picture of the body, were nothing hidden: every point has confidence 1.

    size: of the picture, (W, H) or the side of a square, in pixels. Points may lie outside it.
    """
    joints, face = body.joints(), face_points(body.rotations, body.root)
    places = torch.empty(len(POINTS), 3)
    places[_BODY] = joints[[INDEX[name] for name in POINTS[_BODY]]]
    places[_FACE] = face
    projected = camera.project(places, size).numpy()  # (18, 3): x, y, depth
    points = np.concatenate([projected[:, :2], np.ones((len(POINTS), 1))], 1)
    return Pose2D(points, width_and_height(size), projected[:, 2])
