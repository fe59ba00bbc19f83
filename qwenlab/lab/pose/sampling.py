"""Bodies to train a pose condition on, and bodies that no training has: other limbs than the ten actions have.

A picture's pose is drawn from here and not from its caption. Two regions are never sampled for training: both elbows
above the shoulders, and the thighs more than 60 degrees apart (lunges). Tests ask for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from qwenlab.lab.pose.drawing import FULL, HALF, HAND, is_profile, skeleton_of
from qwenlab.pose.body import INDEX, REST, Body
from qwenlab.pose.camera import Camera
from qwenlab.pose.limits import beyond_limits
from qwenlab.pose.motion import LIMBS, from_directions, grounded

REGIONS = ("arms", "lunge")
APART = 60.0  # degrees between the thighs
YAW = 20.0  # degrees by which a figure is turned from the front or from a profile, at most
UPPER_ARM, FOREARM = 0.122, 0.120
_HEAD, _HEAD_RADIUS = np.array([0.0, 0.19, 0.0]), 0.15
_TRIES = 500

Pair = tuple[np.ndarray, np.ndarray]  # directions of the upper and the lower half of a limb, unit vectors (3,)


@dataclass(frozen=True)
class Pose:
    """A body and the camera that sees it."""

    body: Body
    camera: Camera

    @property
    def view(self) -> str:
        """The caption's word for the view."""
        return "侧面" if is_profile(self.camera.yaw) else "正面"


def unseen_region(body: Body) -> str:
    """The region of REGIONS that a body lies in, "" if training may have it."""
    places = body.joints()
    right, left = (places[INDEX[f"{side}_elbow"], 1] < places[INDEX[f"{side}_shoulder"], 1] for side in _SIDES)
    if right and left:
        return "arms"
    return "lunge" if thigh_angle(body) > APART else ""


def thigh_angle(body: Body) -> float:
    """Degrees between the two thighs."""
    places = body.joints()
    ways = [places[INDEX[f"{side}_knee"]] - places[INDEX[f"{side}_hip"]] for side in _SIDES]
    return math.degrees(math.acos(float(torch.cosine_similarity(*ways, dim=0).clamp(-1, 1))))


def sample_pose(rng: np.random.Generator, *, region: str = "", view: str = "", framing: str = "全身") -> Pose:
    """A random pose.

    Args:
        rng: source of all randomness.
        region: "" for what training may have, or one of REGIONS.
        view: "正面", "侧面", or "" for either.
        framing: "全身" or "半身", for the camera.
    """
    for _ in range(_TRIES):
        profile = view == "侧面" or (not view and rng.random() < 0.4)
        pose = Pose(_body(rng, region, profile, framing), _camera(rng, profile, framing))
        if _possible(pose.body) and unseen_region(pose.body) == region and _drawable(pose):
            return pose
    raise RuntimeError(f"no pose in {_TRIES} tries for region {region!r}, view {view!r}")


def sample_depth_pair(rng: np.random.Generator, framing: str = "全身") -> tuple[Pose, Pose, str]:
    """Two poses whose 18 points in the picture are equal, and the side of the arm whose depth differs.

    The arm crosses the trunk: before it in the first pose, behind it in the second.
    """
    for _ in range(_TRIES):
        side = _SIDES[int(rng.integers(2))]
        camera = _camera(rng, False, framing)
        limbs, spine = _limbs(rng, "", False), _spine(rng, False)
        limbs[f"{side}_arm"] = _crossing_arm(rng, side, before=True)
        first = Pose(_standing(_from(limbs, spine), framing), camera)
        pair = first, Pose(reflected(first.body, camera, side), camera)
        if all(_possible(pose.body) and not unseen_region(pose.body) and _drawable(pose) for pose in pair):
            return *pair, side
    raise RuntimeError(f"no pair in {_TRIES} tries")


def reflected(body: Body, camera: Camera, side: str) -> Body:
    """The body with one arm at the same place in the picture, and as far behind its shoulder as it was before it."""
    angle = math.radians(camera.yaw)
    toward = np.array([math.sin(angle), 0.0, math.cos(angle)])  # the viewer's z axis in figure coordinates
    places, limbs = body.joints().double().numpy(), {}
    for name, (joints, _, _) in LIMBS.items():
        a, b, c = (places[INDEX[joint]] for joint in joints)
        halves = [b - a, c - b]
        if name == f"{side}_arm":
            halves = [way - 2 * (way @ toward) * toward for way in halves]
        limbs[name] = tuple(torch.tensor(way) for way in halves)
    spine = {name: tuple(body.rotations[INDEX[name]].tolist()) for name in _SPINE}
    return from_directions(limbs, spine, body.root)


_SIDES = ("right", "left")
_SPINE = ("pelvis", "spine1", "spine2", "spine3", "neck", "head")


def _body(rng: np.random.Generator, region: str, profile: bool, framing: str) -> Body:
    body = _standing(_from(_limbs(rng, region, profile), _spine(rng, profile)), framing)
    if framing == "全身" and region != "lunge" and rng.random() < 0.08:  # a jump
        return Body(body.rotations, body.root - torch.tensor([0.0, rng.uniform(0.05, 0.09), 0.0]))
    return body


