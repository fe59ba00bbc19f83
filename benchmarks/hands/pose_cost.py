"""What a structure loss through OpenPose costs in a training step: `python -m benchmarks.hands.pose_cost`.

The crop around one hand of Qwen-Image's 1024 x 1024 picture: 29 x 29 latent cells, decoded by the real VAE (folded),
resized to 368 pixels, read by OpenPose's hand network, compared, and back to the latents; the same for the body
network. Random weights: values change neither time nor memory. Simulated on fake tensors (bytes beside the weights,
operations), and executed on this machine in float32 and bfloat16 with the gradient checked. The seconds on a card are
predicted from the operations at the share of its peak that lesson 05 assumes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.hands.openpose import FILES, SIZE, OpenPose, build
from qwenlab.hands.structure import decode_normalised
from qwenlab.lab.results import stamp_result
from qwenlab.memory.cards import find_card
from qwenlab.memory.live_bytes import LiveBytes
from qwenlab.memory.plan import seconds_per_step
from qwenlab.memory.settings import StepSettings
from qwenlab.model.vae2d import fold_causal_vae

CELLS = 29  # 230 pixels: a hand of 170 and the room around it
UTILISATION = 0.4


class LossOfOneHand:
    """VAE, network and latents; calling it is one forward and backward pass."""

    def __init__(self, kind: str, dtype: torch.dtype, base_dim: int, cells: int) -> None:
        from diffusers import AutoencoderKLQwenImage

        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # fake tensors cannot change theirs afterwards
        self.vae = fold_causal_vae(AutoencoderKLQwenImage(base_dim=base_dim)).requires_grad_(False)
        network = build(kind)
        torch.set_default_dtype(default)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):  # signals must live through 40 layers
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.network = OpenPose(network)
        self.latents = torch.randn(1, 16, cells, cells).requires_grad_()
        self.truth = torch.randn(1, 16, cells, cells)

    def __call__(self) -> float:
        with torch.no_grad():
            wanted = self._look(self.truth)
        loss = sum((a - b).abs().mean() for a, b in zip(self._look(self.latents), wanted, strict=True))
        self.latents.grad = None
        loss.backward()
        return loss

    def _look(self, latents: torch.Tensor) -> list[torch.Tensor]:
        picture = decode_normalised(self.vae, latents)
        return self.network(F.interpolate(picture, (SIZE, SIZE), mode="bilinear", antialias=True))

    def weights(self) -> list[torch.Tensor]:
        return [*self.vae.parameters(), *self.network.network.parameters()]


def simulate(kind: str, dtype: torch.dtype, base_dim: int, cells: int) -> dict[str, float]:
    """Peak bytes beside the weights, bytes of the weights, and operations, on fake tensors."""
    with FakeTensorMode():
        loss = LossOfOneHand(kind, dtype, base_dim, cells)
        watch = LiveBytes()
        watch.add(loss.weights(), "weights")
        with watch:
            loss()
        weights = watch.record.at_peak()["weights"]
        with FlopCounterMode(display=False) as counter:
            loss()
    return {
        "peak_gib": (watch.record.peak - weights) / 1024**3,
        "weights_gib": weights / 1024**3,
        "operations": float(counter.get_total_flops()),
    }


def execute(kind: str, dtype: torch.dtype, base_dim: int, cells: int, turns: int) -> dict[str, Any]:
    """The same on real tensors: peak, seconds, and whether the gradient is finite and not zero."""
    loss = LossOfOneHand(kind, dtype, base_dim, cells)
    watch = LiveBytes()
    watch.add(loss.weights(), "weights")
    with watch:
        loss()
    times = []
    for _ in range(turns):
        started = time.perf_counter()
        loss()
        times.append(time.perf_counter() - started)
    gradient = loss.latents.grad
    return {
        "peak_gib": (watch.record.peak - watch.record.at_peak()["weights"]) / 1024**3,
        "seconds": min(times),
        "gradient_finite": bool(torch.isfinite(gradient).all()),
        "gradient_norm": float(gradient.norm()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-dim", type=int, default=96, help="width of the VAE; 96 is the real one")
    parser.add_argument("--cells", type=int, default=CELLS)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/hands/pose_cost.json")
    options = parser.parse_args()
    card, settings = find_card("80"), StepSettings()
    step = seconds_per_step(settings, card)
    rows = []
    for kind in FILES:
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            simulated = simulate(kind, dtype, options.base_dim, options.cells)
            executed = execute(kind, dtype, options.base_dim, options.cells, options.turns)
            row = {"network": kind, "dtype": name, "simulated": simulated, "executed": executed}
            if dtype == torch.bfloat16:
                seconds = simulated["operations"] / (UTILISATION * card.tflops * 1e12)
                row["predicted"] = {"card": card.name, "seconds": seconds, "step_seconds": step}
            rows.append(row)
            peaks = f"{simulated['peak_gib']:.2f} GiB simulated, {executed['peak_gib']:.2f} executed"
            print(f"{kind:5} {name:9} peak {peaks}")
            print(f"{executed['seconds']:22.1f} s here, gradient {executed['gradient_norm']:.1e}", flush=True)
    described = {"base_dim": options.base_dim, "cells": options.cells, "utilisation": UTILISATION}
    command = "python -m benchmarks.hands.pose_cost"
    atomic_write_json(options.out, stamp_result({"rows": rows}, config=described, command=command))


if __name__ == "__main__":
    main()
