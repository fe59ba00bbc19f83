"""The head: hair behind, face, hair in front. Figure coordinates relative to the head's centre."""

from __future__ import annotations

import numpy as np

from .attributes import SAMPLE_HAIR_STYLE, Scene
from .canvas import Canvas, Color, blob, capsule, curve, darker, ellipse, mix, polygon
from .hands import SKIN
from .looks import DEER_COLOR, DEER_HAIR, RABBIT_COLOR, draw_hair_ornament, draw_headwear

HAIR: dict[str, Color] = {
    "黑色": (0.20, 0.18, 0.24),
    "金色": (0.98, 0.80, 0.33),
    "红色": (0.86, 0.27, 0.22),
    "蓝色": (0.29, 0.52, 0.90),
    "绿色": (0.34, 0.70, 0.42),
    "粉色": (0.98, 0.60, 0.74),
    "橙色": (0.96, 0.55, 0.20),
    RABBIT_COLOR: (0.86, 0.88, 0.94),
    DEER_COLOR: (0.25, 0.72, 0.74),
}
INK: Color = (0.22, 0.12, 0.16)
_RX, _RY = 0.155, 0.15
_LONG = ("长发", DEER_HAIR)


def _at(center, points) -> np.ndarray:
    return np.asarray(points, float) + center


def draw_back_hair(canvas: Canvas, scene: Scene, center: np.ndarray, rng: np.random.Generator) -> None:
    """Everything of the hair that lies behind face and body."""
    color, side, style = HAIR[scene.hair_color], scene.view == "侧面", scene.hair_style
    draw_headwear(canvas, style, color, center, side)
    back = -0.035 if side else 0.0
    cap = (ellipse(center[0] + back, center[1] - 0.030, _RX + 0.020, _RY + 0.006), color)
    items = [cap]
    sway = rng.normal(0, 0.008)
    if style in _LONG:
        if side:
            shape = [
                [-0.16, -0.02],
                [-0.19, 0.12],
                [-0.175 + sway, 0.34],
                [-0.10 + sway, 0.37],
                [-0.03, 0.30],
                [0.0, 0.1],
                [0.02, -0.08],
            ]
        else:
            shape = [
                [-0.172, -0.03],
                [-0.19, 0.14],
                [-0.178 + sway, 0.36],
                [-0.1 + sway, 0.37],
                [0.1 + sway, 0.37],
                [0.178 + sway, 0.36],
                [0.19, 0.14],
                [0.172, -0.03],
            ]
        items.append((blob(_at(center, shape)), color))
    elif style == "双马尾":
        for sign in (-1,) if side else (-1, 1):
            x = 0.165 if not side else 0.13
            tail = [
                [x, -0.07],
                [x + 0.075, -0.06],
                [x + 0.105, 0.06],
                [x + 0.075 + sway, 0.22],
                [x + 0.02 + sway, 0.27],
                [x + 0.005, 0.16],
                [x - 0.01, 0.04],
            ]
            items.append((blob(_at(center, np.asarray(tail) * [sign, 1])), color))
    elif style == "高马尾":
        sign = -1
        tail = [
            [0.02, -0.14],
            [0.10, -0.185],
            [0.20, -0.13],
            [0.245 + sway, 0.03],
            [0.215 + sway, 0.19],
            [0.165, 0.12],
            [0.15, -0.02],
            [0.08, -0.09],
        ]
        items.append((blob(_at(center, np.asarray(tail) * [sign, 1])), color))
    elif style == "丸子头":
        for x in (-0.08,) if side else (-0.105, 0.105):
            items.append((ellipse(center[0] + x, center[1] - 0.165, 0.066, 0.062), color))
    elif style == "刺猬头":
        turns = np.linspace(-200, 20, 12)
        ring = []
        for k, turn in enumerate(turns):
            radius = 0.235 if k % 2 else 0.165
            a = np.deg2rad(turn + rng.normal(0, 1.5))
            ring.append([back + radius * np.cos(a) * 0.98, radius * np.sin(a) * 0.95 + 0.01])
        items.append((polygon(_at(center, ring)), color))
    elif style == SAMPLE_HAIR_STYLE:
        curls = [
            (-0.165, 0.02),
            (-0.185, 0.10),
            (-0.165, 0.18),
            (-0.115, 0.22),
            (0.165, 0.02),
            (0.185, 0.10),
            (0.165, 0.18),
            (0.115, 0.22),
        ]
        for x, y in curls[:4] if side else curls:
            items.append((ellipse(center[0] + x, center[1] + y, 0.056), color))
    else:  # short hair
        shape = [
            [-0.172, -0.04],
            [-0.188, 0.08],
            [-0.165, 0.165],
            [-0.08, 0.175],
            [0.08, 0.175],
            [0.165, 0.165],
            [0.188, 0.08],
            [0.172, -0.04],
        ]
        if side:
            shape = [[-0.17, -0.04], [-0.19, 0.08], [-0.16, 0.165], [-0.06, 0.16], [0.02, 0.05], [0.04, -0.08]]
        items.append((blob(_at(center, shape)), color))
    canvas.shapes(items)
    if style == "双马尾":
        for sign in (-1,) if side else (-1, 1):
            x, y = center + [sign * (0.172 if not side else 0.14), -0.062]
            canvas.shapes([(ellipse(x, y, 0.024), (0.93, 0.26, 0.34))])
    elif style == "高马尾":
        canvas.shapes([(ellipse(center[0] - 0.055, center[1] - 0.158, 0.03, 0.02, -35), (0.36, 0.32, 0.75))])


