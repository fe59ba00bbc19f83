"""Masks: white is drawn again, black stays. Read from files, grown to whole tokens, feathered.

The transformer sees tokens of 16 x 16 pixels, and the stock inpainting pipeline takes one pixel of the mask for each
cell of 8: a mask that misses these pixels does nothing, without a word. So masks are grown to whole tokens first.

H, W height and width of the picture in pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from qwenlab.data.images import image_size, known_formats, to_rgb
from qwenlab.errors import QwenlabError
from qwenlab.model.limits import SIDE_STEP

WHITE = 128  # of 255, from which on a pixel counts as white
FEATHER = 4  # pixels in which the drawn pixels take over from the old ones


def read_mask(path: str | Path, size: tuple[int, int]) -> Image.Image:
    """A mask file as a grey picture ("L") of `size` (W, H): the lightest channel counts, so any bright brush works.

    What is transparent is black: it stays. Raises QwenlabError for a file that is no picture, and for one of another
    size than the picture's.
    """
    found = image_size(path)
    if found != tuple(size):
        raise QwenlabError(
            f"{path}: a mask of {found[0]} x {found[1]} pixels for a picture of {size[0]} x {size[1]}; make them equal"
        )
    try:
        with Image.open(path, formats=known_formats()) as image:
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
            mask = Image.fromarray(np.asarray(to_rgb(image)).max(-1))
    except Exception as error:  # Pillow's decoders raise almost anything on broken files
        raise QwenlabError(f"{path}: not a readable image ({type(error).__name__}: {error}); replace it") from error
    return mask


def white_pixels(mask: Image.Image | np.ndarray, size: tuple[int, int], name: str = "mask") -> np.ndarray:
    """(H, W) bool: where a mask is white. mask: a picture of `size` (W, H), or (H, W) bool or uint8.

    Raises QwenlabError, which calls the mask `name`, for another size and when nothing is white.
    """
    pixels = np.asarray(mask.convert("L") if isinstance(mask, Image.Image) else mask)
    if pixels.shape != tuple(size)[::-1]:
        shape = " x ".join(str(side) for side in pixels.shape[::-1])
        raise QwenlabError(f"{name}: {shape} pixels for a picture of {size[0]} x {size[1]}; make them equal")
    white = pixels if pixels.dtype == bool else pixels >= WHITE
    if not white.any():
        raise QwenlabError(f"{name}: nothing in it is white; paint white what is to be drawn again")
    return white


def grow_to_tokens(white: np.ndarray, token: int = SIDE_STEP) -> np.ndarray:
    """(H, W) bool: every token of `token` x `token` pixels, counted from the top left, that `white` (H, W) touches."""
    height, width = white.shape
    padded = np.pad(white, ((0, -height % token), (0, -width % token)))
    touched = padded.reshape(padded.shape[0] // token, token, -1, token).any(axis=(1, 3))
    return touched.repeat(token, 0).repeat(token, 1)[:height, :width]


def feather(region: np.ndarray, width: float = FEATHER) -> np.ndarray:
    """How much of the drawn pixels is taken: (H, W) float32, 0 outside `region` (H, W) bool, rising to 1 inside it.

    The rise lies inside the region, over `width` pixels from its edge; the edge of the picture is none.
    """
    from scipy.ndimage import distance_transform_edt

    if region.all():
        return np.ones(region.shape, np.float32)
    return np.clip((distance_transform_edt(region) - 0.5) / width, 0, 1).astype(np.float32)


def blend(old: np.ndarray, new: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of `new` over `old`; where `share` (H, W) is 0 the old ones stay bit for bit."""
    mixed = old + share[..., None] * (new.astype(np.float32) - old)
    return np.where(share[..., None] > 0, np.clip(mixed + 0.5, 0, 255).astype(np.uint8), old)
