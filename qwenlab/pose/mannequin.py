"""The body itself as a picture: a wooden mannequin, turned and walking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial import ConvexHull

from qwenlab.pose.body import FACE, INDEX, REST, Body, pose_matrices
from qwenlab.pose.camera import Camera, width_and_height
from qwenlab.pose.motion import walk
from qwenlab.show import Animation, animation

Colour = tuple[int, int, int]
WOOD, DARK_WOOD, LINE = (232, 188, 134), (205, 152, 98), (92, 58, 38)
PAPER, FLOOR = (250, 244, 233), (236, 224, 205)
_CHEEK = (236, 140, 116)
_FINE = 3  # drawn at this multiple, so that edges are smooth
_OUTLINE = 0.007  # figure units

# A part: its joints and their radii in figure units; what it is drawn as is the hull of their circles.
_PARTS: tuple[tuple[tuple[str, float], ...], ...] = (
    (("left_hip", 0.046), ("right_hip", 0.046), ("spine1", 0.046)),
    (("spine1", 0.040), ("spine2", 0.042)),
    (("left_collar", 0.050), ("right_collar", 0.050), ("spine2", 0.048), ("spine3", 0.062)),
    (("neck", 0.026), ("head", 0.026)),
    *((((f"{side}_shoulder", 0.034), (f"{side}_elbow", 0.026))) for side in ("left", "right")),
    *((((f"{side}_elbow", 0.027), (f"{side}_wrist", 0.019))) for side in ("left", "right")),
    *((((f"{side}_wrist", 0.020), (f"{side}_hand", 0.026))) for side in ("left", "right")),
    *((((f"{side}_hip", 0.044), (f"{side}_knee", 0.033))) for side in ("left", "right")),
    *((((f"{side}_knee", 0.034), (f"{side}_ankle", 0.022))) for side in ("left", "right")),
    *((((f"{side}_ankle", 0.022), (f"{side}_foot", 0.020))) for side in ("left", "right")),
)
_BALLS = {"shoulder": 0.036, "elbow": 0.026, "wrist": 0.019, "hip": 0.037, "knee": 0.033, "ankle": 0.021}
_STAGE = (0.8, (0.5, 0.51))  # scale and centre of the camera: the whole floor is seen
_HEAD = ((0.0, 0.20, 0.0), 0.15)  # its middle in the rest pose, and its radius


def draw_mannequin(body: Body, camera: Camera | None = None, size: int | tuple[int, int] = 256) -> Image.Image:
    """The body as an artist's mannequin, RGB. size: (W, H) or the side of a square, in pixels."""
    camera = camera or Camera()
    width, height = width_and_height(size)
    unit = camera.scale * height * _FINE  # pixels of a figure unit
    places, turned = pose_matrices(body.rotations, body.root)
    fine = Image.new("RGB", (width * _FINE, height * _FINE), PAPER)
    draw = ImageDraw.Draw(fine)
    _draw_floor(fine, camera, places, unit)
    joints = _pixels(camera, places, fine.size)  # (24, 3)

    shapes: list[tuple[float, list[tuple[np.ndarray, float]], Colour]] = []
    for part in _PARTS:
        circles = [(joints[INDEX[name]], radius * unit) for name, radius in part]
        shapes.append((float(np.mean([place[2] for place, _ in circles])), circles, WOOD))
    for side in ("left", "right"):
        for name, radius in _BALLS.items():
            place = joints[INDEX[f"{side}_{name}"]]
            shapes.append((place[2] - (0.03 if name == "hip" else 0.012), [(place, radius * unit)], DARK_WOOD))
    head = INDEX["head"]
    skull = _head_points(places[head], turned[head], torch.tensor([_HEAD[0]]))
    middle = _pixels(camera, skull, fine.size)[0]
    shapes.append((float(middle[2]), [(middle, _HEAD[1] * unit)], WOOD))
    for depth, circles, colour in sorted(shapes, key=lambda shape: -shape[0]):
        _draw_part(draw, circles, _lit(colour, depth), unit)
        if circles[0][0] is middle:
            _draw_face(draw, camera, places[head], turned[head], unit, fine.size)
    return fine.resize((width, height), Image.Resampling.LANCZOS)


def turntable(body: Body, frames: int = 24, size: int | tuple[int, int] = 192) -> Animation:
    """The mannequin on a turntable, a full turn."""
    views = [draw_mannequin(body, Camera(*_STAGE, 360 * frame / frames), size) for frame in range(frames)]
    return animation(views, alt="A wooden mannequin turns once about its vertical axis.", milliseconds=80)


def walk_cycle(frames: int = 16, yaw: float = 65.0, size: int | tuple[int, int] = 192) -> Animation:
    """The mannequin walking on the spot, two steps."""
    steps = [draw_mannequin(walk(frame / frames), Camera(*_STAGE, yaw), size) for frame in range(frames)]
    return animation(steps, alt="A wooden mannequin walks on the spot, arms against legs.", milliseconds=70)


