"""Pretraining stage 2: pictures of the world as packed, normalised latents, computed once.

N pictures, S = 64 tokens of a 128-pixel picture, C = 64 channels (16 latent channels in 2 x 2 patches).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from qwenlab.files import atomic_write_bytes
from qwenlab.lab.micro.pictures import Draw, Painter
from qwenlab.lab.micro.recipe import Recipe
from qwenlab.lab.micro.train_vae import to_tensor
from qwenlab.model.vae2d import fold_causal_vae

CHUNK = 512  # pictures drawn and encoded at a time
ENCODE_BATCH = 16


@dataclass
class Latents:
    """Latents (N, S, C) float16, normalised to zero mean and unit deviation per latent channel, and N captions."""

    tokens: Tensor
    captions: list[str]


def load_vae(folder: Path, device: torch.device) -> AutoencoderKLQwenImage:
    """The folded VAE of a diffusers folder, in float32 on `device`."""
    return fold_causal_vae(AutoencoderKLQwenImage.from_pretrained(folder, dtype=torch.float32)).to(device)


def normalise(latents: Tensor, vae: AutoencoderKLQwenImage) -> Tensor:
    """(B, 16, 1, h, w) raw latents -> zero mean, unit deviation by the VAE's config, as the pipeline expects."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents)
    return (latents - mean) / std


@torch.no_grad()
def encode_pictures(vae: AutoencoderKLQwenImage, images: np.ndarray) -> Tensor:
    """Pictures (N, H, W, 3) uint8 -> packed, normalised posterior means (N, H/16 * W/16, 64) float32 on the CPU."""
    packed = []
    for start in range(0, len(images), ENCODE_BATCH):
        x = to_tensor(images[start : start + ENCODE_BATCH], vae.device).to(vae.dtype)
        z = normalise(vae.encode(x).latent_dist.mode().float(), vae)  # (B, 16, 1, h, w)
        batch, channels, _, height, width = z.shape
        packed.append(QwenImagePipeline._pack_latents(z, batch, channels, height, width).cpu())
    return torch.cat(packed)


def cache_latents(
    recipe: Recipe, out: Path, vae: AutoencoderKLQwenImage, painter: Painter, *, split: str = "train"
) -> Latents:
    """The latents of a split, read from `out/latents-SPLIT.safetensors` or computed and written there.

    "train" has `recipe.transformer.pictures` pictures, "test" (held-out combinations) `held_out` of them.
    """
    options = recipe.transformer
    count = options.pictures if split == "train" else options.held_out
    draw = Draw(recipe.seed, f"latents-{split}", options.size, split, options.open_hands)
    described = json.dumps([str(draw), count, vae.config.latents_mean, vae.config.latents_std])
    path = out / f"latents-{split}.safetensors"
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata()["made_from"] == described:
                return Latents(file.get_tensor("tokens"), json.loads(file.metadata()["captions"]))
    tokens, captions, started = [], [], time.monotonic()
    for start in range(0, count, CHUNK):
        images, _, texts = painter.draw(draw, range(start, min(count, start + CHUNK)))
        tokens.append(encode_pictures(vae, images).half())
        captions += texts
        print(f"latents {split}: {len(captions)} of {count}, {time.monotonic() - started:.0f} s", flush=True)
    latents = Latents(torch.cat(tokens), captions)
    header = {"made_from": described, "captions": json.dumps(captions)}
    atomic_write_bytes(path, save({"tokens": latents.tokens}, metadata=header))
    return latents