def draw_head(
    canvas: Canvas, scene: Scene, center: np.ndarray, rng: np.random.Generator, gaze: np.ndarray | None = None
) -> None:
    """Face and front hair; ``gaze`` (2,) moves eyes and mouth, as when the head turns a little."""
    side = scene.view == "侧面"
    ear_x = (-0.03,) if side else (-_RX + 0.002, _RX - 0.002)
    face = [(ellipse(center[0], center[1], _RX, _RY), SKIN)]
    if side:
        face.append((ellipse(center[0] + _RX - 0.006, center[1] + 0.058, 0.020, 0.015), SKIN))
    ears = [(ellipse(center[0] + x, center[1] + 0.042, 0.026, 0.032), SKIN) for x in ear_x]
    canvas.shapes(face if side else ears + face)
    _face(canvas, scene, center if gaze is None else center + gaze, side, rng)
    _front_hair(canvas, scene, center, side)
    if side and scene.hair_style not in _LONG:
        canvas.shapes(ears)


def _face(canvas: Canvas, scene: Scene, center, side: bool, rng) -> None:
    girl = scene.gender == "女孩"
    smile = rng.uniform(0.6, 1.2)
    for x in (0.085,) if side else (-0.062, 0.062):
        ex, ey = center + [x, 0.034]
        canvas.fill(ellipse(ex, ey, 0.023 if not side else 0.019, 0.034), INK)
        canvas.fill(ellipse(ex, ey + 0.012, 0.015, 0.016), mix(INK, (0.45, 0.35, 0.65), 0.55))
        canvas.fill(ellipse(ex - 0.007, ey - 0.013, 0.0085), (1.0, 1.0, 1.0))
        out = 1.0 if x > 0 else -1.0
        if girl:
            canvas.line(
                curve([[ex - 0.018 * out, ey - 0.033], [ex + 0.006 * out, ey - 0.037], [ex + 0.033 * out, ey - 0.014]]),
                INK,
                0.0075,
            )
            canvas.fill(ellipse(ex + 0.016 * out, ey + 0.048, 0.026, 0.015), (1.0, 0.55, 0.55), 0.6)
        else:
            canvas.line(
                curve([[ex - 0.026 * out, ey - 0.062], [ex, ey - 0.064], [ex + 0.026 * out, ey - 0.050]]), INK, 0.010
            )
    mx, my = center + ([0.108, 0.096] if side else [0.0, 0.092])
    wide = 0.018 if side else 0.026
    canvas.line(curve([[mx - wide, my], [mx, my + 0.018 * smile], [mx + wide, my]]), (0.62, 0.2, 0.22), 0.0075)


