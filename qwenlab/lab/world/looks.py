"""How the library's characters look: what they wear on head and body. Figure coordinates, as in `head` and `figure`."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Color, blob, capsule, curve, ellipse, polygon

RABBIT_HAIR, RABBIT_COLOR, PYJAMAS = "兔耳短发", "银白色", "条纹睡衣"
DEER_HAIR, DEER_COLOR, APRON = "鹿角长发", "青色", "樱花围裙"
NEON, POP = "霓虹画", "波普画"

_HORN: Color = (0.62, 0.42, 0.26)
_PINK: Color = (0.99, 0.62, 0.72)


def draw_headwear(canvas: Canvas, hair_style: str, color: Color, center: np.ndarray, side: bool) -> None:
    """Ears or antlers, behind the head; nothing for other hair."""
    if hair_style == RABBIT_HAIR:
        for x in (-0.05,) if side else (-0.085, 0.085):
            lean = 0.30 * x if not side else -0.04
            ear = [[x - 0.048, -0.10], [x - 0.056 + lean, -0.22], [x + lean, -0.295], [x + 0.056 + lean, -0.22],
                   [x + 0.048, -0.10]]  # fmt: skip
            canvas.shapes([(blob(center + np.asarray(ear), 0.45), color)])
            canvas.fill(ellipse(*(center + [x + 0.8 * lean, -0.205]), 0.026, 0.060), _PINK)
    elif hair_style == DEER_HAIR:
        for x in (-0.05,) if side else (-0.075, 0.075):
            out = -1.0 if x < 0 else 1.0
            stem = center + [[x, -0.12], [x + 0.045 * out, -0.215], [x + 0.040 * out, -0.285]]
            branch = center + [[x + 0.040 * out, -0.20], [x + 0.115 * out, -0.255]]
            canvas.shapes([
                (capsule(stem[0], stem[1], 0.022, 0.019), _HORN), (capsule(stem[1], stem[2], 0.019, 0.015), _HORN),
                (capsule(*branch, 0.018, 0.014), _HORN),
            ])  # fmt: skip


def draw_hair_ornament(canvas: Canvas, hair_style: str, center: np.ndarray) -> None:
    """What is worn in front of the hair: the deer's blossom."""
    if hair_style == DEER_HAIR:
        blossom(canvas, *(center + [0.105, -0.085]), 0.036)


def draw_library_trim(
    canvas: Canvas, clothes: str, ty: float, wy: float, hem: float, flare: float, waist: float, shoulder: float
) -> None:
    """The details of the library's outfits; arguments as in `figure`: y of neck, waist and hem, half widths."""
    if clothes == PYJAMAS:
        for share in np.linspace(0.12, 0.94, 5):
            y = ty + share * (hem - ty)
            wide = waist if y < wy else waist + (flare - waist) * (y - wy) / (hem - wy)
            canvas.line(curve([[-wide + 0.006, y], [0, y + 0.005], [wide - 0.006, y]]), (0.36, 0.52, 0.86), 0.020)
    elif clothes == APRON:
        apron = [[-waist * 0.62, ty + 0.06], [waist * 0.62, ty + 0.06], [waist * 0.9, wy], [flare * 0.72, hem - 0.03],
                 [-flare * 0.72, hem - 0.03], [-waist * 0.9, wy]]  # fmt: skip
        canvas.shapes([(polygon(apron), (0.99, 0.96, 0.94))])
        for sign in (-1, 1):
            strap = curve([[sign * waist * 0.55, ty + 0.07], [sign * shoulder * 0.7, ty]])
            canvas.line(strap, (0.99, 0.96, 0.94), 0.02)
        canvas.line(curve([[-waist * 0.9, wy], [0, wy + 0.006], [waist * 0.9, wy]]), (0.86, 0.33, 0.50), 0.020)
        blossom(canvas, 0.0, wy + 0.085, 0.044)


def blossom(canvas: Canvas, cx: float, cy: float, radius: float) -> None:
    """A cherry blossom of five petals."""
    turns = np.deg2rad(np.arange(5) * 72 - 90)
    canvas.shapes([
        (ellipse(cx + 0.62 * radius * np.cos(t), cy + 0.62 * radius * np.sin(t), 0.48 * radius), _PINK) for t in turns
    ])  # fmt: skip
    canvas.fill(ellipse(cx, cy, 0.28 * radius), (1.0, 0.88, 0.42))
