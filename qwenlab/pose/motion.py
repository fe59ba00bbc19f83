"""Poses with names, and a walk: bodies from the directions of their limbs.

A limb is given by where its upper and its lower half point; the joints follow. The elbow and the knee are hinges: they
bend about one axis and one way, so the shoulder and the hip turn until that axis stands across the bend.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import roma
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from qwenlab.errors import QwenlabError
from qwenlab.pose.body import INDEX, JOINTS, PARENTS, REST, Body

# limb: (its three joints, where it points in the T-pose, the axis about which its hinge bends)
LIMBS = {
    "right_arm": (("right_shoulder", "right_elbow", "right_wrist"), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "left_arm": (("left_shoulder", "left_elbow", "left_wrist"), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "right_leg": (("right_hip", "right_knee", "right_ankle"), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    "left_leg": (("left_hip", "left_knee", "left_ankle"), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
}
_STRAIGHT = 1.0  # degrees: below this a limb has no bend whose axis could be told
_BACKWARDS = 12.0  # degrees that a hinge bends the wrong way rather than have the whole limb turn round

# The drawn world's actions, each as it is drawn from the front and from the side, because these are different poses
# (arms spread to both sides; one arm stretched to the front and one to the back). A half of a limb: (degrees in the
# plane of the picture, degrees out of it). From the front: 0 hangs down, 90 points outward; out of it is towards the
# viewer. From the side: 0 hangs down, 90 points forward; out of it is outward from the body.
_FRONT_LEGS = (((4, 2), (2, -3)),) * 2
_SIDE_LEGS = (((15, 2), (4, 0)), ((-15, 2), (-9, 0)))
_FRONT = {  # right arm, left arm, right leg, left leg
    "站立": (((34, 0), (24, 10)), ((34, 0), (24, 10)), *_FRONT_LEGS),
    "挥手": (((80, 5), (156, 10)), ((34, 0), (22, 10)), *_FRONT_LEGS),
    "举起双手": (((122, 0), (156, 8)), ((122, 0), (156, 8)), *_FRONT_LEGS),
    "坐着": (((38, 4), (14, 16)), ((38, 4), (14, 16)), ((24, 14), (0, -12)), ((24, 14), (0, -12))),
    "走路": (((42, -12), (30, -4)), ((36, 12), (12, 18)), ((8, 8), (4, 0)), ((26, 4), (-12, -18))),
    "看书": (((42, 12), (-74, 20)), ((42, 12), (-74, 20)), *_FRONT_LEGS),
    "叉腰": (((56, -10), (-46, 10)), ((56, -10), (-46, 10)), *_FRONT_LEGS),
    "跳跃": (((118, 0), (134, 6)), ((118, 0), (134, 6)), ((40, 16), (-26, -20)), ((40, 16), (-26, -20))),
    "背着手": (((34, -14), (-34, -20)), ((34, -14), (-34, -20)), *_FRONT_LEGS),
    "张开双臂": (((86, 0), (94, 6)), ((86, 0), (94, 6)), *_FRONT_LEGS),
}
_SIDE = {
    "站立": (((26, 8), (36, 2)), ((-18, 8), (-8, 4)), *_SIDE_LEGS),
    "挥手": (((100, 10), (138, 6)), ((-16, 8), (4, 4)), *_SIDE_LEGS),
    "举起双手": (((106, 8), (140, 4)), ((70, 8), (94, 4)), *_SIDE_LEGS),
    "坐着": (((34, 8), (62, 2)), ((-22, 8), (-6, 4)), ((78, 4), (4, 0)), ((62, 4), (-2, 0))),
    "走路": (((40, 8), (62, 2)), ((-42, 8), (-22, 4)), ((28, 2), (14, 0)), ((-22, 2), (-40, 0))),
    "看书": (((34, 8), (84, -10)), ((44, 8), (92, -10)), *_SIDE_LEGS),
    "叉腰": (((-52, 14), (42, 0)), ((-30, 14), (40, 0)), *_SIDE_LEGS),
    "跳跃": (((114, 10), (124, 4)), ((-96, 8), (-112, 24)), ((48, 4), (-30, 0)), ((-20, 4), (-62, 0))),
    "背着手": (((-40, 14), (-57, -32)), ((-30, 14), (-46, -30)), *_SIDE_LEGS),
    "张开双臂": (((84, 10), (94, 4)), ((-84, 14), (-94, 18)), *_SIDE_LEGS),
}
ACTIONS = tuple(_FRONT)
_JUMP = 0.075  # figure units above the ground
GROUND = REST[INDEX["left_ankle"], 1].item()  # height of an ankle whose foot stands flat


def from_directions(
    limbs: Mapping[str, tuple[Tensor, Tensor]],
    spine: Mapping[str, tuple[float, float, float]] | None = None,
    root: Tensor | None = None,
) -> Body:
    """A body whose limbs point where they are told; in the T-pose what is not told. Feet stay level.

    limbs: name of LIMBS -> directions (3,) of its upper and its lower half, of any length, in figure coordinates.
    spine: name of another joint -> rotation vector in radians. root: as in `Body`.
    """
    rotations = torch.zeros(len(JOINTS), 3)
    for name, vector in (spine or {}).items():
        rotations[INDEX[name]] = torch.tensor(vector)
    for name, (upper, lower) in limbs.items():
        joints, bone, hinge = LIMBS[name]
        above = _world(rotations, PARENTS[INDEX[joints[0]]])
        first, bend = _aim(above.T @ _unit(upper), above.T @ _unit(lower), torch.tensor(bone), torch.tensor(hinge))
        rotations[INDEX[joints[0]]] = roma.rotmat_to_rotvec(first)
        rotations[INDEX[joints[1]]] = bend * torch.tensor(hinge)
        if name.endswith("leg"):
            level = _world(rotations, INDEX[joints[1]]).T @ _heading(above @ first)
            rotations[INDEX[joints[2]]] = roma.rotmat_to_rotvec(level)
    return Body(rotations, torch.zeros(3) if root is None else root)


def action(name: str, side: bool = False) -> Body:
    """One of the drawn world's ten ACTIONS, as it is drawn from the front, or from the side (for a yaw of +-90).

    Raises QwenlabError for another name.
    """
    if name not in ACTIONS:
        raise QwenlabError(f"action {name!r}: not among the ten, {', '.join(ACTIONS)}")
    limbs = {}
    for limb, halves in zip(LIMBS, (_SIDE if side else _FRONT)[name], strict=True):
        outward = -1.0 if limb.startswith("right") else 1.0
        limbs[limb] = tuple(_direction(*half, outward, side) for half in halves)
    body = from_directions(limbs)
    if name == "坐着":
        return grounded(body)
    return Body(body.rotations, torch.tensor([0.0, -_JUMP if name == "跳跃" else 0.0, 0.0]))


def grounded(body: Body) -> Body:
    """The body moved up or down until its lower foot stands on the ground."""
    joints = body.joints()
    ankles, toes = (joints[[INDEX[f"left_{part}"], INDEX[f"right_{part}"]], 1] for part in ("ankle", "foot"))
    toe_height = REST[INDEX["left_foot"], 1].item()
    lift = max((ankles - GROUND).max().item(), (toes - toe_height).max().item())
    return Body(body.rotations, body.root - torch.tensor([0.0, lift, 0.0]))


# Degrees over a step cycle of one leg, from heel strike (0) over toe-off (0.6) to the next: flexion of hip, knee and
# ankle. Key values of level walking (Perry and Burnfield, Gait Analysis, 2010), rounded, the knee a little livelier.
_GAIT = {
    "hip": ((0.0, 30), (0.12, 26), (0.32, 4), (0.5, -14), (0.62, -4), (0.85, 34)),
    "knee": ((0.0, 6), (0.14, 20), (0.38, 6), (0.5, 14), (0.72, 66), (0.9, 18)),
    "ankle": ((0.0, 2), (0.08, -8), (0.45, 12), (0.62, -18), (0.8, 2)),
}
_ARM_SWING, _TURN, _SWAY = 30.0, 6.0, 3.0  # degrees


@functools.cache
def _curve(joint: str) -> CubicSpline:
    phases, angles = zip(*_GAIT[joint], strict=True)
    return CubicSpline([*phases, 1.0], [*angles, angles[0]], bc_type="periodic")


def walk(phase: float) -> Body:
    """A walking body; phase 0 is the strike of the right heel, 0.5 that of the left, 1 is 0 again."""
    rotations = torch.zeros(len(JOINTS), 3)
    swing = math.cos(2 * math.pi * phase)  # 1: the right leg is in front, and the left arm
    for side, shift, sign in (("right", 0.0, -1.0), ("left", 0.5, 1.0)):
        hip, knee, ankle = (float(_curve(joint)((phase + shift) % 1)) for joint in _GAIT)
        rotations[INDEX[f"{side}_hip"], 0] = -math.radians(hip)
        rotations[INDEX[f"{side}_knee"], 0] = math.radians(max(knee, 0))
        rotations[INDEX[f"{side}_ankle"], 0] = -math.radians(ankle)
        forward = sign * swing  # of this arm, against its own leg
        upper = _direction(4 + _ARM_SWING * forward, 14, sign, side=True)
        lower = _direction(22 + (_ARM_SWING + 14) * forward, 8, sign, side=True)
        joints, bone, hinge = LIMBS[f"{side}_arm"]
        first, bend = _aim(upper, lower, torch.tensor(bone), torch.tensor(hinge))
        rotations[INDEX[joints[0]]] = roma.rotmat_to_rotvec(first)
        rotations[INDEX[joints[1]]] = bend * torch.tensor(hinge)
    turn, sway = math.radians(_TURN) * swing, math.radians(_SWAY) * math.sin(2 * math.pi * phase)
    # The hip of the leading leg goes with it, the shoulders turn against it, and the head looks ahead.
    rotations[INDEX["pelvis"]] = torch.tensor([0.0, turn, sway])
    rotations[INDEX["spine1"]] = torch.tensor([math.radians(3), -turn, -sway])
    rotations[INDEX["spine3"], 1] = -turn
    rotations[INDEX["neck"], 1] = turn
    return grounded(Body(rotations))


def _direction(angle: float, out: float, outward: float, side: bool) -> Tensor:
    """Unit vector (3,) of the angles of a half limb; `outward` is the sign of x on the limb's side of the body."""
    a, o = math.radians(angle), math.radians(out)
    along, across = math.sin(a) * math.cos(o), math.sin(o)
    x, z = (outward * across, -along) if side else (outward * along, -across)
    return torch.tensor([x, math.cos(a) * math.cos(o), z])


