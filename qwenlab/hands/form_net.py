"""How well-formed a hand or a pair of feet looks: for choosing the best of several drawings, never for reporting.

A network that chooses is pleased by what it chose; rates are read by the judges, which take no part in drawing. For
real pictures a detector of artefacts takes its place (such as HADM, arXiv 2411.13842).

N upright squares (`qwenlab.hands.squares`), 48 x 48 pixels in [-1, 1] inside the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from qwenlab.data.regions import Region
from qwenlab.hands.finder import KINDS, Finder, find_regions
from qwenlab.hands.networks import load_frozen, smooth_layer
from qwenlab.hands.squares import CONTEXT, as_tensor, cut
from qwenlab.model.micro_weights import HAND_WEIGHTS

SIDE, SEEN = 48, 1.2  # pixels of a square, and its side in sides of the region
WEIGHTS = HAND_WEIGHTS / "form_net.safetensors"


class FormNet(nn.Module):
    """Convolutions and one logit for each kind; 0.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            smooth_layer(3, 32), smooth_layer(32, 48, 2), smooth_layer(48, 48), smooth_layer(48, 80, 2),
            smooth_layer(80, 80), smooth_layer(80, 128, 2), smooth_layer(128, 128),
        )  # fmt: skip
        self.head = nn.Linear(256, len(KINDS))

    def forward(self, squares: Tensor) -> Tensor:
        """Squares (N, 3, 48, 48) -> logits (N, 2) of being well-formed hands, and feet."""
        features = self.body(squares)  # (N, 128, 6, 6)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))


def load_form_net(path: Path = WEIGHTS) -> FormNet:
    """The network as shipped, frozen, float32. Raises QwenlabError when the file does not fit."""
    return load_frozen(FormNet(), path, "the network of forms", "qwenlab.lab.hands.train_form_net")


class FormScore:
    """Called with N upright squares, `CONTEXT` times their region, and the regions: (N,) chances of being well-formed.

    `of_pictures` finds the regions first.
    """

    def __init__(self, network: FormNet) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, squares: Sequence[Image.Image], regions: Sequence[Region]) -> np.ndarray:
        inner = []
        for square, region in zip(squares, regions, strict=True):
            edge = square.width * (1 - SEEN / CONTEXT[region.kind]) / 2
            box = (edge, edge, square.width - edge, square.width - edge)
            inner.append(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box))
        chances = self.network(as_tensor(inner)).sigmoid().numpy()  # (N, 2)
        return np.array([row[KINDS.index(r.kind)] for row, r in zip(chances, regions, strict=True)])

    def of_pictures(
        self, finder: Finder, images: Sequence[Image.Image], kinds: Sequence[str] = KINDS
    ) -> list[list[tuple[Region, float]]]:
        """The regions of `kinds` in each picture and their chances."""
        found = [[r for r in here if r.kind in kinds] for here in find_regions(finder, images)]
        squares = [cut(image, r, 2 * SIDE) for image, here in zip(images, found, strict=True) for r in here]
        if not squares:
            return [[] for _ in images]
        chances = iter(self(squares, [r for here in found for r in here]).tolist())
        return [[(r, next(chances)) for r in here] for here in found]
