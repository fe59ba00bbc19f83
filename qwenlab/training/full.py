"""Fine-tuning whole weights, for comparison: what does LoRA approximate, and how well?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.lora.targets import target_modules
from qwenlab.training.loop import optimize
from qwenlab.training.runtime import make_accelerator, make_optimizer, training_mode, training_precision
from qwenlab.training.training_set import TrainingSet

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def train_full(
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[dict[str, Tensor], float]:
    """Train the weights of `config.apply_to` themselves, as `train_lora` trains a LoRA on them.

    Returns the update of each weight, {layer: (d, k) float32 on the CPU}, and the seconds of training. The pipeline is
    left as it was: `add_updates` puts updates in. The learning rate of a LoRA is far too high here.
    """
    transformer = pipeline.transformer
    endings = tuple(f".{ending}" for ending in target_modules(config.apply_to))
    transformer.requires_grad_(False)
    weights = {
        name: module.weight.requires_grad_() for name, module in transformer.named_modules() if name.endswith(endings)
    }
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    accelerator = make_accelerator(pipeline, config, training_precision(pipeline, config, lambda line: None))
    started = time.perf_counter()
    try:
        with training_mode(pipeline, accelerator, config) as prepared:
            optimizer = make_optimizer(list(weights.values()), config)
            for step, loss in optimize(prepared, optimizer, pipeline, training_set, config, accelerator):
                on_step(step, loss)
        seconds = time.perf_counter() - started
        return {name: (weight.detach() - before[name]).float().cpu() for name, weight in weights.items()}, seconds
    finally:
        transformer.requires_grad_(False)
        for name, weight in weights.items():
            weight.data.copy_(before[name])
            weight.grad = None


@torch.no_grad()
def add_updates(pipeline: QwenImagePipeline, updates: Mapping[str, Tensor], sign: float = 1.0) -> None:
    """Add `sign` times each update to the weight of its layer in the transformer, in place."""
    for name, update in updates.items():
        weight = pipeline.transformer.get_submodule(name).weight
        weight.add_(update.to(weight), alpha=sign)
