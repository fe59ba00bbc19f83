"""LoRA, exactly: the layer, injection, merging, state dict.

    y = W x + b + scaling * B A x        scaling = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA

W (d, k) is frozen; A (r, k) starts Kaiming-uniform, B (d, r) at zero: training starts from the pretrained function, and
B receives a gradient at the first step, A from the second on. Dimensions: k inputs, d outputs, r rank.

Sources: Hu et al., LoRA (arXiv 2106.09685); Kalajdzievski, rsLoRA (arXiv 2312.03732).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError
from qwenlab.lora.targets import TARGETS, TEXT_ENCODER_TARGETS, target_modules

__all__ = [
    "TARGETS", "TEXT_ENCODER_TARGETS", "LoRALinear", "inject_lora", "lora_layers", "lora_state", "merge_lora",
    "target_modules", "trainable_parameters", "unwrap_lora",
]  # fmt: skip


class LoRALinear(nn.Module):
    """A linear layer that is kept, frozen, and a low-rank update beside it: x (..., k) -> y (..., d).

    The base may be quantised: it is only ever called. `lora_A` and `lora_B` are float32 whatever its dtype, because
    small updates vanish in bfloat16. So are their products, but not while gradients are recorded: autograd would
    keep a float32 copy of every activation.
    """

    def __init__(
        self, base_layer: nn.Module, rank: int, alpha: float, *, rslora: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        device = next(base_layer.parameters()).device
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False, device=device, dtype=torch.float32)
        self.lora_B = nn.Linear(rank, base_layer.out_features, bias=False, device=device, dtype=torch.float32)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.dropout = nn.Dropout(dropout)
        self.rank, self.alpha, self.rslora = rank, alpha, rslora
        self.active_rank: int | None = None  # only so many rows of A and columns of B count (qwenlab.lora.rank.prefix)
        self.merged = False

    @property
    def scaling(self) -> float:
        """Factor of the update: alpha / r, or alpha / sqrt(r) with `rslora`, r being the active rank."""
        rank = self.active_rank or self.rank
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r, k) and B (d, r), or views of the active part of them."""
        a, b = self.lora_A.weight, self.lora_B.weight
        return (a, b) if self.active_rank is None else (a[: self.active_rank], b[:, : self.active_rank])

    def forward(self, x: Tensor) -> Tensor:
        """x (..., k) -> (..., d), in the dtype of the base's answer."""
        y = self.base_layer(x)  # (..., d)
        if self.merged:
            return y
        a, b = self.factors
        dtype = x.dtype if torch.is_grad_enabled() else a.dtype
        low = nn.functional.linear(self.dropout(x.to(dtype)), a.to(dtype))  # (..., r)
        update = nn.functional.linear(low, b.to(dtype)) * self.scaling  # (..., d)
        return (y + update).to(y.dtype)

    def delta(self) -> Tensor:
        """The update scaling * B A, (d, k), in the dtype of the factors."""
        a, b = self.factors
        return self.scaling * (b @ a)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the update to W; nothing when it is there already. Raises QwenlabError for a quantised base."""
        self._add(+1.0)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the update out of W again: exact up to rounding in W's dtype (1e-7 in float32, 1e-2 in bfloat16)."""
        self._add(-1.0)

    def _add(self, sign: float) -> None:
        if self.merged == (sign > 0):
            return
        weight = self.base_layer.weight
        if not weight.is_floating_point():
            raise QwenlabError(
                f"a LoRA cannot be merged into {type(self.base_layer).__name__}: load the base in bf16 or fp32 first"
            )
        weight.copy_(weight.float() + sign * self.delta().float())
        self.merged = sign > 0


def inject_lora(
    model: nn.Module,
    targets: Sequence[str],
    *,
    rank: int,
    alpha: float,
    rslora: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Freeze `model`, wrap each linear layer whose name ends in one of `targets`, return the trainable parameters.

    `targets` comes from `target_modules` (transformer) or is `TEXT_ENCODER_TARGETS`. Every target must exist. `seed`
    alone decides the values of A; the caller's global random state is left as it was.

    Raises QwenlabError for a rank below 1, a target that no layer has, a model that carries a LoRA already.
    """
    if rank < 1:
        raise QwenlabError(f"rank: {rank} is no rank; give 1 or more")
    if lora_layers(model) or getattr(model, "peft_config", None):
        raise QwenlabError("the model carries a LoRA already: call qwenlab.lora.io.remove_lora(pipeline) first")
    found = {
        name: module
        for name, module in model.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
    }
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in found):
            raise QwenlabError(f"{type(model).__name__} has no layer {target!r}: choose targets that it has")
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, layer in found.items():
            model.set_submodule(name, LoRALinear(layer, rank, alpha, rslora=rslora, dropout=dropout))
    return trainable_parameters(model)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The wrapped layers of `model` by their own names, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training will change, by name: after `inject_lora`, exactly the LoRA factors."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def unwrap_lora(model: nn.Module) -> None:
    """Put every base layer back in its place: the model computes what it did before (up to rounding, if merged)."""
    for name, layer in lora_layers(model).items():
        layer.unmerge()
        model.set_submodule(name, layer.base_layer)


def merge_lora(model: nn.Module) -> None:
    """Merge every update into its weight and drop the wrappers: a plain model that costs nothing extra to run."""
    for name, layer in lora_layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.base_layer)


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The active factors on the CPU: `<layer>.lora_A.weight` (r, k) and `<layer>.lora_B.weight` (d, r)."""
    return {
        f"{name}.lora_{side}.weight": factor.detach().cpu().contiguous()
        for name, layer in lora_layers(model).items()
        for side, factor in zip("AB", layer.factors, strict=True)
    }
