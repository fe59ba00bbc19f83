"""A body in 3D: 24 joints, their rotations, and where that puts them.

Figure coordinates, as the drawn world has them, and a third: x to the viewer's right, y down, z away from the viewer;
the top of the head is at y = 0, the soles are at y = 1. The figure faces the viewer (-z), so its right side is at
negative x. Names, order and parents of the joints are SMPL's (Loper et al., 2015); the lengths of the bones are our
own, in the proportions of the drawn figures. All rotations 0: a T-pose, SMPL's rest pose.

B bodies, J = 24 joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import roma
import torch
from torch import Tensor

from qwenlab.errors import QwenlabError

# joint: (parent, where it is in the rest pose)
_TREE = {
    "pelvis": (None, (0, 0.60, 0)),
    "left_hip": ("pelvis", (0.052, 0.63, 0)),
    "right_hip": ("pelvis", (-0.052, 0.63, 0)),
    "spine1": ("pelvis", (0, 0.55, 0)),
    "left_knee": ("left_hip", (0.052, 0.782, 0)),
    "right_knee": ("right_hip", (-0.052, 0.782, 0)),
    "spine2": ("spine1", (0, 0.50, 0)),
    "left_ankle": ("left_knee", (0.052, 0.934, 0)),
    "right_ankle": ("right_knee", (-0.052, 0.934, 0)),
    "spine3": ("spine2", (0, 0.45, 0)),
    "left_foot": ("left_ankle", (0.064, 0.974, -0.07)),
    "right_foot": ("right_ankle", (-0.064, 0.974, -0.07)),
    "neck": ("spine3", (0, 0.375, 0)),
    "left_collar": ("spine3", (0.03, 0.405, 0)),
    "right_collar": ("spine3", (-0.03, 0.405, 0)),
    "head": ("neck", (0, 0.32, 0)),
    "left_shoulder": ("left_collar", (0.095, 0.405, 0)),
    "right_shoulder": ("right_collar", (-0.095, 0.405, 0)),
    "left_elbow": ("left_shoulder", (0.217, 0.405, 0)),
    "right_elbow": ("right_shoulder", (-0.217, 0.405, 0)),
    "left_wrist": ("left_elbow", (0.337, 0.405, 0)),
    "right_wrist": ("right_elbow", (-0.337, 0.405, 0)),
    "left_hand": ("left_wrist", (0.407, 0.405, 0)),
    "right_hand": ("right_wrist", (-0.407, 0.405, 0)),
}
JOINTS = tuple(_TREE)
INDEX = {name: number for number, name in enumerate(JOINTS)}
PARENTS = tuple(-1 if parent is None else INDEX[parent] for parent, _ in _TREE.values())  # before their children
REST = torch.tensor([place for _, place in _TREE.values()])  # (24, 3) float32, the T-pose

#: Points of the head in the rest pose, which turn with the joint "head": what OpenPose sees of a face.
FACE = {
    "nose": (0.0, 0.245, -0.15),
    "right_eye": (-0.062, 0.22, -0.105),
    "left_eye": (0.062, 0.22, -0.105),
    "right_ear": (-0.155, 0.23, 0.03),
    "left_ear": (0.155, 0.23, 0.03),
}


def _other_side(name: str) -> str:
    side, _, part = name.partition("_")
    return {"left": "right_", "right": "left_"}[side] + part if part else name


_MIRRORED = [INDEX[_other_side(name)] for name in JOINTS]


@dataclass(frozen=True)
class Body:
    """A pose in 3D.

    rotations: (24, 3) float32, radians, rotation vectors (axis times angle) of the joints, each relative to its parent.
    root: (3,) float32, figure units, by which the whole body is moved; SMPL's `trans`.
    """

    rotations: Tensor = field(default_factory=lambda: torch.zeros(len(JOINTS), 3))
    root: Tensor = field(default_factory=lambda: torch.zeros(3))

    def __post_init__(self) -> None:
        for name, shape in (("rotations", (len(JOINTS), 3)), ("root", (3,))):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float32)
            if value.shape != shape:
                raise QwenlabError(f"{name} of a body: {tuple(value.shape)} numbers, and {shape} are needed")
            if not value.isfinite().all():
                raise QwenlabError(f"{name} of a body: a number is missing (NaN) or infinite; give finite ones")
            object.__setattr__(self, name, value)

    def joints(self) -> Tensor:
        """(24, 3) figure coordinates of the joints."""
        return forward_kinematics(self.rotations, self.root)

    @classmethod
    def from_smpl(cls, pose: Sequence[float], trans: Sequence[float] = (0, 0, 0)) -> Body:
        """The body of SMPL's pose parameters: 72 numbers, in SMPL's axes (x to the figure's left, y up, z forward).

        trans: figure units. SMPL's shape parameters are no part of it: every body has our proportions. Raises
        QwenlabError for another count.
        """
        numbers = torch.as_tensor(pose, dtype=torch.float32).flatten()
        if numbers.numel() != 3 * len(JOINTS):
            raise QwenlabError(f"pose of SMPL: {numbers.numel()} numbers, and 72 are needed (SMPL-X has other joints)")
        axes = torch.tensor([1.0, -1.0, -1.0])
        return cls(numbers.view(-1, 3) * axes, torch.as_tensor(trans, dtype=torch.float32) * axes)


def forward_kinematics(rotations: Tensor, root: Tensor | None = None) -> Tensor:
    """Rotations (..., 24, 3) in radians, root (..., 3) in figure units -> joints (..., 24, 3) in figure coordinates.

    A joint turns what hangs on it: world rotation = parent's world rotation times its own, and a child is where its
    parent is plus the turned bone. Differentiable.
    """
    return pose_matrices(rotations, root)[0]


def pose_matrices(rotations: Tensor, root: Tensor | None) -> tuple[Tensor, Tensor]:
    """Joints (..., 24, 3) and their world rotations (..., 24, 3, 3)."""
    own = roma.rotvec_to_rotmat(rotations)  # (..., 24, 3, 3)
    rest = REST.to(rotations)
    turned, places = [own[..., 0, :, :]], [rest[0] + (0 if root is None else root)]
    places[0] = places[0].expand(rotations.shape[:-2] + (3,))
    for joint in range(1, len(JOINTS)):
        parent = PARENTS[joint]
        bone = rest[joint] - rest[parent]  # (3,)
        places.append(places[parent] + turned[parent] @ bone)
        turned.append(turned[parent] @ own[..., joint, :, :])
    return torch.stack(places, -2), torch.stack(turned, -3)


def face_points(rotations: Tensor, root: Tensor | None = None) -> Tensor:
    """Nose, right eye, left eye, right ear, left ear: (..., 5, 3) in figure coordinates, arguments as above."""
    places, turned = pose_matrices(rotations, root)
    head = INDEX["head"]
    offsets = torch.tensor(list(FACE.values())).to(places) - REST[head].to(places)  # (5, 3)
    return places[..., head, None, :] + offsets @ turned[..., head, :, :].transpose(-1, -2)


def blend(first: Body, second: Body, share: float) -> Body:
    """The body on the way from `first` (share 0) to `second` (share 1).

    Each joint turns at constant speed along the shortest way (slerp); the root goes straight.
    """
    (rotations,) = roma.rotvec_slerp(first.rotations, second.rotations, torch.tensor([float(share)]))
    return Body(rotations, torch.lerp(first.root, second.root, float(share)))


def mirror(body: Body) -> Body:
    """The same pose with left and right exchanged, as in a mirror beside the figure."""
    # A rotation seen in the mirror x -> -x keeps its turn about x and reverses those about y and z.
    axes = torch.tensor([1.0, -1.0, -1.0])
    return Body(body.rotations[_MIRRORED] * axes, body.root * torch.tensor([-1.0, 1.0, 1.0]))
