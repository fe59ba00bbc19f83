"""The VAE on still pictures, stock and folded, side by side: `python -m benchmarks.memory.vae_speed`.

The configuration of Qwen-Image's own VAE (127 million parameters, random weights: values change neither time nor
memory) in float32. Both take turns in one run; times are medians, memory is the peak of tensors beside the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.results import stamp_result
from qwenlab.memory.live_bytes import LiveBytes
from qwenlab.model.vae2d import fold_causal_vae, unfold_causal_vae


def compare(vae: Any, call: Callable[[], torch.Tensor], turns: int) -> dict[str, Any]:
    """Seconds and peak bytes of `call` with the stock and the folded VAE, and the largest difference of the answers."""
    ways = {"stock": unfold_causal_vae, "folded": fold_causal_vae}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    answers, peaks = {}, {}
    for turn in range(turns + 1):
        for way, switch in ways.items():
            switch(vae)
            started = time.perf_counter()
            answers[way] = call()
            if turn:  # the first turn warms up
                seconds[way].append(time.perf_counter() - started)
            else:
                watch = LiveBytes()
                watch.add(list(vae.parameters()), "weights")
                with watch:
                    call()
                peaks[way] = watch.record.peak - watch.record.at_peak()["weights"]
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "seconds": medians,
        "speed": medians["stock"] / medians["folded"],
        "mib": {way: peak / 1024**2 for way, peak in peaks.items()},
        "memory": peaks["stock"] / peaks["folded"],
        "difference": (answers["stock"] - answers["folded"]).abs().max().item(),
    }


@torch.no_grad()
def main() -> None:
    from diffusers import AutoencoderKLQwenImage

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=256, help="side of the picture")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--base-dim", type=int, default=96, help="width of the VAE; 96 is the real one")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/memory/vae_speed.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(base_dim=options.base_dim).eval()
    picture = torch.rand(1, 3, 1, options.pixels, options.pixels) * 2 - 1
    latents = vae.encode(picture).latent_dist.mean
    result = {
        "encode": compare(vae, lambda: vae.encode(picture).latent_dist.mean, options.turns),
        "decode": compare(vae, lambda: vae.decode(latents).sample, options.turns),
    }
    config = {
        "pixels": options.pixels, "turns": options.turns, "base_dim": options.base_dim,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    atomic_write_json(options.out, stamp_result(result, config=config, command="python -m benchmarks.memory.vae_speed"))
    for name, row in result.items():
        print(f"{name}: {row['speed']:.2f} times as fast, {row['memory']:.2f} times less memory; {row}")


if __name__ == "__main__":
    main()
