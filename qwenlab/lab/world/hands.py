"""Hands and feet: drawn right, or wrong on request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas, Color, blob, capsule, curve, darker, ellipse, mix

# Figure units; a hand is PALM + REACH long. Large, as cartoons have them: fingers must survive an 8x smaller latent.
PALM, REACH, THUMB_REACH, FINGER = 0.070, 0.1245, 0.106, 0.0172
SKIN: Color = (1.0, 0.86, 0.76)
MITTEN: Color = (0.96, 0.50, 0.42)
WRONG_FINGERS = (3, 4, 6, 7, "fused", "smear")
WRONG_FEET = ("missing", "third", "fused")
LIMB_COUNTS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Anatomy:
    """What to draw. ``fingers``: right and left hand, 3..7, "fused" or "smear" (5 is right); only open hands show it.

    ``feet``: "normal", "missing" (one foot gone), "third" (one too many) or "fused" (both grown together).
    ``arms`` and ``legs``: how many, 0..3; a third one grows beside one of the others.
    """

    fingers: tuple[int | str, int | str] = (5, 5)
    feet: str = "normal"
    arms: int = 2
    legs: int = 2

    def __post_init__(self):
        for value in self.fingers:
            if value != 5 and value not in WRONG_FINGERS:
                raise ValueError(f"fingers is 5 or one of {WRONG_FINGERS}, not {value!r}")
        if self.feet != "normal" and self.feet not in WRONG_FEET:
            raise ValueError(f'feet is "normal" or one of {WRONG_FEET}, not {self.feet!r}')
        if self.arms not in LIMB_COUNTS or self.legs not in LIMB_COUNTS:
            raise ValueError(f"arms and legs are numbers of {LIMB_COUNTS}, not {self.arms!r} and {self.legs!r}")


def finger_angles(count: int, rng: np.random.Generator) -> np.ndarray:
    """Directions of the fingers, thumb first, in degrees from the hand's axis towards the thumb; (count,)."""
    others = count - 1
    spread = {2: 26, 3: 40, 4: 49, 5: 56, 6: 62}[others] + rng.normal(0, 1.5)
    fan = np.linspace(spread, -spread, others)
    thumb = max(88 + rng.normal(0, 3), spread + 25)
    return np.concatenate([[thumb], fan + rng.normal(0, 1.2, others)])


