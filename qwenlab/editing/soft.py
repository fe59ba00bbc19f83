"""Grey masks: how much each place changes (Differential Diffusion, Levin and Fried, arXiv 2306.00950).

The stock inpainting pipeline makes every mask black and white. Here image to image runs all steps, and after each one
the places whose turn has not come are set back to the picture, noised to the same sigma: a place of grey g is drawn in
the last share g of the steps, as by image to image of strength g.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from qwenlab.data.images import to_rgb
from qwenlab.editing.latents import call_from_latents, check_edit, noise_of, whole_picture
from qwenlab.editing.masks import blend, white_pixels
from qwenlab.editing.windows import whole_window
from qwenlab.model.flow import interpolate
from qwenlab.model.generation import NEGATIVE_PROMPT, native_size
from qwenlab.model.mmdit import pack

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

FULL = 1 / 8  # grey from which on only drawn pixels are taken


def redraw_softly(
    pipeline: QwenImagePipeline,
    picture: Image.Image,
    amount: Image.Image | np.ndarray,
    prompt: str,
    *,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
    negative_prompt: str = NEGATIVE_PROMPT,
    progress: bool = False,
) -> Image.Image:
    """Draw a picture again, here more and there less. Where `amount` is black, no pixel changes.

    amount: a grey picture of the same size, black to white; or (H, W) float in [0, 1].
    Returns a new RGB picture of the same size. Raises QwenlabError as `redraw` does.
    """
    from diffusers import QwenImageImg2ImgPipeline

    check_edit(pipeline, prompt, seed=seed, steps=steps, guidance=guidance)
    grey = np.asarray(amount.convert("L"), np.float32) / 255 if isinstance(amount, Image.Image) else amount
    white_pixels(grey > 0, picture.size)
    latents, finish = whole_picture(pipeline, picture)
    levels = whole_window(picture.size, native_size(pipeline)).view_levels(grey)
    cells = max_pool2d(torch.tensor(levels)[None], pipeline.vae_scale_factor)  # (1, h, w)
    drawn = call_from_latents(
        pipeline, QwenImageImg2ImgPipeline, latents, prompt, seed=seed, steps=steps, guidance=guidance, strength=1.0,
        negative_prompt=negative_prompt, progress=progress,
        callback_on_step_end=hold_back(latents, noise_of(pipeline, latents, seed), cells, steps),
    )  # fmt: skip
    return Image.fromarray(blend(np.asarray(to_rgb(picture)), np.asarray(finish(drawn)), np.clip(grey / FULL, 0, 1)))


def hold_back(latents: Tensor, noise: Tensor, amount: Tensor, steps: int) -> Any:
    """A `callback_on_step_end` that keeps cells at the picture until their share of the steps is left.

    latents, noise: (C, h, w) of the picture and of the seed; amount: (1, h, w) in [0, 1].
    """

    def callback(stock: Any, step: int, timestep: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        x_t = state["latents"]  # (1, S, 4C)
        sigma = stock.scheduler.sigmas[stock.scheduler.step_index].reshape(1)  # the one that this step led to
        held = pack((amount <= 1 - (step + 1) / steps).expand_as(latents)[None].float()).to(x_t)
        kept = pack(interpolate(latents[None], noise[None].float(), sigma.cpu())).to(x_t)
        return {"latents": held * kept + (1 - held) * x_t}

    return callback
