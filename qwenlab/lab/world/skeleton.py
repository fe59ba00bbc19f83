"""The skeleton: a pose per action, forward kinematics, and the keypoints of a picture.

Figure coordinates: x to the viewer's right, y down; the top of the head is at y = 0 and the soles at y = 1. The
figure's own right side is at negative x when it faces the viewer. Limb angles are in degrees: 0 hangs straight down,
90 points outward (front view) or forward (side view), 180 straight up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matplotlib.transforms import Affine2D

from .attributes import Scene

#: Body joints in the order of OpenPose's COCO model.
BODY_JOINTS = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
FOOT_JOINTS = ("big_toe", "small_toe", "heel")
RIGHT, LEFT = 0, 1
UPPER_ARM, FOREARM, THIGH, SHIN = 0.122, 0.120, 0.152, 0.152
HEAD_CENTER, HIP_HEIGHT = (0.0, 0.19), 0.63

# action: ((right upper arm, right forearm), (left upper arm, left forearm)), then thighs and shins likewise.
_FRONT_ARMS = {
    "站立": ((34, 24), (34, 24)),
    "挥手": ((80, 156), (34, 22)),
    "举起双手": ((122, 156), (122, 156)),
    "坐着": ((38, 14), (38, 14)),
    "走路": ((42, 30), (36, 12)),
    "看书": ((42, -74), (42, -74)),
    "叉腰": ((56, -46), (56, -46)),
    "跳跃": ((118, 134), (118, 134)),
    "背着手": ((34, -34), (34, -34)),
    "张开双臂": ((86, 94), (86, 94)),
}
_SIDE_ARMS = {
    "站立": ((26, 36), (-18, -8)),
    "挥手": ((100, 138), (-16, 4)),
    "举起双手": ((106, 140), (70, 94)),
    "坐着": ((34, 62), (-22, -6)),
    "走路": ((40, 62), (-42, -22)),
    "看书": ((34, 84), (44, 92)),
    "叉腰": ((-52, 42), (-30, 40)),
    "跳跃": ((114, 124), (-96, -112)),
    "背着手": ((-40, -62), (-30, -48)),
    "张开双臂": ((84, 94), (-84, -94)),
}
_FRONT_LEGS = {"坐着": ((24, 0), (24, 0)), "走路": ((8, 4), (26, -12)), "跳跃": ((40, -26), (40, -26))}
_SIDE_LEGS = {"坐着": ((78, 4), (62, -2)), "走路": ((28, 14), (-22, -40)), "跳跃": ((48, -30), (-20, -62))}
_HOLD_ARM = {"正面": (26, 118), "侧面": (40, 96)}
_POCKET_ARM = {"正面": (34, -22), "侧面": (-14, 22)}
_SIT_DROP, _JUMP_LIFT = 0.07, 0.075


@dataclass(frozen=True)
class Placement:
    """Where a body that leans puts what the drawer draws upright."""

    trunk: Affine2D  # takes the upright trunk, neck at (0, 0.375), to where it is
    head: Affine2D  # takes the upright head, centre at (0, 0.19), to where it is
    gaze: np.ndarray  # (2,) by how much the face's features lie beside the middle of the head
    feet: tuple[Affine2D, Affine2D]  # take the right and left foot below an upright shin to where it is


@dataclass
class Skeleton:
    """Joints in figure coordinates; ``arm`` angles are kept for the hands' directions.

    Without ``depth`` and ``placed`` limbs are drawn in the order of the action, and trunk and head upright.
    """

    body: np.ndarray  # (18, 2)
    feet: np.ndarray  # (2, 3, 2)
    hand_direction: np.ndarray  # (2, 2) unit vectors from the wrists
    thumb_direction: np.ndarray  # (2, 2) unit vectors, perpendicular to the above
    lift: float = 0.0  # height of the soles above the ground
    side: bool = False
    action: str = ""
    depth: np.ndarray | None = None  # (4,) right and left arm, right and left leg; < 0 before the body, least nearest
    placed: Placement | None = None
    joint: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        self.joint = {name: self.body[i] for i, name in enumerate(BODY_JOINTS)}


def _step(start, length: float, angle: float, sign: float) -> np.ndarray:
    a = np.deg2rad(angle)
    return np.asarray(start, float) + length * np.array([sign * np.sin(a), np.cos(a)])


def pose(scene: Scene, rng: np.random.Generator) -> Skeleton:
    """The skeleton of a scene; ``rng`` bends every limb by a few degrees."""
    side = scene.view == "侧面"
    arms = [list(a) for a in (_SIDE_ARMS if side else _FRONT_ARMS)[scene.action]]
    legs = (_SIDE_LEGS if side else _FRONT_LEGS).get(scene.action, ((15, 4), (-15, -9)) if side else ((4, 2), (4, 2)))
    if scene.hands == "手插口袋":
        arms = [list(_POCKET_ARM[scene.view])] * 2
    if scene.prop:
        if side:
            arms[RIGHT], arms[LEFT] = (list(_HOLD_ARM["侧面"]), arms[LEFT if scene.action != "挥手" else RIGHT])
            if scene.action == "挥手":
                arms[LEFT] = [104, 140]
        else:
            arms[LEFT] = list(_HOLD_ARM["正面"])
    arms = [[a + rng.normal(0, 4) for a in arm] for arm in arms]
    legs = [[a + rng.normal(0, 2) for a in leg] for leg in legs]
    drop = _SIT_DROP if scene.action == "坐着" else 0.0
    lift = _JUMP_LIFT if scene.action == "跳跃" else 0.0
    offset = np.array([0.0, drop - lift])

    signs = (1.0, 1.0) if side else (-1.0, 1.0)
    shoulder_x, hip_x = ((-0.012, 0.02), (-0.016, 0.016)) if side else ((-0.095, 0.095), (-0.052, 0.052))
    joint: dict[str, np.ndarray] = {"neck": np.array([0.0, 0.375])}
    hand_direction, thumb_direction, feet = [], [], []
    for i, (name, sign) in enumerate(zip(("right", "left"), signs, strict=True)):
        shoulder = np.array([shoulder_x[i], 0.405])
        elbow = _step(shoulder, UPPER_ARM, arms[i][0], sign)
        wrist = _step(elbow, FOREARM, arms[i][1], sign)
        bend = arms[i][1] + rng.normal(0, 5)
        if bend > 100 and not side:  # a raised hand turns upright
            bend += 0.5 * (180 - bend)
        a = np.deg2rad(bend)
        hand_direction.append([sign * np.sin(a), np.cos(a)])
        # The thumb points towards the body while the arm hangs, and turns over once the arm is raised.
        turned = 1.0 if abs(bend) < 60 else -1.0
        thumb_direction.append([-turned * sign * np.cos(a), turned * np.sin(a)])
        hip = np.array([hip_x[i], HIP_HEIGHT])
        knee = _step(hip, THIGH, legs[i][0], sign)
        ankle = _step(knee, SHIN, legs[i][1], sign)
        toe = np.array([1.0, 0.12]) if side else np.array([0.45 * sign, 0.9])
        if side and scene.action in ("走路", "跳跃") and i == LEFT:
            toe = np.array([0.75, 0.66])
        toe = toe / np.linalg.norm(toe)
        across = np.array([toe[1], -toe[0]]) * sign
        if side:
            feet.append([ankle + 0.075 * toe + [0, 0.03], ankle + 0.066 * toe + [0, 0.035], ankle + [-0.022, 0.03]])
        else:
            tip = ankle + [sign * 0.018, 0.045]
            feet.append([tip - 0.028 * across, tip + 0.03 * across, ankle + [0, 0.02]])
        joint |= {
            f"{name}_shoulder": shoulder,
            f"{name}_elbow": elbow,
            f"{name}_wrist": wrist,
            f"{name}_hip": hip,
            f"{name}_knee": knee,
            f"{name}_ankle": ankle,
        }
    if scene.action == "坐着":  # sit where the feet reach the ground
        soles = max(f[2][1] for f in feet)
        offset = np.array([0.0, 0.955 - soles])
    cx, cy = HEAD_CENTER
    face = 0.075 if side else 0.0
    joint["nose"] = np.array([cx + (0.15 if side else 0.0), cy + 0.055])
    joint["right_eye"], joint["left_eye"] = [
        np.array([cx + face + dx, cy + 0.03]) for dx in ((0.03, 0.03) if side else (-0.062, 0.062))
    ]
    joint["right_ear"], joint["left_ear"] = [
        np.array([cx + dx, cy + 0.04]) for dx in ((-0.03, -0.03) if side else (-0.155, 0.155))
    ]
    body = np.stack([joint[name] for name in BODY_JOINTS]) + offset
    return Skeleton(
        body,
        np.asarray(feet) + offset,
        np.asarray(hand_direction),
        np.asarray(thumb_direction),
        lift,
        side,
        scene.action,
    )
