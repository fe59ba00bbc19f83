"""Training pictures from the world: drawn in parallel, each a function of (seed, stream, index) alone.

This module stays light (numpy and the world): worker processes import it.
"""

from __future__ import annotations

import multiprocessing
import os
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from qwenlab.lab import world

FOCUS_POINTS = 5  # two hands, two feet, the face


def derived_rng(seed: int, *path: int | str) -> np.random.Generator:
    """A numpy generator that depends on `seed` and the path only, such as ("crops", step)."""
    return np.random.default_rng([seed, *(zlib.crc32(p.encode()) if isinstance(p, str) else p for p in path)])


@dataclass(frozen=True)
class Draw:
    """What to draw: see `sample_scene`; `wrong_anatomy` is the share of pictures with a wrong hand or foot count."""

    seed: int
    stream: str
    size: int = 128
    split: str = "train"
    open_hands: float = 0.1
    wrong_anatomy: float = 0.0


def draw_scene(draw: Draw, index: int) -> tuple[world.Scene, world.Anatomy]:
    """The scene of picture `index` of a stream and the anatomy to draw it with."""
    rng = derived_rng(draw.seed, draw.stream, index)
    scene = world.sample_scene(rng, split=draw.split, open_hands=draw.open_hands)
    if rng.random() >= draw.wrong_anatomy:
        return scene, world.Anatomy()
    right, left = (world.WRONG_FINGERS[i] for i in rng.integers(len(world.WRONG_FINGERS), size=2))
    return scene, world.Anatomy((right, left), world.WRONG_FEET[int(rng.integers(len(world.WRONG_FEET)))])


def draw_picture(draw: Draw, index: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns the picture (size, size, 3) uint8, its focus points (5, 2) in pixels (NaN when hidden), its caption."""
    scene, anatomy = draw_scene(draw, index)
    picture = world.render(scene, draw.size, anatomy)
    points = np.full((FOCUS_POINTS, 2), np.nan, np.float32)
    for i, hand in enumerate(picture.hand_info):
        if hand.state != "hidden":
            points[i] = hand.center
    for i, joints in enumerate([*picture.feet, picture.body[:1]], start=2):
        visible = joints[joints[:, 2] > 0, :2]
        if len(visible):
            points[i] = visible.mean(axis=0)
    return picture.image, points, world.caption(scene)


class Painter:
    """Draws ranges of a stream with a few worker processes; use as a context manager.

    Workers are spawned, not forked: forking a process that runs torch threads can deadlock.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Painter:
        if self.workers > 1:
            self._executor = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def draw(self, draw: Draw, indices: range) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Pictures (N, size, size, 3) uint8, focus points (N, 5, 2) float32 and N captions."""
        task = partial(draw_picture, draw)
        if self._executor is None:
            results = map(task, indices)
        else:
            results = self._executor.map(task, indices, chunksize=32)
        images, points, captions = zip(*results, strict=True)
        return np.stack(images), np.stack(points), list(captions)


class PicturePool:
    """A pool of pictures that is renewed bit by bit, so that training never runs out of new ones.

    Slot j holds the picture with the largest index n = j (mod size) among the first `size + k * refresh` of the
    stream, k being the number of renewals so far: its content is a function of the step alone, as resuming needs.
    """

    def __init__(self, painter: Painter, draw: Draw, size: int, refresh: int, refresh_every: int) -> None:
        self.painter, self.draw_spec = painter, draw
        self.size, self.refresh, self.refresh_every = size, refresh, refresh_every
        self._end = 0  # index after the newest picture
        self.images = np.empty((size, draw.size, draw.size, 3), np.uint8)
        self.points = np.empty((size, FOCUS_POINTS, 2), np.float32)

    def at_step(self, step: int) -> None:
        """Bring the pool to the content it has at `step`."""
        end = self.size + step // self.refresh_every * self.refresh
        start = max(self._end, end - self.size)
        if start < end:
            images, points, _ = self.painter.draw(self.draw_spec, range(start, end))
            slots = np.arange(start, end) % self.size
            self.images[slots], self.points[slots] = images, points
            self._end = end

    def crops(self, rng: np.random.Generator, batch: int, crop: int, focus: float) -> np.ndarray:
        """Random square crops (batch, crop, crop, 3) uint8, half of them mirrored.

        A share `focus` of them is centred near a visible hand, foot or face.
        """
        out = np.empty((batch, crop, crop, 3), np.uint8)
        limit = self.draw_spec.size - crop
        for i in range(batch):
            slot = int(rng.integers(self.size))
            corner = rng.integers(0, limit + 1, 2)
            points = self.points[slot]
            points = points[~np.isnan(points[:, 0])]
            if len(points) and rng.random() < focus:
                centre = points[int(rng.integers(len(points)))] + rng.uniform(-crop / 4, crop / 4, 2)
                corner = np.clip(np.round(centre - crop / 2).astype(int), 0, limit)
            x, y = int(corner[0]), int(corner[1])
            cut = self.images[slot, y : y + crop, x : x + crop]
            out[i] = cut[:, ::-1] if rng.random() < 0.5 else cut
        return out
