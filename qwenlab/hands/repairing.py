"""Detect and inpaint: draw the squares around hands and feet again, large and upright, and put them back.

A hand of 25 pixels has three latent cells to be drawn in; enlarged to a whole picture it has eight or more. That is
what the detailers of the field do (ADetailer; diffusers' `padding_mask_crop`). Here squares of many pictures, turned
upright (`qwenlab.hands.squares`), go through the stock inpainting pipeline in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from qwenlab.data.regions import Region
from qwenlab.hands.captions import close_up_caption
from qwenlab.hands.squares import above_the_edge, cut, inner_mask, put_back
from qwenlab.model.generation import NEGATIVE_PROMPT, generate, native_size

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

# Called with squares and the region of each: how well-formed they look, (N,), higher is better.
Score = Callable[[Sequence[Image.Image], Sequence[Region]], np.ndarray]
SCORED = 128  # pixels of the squares that a score sees


@dataclass(frozen=True)
class _Job:
    """A region to be drawn again in a picture, with the square's caption and the seed of its noise."""

    image: Image.Image
    region: Region
    caption: str
    seed: int


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
        tries: squares drawn for each region until `score` finds one good `enough`; the best is kept, and one that is
            good enough as it is stays.

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
            images_here, own = [done[i] for i in part], [seeds[i] + 1_000_003 * (turn + 1) for i in part]
            captions = [close_up_caption(prompts[i], region.kind) for i, region in zip(part, here, strict=True)]
            best = list(images_here)
            marks = [mark if mark >= enough else -np.inf for mark in _marks(score, images_here, here)]
            for attempt in range(tries):
                rest = [k for k in range(len(part)) if marks[k] < enough]
                if not rest:
                    break
                again = [_Job(images_here[k], here[k], captions[k], own[k] + 3_000_009 * attempt) for k in rest]
                drawn = _draw(inpaint, again, native_size(pipeline), settings)
                for k, image, mark in zip(rest, drawn, _marks(score, drawn, [here[k] for k in rest]), strict=True):
                    if mark >= marks[k]:
                        best[k], marks[k] = image, mark
            for i, image in zip(part, best, strict=True):
                done[i] = image
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

    The first try uses the seeds as they are. `settings` go to `qwenlab.model.generation.generate`.
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


def _marks(score: Score | None, images: Sequence[Image.Image], regions: Sequence[Region]) -> list[float]:
    """What `score` says of a region of each picture; -inf without a score."""
    if score is None:
        return [-np.inf] * len(images)
    return list(score([cut(image, r, SCORED) for image, r in zip(images, regions, strict=True)], regions))


def _draw(inpaint: Any, jobs: Sequence[_Job], size: int, settings: dict[str, Any]) -> list[Image.Image]:
    """The pictures with their regions drawn again."""
    regions = [above_the_edge(job.region, job.image.height) for job in jobs]
    captions = [job.caption for job in jobs]
    squares = inpaint(
        prompt=captions,
        negative_prompt=[NEGATIVE_PROMPT] * len(captions) if settings["true_cfg_scale"] > 1 else None,
        image=[cut(job.image, region, size) for job, region in zip(jobs, regions, strict=True)],
        mask_image=[inner_mask(size, region.kind) for region in regions],
        height=size,
        width=size,
        generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
        **settings,
    ).images
    return [put_back(job.image, square, r) for job, square, r in zip(jobs, squares, regions, strict=True)]
