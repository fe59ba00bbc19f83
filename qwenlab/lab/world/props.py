"""Things to hold."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, blob, capsule, curve, ellipse, mix, polygon


def draw_held(canvas: Canvas, prop: str, hand, side: bool) -> None:
    """Draw ``prop`` as held by a hand at ``hand`` (figure coordinates); the hand itself is drawn over it afterwards."""
    x, y = np.asarray(hand, float)
    if prop == "气球":
        bx, by = x + 0.022, y - 0.335
        canvas.line(curve([[x, y], [x - 0.014, y - 0.11], [bx, by + 0.1]]), (0.45, 0.4, 0.45), 0.006)
        canvas.shapes(
            [
                (polygon([[bx - 0.016, by + 0.12], [bx + 0.016, by + 0.12], [bx, by + 0.09]]), (0.93, 0.27, 0.42)),
                (ellipse(bx, by, 0.085, 0.1), (0.93, 0.27, 0.42)),
            ]
        )
        canvas.fill(ellipse(bx - 0.03, by - 0.04, 0.018, 0.026, -25), (1, 1, 1), 0.75)
    elif prop == "花束":
        wrap = [[x - 0.012, y + 0.07], [x - 0.062, y - 0.075], [x + 0.062, y - 0.075], [x + 0.014, y + 0.07]]
        for dx, dy in ((-0.075, -0.10), (0.075, -0.10), (0.0, -0.155)):
            canvas.fill(ellipse(x + dx, y + dy, 0.022, 0.034), (0.38, 0.66, 0.40))
        flowers = (
            ((-0.046, -0.105), (0.98, 0.45, 0.55)),
            ((0.046, -0.105), (0.99, 0.78, 0.30)),
            ((0.0, -0.135), (0.72, 0.52, 0.92)),
            ((0.0, -0.085), (0.98, 0.62, 0.45)),
        )
        canvas.shapes([(ellipse(x + dx, y + dy, 0.036), color) for (dx, dy), color in flowers])
        for (dx, dy), color in flowers:
            canvas.fill(ellipse(x + dx, y + dy, 0.013), mix(color, (1, 1, 1), 0.7))
        canvas.shapes([(polygon(wrap), (0.78, 0.88, 0.98))])
    elif prop == "灯笼":
        canvas.line(
            curve([[x - 0.03, y - 0.005], [x + 0.02, y + 0.0], [x + 0.05, y - 0.012]]), (0.42, 0.28, 0.2), 0.011
        )
        cx, cy = x + 0.046, y + 0.13
        canvas.line(curve([[cx, y - 0.012], [cx, cy - 0.07]]), (0.42, 0.28, 0.2), 0.006)
        canvas.shapes([(ellipse(cx, cy, 0.075, 0.062), (0.90, 0.22, 0.18))])
        for w in (0.03, 0.06):
            canvas.line(ellipse(cx, cy, w, 0.060), (0.99, 0.70, 0.30), 0.004, 0.8)
        canvas.shapes(
            [
                (capsule([cx - 0.026, cy - 0.06], [cx + 0.026, cy - 0.06], 0.010), (0.99, 0.80, 0.35)),
                (capsule([cx - 0.026, cy + 0.06], [cx + 0.026, cy + 0.06], 0.010), (0.99, 0.80, 0.35)),
            ]
        )
        canvas.line(curve([[cx, cy + 0.07], [cx, cy + 0.12]]), (0.99, 0.70, 0.25), 0.012)
    elif prop == "风车":
        cx, cy = x + 0.012, y - 0.175
        canvas.line(curve([[x - 0.004, y + 0.06], [cx, cy]]), (0.55, 0.40, 0.28), 0.011)
        colors = ((0.98, 0.42, 0.40), (0.99, 0.80, 0.30), (0.38, 0.74, 0.62), (0.42, 0.60, 0.95))
        for k, color in enumerate(colors):
            a = np.deg2rad(90 * k + 20)
            u, v = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
            c = np.array([cx, cy])
            canvas.shapes(
                [
                    (
                        blob([c, c + 0.09 * u + 0.012 * v, c + 0.082 * u + 0.062 * v, c + 0.035 * u + 0.045 * v], 0.3),
                        color,
                    )
                ]
            )
        canvas.shapes([(ellipse(cx, cy, 0.015), (0.99, 0.95, 0.85))])
    elif prop == "书":
        w = 0.085 if side else 0.105
        top, low = y - 0.095, y + 0.045
        canvas.shapes(
            [
                (
                    polygon(
                        [
                            [x - w, top + 0.016],
                            [x, top + 0.03],
                            [x + w, top + 0.016],
                            [x + w, low],
                            [x, low + 0.016],
                            [x - w, low],
                        ]
                    ),
                    (0.36, 0.42, 0.78),
                )
            ]
        )
        canvas.line(curve([[x, top + 0.034], [x, low + 0.01]]), (0.22, 0.26, 0.52), 0.008)
        canvas.line(
            curve([[x - w + 0.02, top + 0.012], [x, top + 0.022], [x + w - 0.02, top + 0.012]]),
            (0.99, 0.97, 0.90),
            0.014,
        )
        canvas.fill(ellipse(x - w / 2, (top + low) / 2 + 0.01, 0.026), (0.99, 0.84, 0.40))
