"""Draw a region of a picture again; outside the tokens that the mask touches no pixel changes.

The stock inpainting pipeline blends latents (as Blended Latent Diffusion, arXiv 2206.02779): after each step what lies
outside the mask is replaced by the picture, noised to the next sigma. It returns the whole picture through the VAE,
which changes every pixel, and most those within 16 pixels of the mask. Here the old pixels are put back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from qwenlab.data.images import to_rgb
from qwenlab.editing.checks import check_something_stays, check_strength
from qwenlab.editing.latents import call_from_latents, check_edit, from_latents, to_latents
from qwenlab.editing.masks import blend, feather, grow_to_tokens, white_pixels
from qwenlab.editing.windows import window_around
from qwenlab.model.generation import NEGATIVE_PROMPT, native_size

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def redraw(
    pipeline: QwenImagePipeline,
    picture: Image.Image,
    mask: Image.Image | np.ndarray,
    prompt: str,
    *,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
    strength: float = 1.0,
    negative_prompt: str = NEGATIVE_PROMPT,
    exact: bool = False,
    progress: bool = False,
) -> Image.Image:
    """Draw what is white in the mask again, as `prompt` says of the whole picture.

    The model sees as much of the picture around the mask as its own size holds (`qwenlab.editing.windows`). The noise
    is that of `generate` for the same seed and size (`call_from_latents` says how).

    Args:
        mask: of the picture's size, white where to draw; (H, W) bool, too. It is grown to whole tokens of 16 pixels,
            and what is drawn there fades into the old pixels inside them.
        strength: the share of the steps that is walked; 1 forgets what was there.
        exact: change no pixel outside the mask itself. The seam then runs through what was drawn.

    Returns: a new RGB picture of the same size.
    Raises: QwenlabError for a mask of another size, an empty one, one that leaves nothing while strength is 1, a
        picture smaller than a token, and numbers that cannot be drawn with.
    """
    from diffusers import QwenImageInpaintPipeline

    check_edit(pipeline, prompt, seed=seed, steps=steps, guidance=guidance)
    check_strength(strength)
    old = np.asarray(to_rgb(picture))  # (H, W, 3)
    white = white_pixels(mask, picture.size)
    check_something_stays(white, strength)
    touched = grow_to_tokens(white)
    rows, columns = (np.flatnonzero(touched.any(axis)) for axis in (1, 0))
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    window = window_around(box, picture.size, native_size(pipeline))
    latents = to_latents(pipeline, window.view(old))
    drawn = call_from_latents(
        pipeline, QwenImageInpaintPipeline, latents, prompt, seed=seed, steps=steps, guidance=guidance,
        strength=strength, negative_prompt=negative_prompt, progress=progress,
        mask_image=Image.fromarray(grow_to_tokens(window.view_levels(touched) > 0)), masked_image_latents=latents[None],
    )  # fmt: skip
    new = window.put(old, from_latents(pipeline, drawn))
    return Image.fromarray(blend(old, new, feather(white, 1) if exact else feather(touched)))