def _standing(body: Body, framing: str) -> Body:
    """With its feet on the ground, or, where these do not show, with its neck at its usual height."""
    if framing == "全身":
        return grounded(body)
    neck = INDEX["neck"]
    return Body(body.rotations, torch.tensor([0.0, float(REST[neck, 1] - body.joints()[neck, 1]), 0.0]))


def _from(limbs: dict[str, Pair], spine: dict[str, tuple[float, float, float]]) -> Body:
    return from_directions({name: tuple(map(torch.from_numpy, pair)) for name, pair in limbs.items()}, spine)


def _camera(rng: np.random.Generator, profile: bool, framing: str) -> Camera:
    frame = FULL if framing == "全身" else HALF
    scale = frame["scale"] * (1 + rng.uniform(-0.03, 0.03))
    # The ground, or the top of the head, stays where it is.
    x, y = frame["centre"]
    y += (0.5 if framing == "半身" else -0.5) * (scale - frame["scale"])
    yaw = rng.uniform(-YAW, YAW) + (rng.choice([-90, 90]) if profile else 0)
    return Camera(float(scale), (float(x + rng.uniform(-0.03, 0.03)), float(y)), float(yaw))


def _spine(rng: np.random.Generator, profile: bool) -> dict[str, tuple[float, float, float]]:
    pitch = rng.uniform(-6, 16) if profile else rng.uniform(-4, 8)
    roll, twist = (rng.normal(0, 3), rng.normal(0, 3)) if profile else (rng.normal(0, 5), rng.normal(0, 4))
    nod, tilt, look = rng.normal(0, 6), rng.normal(0, 2 if profile else 5), rng.normal(0, 3 if profile else 6)
    turns = {"spine1": (pitch, twist, roll), "head": (nod - 0.5 * pitch, look, tilt - 0.5 * roll)}
    return {name: tuple(math.radians(angle) for angle in angles) for name, angles in turns.items()}


def _limbs(rng: np.random.Generator, region: str, profile: bool) -> dict[str, Pair]:
    arm = _profile_arm if profile else _front_arm
    limbs = {f"{side}_arm": arm(rng, side, region == "arms") for side in _SIDES}
    legs = _profile_legs(rng, region == "lunge") if profile else _front_legs(rng, region == "lunge")
    return limbs | dict(zip(("right_leg", "left_leg"), legs, strict=True))


def _way(along: float, out: float, side: str, profile: bool) -> np.ndarray:
    """Direction (3,) of half a limb in degrees: in the plane of the picture, 0 hanging, and out of it.

    From the front 90 points outward, out of it is towards the viewer; in profile 90 points forward, out is outward.
    """
    a, o, outward = math.radians(along), math.radians(out), -1.0 if side == "right" else 1.0
    plane, across = math.sin(a) * math.cos(o), math.sin(o)
    x, z = (outward * across, -plane) if profile else (outward * plane, -across)
    return np.array([x, math.cos(a) * math.cos(o), z])


def _front_arm(rng: np.random.Generator, side: str, raised: bool) -> Pair:
    kind = rng.random()
    if raised:
        upper = (rng.uniform(98, 150), rng.uniform(-15, 45))
    elif kind < 0.3:
        return _crossing_arm(rng, side, before=rng.random() < 0.5)
    elif kind < 0.5:  # hangs
        return _way(rng.uniform(14, 44), rng.uniform(-12, 20), side, False), _way(
            rng.uniform(0, 50), rng.uniform(-5, 45), side, False
        )
    else:
        upper = (rng.uniform(15, 140), rng.uniform(-30, 55))
    first = _way(*upper, side, False)
    # The forearm goes anywhere but backwards beyond what a shoulder allows, and not far behind the head.
    bend = math.radians(rng.uniform(0, 130))
    turn = rng.uniform(0, 2 * math.pi)
    across = np.linalg.qr(np.stack([first, rng.normal(size=3), rng.normal(size=3)], 1))[0][:, 1:]
    second = math.cos(bend) * first + math.sin(bend) * (across @ [math.cos(turn), math.sin(turn)])
    return first, second


def _crossing_arm(rng: np.random.Generator, side: str, before: bool) -> Pair:
    """An arm whose hand lies before the trunk, or behind it; the elbow points outward and down."""
    outward = -1.0 if side == "right" else 1.0
    shoulder = REST[INDEX[f"{side}_shoulder"]].double().numpy()
    depth = rng.uniform(0.09, 0.15)
    wrist = np.array([outward * rng.uniform(-0.07, 0.06), rng.uniform(0.46, 0.6), -depth if before else depth])
    way = wrist - shoulder
    reach = min(float(np.linalg.norm(way)), 0.97 * (UPPER_ARM + FOREARM))
    way = way / np.linalg.norm(way)
    along = (UPPER_ARM**2 - FOREARM**2 + reach**2) / (2 * reach)
    out = math.sqrt(max(UPPER_ARM**2 - along**2, 0.0))
    pole = np.array([outward, rng.uniform(0.2, 1.0), 0.0])
    pole -= (pole @ way) * way
    elbow = along * way + out * pole / np.linalg.norm(pole)
    lower = reach * way - elbow
    return elbow / np.linalg.norm(elbow), lower / np.linalg.norm(lower)


