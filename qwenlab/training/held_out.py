"""Held-out flow loss: the training loss on pictures that were not trained on, with nothing left to chance.

Every picture meets every sigma with the same fixed noise and its full caption, so that two models, or two moments of
one run, can be compared on equal terms: their difference has far less noise than either loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from qwenlab.flow import derived_generator
from qwenlab.training.batches import TrainingSet, flow_loss, make_batch

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)


@torch.no_grad()
def held_out_loss(
    pipeline: QwenImagePipeline,
    held_out: TrainingSet,
    sigmas: Sequence[float] = SIGMAS,
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> dict[float, float]:
    """Mean flow loss of `pipeline.transformer` on `held_out` at each sigma (0 = data, 1 = noise).

    `held_out` comes from `encode_dataset`; pictures must have one size. The noise of a picture depends on (seed, its
    index) alone. The transformer is left in the mode it was in.
    """
    transformer = pipeline.transformer
    training = transformer.training
    transformer.eval()
    totals = dict.fromkeys(sigmas, 0.0)
    count = len(held_out.texts)
    try:
        for start in range(0, count, batch_size):
            indices = range(start, min(count, start + batch_size))
            generators = [derived_generator(seed, "held-out", index) for index in indices]
            x0 = torch.stack([held_out.latents.sample(i, g) for i, g in zip(indices, generators, strict=True)])
            noise = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators])
            texts = [held_out.texts[index] for index in indices]
            for value in sigmas:
                batch = make_batch(pipeline, x0, noise, torch.full((len(x0),), value), texts)
                totals[value] += flow_loss(transformer, batch).item() * len(x0)
    finally:
        transformer.train(training)
    return {value: total / count for value, total in totals.items()}
