"""How much a square looks like a hand to the pose network, which the structure loss trains with.

A network that trains is pleased by what it trained. Its score stands beside the judges' rates to show whether a way
pleases more than it repairs; no rate is ever read by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from qwenlab.data.regions import ROOM, Region
from qwenlab.hands.pose_net import CROP, HAND
from qwenlab.hands.squares import CONTEXT, cut

HAND_PIXELS = 30  # the length at which the network, which learnt lengths of 21 to 37, is asked


class PoseScore:
    """Called with N upright squares and their regions: (N,) float, the mean over 21 joints of the strongest heat.

    1 is sure of every joint. Regions of feet get 0: the network knows single feet.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, squares: Sequence[Image.Image], regions: Sequence[Region]) -> np.ndarray:
        side = round(HAND_PIXELS * ROOM["hand"] * CONTEXT["hand"])
        edge = (side - CROP) // 2
        small = [square.resize((side, side), Image.Resampling.LANCZOS) for square in squares]
        crops = np.stack([np.asarray(s)[edge : edge + CROP, edge : edge + CROP] for s in small])
        heat = self.network(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1).sigmoid()
        found = heat[:, HAND].amax((2, 3)).mean(1).numpy()
        return np.where([region.kind == "hand" for region in regions], found, 0.0)

    def of_pictures(self, images: Sequence[Image.Image], regions: Sequence[Sequence[Region]]) -> list[float]:
        """The scores of all hands among the regions of pictures, in their order."""
        pairs = [(image, r) for image, found in zip(images, regions, strict=True) for r in found if r.kind == "hand"]
        if not pairs:
            return []
        return self([cut(image, region, 128) for image, region in pairs], [region for _, region in pairs]).tolist()
