"""The part of a picture that the model sees at once, at the size that it was made for.

A window is as near to the model's own area as the picture allows, lies on the picture's grid of tokens, and holds what
is drawn with something around it. Where a picture ends before its window it goes on mirrored, which draws no edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from qwenlab.errors import QwenlabError
from qwenlab.model.limits import SIDE_STEP


@dataclass(frozen=True)
class Window:
    """A rectangle of the picture, in its pixels, which may reach beyond it, and the size that it is drawn at."""

    left: int
    top: int
    width: int
    height: int
    drawn: tuple[int, int]  # (width, height), multiples of 16

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """What the window shows of (H, W, ...) at the picture's own scale: (height, width, ...)."""
        rows = _mirrored(self.top, self.height, pixels.shape[0])
        columns = _mirrored(self.left, self.width, pixels.shape[1])
        return pixels[rows[:, None], columns]

    def view(self, pixels: np.ndarray) -> Image.Image:
        """The picture in the window, of (H, W, 3) uint8, as it is drawn."""
        image = Image.fromarray(self.cut(pixels))
        return image if image.size == self.drawn else image.resize(self.drawn, Image.Resampling.LANCZOS)

    def view_levels(self, levels: np.ndarray) -> np.ndarray:
        """(H, W) numbers or bool in the window as they are drawn: (rows, columns) float32, means where scaled."""
        shown = Image.fromarray(self.cut(levels).astype(np.float32))
        return np.asarray(shown if shown.size == self.drawn else shown.resize(self.drawn, Image.Resampling.BOX))

    def put(self, pixels: np.ndarray, drawn: Image.Image) -> np.ndarray:
        """(H, W, 3) uint8 with what was drawn in the window in its place."""
        if drawn.size != (self.width, self.height):
            drawn = drawn.resize((self.width, self.height), Image.Resampling.LANCZOS)
        height, width = pixels.shape[:2]
        rows = slice(max(self.top, 0), min(self.top + self.height, height))
        columns = slice(max(self.left, 0), min(self.left + self.width, width))
        result = pixels.copy()
        result[rows, columns] = np.asarray(drawn)[
            rows.start - self.top : rows.stop - self.top, columns.start - self.left : columns.stop - self.left
        ]
        return result


def window_around(box: tuple[int, int, int, int], size: tuple[int, int], native: int) -> Window:
    """The window to draw `box` (left, top, right, bottom) of a picture of `size` (W, H) in, all in pixels.

    The whole picture where the model's area (`native` squared) holds it; otherwise an area of that size around the box,
    at the picture's own scale; or, where the box is larger, the box and what is around it, drawn smaller. Raises
    QwenlabError for a picture that is smaller than a token.
    """
    whole = _up(size[0]), _up(size[1])
    if math.prod(whole) <= native**2:
        return whole_window(size, native)
    check_sides(size)
    sides = [min(side, native) for side in whole]
    for axis in (0, 1):  # what a low picture lacks in height it may have in width
        if sides[1 - axis] < native:
            sides[axis] = min(whole[axis], native**2 // sides[1 - axis] // SIDE_STEP * SIDE_STEP)
    around = native // 8
    places = []
    for axis in (0, 1):
        low, high = max(box[axis] - around, 0), min(box[axis + 2] + around, whole[axis])
        low, high = low - low % SIDE_STEP, _up(high)
        sides[axis] = max(sides[axis], high - low)
        place = (low + high - sides[axis]) // 2
        places.append(min(max(place - place % SIDE_STEP, 0), whole[axis] - sides[axis]))
    return Window(*places, *sides, drawn_size(*sides, native))


def whole_window(size: tuple[int, int], native: int) -> Window:
    """All of a picture of `size` (W, H) pixels. Raises QwenlabError for one that is smaller than a token."""
    check_sides(size)
    width, height = _up(size[0]), _up(size[1])
    return Window(0, 0, width, height, drawn_size(width, height, native))


def drawn_size(width: int, height: int, native: int) -> tuple[int, int]:
    """The size to draw a window at: its own, unless that is more than the model's area or less than half of it."""
    scale = native / math.sqrt(width * height)
    if 1 <= scale <= math.sqrt(2):
        return width, height
    return tuple(max(round(side * scale / SIDE_STEP), 1) * SIDE_STEP for side in (width, height))


def check_sides(size: tuple[int, int], name: str = "picture") -> None:
    """Raise QwenlabError for a picture of `size` (W, H) pixels that is smaller than a token."""
    if min(size) < SIDE_STEP:
        raise QwenlabError(
            f"{name}: {size[0]} x {size[1]} pixels are less than a token of {SIDE_STEP} x {SIDE_STEP}; enlarge it"
        )


def _up(side: int) -> int:
    return side + -side % SIDE_STEP


def _mirrored(start: int, count: int, length: int) -> np.ndarray:
    """Places start ... start + count - 1 on a line of `length` pixels that goes on mirrored at both ends."""
    places = np.arange(start, start + count) % (2 * length)
    return np.where(places < length, places, 2 * length - 1 - places)
