"""How the small networks of the laboratory are trained: finders, pose and form networks, judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from qwenlab.files import atomic_write_bytes

N = TypeVar("N", bound=nn.Module)


def vary(pictures: Tensor, contrast: float = 0.2, noise: float = 0.03) -> Tensor:
    """Pictures (B, 3, H, W) with other contrasts (by up to half of `contrast`), tints, and pixel noise."""
    count = len(pictures)
    pictures = pictures * (1 + contrast * (torch.rand(count, 1, 1, 1) - 0.5)) + 0.1 * torch.randn(count, 3, 1, 1)
    return pictures + noise * torch.randn_like(pictures)


def fit(
    network: N,
    loss_of_step: Callable[[], Tensor],
    steps: int,
    rate: float,
    *,
    weight_decay: float = 0.05,
    clip: float | None = None,
    say: bool = True,
) -> N:
    """Train with AdamW and a one-cycle rate; `loss_of_step` draws a batch and gives its loss.

    say: print the mean loss and the seconds a step, every 100 steps. Returns the network in eval mode.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    started, mean = time.monotonic(), 0.0
    network.train()
    for step in range(1, steps + 1):
        loss = loss_of_step()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean = 0.98 * mean + 0.02 * loss.item() if step > 1 else loss.item()
        if say and step % 100 == 0:
            print(f"step {step}: loss {mean:.5f}, {(time.monotonic() - started) / step:.2f} s a step", flush=True)
    return network.eval()


def fit_squares(
    network: N,
    sources: Sequence[tuple[Sequence[Tensor], int]],
    loss: Callable[..., Tensor],
    steps: int,
    rate: float,
    *,
    clip: float | None = None,
    say: bool = True,
) -> N:
    """`fit` to labelled squares: varied, and mirrored in half of the steps.

    sources: tensors with a row for each example, the first of which are squares (N, 3, S, S) in [-1, 1], and how many
        rows of them a step draws.
    loss: called with what the network says of the squares drawn and with the other tensors' rows.
    """

    def loss_of_step() -> Tensor:
        drawn = [(tensors, torch.randint(len(tensors[0]), (count,))) for tensors, count in sources]
        parts = zip(*([tensor[rows] for tensor in tensors] for tensors, rows in drawn), strict=True)
        shown, *labels = map(torch.cat, parts)
        shown = vary(shown, 0.3, 0.04)
        if torch.rand(()) < 0.5:
            shown = shown.flip(3)
        return loss(network(shown), *labels)

    return fit(network, loss_of_step, steps, rate, clip=clip, say=say)


def save_half(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a `state_dict` as bfloat16 to a safetensors file."""
    atomic_write_bytes(path, save({name: value.bfloat16().contiguous() for name, value in weights.items()}))
