"""Detect and inpaint: draw the squares around hands and feet again, large and upright, and put them back.

A hand of 25 pixels has three latent cells to be drawn in; enlarged to a whole picture it has eight or more. That is
what the detailers of the field do (ADetailer; diffusers' `padding_mask_crop`). Here squares of many pictures, turned
upright (`qwenlab.hands.squares`), go through the stock inpainting pipeline in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from qwenlab.generate import NEGATIVE_PROMPT, generate, native_size
from qwenlab.hands.captions import close_up_caption
from qwenlab.hands.regions import Region
from qwenlab.hands.squares import CONTEXT, cut, inner_mask, put_back

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

# Called with squares and the region of each: how well-formed they look, (N,), higher is better.
Score = Callable[[Sequence[Image.Image], Sequence[Region]], np.ndarray]


def repair(
    pipeline: QwenImagePipeline,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    seeds: Sequence[int],
    regions: Sequence[Sequence[Region]],
    *,
    strength: float = 0.8,
    steps: int = 20,
    guidance: float = 1.0,
    batch_size: int = 16,
    tries: int = 1,
    score: Score | None = None,
    enough: float = 0.9,
) -> list[Image.Image]:
    """Draw the regions of pictures again; what is outside them stays as it is.

    Args:
        pipeline: with the LoRA that knows close-ups (`augment_hands`).
        images, prompts, seeds, regions: one of each a picture; the prompts are those of the whole pictures.
        strength: 0..1, how much noise a square gets: 1 forgets what was there.
        steps: of the sampler, of which the share `strength` is walked.
        tries: squares drawn for each region until `score` finds one good `enough`; the best of them is kept.

    Returns the pictures, RGB. Raises ValueError for several tries without a score.
    """
    from diffusers import QwenImageInpaintPipeline

    if tries > 1 and score is None:
        raise ValueError("tries: more than one needs a score that chooses")
    inpaint = QwenImageInpaintPipeline(**pipeline.components)
    inpaint.set_progress_bar_config(disable=True)
    settings = {"strength": strength, "num_inference_steps": steps, "true_cfg_scale": guidance}
    done = [image.convert("RGB") for image in images]
    for turn in range(max(map(len, regions), default=0)):  # one region of a picture at a time: they may overlap
        which = [i for i, found in enumerate(regions) if len(found) > turn]
        for start in range(0, len(which), batch_size):
            part = which[start : start + batch_size]
            here = [regions[i][turn] for i in part]
            squares = [cut(done[i], region, native_size(pipeline)) for i, region in zip(part, here, strict=True)]
            captions = [close_up_caption(prompts[i], region.kind) for i, region in zip(part, here, strict=True)]
            best, marks = list(squares), np.full(len(part), -np.inf)
            for attempt in range(tries):
                rest = [k for k in range(len(part)) if marks[k] < enough]
                if not rest:
                    break
                own = [seeds[part[k]] + 1_000_003 * (3 * attempt + turn + 1) for k in rest]
                drawn = _draw(inpaint, [squares[k] for k in rest], [captions[k] for k in rest], own, settings)
                found = score(drawn, [here[k] for k in rest]) if score else np.zeros(len(rest))
                for k, square, mark in zip(rest, drawn, found, strict=True):
                    if mark > marks[k]:
                        best[k], marks[k] = square, mark
            for i, square, region in zip(part, best, here, strict=True):
                done[i] = put_back(done[i], square, region)
    return done


def draw_until_well_formed(
    pipeline: QwenImagePipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    marks: Callable[[Sequence[Image.Image]], Sequence[float]],
    *,
    tries: int = 4,
    enough: float = 0.9,
    **settings: Any,
) -> list[Image.Image]:
    """Draw each prompt until `marks` finds its picture good `enough`, `tries` times at most; the best one is kept.

    The first try uses the seeds as they are. `settings` go to `qwenlab.generate.generate`.
    """
    best: list[Image.Image | None] = [None] * len(prompts)
    reached = np.full(len(prompts), -np.inf)
    for attempt in range(tries):
        rest = [i for i in range(len(prompts)) if reached[i] < enough]
        if not rest:
            break
        own = [seeds[i] + 1_000_003 * attempt for i in rest]
        drawn = generate(pipeline, [prompts[i] for i in rest], own, **settings)
        for i, image, mark in zip(rest, drawn, marks(drawn), strict=True):
            if mark > reached[i]:
                best[i], reached[i] = image, mark
    return best


def _draw(
    inpaint: Any, squares: list[Image.Image], captions: list[str], seeds: list[int], settings: dict[str, Any]
) -> list[Image.Image]:
    """Squares with their inner part drawn again."""
    size = squares[0].width
    return inpaint(
        prompt=captions,
        negative_prompt=[NEGATIVE_PROMPT] * len(captions) if settings["true_cfg_scale"] > 1 else None,
        image=squares,
        mask_image=[inner_mask(size, CONTEXT)] * len(squares),
        height=size,
        width=size,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **settings,
    ).images