def _profile_arm(rng: np.random.Generator, side: str, raised: bool) -> Pair:
    along = rng.uniform(100, 150) if raised else rng.choice([rng.uniform(-60, 30), rng.uniform(0, 130)])
    bend = rng.uniform(0, 100) if along > -20 else rng.uniform(-10, 60)
    return _way(along, rng.uniform(2, 20), side, True), _way(along + bend, rng.uniform(-6, 12), side, True)


def _front_legs(rng: np.random.Generator, lunge: bool) -> list[Pair]:
    if lunge:  # to one side, that knee bent
        wide, straight = rng.uniform(36, 58), rng.uniform(24, 38)
        bent = (_way(wide, rng.uniform(0, 30), "right", False), _way(rng.uniform(-20, 10), -8, "right", False))
        other = (_way(straight, 0, "left", False), _way(straight + rng.uniform(-6, 4), -4, "left", False))
        legs = [bent, other]
        return legs if rng.random() < 0.5 else [_mirrored(way) for way in reversed(legs)]
    spread, legs = rng.uniform(0, 16) if rng.random() < 0.6 else rng.uniform(10, 27), []
    lifted = int(rng.integers(2)) if rng.random() < 0.4 else None
    for i, side in enumerate(_SIDES):
        along = spread + rng.normal(0, 2)
        if i == lifted:
            out, fold = rng.uniform(10, 56), rng.uniform(20, 100)
            along += rng.uniform(-6, 20)
            legs.append((_way(along, out, side, False), _way(along - rng.uniform(0, 20), out - fold, side, False)))
        else:
            legs.append(
                (_way(along, rng.uniform(-3, 8), side, False), _way(along - rng.uniform(0, 6), -4, side, False))
            )
    return legs


def _profile_legs(rng: np.random.Generator, lunge: bool) -> list[Pair]:
    if lunge:
        thighs = (rng.uniform(42, 78), rng.uniform(-38, -12))
        shins = (rng.uniform(-8, 12), rng.uniform(-62, -30))
    else:
        kind = rng.random()
        if kind < 0.3:
            thighs = (rng.uniform(-8, 16), rng.uniform(-16, 8))
        elif kind < 0.7:
            thighs = (rng.uniform(5, 34), rng.uniform(-26, 0))
        else:  # a knee raised
            thighs = (rng.uniform(30, 62), rng.uniform(-6, 12))
        shins = tuple(thigh - rng.uniform(0, 1) * (14 if kind < 0.3 else 40 if kind < 0.7 else 80) for thigh in thighs)
        if kind >= 0.7:
            shins = (shins[0], thighs[1] - rng.uniform(0, 10))
    legs = [
        (_way(thigh, 3, side, True), _way(shin, 1, side, True))
        for side, thigh, shin in zip(_SIDES, thighs, shins, strict=True)
    ]
    return legs if rng.random() < 0.5 else [_mirrored(way) for way in reversed(legs)]


def _mirrored(pair: Pair) -> Pair:
    return pair[0] * [-1, 1, 1], pair[1] * [-1, 1, 1]


def _possible(body: Body) -> bool:
    """Whether the hands are outside head and trunk, no arm goes far behind the shoulders, and shins do not cross."""
    places = body.joints().double().numpy()
    middle = _HEAD - REST[INDEX["head"]].double().numpy() + places[INDEX["head"]]
    for side in _SIDES:
        elbow, wrist, hand = (places[INDEX[f"{side}_{part}"]] for part in ("elbow", "wrist", "hand"))
        shoulder = places[INDEX[f"{side}_shoulder"]]
        outward = -1.0 if side == "right" else 1.0
        for point in (wrist, hand):
            if np.linalg.norm(point - middle) < _HEAD_RADIUS:
                return False
            on_trunk = abs(point[0]) < 0.09 and 0.40 < point[1] - body.root[1].item() < 0.68
            if on_trunk and abs(point[2]) < 0.05:
                return False
        if (elbow - shoulder)[0] * outward < -0.04 or (elbow - shoulder)[2] > 0.09:
            return False
        behind = wrist[2] > 0.05
        if behind and wrist[1] < shoulder[1] - 0.02 and abs(wrist[0]) < 0.25:  # behind the head
            return False
    ankles = [places[INDEX[f"{side}_ankle"], 0] for side in _SIDES]
    return ankles[1] - ankles[0] > -0.02


def _drawable(pose: Pose) -> bool:
    """Whether no hand is drawn before the face, and no joint turns too far."""
    bones = skeleton_of(pose.body, pose.camera)
    hands = bones.body[[4, 7]] + HAND * bones.hand_direction
    middle = bones.body[0] - [0.1 if bones.side else 0.0, 0.03]
    near = np.linalg.norm(hands - middle, axis=1) < 0.16
    return not (near & (bones.depth[:2] < 0)).any() and bool(beyond_limits(pose.body.rotations).max() <= 1)
