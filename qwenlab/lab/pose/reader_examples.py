"""Drawings with their answers, for the readers of `qwenlab.lab.pose.readers`: right and wrong anatomy, any pose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes
from qwenlab.lab import world
from qwenlab.lab.pose.drawing import draw_body
from qwenlab.lab.pose.readers import SIZE
from qwenlab.lab.pose.sampling import REGIONS, Pose, sample_depth_pair, sample_pose
from qwenlab.lab.pose.scenes import PosedScene, in_scene
from qwenlab.lab.world.posed import Posed
from qwenlab.pose.body import mirror
from qwenlab.pose.motion import ACTIONS, action

SEED = 71  # of the pictures; no other part of the package draws from it
STYLES = ("剪纸画", *world.ATTRIBUTES["style"])
USES = 4  # pictures drawn of a body: turned, mirrored and in other scenes
UNKNOWN = -1  # an answer that the picture does not give
_WRONG, _CHARACTER = 0.5, 0.15  # shares of pictures with another number of limbs, and of the character of data_sample
_PAIRS, _PLAIN = 0.25, 0.15  # shares of bodies in pairs of arms before and behind, and of the ten actions
_SIDES = ("right", "left")


@dataclass(frozen=True)
class Examples:
    """N pictures and their answers."""

    images: np.ndarray  # (N, 128, 128, 3) uint8
    joints: np.ndarray  # (N, 18, 3) float32: x, y in pixels; 1 seen, 0 not there, -1 covered or not to be told
    arms: np.ndarray  # (N,) int64: 0..3, or UNKNOWN
    legs: np.ndarray  # (N,) int64
    before: np.ndarray  # (N, 2) int64: 1 before the body, 0 behind it, UNKNOWN where that does not show

    def save(self, path: Path) -> None:
        """Write all to a safetensors file."""
        atomic_write_bytes(path, save({name: np.ascontiguousarray(value) for name, value in vars(self).items()}))

    @classmethod
    def load(cls, path: Path) -> Examples:
        """Read what `save` wrote. Raises QwenlabError when the file is damaged."""
        try:
            return cls(**load_file(path))
        except Exception as error:  # safetensors raises several kinds
            raise QwenlabError(f"cannot read the examples {path} ({error}); delete it to draw them anew") from error


def examples(seed: int, count: int, *, style: str = "", wrong: float = _WRONG, regions: bool = True) -> Examples:
    """`count` pictures.

    Args:
        seed: decides everything.
        count: pictures.
        style: of all of them; "" for any.
        wrong: share with another number of arms or legs than two.
        regions: also poses of the regions that trainings of a condition never have; the readers must read these, too.
    """
    drawn: list[tuple[Posed, tuple[np.ndarray, int, int, np.ndarray]]] = []
    number = 0
    while len(drawn) < count:
        rng = np.random.default_rng([SEED, seed, number])
        number += 1
        framing = "全身" if rng.random() < 0.75 else "半身"
        poses = _poses(rng, framing, regions)
        for use in range(USES):
            drawn.append(_example(rng, _other_use(rng, poses[use // 2], use), framing, style, wrong))
    drawn = drawn[:count]
    joints, arms, legs, before = (np.stack(values) for values in zip(*(answer for _, answer in drawn), strict=True))
    return Examples(np.stack([posed.image for posed, _ in drawn]), joints, arms, legs, before)


def _poses(rng: np.random.Generator, framing: str, regions: bool) -> tuple[Pose, Pose]:
    """The same pose twice, or an arm before the body and behind it."""
    kind = rng.random()
    if kind < _PAIRS:
        return sample_depth_pair(rng, framing)[:2]
    region = REGIONS[int(rng.integers(2))] if regions and rng.random() < 0.25 else ""
    pose = sample_pose(rng, region=region, framing=framing)
    if kind < _PAIRS + _PLAIN:
        pose = replace(pose, body=action(str(rng.choice(ACTIONS)), side=pose.view == "侧面"))
    return pose, pose


def _other_use(rng: np.random.Generator, pose: Pose, use: int) -> Pose:
    """The pose turned a little, and in a mirror every second time."""
    camera = pose.camera
    body, yaw = (mirror(pose.body), -camera.yaw) if use % 2 else (pose.body, camera.yaw)
    x, y = camera.centre
    return Pose(
        body,
        replace(camera, yaw=float(yaw + rng.uniform(-8, 8)), centre=(float(x + rng.uniform(-0.04, 0.04)), y)),
    )


def _example(rng: np.random.Generator, pose: Pose, framing: str, style: str, wrong: float):
    posed = _dressed(rng, in_scene(rng, pose, framing, "all"), style)
    arms, legs = 2, 2
    if rng.random() < wrong:
        arms, legs = (int(rng.choice(4, p=[0.1, 0.35, 0.15, 0.4])) for _ in range(2))
    anatomy = world.Anatomy(arms=arms, legs=legs)
    drawing = draw_body(posed.scene, pose.body, pose.camera, SIZE, anatomy)
    return drawing, answers(drawing, anatomy, framing)


def _dressed(rng: np.random.Generator, posed: PosedScene, style: str) -> PosedScene:
    """The scene in a style, or its figure as the character of `data_sample`."""
    scene = world.as_character(posed.scene) if rng.random() < _CHARACTER else posed.scene
    return replace(posed, scene=replace(scene, style=style) if style else scene)


def answers(drawing: Posed, anatomy: world.Anatomy, framing: str) -> tuple[np.ndarray, int, int, np.ndarray]:
    """Joints (18, 3), arms, legs and (2,) which arm is before the body, as `Examples` has them."""
    joints = drawing.body.copy()
    inside = ((joints[:, :2] >= 0) & (joints[:, :2] < drawing.image.shape[0])).all(1)
    joints[(joints[:, 2] == 0) & inside, 2] = UNKNOWN
    drawn = {(limb.kind, limb.side): limb for limb in drawing.limbs}
    before = np.full(2, UNKNOWN)
    for i, side in enumerate(_SIDES):
        for kind, first, number in (("arm", 3 + 3 * i, anatomy.arms), ("leg", 9 + 3 * i, anatomy.legs)):
            if number > 2:  # which of the three is the third cannot be told
                joints[first : first + 2, 2] = UNKNOWN
            elif (kind, side) not in drawn:
                joints[first : first + 2, 2] = 0
        arm = drawn.get(("arm", side))
        if arm is not None and anatomy.arms == 2 and arm.before is not None:
            before[i] = int(arm.before)
    arms = drawing.count("arm")
    legs = drawing.count("leg") if framing == "全身" else None
    return joints, UNKNOWN if arms is None else arms, UNKNOWN if legs is None else legs, before
