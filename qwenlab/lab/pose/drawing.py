"""A body in 3D as the drawn world shows it: which of its two views, which limb over which, where hands and feet point.

J = 24 joints. Figure coordinates as in `qwenlab.pose.body`; "drawn" coordinates are those after the camera's turn,
mirrored where the figure faces the viewer's left, since the drawer has one profile.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import roma
import torch
from matplotlib.transforms import Affine2D

from qwenlab.lab.world.attributes import Scene
from qwenlab.lab.world.hands import Anatomy
from qwenlab.lab.world.posed import Posed, render_pose
from qwenlab.lab.world.skeleton import BODY_JOINTS, HEAD_CENTER, Placement, Skeleton
from qwenlab.pose.body import INDEX, PARENTS, REST, Body
from qwenlab.pose.camera import Camera

FULL = {"scale": 0.86, "centre": (0.5, 0.535)}  # of a camera; as the world frames a whole figure
HALF = {"scale": 1.12, "centre": (0.5, 0.658)}  # and one to below the hips
GROUND = 0.985  # y of the soles of the standing figure's drawn shoes
SIDES = ("right", "left")
BEFORE = 0.03  # figure units behind the trunk's middle up to which an arm is drawn before it
HAND = 0.07  # from wrist to the middle of a hand
_NECK, _HIPS = np.array([0.0, 0.375]), np.array([0.0, 0.63])


def is_profile(yaw: float) -> bool:
    """Whether a figure turned by `yaw` degrees is drawn from the side: nearer to +-90 than to 0."""
    return abs((yaw + 180) % 360 - 180) > 45


def draw_body(scene: Scene, body: Body, camera: Camera, size: int = 128, anatomy: Anatomy | None = None) -> Posed:
    """Draw a scene with its figure in a body's pose; its action is not asked for, and its view is the camera's."""
    bones = skeleton_of(body, camera)
    view = "侧面" if bones.side else "正面"
    x, y = camera.centre
    return render_pose(
        replace(scene, view=view, action=""),
        bones,
        size,
        anatomy,
        scale=camera.scale,
        origin=(x, y - 0.5 * camera.scale),
        mirror=_faces_left(camera),
    )


def skeleton_of(body: Body, camera: Camera) -> Skeleton:
    """The drawer's skeleton of a body that a camera sees."""
    places, turns = _drawn(body, camera)
    side = is_profile(camera.yaw)
    at = {name: places[index, :2] for name, index in INDEX.items()}
    trunk = _trunk(at["neck"], (at["left_hip"] + at["right_hip"]) / 2)
    head, gaze = _head(places[INDEX["head"]], turns[INDEX["head"]], side)
    joint = {name: at[name] for name in BODY_JOINTS if name in at} | _face(head, gaze, side)
    directions, thumbs, moves, feet = [], [], [], []
    for i, name in enumerate(SIDES):
        direction = _hand_direction(places, name)
        directions.append(direction)
        thumbs.append(_thumb(direction, 1.0 if side else (-1.0, 1.0)[i], side))
        move = _foot_move(at[f"{name}_ankle"], turns[INDEX[f"{name}_ankle"]], side)
        moves.append(move)
        feet.append(move.transform(_upright_foot((-1.0, 1.0)[i], side)))
    soles = max(float(foot[:, 1].max()) for foot in feet)
    return Skeleton(
        np.stack([joint[name] for name in BODY_JOINTS]),
        np.stack(feet),
        np.stack(directions),
        np.stack(thumbs),
        lift=max(0.0, GROUND - soles - 0.02),
        side=side,
        depth=_depths(places, turns, side),
        placed=Placement(trunk, head, gaze, (moves[0], moves[1])),
    )


def _faces_left(camera: Camera) -> bool:
    return is_profile(camera.yaw) and (camera.yaw + 180) % 360 - 180 < 0


