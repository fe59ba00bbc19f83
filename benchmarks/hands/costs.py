"""What a training step of each way of `benchmarks.hands.repair` costs beside a plain one.

`python -m benchmarks.hands.costs`. All loops run in turns of --block steps in one process, so that whatever else the
machine does falls on all alike. Ratios are taken within a turn: their median, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.hands.repair import WAYS, config
from qwenlab.config import TrainConfig
from qwenlab.data.dataset import read_dataset
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.hands.close_ups import write_close_ups
from qwenlab.hands.training import structure_schedule
from qwenlab.lab.results import stamp_result
from qwenlab.lora.layers import inject_lora
from qwenlab.lora.targets import target_modules
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import optimize
from qwenlab.training.runtime import make_accelerator, make_optimizer, training_mode
from qwenlab.training.training_set import prepare_data

MEASURED = ("plain", "augmentation", "structure", "both", "hands", "bare feet")


def loop(pipeline: object, settings: TrainConfig) -> Iterator[float]:
    """The losses of the training loop under `settings`, on a transformer of its own."""
    components = dict(pipeline.components) | {"transformer": copy.deepcopy(pipeline.transformer)}
    own = type(pipeline)(**components)
    data = prepare_data(own, read_dataset(settings.dataset), settings, close_ups=write_close_ups)
    factors = inject_lora(
        own.transformer, target_modules(settings.apply_to), rank=settings.rank, alpha=settings.alpha, seed=0
    )
    accelerator = make_accelerator(own, settings, "fp32")
    with training_mode(own, accelerator, settings) as transformer:
        optimizer = make_optimizer(list(factors.values()), settings)
        extra = structure_schedule(own, settings)
        steps = optimize(transformer, optimizer, own, data.training, settings, accelerator, extra=extra)
        for _, loss in steps:
            yield loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--block", type=int, default=5, help="steps of a loop in a turn")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "hand_costs")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/hands/costs.json")
    options = parser.parse_args()
    pipeline, loops = load_pipeline("micro"), {}
    for name in MEASURED:
        settings = replace(
            config(), output_dir=str(options.work / name), cache_dir=str(options.work / "cache"), **WAYS[name].training
        )
        loops[name] = loop(pipeline, replace(settings, max_train_steps=1_000, warmup_steps=0))
        next(loops[name])  # encodes, and warms up
    seconds: dict[str, list[float]] = {name: [] for name in MEASURED}
    for _ in range(options.turns):
        for name, losses in loops.items():
            started = time.perf_counter()
            for _ in range(options.block):
                next(losses)
            seconds[name].append((time.perf_counter() - started) / options.block)
    result = {}
    for name, times in seconds.items():
        ratios = np.divide(times, seconds["plain"])
        result[name] = {
            "seconds": float(np.median(times)), "ratio": float(np.median(ratios)), "low": float(ratios.min()),
            "high": float(ratios.max()),
        }  # fmt: skip
        print(f"{name:14} {result[name]['seconds']:.3f} s a step, {result[name]['ratio']:.2f} times a plain one")
    described = {"turns": options.turns, "block": options.block}
    command = "python -m benchmarks.hands.costs"
    atomic_write_json(options.out, stamp_result({"steps": result}, config=described, command=command))


if __name__ == "__main__":
    main()
