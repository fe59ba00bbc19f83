"""What generated pictures go through and renderings do not: the autoencoder, noise and denoising."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline


def load_vae(folder: Path) -> AutoencoderKLQwenImage:
    """The VAE in `folder` (or in its subfolder `vae`), float32, folded for still pictures."""
    from diffusers import AutoencoderKLQwenImage

    from qwenlab.model.vae2d import fold_causal_vae

    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    return fold_causal_vae(AutoencoderKLQwenImage.from_pretrained(folder, dtype=torch.float32).eval())


@torch.inference_mode()
def round_trip(images: np.ndarray, vae: AutoencoderKLQwenImage, batch: int = 16) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8, encoded (mode of the posterior) and decoded again."""
    restored = []
    for start in range(0, len(images), batch):
        part = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2).float()
        decoded = _restored(part / 127.5 - 1, vae)  # (B, 3, H, W)
        restored.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(restored)


@torch.no_grad()
def blur_a_third(pictures: torch.Tensor, vae: AutoencoderKLQwenImage, batch: int = 64) -> None:
    """Replace the first third of pictures (N, 3, H, W) in [-1, 1], in whole batches, by what the VAE makes of them."""
    for start in range(0, len(pictures) // 3, batch):
        part = slice(start, start + batch)
        pictures[part] = _restored(pictures[part], vae)


def _restored(pictures: torch.Tensor, vae: AutoencoderKLQwenImage) -> torch.Tensor:
    """Pictures (B, 3, H, W), encoded (mode of the posterior) and decoded again."""
    return vae.decode(vae.encode(pictures[:, :, None]).latent_dist.mode()).sample[:, :, 0]


def renoise(
    pipeline: QwenImagePipeline,
    images: np.ndarray,
    prompts: list[str],
    seed: int,
    strength: float = 0.3,
    batch: int = 16,
) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 whose latents got noise that the model then removed, guided by their captions.

    `strength` is the share of the 20 steps that the stock image-to-image pipeline runs; 0.3 of them start at a sigma of
    about 0.4, because the schedule is shifted. Picture i takes its noise from seed + i.
    """
    from diffusers import QwenImageImg2ImgPipeline
    from PIL import Image

    editor = QwenImageImg2ImgPipeline(**pipeline.components)
    editor.set_progress_bar_config(disable=True)
    restored = []
    for start in range(0, len(images), batch):
        part = [Image.fromarray(image) for image in images[start : start + batch]]
        restored += editor(
            prompts[start : start + batch], image=part, strength=strength, num_inference_steps=20, true_cfg_scale=1.0,
            height=images.shape[1], width=images.shape[2],
            generator=[torch.Generator().manual_seed(seed + start + i) for i in range(len(part))],
        ).images  # fmt: skip
    return np.stack([np.asarray(image) for image in restored])