def _drawn(body: Body, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Joints (24, 3) in drawn coordinates and their rotations (24, 3, 3): columns are the figure's x, y, z axes."""
    own = roma.rotvec_to_rotmat(body.rotations)
    world: list[torch.Tensor] = []
    for joint, parent in enumerate(PARENTS):
        world.append(own[joint] if parent < 0 else world[parent] @ own[joint])
    places = camera.turn(body.joints())
    axes = camera.turn(torch.stack(world).transpose(1, 2)).transpose(1, 2)
    mirror = torch.tensor([-1.0 if _faces_left(camera) else 1.0, 1.0, 1.0])
    return (places * mirror).double().numpy(), (axes * mirror[:, None]).double().numpy()


def _trunk(neck: np.ndarray, hips: np.ndarray) -> Affine2D:
    """Takes the upright trunk to the line between neck and hips: it turns in the picture and is foreshortened."""
    way = hips - neck
    stretch = np.linalg.norm(way) / (_HIPS - _NECK)[1]
    return Affine2D().translate(*-_NECK).scale(1, stretch).rotate(np.arctan2(-way[0], way[1])).translate(*neck)


def _head(joint: np.ndarray, axes: np.ndarray, side: bool) -> tuple[Affine2D, np.ndarray]:
    """Takes the upright head to where it is; and how far the features of the face lie beside its middle."""
    down = axes[:, 1]
    upward = HEAD_CENTER[1] - REST[INDEX["head"], 1].item()
    centre = joint + upward * down
    move = Affine2D().translate(*(-np.array(HEAD_CENTER))).rotate(np.arctan2(-down[0], down[1])).translate(*centre[:2])
    if side:
        return move, np.zeros(2)
    eyes = joint + axes @ (np.array([0.0, 0.22, -0.105]) - REST[INDEX["head"]].double().numpy())
    gaze = move.inverted().transform(eyes[:2]) - [0.0, 0.22]
    return move, np.clip(gaze, [-0.05, -0.045], [0.05, 0.04])


def _face(head: Affine2D, gaze: np.ndarray, side: bool) -> dict[str, np.ndarray]:
    """Where the drawer puts nose, eyes and ears."""
    offsets = (
        {"nose": (0.15, 0.055), "right_eye": (0.105, 0.03), "left_eye": (0.105, 0.03), "right_ear": (-0.03, 0.04),
         "left_ear": (-0.03, 0.04)}
        if side
        else {"nose": (0, 0.055), "right_eye": (-0.062, 0.03), "left_eye": (0.062, 0.03), "right_ear": (-0.155, 0.04),
              "left_ear": (0.155, 0.04)}
    )  # fmt: skip
    moved = {name: np.array(HEAD_CENTER) + offset for name, offset in offsets.items()}
    return {name: head.transform(point + (0 if "ear" in name else gaze)) for name, point in moved.items()}


def _hand_direction(places: np.ndarray, side: str) -> np.ndarray:
    """(2,) unit vector. A hand that points at the viewer or away is drawn upright, or hanging if the forearm hangs."""
    elbow, wrist, hand = (places[INDEX[f"{side}_{part}"]] for part in ("elbow", "wrist", "hand"))
    way = (hand - wrist)[:2] / HAND
    length = min(1.0, float(np.linalg.norm(way)))
    upright = np.array([0.0, -1.0 if wrist[1] - elbow[1] < 0.04 else 1.0])
    way = way + 0.8 * (1 - length) * upright
    return way / max(float(np.linalg.norm(way)), 1e-9)


def _thumb(direction: np.ndarray, outward: float, side: bool) -> np.ndarray:
    """(2,) unit vector across the hand: towards the body while it hangs, up once it is raised."""
    angle = np.rad2deg(np.arctan2(outward * direction[0], direction[1]))  # 0 hangs, 90 outward or forward, 180 is up
    hangs = abs(angle) < 60 if side else -140 < angle < 60
    turned = 1.0 if hangs else -1.0
    return turned * np.array([-outward * np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])


def _upright_foot(outward: float, side: bool) -> np.ndarray:
    """(3, 2) big toe, small toe and heel of a foot whose ankle is at (0, 0), as the ten actions have it."""
    toe = np.array([1.0, 0.12]) if side else np.array([0.45 * outward, 0.9])
    toe = toe / np.linalg.norm(toe)
    if side:
        return np.array([0.075 * toe + [0, 0.03], 0.066 * toe + [0, 0.035], [-0.022, 0.03]])
    across, tip = np.array([toe[1], -toe[0]]) * outward, np.array([outward * 0.018, 0.045])
    return np.array([tip - 0.028 * across, tip + 0.03 * across, [0, 0.02]])


def _foot_move(ankle: np.ndarray, axes: np.ndarray, side: bool) -> Affine2D:
    """Takes the foot of an ankle at (0, 0) to its place, turned in the picture as the foot is."""
    if side:  # the sole's direction, toes forward
        forward = -axes[:2, 2]
        angle = np.arctan2(forward[1], max(forward[0], 0.2))
    else:
        down = axes[:2, 1]
        angle = np.arctan2(-down[0], max(down[1], 0.3))
    return Affine2D().rotate(angle).translate(*ankle)


def _depths(places: np.ndarray, axes: np.ndarray, side: bool) -> np.ndarray:
    """(4,) the order of the limbs: negative before the body."""
    chest, depths = axes[INDEX["spine3"]], []
    for name in SIDES:
        shoulder, elbow, wrist = (places[INDEX[f"{name}_{part}"]] for part in ("shoulder", "elbow", "wrist"))
        if side:  # the arm of the far shoulder is behind the body
            before = shoulder[2] < 0
        else:
            behind = (np.stack([elbow, wrist]) - places[INDEX["neck"]]) @ chest[:, 2]
            before = 0.3 * behind[0] + 0.7 * behind[1] <= BEFORE
        depths.append((elbow[2] + wrist[2]) / 2 + (-1 if before else 1))
    for name in SIDES:
        hip, knee, ankle = (places[INDEX[f"{name}_{part}"]] for part in ("hip", "knee", "ankle"))
        way = knee - hip
        raised = way[1] < (0.06 if side else 0.11) and (hip[2] < 0 if side else way[2] < -0.06)
        depths.append((knee[2] + ankle[2]) / 2 + (-1 if raised else 1))
    return np.array(depths)
