"""Measure the counter of heads: `python -m qwenlab.lab.editing.calibrate_heads`.

On other drawings than those of its training, plain and after the VAE, by number of heads and by style. The result goes
to `benchmarks/editing/heads.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.editing.heads import WEIGHTS, HeadNet, count_heads, load_head_net
from qwenlab.lab.editing.train_heads import SEED, STYLES, held_out
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.results import stamp_result
from qwenlab.lab.statistics import rate
from qwenlab.model.micro_weights import MICRO_WEIGHTS

MOST = 3  # heads that a column of the table stands for; the last holds more as well


def measure(network: HeadNet, images: np.ndarray, counts: list[int]) -> dict[str, Any]:
    """Pictures counted right, and how many heads were read by how many there are.

    images: (N, 128, 128, 3) uint8; counts: their numbers of heads, 0 to 2.
    """
    found = count_heads(network, [Image.fromarray(image) for image in images])
    read = np.zeros((3, MOST + 1), int)
    for count, number in zip(counts, found, strict=True):
        read[count, min(number, MOST)] += 1
    right = rate(int(np.trace(read)), len(counts))
    return {"right": right.value, "low": right.low, "high": right.high, "of": right.total, "read": read.tolist()}


def calibrate(network: HeadNet, vae: Any, count: int, of_style: int) -> dict[str, Any]:
    """`measure` of `count` drawings, of the same after the VAE, and of `of_style` drawings of each style after it."""
    images, counts = held_out(count)
    result = {"renderings": measure(network, images, counts), "vae": measure(network, round_trip(images, vae), counts)}
    styles = {}
    for style in STYLES:
        images, counts = held_out(of_style, style, SEED + 2)
        styles[style] = measure(network, round_trip(images, vae), counts)
    return result | {"vae, by style": styles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="drawings")
    parser.add_argument("--of-style", type=int, default=150, help="drawings of each style")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "editing" / "heads.json")
    options = parser.parse_args()
    network = load_head_net(options.weights)
    result = calibrate(network, load_vae(MICRO_WEIGHTS), options.count, options.of_style)
    config = {"count": options.count, "of_style": options.of_style, "seeds": [SEED + 1, SEED + 2]}
    stamped = stamp_result(result, weights=[options.weights, MICRO_WEIGHTS / "vae"], config=config)
    atomic_write_json(options.out, stamped)
    for name, row in {**{k: result[k] for k in ("renderings", "vae")}, **result["vae, by style"]}.items():
        print(f"{name}: {row['right']:.1%} of {row['of']} counted right; read by true count {row['read']}")


if __name__ == "__main__":
    main()
