"""Feet as an inpainting leaves them: drawn large, through the autoencoder, and put back into a small picture.

For the networks that tell right from wrong. Feet that models drew whole pictures with are wrong when they are bare and
right when they wear shoes, nearly always; networks that see no others learn to tell shoes. These are mostly bare, and
half of them right, half spoilt (`qwenlab.lab.hands.melt`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qwenlab.data.regions import Region, feet_region, inexact
from qwenlab.hands.squares import as_tensor, cut, put_back
from qwenlab.lab import world
from qwenlab.lab.hands.melt import melt

if TYPE_CHECKING:
    from diffusers import AutoencoderKLQwenImage

SIZE, FINER = 128, 2  # pixels of a picture's side, and how many times more the feet are drawn with
CHARACTER, BARE = 0.6, 0.8  # shares of the pictures


def redrawn_feet(
    rng: np.random.Generator, count: int, vae: AutoencoderKLQwenImage, size: int, context: float
) -> tuple[Tensor, Tensor]:
    """Inexact squares of feet (N, 3, size, size) in [-1, 1], `context` times their region, and whether they are right.

    Every second one is drawn with its picture and put through the autoencoder with it, not put back.
    """
    from qwenlab.lab.micro.round_trip import round_trip

    drawings, regions, right = zip(*(_draw(rng) for _ in range(count)), strict=True)
    pictures = [drawing.resize((SIZE, SIZE), Image.Resampling.LANCZOS) for drawing in drawings]
    pictures = [Image.fromarray(image) for image in round_trip(np.stack(pictures), vae)]
    large = [replace(r, x=r.x * FINER, y=r.y * FINER, side=r.side * FINER) for r in regions]
    squares = [cut(drawing, region, SIZE) for drawing, region in zip(drawings[::2], large[::2], strict=True)]
    squares = round_trip(np.stack(squares), vae)
    pictures[::2] = [
        put_back(picture, Image.fromarray(square), region)
        for picture, square, region in zip(pictures[::2], squares, regions[::2], strict=True)
    ]
    cuts = [cut(image, inexact(r, rng), size, context) for image, r in zip(pictures, regions, strict=True)]
    return as_tensor(cuts), torch.tensor(right, dtype=torch.float32)


def _draw(rng: np.random.Generator) -> tuple[Image.Image, Region, bool]:
    """A drawing FINER times as large as a picture, the region of feet in the small one, and whether it is right."""
    sample = world.sample_character_scene if rng.random() < CHARACTER else world.sample_scene
    bare = rng.random() < BARE
    scene = sample(rng, split="all", framing="全身", feet="光脚" if bare else "穿鞋")
    right = bool(rng.random() < 0.5)
    picture = world.render(scene, SIZE * FINER)
    region = feet_region(picture.feet)
    image = picture.image if right else melt(picture.image, region, rng)
    small = replace(region, x=region.x / FINER, y=region.y / FINER, side=region.side / FINER)
    return Image.fromarray(image), small, right
