"""Train the detector of hands and feet on drawings of the world: `python -m qwenlab.lab.hands.train_finder`.

Half of the pictures have wrong anatomy, for what a repair looks for is rarely well-formed; a third go through the
autoencoder. Loss: the focal loss of centre points, and the error of the sizes at the true centres.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qwenlab.data.regions import Region, feet_region, hand_region
from qwenlab.hands.finder import KINDS, SIZE, STRIDE, UNIT, WEIGHTS, Finder, peaks
from qwenlab.lab import world
from qwenlab.lab.micro.round_trip import blur_a_third, load_vae
from qwenlab.lab.networks import fit, save_half, vary
from qwenlab.model.micro_weights import MICRO_WEIGHTS

SEED = 41  # of the pictures; no other part of the package draws from it
CELLS = SIZE // STRIDE
SPREAD = 1.2  # cells; the standard deviation of a centre's spot


def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[Region]]:
    """A picture (128, 128, 3) uint8 and its open hands and feet."""
    character = rng.random() < 0.4
    sample = world.sample_character_scene if character else world.sample_scene
    scene = sample(rng, open_hands=0.7, **({} if character else {"split": "all"}))
    wrong = rng.random() < 0.5
    fingers = tuple(world.WRONG_FINGERS[int(rng.integers(6))] if wrong else 5 for _ in range(2))
    feet = world.WRONG_FEET[int(rng.integers(3))] if wrong and rng.random() < 0.5 else "normal"
    picture = world.render(scene, SIZE, world.Anatomy(fingers, feet))
    found = []
    for hand, joints in zip(picture.hand_info, picture.hands, strict=True):
        if hand.state == "open" and all(4 < value < SIZE - 4 for value in hand.center):
            found.append(hand_region(joints))
    if scene.framing == "全身":
        found.append(feet_region(picture.feet))
    return picture.image, found


def examples(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, list[list[Region]]]:
    """`count` pictures (N, 3, 128, 128) in [-1, 1], maps (N, 7, 32, 32) and the regions.

    Maps: heat of both kinds, their sizes and the turns of hands, the last two 0 where no centre is.
    """
    pictures, regions = [], []
    maps = torch.zeros(count, 2 * len(KINDS) + 3, CELLS, CELLS)
    heat, sizes, turns = maps.split([len(KINDS), len(KINDS), 3], 1)
    cells = torch.arange(CELLS) + 0.5
    for i in range(count):
        image, found = draw(rng)
        pictures.append(torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1)
        regions.append(found)
        for region in found:
            k, x, y = KINDS.index(region.kind), region.x / STRIDE, region.y / STRIDE
            spot = torch.exp(-((cells[:, None] - y) ** 2 + (cells - x) ** 2) / (2 * SPREAD**2))
            row, column = min(max(int(y), 0), CELLS - 1), min(max(int(x), 0), CELLS - 1)
            heat[i, k] = torch.maximum(heat[i, k], spot)
            heat[i, k, row, column] = 1.0
            near = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            sizes[i, k][near] = float(np.log(region.side / UNIT))
            if region.kind == "hand":
                turn = np.deg2rad(region.angle)
                for part, value in enumerate((np.cos(turn), np.sin(turn), 1.0 if region.mirrored else -1.0)):
                    turns[i, part][near] = float(value)
    return torch.stack(pictures), maps, regions


def mirrored(pictures: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The same examples seen in a mirror: sines and thumbs change their signs."""
    maps = maps.flip(3).clone()
    maps[:, -2:] *= -1
    return pictures.flip(3), maps


def detection_loss(found: tuple[Tensor, Tensor, Tensor], maps: Tensor) -> Tensor:
    """Focal loss of the centres (CenterNet's), and the absolute errors of sizes and turns around them."""
    centers, sizes, turns = found
    heat, wanted, turned = maps.split([len(KINDS), len(KINDS), 3], 1)
    chance = centers.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = heat == 1
    hit = -((1 - chance) ** 2 * chance.log())[positive].sum()
    miss = -((1 - heat) ** 4 * chance**2 * (1 - chance).log())[~positive].sum()
    loss = (hit + miss) / positive.sum().clamp(min=1)
    for values, true in ((sizes, wanted), (turns, turned)):
        loss = loss + (values - true).abs()[true != 0].mean()
    return loss


def train(steps: int, batch: int, count: int, vae: object | None, say: bool = True) -> Finder:
    """Train a detector from nothing on `count` pictures; prints its progress every 100 steps."""
    torch.manual_seed(SEED)
    network = Finder()
    pictures, maps, _ = examples(np.random.default_rng(SEED), count)
    if vae is not None:
        blur_a_third(pictures, vae)

    def loss_of_step() -> Tensor:
        rows = torch.randint(count, (batch,))
        shown, wanted = vary(pictures[rows]), maps[rows]
        if torch.rand(()) < 0.5:
            shown, wanted = mirrored(shown, wanted)
        return detection_loss(network(shown), wanted)

    return fit(network, loss_of_step, steps, 3e-3, weight_decay=0.01, say=say)


@torch.no_grad()
def detection_rates(network: Finder, seed: int = SEED + 1, count: int = 500) -> dict[str, float]:
    """On other pictures: the shares of hands and feet that are found (centre off by a third of the side at most), of
    finds that are true, of found hands that are seen upright (within 20 degrees) and whose thumb's side is right."""
    pictures, _, regions = examples(np.random.default_rng(seed), count)
    hits, finds, totals = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    upright = thumbs = 0
    for start in range(0, count, 50):
        found_maps = network(pictures[start : start + 50])
        for i, true in enumerate(regions[start : start + 50]):
            found = peaks(*(maps[i] for maps in found_maps))
            for region in found:
                finds[region.kind] += 1
            for region in true:
                near = [f for f in found if f.kind == region.kind
                        and np.hypot(f.x - region.x, f.y - region.y) < region.side / 3]  # fmt: skip
                hits[region.kind] += bool(near)
                totals[region.kind] += 1
                if near and region.kind == "hand":
                    off = abs((near[0].angle - region.angle + 180) % 360 - 180)
                    upright, thumbs = upright + (off < 20), thumbs + (near[0].mirrored == region.mirrored)
    return (
        {f"{kind} found": hits[kind] / totals[kind] for kind in KINDS}
        | {f"{kind} true": hits[kind] / finds[kind] for kind in KINDS}
        | {"hands upright": upright / hits["hand"], "thumbs": thumbs / hits["hand"]}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    network = train(options.steps, options.batch, options.pictures, load_vae(MICRO_WEIGHTS))
    for name, share in detection_rates(network).items():
        print(f"{name}: {share:.1%}")
    save_half(options.out, network.state_dict())


if __name__ == "__main__":
    main()
