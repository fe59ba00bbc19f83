"""Pretraining stage 1: the micro VAE, from nothing, on random crops of the world.

B crops, C = 16 latent channels, H W pixels. One picture is a video of one frame: (B, 3, 1, H, W).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_json
from qwenlab.lab.micro.muon import Muon
from qwenlab.lab.micro.pictures import Draw, Painter, PicturePool, derived_rng
from qwenlab.lab.micro.recipe import Recipe, VaeRecipe
from qwenlab.lab.micro.runtime import autocast, save_atomically, save_grid
from qwenlab.lab.micro.sitting import Sitting
from qwenlab.lab.micro.vae import build_vae
from qwenlab.model.flow import derived_generator

STATISTICS_BATCH = 32


def to_tensor(images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, 1, H, W) float32 in [-1, 1], channels last in memory (no copy, faster on a CPU)."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1).unsqueeze(2)


def to_images(x: Tensor) -> np.ndarray:
    """(B, 3, 1, H, W) in [-1, 1] -> (B, H, W, 3) uint8."""
    return ((x.squeeze(2).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, across and down, of (B, 3, 1, H, W)."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def faint_edges(out: Tensor, true: Tensor) -> Tensor:
    """Error of pixel differences (B, 3, 1, H, W) relative to the strongest true one within two pixels, where one is.

    A skin-coloured finger before a wall of almost its colour then counts as much as one before a black wall.
    """
    strength = F.max_pool2d(true.abs().squeeze(2).amax(1, keepdim=True), 5, stride=1, padding=2).unsqueeze(2)
    weight = (strength > 0.03) / (strength + 0.05)
    return ((out - true).abs() * weight).mean()


def vae_loss(vae: AutoencoderKLQwenImage, x: Tensor, noise: Tensor, recipe: VaeRecipe) -> tuple[Tensor, Tensor]:
    """Training loss of one batch and its mean absolute error, both scalars.

    L1 and squared error on pixels (the latter will not give up a small thing of strong contrast, as a finger or the
    light in an eye), L1 on pixel gradients (keeps outlines sharp) and a small KL divergence to the unit Gaussian
    (Kingma and Welling, arXiv 1312.6114), which keeps latents bounded and the decoder tolerant of small errors.
    x (B, 3, 1, H, W), noise (B, C, 1, H/8, W/8).
    """
    with torch.set_grad_enabled(not recipe.decoder_only):
        mean, logvar = vae._encode(x).float().chunk(2, dim=1)
    logvar = logvar.clamp(-30, 20)
    z = mean + torch.exp(0.5 * logvar) * noise
    out = vae.decoder(vae.post_quant_conv(z)).float()
    l1 = F.l1_loss(out, x)
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(out), gradients(x), strict=True))
    faint = sum(faint_edges(a, b) for a, b in zip(gradients(out), gradients(x), strict=True))
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    square = F.mse_loss(out, x)
    return (
        l1
        + recipe.square_weight * square
        + recipe.edge_weight * edges
        + recipe.faint_edge_weight * faint
        + recipe.kl_weight * kl,
        l1.detach(),
    )


def parameter_groups(vae: AutoencoderKLQwenImage) -> list[dict[str, object]]:
    """Of what is trained, kernels of the hidden layers for Muon; first and last kernels, norms and biases for AdamW."""
    edges = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out", "quant_conv")
    hidden, rest = [], []
    for name, p in vae.named_parameters():
        if not p.requires_grad:
            continue
        is_kernel = p.ndim >= 4 and len(p) > 1 and name.endswith("weight") and "time_conv" not in name
        (hidden if is_kernel and not any(e in name for e in edges) else rest).append(p)
    return [{"params": hidden, "muon": True}, {"params": rest, "muon": False}]


def learning_rate(step: int, recipe: VaeRecipe) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def reconstruct(vae: AutoencoderKLQwenImage, images: np.ndarray) -> np.ndarray:
    """Pictures after a round trip through the VAE: (B, H, W, 3) uint8 -> the same."""
    x = to_tensor(images, vae.device).to(vae.dtype)
    return to_images(vae.decode(vae.encode(x).latent_dist.mode()).sample.float())


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB of uint8 pictures (B, H, W, 3)."""
    error = (images.astype(np.float64) - others.astype(np.float64)) ** 2
    return float((10 * np.log10(255**2 / np.maximum(error.mean(axis=(1, 2, 3)), 1e-9))).mean())


