"""What a training step reads: the batches drawn from the encoded data set, and the loss.

Every random number depends on (seed, step, sample) alone, so that gradient accumulation, several processes
and a resumed run see the same ones.

B batch, S image tokens, C channels of a token (4 x latent channels), h x w latent cells, T text tokens, D
features.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.data.regions import Region
from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import pad_texts
from qwenlab.model.flow import derived_generator, interpolate, model_timestep, sample_sigmas, to_grid, velocity
from qwenlab.model.generation import NEGATIVE_PROMPT
from qwenlab.model.references import pack_references
from qwenlab.training.training_set import TrainingSet

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import QwenImagePipeline


@dataclass(frozen=True)
class Batch:
    """Inputs of the transformer and the target of one forward pass, on the training device."""

    x_t: Tensor  # (B, S, C)
    target: Tensor  # (B, S, C) velocity
    sigma: Tensor  # (B,) float32
    text: Tensor  # (B, T, D)
    text_mask: Tensor | None  # (B, T) bool
    image_shapes: list[list[tuple[int, int, int]]]  # (frames, h / 2, w / 2) of each sample, for the rotary embedding
    weight: Tensor | None = None  # (B, S) or (B, 1) float32, of each token's error in the loss; None: all 1
    regions: list[list[Region]] | None = None  # hands and feet of each sample; None: nobody asks
    references: Tensor | None = None  # (B, S', C) clean tokens of the pictures that the captions speak of
    control: Tensor | None = None  # (B, S, C) clean tokens of the control pictures, for a ControlNet


# Called with a batch and the predicted velocity (B, S, C): a further loss, a float32 scalar.
ExtraLoss = Callable[[Batch, Tensor], Tensor]


def draw_batches(
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    step: int,
    micro_step: int,
    accelerator: Accelerator,
    stream: str = "sample",
) -> list[Batch]:
    """What this process reads at (step, micro_step): `batch_size_per_gpu` pictures, one batch for each size of them.

    A step's samples are numbered 0, 1, ... over micro-steps and processes; a picture's second visit comes
    only after every other picture's first. A sample brings its noise, its sigma, its version of picture and caption,
    and whether the caption is dropped. Another `stream` draws other random numbers, for a second training set. With a
    LoRA on the text encoder captions are encoded here, and gradients reach it.
    """
    size = config.batch_size_per_gpu
    samples_per_step = size * config.gradient_accumulation_steps * accelerator.num_processes
    first = (micro_step * accelerator.num_processes + accelerator.process_index) * size
    live = bool(config.text_encoder_rank)
    parts: dict[tuple[torch.Size, ...], list[tuple]] = defaultdict(list)
    for sample in range(first, first + size):
        visit = (step - 1) * samples_per_step + sample
        source, index = picture_at(training_set, config.seed, visit, samples_per_step)
        latents_index, text_index = _choose(source.choices[index], config.seed, step, sample)
        generator = derived_generator(config.seed, stream, step, sample)
        x0 = source.latents.sample(latents_index, generator)
        noise = torch.randn(x0.shape, generator=generator)
        sigma = sample_sigmas(
            1, generator, config.timestep_sampling,
            image_seq_len=x0.shape[-1] * x0.shape[-2] // 4, scheduler_config=pipeline.scheduler.config,
        )  # fmt: skip
        if config.modulation_timesteps:
            sigma = to_grid(sigma, config.modulation_timesteps)
        keep = torch.rand((), generator=generator) >= config.caption_dropout
        if live:
            text = source.captions[text_index] if keep else NEGATIVE_PROMPT
        else:
            dropped = source.dropped_texts[text_index] if source.dropped_texts else source.dropped
            text = source.texts[text_index] if keep else dropped
        weight = source.weights[latents_index] if source.weights else torch.ones(x0[0].numel() // 4)
        regions = source.regions[latents_index] if source.regions else None
        references = source.reference_latents(text_index)
        shapes = tuple(z.shape for z in (x0, *references))
        control = source.control_latents(text_index)
        parts[shapes].append((x0, noise, sigma, text, weight, regions, references, control))
    # Only torch.manual_seed reaches LoRA dropout.
    dropout = "dropout" if stream == "sample" else f"dropout of {stream}"
    torch.manual_seed(derived_generator(config.seed, dropout, step, first).initial_seed())

    batches = []
    for samples in parts.values():
        x0, noise, sigma, texts, weights, regions, references, controls = zip(*samples, strict=True)
        sigma = torch.cat(sigma)
        weight = _loss_weight(config, sigma, torch.stack(weights) if training_set.weights else None)
        texts = embed_texts(pipeline, texts) if live else texts
        clean = [control for control in controls if control is not None]
        batch = make_batch(pipeline, torch.stack(x0), torch.stack(noise), sigma, texts, weight, references, clean)
        batches.append(replace(batch, regions=None if regions[0] is None else list(regions)))
    return batches


def _loss_weight(config: TrainConfig, sigma: Tensor, tokens: Tensor | None) -> Tensor | None:
    """Weights of the sigmas (B,) and of the regions (B, S), multiplied: (B, S), (B, 1) or None."""
    if config.loss_weighting == "none":
        return tokens
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    weight = compute_loss_weighting_for_sd3(config.loss_weighting, sigma)[:, None]  # (B, 1)
    return weight if tokens is None else weight * tokens


def embed_texts(pipeline: QwenImagePipeline, texts: Sequence[str]) -> list[Tensor]:
    """Captions -> embeddings (T_i, D), encoded in one batch and open to gradients."""
    embeddings, mask = pipeline.encode_prompt(list(texts))
    if mask is None:  # equally long
        return list(embeddings)
    return [row[:length] for row, length in zip(embeddings, mask.sum(dim=1).tolist(), strict=True)]


def draw_batch(
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    step: int,
    micro_step: int,
    accelerator: Accelerator,
) -> Batch:
    """`draw_batches` for pictures of one size: its only batch. Raises QwenlabError when they have several sizes."""
    batches = draw_batches(pipeline, training_set, config, step, micro_step, accelerator)
    if len(batches) > 1:
        raise QwenlabError(f"step {step} mixes pictures of {len(batches)} sizes, no single batch: use draw_batches")
    return batches[0]


def _choose(pairs: Sequence[tuple[int, int]], seed: int, step: int, sample: int) -> tuple[int, int]:
    """One version of a picture and its caption, from a generator of its own: noise and sigma do not change with it."""
    return pairs[int(torch.randint(len(pairs), (), generator=derived_generator(seed, "version", step, sample)))]


def make_batch(
    pipeline: QwenImagePipeline,
    latents: Tensor,
    noise: Tensor,
    sigma: Tensor,
    texts: Sequence[Tensor],
    weight: Tensor | None = None,
    references: Sequence[Sequence[Tensor]] = (),
    controls: Sequence[Tensor] = (),
) -> Batch:
    """Latents and noise (B, C / 4, h, w), sigma (B,), B embeddings (T_i, D) -> what the transformer reads.

    references: for each of the B pictures the latents (C / 4, h_i, w_i) of those its text speaks of, alike in a batch.
    controls: for each of them the latents (C / 4, h, w) of its control picture, or none at all.
    """
    device, dtype = pipeline.transformer.device, pipeline.transformer.dtype
    shape = batch, _, height, width = latents.shape
    latents, noise = (pipeline._pack_latents(z, *shape).to(device) for z in (latents, noise))  # (B, S, C)
    sigma = sigma.to(device)
    text, mask = pad_texts(texts)
    beside, shapes = pack_references(references) if any(references) else (None, [])
    control = pipeline._pack_latents(torch.stack(list(controls)), *shape).to(device, dtype) if controls else None
    return Batch(
        x_t=interpolate(latents, noise, sigma).to(dtype),
        target=velocity(latents, noise),
        sigma=sigma,
        text=text.to(device, dtype),
        text_mask=None if mask is None else mask.to(device),
        image_shapes=[[(1, height // 2, width // 2), *shapes]] * batch,
        weight=None if weight is None else weight.to(device),
        references=None if beside is None else beside.to(device, dtype),
        control=control,
    )


def picture_at(training_set: TrainingSet, seed: int, visit: int, samples_per_step: int = 1) -> tuple[TrainingSet, int]:
    """The set and the picture in it of the `visit`-th sample of a run: the pictures, or their close-ups.

    Of any n visits in a row the share `hand_share` are close-ups, to within one; both sets keep their own epochs.
    """
    if training_set.close_ups is None:
        return training_set, picture_of_visit(seed, visit, training_set.sizes, samples_per_step)
    before, after = (math.floor(count * training_set.hand_share) for count in (visit, visit + 1))
    if after > before:
        return training_set.close_ups, picture_of_visit(seed, before, training_set.close_ups.sizes, samples_per_step)
    return training_set, picture_of_visit(seed, visit - before, training_set.sizes, samples_per_step)


def picture_of_visit(seed: int, visit: int, sizes: Sequence[Hashable], samples_per_step: int = 1) -> int:
    """The picture of the `visit`-th sample of a run, counted from 0 over all steps, by `epoch_order`.

    sizes: one for each of the N pictures; visits 0 to N - 1 are the first epoch, and so on.
    """
    epoch, position = divmod(visit, len(sizes))
    return epoch_order(seed, epoch, tuple(sizes), samples_per_step)[position]


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, sizes: tuple[Hashable, ...], samples_per_step: int) -> tuple[int, ...]:
    """A permutation of all pictures in which those of one size stand together, a step's worth at a time.

    Whole steps of one size are laid where steps begin; what is left of each size fills the ends of the epoch, grouped
    by size. So few steps mix sizes, none is short, and the order does not depend on how a step is divided into
    micro-steps and processes. Pictures of a single size are simply permuted.
    """
    generator = derived_generator(seed, "epoch", epoch)
    order = torch.randperm(len(sizes), generator=generator).tolist()
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index in order:
        members[sizes[index]].append(index)
    if len(members) == 1:
        return tuple(order)
    full, rest = [], []
    for same in members.values():
        whole = len(same) // samples_per_step * samples_per_step
        full += [same[start : start + samples_per_step] for start in range(0, whole, samples_per_step)]
        rest += same[whole:]
    head = -epoch * len(sizes) % samples_per_step  # samples that the last epoch left open in its last step
    middle = [index for number in torch.randperm(len(full), generator=generator).tolist() for index in full[number]]
    return tuple(rest[:head] + middle + rest[head:])


def batches_loss(transformer: torch.nn.Module, batches: Sequence[Batch], extra: ExtraLoss | None = None) -> Tensor:
    """`flow_loss` over several batches, a float32 scalar: each picture counts the same, whatever its size."""
    total = sum(len(batch.sigma) for batch in batches)
    return sum(flow_loss(transformer, batch, extra) * (len(batch.sigma) / total) for batch in batches)


def flow_loss(transformer: torch.nn.Module, batch: Batch, extra: ExtraLoss | None = None) -> Tensor:
    """Mean squared error of the predicted velocity, weighted by `batch.weight`, plus `extra`: a float32 scalar.

    Tokens of references are read and have no error: nothing of them is to be drawn. With control pictures the
    transformer is a `qwenlab.model.controlnet.Controlled`.
    """
    beside = [] if batch.references is None else [batch.references]
    prediction = transformer(
        hidden_states=torch.cat([batch.x_t, *beside], dim=1) if beside else batch.x_t,
        timestep=model_timestep(batch.sigma, batch.x_t.dtype),
        encoder_hidden_states=batch.text,
        encoder_hidden_states_mask=batch.text_mask,
        img_shapes=batch.image_shapes,
        return_dict=False,
        **({} if batch.control is None else {"controlnet_cond": batch.control}),
    )[0]
    if beside:
        prediction = prediction[:, : batch.x_t.shape[1]]
    if batch.weight is None:
        loss = torch.nn.functional.mse_loss(prediction.float(), batch.target)
    else:
        error = (prediction.float() - batch.target).square().mean(dim=-1)  # (B, S)
        loss = (error * batch.weight).mean()
    return loss if extra is None else loss + extra(batch, prediction)
