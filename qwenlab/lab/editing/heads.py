"""How many heads a drawing of the world shows: whether an extended picture has its figure twice.

A small detector of centre points, as `qwenlab.hands.finder` is one; it reads pictures of any size. A head counts when
its centre lies in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from qwenlab.hands.networks import load_frozen, smooth_layer
from qwenlab.lab.weights import FOLDER

STRIDE = 8  # pixels of a cell
THRESHOLD = 0.5
WEIGHTS = FOLDER / "editing" / "heads.safetensors"


class HeadNet(nn.Module):
    """Convolutions, the last ones dilated to see a whole head and its body; 0.11 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        wide = [nn.Sequential(nn.Conv2d(48, 48, 3, 1, d, d), nn.GroupNorm(8, 48), nn.SiLU()) for d in (1, 2, 2, 1)]
        self.body = nn.Sequential(
            smooth_layer(3, 16, 2), smooth_layer(16, 24, 2), smooth_layer(24, 32), smooth_layer(32, 48, 2), *wide
        )
        self.head = nn.Conv2d(48, 1, 1)
        nn.init.constant_(self.head.bias, -4.0)  # heads are rare: start from "nowhere"

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> logits (B, H/8, W/8) of a head's centre being in the cell."""
        return self.head(self.body(pictures))[:, 0]


def load_head_net(path: Path = WEIGHTS) -> HeadNet:
    """The counter as shipped, or from another file; frozen, float32. Raises QwenlabError when the file does not fit."""
    return load_frozen(HeadNet(), path, "the counter of heads", "qwenlab.lab.editing.train_heads")


def count_heads(network: HeadNet, images: Sequence[Image.Image]) -> list[int]:
    """The number of heads in each picture of the scale of 128-pixel drawings, of any size."""
    return [len(find_heads(network, image)) for image in images]


@torch.no_grad()
def find_heads(network: HeadNet, image: Image.Image, threshold: float = THRESHOLD) -> list[tuple[float, float]]:
    """Centres (x, y) of heads in pixels: cells over `threshold` that are the largest within 2 cells."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1
    heat = network(pixels).sigmoid()  # (1, rows, columns)
    top = F.max_pool2d(heat, 5, 1, 2)
    return [
        ((column + 0.5) * STRIDE, (row + 0.5) * STRIDE)
        for _, row, column in torch.nonzero((heat == top) & (heat > threshold)).tolist()
    ]
