"""A small vector canvas over the Anti-Grain Geometry rasteriser that ships inside matplotlib's wheel.

Coordinates are *canvas units*: x to the right, y down, both 0..1 over the picture; one drawing serves every resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

Color = tuple[float, float, float]  # RGB, 0..1
_KAPPA = 0.5522847498  # Bezier handle length that approximates a quarter circle


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None, angle: float = 0.0) -> Path:
    """Closed path of an ellipse with centre ``(cx, cy)`` and radii ``rx``, ``ry``, turned by ``angle`` degrees."""
    unit = Path.unit_circle()
    turn = Affine2D().scale(rx, rx if ry is None else ry).rotate_deg(angle).translate(cx, cy)
    return unit.transformed(turn)


def polygon(points) -> Path:
    """Closed path with straight edges through ``points`` (N, 2)."""
    points = np.asarray(points, float)
    codes = [Path.MOVETO] + [Path.LINETO] * (len(points) - 1) + [Path.CLOSEPOLY]
    return Path(np.vstack([points, points[:1]]), codes)


def blob(points, tension: float = 0.5) -> Path:
    """Closed smooth path (Catmull-Rom spline as cubic Beziers) through ``points`` (N, 2)."""
    p = np.asarray(points, float)
    before, after = np.roll(p, 1, 0), np.roll(p, -1, 0)
    tangent = (after - before) * tension / 1.5
    segments = np.stack([p + tangent, after - np.roll(tangent, -1, 0), after], 1).reshape(-1, 2)
    codes = [Path.MOVETO] + [Path.CURVE4] * len(segments)
    return Path(np.vstack([p[:1], segments]), codes)


def curve(points, tension: float = 0.5) -> Path:
    """Open smooth path through ``points`` (N, 2)."""
    p = np.asarray(points, float)
    tangent = np.gradient(p, axis=0) * tension / 0.75
    segments = np.stack([p[:-1] + tangent[:-1] * 0.5, p[1:] - tangent[1:] * 0.5, p[1:]], 1).reshape(-1, 2)
    return Path(np.vstack([p[:1], segments]), [Path.MOVETO] + [Path.CURVE4] * len(segments))


def capsule(a, b, radius_a: float, radius_b: float | None = None) -> Path:
    """A limb: the closed outline of two circles around ``a`` and ``b`` and their common tangents."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    radius_b = radius_a if radius_b is None else radius_b
    heading = np.arctan2(*(b - a)[::-1])
    steps = np.linspace(-np.pi / 2, np.pi / 2, 7)
    arc_b = b + radius_b * np.stack([np.cos(heading + steps), np.sin(heading + steps)], 1)
    arc_a = a + radius_a * np.stack([np.cos(heading + np.pi + steps), np.sin(heading + np.pi + steps)], 1)
    return polygon(np.vstack([arc_b, arc_a]))


def mix(a: Color, b: Color, share: float) -> Color:
    """Linear blend: ``share`` = 0 gives ``a``, 1 gives ``b``."""
    return tuple((1 - share) * x + share * y for x, y in zip(a, b, strict=True))


def darker(color: Color, share: float = 0.25) -> Color:
    return mix(color, (0.16, 0.08, 0.2), share)


class Canvas:
    """An RGBA picture of ``size`` x ``size`` pixels that is drawn on in canvas units.

    ``place(scale, dx, dy, mirror)`` sets the figure's own coordinates: a point p lands at ``(dx, dy) + scale * p``,
    with x negated first when ``mirror`` is set. ``part`` names what is being drawn, for canvases that keep a record.
    """

    def __init__(self, size: int, style=None):
        self.size, self.style, self.part = size, style, ""
        self._agg = RendererAgg(size, size, 72)
        self._gc = self._agg.new_gc()
        self._gc.set_antialiased(True)
        self._gc.set_joinstyle("round")
        self._gc.set_capstyle("round")
        self.place()

    def place(self, scale: float = 1.0, dx: float = 0.0, dy: float = 0.0, mirror: bool = False) -> None:
        self.scale = scale
        flip = -1.0 if mirror else 1.0
        # Agg's y axis points up, the canvas's down.
        self._to_pixels = Affine2D.from_values(
            self.size * scale * flip, 0, 0, -self.size * scale, self.size * dx, self.size * (1 - dy)
        )
        self._matrix = np.array([[scale * flip, 0, dx], [0, scale, dy]])

    @contextmanager
    def moved(self, move: Affine2D | None) -> Iterator[None]:
        """What is drawn within lands where ``move`` takes it, in figure coordinates; None moves nothing."""
        before = self._to_pixels
        if move is not None:
            self._to_pixels = move + before
        try:
            yield
        finally:
            self._to_pixels = before

    def pixels(self, points) -> np.ndarray:
        """Figure coordinates (..., 2) to pixel coordinates (..., 2), origin at the top left."""
        points = np.asarray(points, float)
        return (points @ self._matrix[:, :2].T + self._matrix[:, 2]) * self.size

    def fill(self, path: Path, color: Color, alpha: float = 1.0) -> None:
        if self.style is not None:
            color = self.style.tone(color)
        self._gc.set_linewidth(0)
        self._gc.set_alpha(None)
        self._agg.draw_path(self._gc, path, self._to_pixels, (*color, alpha))

    def stroke(self, path: Path, color: Color, width: float, alpha: float = 1.0, tone: bool = True) -> None:
        """Line of ``width`` figure units."""
        if tone and self.style is not None:
            color = self.style.tone(color)
        self._gc.set_linewidth(max(width * self.scale * self.size, 0.3))
        self._gc.set_foreground((*color, alpha), isRGBA=True)
        self._agg.draw_path(self._gc, path, self._to_pixels, None)

    def shapes(self, items: list[tuple[Path, Color]]) -> None:
        """Fill overlapping shapes as one silhouette: first every outline, then every fill, so that seams vanish."""
        style = self.style
        if style is not None and style.outline_width:
            for path, color in items:
                width = 2 * style.outline_width / self.scale
                self.stroke(path, style.outline(color), width, tone=False)
        for path, color in items:
            self.fill(path, color)

    def line(self, path: Path, color: Color, width: float = 0.006, alpha: float = 1.0) -> None:
        """A drawn detail (mouth, fold, string) in the style's own line colour where it has outlines."""
        self.stroke(path, color, width, alpha)

    def rgba(self) -> np.ndarray:
        """(size, size, 4) float32 in 0..1, not premultiplied."""
        return np.asarray(self._agg.buffer_rgba(), np.float32) / 255.0