def _front_hair(canvas: Canvas, scene: Scene, center, side: bool) -> None:
    color = HAIR[scene.hair_color]
    top = -_RY - 0.036
    if side:
        fringe = [
            [-0.15, -0.06],
            [-0.10, top + 0.02],
            [0.0, top - 0.002],
            [0.10, top + 0.028],
            [0.165, -0.06],
            [0.158, 0.0],
            [0.125, -0.035],
            [0.09, -0.012],
            [0.05, -0.04],
            [0.02, 0.045],
            [-0.02, 0.012],
            [-0.06, 0.09],
            [-0.13, 0.07],
        ]
    elif scene.hair_style == "刺猬头":
        fringe = [
            [-0.17, 0.03],
            [-0.165, -0.09],
            [-0.08, top],
            [0.08, top],
            [0.165, -0.09],
            [0.17, 0.03],
            [0.13, -0.035],
            [0.09, -0.005],
            [0.045, -0.055],
            [0.0, -0.008],
            [-0.045, -0.055],
            [-0.09, -0.005],
            [-0.13, -0.035],
        ]
    else:
        fringe = [
            [-0.172, 0.075],
            [-0.175, -0.05],
            [-0.10, top + 0.018],
            [0.0, top - 0.004],
            [0.10, top + 0.018],
            [0.175, -0.05],
            [0.172, 0.075],
            [0.142, 0.02],
            [0.118, -0.03],
            [0.06, -0.012],
            [0.0, -0.038],
            [-0.06, -0.012],
            [-0.118, -0.03],
            [-0.142, 0.02],
        ]
    items = [(blob(_at(center, fringe), 0.42), color)]
    if scene.hair_style == SAMPLE_HAIR_STYLE:
        for x in (-0.06,) if side else (-0.11, 0.11):
            out = np.sign(x)
            ear = [[x - 0.055, -0.115], [x + 0.035 * out, -0.255], [x + 0.055, -0.105]]
            items.insert(0, (polygon(_at(center, ear)), color))
    canvas.shapes(items)
    if canvas.style.shade:
        gloss = curve(_at(center, [[-0.085, -0.098], [-0.03, -0.122], [0.035, -0.122]]))
        canvas.line(gloss, mix(color, (1, 1, 1), 0.55), 0.011, 0.85)
    if scene.hair_style == SAMPLE_HAIR_STYLE:
        for x in (-0.06,) if side else (-0.11, 0.11):
            out = np.sign(x)
            inner = [[x - 0.024, -0.128], [x + 0.026 * out, -0.212], [x + 0.03, -0.122]]
            canvas.fill(polygon(_at(center, inner)), (1.0, 0.95, 0.88))
        canvas.shapes([(ellipse(center[0] + 0.105, center[1] - 0.075, 0.026), (0.35, 0.80, 0.72))])
    elif scene.hair_style == "短发" and scene.gender == "女孩":
        x, y = center + [0.10, -0.062]
        canvas.shapes([(capsule([x - 0.022, y - 0.010], [x + 0.022, y + 0.010], 0.0105), (0.98, 0.36, 0.45))])
    elif scene.hair_style in _LONG and not side:
        for sign in (-1, 1):
            lock = np.asarray(
                [[0.165, -0.02], [0.178, 0.10], [0.17, 0.2], [0.148, 0.21], [0.140, 0.10], [0.142, 0.0]]
            ) * [sign, 1]
            canvas.shapes([(blob(_at(center, lock)), color)])
    elif scene.hair_style == "丸子头":
        for x in (-0.08,) if side else (-0.105, 0.105):
            bun = _at(center, [[x - 0.03, -0.17], [x + 0.005, -0.19], [x + 0.03, -0.165]])
            canvas.line(curve(bun), darker(color, 0.35), 0.006)
    draw_hair_ornament(canvas, scene.hair_style, center)
