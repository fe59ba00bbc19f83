"""Pictures from prompts, with true classifier-free guidance, each depending on its own seed only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import pad_texts
from qwenlab.model.limits import MAX_TOKENS, check_drawing, check_prompt, check_size, count_prompt_tokens

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline
    from PIL import Image

# The prompt of the unconditional branch. Without one the stock pipeline silently switches guidance off.
# Pretraining and LoRA training drop captions to this very string, so that inference asks for something the
# model has learnt.
NEGATIVE_PROMPT = " "


def native_size(pipeline: QwenImagePipeline) -> int:
    """Side in pixels of the pictures the model was made for; `default_sample_size` counts latent cells."""
    return pipeline.default_sample_size * pipeline.vae_scale_factor


def generate(
    pipeline: QwenImagePipeline,
    prompts: str | Sequence[str],
    seeds: int | Sequence[int],
    *,
    steps: int = 20,
    guidance: float = 4.0,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 16,
    progress: bool = False,
    embeddings: Mapping[str, torch.Tensor] | None = None,
    negative_prompt: str = NEGATIVE_PROMPT,
    max_tokens: int | None = None,
) -> list[Image.Image]:
    """Generate one picture for each pair of prompt and seed.

    A single prompt is used for every seed, a single seed for every prompt. Each picture's noise comes from
    its own CPU generator: it does not change with the batch or its neighbours (but for rounding, about 1e-6
    in float32, as matrix products depend on the batch shape), nor between CPU and GPU.

    Args:
        steps: network evaluations, each twice under guidance.
        guidance: `true_cfg_scale`; 1 or less turns guidance off and halves the time.
        size: side in pixels, or (width, height); a multiple of 16. None: the model's native size.
        batch_size: pictures at once; memory grows with it, pictures stay the same.
        progress: show the pipeline's bar of steps.
        embeddings: (T, D) by `qwenlab.model.encoding.encode_text` of every prompt and of the negative one; the text
            encoder is then not used. Embedded alone, a prompt differs from one in a batch by rounding only.
        negative_prompt: what guidance leads away from; of the empty one the model has learnt most.
        max_tokens: read so many tokens of a text and cut the rest off, with a warning; the stock call cuts at 512.
            None: all of it, as in training (`qwenlab.model.limits.MAX_TOKENS`); a longer text is an error.

    Returns: PIL images (RGB) in the order of the pairs.
    Raises: ValueError when the numbers of prompts and seeds do not match, and for fewer than 2 steps: the
        stock scheduler then divides zero by zero and returns a black picture. QwenlabError for other numbers and sizes
        that cannot be drawn with, for a text that is too long, and when the text encoder is needed and was freed.
    """
    if steps < 2:
        raise ValueError(f"steps must be 2 or more, not {steps}")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    count = max(len(prompts), len(seeds))
    prompts = prompts * count if len(prompts) == 1 else prompts
    seeds = seeds * count if len(seeds) == 1 else seeds
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one of each a picture, or a single one")
    if getattr(pipeline, "processor", None) is not None:
        raise QwenlabError("an Edit model draws from pictures only: qwenlab edit, or qwenlab.editing.instruct")
    if embeddings is None and pipeline.text_encoder is None:
        raise QwenlabError("the pipeline's text encoder was freed: load the pipeline again, or pass embeddings")
    check_drawing(
        steps=steps, guidance=guidance, first_seed=min(seeds), last_seed=max(seeds), max_tokens=max_tokens, dashes=""
    )
    size = native_size(pipeline) if size is None else size
    width, height = (size, size) if isinstance(size, int) else size
    check_size((width, height))
    if embeddings is None:
        for text in dict.fromkeys([*prompts, negative_prompt]):
            _check_length(pipeline, text, max_tokens)

    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=not progress)
    images: list[Image.Image] = []
    try:
        for start in range(0, count, batch_size):
            batch = prompts[start : start + batch_size]
            conditions = prompt_arguments(pipeline, batch, negative_prompt if guidance > 1 else None, embeddings)
            images += pipeline(
                **conditions,
                true_cfg_scale=guidance,
                num_inference_steps=steps,
                width=width,
                height=height,
                max_sequence_length=max_tokens or MAX_TOKENS,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch_size]],
            ).images
    finally:
        pipeline.set_progress_bar_config(**bar)
    return images


def _check_length(pipeline: QwenImagePipeline, text: str, max_tokens: int | None) -> None:
    if max_tokens is None:
        check_prompt(pipeline, text)
    elif (needed := count_prompt_tokens(pipeline, text)) > max_tokens:
        warnings.warn(
            f"'{text[:20]} ...' needs {needed} tokens: its end is cut off at max_tokens {max_tokens}", stacklevel=3
        )


def prompt_arguments(
    pipeline: QwenImagePipeline,
    prompts: list[str],
    negative_prompt: str | None,
    embeddings: Mapping[str, torch.Tensor] | None,
) -> dict[str, object]:
    """What a stock pipeline's call needs to know of B prompts, and of the negative one (None: no guidance).

    embeddings: as for `generate`.
    """
    arguments = _condition(pipeline, "prompt", prompts, embeddings)
    if negative_prompt is not None:  # the stock pipeline does not spread one negative prompt over a batch
        arguments |= _condition(pipeline, "negative_prompt", [negative_prompt] * len(prompts), embeddings)
    return arguments


def _condition(
    pipeline: QwenImagePipeline, name: str, prompts: list[str], embeddings: Mapping[str, torch.Tensor] | None
) -> dict[str, object]:
    """The pipeline's arguments for prompts, as text or as padded embeddings with their mask."""
    if embeddings is None:
        return {name: prompts}
    padded, mask = pad_texts([embeddings[prompt] for prompt in prompts])  # (B, T, D), (B, T)
    if mask is None:  # the pipeline warns when it gets none
        mask = torch.ones(padded.shape[:2], dtype=torch.bool)
    device = pipeline.transformer.device
    return {f"{name}_embeds": padded.to(device), f"{name}_embeds_mask": mask.to(device)}
