"""Pictures drawn with a ControlNet, by the stock pipeline, so that an idle net draws what the base draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwenlab.errors import QwenlabError, check_range
from qwenlab.model.generation import NEGATIVE_PROMPT, prompt_arguments
from qwenlab.model.limits import MAX_TOKENS, check_drawing, check_prompt, check_size

if TYPE_CHECKING:
    from diffusers import QwenImageControlNetModel, QwenImagePipeline
    from PIL import Image

MAX_SCALE = 10.0


def generate_controlled(
    pipeline: QwenImagePipeline,
    net: QwenImageControlNetModel,
    controls: Sequence[Image.Image],
    prompts: str | Sequence[str],
    seeds: int | Sequence[int],
    *,
    scale: float = 1.0,
    end: float = 1.0,
    steps: int = 20,
    guidance: float = 4.0,
    batch_size: int = 16,
    progress: bool = False,
    embeddings: Mapping[str, Tensor] | None = None,
    negative_prompt: str = NEGATIVE_PROMPT,
) -> list[Image.Image]:
    """One picture for each control picture, in its size, as `generate` draws without one.

    The noise is that of `generate` for the same seed and size: what differs comes of the net. Left to itself the stock
    call draws the posterior of the control picture from the same generator first, and with it other noise. Under
    guidance the residuals of the prompt serve the negative prompt as well, as in the stock call.

    Args:
        pipeline: with or without a LoRA on its transformer. net: on the same device, in the same dtype.
        controls: RGB pictures of one size, multiples of 16 pixels.
        prompts, seeds: one for each control picture, or a single one for all.
        scale: of the net's residuals; 0 leaves the base alone.
        end: the share of the steps, by their number and not by their sigma, in which the net acts.
        steps, guidance, batch_size, progress, embeddings, negative_prompt: as in `generate`.

    Returns: PIL images (RGB) in the order of the control pictures.
    Raises: QwenlabError for counts that do not match, pictures that are no RGB or of several sizes, sizes and numbers
        that cannot be drawn with, an Edit model, and a text encoder that is needed and was freed.
    """
    from diffusers import QwenImageControlNetPipeline

    prompts = [prompts] * len(controls) if isinstance(prompts, str) else list(prompts)
    seeds = [seeds] * len(controls) if isinstance(seeds, int) else list(seeds)
    width, height = _check(pipeline, controls, prompts, seeds, scale=scale, end=end, steps=steps, guidance=guidance)
    if embeddings is None:
        if pipeline.text_encoder is None:
            raise QwenlabError("the pipeline's text encoder was freed: load the pipeline again, or pass embeddings")
        for text in dict.fromkeys([*prompts, negative_prompt]):
            check_prompt(pipeline, text)
    stock = QwenImageControlNetPipeline(
        pipeline.scheduler, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.transformer, net
    )
    stock.set_progress_bar_config(disable=not progress)
    images: list[Image.Image] = []
    for first in range(0, len(controls), batch_size):
        part = slice(first, first + batch_size)
        texts = prompt_arguments(pipeline, prompts[part], negative_prompt if guidance > 1 else None, embeddings)
        noise = stock.prepare_latents(
            len(prompts[part]), pipeline.transformer.config.in_channels // 4, height, width,
            pipeline.transformer.dtype, pipeline.transformer.device, _generators(seeds[part]),
        )  # fmt: skip
        images += stock(
            **texts,
            control_image=list(controls[part]),
            controlnet_conditioning_scale=float(scale),
            control_guidance_end=float(end),
            true_cfg_scale=guidance,
            num_inference_steps=steps,
            width=width,
            height=height,
            max_sequence_length=MAX_TOKENS,
            latents=noise,
            generator=_generators(seeds[part]),  # of the control pictures' posteriors
        ).images
    return images


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _check(
    pipeline: QwenImagePipeline,
    controls: Sequence[Image.Image],
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    scale: float,
    end: float,
    steps: int,
    guidance: float,
) -> tuple[int, int]:
    """Raise QwenlabError for what cannot be drawn with; returns (width, height) in pixels."""
    if getattr(pipeline, "processor", None) is not None:
        raise QwenlabError("a ControlNet draws with a text-to-image model: load Qwen/Qwen-Image, no Edit model")
    if not len(controls) == len(prompts) == len(seeds) > 0:
        raise QwenlabError(
            f"{len(controls)} control pictures, {len(prompts)} prompts and {len(seeds)} seeds: give one of each a "
            "picture, or a single prompt or seed"
        )
    for number, control in enumerate(controls, start=1):
        if control.mode != "RGB":
            raise QwenlabError(
                f"control {number}: its mode is {control.mode}; convert it to RGB (qwenlab.data.images.to_rgb)"
            )
        if control.size != controls[0].size:
            sides = " and ".join(f"{w} x {h}" for w, h in (controls[0].size, control.size))
            raise QwenlabError(f"control {number}: pictures of {sides} pixels; draw each size by itself")
    check_size(controls[0].size, "control picture")
    check_drawing(steps=steps, guidance=guidance, first_seed=min(seeds), last_seed=max(seeds), dashes="")
    check_range("scale", scale, 0, MAX_SCALE)
    check_range("end", end, 0, 1)
    return controls[0].size