def _aim(upper: Tensor, lower: Tensor, bone: Tensor, hinge: Tensor) -> tuple[Tensor, float]:
    """The rotation (3, 3) of a limb's first joint and the bend of its hinge in radians, relative to the parent.

    upper, lower: unit vectors (3,) that the halves shall point along.
    """
    swing = between(bone, upper)
    axis = torch.linalg.cross(upper, lower)
    sine = axis.norm().item()
    bend = math.atan2(sine, float(upper @ lower))
    usual = swing @ hinge
    if bend < math.radians(_STRAIGHT):
        return swing, 0.0
    axis = axis / sine
    if bend < math.radians(_BACKWARDS) and axis @ usual < 0:
        axis, bend = -axis, -bend
    before = torch.stack([bone, hinge, torch.linalg.cross(bone, hinge)], 1)
    after = torch.stack([upper, axis, torch.linalg.cross(upper, axis)], 1)
    return after @ before.T, bend


def between(start: Tensor, end: Tensor) -> Tensor:
    """Smallest rotations (..., 3, 3) of unit vectors (..., 3) into others; about any axis across for opposite ones."""
    axis = torch.linalg.cross(start, end)
    sine, cosine = axis.norm(dim=-1, keepdim=True), (start * end).sum(-1, keepdim=True)
    spare = torch.linalg.cross(start, torch.eye(3).to(start)[start.abs().argmin(-1)])
    axis = torch.where(sine > 1e-6, axis / sine.clamp(min=1e-9), spare / spare.norm(dim=-1, keepdim=True))
    return roma.rotvec_to_rotmat(axis * torch.atan2(sine, cosine))


def _heading(turned: Tensor) -> Tensor:
    """A rotation about the vertical alone that points the toes where the thigh's front points."""
    x, _, z = (turned @ torch.tensor([0.0, 0.0, -1.0])).tolist()
    return roma.rotvec_to_rotmat(torch.tensor([0.0, -math.atan2(x, -z), 0.0]))


def _world(rotations: Tensor, joint: int) -> Tensor:
    """World rotation (3, 3) of a joint."""
    turned = torch.eye(3)
    while joint >= 0:
        turned = roma.rotvec_to_rotmat(rotations[joint]) @ turned
        joint = PARENTS[joint]
    return turned


def _unit(vector: Tensor) -> Tensor:
    vector = torch.as_tensor(vector, dtype=torch.float32)
    return vector / vector.norm()
