"""A small pose network of the drawn world: heat maps of the joints of one hand or foot, from the square around it.

It is what training may ask how a hand should look, so it must never be the judge, and shares nothing with it: other
pictures, another task, another architecture. Everything in it is smooth enough to pass gradients on.

N crops of 48 x 48 pixels, in [-1, 1]; 24 maps: 21 hand joints, big toe, small toe, heel.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from qwenlab.hands.networks import load_frozen, smooth_layer
from qwenlab.model.micro_weights import HAND_WEIGHTS

CROP, STRIDE, JOINTS = 48, 2, 24
HAND, FOOT = slice(0, 21), slice(21, 24)
SPREAD = 1.0  # cells; the standard deviation of a joint's spot
WEIGHTS = HAND_WEIGHTS / "pose_net.safetensors"


class PoseNet(nn.Module):
    """An hourglass of three scales with 0.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(smooth_layer(3, 32), smooth_layer(32, 48, 2), smooth_layer(48, 48))
        self.middle = nn.Sequential(smooth_layer(48, 64, 2), smooth_layer(64, 64))
        self.coarse = nn.Sequential(smooth_layer(64, 96, 2), smooth_layer(96, 96), smooth_layer(96, 64))
        self.to_middle, self.to_fine = smooth_layer(128, 64), smooth_layer(112, 48)
        self.grow = nn.Upsample(scale_factor=2, mode="bilinear")
        self.heat = nn.Conv2d(48, JOINTS, 1)
        nn.init.constant_(self.heat.bias, -3.0)

    def features(self, crops: Tensor) -> list[Tensor]:
        """Crops (N, 3, 48, 48) -> (N, 48, 24, 24) before the heat maps, and (N, 64, 12, 12)."""
        fine = self.fine(crops)  # (N, 48, 24, 24)
        middle = self.middle(fine)  # (N, 64, 12, 12)
        coarse = self.coarse(middle)  # (N, 64, 6, 6)
        middle = self.to_middle(torch.cat([middle, self.grow(coarse)], 1))
        return [self.to_fine(torch.cat([fine, self.grow(middle)], 1)), middle]

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (N, 3, 48, 48) -> logits of heat (N, 24, 24, 24), joint by joint."""
        return self.heat(self.features(crops)[0])


def heat_targets(joints: Tensor) -> Tensor:
    """Joints (N, 24, 3), x and y in pixels of the crop and whether they are there -> heat (N, 24, 24, 24) in [0, 1]."""
    cells = torch.arange(CROP // STRIDE) + 0.5
    x, y = joints[..., 0, None] / STRIDE, joints[..., 1, None] / STRIDE
    columns = torch.exp(-((cells - x) ** 2) / (2 * SPREAD**2))  # (N, 24, 24)
    rows = torch.exp(-((cells - y) ** 2) / (2 * SPREAD**2))
    return rows[..., :, None] * columns[..., None, :] * joints[..., 2, None, None]


def joint_positions(logits: Tensor) -> Tensor:
    """The brightest cell of each map: (N, 24, 2), x and y in pixels of the crop."""
    best = logits.flatten(2).argmax(-1)
    side = logits.shape[-1]
    return (torch.stack([best % side, best // side], -1).float() + 0.5) * STRIDE


def load_pose_net(path: Path = WEIGHTS) -> PoseNet:
    """The network as shipped, frozen, float32. Raises QwenlabError when the file does not fit."""
    return load_frozen(PoseNet(), path, "the pose network", "qwenlab.lab.hands.train_pose_net")
