"""How far joints turn. Wide limits, those of a drawn figure: every action of the drawn world lies within them.

A shoulder or a hip has a cone that its bone stays in and a range of turns about the bone; an elbow or a knee bends
about one axis; the other joints turn up to an angle about any axis. Degrees, about the T-pose.
"""

from __future__ import annotations

import math

import roma
import torch
from torch import Tensor

from qwenlab.pose.body import INDEX, JOINTS
from qwenlab.pose.motion import LIMBS, between

# Middle of the cone on the left side of the body, and the widest angle to it; the largest turn about the bone.
CONES = {"shoulder": ((0.75, 0.2, -0.6), 130.0, 150.0), "hip": ((0.25, 0.85, -0.45), 75.0, 80.0)}
HINGES = {"elbow": (-12.0, 150.0), "knee": (-12.0, 150.0)}
ANGLES = {
    "pelvis": 180.0, "spine1": 35.0, "spine2": 35.0, "spine3": 35.0, "neck": 45.0, "head": 45.0, "collar": 25.0,
    "wrist": 80.0, "hand": 40.0, "ankle": 65.0, "foot": 40.0,
}  # fmt: skip


def limited(rotations: Tensor) -> Tensor:
    """Rotations (..., 24, 3) in radians with each joint turned back to the nearest rotation within its limits."""
    joints = [_joint(rotations[..., INDEX[name], :], name) for name in JOINTS]
    return torch.stack(joints, -2)


def beyond_limits(rotations: Tensor) -> Tensor:
    """(..., 24) degrees by which each joint of rotations (..., 24, 3) is turned beyond its limits; 0 within them."""
    apart = roma.rotmat_geodesic_distance(roma.rotvec_to_rotmat(rotations), roma.rotvec_to_rotmat(limited(rotations)))
    return apart.rad2deg() * (apart > 1e-3)  # float32 leaves as much


def _joint(vector: Tensor, name: str) -> Tensor:
    side, _, part = name.rpartition("_")
    if part in CONES:
        return _cone(vector, part, side)
    if part in HINGES:
        axis = torch.tensor(LIMBS[f"{side}_{'arm' if part == 'elbow' else 'leg'}"][2]).to(vector)
        low, high = (math.radians(angle) for angle in HINGES[part])
        return _twist(roma.rotvec_to_unitquat(vector), axis).clamp(low, high)[..., None] * axis
    length = vector.norm(dim=-1, keepdim=True)
    return vector * (math.radians(ANGLES[part]) / length.clamp(min=1e-9)).clamp(max=1)


def _cone(vector: Tensor, part: str, side: str) -> Tensor:
    middle, widest, turn = CONES[part]
    limb = f"{side}_{'arm' if part == 'shoulder' else 'leg'}"
    bone = torch.tensor(LIMBS[limb][1]).to(vector)
    middle = torch.tensor(middle).to(vector) * torch.tensor([1.0 if side == "left" else -1.0, 1.0, 1.0]).to(vector)
    middle = (middle / middle.norm()).expand_as(vector)
    turned = roma.rotvec_to_rotmat(vector)
    # First the turn about the bone, then the smallest rotation that brings the bone to its direction.
    direction = turned @ bone
    swing = between(bone.expand_as(direction), direction)
    twist = _twist(roma.rotmat_to_unitquat(swing.transpose(-1, -2) @ turned), bone)
    kept = twist.clamp(-math.radians(turn), math.radians(turn))[..., None] * bone
    angle = torch.atan2(torch.linalg.cross(middle, direction).norm(dim=-1), (middle * direction).sum(-1))
    share = (math.radians(widest) / angle.clamp(min=1e-9)).clamp(max=1)
    way = roma.rotmat_to_rotvec(between(middle, direction)) * share[..., None]
    inside = (roma.rotvec_to_rotmat(way) @ middle[..., None])[..., 0]
    back = between(bone.expand_as(inside), inside)
    result = roma.rotmat_to_rotvec(back @ roma.rotvec_to_rotmat(kept))
    unchanged = (share >= 1) & (kept - twist[..., None] * bone).abs().sum(-1).eq(0)
    return torch.where(unchanged[..., None], vector, result)


def _twist(quaternion: Tensor, axis: Tensor) -> Tensor:
    """(...) radians, -pi to pi, that unit quaternions (..., 4) turn about `axis` (swing and twist taken apart)."""
    angle = 2 * torch.atan2((quaternion[..., :3] * axis).sum(-1), quaternion[..., 3])
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