def open_hand(canvas: Canvas, wrist, direction, thumb, fingers: int | str, rng: np.random.Generator) -> np.ndarray:
    """Draw an open hand and return its 21 joints (OpenPose order) in figure coordinates, (21, 2).

    With more or fewer than five fingers the joints are those of the five that a right hand would have.
    """
    wrist, axis, across = (np.asarray(v, float) for v in (wrist, direction, thumb))
    center = wrist + PALM * axis
    count = fingers if isinstance(fingers, int) else 5
    angles = np.deg2rad(finger_angles(count, rng))
    ways = np.cos(angles)[:, None] * axis + np.sin(angles)[:, None] * across
    reach = np.full(count, REACH)
    reach[0] = THUMB_REACH
    reach[-1] *= 0.88
    if count > 3:
        reach[count // 2] *= 1.06
    tips = center + reach[:, None] * ways
    palm = ellipse(*center, 0.0515, 0.047, np.rad2deg(np.arctan2(axis[1], axis[0])))
    if fingers == "smear":
        turns = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        radius = rng.uniform(0.052, 0.12, 10)
        heading = np.stack([np.cos(turns), np.sin(turns)], 1)
        canvas.shapes([(blob(center + 0.02 * axis + heading * radius[:, None]), SKIN), (palm, SKIN)])
    else:
        parts = [(capsule(center + 0.25 * (tip - center), tip, FINGER * 1.12, FINGER), SKIN) for tip in tips]
        if fingers == "fused":
            first = int(rng.integers(1, count - 1))
            web = [center, tips[first], tips[first + 1]]
            parts += [(capsule(web[1], web[2], FINGER), SKIN), (blob(web), SKIN)]
        canvas.shapes([*parts, (palm, SKIN)])
        fold = center + 0.012 * axis
        canvas.line(
            curve([fold - 0.02 * across, fold - 0.006 * axis, fold + 0.02 * across]), darker(SKIN, 0.3), 0.003, 0.7
        )
    if count != 5:
        angles = np.deg2rad(finger_angles(5, np.random.default_rng(0)))
        ways = np.cos(angles)[:, None] * axis + np.sin(angles)[:, None] * across
        reach = np.array([THUMB_REACH, REACH, REACH * 1.06, REACH, REACH * 0.88])
    along = np.array([0.42, 0.64, 0.84, 1.0])
    joints = center + (reach[:, None] * along)[..., None] * ways[:, None]
    return np.vstack([wrist[None], joints.reshape(20, 2)])


def closed_hand(canvas: Canvas, wrist, direction, thumb, color: Color, cuff: Color | None = None) -> None:
    """A mitten (with a cuff) or a fist around something (without)."""
    wrist, axis, across = (np.asarray(v, float) for v in (wrist, direction, thumb))
    center = wrist + 0.052 * axis
    turn = np.rad2deg(np.arctan2(axis[1], axis[0]))
    long = 0.058 if cuff else 0.044
    shapes = [
        (capsule(center, center + 0.045 * across + 0.016 * axis, 0.02, 0.019), color),
        (ellipse(*center, long, 0.043, turn), color),
    ]
    canvas.shapes(shapes)
    if cuff:
        canvas.shapes([(capsule(wrist - 0.026 * across, wrist + 0.026 * across, 0.018), cuff)])
    else:
        for shift in (-0.012, 0.006):
            a = center + (shift + 0.012) * axis
            canvas.line(curve([a - 0.03 * across, a - 0.012 * across + 0.003 * axis]), darker(color, 0.35), 0.0028, 0.7)


def sleeve_end(canvas: Canvas, elbow, wrist, color: Color, beyond: float = 0.06) -> None:
    """A sleeve that reaches ``beyond`` the wrist: no hand can be seen."""
    elbow, wrist = np.asarray(elbow, float), np.asarray(wrist, float)
    axis = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    end = wrist + beyond * axis
    canvas.shapes([(capsule(elbow, end, 0.036, 0.052), color)])
    across = np.array([-axis[1], axis[0]])
    canvas.line(curve([end - 0.045 * across, end + 0.02 * axis, end + 0.045 * across]), darker(color, 0.3), 0.004)


def foot(canvas: Canvas, ankle, joints, bare: bool, side: bool, shoe: Color) -> None:
    """One foot; ``joints`` (3, 2) are big toe, small toe and heel."""
    big, small, heel = (np.asarray(j, float) for j in joints)
    color = SKIN if bare else shoe
    ankle = np.asarray(ankle, float)
    if side:
        way = (big - heel) / np.linalg.norm(big - heel)
        parts = [
            (capsule(heel, big - 0.012 * way, 0.026, 0.026), color),
            (capsule(ankle - [0, 0.02], heel + 0.018 * way, 0.03, 0.026), color),
        ]
        toes = [big + 0.012 * way - [0, 0.004]] if bare else []
    else:
        middle = (big + small) / 2
        parts = [
            (ellipse(*(middle - [0, 0.008]), 0.047, 0.036), color),
            (capsule(ankle - [0, 0.02], heel, 0.031, 0.03), color),
        ]
        toes = (
            [big + t * (small - big) + [0, 0.017 - 0.006 * abs(t - 0.4)] for t in np.linspace(-0.12, 1.1, 5)]
            if bare
            else []
        )
    radius = (0.017,) if side else (0.0135, 0.0115, 0.011, 0.0105, 0.0095)
    parts = [(ellipse(*toe, r), color) for toe, r in zip(toes, radius, strict=False)] + parts  # shoes: no toes
    canvas.shapes(parts)
    if not bare:
        low = heel if side else (big + small) / 2
        if side:
            canvas.line(
                curve([heel + [-0.02, 0.02], (heel + big) / 2 + [0, 0.025], big + [0.008, 0.018]]),
                mix(shoe, (1, 1, 1), 0.75),
                0.009,
            )
        else:
            canvas.line(
                curve([low + [-0.036, 0.012], low + [0, 0.024], low + [0.036, 0.012]]),
                mix(shoe, (1, 1, 1), 0.75),
                0.009,
            )
