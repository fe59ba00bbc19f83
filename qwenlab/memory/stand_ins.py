"""Stand-ins with the bytes of bitsandbytes' layers and optimizer, for tensors without values, on which those fail."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qwenlab.memory.formula import adamw_8bit_bytes, nf4_bytes


class _Dequantised(torch.autograd.Function):
    """As bitsandbytes' MatMul4Bit: the weights are made for each product and kept for none."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantised(x), layer.bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return dy @ ctx.layer.dequantised(dy), None


class NF4Linear(nn.Module):
    """The shapes and bytes of a double-quantised `Linear4bit`; its answers mean nothing."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        data = torch.empty(nf4_bytes(layer.weight.numel()), dtype=torch.uint8, device=layer.weight.device)
        self.weight = nn.Parameter(data, requires_grad=False)

    def dequantised(self, like: Tensor) -> Tensor:
        """Numbers of the shape (d, k) of the weights."""
        return like.new_empty(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return _Dequantised.apply(x, self)


class StandInAdamW8bit(torch.optim.Optimizer):
    """The states of `AdamW8bit`, which its one kernel changes in place; a step does nothing."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        for parameter in parameters:
            size = adamw_8bit_bytes(parameter.numel())
            self.state[parameter]["states"] = torch.empty(size, dtype=torch.uint8, device=parameter.device)

    def step(self, closure: None = None) -> None:
        """Nothing: there are no values."""
