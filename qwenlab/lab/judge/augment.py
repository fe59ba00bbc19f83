"""What training does to pictures, so that the judge forgives blur and grain but not broken hands.

Pictures are float32 (B, 3, H, W) in [0, 1]; all randomness comes from torch's global generator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_blur(pictures: Tensor, sigma: float) -> Tensor:
    """Blur with a standard deviation of `sigma` pixels."""
    radius = max(1, round(3 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(pictures, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=3)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=3)


def weather(pictures: Tensor) -> Tensor:
    """Slight blur, grain, contrast and colour shifts, each in about half of the pictures, which stay well drawn."""
    count = len(pictures)
    pictures = pictures.clone()
    blurred = torch.rand(count) < 0.5
    if blurred.any():
        pictures[blurred] = gaussian_blur(pictures[blurred], 0.4 + 0.7 * float(torch.rand(())))
    grain = 0.04 * torch.rand(count, 1, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5)
    gain = 1 + 0.16 * (torch.rand(count, 1, 1, 1) - 0.5) + 0.06 * (torch.rand(count, 3, 1, 1) - 0.5)
    shift = 0.08 * (torch.rand(count, 1, 1, 1) - 0.5) + 0.03 * (torch.rand(count, 3, 1, 1) - 0.5)
    pictures = (pictures - 0.5) * gain + 0.5 + shift
    return (pictures + grain * torch.randn_like(pictures)).clamp_(0, 1)


def turn(crops: Tensor) -> Tensor:
    """Each crop in one of the eight orientations of a square: none changes the number of fingers."""
    crops = torch.where((torch.rand(len(crops), 1, 1, 1) < 0.5), crops.flip(3), crops)
    crops = torch.where((torch.rand(len(crops), 1, 1, 1) < 0.5), crops.flip(2), crops)
    return torch.where((torch.rand(len(crops), 1, 1, 1) < 0.5), crops.transpose(2, 3), crops)


def spoil(crops: Tensor) -> Tensor:
    """Break each hand in one of four ways that a generator knows: smears, warps, two hands in one, lost parts."""
    ways = torch.randint(4, (len(crops),))
    spoilt = crops.clone()
    for way, break_hands in enumerate((_smear, _warp, _merge, _erase)):
        chosen = ways == way
        if chosen.any():
            spoilt[chosen] = break_hands(crops[chosen])
    return spoilt


def _smear(crops: Tensor) -> Tensor:
    return gaussian_blur(crops, 2.4 + 1.4 * float(torch.rand(())))


def _warp(crops: Tensor) -> Tensor:
    """Displace pixels by about 5, smoothly over 8 pixels."""
    count, _, height, width = crops.shape
    field = F.interpolate(torch.randn(count, 2, 6, 6), (height, width), mode="bicubic", align_corners=True)
    field = 10.0 / width * field / field.square().mean((1, 2, 3), keepdim=True).sqrt()
    identity = torch.eye(2, 3).expand(count, 2, 3)
    grid = F.affine_grid(identity, [count, 3, height, width], align_corners=False)
    return F.grid_sample(crops, grid + field.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def _merge(crops: Tensor) -> Tensor:
    """One half of each hand with a turned half of itself or of its neighbour, or both on top of each other."""
    other = crops.roll(1, 0).rot90(int(torch.randint(1, 4, ())), (2, 3))
    size = crops.shape[-1]
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    angle = 2 * torch.pi * torch.rand(len(crops), 1, 1)
    halves = ((x * angle.cos() + y * angle.sin()) > 0).float()
    both = torch.full_like(halves, 0.5)
    weight = torch.where(torch.rand(len(crops), 1, 1) < 0.6, halves, both)[:, None]
    return crops * weight + other * (1 - weight)


def _erase(crops: Tensor) -> Tensor:
    """Paint a box of the surroundings' colour over the fingers."""
    size = crops.shape[-1]
    crops = crops.clone()
    for crop in crops:
        angle = float(2 * torch.pi * torch.rand(()))
        offset = torch.tensor([torch.sin(torch.tensor(angle)), torch.cos(torch.tensor(angle))]) * 7
        half = torch.randint(5, 9, (2,))
        y0, x0 = (size // 2 + offset.round().long() - half).clamp(0).tolist()
        y1, x1 = (size // 2 + offset.round().long() + half).tolist()
        crop[:, y0:y1, x0:x1] = crop[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)[:, None, None]
    return crops
