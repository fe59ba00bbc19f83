"""Hands and feet for training: close-ups cut out of the pictures one has, upright, and how often a step sees them.

A close-up has more pixels of the hand than the whole picture has after it was made small for training: of a hand of
170 pixels in a picture of 1024, training at 128 sees 21. Cutting first gives them back. Each close-up is another cut:
shifted, larger or smaller, and turned a little.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qwenlab.data.dataset import Dataset, read_dataset
from qwenlab.data.images import open_image
from qwenlab.data.keypoints import Keypoints, read_keypoints, write_keypoints
from qwenlab.data.regions import Region, feet_region, regions
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_text
from qwenlab.hands.captions import close_up_caption, shows_bare_feet
from qwenlab.hands.squares import above_the_edge, cut, joints_in_square

SEED = 7  # of the cuts
PER_REGION = {"hand": 12, "feet": 8}  # cuts: there are more feet, and they differ less


def write_close_ups(dataset: Dataset, folder: Path, size: int, kinds: Sequence[str] = ("hand", "feet")) -> Dataset:
    """Write a data set of close-ups of `size` x `size` pixels into `folder`, with captions and keypoints.

    kinds: "hand", "feet", or "bare_feet", which leaves out shoes.

    Raises QwenlabError without keypoints.jsonl, and when no picture shows a whole hand or a pair of feet.
    """
    keypoints = read_keypoints(dataset.folder)
    rng = np.random.default_rng(SEED)
    lines, found = [], {}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for sample in dataset.samples:
        joints = keypoints.get(sample.path.name)
        if joints is None:
            raise QwenlabError(f"{dataset.folder / 'keypoints.jsonl'}: has no line for {sample.path.name}")
        picture = open_image(sample.path)  # turned, and in the colours that training sees
        for number, region in enumerate(close_up_regions(joints)):
            asked = region.kind in kinds or (
                region.kind == "feet" and "bare_feet" in kinds and shows_bare_feet(sample.text)
            )
            for k in range(PER_REGION[region.kind] if asked else 0):
                moved = moved_a_little(region, rng, mirror=region.kind == "feet" and k % 2 == 1)
                name = f"{sample.path.stem}-{region.kind}-{number}-{k:02d}.png"
                moved = above_the_edge(moved, picture.height)
                cut(picture, moved, size).save(folder / "images" / name, compress_level=1)  # read soon, and once
                found[name] = joints_in_square(joints, moved, size)
                row = {"file_name": name, "text": close_up_caption(sample.text, region.kind)}
                lines.append(json.dumps(row, ensure_ascii=False))
    if not lines:
        asked = ", ".join(kinds)
        raise QwenlabError(f"augment_hands: no picture of {dataset.folder} shows what close_ups asks for: {asked}")
    write_keypoints(folder, found)
    atomic_write_text(folder / "captions.jsonl", "\n".join(lines) + "\n")
    return read_dataset(folder)


def close_up_regions(joints: Keypoints) -> list[Region]:
    """The open hands of a picture, and its feet together when all their joints are seen."""
    hands = [region for region in regions(joints) if region.kind == "hand"]
    return hands + ([feet_region(joints.feet)] if np.all(joints.feet[..., 2] > 0) else [])


def moved_a_little(region: Region, rng: np.random.Generator, mirror: bool = False) -> Region:
    """The region shifted by up to 3% of its side, up to 5% larger or smaller, turned by some 3 degrees."""
    x, y = np.array([region.x, region.y]) + rng.uniform(-0.03, 0.03, 2) * region.side
    side = region.side * float(rng.uniform(0.96, 1.05))
    angle = region.angle + 3 * float(rng.normal())
    return replace(region, x=float(x), y=float(y), side=side, angle=angle, mirrored=region.mirrored != mirror)
