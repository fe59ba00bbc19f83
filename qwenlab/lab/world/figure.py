"""The figure: legs, clothes, arms, hands and props, layered from back to front."""

from __future__ import annotations

import numpy as np

from .attributes import Scene
from .canvas import Canvas, capsule, curve, darker, ellipse
from .hands import MITTEN, SKIN, Anatomy, closed_hand, foot, open_hand, sleeve_end
from .head import draw_back_hair, draw_head
from .outfits import OUTFITS, WHITE, Outfit, draw_clothes
from .props import draw_held
from .skeleton import LEFT, RIGHT, Skeleton

_SIDES = ("right_", "left_")


def draw_figure(
    canvas: Canvas, scene: Scene, bones: Skeleton, anatomy: Anatomy, rng: np.random.Generator
) -> tuple[np.ndarray, list[str], int]:
    """Draw the whole figure.

    Returns:
        The hand joints (2, 21, 2) in figure coordinates, the state of each hand ("open", "mitten", "sleeve", "fist" or
        "hidden") and the number of feet drawn (0 in a half-body picture).
    """
    outfit, joint = OUTFITS[scene.clothes], bones.joint
    head = joint["neck"] + [0.0, -0.185]
    hands = np.repeat(bones.body[[4, 7]][:, None], 21, 1)
    states = ["", ""]
    behind = scene.action == "背着手"
    draw_back_hair(canvas, scene, head, rng)
    far = {RIGHT, LEFT} if behind and not bones.side else ({LEFT} if bones.side else set())
    for i in sorted(far):
        _arm(canvas, scene, bones, outfit, i)
        if behind:
            hands[i], states[i] = _along(bones, i), "hidden"
        else:
            hands[i], states[i] = _hand(canvas, scene, bones, outfit, i, anatomy, rng)
    feet = _legs(canvas, scene, bones, outfit, anatomy) if scene.framing == "全身" else 0
    if scene.framing == "半身":
        for i in (LEFT, RIGHT):
            _leg(canvas, bones, outfit, i)
    canvas.shapes([(capsule(joint["neck"] + [0, -0.04], joint["neck"] + [0, 0.02], 0.036), SKIN)])
    draw_clothes(canvas, scene, bones, outfit)
    draw_head(canvas, scene, head, rng)
    near = [i for i in (RIGHT, LEFT) if i not in far]
    holds = (near[0] if bones.side else LEFT) if scene.prop else None
    for i in near:
        _arm(canvas, scene, bones, outfit, i)
    if scene.action == "看书":
        draw_held(canvas, "书", (joint["right_wrist"] + joint["left_wrist"]) / 2 + [0, -0.03], bones.side)
    if scene.prop:
        draw_held(canvas, scene.prop, joint[_SIDES[holds] + "wrist"] + 0.05 * bones.hand_direction[holds], bones.side)
    for i in near:
        hands[i], states[i] = _hand(canvas, scene, bones, outfit, i, anatomy, rng, grips=i == holds)
    return hands, states, feet


def _leg(canvas: Canvas, bones: Skeleton, outfit: Outfit, i: int) -> None:
    hip, knee, ankle = (bones.joint[_SIDES[i] + part] for part in ("hip", "knee", "ankle"))
    color = outfit.legs or SKIN
    canvas.shapes([(capsule(hip, knee, 0.050, 0.042), color), (capsule(knee, ankle - [0, 0.012], 0.042, 0.033), color)])


