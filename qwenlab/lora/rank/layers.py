"""The ranks of a LoRA that sits in a model: changed in place, shared out by energy, or cut to a prefix.

Sources: growth and shrinkage that keep the function follow Net2Net (Chen et al., arXiv 1511.05641) and Eckart and
Young; prefixes are DyLoRA's (Valipour et al., arXiv 2210.07558); ranks by layer are AdaLoRA's idea (Zhang et al.,
arXiv 2303.10512), here from the singular values of the updates and not from its sensitivity of the loss.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from qwenlab.lora.layers import LoRALinear, lora_layers
from qwenlab.lora.rank.factors import Pair, compress, grow, spectrum


def pair_of(layer: LoRALinear) -> Pair:
    """A (r, k) and B (d, r) of a layer, without its scaling."""
    return layer.lora_A.weight.data, layer.lora_B.weight.data


@torch.no_grad()
def change_ranks(
    model: nn.Module,
    ranks: int | Mapping[str, int],
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Give the LoRA layers of `model` other ranks; the same parameters hold the new factors.

    Growth changes no output: new rows of A are random, new columns of B zero. Shrinkage keeps the best approximation.
    alpha changes with the rank, so that the scaling stays what it was. Delete the last loss first: autograd would
    remember the old shapes with it.

    Args:
        ranks: for all layers, or by name; layers that are not named keep theirs.
        optimizer: loses its state of what changed, for Adam's moments belong to the old factors; warm it up anew.
        seed: of the new rows of A.

    Returns the share of its energy that each layer keeps: 1 where it grew. Raises ValueError for a rank below 1 and
    KeyError for a layer that has no LoRA.
    """
    layers = lora_layers(model)
    wanted = dict.fromkeys(layers, ranks) if isinstance(ranks, int) else ranks
    kept = {}
    for number, (name, rank) in enumerate(wanted.items()):
        if rank < 1:
            raise ValueError(f"{name}: {rank} is no rank; give 1 or more")
        layer = layers[name]
        if rank > layer.rank:
            pair, kept[name] = grow(pair_of(layer), rank, seed + number), 1.0
        elif rank < layer.rank:
            pair, kept[name] = compress(pair_of(layer), rank)
        else:
            kept[name] = 1.0
            continue
        adopt(layer, pair)
        for parameter in (layer.lora_A.weight, layer.lora_B.weight):
            if optimizer is not None:
                optimizer.state.pop(parameter, None)
    return kept


def adopt(layer: LoRALinear, pair: Pair) -> None:
    """Put factors of any rank into a layer, whose scaling stays what it is."""
    scaling, rank = layer.scaling, len(pair[0])
    for linear, factor in zip((layer.lora_A, layer.lora_B), pair, strict=True):
        linear.weight.grad = None
        linear.weight.data = factor.to(linear.weight)
    layer.lora_A.out_features = layer.lora_B.in_features = layer.rank = rank
    layer.alpha = scaling * (math.sqrt(rank) if layer.rslora else rank)


def allocate(model: nn.Module, mean_rank: float) -> dict[str, int]:
    """Ranks by layer that keep the largest singular values of all updates together, on average `mean_rank` a layer.

    Each layer keeps one at least. What a layer may get is its present rank at most. Raises ValueError for a mean below
    1 or above the present one.
    """
    layers = lora_layers(model)
    budget = round(mean_rank * len(layers))
    if not len(layers) <= budget <= sum(layer.rank for layer in layers.values()):
        raise ValueError(f"a mean rank of {mean_rank:g} is not between 1 and the present one")
    values = {name: (spectrum(pair_of(layer))[1] * layer.scaling).tolist() for name, layer in layers.items()}
    ranks = dict.fromkeys(layers, 1)
    further = sorted(((value, name) for name, found in values.items() for value in found[1:]), reverse=True)
    for _, name in further[: budget - len(layers)]:
        ranks[name] += 1
    return ranks


@contextlib.contextmanager
def prefix(model: nn.Module, rank: int | None) -> Iterator[None]:
    """While this is open, each LoRA layer is its first `rank` rows of A and columns of B, scaled by alpha / rank.

    That is what DyLoRA trains, and what any LoRA can be cut to; None takes all. Raises ValueError for a rank that
    some layer does not have.
    """
    layers = lora_layers(model).values()
    if rank is not None and not 1 <= rank <= min(layer.rank for layer in layers):
        raise ValueError(f"{rank} is no prefix of every layer: ranks are {min(layer.rank for layer in layers)} or more")
    for layer in layers:
        layer.active_rank = rank
    try:
        yield
    finally:
        for layer in layers:
            layer.active_rank = None
