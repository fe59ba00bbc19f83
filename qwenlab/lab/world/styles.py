"""Art styles: how colours, outlines and the finished picture are treated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Color, darker, mix
from .looks import NEON, POP

PAPER: Color = (0.97, 0.94, 0.87)
_NIGHT: Color = (0.06, 0.04, 0.16)
_GLOW: Color = (0.45, 0.75, 1.0)
_POP_DARK: Color = (0.93, 0.25, 0.55)
_POP_LIGHT: Color = (1.0, 0.92, 0.40)


@dataclass(frozen=True)
class Style:
    """``outline_width`` in canvas units (0: none); the mix values are shares 0..1."""

    name: str
    outline_width: float
    outline_share: float  # how far the outline is from the shape's colour towards ink
    saturation: float
    lighten: float
    warm: float = 0.0  # mix towards paper colour
    shade: bool = True  # cel shading on hair and clothes
    sticker: bool = False
    night: float = 0.0  # how dark the shapes are, whose outlines glow

    def tone(self, color: Color) -> Color:
        grey = 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]
        color = tuple(min(1.0, max(0.0, grey + self.saturation * (c - grey))) for c in color)
        color = mix(color, (1.0, 1.0, 1.0), self.lighten)
        return mix(mix(color, PAPER, self.warm), _NIGHT, self.night)

    def outline(self, color: Color) -> Color:
        if self.name == "水墨画":
            return (0.09, 0.09, 0.12)
        if self.name == NEON:
            strong = max(max(color), 1e-6)
            return mix(tuple(c / strong for c in color), (1.0, 1.0, 1.0), 0.15)
        if self.name == POP:
            return (0.05, 0.05, 0.07)
        return mix(self.tone(color), (0.25, 0.13, 0.2), self.outline_share)


STYLE_OF = {
    "日系插画": Style("日系插画", 0.0050, 0.80, 1.0, 0.0),
    "扁平插画": Style("扁平插画", 0.0, 0.0, 1.15, 0.05, shade=False),
    "水彩画": Style("水彩画", 0.0028, 0.45, 0.85, 0.13),
    "水墨画": Style("水墨画", 0.0068, 1.0, 0.55, 0.02, warm=0.12, shade=False),
    "剪纸画": Style("剪纸画", 0.0036, 0.55, 1.2, 0.0, shade=False, sticker=True),
    NEON: Style(NEON, 0.0072, 1.0, 1.4, 0.0, shade=False, night=0.12),
    POP: Style(POP, 0.0085, 1.0, 1.35, 0.0, shade=False),
}


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) noise in -1..1 with features of ``size / cells`` pixels; the same field at every resolution."""
    grid = rng.uniform(-1, 1, (cells + 2, cells + 2))
    t = (np.arange(size) + 0.5) / size * cells
    i = t.astype(int)
    f = t - i
    f = f * f * (3 - 2 * f)
    rows = grid[i] * (1 - f)[:, None] + grid[i + 1] * f[:, None]
    return (rows[:, i] * (1 - f) + rows[:, i + 1] * f).astype(np.float32)


def finish(background: np.ndarray, figure: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Compose the layers and add the style's surface.

    Args:
        background: (S, S, 4) float32 RGBA in 0..1, opaque.
        figure: (S, S, 4) float32 RGBA in 0..1.
        style: the art style.
        rng: draws the paper and the pigment.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    size = background.shape[0]
    back, alpha = background[..., :3], figure[..., 3:]
    front = figure[..., :3]
    if style.name == "水墨画":
        wash = smooth_noise(rng, size, 5)[..., None]
        back = back * 0.55 + np.asarray(PAPER, np.float32) * 0.45 + 0.03 * wash
    if style.sticker:
        border, shadow = _grown(alpha[..., 0], size * 0.016), _grown(alpha[..., 0], size * 0.014)
        shift = max(1, round(size * 0.014))
        shadow = np.pad(shadow, ((shift, 0), (shift, 0)))[:size, :size]
        back = back * (1 - 0.42 * shadow[..., None])
        back = back * (1 - border[..., None]) + border[..., None] * 0.985
    if style.name == NEON:  # night, and the light around bright outlines
        glow = _blurred(np.repeat(alpha, 3, -1), size * 0.02) * np.asarray(_GLOW, np.float32)
        back = back * 0.34 + np.asarray(_NIGHT, np.float32) * 0.66 + 0.42 * glow
    elif style.name == POP:  # two colours, by how bright it was
        grey = back @ np.asarray((0.3, 0.59, 0.11), np.float32)
        share = np.clip(1.6 * grey - 0.5, 0, 1)[..., None]
        back = np.asarray(_POP_DARK, np.float32) * (1 - share) + np.asarray(_POP_LIGHT, np.float32) * share
    picture = back * (1 - alpha) + front * alpha
    if style.name == "水彩画":
        pigment = 0.055 * smooth_noise(rng, size, 6) + 0.045 * smooth_noise(rng, size, 17)
        picture = 1 - (1 - picture) * (1 + 1.6 * pigment[..., None])
        picture = picture * (0.985 + 0.015 * smooth_noise(rng, size, 40)[..., None])
    elif style.name == "水墨画":
        picture = picture * (0.985 + 0.02 * smooth_noise(rng, size, 24)[..., None])
    elif style.sticker:
        picture = picture * (0.985 + 0.02 * smooth_noise(rng, size, 32)[..., None])
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _grown(mask: np.ndarray, radius: float) -> np.ndarray:
    """A (S, S) coverage mask widened by ``radius`` pixels with a soft edge."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(mask < 0.5)
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def _blurred(picture: np.ndarray, radius: float) -> np.ndarray:
    """(S, S, 3) smoothed by a Gaussian of `radius` pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(picture, (radius, radius, 0))


__all__ = ["STYLE_OF", "Style", "finish", "smooth_noise", "darker"]
