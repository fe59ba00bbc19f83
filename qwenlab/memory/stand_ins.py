"""Stand-ins with the bytes of bitsandbytes' layers and optimizer, for tensors without values, on which those fail."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # numbers under one scale of a byte; such scales under one of four bytes
ADAM_BLOCK = 256  # states under one scale of four bytes
ADAM_SMALLEST = 4096  # states of smaller tensors stay float32


def nf4_bytes(numbers: int) -> int:
    """Bytes of `numbers` weights in double-quantised NF4: half a byte each, and their scales."""
    scales = -(-numbers // NF4_BLOCK)
    return -(-numbers // 2) + scales + 4 * -(-scales // NF4_NESTED_BLOCK)


def adamw_8bit_bytes(numbers: int) -> int:
    """Bytes of both states of a tensor of `numbers` parameters in bitsandbytes' AdamW8bit."""
    if numbers < ADAM_SMALLEST:
        return 8 * numbers
    return 2 * (numbers + 4 * -(-numbers // ADAM_BLOCK))


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
