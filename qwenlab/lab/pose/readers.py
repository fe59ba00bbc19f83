"""Readers of drawn poses: joints, how many arms and legs, and which arm is before the body.

They judge pictures that follow a pose, so no generator may learn from them. Both see whole pictures of 128 pixels.
`train_readers` trains them on drawings, `calibrate_readers` measures their errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenlab.hands.networks import load_frozen, smooth_layer
from qwenlab.lab.weights import FOLDER

SIZE, STRIDE, JOINTS = 128, 4, 18
SPREAD = 1.0  # cells; the standard deviation of a joint's spot
WINDOW = 2  # cells around the brightest one whose mean is the joint's place
MOST = 3  # arms or legs that can be counted
JOINT_WEIGHTS, LIMB_WEIGHTS = (FOLDER / "pose" / f"{name}.safetensors" for name in ("joints", "limbs"))
_MODULE = "qwenlab.lab.pose.train_readers"


class JointNet(nn.Module):
    """An hourglass of four scales with 0.39 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(smooth_layer(3, 24, 2), smooth_layer(24, 40, 2), smooth_layer(40, 40))
        self.middle = nn.Sequential(smooth_layer(40, 64, 2), smooth_layer(64, 64))
        self.coarse = nn.Sequential(smooth_layer(64, 96, 2), smooth_layer(96, 96), smooth_layer(96, 64))
        self.to_middle, self.to_fine = smooth_layer(128, 64), smooth_layer(104, 40)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear")
        self.heat = nn.Conv2d(40, JOINTS, 1)
        nn.init.constant_(self.heat.bias, -3.0)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, 128, 128) in [-1, 1] -> logits of heat (B, 18, 32, 32), joint by joint."""
        fine = self.fine(pictures)  # (B, 40, 32, 32)
        middle = self.middle(fine)  # (B, 64, 16, 16)
        coarse = self.coarse(middle)  # (B, 64, 8, 8)
        middle = self.to_middle(torch.cat([middle, self.grow(coarse)], 1))
        return self.heat(self.to_fine(torch.cat([fine, self.grow(middle)], 1)))


class LimbNet(nn.Module):
    """Convolutions down to 8 x 8 cells, and what is counted from their means and maxima; 0.33 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            smooth_layer(3, 24, 2), smooth_layer(24, 40, 2), smooth_layer(40, 64, 2), smooth_layer(64, 64),
            smooth_layer(64, 96, 2), smooth_layer(96, 96),
        )  # fmt: skip
        self.read = nn.Sequential(nn.Linear(96 * 20, 64), nn.SiLU(), nn.Linear(64, 2 * (MOST + 1) + 2))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B, 3, 128, 128) in [-1, 1] -> logits of 0..3 arms (B, 4), of 0..3 legs (B, 4), and of the right and
        the left arm being before the body (B, 2).
        """
        cells = self.body(pictures)  # (B, 96, 8, 8)
        seen = torch.cat([F.adaptive_avg_pool2d(cells, 4).flatten(1), F.adaptive_max_pool2d(cells, 2).flatten(1)], 1)
        arms, legs, before = self.read(seen).split([MOST + 1, MOST + 1, 2], 1)
        return arms, legs, before


@dataclass(frozen=True)
class Limbs:
    """What `read_limbs` read in N pictures."""

    arms: np.ndarray  # (N,) int, 0..3
    legs: np.ndarray  # (N,) int, 0..3; for whole figures only
    before: np.ndarray  # (N, 2) bool, right and left arm before the body; where the arm lies on the body only


def heat_targets(points: Tensor, side: int = SIZE // STRIDE) -> Tensor:
    """Points (B, 18, 2) in pixels -> heat (B, 18, side, side) in [0, 1]."""
    cells = torch.arange(side) + 0.5
    x, y = points[..., 0, None] / STRIDE, points[..., 1, None] / STRIDE
    columns = torch.exp(-((cells - x) ** 2) / (2 * SPREAD**2))
    rows = torch.exp(-((cells - y) ** 2) / (2 * SPREAD**2))
    return rows[..., :, None] * columns[..., None, :]


def joint_places(logits: Tensor) -> Tensor:
    """Logits of heat (B, 18, H, W) -> (B, 18, 3): x and y in pixels, finer than a cell, and the heat there in 0..1."""
    heat = logits.sigmoid()
    height, width = heat.shape[-2:]
    best = heat.flatten(2).argmax(-1)  # (B, 18)
    row, column = best // width, best % width
    near_rows = (torch.arange(height) - row[..., None]).abs() <= WINDOW  # (B, 18, H)
    near_columns = (torch.arange(width) - column[..., None]).abs() <= WINDOW
    mass = heat * near_rows[..., :, None] * near_columns[..., None, :]
    total = mass.sum((-2, -1)).clamp(min=1e-9)
    x = (mass.sum(-2) * (torch.arange(width) + 0.5)).sum(-1) / total
    y = (mass.sum(-1) * (torch.arange(height) + 0.5)).sum(-1) / total
    return torch.stack([x * STRIDE, y * STRIDE, heat.flatten(2).amax(-1)], -1)


@torch.no_grad()
def read_joints(network: JointNet, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Pictures (N, 128, 128, 3) uint8 -> (N, 18, 3) float32: x and y in pixels, and how sure the reader is, 0..1."""
    return np.concatenate([joint_places(network(part)).numpy() for part in _batches(images, batch)])


@torch.no_grad()
def read_limbs(network: LimbNet, images: np.ndarray, batch: int = 64) -> Limbs:
    """Arms, legs and what is before the body in pictures (N, 128, 128, 3) uint8."""
    parts = [network(part) for part in _batches(images, batch)]
    arms, legs, before = (torch.cat(values) for values in zip(*parts, strict=True))
    return Limbs(arms.argmax(1).numpy(), legs.argmax(1).numpy(), (before > 0).numpy())


def load_joint_net(path: Path = JOINT_WEIGHTS) -> JointNet:
    """The reader of joints, frozen, float32. Raises QwenlabError when the file does not fit."""
    return load_frozen(JointNet(), path, "the reader of joints", _MODULE)


def load_limb_net(path: Path = LIMB_WEIGHTS) -> LimbNet:
    """The reader of limbs, frozen, float32. Raises QwenlabError when the file does not fit."""
    return load_frozen(LimbNet(), path, "the reader of limbs", _MODULE)


def to_tensor(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _batches(images: np.ndarray, batch: int):
    for start in range(0, len(images), batch):
        yield to_tensor(images[start : start + batch])
