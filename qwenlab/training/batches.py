"""What a training step reads: the cached dataset, the batch drawn from it, and the loss.

Every random number depends on (seed, step, sample) alone, so that gradient accumulation, several processes
and a resumed run see the same ones. Images and captions are encoded once, before training.

B batch, S image tokens, C channels of a token (4 x latent channels), h x w latent cells, T text tokens, D
features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.dataset import Dataset, LatentStatistics, cache_latents, cache_texts, pad_texts
from qwenlab.flow import derived_generator, interpolate, sample_sigmas, velocity
from qwenlab.generate import NEGATIVE_PROMPT

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import QwenImagePipeline


@dataclass(frozen=True)
class TrainingSet:
    """All that steps read, in memory: N pictures, N captions, and the embedding of the dropped caption."""

    latents: LatentStatistics
    texts: list[Tensor]
    dropped: Tensor


def encode_dataset(
    pipeline: QwenImagePipeline,
    dataset: Dataset,
    config: TrainConfig,
    cache_dir: Path | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> TrainingSet:
    """Encode pictures and captions, or read `cache_dir`. `on_item` is called after each of 2 N + 1 items."""
    latents_file, texts_file = (
        cache_dir / f"{kind}.safetensors" if cache_dir else None for kind in ("latents", "texts")
    )
    latents = cache_latents(pipeline, dataset.samples, config.resolution, latents_file, on_item)
    captions = [sample.text for sample in dataset.samples]
    *texts, dropped = cache_texts(pipeline, [*captions, NEGATIVE_PROMPT], texts_file, on_item)
    return TrainingSet(latents, texts, dropped)


@dataclass(frozen=True)
class Batch:
    """Inputs of the transformer and the target of one forward pass, on the training device."""

    x_t: Tensor  # (B, S, C)
    target: Tensor  # (B, S, C) velocity
    sigma: Tensor  # (B,) float32
    text: Tensor  # (B, T, D)
    text_mask: Tensor | None  # (B, T) bool
    image_shapes: list[
        list[tuple[int, int, int]]
    ]  # (frames, h / 2, w / 2) of each sample, for the rotary embedding


def draw_batch(
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    step: int,
    micro_step: int,
    accelerator: Accelerator,
) -> Batch:
    """The batch of this process at (step, micro_step): pictures, noise, sigmas and dropped captions.

    A step's samples are numbered 0, 1, ... over micro-steps and processes; a picture's second visit comes
    only after every other picture's first.
    """
    size = config.batch_size_per_gpu
    samples_per_step = size * config.gradient_accumulation_steps * accelerator.num_processes
    first = (micro_step * accelerator.num_processes + accelerator.process_index) * size
    x0, noise, sigma, texts = [], [], [], []
    for sample in range(first, first + size):
        index = picture_of_visit(config.seed, (step - 1) * samples_per_step + sample, len(training_set.texts))
        generator = derived_generator(config.seed, "sample", step, sample)
        x0.append(training_set.latents.sample(index, generator))
        noise.append(torch.randn(x0[-1].shape, generator=generator))
        tokens = x0[-1].shape[-1] * x0[-1].shape[-2] // 4
        sigma.append(
            sample_sigmas(
                1, generator, config.timestep_sampling,
                image_seq_len=tokens, scheduler_config=pipeline.scheduler.config,
            )
        )  # fmt: skip
        keep = torch.rand((), generator=generator) >= config.caption_dropout
        texts.append(training_set.texts[index] if keep else training_set.dropped)
    # Only torch.manual_seed reaches LoRA dropout.
    torch.manual_seed(derived_generator(config.seed, "dropout", step, first).initial_seed())

    return make_batch(pipeline, torch.stack(x0), torch.stack(noise), torch.cat(sigma), texts)


def make_batch(
    pipeline: QwenImagePipeline, latents: Tensor, noise: Tensor, sigma: Tensor, texts: Sequence[Tensor]
) -> Batch:
    """Latents and noise (B, C / 4, h, w), sigma (B,), B embeddings (T_i, D) -> what the transformer reads."""
    device, dtype = pipeline.transformer.device, pipeline.transformer.dtype
    shape = batch, _, height, width = latents.shape
    latents, noise = (pipeline._pack_latents(z, *shape).to(device) for z in (latents, noise))  # (B, S, C)
    sigma = sigma.to(device)
    text, mask = pad_texts(texts)
    return Batch(
        x_t=interpolate(latents, noise, sigma).to(dtype),
        target=velocity(latents, noise),
        sigma=sigma,
        text=text.to(device, dtype),
        text_mask=None if mask is None else mask.to(device),
        image_shapes=[[(1, height // 2, width // 2)]] * batch,
    )


def picture_of_visit(seed: int, visit: int, count: int) -> int:
    """The picture of the `visit`-th sample of a run: each epoch is a permutation of all `count` pictures."""
    epoch, position = divmod(visit, count)
    return int(torch.randperm(count, generator=derived_generator(seed, "epoch", epoch))[position])


def flow_loss(transformer: torch.nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the predicted velocity, a float32 scalar."""
    prediction = transformer(
        hidden_states=batch.x_t,
        timestep=batch.sigma,  # the pipeline divides its timesteps by 1000, too
        encoder_hidden_states=batch.text,
        encoder_hidden_states_mask=batch.text_mask,
        img_shapes=batch.image_shapes,
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(prediction.float(), batch.target)
