"""The figure: legs, clothes, arms, hands and props, layered from back to front."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.transforms import Affine2D

from .attributes import Scene
from .canvas import Canvas, capsule, curve, darker, ellipse
from .hands import MITTEN, SKIN, Anatomy, closed_hand, foot, open_hand, sleeve_end
from .head import draw_back_hair, draw_head
from .outfits import OUTFITS, WHITE, Outfit, draw_clothes
from .props import draw_held
from .skeleton import HEAD_CENTER, HIP_HEIGHT, LEFT, RIGHT, THIGH, Skeleton

_SIDES = ("right_", "left_")
#: Skeletons whose arm, or leg, is drawn on the right and on the left side: two of them where there is a third limb.
Limbs = tuple[list[Skeleton], list[Skeleton]]


def draw_figure(
    canvas: Canvas, scene: Scene, bones: Skeleton, anatomy: Anatomy, rng: np.random.Generator
) -> tuple[np.ndarray, list[str], int]:
    """Draw the whole figure.

    Returns:
        The hand joints (2, 21, 2) in figure coordinates, the state of each hand ("open", "mitten", "sleeve", "fist" or
        "hidden") and the number of feet drawn (0 in a half-body picture).
    """
    outfit, placed = OUTFITS[scene.clothes], bones.placed
    upright, head = bones, bones.joint["neck"] + [0.0, -0.185]
    if placed is not None:
        upright, head = replace(bones, body=placed.trunk.inverted().transform(bones.body)), np.array(HEAD_CENTER)
    hands, states = np.stack([_along(bones, i) for i in (RIGHT, LEFT)]), ["hidden", "hidden"]
    arms, legs = limbs(bones, "arm", anatomy.arms, rng), limbs(bones, "leg", anatomy.legs, rng)
    far, near = _arms_in_order(scene, bones)
    low, high = _legs_in_order(bones, outfit, anatomy)
    holds = holding_hand(scene, bones) if scene.prop else None

    def draw_arms(sides: list[int]) -> None:
        drawn = [(i, limb) for i in sides for limb in reversed(arms[i])]  # a third arm first
        for i, limb in drawn:
            canvas.part = _part(i, "arm", limb, bones)
            _arm(canvas, scene, limb, outfit, i)
        canvas.part = "prop"
        if scene.action == "看书" and sides == near:
            wrists = bones.joint["right_wrist"] + bones.joint["left_wrist"]
            draw_held(canvas, "书", wrists / 2 + [0, -0.03], bones.side)
        if holds in sides and arms[holds]:
            wrist = bones.joint[_SIDES[holds] + "wrist"]
            draw_held(canvas, scene.prop, wrist + 0.05 * bones.hand_direction[holds], bones.side)
        for i, limb in drawn:
            canvas.part = _part(i, "arm", limb, bones)
            if scene.action != "背着手" or i not in far:  # a hand behind the back does not show
                hands[i], states[i] = _hand(canvas, scene, limb, outfit, i, anatomy, rng, grips=i == holds)

    def draw_legs(sides: list[int], feet: str) -> int:
        drawn = [(i, limb) for i in sides for limb in reversed(legs[i])]
        if scene.framing == "全身":
            return _legs(canvas, scene, bones, outfit, drawn, feet)
        for i, limb in drawn:
            canvas.part = _part(i, "leg", limb, bones)
            _leg(canvas, limb, outfit, i)
        return 0

    canvas.part = "hair"
    with canvas.moved(placed and placed.head):
        draw_back_hair(canvas, scene, head, rng)
    for i in far:
        draw_arms([i])
    feet = draw_legs(low, anatomy.feet)
    canvas.part = "trunk"
    with canvas.moved(placed and placed.trunk):
        neck = upright.joint["neck"]
        canvas.shapes([(capsule(neck + [0, -0.04], neck + [0, 0.02], 0.036), SKIN)])
        draw_clothes(canvas, scene, upright, outfit)
    canvas.part = "head"
    with canvas.moved(placed and placed.head):
        draw_head(canvas, scene, head, rng, placed and placed.gaze)
    if bones.depth is None:
        draw_arms(near)
    else:  # each limb with what it ends in, the nearest last
        for _, draw, side in sorted(
            [(-bones.depth[i], 0, i) for i in near] + [(-bones.depth[2 + i], 1, i) for i in high]
        ):
            if draw == 0:
                draw_arms([side])
            else:
                feet += draw_legs([side], "normal")
    return hands, states, feet


def limbs(bones: Skeleton, kind: str, count: int, rng: np.random.Generator) -> Limbs:
    """Which arms or legs are drawn: the two that there are, fewer, or a third one beside one of them."""
    drawn: Limbs = ([bones], [bones])
    if count < 2:
        drawn[int(rng.integers(2))].clear()
    if count < 1:
        return [], []
    if count > 2:
        side = int(rng.integers(2))
        drawn[side].append(_turned(bones, kind, side, rng))
    return drawn


def _turned(bones: Skeleton, kind: str, side: int, rng: np.random.Generator) -> Skeleton:
    """A skeleton whose arm or leg of a side is turned about the shoulder or the hip, well away from where it was."""
    first = (2 if kind == "arm" else 8) + 3 * side
    root = bones.body[first]
    turn = Affine2D().rotate_deg_around(*root, rng.choice([-1, 1]) * rng.uniform(*((40, 110), (25, 50))[kind == "leg"]))
    body, feet = bones.body.copy(), bones.feet.copy()
    body[first : first + 3] = turn.transform(body[first : first + 3])
    changes = {"body": body}
    if kind == "arm":
        spin = turn.get_matrix()[:2, :2].T
        for name in ("hand_direction", "thumb_direction"):
            ways = getattr(bones, name).copy()
            ways[side] = ways[side] @ spin
            changes[name] = ways
    else:
        feet[side] = turn.transform(feet[side])
        changes["feet"] = feet
        if bones.placed is not None:
            moves = list(bones.placed.feet)
            moves[side] = moves[side] + turn
            changes["placed"] = replace(bones.placed, feet=tuple(moves))
    return replace(bones, **changes)


def _part(side: int, kind: str, limb: Skeleton, bones: Skeleton) -> str:
    return _SIDES[side] + kind if limb is bones else f"third_{kind}"


def _arms_in_order(scene: Scene, bones: Skeleton) -> tuple[list[int], list[int]]:
    """The arms behind the body and those before it, in the order in which they are drawn."""
    if bones.depth is not None:
        order = sorted((RIGHT, LEFT), key=lambda i: -bones.depth[i])
        return [i for i in order if bones.depth[i] > 0], [i for i in order if bones.depth[i] <= 0]
    behind = scene.action == "背着手"
    far = [RIGHT, LEFT] if behind and not bones.side else ([LEFT] if bones.side else [])
    return far, [i for i in (RIGHT, LEFT) if i not in far]


def _legs_in_order(bones: Skeleton, outfit: Outfit, anatomy: Anatomy) -> tuple[list[int], list[int]]:
    """The legs under the clothes and those before them; all are under a skirt, and wrong feet are drawn together."""
    if bones.depth is None:
        return [LEFT, RIGHT], []
    order = sorted((LEFT, RIGHT), key=lambda i: -bones.depth[2 + i])
    trousers = outfit.legs is not None
    high = [i for i in order if bones.depth[2 + i] < 0] if trousers and anatomy.feet == "normal" else []
    return [i for i in order if i not in high], high


def holding_hand(scene: Scene, bones: Skeleton) -> int | None:
    """The hand that holds something: the left one, or the nearer one of a profile; never one behind the body."""
    _, near = _arms_in_order(scene, bones)
    if not near:
        return None
    return LEFT if LEFT in near and not bones.side else (near[0] if bones.depth is None else near[-1])


def _leg(canvas: Canvas, bones: Skeleton, outfit: Outfit, i: int) -> None:
    hip, knee, ankle = (bones.joint[_SIDES[i] + part] for part in ("hip", "knee", "ankle"))
    color = outfit.legs or SKIN
    canvas.shapes([(capsule(hip, knee, 0.050, 0.042), color), (capsule(knee, ankle - [0, 0.012], 0.042, 0.033), color)])
    if bones.placed is not None and outfit.legs is None:  # a skirt goes with the thigh, as far as its hem
        share = min(1.0, (outfit.hem - 0.05 - HIP_HEIGHT) / THIGH)
        canvas.shapes([(capsule(hip, hip + share * (knee - hip), 0.062, 0.056), outfit.lower)])


def _foot(canvas: Canvas, scene: Scene, bones: Skeleton, outfit: Outfit, i: int) -> None:
    ankle, joints, move = bones.joint[_SIDES[i] + "ankle"], bones.feet[i], bones.placed and bones.placed.feet[i]
    if move is not None:  # drawn below an upright shin
        back = move.inverted()
        ankle, joints = back.transform(ankle), back.transform(joints)
    with canvas.moved(move):
        foot(canvas, ankle, joints, scene.feet == "光脚", bones.side, outfit.shoe)


def _legs(
    canvas: Canvas, scene: Scene, bones: Skeleton, outfit: Outfit, drawn: list[tuple[int, Skeleton]], feet: str
) -> int:
    """Draw legs with their feet, which are "normal" or wrong; the number of feet."""
    count = 0
    gone = RIGHT if feet == "missing" else None
    if feet == "third":
        canvas.part = "third_leg"
        shift = (
            np.array([0.085, -0.004])
            if bones.side
            else (bones.joint["left_ankle"] - bones.joint["right_ankle"]) * [1.0, 0.0]
        )
        third = bones.joint["left_ankle"] + shift
        canvas.shapes([(capsule(bones.joint["left_knee"], third - [0, 0.012], 0.042, 0.033), outfit.legs or SKIN)])
        foot(canvas, third, bones.feet[LEFT] + shift, scene.feet == "光脚", bones.side, outfit.shoe)
        count += 1
    for i, limb in drawn:
        canvas.part = _part(i, "leg", limb, bones)
        if i == gone:  # the leg ends above the ankle
            hip, knee = (bones.joint[_SIDES[i] + part] for part in ("hip", "knee"))
            canvas.shapes([(capsule(hip, knee, 0.050, 0.040), outfit.legs or SKIN)])
            continue
        _leg(canvas, limb, outfit, i)
        _foot(canvas, scene, limb, outfit, i)
        count += 1
    if feet == "fused":
        color = SKIN if scene.feet == "光脚" else outfit.shoe
        a, b = bones.feet[RIGHT].mean(0), bones.feet[LEFT].mean(0)
        canvas.shapes([(capsule(a, b, 0.042), color)])
        count = 1
    return count


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
