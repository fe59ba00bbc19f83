"""Squares around hands and feet, and the masks that make training look there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from qwenlab.dataset import Dataset
from qwenlab.errors import QwenlabError
from qwenlab.hands.keypoints import Keypoints, read_keypoints

# Of a region's side, in units of the joints' largest extent: room for outlines and for fingers too many.
ROOM = {"hand": 1.35, "foot": 1.8}


@dataclass(frozen=True)
class Region:
    """A square of `side` pixels around (x, y), on a hand or a foot."""

    kind: str  # "hand" or "foot"
    x: float
    y: float
    side: float

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels; may reach beyond the picture."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def regions(keypoints: Keypoints) -> list[Region]:
    """The hands and feet of which every joint is seen."""
    found = []
    for kind, groups in (("hand", keypoints.hands), ("foot", keypoints.feet)):
        for joints in groups:
            if np.all(joints[:, 2] > 0):
                low, high = joints[:, :2].min(0), joints[:, :2].max(0)
                x, y = (low + high) / 2
                found.append(Region(kind, float(x), float(y), ROOM[kind] * float((high - low).max())))
    return found


def region_mask(keypoints: Keypoints) -> Image.Image:
    """White squares on black, of the picture's size: for masks/NAME.png and `unmasked_weight`."""
    mask = Image.new("L", keypoints.size, 0)
    draw = ImageDraw.Draw(mask)
    for region in regions(keypoints):
        draw.rectangle(region.box(), fill=255)
    return mask


def write_masks(dataset: Dataset) -> int:
    """Write masks/NAME.png for each picture of a data set that has a hand or foot to show; returns their number.

    A picture without gets no mask: all of it then counts. Raises QwenlabError without keypoints.jsonl, and for a
    picture that it does not list.
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
    return folder / "masks" / picture.relative_to(folder / "images").with_suffix(".png")
