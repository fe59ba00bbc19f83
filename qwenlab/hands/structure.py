"""A loss on the structure of hands and feet, with a gradient.

A detector that runs under `no_grad`, or in NumPy, gives none: its loss is a number that trains nothing. Here everything
from the transformer's prediction to the comparison is differentiable:

    x0_hat = x_t - sigma v_hat  ->  crop around the hand  ->  VAE decoder, unclamped  ->  pose network  ->  difference
    to what the network sees in the true picture's crop.

The error of x0_hat is sigma times that of v_hat, and at high noise x0_hat is a blur in which no network finds a hand:
only samples with sigma up to `max_sigma` count (ControlNet++, arXiv 2404.07987, gates alike). The decoder's clamp to
[-1, 1] would have no gradient where pixels are saturated.

B batch, S tokens, C channels of a token, N crops, z latent channels, h x w latent cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qwenlab.data.regions import Region
from qwenlab.model.flow import predict_x0
from qwenlab.model.vae2d import decode_still

if TYPE_CHECKING:
    from diffusers import AutoencoderKLQwenImage

    from qwenlab.training.batches import Batch

CELL = 8  # pixels of a latent cell


class PoseFeatures(Protocol):
    """What `StructureLoss` asks of a pose network: crops (N, 3, H, W) in [-1, 1], RGB -> tensors to be compared."""

    size: int  # side in pixels of the crops it wants

    def __call__(self, crops: Tensor) -> list[Tensor]:
        """Heat maps or features, with gradients to the crops."""


class MicroPose:
    """The pose network of the drawn world behind that interface; compares heat maps, or features as well."""

    def __init__(self, network: torch.nn.Module, *, features: bool = False) -> None:
        from qwenlab.hands.pose_net import CROP

        self.network, self.features, self.size = network, features, CROP

    def __call__(self, crops: Tensor) -> list[Tensor]:
        if not self.features:
            return [self.network(crops).sigmoid()]
        fine, middle = self.network.features(crops)
        return [self.network.heat(fine).sigmoid(), fine, middle]


@dataclass
class StructureLoss:
    """Called with a batch and the predicted velocity (B, S, C): the weighted loss, a float32 scalar.

    vae: folded. networks: by the kind of region, "hand" and "foot"; a kind without one is left out. weight: of the
    loss. max_sigma: samples with more noise are left out.
    """

    vae: AutoencoderKLQwenImage
    networks: Mapping[str, PoseFeatures]
    weight: float = 0.3
    max_sigma: float = 0.36

    def __call__(self, batch: Batch, prediction: Tensor) -> Tensor:
        places = self._places(batch)
        if not places:
            return prediction.new_zeros((), dtype=torch.float32)
        x_t, sigma = batch.x_t.float(), batch.sigma
        predicted = predict_x0(x_t, prediction.float(), sigma)
        true = predict_x0(x_t, batch.target, sigma)
        total = prediction.new_zeros((), dtype=torch.float32)
        for kind, network in self.networks.items():
            here = [(i, region) for i, region in places if region.kind == kind]
            if here:
                found, wanted = (self._look(latents, batch, here, network) for latents in (predicted, true.detach()))
                differences = [(a - b.detach()).abs().mean() for a, b in zip(found, wanted, strict=True)]
                total = total + torch.stack(differences).mean() * (len(here) / len(places))
        return self.weight * total

    def _places(self, batch: Batch) -> list[tuple[int, Region]]:
        """The regions of the samples with little noise: (number of the sample, region in pixels)."""
        if batch.regions is None:
            return []
        quiet = (batch.sigma <= self.max_sigma).tolist()
        return [
            (i, region) for i, regions in enumerate(batch.regions) if quiet[i]
            for region in regions if region.kind in self.networks
        ]  # fmt: skip

    def _look(
        self, tokens: Tensor, batch: Batch, places: list[tuple[int, Region]], network: PoseFeatures
    ) -> list[Tensor]:
        """Latents as tokens (B, S, C) -> what a network sees in the crops of `places`."""
        _, rows, columns = batch.image_shapes[0][0]
        latents = unpack(tokens, 2 * rows, 2 * columns)  # (B, z, h, w)
        pieces = [crop_cells(latents[i], region) for i, region in places]
        pictures = [decode_normalised(self.vae, piece[None]) for piece in pieces]  # (1, 3, H, W)
        sized = [F.interpolate(p, (network.size,) * 2, mode="bilinear", antialias=True)
                 if p.shape[-1] != network.size else p for p in pictures]  # fmt: skip
        return network(torch.cat(sized))


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, S, 4 z), each a square of 2 x 2 cells -> latents (B, z, height, width)."""
    batch, _, channels = tokens.shape
    latents = tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2)
    return latents.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def crop_cells(latents: Tensor, region: Region) -> Tensor:
    """The square of whole latent cells around a region, moved inside the picture: (z, h, w) -> (z, n, n)."""
    height, width = latents.shape[-2:]
    side = min(max(round(region.side / CELL), 6), height, width)
    top = min(max(round(region.y / CELL - side / 2), 0), height - side)
    left = min(max(round(region.x / CELL - side / 2), 0), width - side)
    return latents[:, top : top + side, left : left + side]


def decode_normalised(vae: AutoencoderKLQwenImage, latents: Tensor) -> Tensor:
    """Latents (B, z, h, w) in the transformer's units -> pictures (B, 3, 8 h, 8 w), not clamped, float32."""
    mean = latents.new_tensor(vae.config.latents_mean)[:, None, None]
    std = latents.new_tensor(vae.config.latents_std)[:, None, None]
    return decode_still(vae, (latents * std + mean).to(vae.dtype)).float()
