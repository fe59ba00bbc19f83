"""Places. Canvas units; the ground line lies at y = HORIZON."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Color, blob, capsule, curve, ellipse, mix, polygon

HORIZON = 0.68


def draw_background(canvas: Canvas, name: str, rng: np.random.Generator) -> None:
    """Paint the named place over the whole canvas; ``rng`` moves clouds, flowers, windows and the like."""
    _PAINTERS[name](canvas, rng)


def _gradient(canvas: Canvas, top: Color, low: Color, y0: float, y1: float, bands: int = 14) -> None:
    edges = np.linspace(y0, y1, bands + 1)
    for k in range(bands):
        color = mix(top, low, k / (bands - 1))
        canvas.fill(
            polygon(
                [
                    [-0.02, edges[k] - 0.004],
                    [1.02, edges[k] - 0.004],
                    [1.02, edges[k + 1] + 0.004],
                    [-0.02, edges[k + 1] + 0.004],
                ]
            ),
            color,
        )


def _ground(canvas: Canvas, color: Color, y: float = HORIZON, bow: float = 0.02) -> None:
    canvas.fill(
        blob([[-0.2, y + bow], [0.25, y - bow * 0.3], [0.7, y + bow * 0.4], [1.2, y], [1.3, 1.3], [-0.3, 1.3]], 0.4),
        color,
    )


def _cloud(canvas: Canvas, x: float, y: float, s: float, color: Color = (1.0, 1.0, 1.0)) -> None:
    for dx, dy, r in ((-0.9, 0.1, 0.55), (0, -0.2, 0.8), (0.9, 0.1, 0.6), (0, 0.25, 0.7)):
        canvas.fill(ellipse(x + dx * s, y + dy * s, r * s, r * s * 0.75), color)


def _tree(canvas: Canvas, x: float, y: float, s: float, leaf: Color) -> None:
    canvas.fill(capsule([x, y], [x, y - s], 0.07 * s, 0.05 * s), (0.50, 0.35, 0.25))
    for k, (w, h) in enumerate(((0.52, 0.62), (0.42, 0.95), (0.30, 1.25))):
        canvas.fill(
            polygon([[x - w * s, y - h * s + 0.22 * s], [x, y - h * s - 0.42 * s], [x + w * s, y - h * s + 0.22 * s]]),
            mix(leaf, (1, 1, 1), 0.08 * k),
        )


def _garden(canvas, rng):
    _gradient(canvas, (0.76, 0.90, 0.98), (0.95, 0.97, 0.94), 0, HORIZON)
    for x in np.linspace(-0.05, 1.05, 7) + rng.uniform(-0.03, 0.03, 7):
        canvas.fill(ellipse(x, HORIZON - 0.02, 0.13, 0.11 + rng.uniform(0, 0.04)), (0.49, 0.74, 0.46))
    _ground(canvas, (0.66, 0.85, 0.52))
    colors = ((0.98, 0.45, 0.56), (1.0, 0.85, 0.35), (0.99, 0.99, 0.98), (0.72, 0.50, 0.90))
    for k in range(22):
        x, y = rng.uniform(0.02, 0.98), rng.uniform(HORIZON - 0.12, 0.98)
        s = 0.010 + 0.016 * max(0.1, y - 0.5)
        for a in range(5):
            t = a * 2 * np.pi / 5
            canvas.fill(ellipse(x + s * np.cos(t), y + s * np.sin(t), s * 0.72), colors[k % 4])
        canvas.fill(ellipse(x, y, s * 0.6), (0.99, 0.75, 0.25))


def _beach(canvas, rng):
    _gradient(canvas, (0.47, 0.76, 0.95), (0.85, 0.95, 0.99), 0, 0.42)
    canvas.fill(ellipse(0.85 + rng.uniform(-0.05, 0.05), 0.13, 0.075), (1.0, 0.93, 0.55))
    _cloud(canvas, rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.2), 0.06)
    _gradient(canvas, (0.16, 0.55, 0.78), (0.35, 0.78, 0.85), 0.42, 0.72, 8)
    for y in (0.48, 0.55, 0.62):
        x = rng.uniform(0, 0.6)
        canvas.stroke(
            curve([[x, y], [x + 0.1, y - 0.008], [x + 0.2, y], [x + 0.32, y - 0.006]]), (0.93, 0.98, 1.0), 0.007
        )
    _ground(canvas, (0.98, 0.98, 0.95), 0.70, 0.03)
    _ground(canvas, (0.96, 0.86, 0.65), 0.725, 0.03)
    for _ in range(5):
        x, y = rng.uniform(0.03, 0.97), rng.uniform(0.8, 0.97)
        canvas.fill(ellipse(x, y, 0.016, 0.012), (0.99, 0.72, 0.62))


def _classroom(canvas, rng):
    canvas.fill(polygon([[0, 0], [1, 0], [1, 1], [0, 1]]), (0.97, 0.91, 0.78))
    canvas.fill(polygon([[0.08, 0.07], [0.92, 0.07], [0.92, 0.47], [0.08, 0.47]]), (0.62, 0.44, 0.28))
    canvas.fill(polygon([[0.105, 0.095], [0.895, 0.095], [0.895, 0.445], [0.105, 0.445]]), (0.20, 0.42, 0.35))
    for y in (0.16, 0.22, 0.36):
        for x in (0.13, 0.74):
            x += rng.uniform(0, 0.02)
            canvas.stroke(
                curve([[x, y], [x + 0.05, y - 0.01], [x + rng.uniform(0.08, 0.12), y]]), (0.93, 0.97, 0.93), 0.008
            )
    canvas.fill(polygon([[0, 0.72], [1, 0.72], [1, 1], [0, 1]]), (0.80, 0.62, 0.42))
    for y in (0.79, 0.88):
        canvas.stroke(curve([[0, y], [0.5, y], [1, y]]), (0.68, 0.50, 0.33), 0.006)
    canvas.fill(polygon([[0, 0.695], [1, 0.695], [1, 0.725], [0, 0.725]]), (0.60, 0.44, 0.30))


def _night(canvas, rng):
    _gradient(canvas, (0.10, 0.12, 0.33), (0.36, 0.30, 0.58), 0, HORIZON + 0.03)
    canvas.fill(ellipse(0.14 + rng.uniform(-0.03, 0.03), 0.15, 0.085), (1.0, 0.95, 0.70))
    canvas.fill(ellipse(0.175, 0.13, 0.07), (0.14, 0.15, 0.37))
    for _ in range(26):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 0.6), rng.uniform(0.004, 0.010)
        canvas.fill(polygon([[x - r, y], [x, y - 1.6 * r], [x + r, y], [x, y + 1.6 * r]]), (1.0, 0.97, 0.80))
    _ground(canvas, (0.20, 0.20, 0.40))
    _ground(canvas, (0.16, 0.17, 0.34), 0.80)


def _snow(canvas, rng):
    _gradient(canvas, (0.66, 0.76, 0.88), (0.88, 0.92, 0.97), 0, HORIZON)
    for x in (0.06, 0.22, 0.80, 0.95):
        x += rng.uniform(-0.03, 0.03)
        s = rng.uniform(0.20, 0.27)
        _tree(canvas, x, HORIZON + 0.03, s, (0.46, 0.62, 0.64))
        canvas.fill(
            polygon(
                [
                    [x - 0.16 * s, HORIZON + 0.03 - 1.38 * s],
                    [x, HORIZON + 0.03 - 1.68 * s],
                    [x + 0.16 * s, HORIZON + 0.03 - 1.38 * s],
                ]
            ),
            (1, 1, 1),
        )
    _ground(canvas, (0.97, 0.98, 1.0))
    _ground(canvas, (0.90, 0.94, 0.99), 0.82)
    for _ in range(34):
        canvas.fill(ellipse(rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.005, 0.011)), (1, 1, 1))


def _city(canvas, rng):
    _gradient(canvas, (0.98, 0.80, 0.66), (1.0, 0.93, 0.82), 0, HORIZON)
    x = -0.02
    tones = ((0.60, 0.56, 0.70), (0.72, 0.60, 0.64), (0.52, 0.58, 0.72), (0.66, 0.66, 0.74))
    k = int(rng.integers(4))
    while x < 1:
        w, top = rng.uniform(0.13, 0.19), rng.uniform(0.12, 0.42)
        canvas.fill(polygon([[x, top], [x + w, top], [x + w, 0.76], [x, 0.76]]), tones[k % 4])
        for wy in np.arange(top + 0.035, 0.66, 0.075):
            for wx in (x + 0.03, x + w - 0.06):
                lit = (1.0, 0.92, 0.60) if rng.random() < 0.7 else (0.80, 0.84, 0.92)
                canvas.fill(polygon([[wx, wy], [wx + 0.03, wy], [wx + 0.03, wy + 0.04], [wx, wy + 0.04]]), lit)
        x += w + 0.012
        k += 1
    canvas.fill(polygon([[0, 0.72], [1, 0.72], [1, 1], [0, 1]]), (0.62, 0.62, 0.66))
    canvas.fill(polygon([[0, 0.71], [1, 0.71], [1, 0.745], [0, 0.745]]), (0.82, 0.80, 0.80))
    for sx in np.arange(-0.05, 1, 0.22) + rng.uniform(0, 0.1):
        canvas.fill(
            polygon([[sx, 0.90], [sx + 0.11, 0.90], [sx + 0.10, 0.925], [sx - 0.01, 0.925]]), (0.97, 0.95, 0.88)
        )


def _forest(canvas, rng):
    _gradient(canvas, (0.80, 0.92, 0.76), (0.45, 0.66, 0.48), 0, HORIZON + 0.06)
    for x in np.linspace(0.0, 1.0, 7) + rng.uniform(-0.03, 0.03, 7):
        _tree(canvas, x, HORIZON + 0.02, rng.uniform(0.26, 0.34), (0.40, 0.62, 0.46))
    for x in (0.03, 0.19, 0.83, 0.98):
        _tree(canvas, x + rng.uniform(-0.02, 0.02), HORIZON + 0.09, rng.uniform(0.33, 0.40), (0.20, 0.45, 0.32))
    _ground(canvas, (0.45, 0.60, 0.36), HORIZON + 0.04)
    for _ in range(4):
        x, y = rng.uniform(0.05, 0.95), rng.uniform(0.82, 0.97)
        canvas.fill(capsule([x, y], [x, y - 0.02], 0.010), (0.97, 0.93, 0.85))
        canvas.fill(polygon([[x - 0.03, y - 0.018], [x, y - 0.052], [x + 0.03, y - 0.018]]), (0.90, 0.30, 0.26))


def _rainbow(canvas, rng):
    _gradient(canvas, (0.55, 0.80, 0.98), (0.90, 0.97, 1.0), 0, HORIZON)
    shift = rng.uniform(-0.04, 0.04)
    for k, color in enumerate(
        (
            (0.95, 0.36, 0.38),
            (0.99, 0.66, 0.32),
            (0.99, 0.90, 0.42),
            (0.45, 0.80, 0.50),
            (0.38, 0.62, 0.95),
            (0.65, 0.48, 0.88),
        )
    ):
        t = np.linspace(np.pi, 2 * np.pi, 25)
        r = 0.56 - 0.032 * k
        canvas.stroke(polygon(np.stack([0.5 + shift + r * np.cos(t), 0.72 + r * 1.02 * np.sin(t)], 1)), color, 0.034)
    canvas.fill(ellipse(0.5 + shift, 0.72, 0.36, 0.37), (0.84, 0.94, 1.0))
    _cloud(canvas, 0.06, 0.52, 0.07)
    _cloud(canvas, 0.94, 0.50, 0.07)
    _ground(canvas, (0.58, 0.84, 0.45))
    _ground(canvas, (0.50, 0.77, 0.40), 0.82)


_PAINTERS = {
    "花园": _garden,
    "海边": _beach,
    "教室": _classroom,
    "夜空": _night,
    "雪地": _snow,
    "城市街道": _city,
    "森林": _forest,
    "彩虹草地": _rainbow,
}
