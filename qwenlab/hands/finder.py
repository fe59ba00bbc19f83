"""Finds the open hands and the feet of a picture, well-formed or not: what a repair must look at.

A small detector of the drawn world by centre points (Zhou et al., Objects as Points, arXiv 1904.07850): one map of
centres and one of sizes for each kind, and for hands which way they are turned. For photographs and other drawings a
detector such as the YOLO models of ADetailer takes its place; `qwenlab.hands.repairing` only asks for regions.

B pictures of 128 x 128 pixels in [-1, 1]; maps of 32 x 32 cells; K = 2 kinds. Of a hand's turn there are three maps:
the cosine and the sine of its angle, and 1 or -1 for the thumb on the right or left (`Region`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from qwenlab.data.regions import Region
from qwenlab.hands.networks import load_frozen, smooth_layer
from qwenlab.model.micro_weights import HAND_WEIGHTS

SIZE, STRIDE = 128, 4  # pixels of the side of a picture, and of a cell
KINDS = ("hand", "feet")
UNIT = 32.0  # pixels; sizes are learnt as logarithms of multiples of it
THRESHOLD = 0.3
WEIGHTS = HAND_WEIGHTS / "finder.safetensors"


class Finder(nn.Module):
    """Maps of centres and sizes, from features of three scales; 0.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(smooth_layer(3, 24, 2), smooth_layer(24, 48, 2), smooth_layer(48, 48))
        self.middle = nn.Sequential(smooth_layer(48, 64, 2), smooth_layer(64, 64))
        self.coarse = nn.Sequential(smooth_layer(64, 96, 2), smooth_layer(96, 96), smooth_layer(96, 64))
        self.to_middle, self.to_fine = smooth_layer(128, 64), smooth_layer(112, 48)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(48, 2 * len(KINDS) + 3, 1)
        nn.init.constant_(self.head.bias[: len(KINDS)], -4.0)  # hands are rare: start from "nowhere"

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B, 3, 128, 128) -> logits of centres, logarithms of sizes (B, K, 32, 32), turns (B, 3, 32, 32)."""
        fine = self.fine(pictures)  # (B, 48, 32, 32)
        middle = self.middle(fine)
        middle = self.to_middle(torch.cat([middle, self.grow(self.coarse(middle))], 1))
        maps = self.head(self.to_fine(torch.cat([fine, self.grow(middle)], 1)))
        return maps.split([len(KINDS), len(KINDS), 3], 1)


def load_finder(path: Path = WEIGHTS) -> Finder:
    """The detector as shipped, frozen, float32. Raises QwenlabError when the file does not fit."""
    return load_frozen(Finder(), path, "the detector of hands", "qwenlab.lab.hands.train_finder")


@torch.no_grad()
def find_regions(network: Finder, images: Sequence[Image.Image], threshold: float = THRESHOLD) -> list[list[Region]]:
    """The open hands ("hand") and pairs of feet ("feet", one at most) of each picture, in its own pixels."""
    found: list[list[Region]] = []
    for image in images:
        small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        picture = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 127.5 - 1
        scale = image.width / SIZE
        found.append([
            replace(region, x=region.x * scale, y=region.y * scale, side=region.side * scale)
            for region in peaks(*(maps[0] for maps in network(picture)), threshold)
        ])  # fmt: skip
    return found


def peaks(centers: Tensor, sizes: Tensor, turns: Tensor, threshold: float = THRESHOLD) -> list[Region]:
    """Regions in pixels of a 128 x 128 picture, from the maps of one picture; the surest first.

    A maximum within 2 cells counts; its place is the mean of the 3 x 3 cells around it, weighted by probability.
    """
    heat = centers.sigmoid()
    top = F.max_pool2d(heat[None], 5, 1, 2)[0]
    padded = F.pad(heat, (1, 1, 1, 1))
    found: list[tuple[float, Region]] = []
    for k, y, x in torch.nonzero((heat == top) & (heat > threshold)).tolist():
        near = padded[k, y : y + 3, x : x + 3]
        shift = torch.arange(-1.0, 2.0)
        dx, dy = (float((near.sum(axis) * shift).sum() / near.sum()) for axis in (0, 1))
        side = UNIT * float(sizes[k, y, x].exp())
        region = Region(KINDS[k], (x + 0.5 + dx) * STRIDE, (y + 0.5 + dy) * STRIDE, side)
        if region.kind == "hand":
            cosine, sine, thumb = turns[:, y, x].tolist()
            region = replace(region, angle=math.degrees(math.atan2(sine, cosine)), mirrored=thumb > 0)
        found.append((float(heat[k, y, x]), region))
    found.sort(key=lambda pair: -pair[0])
    feet = [region for _, region in found if region.kind == "feet"][:1]
    return [region for _, region in found if region.kind == "hand"][:2] + feet
