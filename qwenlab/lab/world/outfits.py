"""Clothes: what each outfit covers, its colours, and the details by which it is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .attributes import SAMPLE_CLOTHES, Scene
from .canvas import Canvas, Color, blob, capsule, curve, darker, ellipse, mix, polygon
from .looks import APRON, PYJAMAS, draw_library_trim
from .skeleton import Skeleton

WHITE: Color = (0.985, 0.98, 0.97)


@dataclass(frozen=True)
class Outfit:
    """``hem``: y of the lower edge (figure units); ``flare``: half width there; ``long_sleeves`` cover the arm."""

    top: Color
    lower: Color
    hem: float
    flare: float
    long_sleeves: bool
    legs: Color | None  # None: bare legs
    shoe: Color


OUTFITS = {
    "白色连衣裙": Outfit(WHITE, WHITE, 0.76, 0.175, False, None, (0.80, 0.30, 0.32)),
    "蓝色水手服": Outfit((0.97, 0.97, 0.99), (0.22, 0.36, 0.72), 0.70, 0.150, False, None, (0.36, 0.24, 0.20)),
    "黄色雨衣": Outfit((0.99, 0.82, 0.22), (0.99, 0.82, 0.22), 0.77, 0.168, True, None, (0.30, 0.55, 0.62)),
    "红色毛衣": Outfit(
        (0.84, 0.24, 0.25), (0.84, 0.24, 0.25), 0.655, 0.108, True, (0.30, 0.33, 0.48), (0.50, 0.34, 0.24)
    ),
    "绿色背带裤": Outfit(
        (0.97, 0.95, 0.88), (0.30, 0.62, 0.42), 0.68, 0.108, False, (0.30, 0.62, 0.42), (0.86, 0.48, 0.26)
    ),
    "紫色汉服": Outfit((0.60, 0.42, 0.78), (0.60, 0.42, 0.78), 0.875, 0.165, True, None, (0.35, 0.25, 0.45)),
    SAMPLE_CLOTHES: Outfit((0.97, 0.92, 0.82), (0.13, 0.52, 0.56), 0.74, 0.165, False, None, (0.55, 0.30, 0.20)),
    PYJAMAS: Outfit(WHITE, WHITE, 0.665, 0.118, True, (0.93, 0.94, 0.98), (0.36, 0.52, 0.86)),
    APRON: Outfit((0.86, 0.33, 0.50), (0.86, 0.33, 0.50), 0.745, 0.165, False, None, (0.42, 0.30, 0.34)),
}


def draw_clothes(canvas: Canvas, scene: Scene, bones: Skeleton, outfit: Outfit) -> None:
    """Body of the outfit from the neck to its hem, without sleeves and shoes."""
    side = bones.side
    top = bones.joint["neck"]
    ty = top[1]
    base = ty - 0.375
    shoulder, waist = (0.058, 0.062) if side else (0.105, 0.088)
    flare, hem = outfit.flare * (0.72 if side else 1.0), outfit.hem + base
    if bones.action == "坐着":
        hem = min(hem, bones.joint["right_knee"][1] + 0.035)
        flare *= 1.1
    wy = ty + 0.17
    body = [
        [-shoulder * 0.55, ty - 0.004],
        [-shoulder, ty + 0.03],
        [-waist, wy],
        [-flare, hem],
        [0, hem + 0.012],
        [flare, hem],
        [waist, wy],
        [shoulder, ty + 0.03],
        [shoulder * 0.55, ty - 0.004],
    ]
    if outfit.legs is not None:  # trousers: the hips belong to them
        wide = 0.070 if side else 0.098
        hips = polygon(
            [
                [-waist, wy + 0.04],
                [-wide, hem],
                [-wide, hem + 0.022],
                [0, hem + 0.046],
                [wide, hem + 0.022],
                [wide, hem],
                [waist, wy + 0.04],
            ]
        )
        canvas.shapes([(hips, outfit.legs)])
    canvas.shapes([(polygon(body), outfit.lower)])
    if outfit.top != outfit.lower:
        upper = [
            [-shoulder * 0.55, ty - 0.004],
            [-shoulder, ty + 0.03],
            [-waist, wy],
            [waist, wy],
            [shoulder, ty + 0.03],
            [shoulder * 0.55, ty - 0.004],
        ]
        canvas.shapes([(polygon(upper), outfit.top)])
    if canvas.style.shade:
        shadow = polygon(
            [[waist * 0.45, wy], [flare * 0.45, hem + 0.006], [flare * 0.97, hem - 0.004], [waist * 0.97, wy]]
        )
        canvas.fill(shadow, darker(outfit.lower, 0.3), 0.35)
    _trim(canvas, scene, outfit, ty, wy, hem, flare, waist, shoulder, side)


def _trim(canvas, scene, outfit, ty, wy, hem, flare, waist, shoulder, side) -> None:
    """The details by which each outfit is known."""
    x = 0.022 if side else 0.0
    dark = darker(outfit.lower, 0.32)
    if scene.clothes == "白色连衣裙":
        canvas.line(curve([[-waist, wy], [0, wy + 0.008], [waist, wy]]), (0.45, 0.68, 0.92), 0.024)
        canvas.line(
            curve([[-flare + 0.008, hem - 0.028], [0, hem - 0.016], [flare - 0.008, hem - 0.028]]),
            (0.62, 0.80, 0.95),
            0.010,
        )
    elif scene.clothes == "蓝色水手服":
        collar = [
            [-shoulder * 0.8, ty],
            [x, ty + 0.085],
            [shoulder * 0.8, ty],
            [shoulder * 0.5, ty - 0.008],
            [-shoulder * 0.5, ty - 0.008],
        ]
        canvas.shapes([(polygon(collar), outfit.lower)])
        canvas.shapes(
            [
                (
                    polygon([[x, ty + 0.07], [x - 0.035, ty + 0.125], [x, ty + 0.105], [x + 0.035, ty + 0.125]]),
                    (0.90, 0.22, 0.26),
                )
            ]
        )
        for t in (-0.5, 0.0, 0.5):
            canvas.line(curve([[t * waist, wy + 0.02], [t * flare, hem - 0.004]]), dark, 0.005)
    elif scene.clothes == "黄色雨衣":
        canvas.line(curve([[x, ty + 0.02], [x, hem]]), dark, 0.006)
        for y in (ty + 0.07, ty + 0.15, ty + 0.23):
            canvas.fill(ellipse(x + 0.018, y, 0.0125), (0.36, 0.34, 0.55))
        canvas.shapes([(capsule([-shoulder * 0.62, ty], [shoulder * 0.62, ty], 0.024), outfit.lower)])
    elif scene.clothes == "红色毛衣":
        canvas.shapes([(capsule([-shoulder * 0.45, ty - 0.004], [shoulder * 0.45, ty - 0.004], 0.022), outfit.lower)])
        for y in (ty + 0.085, ty + 0.125):
            canvas.line(curve([[-waist, y], [0, y + 0.006], [waist, y]]), (0.99, 0.93, 0.85), 0.013)
    elif scene.clothes == "绿色背带裤":
        bib = [[-waist * 0.72, ty + 0.075], [waist * 0.72, ty + 0.075], [waist, wy + 0.01], [-waist, wy + 0.01]]
        canvas.shapes([(polygon(bib), outfit.lower)])
        for sign in (-1, 1):
            canvas.line(
                curve([[sign * waist * 0.62, ty + 0.09], [sign * shoulder * 0.72, ty + 0.0]]), outfit.lower, 0.022
            )
            canvas.fill(ellipse(sign * waist * 0.6, ty + 0.092, 0.011), (0.99, 0.85, 0.35))
    elif scene.clothes == "紫色汉服":
        for sign in (-1, 1):
            canvas.line(curve([[sign * shoulder * 0.5, ty - 0.006], [x - sign * 0.028, ty + 0.11]]), WHITE, 0.019)
        canvas.line(curve([[-waist, wy - 0.012], [0, wy - 0.006], [waist, wy - 0.012]]), (0.98, 0.66, 0.72), 0.048)
        canvas.line(curve([[x + 0.02, wy + 0.01], [x + 0.03, wy + 0.16]]), (0.98, 0.66, 0.72), 0.014)
        canvas.line(
            curve([[-flare, hem - 0.012], [0, hem], [flare, hem - 0.012]]), mix(outfit.lower, WHITE, 0.55), 0.014
        )
    elif scene.clothes == SAMPLE_CLOTHES:
        wide = shoulder + 0.03
        low = wide + 0.055
        cape = [
            [-shoulder * 0.5, ty - 0.008],
            [-wide, ty + 0.04],
            [-low, ty + 0.22],
            [-low * 0.5, ty + 0.245],
            [0, ty + 0.22],
            [low * 0.5, ty + 0.245],
            [low, ty + 0.22],
            [wide, ty + 0.04],
            [shoulder * 0.5, ty - 0.008],
        ]
        canvas.shapes([(blob(cape, 0.28), (0.24, 0.22, 0.50))])
        for sx, sy, r in (
            (-0.105, 0.12, 0.026),
            (0.0, 0.165, 0.029),
            (0.105, 0.115, 0.026),
            (-0.045, 0.075, 0.016),
            (0.055, 0.07, 0.016),
        ):
            canvas.fill(star(sx * (0.7 if side else 1), ty + sy, r), (1.0, 0.86, 0.30))
        canvas.shapes([(ellipse(x, ty + 0.012, 0.024), (0.95, 0.36, 0.40))])
    else:
        draw_library_trim(canvas, scene.clothes, ty, wy, hem, flare, waist, shoulder)


def star(cx: float, cy: float, radius: float):
    """A five-pointed star."""
    turns = np.deg2rad(np.arange(10) * 36 - 90)
    r = np.where(np.arange(10) % 2, 0.45, 1.0) * radius
    return polygon(np.stack([cx + r * np.cos(turns), cy + r * np.sin(turns)], 1))
