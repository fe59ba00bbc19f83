"""From a scene to a picture with everything that is known about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .attributes import Scene
from .backgrounds import draw_background
from .canvas import Canvas, capsule, ellipse
from .figure import draw_figure
from .hands import PALM, REACH, Anatomy
from .looks import DEER_HAIR
from .skeleton import pose
from .styles import STYLE_OF, finish

FULL_SCALE, HALF_SCALE = 0.86, 1.12


@dataclass(frozen=True)
class Hand:
    """One hand: its state ("open", "mitten", "sleeve", "fist", "hidden"), what was drawn, where, how large (pixels)."""

    state: str
    fingers: int | str | None  # drawn fingers of an open hand; None otherwise
    center: tuple[float, float]
    length: float  # wrist to middle finger tip


@dataclass(frozen=True)
class Picture:
    """A rendering and its exact annotations, in pixels with the origin at the top left.

    Keypoint rows are (x, y, visibility): 1 = drawn and inside the picture, 0 = covered or outside.
    """

    image: np.ndarray  # (S, S, 3) uint8 RGB
    body: np.ndarray  # (18, 3) OpenPose order
    hands: np.ndarray  # (2, 21, 3) right, left
    feet: np.ndarray  # (2, 3, 3) right, left: big toe, small toe, heel
    hand_info: tuple[Hand, Hand]
    feet_drawn: int  # 0 when the framing cuts them off
    head: tuple[float, float, float]  # x, y, radius


def render(scene: Scene, size: int = 128, anatomy: Anatomy | None = None, *, shift: float = 0.0) -> Picture:
    """Draw a scene. The same scene gives the same picture at every size.

    Args:
        scene: what to show; ``scene.seed`` decides what the caption leaves open.
        size: side in pixels.
        anatomy: wrong anatomy on request; right anatomy by default.
        shift: of the figure to the right, in widths of the picture; the background stays.
    """
    anatomy = anatomy or Anatomy()
    style = STYLE_OF[scene.style]
    rng = np.random.default_rng(scene.seed)
    bones = pose(scene, rng)
    full = scene.framing == "全身"
    scale = (FULL_SCALE if full else HALF_SCALE) * (1 + rng.uniform(-0.025, 0.025))
    dx = 0.5 + rng.uniform(-0.02, 0.02) + shift
    dy = (0.965 - scale) if full else 0.098 + rng.uniform(-0.008, 0.008)
    mirror = scene.view == "侧面" and rng.random() < 0.5

    back = Canvas(size, style)
    draw_background(back, scene.background, np.random.default_rng((scene.seed, 1)))
    front = Canvas(size, style)
    if full:
        back.place(scale, dx, dy)
        wide = 0.13 if scene.action == "跳跃" else 0.17
        back.fill(ellipse(0, 0.975, wide, 0.028), (0.15, 0.15, 0.25), 0.28)
        if scene.action == "坐着":
            back.place(scale, dx, dy, mirror)
            _stool(back, bones)
    front.place(scale, dx, dy, mirror)
    hands, states, feet_drawn = draw_figure(front, scene, bones, anatomy, np.random.default_rng((scene.seed, 2)))
    image = finish(back.rgba(), front.rgba(), style, np.random.default_rng((scene.seed, 3)))

    def labelled(points, seen=True) -> np.ndarray:
        xy = front.pixels(points)
        inside = ((xy >= 0) & (xy < size)).all(-1, keepdims=True)
        return np.concatenate([xy, inside * np.asarray(seen, float)], -1).astype(np.float32)

    shown = [state != "hidden" for state in states]
    hand_points = labelled(hands, np.array([state == "open" for state in states])[:, None, None])
    body = labelled(bones.body, _body_visibility(scene, shown)[:, None])
    feet = labelled(bones.feet, float(full))
    info = []
    for i in (0, 1):
        center = bones.body[4 + 3 * i] + PALM * bones.hand_direction[i]
        fingers = anatomy.fingers[i] if states[i] == "open" else None
        info.append(Hand(states[i], fingers, tuple(front.pixels(center).tolist()), (PALM + REACH) * scale * size))
    head = front.pixels(bones.joint["neck"] + [0, -0.185])
    return Picture(image, body, hand_points, feet, tuple(info), feet_drawn, (*head.tolist(), 0.15 * scale * size))


def _stool(canvas: Canvas, bones) -> None:
    y = bones.joint["right_hip"][1] + 0.045
    for x in (-0.10, 0.10):
        canvas.shapes([(capsule([x, y], [x * 1.25, 0.97], 0.016), (0.56, 0.38, 0.26))])
    canvas.shapes([(capsule([-0.13, y], [0.13, y], 0.030), (0.72, 0.50, 0.34))])


def _body_visibility(scene: Scene, hands_shown: list[bool]) -> np.ndarray:
    """(18,) 1.0 for drawn joints; wrists in pockets or behind the back and the far side of a profile are covered."""
    seen = np.ones(18, np.float32)
    seen[[4, 7]] = hands_shown
    if scene.view == "侧面":
        seen[[14, 16]] = 0.0
    if scene.hair_style in ("长发", DEER_HAIR):
        seen[[16, 17]] = 0.0
    return seen
