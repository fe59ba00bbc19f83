"""Squares around hands and feet, and the masks that make training look there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from qwenlab.data.dataset import Dataset
from qwenlab.data.keypoints import Keypoints, read_keypoints
from qwenlab.errors import QwenlabError

# Of a region's side, in units of the joints' largest extent: room for outlines and for fingers too many.
ROOM = {"hand": 1.35, "foot": 1.8, "feet": 1.5}


@dataclass(frozen=True)
class Region:
    """A square of `side` pixels around (x, y), on a hand, a foot or both feet."""

    kind: str  # "hand", "foot" or "feet"
    x: float
    y: float
    side: float
    angle: float = 0.0  # degrees, clockwise, by which the fingers are turned from pointing up
    mirrored: bool = False  # whether the thumb is on the right when the fingers point up

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels; may reach beyond the picture."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half

    def in_mirror(self, width: float) -> Region:
        """The same region of the mirrored picture, which is `width` pixels wide."""
        return replace(self, x=width - self.x, angle=-self.angle, mirrored=not self.mirrored)


def regions(keypoints: Keypoints) -> list[Region]:
    """The hands and feet of which every joint is seen."""
    found = []
    for kind, groups in (("hand", keypoints.hands), ("foot", keypoints.feet)):
        for joints in groups:
            if np.all(joints[:, 2] > 0):
                found.append(hand_region(joints) if kind == "hand" else _around(kind, joints))
    return found


def hand_region(joints: np.ndarray) -> Region:
    """The square around the 21 joints (21, 3) of a hand, seen or not, and which way it is turned."""
    wrist, knuckles, thumb = joints[0, :2], joints[[5, 9, 13, 17], :2].mean(0), joints[2, :2]
    x, y = knuckles - wrist
    across = x * (thumb - wrist)[1] - y * (thumb - wrist)[0]  # positive: the thumb is on the right
    return replace(_around("hand", joints), angle=math.degrees(math.atan2(x, -y)), mirrored=bool(across > 0))


def feet_region(feet: np.ndarray) -> Region:
    """The square around both feet (2, 3, 3), with room for a third one, and for the legs above them."""
    both = _around("feet", feet.reshape(6, 3))
    longest = max(_around("feet", foot).side for foot in feet)
    side = max(both.side, 1.8 * longest)
    return replace(both, side=side, y=both.y - 0.15 * side)


def _around(kind: str, joints: np.ndarray) -> Region:
    low, high = joints[:, :2].min(0), joints[:, :2].max(0)
    x, y = (low + high) / 2
    return Region(kind, float(x), float(y), ROOM[kind] * float((high - low).max()))


def inexact(region: Region, rng: np.random.Generator) -> Region:
    """The region as a detector would find it: shifted, of another size, turned a little."""
    x, y = np.array([region.x, region.y]) + rng.normal(0, 0.04, 2) * region.side
    side, angle = region.side * float(np.exp(rng.normal(0, 0.06))), region.angle + float(rng.normal(0, 6))
    return replace(region, x=float(x), y=float(y), side=side, angle=angle)


def region_mask(keypoints: Keypoints) -> Image.Image:
    """White squares on black, of the picture's size: for masks/NAME.png and `unmasked_weight`."""
    mask = Image.new("L", keypoints.size, 0)
    draw = ImageDraw.Draw(mask)
    for region in regions(keypoints):
        draw.rectangle(region.box(), fill=255)
    return mask


def write_masks(dataset: Dataset) -> int:
    """Write masks/NAME.png for each picture of a data set that has a hand or foot to show; returns their number.

    A picture without gets no mask: all of it then counts. Raises QwenlabError without keypoints.jsonl, for a picture
    that it does not list, and for one outside images/ (other layouts have no place for masks).
    """
    keypoints = read_keypoints(dataset.folder)
    written = 0
    for sample in dataset.samples:
        if sample.path.name not in keypoints:
            raise QwenlabError(f"{dataset.folder / 'keypoints.jsonl'}: has no line for {sample.path.name}")
        joints = keypoints[sample.path.name]
        if regions(joints):
            path = _mask_path(dataset.folder, sample.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            region_mask(joints).save(path)
            written += 1
    return written


def _mask_path(folder: Path, picture: Path) -> Path:
    images = folder / "images"
    if not picture.is_relative_to(images):
        raise QwenlabError(
            f"{picture}: masks need the layout images/ and captions.jsonl; check-dataset --fix writes it"
        )
    return folder / "masks" / picture.relative_to(images).with_suffix(".png")
