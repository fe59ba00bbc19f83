"""Draw beyond the edges of a picture: the result is larger, and the old pixels are in it unchanged.

Narrow strips are drawn one after the other, each in a window of the model's own area that shows the picture next to it.
What is not drawn yet shows the picture mirrored, for the VAE's sake: a black or grey border would leak into the latents
of the pixels beside it, which are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from qwenlab.data.images import to_rgb
from qwenlab.editing.checks import check_extension
from qwenlab.editing.latents import call_from_latents, check_edit, from_latents, to_latents
from qwenlab.editing.masks import grow_to_tokens
from qwenlab.editing.windows import Window, drawn_size
from qwenlab.model.generation import NEGATIVE_PROMPT, native_size
from qwenlab.model.limits import MAX_SEED, SIDE_STEP

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

# Of a window so much is drawn; the rest shows what is there. Near the edge of a picture models draw background; a strip
# of three eighths reaches to where the arms of a figure in the middle belong, and gets an arm of its own.
FRESH = 1 / 8
HEAL, SMOOTH = 16, 2.0  # pixels of the new strip that lead over from the old colours, and of smoothing along the edge


def extend(
    pipeline: QwenImagePipeline,
    picture: Image.Image,
    prompt: str,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
    negative_prompt: str = NEGATIVE_PROMPT,
    progress: bool = False,
) -> Image.Image:
    """Extend a picture by so many pixels on each side.

    Args:
        prompt: what the whole picture shows, place and style above all; each window is drawn with it.
        seed: of the first window; the others' follow from it.

    Returns: an RGB picture of (W + left + right, H + top + bottom); the old one lies in it bit for bit.
    Raises: QwenlabError for nothing or a negative number to extend by, a picture smaller than a token, a prompt that
        is too long, and numbers that cannot be drawn with.
    """
    from diffusers import QwenImageInpaintPipeline

    check_edit(pipeline, prompt, seed=seed, steps=steps, guidance=guidance)
    check_extension(picture.size, left, right, top, bottom, dashes="")
    old = np.asarray(to_rgb(picture))
    canvas = np.pad(old, ((top, bottom), (left, right), (0, 0)))
    known = np.pad(np.ones(old.shape[:2], bool), ((top, bottom), (left, right)))
    for number, window in enumerate(windows(picture.size, (left, right, top, bottom), native_size(pipeline))):
        fresh = _shown(window, known.shape) & ~known
        latents = to_latents(pipeline, window.view(mirrored_into(canvas, known)))
        drawn = call_from_latents(
            pipeline, QwenImageInpaintPipeline, latents, prompt, seed=(seed + 1_000_003 * number) % MAX_SEED,
            steps=steps, guidance=guidance, strength=1.0, negative_prompt=negative_prompt, progress=progress,
            mask_image=Image.fromarray(grow_to_tokens(window.view_levels(~known) > 0)),
            masked_image_latents=latents[None],
        )  # fmt: skip
        new = window.put(canvas, from_latents(pipeline, drawn))
        canvas = np.where(fresh[..., None], healed(canvas, new, known & _shown(window, known.shape)), canvas)
        known |= fresh
    return Image.fromarray(canvas)


def windows(size: tuple[int, int], sides: tuple[int, int, int, int], native: int) -> Iterator[Window]:
    """The windows to draw one after the other: first left and right, then above and below the whole width.

    size: (W, H) of the picture; sides: pixels to the left, right, top, bottom. Windows are in pixels of the result.
    """
    left, right, top, bottom = sides
    across, down = (left, left + size[0]), (top, top + size[1])  # where the picture begins and ends
    for start, depth, places, length in _strips(across, down, (left, right), native):
        for place in places:
            yield Window(start, place, depth, length, drawn_size(depth, length, native))
    across = (0, left + size[0] + right)
    for start, depth, places, length in _strips(down, across, (top, bottom), native):
        for place in places:
            yield Window(place, start, length, depth, drawn_size(length, depth, native))


def _strips(
    there: tuple[int, int], along: tuple[int, int], counts: tuple[int, int], native: int
) -> Iterator[tuple[int, int, list[int], int]]:
    """Strips before and after what is `there`, in one direction; `along` is the other one. Pixels.

    Yields where the windows of a strip begin, how deep they are, and the same along the strip: places and length.
    """
    begin, end = there
    whole = along[1] - along[0] + -(along[1] - along[0]) % SIDE_STEP
    length = min(whole, native)
    room = min(native**2 // length, 2 * native)  # depth of a window
    last, stride = along[0] + whole - length, max(_down(length * 3 / 4), SIDE_STEP)
    places = [*range(along[0], last, stride), last]
    for before, count in zip((True, False), counts, strict=True):
        while count > 0:
            shown = min(_down(end - begin), _down(room * (1 - FRESH)))
            drawn = min(count + -count % SIDE_STEP, max(_down(shown * FRESH / (1 - FRESH)), SIDE_STEP))
            shown = min(_down(end - begin), _down(room - drawn))
            yield (begin - drawn if before else end - shown), shown + drawn, places, length
            count -= drawn
            begin, end = (begin - drawn, end) if before else (begin, end + drawn)


def _down(side: float) -> int:
    return int(side) // SIDE_STEP * SIDE_STEP


def _shown(window: Window, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels in a window."""
    inside = np.zeros(shape, bool)
    inside[max(window.top, 0) : window.top + window.height, max(window.left, 0) : window.left + window.width] = True
    return inside


def mirrored_into(canvas: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, 3) whose unknown pixels are those that lie as far on the other side of the nearest known one."""
    places = np.indices(known.shape)
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    other = [
        np.clip(2 * near - here, 0, side - 1) for near, here, side in zip(nearest, places, known.shape, strict=True)
    ]
    other = np.where(known[tuple(other)], other, nearest)  # a narrow picture has no pixel so far inside
    return canvas[tuple(other)]


def healed(old: np.ndarray, new: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`new` (H, W, 3) uint8, led over to `old` beyond the edge of what is `known` (H, W) bool.

    The VAE gives the known pixels back a little changed: their difference along the border, smoothed, is added to the
    fresh pixels next to it and fades over `HEAL` pixels.
    """
    weight = gaussian_filter(known.astype(np.float32), SMOOTH)[..., None]
    change = np.where(known[..., None], old.astype(np.float32) - new, 0)
    change = gaussian_filter(change, (SMOOTH, SMOOTH, 0)) / np.maximum(weight, 1e-3)
    distance, nearest = distance_transform_edt(~known, return_indices=True)
    share = np.clip(1 - (distance - 1) / HEAL, 0, 1)[..., None]
    return np.clip(new + share * change[tuple(nearest)] + 0.5, 0, 255).astype(np.uint8)
