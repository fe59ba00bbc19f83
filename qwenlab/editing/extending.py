"""Draw beyond the edges of a picture: the result is larger, and the old pixels are in it unchanged.

Strips are drawn one after the other, each in a window of the model's own area that shows the picture next to it. They
do not start from noise alone but from the colours at the edge, carried on and noised: a model that knows pictures with
a figure in the middle draws a part of another one beside it, wherever it is free to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from qwenlab.data.images import to_rgb
from qwenlab.editing.checks import check_extension, check_strength
from qwenlab.editing.latents import call_from_latents, check_edit, from_latents, to_latents
from qwenlab.editing.masks import grow_to_tokens
from qwenlab.editing.windows import Window, drawn_size
from qwenlab.model.generation import NEGATIVE_PROMPT, native_size
from qwenlab.model.limits import MAX_SEED, SIDE_STEP

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

FRESH = 3 / 8  # of a window is drawn at most; the rest shows what is there
STRENGTH = 0.7
HEAL, SMOOTH = 16, 2.0  # pixels of the new strip that lead over from the old colours, and of smoothing along the edge


def extend(
    pipeline: QwenImagePipeline,
    picture: Image.Image,
    prompt: str = NEGATIVE_PROMPT,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 1.0,
    strength: float = STRENGTH,
    negative_prompt: str = NEGATIVE_PROMPT,
    progress: bool = False,
) -> Image.Image:
    """Extend a picture by so many pixels on each side.

    Args:
        prompt: what each window is drawn with: place and style, not the figure, which would be drawn again. By default
            none: what is there says it. The micro model knows whole captions or none.
        seed: of the first window; the others' follow from it.
        guidance: strengthens what the prompt names; 1 or less: off.
        strength: the share of the steps that is walked; 1 forgets the colours at the edge.

    Returns: an RGB picture of (W + left + right, H + top + bottom); the old one lies in it bit for bit.
    Raises: QwenlabError for nothing or a negative number to extend by, a picture smaller than a token, a prompt that
        is too long, and numbers that cannot be drawn with.
    """
    from diffusers import QwenImageInpaintPipeline

    check_edit(pipeline, prompt, seed=seed, steps=steps, guidance=guidance)
    check_strength(strength)
    check_extension(picture.size, left, right, top, bottom, dashes="")
    old = np.asarray(to_rgb(picture))
    canvas = np.pad(old, ((top, bottom), (left, right), (0, 0)))
    known = np.pad(np.ones(old.shape[:2], bool), ((top, bottom), (left, right)))
    for number, window in enumerate(windows(picture.size, (left, right, top, bottom), native_size(pipeline))):
        fresh = _shown(window, known.shape) & ~known
        latents = to_latents(pipeline, window.view(carried_on(canvas, known)))
        drawn = call_from_latents(
            pipeline, QwenImageInpaintPipeline, latents, prompt, seed=(seed + 1_000_003 * number) % MAX_SEED,
            steps=steps, guidance=guidance, strength=strength, negative_prompt=negative_prompt, progress=progress,
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


def carried_on(canvas: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(H, W, 3) whose unknown pixels are those of the nearest known one."""
    return canvas[tuple(distance_transform_edt(~known, return_distances=False, return_indices=True))]


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
