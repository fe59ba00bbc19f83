"""When in the denoising is a hand decided? Drawing in two legs, and drawing on from a noised picture.

Two experiments. In two legs: denoise the same noise to some sigma under one prompt (or LoRA), and on from there under
another; the sigma up to which the second still wins is where its matter is decided. From a noised picture: what a model
keeps of a right hand that was noised to sigma, it need not know how to draw.

Sigma runs from 1 (noise) to 0 (data).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from qwenlab.model.generation import NEGATIVE_PROMPT, native_size

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def draw_in_two_legs(
    pipeline: QwenImagePipeline,
    first: Sequence[str],
    second: Sequence[str],
    seeds: Sequence[int],
    switch: int,
    *,
    steps: int = 20,
    guidance: float = 2.5,
    between: Callable[[], None] = lambda: None,
) -> tuple[list[Image.Image], float]:
    """Draw pictures whose first `switch` of `steps` follow the prompts `first` and whose others follow `second`.

    Args:
        first, second, seeds: one of each a picture; drawn as one batch.
        switch: 0 (only `second`) to `steps` (only `first`).
        between: called at the switch, to exchange a LoRA for example.

    Returns the pictures and the sigma at which they were switched. The two legs together take the very steps that the
    stock pipeline takes at once.
    """
    size = native_size(pipeline)
    grid = np.linspace(1.0, 1 / steps, steps)
    common = {
        "negative_prompt": [NEGATIVE_PROMPT] * len(seeds) if guidance > 1 else None, "true_cfg_scale": guidance,
        "width": size, "height": size,
    }  # fmt: skip
    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=True)
    latents: list[torch.Tensor] = []

    def stop(pipe: QwenImagePipeline, step: int, timestep: torch.Tensor, state: dict) -> dict:
        if step + 1 == switch:
            latents.append(state["latents"])
            pipe._interrupt = True  # the remaining steps are passed over
        return state

    try:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if switch:
            drawn = pipeline(
                prompt=list(first), num_inference_steps=steps, generator=generators, callback_on_step_end=stop,
                **common,
            ).images  # fmt: skip
        between()
        if switch == steps:
            return drawn, 0.0
        drawn = pipeline(
            prompt=list(second), sigmas=grid[switch:].tolist(), latents=latents[0] if switch else None,
            generator=generators, **common,
        ).images  # fmt: skip
        return drawn, float(pipeline.scheduler.sigmas[0])
    finally:
        pipeline.set_progress_bar_config(**bar)


def redraw_from(
    pipeline: QwenImagePipeline,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    seeds: Sequence[int],
    strength: float,
    *,
    steps: int = 20,
    guidance: float = 2.5,
    batch_size: int = 16,
) -> tuple[list[Image.Image], float]:
    """Noise pictures and denoise them (SDEdit, arXiv 2108.01073); returns them and the sigma that they started from.

    strength: the share of the sampler's `steps` that is walked.
    """
    from diffusers import QwenImageImg2ImgPipeline

    redraw = QwenImageImg2ImgPipeline(**pipeline.components)
    redraw.set_progress_bar_config(disable=True)
    size = native_size(pipeline)
    drawn: list[Image.Image] = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        drawn += redraw(
            prompt=list(prompts[part]), image=list(images[part]), strength=strength, num_inference_steps=steps,
            negative_prompt=[NEGATIVE_PROMPT] * len(prompts[part]) if guidance > 1 else None,
            true_cfg_scale=guidance, height=size, width=size,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
        ).images  # fmt: skip
    sigmas = redraw.scheduler.sigmas
    return drawn, float(sigmas[steps - max(int(steps * strength), 1)])
