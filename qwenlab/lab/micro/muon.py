"""Muon: momentum whose every matrix update is made orthogonal, for kernels and hidden matrices; AdamW for the rest.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the step size follows Liu et al., Muon is
Scalable for LLM Training (arXiv 2502.16982), so that learning rates of AdamW carry over. `torch.optim.Muon` takes 2D
parameters only and iterates in bf16, which CPUs without bf16 units emulate a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315  # quintic that drives all singular values near 1 (Jordan et al.)


def orthogonalise(g: Tensor, iterations: int = 5) -> Tensor:
    """Nearly U V^T of the singular value decomposition of each matrix in `g` (..., M, N), by Newton-Schulz steps."""
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Groups with `muon=True` hold matrices (M, N) or kernels (M, N, h, w) / (M, N, t, h, w); others go to AdamW.

    A causal 3D kernel of which only the last temporal slice meets data (`qwenlab.model.vae2d`) is treated as the 2D
    kernel it is: the other slices have no gradient and never move.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": betas,
            "weight_decay": weight_decay,
            "muon": False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adamw
            update(group, [p for p in group["params"] if p.grad is not None])

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for p in parameters:
            state = self.state[p]
            target, grad = (p[:, :, -1], p.grad[:, :, -1]) if p.ndim == 5 else (p, p.grad)
            if not state:
                state["momentum"] = torch.zeros_like(grad)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            nesterov = grad.lerp(state["momentum"], group["momentum"])
            by_shape.setdefault((len(p), grad[0].numel()), []).append((target, nesterov))
        for (rows, columns), pairs in by_shape.items():  # equal shapes in one batched product
            updates = orthogonalise(torch.stack([g.reshape(rows, columns) for _, g in pairs]))
            scale = 0.2 * max(rows, columns) ** 0.5  # root mean square of an AdamW update
            for (target, _), update in zip(pairs, updates, strict=True):
                target.mul_(1 - group["lr"] * group["weight_decay"])
                target.sub_(update.view_as(target), alpha=group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        first, second = group["betas"]
        for p in parameters:
            state = self.state[p]
            if not state:
                state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
            state["step"] += 1
            count = state["step"].item()
            state["mean"].lerp_(p.grad, 1 - first)
            state["square"].lerp_(p.grad.square(), 1 - second)
            denominator = (state["square"] / (1 - second**count)).sqrt_().add_(1e-8)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.addcdiv_(state["mean"], denominator, value=-group["lr"] / (1 - first**count))
