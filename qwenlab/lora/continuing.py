"""Training that goes on from a LoRA file: whether it can, before anything is spent on it, and its factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from qwenlab.errors import QwenlabError
from qwenlab.lora.files import LoraFile, read_lora
from qwenlab.lora.files.reading import open_tensors, read_factors
from qwenlab.lora.layers import lora_layers

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def check_init_lora(transformer: nn.Module, path: str | Path, targets: Sequence[str], rank: int) -> None:
    """Raise QwenlabError unless training `targets` (of `target_modules`) at `rank` can go on from the file `path`.

    The file must be a plain LoRA, of any trainer's layout, of these very layers and this rank, without NaN.
    """
    shapes = {}
    for name, module in transformer.named_modules():
        layer = name.removesuffix(".base_layer")  # it may carry a LoRA that training takes off
        if hasattr(module, "in_features") and any(f".{layer}".endswith(f".{target}") for target in targets):
            shapes[layer] = (module.out_features, module.in_features)
    _read_matching(path, shapes, rank)


def continue_lora(pipeline: QwenImagePipeline, path: str | Path) -> None:
    """Put the factors of a LoRA file into the LoRA injected into the transformer, after the check above.

    The file's own scaling is kept by scaling B. Raises QwenlabError as `check_init_lora` does.
    """
    layers = lora_layers(pipeline.transformer)
    shapes = {name: (layer.lora_B.out_features, layer.lora_A.in_features) for name, layer in layers.items()}
    file = _read_matching(path, shapes, next(iter(layers.values())).rank)
    with open_tensors(file.path) as tensors, torch.no_grad():
        for name, layer in layers.items():
            a, b = read_factors(tensors, file.layers[name])
            layer.lora_A.weight.copy_(a)
            layer.lora_B.weight.copy_(b.float() * (file.layers[name].scaling / layer.scaling))


def _read_matching(path: str | Path, shapes: Mapping[str, tuple[int, int]], rank: int) -> LoraFile:
    """The header of a file that has a LoRA of `rank` for exactly the layers in `shapes`: name -> (d, k)."""
    try:
        file = read_lora(path)
    except QwenlabError as error:
        raise QwenlabError(f"init_lora: {error}") from error
    if file.kinds != ["LoRA"]:
        kinds = " and ".join(file.kinds) or "no LoRA of the transformer"
        raise QwenlabError(f"init_lora: {path} holds {kinds}; only a plain LoRA can be continued")
    for name in [*shapes, *file.layers]:
        if name not in file.layers or name not in shapes:
            where = "apply_to does not name" if name in file.layers else "the file has no"
            raise QwenlabError(f"init_lora: {path}: {where} layer {name}; set apply_to to the layers of the file")
    with open_tensors(file.path) as tensors:
        for name, entry in file.layers.items():
            if entry.shape != shapes[name]:
                raise QwenlabError(
                    f"init_lora: {path}: of another model, {name} is {entry.shape} and here {shapes[name]}"
                )
            if entry.rank != rank:
                raise QwenlabError(f"init_lora: {path}: rank {entry.rank}, here {rank}; set rank to the file's")
            if not all(factor.float().isfinite().all() for factor in read_factors(tensors, entry)):
                raise QwenlabError(f"init_lora: {path}: {name!r} holds NaN or infinity; take an earlier checkpoint")
    return file