@torch.no_grad()
def latent_statistics(vae: AutoencoderKLQwenImage, images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel (posterior means) over pictures (N, H, W, 3) uint8."""
    total, squares, count = 0.0, 0.0, 0
    for start in range(0, len(images), STATISTICS_BATCH):
        z = vae.encode(to_tensor(images[start : start + STATISTICS_BATCH], vae.device)).latent_dist.mode().double()
        total = total + z.sum(dim=(0, 2, 3, 4))  # (C,)
        squares = squares + z.square().sum(dim=(0, 2, 3, 4))
        count += z.numel() // z.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return [round(v, 4) for v in mean.tolist()], [round(v, 4) for v in std.tolist()]


def train_vae(
    recipe: Recipe,
    out: Path,
    *,
    device: torch.device,
    painter: Painter,
    warm_start: Path | None = None,
    stop_at: int | None = None,
) -> Path | None:
    """Train the VAE, resuming from `out/vae.checkpoint.safetensors` when it exists.

    Writes the log `vae.jsonl`, previews `vae-NNNNNN.png` and, at the end, the diffusers folder `out/vae` with
    measured `latents_mean` and `latents_std`; returns that folder. `stop_at` ends early after a checkpoint, to
    continue another day, and returns None. `warm_start` is a VAE folder whose weights to begin with.
    """
    options = recipe.vae
    vae = build_vae(recipe.seed, **recipe.vae_config)
    if warm_start is not None:
        start = AutoencoderKLQwenImage.from_pretrained(warm_start, dtype=torch.float32)
        vae.load_state_dict(start.state_dict())
        vae.register_to_config(latents_mean=start.config.latents_mean, latents_std=start.config.latents_std)
    if options.decoder_only:
        if warm_start is None:
            raise QwenlabError("decoder_only trains on the latents of a finished VAE: add --warm-start FOLDER")
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)
    vae.to(device)
    optimizer = Muon(parameter_groups(vae), lr=options.learning_rate)
    described = {"seed": recipe.seed, "vae_config": recipe.vae_config} | dataclasses.asdict(options)
    sitting = Sitting(out, "vae", options, optimizer, described, stop_at)
    if sitting.saved:
        vae.load_state_dict(sitting.saved["model"])

    held_out, _, _ = painter.draw(Draw(recipe.seed, "vae-test", options.size, "test", 0.5), range(16))
    draw = Draw(recipe.seed, "vae", options.size, "train", options.open_hands, options.wrong_anatomy)
    pool = PicturePool(painter, draw, options.pool, options.refresh, options.refresh_every)
    cells = options.crop // vae.spatial_compression_ratio
    for step in sitting.steps():
        pool.at_step(step)
        crops = pool.crops(derived_rng(recipe.seed, "crops", step), options.batch, options.crop, options.focus)
        noise = torch.randn(
            (options.batch, vae.config.z_dim, 1, cells, cells),
            generator=derived_generator(recipe.seed, "vae", step),
        ).to(device)
        rate = learning_rate(step, options)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast(device):
            loss, l1 = vae_loss(vae, to_tensor(crops, device), noise, options)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_((p for p in vae.parameters() if p.requires_grad), options.clip)
        optimizer.step()
        optimizer.zero_grad()
        sitting.count(loss=loss, l1=l1, grad_norm=norm, lr=rate)
        if sitting.preview_is_due():
            restored = reconstruct(vae, held_out)
            sitting.log.write(step=sitting.step, psnr=psnr(held_out, restored))
            save_grid(
                out / f"vae-{sitting.step:06d}.png",
                np.stack([held_out, restored], axis=1)[:8].reshape(-1, *held_out.shape[1:]),
            )
        if sitting.checkpoint_is_due():
            sitting.save({"model": vae.state_dict()})
    if sitting.step < options.steps:
        return None
    pictures, _, _ = painter.draw(
        Draw(recipe.seed, "vae-statistics", options.size, "train", recipe.transformer.open_hands),
        range(options.statistics),
    )
    mean, std = vae.config.latents_mean, vae.config.latents_std
    if not options.decoder_only:
        mean, std = latent_statistics(vae, pictures)
    vae.register_to_config(latents_mean=mean, latents_std=std)
    restored = np.concatenate([reconstruct(vae, pictures[i : i + 32]) for i in range(0, min(256, len(pictures)), 32)])
    atomic_write_json(
        out / "vae.json",
        {
            "steps": sitting.step,
            "psnr_db": round(psnr(pictures[: len(restored)], restored), 2),
            "pictures": len(restored),
            "latents_mean": mean,
            "latents_std": std,
        },
    )
    return save_atomically(vae, out / "vae")
