"""Train the pose network on drawings of the world: `python -m qwenlab.lab.hands.train_pose_net`.

Endless pictures with right anatomy, seeds of their own; a third of the crops go through the autoencoder, whose blur the
network will meet. Loss: squared error of heat, where a spot counts as much as all the rest of its map.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qwenlab.data.regions import regions
from qwenlab.hands.pose_net import CROP, JOINTS, WEIGHTS, PoseNet, heat_targets, joint_positions
from qwenlab.lab import world
from qwenlab.lab.micro.round_trip import blur_a_third, load_vae
from qwenlab.lab.networks import fit, save_half, vary
from qwenlab.lab.world.keypoints import of_picture
from qwenlab.model.micro_weights import MICRO_WEIGHTS

SEED = 31  # of the pictures; no other part of the package draws from it
SIZE = 128


def examples(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """`count` crops (N, 3, 48, 48) in [-1, 1] and their joints (N, 24, 3), in pixels of the crop."""
    crops, labels = [], []
    while len(crops) < count:
        character = rng.random() < 0.3
        draw = world.sample_character_scene if character else world.sample_scene
        scene = draw(rng, open_hands=0.9, **({} if character else {"split": "all"}))
        picture = world.render(scene, SIZE)
        joints = of_picture(picture)
        for region in regions(joints):
            left, top = (np.array([region.x, region.y]) - CROP / 2 + rng.uniform(-6, 6, 2)).round().astype(int)
            padded = np.pad(picture.image, ((CROP, CROP), (CROP, CROP), (0, 0)), mode="edge")
            crop = padded[top + CROP : top + 2 * CROP, left + CROP : left + 2 * CROP]
            found = np.zeros((JOINTS, 3), np.float32)
            for rows, groups in ((slice(0, 21), joints.hands), (slice(21, 24), joints.feet)):
                for group in groups:
                    inside = group[:, :2] - [left, top]
                    near = np.abs(group[:, :2].mean(0) - [region.x, region.y]).max() < region.side / 2
                    if np.all(group[:, 2] > 0) and near:
                        found[rows] = np.concatenate([inside, np.ones((len(group), 1))], 1)
            crops.append(torch.from_numpy(crop.copy()).permute(2, 0, 1).float() / 127.5 - 1)
            labels.append(torch.from_numpy(found))
    return torch.stack(crops[:count]), torch.stack(labels[:count])


def heat_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Squared error of heat; each map's spot weighs as much as its background."""
    error = (logits.sigmoid() - target).square()
    return (error * (1 + 40 * target)).mean()


def train(steps: int, batch: int, vae: object | None, say: bool = True) -> PoseNet:
    """Train a network from nothing; prints its progress every 100 steps."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    network = PoseNet()
    crops, labels = examples(rng, 8000)
    if vae is not None:
        blur_a_third(crops, vae)
    targets = heat_targets(labels)

    def loss_of_step() -> Tensor:
        rows = torch.randint(len(crops), (batch,))
        pictures, target = vary(crops[rows]), targets[rows]
        if torch.rand(()) < 0.5:  # the mirrored hand is the other hand, which has the same joints
            pictures, target = pictures.flip(3), target.flip(3)
        return heat_loss(network(pictures), target)

    return fit(network, loss_of_step, steps, 2e-3, weight_decay=0.01, say=say)


@torch.no_grad()
def joint_error(network: PoseNet, seed: int = SEED + 1, count: int = 500) -> float:
    """The mean distance in pixels of found from drawn joints, on other pictures."""
    crops, labels = examples(np.random.default_rng(seed), count)
    distance = (joint_positions(network(crops)) - labels[..., :2]).norm(dim=-1)
    return float(distance[labels[..., 2] > 0].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    network = train(options.steps, options.batch, load_vae(MICRO_WEIGHTS))
    print(f"joints are off by {joint_error(network):.2f} pixels on average")
    save_half(options.out, network.state_dict())


if __name__ == "__main__":
    main()
