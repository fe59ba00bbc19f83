"""One picture and one caption as the transformer reads them: latents of the VAE, embeddings of the text encoder.

`qwenlab.data.caches` keeps what is encoded here.

B batch, C latent channels, h x w latent cells (8 pixels each), S text tokens, D text features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from qwenlab.model.limits import MAX_TOKENS, check_prompt

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def image_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [-1, 1], the range of the VAE."""
    array = np.asarray(image, dtype=np.float32) / 127.5 - 1.0  # (H, W, 3)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class LatentStatistics:
    """The VAE's posterior for N pictures in the transformer's normalised units.

    Both (N, C, h, w) float32; pictures of several sizes, as in aspect buckets, are lists of N tensors (C, h_i, w_i).
    """

    mean: Tensor | list[Tensor]
    std: Tensor | list[Tensor]

    def sample(self, index: int, generator: torch.Generator) -> Tensor:
        """A fresh draw (C, h, w) for picture `index`; a frozen one would be learnt as part of the picture."""
        mean = self.mean[index]
        return mean + self.std[index] * torch.randn(mean.shape, generator=generator)


@torch.no_grad()
def encode_image(pipeline: QwenImagePipeline, image: Tensor) -> tuple[Tensor, Tensor]:
    """(3, H, W) in [-1, 1] -> mean and std of the normalised posterior, each (C, h, w) float32 on the CPU.

    Pictures are encoded one by one: the result then cannot depend on which other pictures are cached with it.
    """
    vae = pipeline.vae
    # Offloaded, the VAE waits on the CPU and is moved when it is called.
    device = getattr(getattr(vae, "_hf_hook", None), "execution_device", vae.device)
    pixels = image[None, :, None].to(device, vae.dtype)  # (1, 3, frames=1, H, W)
    posterior = vae.encode(pixels).latent_dist  # (1, C, 1, h, w)
    channels = (-1, 1, 1)
    shift = torch.tensor(vae.config.latents_mean).reshape(channels)
    scale = torch.tensor(vae.config.latents_std).reshape(channels)
    mean, std = posterior.mean[0, :, 0].float().cpu(), posterior.std[0, :, 0].float().cpu()
    return (mean - shift) / scale, std / scale


@torch.no_grad()
def encode_text(pipeline: QwenImagePipeline, text: str) -> Tensor:
    """A caption's embeddings (S, D) on the CPU, as the pipeline makes them (without its template).

    Raises QwenlabError for a text that is longer than the model reads.
    """
    check_prompt(pipeline, text, "caption")
    return pipeline.encode_prompt(text, max_sequence_length=MAX_TOKENS)[0][0].cpu()


def pad_texts(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Embeddings of several lengths -> (B, S, D) padded with zeros, and a bool mask (B, S) or None.

    The mask, None when nothing is padded, is essential: without it the zeros take part in attention, and a
    caption's meaning depends on its neighbours in the batch.
    """
    lengths = torch.tensor([len(text) for text in texts])
    padded = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
    return padded, None if bool(mask.all()) else mask
