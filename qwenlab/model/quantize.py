"""Base weights of one byte or half a byte a number, frozen under a LoRA in full precision.

- int8: weight-only, one scale for each output (the largest value of its row becomes 127). The arithmetic stays in the
  activations' dtype; LLM.int8, which computes in int8 and float16, overflows on bfloat16's range.
- nf4: the 16 levels of a normal distribution in blocks of 64, their scales quantised again: 4.127 bits a number
  (Dettmers et al., QLoRA, arXiv 2305.14314), by bitsandbytes.

Only the large linear layers of the repeated blocks are quantised: in Qwen-Image 99.6% of the parameters. Input, output
and timestep layers, norms and biases stay as they are.

k inputs, d outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError

QUANTISED = ("int8", "nf4")
# Where the repeated blocks lie in the classes of the pipeline.
_BLOCKS = ("transformer_blocks.", "language_model.layers.")


class _DequantisedLinear(torch.autograd.Function):
    """y = x W^T + b with W made for the product and thrown away; made again in the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: Int8Linear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantised(x.dtype), None if layer.bias is None else layer.bias.to(x))

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return dy @ ctx.layer.dequantised(dy.dtype), None


class Int8Linear(nn.Linear):
    """A frozen linear layer of int8 weights: x (..., k) -> y (..., d) in the dtype of x (autocast's, under it).

    It is an `nn.Linear`, the only kind of linear layer that peft puts a LoRA on without being taught another.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """weight (d, k) int8, scale (d,) float32, bias (d,)."""
        nn.Module.__init__(self)  # nn.Linear's own would allocate the weights in float32 first
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def of(cls, layer: nn.Linear, device: str | torch.device) -> Int8Linear:
        """The rounded weights of `layer` on `device`; each is off by at most half a step, scale / 2."""
        weight = layer.weight.detach()
        scale = weight.abs().amax(dim=1).float().clamp_min_(1e-30) / 127  # (d,)
        scale = scale.bfloat16().float()  # a scale that bfloat16 rounds later would shift its whole row
        rounded = (weight.float() / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        bias = None if layer.bias is None else layer.bias.detach().to(device)
        return cls(rounded.to(device), scale.to(device), bias)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The weights (d, k) as numbers of `dtype`."""
        return self.weight.to(dtype).mul_(self.scale[:, None].to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        return _DequantisedLinear.apply(x, self)


def quantise_linear(layer: nn.Linear, precision: str, device: str | torch.device) -> nn.Module:
    """The layer in "int8" or "nf4" (double-quantised), frozen, on `device`."""
    if precision == "int8":
        return Int8Linear.of(layer, device)
    from bitsandbytes.nn import Linear4bit, Params4bit

    quantised = Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=layer.weight.dtype,
        compress_statistics=True, quant_type="nf4", device="meta",
    )  # fmt: skip
    quantised.weight = Params4bit(
        layer.weight.detach().contiguous(), requires_grad=False, compress_statistics=True, quant_type="nf4",
        module=quantised,
    )  # fmt: skip
    quantised.bias = layer.bias
    # Without this a CPU repacks the weights at the first picture it draws, and training has no gradient afterwards.
    quantised.support_avx512bf16_for_cpu = False
    return quantised.requires_grad_(False).to(device)


def quantise(model: nn.Module, precision: str, device: str | torch.device | None = None) -> int:
    """Replace the linear layers of the repeated blocks of `model`, one after the other, and move each to `device`.

    So a GPU never holds more than one of them in full. `device` None: where each layer is. Layers that carry a LoRA
    keep it. Returns the number of layers. Raises QwenlabError for an unknown precision and a model without such layers.
    """
    if precision not in QUANTISED:
        raise QwenlabError(f"precision: {precision!r} is not one of {', '.join(QUANTISED)}")
    found = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and any(blocks in name for blocks in _BLOCKS) and "lora_" not in name
    }
    if not found:
        raise QwenlabError(f"{type(model).__name__}: has no linear layers left to quantise")
    for name, layer in found.items():
        model.set_submodule(name, quantise_linear(layer, precision, device or layer.weight.device))
    return len(found)


def weight_precision(model: nn.Module) -> str:
    """ "int8" or "nf4" when layers of `model` are quantised, else "bf16" or "fp32" by its dtype."""
    kinds = {type(layer).__name__ for layer in quantised_layers(model).values()}
    if kinds:
        return "int8" if "Int8Linear" in kinds else "nf4"
    return "fp32" if next(model.parameters()).dtype == torch.float32 else "bf16"


def quantised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of `model` that hold quantised weights, by name."""
    return {name: m for name, m in model.named_modules() if type(m).__name__ in ("Int8Linear", "Linear4bit")}