def _pixels(camera: Camera, places: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return camera.project(places, size).numpy()


def _head_points(place: torch.Tensor, turned: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Points (N, 3) of the head in the rest pose, turned and moved with the joint."""
    return place + (points - REST[INDEX["head"]]) @ turned.T


def _draw_floor(fine: Image.Image, camera: Camera, places: torch.Tensor, unit: float) -> None:
    """A round floor, and a soft shadow below the hips and each foot."""
    ground = torch.tensor([[0.0, 0.985, 0.0]])
    x, y, _ = _pixels(camera, ground, fine.size)[0]
    draw = ImageDraw.Draw(fine)
    draw.ellipse((x - 0.42 * unit, y - 0.075 * unit, x + 0.42 * unit, y + 0.075 * unit), FLOOR)
    shadow = Image.new("L", fine.size)
    below = ImageDraw.Draw(shadow)
    for name, wide in (("pelvis", 0.13), ("left_foot", 0.055), ("right_foot", 0.055)):
        px, _, depth = _pixels(camera, places[None, INDEX[name]], fine.size)[0]
        py = y - 0.17 * depth * unit  # the floor is seen from a little above
        below.ellipse((px - wide * unit, py - 0.3 * wide * unit, px + wide * unit, py + 0.3 * wide * unit), 90)
    fine.paste((150, 116, 84), mask=shadow.filter(ImageFilter.GaussianBlur(0.012 * unit)))


def _draw_part(draw: ImageDraw.ImageDraw, circles: Sequence[tuple[np.ndarray, float]], colour: Colour, unit: float):
    """Outline, fill and a lighter streak on the upper left, where the light comes from."""
    line = _OUTLINE * unit
    draw.polygon(_hull(circles, line), _mixed(colour, LINE, 0.75))
    draw.polygon(_hull(circles, 0), colour)
    light = [(place[:2] - 0.32 * radius, 0.42 * radius) for place, radius in circles]
    draw.polygon(_hull(light, 0), _mixed(colour, (255, 240, 214), 0.5))


def _hull(circles: Sequence[tuple[np.ndarray, float]], more: float) -> list[tuple[float, float]]:
    turn = np.linspace(0, 2 * np.pi, 49)[:-1]
    ring = np.stack([np.cos(turn), np.sin(turn)], 1)
    points = np.concatenate([place[:2] + (radius + more) * ring for place, radius in circles])
    return [tuple(point) for point in points[ConvexHull(points).vertices]]


def _draw_face(draw, camera: Camera, place, turned, unit: float, size: tuple[int, int]) -> None:
    """Eyes, cheeks and a smile, where they look at the viewer."""
    middle, radius = np.array(_HEAD[0]), _HEAD[1]
    marks = {"eye": (FACE["left_eye"], FACE["right_eye"]), "cheek": ((0.085, 0.262, -0.1), (-0.085, 0.262, -0.1))}
    smile = [(x, 0.272 - 9 * x * x, -0.14) for x in np.linspace(-0.035, 0.035, 9)]

    def on_skull(points) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, 3) of points that are moved out to the surface, and whether (N,) each is in front."""
        out = np.asarray(points, float) - middle
        out = middle + out / np.linalg.norm(out, axis=1, keepdims=True) * radius
        moved = _head_points(place, turned, torch.tensor(out, dtype=torch.float32))
        centre = _head_points(place, turned, torch.tensor(middle[None], dtype=torch.float32))
        pixels = _pixels(camera, moved, size)
        return pixels, pixels[:, 2] - _pixels(camera, centre, size)[0, 2]

    for kind, points in marks.items():
        for (x, y, _), behind in zip(*on_skull(points), strict=True):
            facing = -behind / radius  # 1: straight at the viewer; the mark gets narrower to the side
            if facing > 0.08:
                wide, high = (0.014, 0.020) if kind == "eye" else (0.024, 0.014)
                rx, ry = wide * unit * min(1, facing + 0.25), high * unit
                draw.ellipse((x - rx, y - ry, x + rx, y + ry), LINE if kind == "eye" else _CHEEK)
                if kind == "eye":
                    draw.ellipse((x - 0.5 * rx, y - 0.7 * ry, x, y - 0.2 * ry), (255, 255, 255))
    pixels, behind = on_skull(smile)
    line = [(x, y) for (x, y, _), back in zip(pixels, behind, strict=True) if back < -0.02]
    if len(line) > 2:
        draw.line(line, LINE, round(0.008 * unit), joint="curve")


def _lit(colour: Colour, depth: float) -> Colour:
    """What is far is a little darker and cooler."""
    return _mixed(colour, (140, 108, 96), float(np.clip(depth / 0.5, 0, 0.45)))


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    return tuple(round((1 - share) * a + share * b) for a, b in zip(colour, other, strict=True))
