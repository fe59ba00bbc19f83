"""Ranks that change while training: the schedule of a configuration, and DyLoRA's prefixes.

A changed factor starts Adam anew, and the learning rate rises again over `rank_warmup_steps`: moments of other factors,
padded with zeros, would give the new entries steps of up to several times the rate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from qwenlab.config import TrainConfig
from qwenlab.lora.layers import lora_layers
from qwenlab.lora.rank import allocate, change_ranks, prefix
from qwenlab.lora.rank.layers import adopt
from qwenlab.model.flow import derived_generator


def change_due(model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> dict[str, float]:
    """Change ranks when `config.rank_schedule` names this step (from 1); returns the energy that each layer keeps.

    With `rank_by_energy` a lower rank is the mean over layers, shared out by energy.
    """
    rank = config.rank_schedule.get(step)
    if rank is None:
        return {}
    layers = lora_layers(model)
    mean = sum(layer.rank for layer in layers.values()) / len(layers)
    ranks = allocate(model, rank) if config.rank_by_energy and rank < mean else rank
    return change_ranks(model, ranks, optimizer, seed=config.seed + step)


def rate_factor(config: TrainConfig, step: int) -> float:
    """What the learning rate of a step is multiplied by: 1, or less in the steps that follow a change of rank."""
    since = min((step - change for change in config.rank_schedule if change <= step), default=config.rank_warmup_steps)
    return min(1.0, (since + 1) / (config.rank_warmup_steps + 1))


@contextlib.contextmanager
def step_prefix(model: nn.Module, config: TrainConfig, step: int) -> Iterator[None]:
    """While this is open, with `dylora`, only a prefix counts, of a rank drawn for the step from 1 to the LoRA's."""
    if not config.dylora:
        yield
        return
    drawn = torch.randint(1, config.rank + 1, (), generator=derived_generator(config.seed, "dylora", step))
    with prefix(model, int(drawn)):
        yield


def adopt_ranks(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Give each layer the rank of its saved factors, `<layer>.lora_A.weight` and `<layer>.lora_B.weight`."""
    for name, layer in lora_layers(model).items():
        pair = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        if len(pair[0]) != layer.rank:
            adopt(layer, pair)
