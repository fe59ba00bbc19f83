"""A critic of hands in latent space: says without decoding whether a crop is well-formed, with a gradient.

Cheaper than a pose network, which needs the decoder, and blind to pixels. Whether it helps is measured in
`benchmarks/hands/repair.py`. In the spirit of latent reward models (Zhang et al., arXiv 2502.01051).

N crops of 16 latent channels and 6 x 6 cells, in the transformer's units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenlab.data.regions import Region
from qwenlab.hands.networks import smooth_layer
from qwenlab.hands.structure import crop_cells, unpack
from qwenlab.lab.hands.train_form_net import draw
from qwenlab.lab.networks import fit
from qwenlab.model.flow import predict_x0
from qwenlab.training.batches import Batch

CELLS, SEED = 6, 59


class LatentCritic(nn.Module):
    """Convolutions; 0.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(smooth_layer(16, 96), smooth_layer(96, 96), smooth_layer(96, 96))
        self.head = nn.Linear(192, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (N, 16, 6, 6) -> logits (N,) of being well-formed."""
        features = self.body(crops)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))[:, 0]


@dataclass
class CriticLoss:
    """Called with a batch and the predicted velocity (B, S, C): how far the crops are from pleasing the critic.

    weight: of the loss. max_sigma: samples with more noise are left out.
    """

    critic: LatentCritic
    weight: float = 0.05
    max_sigma: float = 0.36

    def __call__(self, batch: Batch, prediction: Tensor) -> Tensor:
        quiet = (batch.sigma <= self.max_sigma).tolist()
        places = [(i, r) for i, found in enumerate(batch.regions or []) if quiet[i] for r in found if r.kind == "hand"]
        if not places:
            return prediction.new_zeros((), dtype=torch.float32)
        _, rows, columns = batch.image_shapes[0][0]
        latents = unpack(predict_x0(batch.x_t.float(), prediction.float(), batch.sigma), 2 * rows, 2 * columns)
        logits = self.critic(torch.stack([_crop(latents[i], region) for i, region in places]))
        return self.weight * F.softplus(-logits).mean()


def _crop(latents: Tensor, region: Region) -> Tensor:
    """The cells around a region (16, 6, 6), larger ones made smaller."""
    piece = crop_cells(latents, region)
    return piece if piece.shape[-1] == CELLS else F.adaptive_avg_pool2d(piece, CELLS)


def critic_examples(pipeline: object, count: int, seed: int = SEED) -> tuple[Tensor, Tensor]:
    """Crops (N, 16, 6, 6) of the hands in `count` encoded drawings, and whether they are right (N,)."""
    from qwenlab.model.encoding import encode_image

    rng = np.random.default_rng(seed)
    crops, right = [], []
    for _ in range(count):
        image, found = draw(rng)
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1
        latents, _ = encode_image(pipeline, pixels)
        for region, well_formed in found:
            if region.kind == "hand":
                crops.append(_crop(latents, region))
                right.append(float(well_formed))
    return torch.stack(crops), torch.tensor(right)


def train_critic(data: tuple[Tensor, Tensor], steps: int = 800, batch: int = 64, say: bool = True) -> LatentCritic:
    """Train a critic from nothing, on crops with a little noise, as predictions have; frozen when it comes back."""
    torch.manual_seed(SEED)
    critic = LatentCritic()
    crops, right = data

    def loss_of_step() -> Tensor:
        rows = torch.randint(len(crops), (batch,))
        shown = crops[rows] + 0.15 * torch.rand(batch, 1, 1, 1) * torch.randn(batch, *crops.shape[1:])
        return F.binary_cross_entropy_with_logits(critic(shown), right[rows])

    return fit(critic, loss_of_step, steps, 2e-3, say=say).requires_grad_(False)
