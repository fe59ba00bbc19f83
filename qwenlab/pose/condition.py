"""The picture of a skeleton that a pose net is shown: OpenPose's 18 points as coloured sticks on black.

Colours, their order and the brightness of sticks (0.6) are those that public nets were trained with (Cao et al.,
arXiv 1812.08008; ControlNet, arXiv 2302.05543; tests/pose compares with controlnet_aux's pictures). They stand for
*which* limb it is, so left and right are told apart, but not for what is in front of what: an arm before the chest and
one behind the back are the same picture. `depth=True` codes that: far limbs are drawn first, and nearer ones brighter.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from qwenlab.errors import QwenlabError
from qwenlab.pose.camera import width_and_height
from qwenlab.pose.openpose import LIMBS, Pose2D

#: Limb i and point i have colour i, RGB; 17 limbs, 18 points.
COLORS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
LIMB_SHADE = 0.6  # brightness of a limb without depth
DARKEST, BRIGHTEST, FARTHEST = 0.3, 1.0, 0.2  # shades at FARTHEST figure units behind and before the axis
STICK = 4 / 512  # half the width of a limb, and a point's radius, as a share of the shorter side of the picture
THINNEST = 3.0  # pixels of that at least: 2 lose more in the micro VAE (benchmarks/pose/condition_through_vae.json)
_FINE = 4  # drawn at this multiple, so that edges are smooth


def draw_condition(pose: Pose2D, size: int | tuple[int, int] | None = None, depth: bool = False) -> Image.Image:
    """The skeleton as an RGB picture on black.

    size: (W, H) or the side of a square in pixels; None: that of the pose's own picture. Limbs with a missing end are
    left out, as is what lies outside.
    depth: False: colours alone, as public nets expect them. True: drawn from far to near, and the brightness of limbs
    and points says how near; raises QwenlabError when the pose has no depth.
    """
    pose = pose.resized(size if size is not None else pose.size)
    if depth and pose.depth is None:
        raise QwenlabError("the pose has no depth: draw it with depth=False, or project a 3D body with to_openpose")
    width, height = width_and_height(pose.size)
    fine = Image.new("RGB", (width * _FINE, height * _FINE))
    draw = ImageDraw.Draw(fine)
    radius = max(THINNEST, STICK * min(width, height)) * _FINE
    for index in _order(pose, depth):
        if index < len(LIMBS):
            ends = list(LIMBS[index])
            shade = _shade(pose.depth[ends].mean()) if depth else LIMB_SHADE
            draw.polygon(_stick(pose.points[ends, :2] * _FINE, radius), _dimmed(COLORS[index], shade))
        else:
            point = index - len(LIMBS)
            x, y = pose.points[point, :2] * _FINE
            shade = _shade(pose.depth[point]) if depth else 1.0
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), _dimmed(COLORS[point], shade))
    return fine.resize((width, height), Image.Resampling.BOX)


def _order(pose: Pose2D, depth: bool) -> list[int]:
    """What to draw one after the other: limbs by index, then points, 17 on; with depth, far before near."""
    limbs = [number for number, (a, b) in enumerate(LIMBS) if pose.seen[a] and pose.seen[b]]
    points = [len(LIMBS) + number for number in np.flatnonzero(pose.seen)]
    if not depth:
        return limbs + points
    nearness = {number: pose.depth[list(LIMBS[number])].mean() for number in limbs}
    nearness |= {number: pose.depth[number - len(LIMBS)] for number in points}
    return sorted(limbs + points, key=lambda number: -nearness[number])


def _shade(depth: float) -> float:
    """Brightness of what is `depth` figure units behind the figure's axis (before it where negative)."""
    share = float(np.clip(-depth / FARTHEST, -1, 1))
    return LIMB_SHADE + share * (BRIGHTEST - LIMB_SHADE if share > 0 else LIMB_SHADE - DARKEST)


def _dimmed(color: tuple[int, int, int], shade: float) -> tuple[int, int, int]:
    return tuple(int(value * shade) for value in color)


def _stick(ends: np.ndarray, radius: float) -> list[tuple[float, float]]:
    """A limb is an ellipse whose long axis joins its ends (2, 2); `radius` is half its short axis."""
    middle, along = ends.mean(0), (ends[1] - ends[0]) / 2
    length = float(np.hypot(*along))
    across = np.array([-along[1], along[0]]) * (radius / length if length else 0)
    turn = np.linspace(0, 2 * np.pi, 73)[:-1, None]
    return [tuple(point) for point in middle + np.cos(turn) * along + np.sin(turn) * across]