def _legs(canvas: Canvas, scene: Scene, bones: Skeleton, outfit: Outfit, anatomy: Anatomy) -> int:
    bare = scene.feet == "光脚"
    drawn = 0
    order = [LEFT, RIGHT]
    gone = RIGHT if anatomy.feet == "missing" else None
    if anatomy.feet == "third":
        shift = (
            np.array([0.085, -0.004])
            if bones.side
            else (bones.joint["left_ankle"] - bones.joint["right_ankle"]) * [1.0, 0.0]
        )
        third = bones.joint["left_ankle"] + shift
        canvas.shapes([(capsule(bones.joint["left_knee"], third - [0, 0.012], 0.042, 0.033), outfit.legs or SKIN)])
        foot(canvas, third, bones.feet[LEFT] + shift, bare, bones.side, outfit.shoe)
        drawn += 1
    for i in order:
        if i == gone:  # the leg ends above the ankle
            hip, knee = (bones.joint[_SIDES[i] + part] for part in ("hip", "knee"))
            canvas.shapes([(capsule(hip, knee, 0.050, 0.040), outfit.legs or SKIN)])
            continue
        _leg(canvas, bones, outfit, i)
        foot(canvas, bones.joint[_SIDES[i] + "ankle"], bones.feet[i], bare, bones.side, outfit.shoe)
        drawn += 1
    if anatomy.feet == "fused":
        color = SKIN if bare else outfit.shoe
        a, b = bones.feet[RIGHT].mean(0), bones.feet[LEFT].mean(0)
        canvas.shapes([(capsule(a, b, 0.042), color)])
        drawn = 1
    return drawn


def _along(bones: Skeleton, i: int) -> np.ndarray:
    """Stand-in joints (21, 2) of a hand that is not drawn finger by finger."""
    return bones.joint[_SIDES[i] + "wrist"] + np.linspace(0, 0.1, 21)[:, None] * bones.hand_direction[i]


def _arm(canvas: Canvas, scene: Scene, bones: Skeleton, outfit: Outfit, i: int) -> None:
    shoulder, elbow, wrist = (bones.joint[_SIDES[i] + part] for part in ("shoulder", "elbow", "wrist"))
    sleeve = outfit.top
    wide = 0.012 if scene.clothes == "紫色汉服" else 0.0
    if outfit.long_sleeves:
        end = wrist - 0.02 * (wrist - elbow) / 0.12
        canvas.shapes(
            [
                (capsule(shoulder, elbow, 0.041, 0.037 + wide), sleeve),
                (capsule(elbow, end, 0.037 + wide, 0.034 + 1.6 * wide), sleeve),
            ]
        )
    else:
        middle = shoulder + 0.62 * (elbow - shoulder)
        canvas.shapes([(capsule(shoulder, elbow, 0.034, 0.029), SKIN), (capsule(elbow, wrist, 0.029, 0.025), SKIN)])
        canvas.shapes([(capsule(shoulder, middle, 0.041, 0.044), sleeve)])


def _hand(canvas, scene, bones, outfit, i, anatomy, rng, grips=False) -> tuple[np.ndarray, str]:
    """Draw what ends an arm; its joints (21, 2) and its state."""
    elbow, wrist = (bones.joint[_SIDES[i] + part] for part in ("elbow", "wrist"))
    direction, thumb, joints = bones.hand_direction[i], bones.thumb_direction[i], _along(bones, i)
    if scene.hands == "手插口袋":
        canvas.line(
            curve([wrist + [-0.04, 0.0], wrist + [0, 0.012], wrist + [0.04, 0.0]]), darker(outfit.lower, 0.45), 0.007
        )
        pocket = ellipse(wrist[0] + 0.012 * direction[0], wrist[1] + 0.036, 0.046, 0.042)
        canvas.shapes([(pocket, darker(outfit.lower, 0.08))])
        return joints, "hidden"
    if scene.hands == "长袖遮手":
        sleeve_end(canvas, elbow, wrist, outfit.top, 0.015 if scene.action == "看书" else 0.06)
        return joints, "sleeve"
    if scene.hands == "连指手套":
        closed_hand(canvas, wrist, direction, thumb, MITTEN, WHITE)
        return joints, "mitten"
    if grips:
        closed_hand(canvas, wrist, direction, thumb, SKIN)
        return joints, "fist"
    return open_hand(canvas, wrist, direction, thumb, anatomy.fingers[i], rng), "open"
