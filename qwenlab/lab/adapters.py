"""LoRA and its relatives through peft, trained alike, to compare them.

rsLoRA (Kalajdzievski, arXiv 2312.03732), DoRA (Liu et al., arXiv 2402.09353), PiSSA (Meng et al., arXiv 2404.02948),
LoRA+ (Hayou et al., arXiv 2402.12354).
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig

from qwenlab.config import TrainConfig
from qwenlab.lora.layers import trainable_parameters
from qwenlab.lora.targets import target_modules
from qwenlab.training.loop import optimize
from qwenlab.training.runtime import make_accelerator
from qwenlab.training.training_set import TrainingSet

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

#: Method -> what peft's configuration needs to be told.
METHODS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"}, "lora+": {},
}  # fmt: skip
LORA_PLUS_RATIO = 16  # B learns so many times as fast as A


@dataclass(frozen=True)
class Trained:
    """seconds: of training; parameters: how many were trained."""

    seconds: float
    parameters: int


@contextlib.contextmanager
def spare_transformer(pipeline: QwenImagePipeline) -> Iterator[None]:
    """A copy of the transformer stands in the pipeline; afterwards the untouched one does. (PiSSA changes the base.)"""
    kept = pipeline.transformer
    pipeline.transformer = copy.deepcopy(kept)
    try:
        yield
    finally:
        pipeline.transformer = kept


def train_adapter(
    pipeline: QwenImagePipeline, training_set: TrainingSet, config: TrainConfig, method: str = "lora"
) -> Trained:
    """Train an adapter of `METHODS` on `config.apply_to`, in float32; the pipeline's transformer carries it afterwards.

    Of `config` count rank (alpha is the rank), learning rate, schedule, steps, batch and seed.
    """
    transformer = pipeline.transformer
    transformer.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        targets = target_modules(config.apply_to)
        transformer.add_adapter(
            LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=targets, **METHODS[method])
        )
    named = trainable_parameters(transformer)
    groups = []
    for is_b in (False, True):
        rate = config.learning_rate * (LORA_PLUS_RATIO if is_b and method == "lora+" else 1)
        groups.append({"params": [p for name, p in named.items() if ("lora_B" in name) == is_b], "lr": rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    accelerator = make_accelerator(pipeline, config, "fp32")
    transformer.train()
    started = time.perf_counter()
    for _ in optimize(transformer, optimizer, pipeline, training_set, config, accelerator):
        pass
    seconds = time.perf_counter() - started
    transformer.eval()
    return Trained(seconds, sum(parameter.numel() for parameter in named.values()))
