"""Held-out flow loss: the training loss on pictures that were not trained on, with nothing left to chance.

Every picture meets every sigma with the same fixed noise and its full caption, so that two models, or two moments of
one run, can be compared on equal terms: their difference has far less noise than either loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from qwenlab.model.controlnet import Controlled
from qwenlab.model.flow import derived_generator
from qwenlab.training.batches import flow_loss, make_batch
from qwenlab.training.training_set import TrainingSet

if TYPE_CHECKING:
    from diffusers import QwenImageControlNetModel, QwenImagePipeline

SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)


@torch.no_grad()
def held_out_loss(
    pipeline: QwenImagePipeline,
    held_out: TrainingSet,
    sigmas: Sequence[float] = SIGMAS,
    *,
    seed: int = 0,
    batch_size: int = 16,
    net: QwenImageControlNetModel | None = None,
) -> dict[float, float]:
    """Mean flow loss of `pipeline.transformer` on `held_out` at each sigma (0 = data, 1 = noise).

    `held_out` comes from `encode_dataset`; the first version of each picture and caption is used. A picture's noise
    depends on (seed, its index) alone. net: a ControlNet for the set's control pictures. The transformer is left in the
    mode it was in, and the net with it.
    """
    transformer = pipeline.transformer if net is None else Controlled(pipeline.transformer, net)
    training = pipeline.transformer.training
    transformer.eval()
    totals = dict.fromkeys(sigmas, 0.0)
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, size in enumerate(held_out.sizes):
        by_size[size].append(index)
    batches = [same[i : i + batch_size] for same in by_size.values() for i in range(0, len(same), batch_size)]
    try:
        for indices in batches:
            generators = [derived_generator(seed, "held-out", index) for index in indices]
            pairs = [held_out.choices[index][0] for index in indices]
            x0 = torch.stack([held_out.latents.sample(i, g) for (i, _), g in zip(pairs, generators, strict=True)])
            noise = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators])
            texts = [held_out.texts[text] for _, text in pairs]
            references = [held_out.reference_latents(text) for _, text in pairs]
            controls = [z for _, text in pairs if (z := held_out.control_latents(text)) is not None]
            for value in sigmas:
                sigma = torch.full((len(x0),), value)
                batch = make_batch(pipeline, x0, noise, sigma, texts, references=references, controls=controls)
                totals[value] += flow_loss(transformer, batch).item() * len(x0)
    finally:
        transformer.train(training)
    return {value: total / len(held_out) for value, total in totals.items()}
