"""Train the counter of heads on drawings of 0, 1 and 2 figures: `python -m qwenlab.lab.editing.train_heads`.

Figures stand anywhere, some of them so far out that only an arm or a foot is in the picture; a third of the pictures go
through the autoencoder. `qwenlab.lab.editing.calibrate_heads` measures its errors.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qwenlab.lab import world
from qwenlab.lab.editing.heads import STRIDE, WEIGHTS, HeadNet
from qwenlab.lab.micro.round_trip import blur_a_third, load_vae
from qwenlab.lab.networks import fit, save_half, vary
from qwenlab.lab.world.backgrounds import draw_background
from qwenlab.lab.world.canvas import Canvas
from qwenlab.lab.world.figure import draw_figure
from qwenlab.lab.world.render import FULL_SCALE, HALF_SCALE
from qwenlab.lab.world.skeleton import pose
from qwenlab.lab.world.styles import STYLE_OF, finish
from qwenlab.model.micro_weights import MICRO_WEIGHTS

SEED = 53  # of the pictures; no other part of the package draws from it
SIZE = 128
NEAR = 0.34  # of the picture's width: heads of two figures are at least so far apart
EDGE = 6  # pixels; a head whose centre is nearer to the edge is in no picture that errors are counted on
STYLES = ("剪纸画", *world.ATTRIBUTES["style"])

Head = tuple[float, float]  # x, y in pixels


def draw(rng: np.random.Generator, count: int, style: str | None = None) -> tuple[np.ndarray, list[Head]]:
    """A picture (128, 128, 3) uint8 with `count` heads, and their centres, all in the picture.

    Beside them there may be a figure whose head is outside.
    """
    first = _scene(rng, style)
    canvas_style = STYLE_OF[first.style]
    back, front = Canvas(SIZE, canvas_style), Canvas(SIZE, canvas_style)
    draw_background(back, first.background, rng)
    heads: list[Head] = []
    places = _places(rng, count)
    if rng.random() < (0.5 if count == 0 else 0.2):
        places.append(float(rng.choice((rng.uniform(-0.26, -0.1), rng.uniform(1.1, 1.26)))))
    for number, x in enumerate(places):
        scene = first if number == 0 or rng.random() < 0.6 else replace(_scene(rng, style), style=first.style)
        bones = pose(scene, rng)
        scale = (FULL_SCALE if scene.framing == "全身" else HALF_SCALE) * rng.uniform(0.75, 1.05)
        y = rng.uniform(0.0, 0.2) if count < 2 and scene.framing == "半身" else 0.965 - scale
        front.place(scale, x, y, scene.view == "侧面" and rng.random() < 0.5)
        draw_figure(front, scene, bones, world.Anatomy(), rng)
        center = front.pixels(bones.joint["neck"] + [0, -0.185])
        if ((center >= 0) & (center < SIZE)).all():
            heads.append((float(center[0]), float(center[1])))
    return finish(back.rgba(), front.rgba(), canvas_style, rng), heads


def _scene(rng: np.random.Generator, style: str | None) -> world.Scene:
    scene = (world.sample_character_scene if rng.random() < 0.2 else world.sample_scene)(rng, split="all")
    return scene if style is None else replace(scene, style=style)


def _places(rng: np.random.Generator, count: int) -> list[float]:
    """Where figures stand, in widths of the picture."""
    if count < 2:
        return [float(rng.uniform(0.06, 0.94)) for _ in range(count)]
    left = rng.uniform(0.05, 0.95 - NEAR)
    return [float(x) for x in rng.permutation([left, rng.uniform(left + NEAR, 0.95)])]


def examples(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """`count` pictures (N, 3, 128, 128) in [-1, 1] with 0, 1, 2 figures in turn, and maps of heat (N, 16, 16)."""
    pictures, cells = [], (torch.arange(SIZE // STRIDE) + 0.5) * STRIDE
    heat = torch.zeros(count, len(cells), len(cells))
    for i in range(count):
        image, heads = draw(rng, i % 3)
        pictures.append(torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1)
        for x, y in heads:
            spot = torch.exp(-((cells[:, None] - y) ** 2 + (cells - x) ** 2) / (2 * STRIDE**2))
            heat[i] = torch.maximum(heat[i], spot)
            heat[i, int(y / STRIDE), int(x / STRIDE)] = 1.0
    order = torch.from_numpy(rng.permutation(count))
    return torch.stack(pictures)[order], heat[order]


def heat_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """The focal loss of centre points (CenterNet's); (B, rows, columns) both."""
    chance = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centers = heat == 1
    hit = -((1 - chance) ** 2 * chance.log())[centers].sum()
    miss = -((1 - heat) ** 4 * chance**2 * (1 - chance).log())[~centers].sum()
    return (hit + miss) / centers.sum().clamp(min=1)


def train(steps: int, batch: int, count: int, vae: object | None, say: bool = True) -> HeadNet:
    """Train a network from nothing on `count` pictures; prints its progress every 100 steps."""
    torch.manual_seed(SEED)
    pictures, heat = examples(np.random.default_rng(SEED), count)
    if vae is not None:
        blur_a_third(pictures, vae)
    network = HeadNet()

    def loss_of_step() -> Tensor:
        rows = torch.randint(count, (batch,))
        shown, wanted = vary(pictures[rows]), heat[rows]
        if torch.rand(()) < 0.5:
            shown, wanted = shown.flip(3), wanted.flip(2)
        return heat_loss(network(shown), wanted)

    return fit(network, loss_of_step, steps, 4e-3, weight_decay=0.01, say=say)


def held_out(count: int, style: str | None = None, seed: int = SEED + 1) -> tuple[np.ndarray, list[int]]:
    """`count` other pictures (N, 128, 128, 3) uint8 and their numbers of heads, none of which the edge cuts."""
    rng = np.random.default_rng(seed)
    images, counts = [], []
    while len(images) < count:
        image, heads = draw(rng, len(images) % 3, style)
        if all(EDGE < value < SIZE - EDGE for head in heads for value in head):
            images.append(image)
            counts.append(len(heads))
    return np.stack(images), counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=3600)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    network = train(options.steps, options.batch, options.pictures, load_vae(MICRO_WEIGHTS))
    save_half(options.out, network.state_dict())


if __name__ == "__main__":
    main()
