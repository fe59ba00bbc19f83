"""Predicted and measured memory of a training step, rung by rung: `python -m benchmarks.memory.full_scale`.

On a CUDA card: the real configuration of Qwen-Image (20.4 billion parameters) with random weights, whose values change
neither memory nor time, at 512 and 1024 pixels, ranks 16 and 64, in bf16, int8 and NF4, with every rung of the ladder
on, and with each one changed. On a CPU: a model of 155 million parameters, to check the same code. A row that cannot
fit says so and is skipped. The file is written after each row; rows that it has are not measured again.

Peaks are of tensors (GiB). `simulated` is the step executed on fake tensors, `formula` counts, `allocator` is what
PyTorch's allocator gave out on this machine. Time is the median of 3 steps after 3 others.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_json
from qwenlab.lab.results import stamp_result
from qwenlab.memory.cards import CARDS
from qwenlab.memory.flops import predict_operations
from qwenlab.memory.formula import GIB, predict_step
from qwenlab.memory.measure import Measurement, measure_step
from qwenlab.memory.settings import MODELS, StepSettings
from qwenlab.memory.simulate import simulate_step

#: Rung -> what it changes against the first row, in which all of them are on.
RUNGS: dict[str, dict[str, Any]] = {
    "all rungs": {},
    "modulation layers instead of the table": {"modulation_table": False},
    "no checkpointing": {"checkpointing": "none"},
    "selective checkpointing": {"checkpointing": "selective"},
    "AdamW in float32": {"optimizer": "adamw"},
    "attention written out": {"attention": "math"},
    "accumulation of 2": {"accumulation": 2},
}


#: Fused attention kernels that only a CUDA card has.
CUDA_RUNGS: dict[str, dict[str, Any]] = {
    "flash attention kernel": {"attention": "flash"},
    "memory-efficient attention kernel": {"attention": "efficient"},
    "xFormers": {"attention": "xformers"},
}


def plan(
    model: str, resolutions: list[int], ranks: list[int], weights: list[str], device: str
) -> list[tuple[str, StepSettings]]:
    """Every row: its rung, and its settings."""
    rungs = RUNGS if device == "cpu" else RUNGS | CUDA_RUNGS
    rows = []
    for (rung, changes), resolution, rank, precision in itertools.product(rungs.items(), resolutions, ranks, weights):
        base = StepSettings(
            model=MODELS[model], height=resolution, width=resolution, rank=rank, weights=precision,
            modulation_table=True,
        )  # fmt: skip
        rows.append((rung, dataclasses.replace(base, **changes)))
    return rows


def room(device: str) -> float:
    """GiB that a step may take."""
    if device == "cpu":
        import psutil

        return 0.8 * psutil.virtual_memory().available / GIB
    return torch.cuda.mem_get_info()[0] / GIB


def predict_row(settings: StepSettings) -> dict[str, float]:
    """What a row should turn out to be; needs no card."""
    return {
        "formula": predict_step(settings).tensors / GIB, "simulated": simulate_step(settings).peak / GIB,
        "tflop": predict_operations(settings).total / 1e12,
    }  # fmt: skip


def predictions(settings: list[StepSettings], device: str) -> Iterator[dict[str, float]]:
    """`predict_row` of each, in order; beside a card in processes of their own, which run ahead of the measurements."""
    if device == "cpu":  # where they would disturb the times
        yield from map(predict_row, settings)
        return
    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 1), get_context("spawn")) as pool:
        yield from pool.map(predict_row, settings)


def measure_row(settings: StepSettings, device: str, row: dict[str, Any]) -> dict[str, Any]:
    """The predictions of `row`, and the measurement or the reason for none."""
    simulated = row["simulated"]
    needed, free = simulated * 1.03 + 0.5 * (device != "cpu"), room(device)
    if needed > free:
        return row | {"skipped": f"needs about {needed:.1f} GiB, {free:.1f} are free"}
    try:
        measured = measure_step(settings, device)
    except torch.cuda.OutOfMemoryError as error:
        return row | {"skipped": f"out of memory: {str(error).splitlines()[0]}"}
    except QwenlabError as error:  # a kernel that is not installed
        return row | {"skipped": str(error)}
    finally:
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    return row | _measured(measured, simulated, row["tflop"], device)


def _measured(measured: Measurement, simulated: float, tflop: float, device: str) -> dict[str, Any]:
    allocator = measured.allocator / GIB
    row = {
        "allocator": allocator,
        "process": measured.process / GIB,
        "simulated_error": simulated / allocator - 1,
        "seconds": measured.seconds,
        "tflops": tflop / measured.seconds,
    }
    if device != "cpu":
        row["device"] = measured.device / GIB
        name = torch.cuda.get_device_name()
        known = [card for card in CARDS if card.name.split()[-1 if card.name.startswith("RTX") else 0] in name]
        if known:
            row["utilisation"] = row["tflops"] / known[-1].tflops
    return row


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--model", choices=list(MODELS), default="qwen-image" if cuda else "mid")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if cuda else [512])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 64] if cuda else [16])
    parser.add_argument("--weights", nargs="+", default=["bf16", "int8", "nf4"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = (
        options.out or Path(__file__).parent / f"full_scale_{options.model if options.device != 'cpu' else 'cpu'}.json"
    )
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    missing = []
    for rung, settings in plan(options.model, options.resolutions, options.ranks, options.weights, options.device):
        key = {
            "rung": rung, "weights": settings.weights, "resolution": settings.height, "rank": settings.rank,
        }  # fmt: skip
        if not any(key.items() <= row.items() for row in rows):
            missing.append((key, settings))
    for (key, settings), predicted in zip(
        missing, predictions([settings for _, settings in missing], options.device), strict=True
    ):
        row = key | measure_row(settings, options.device, predicted)
        rows.append(row)
        machine = torch.cuda.get_device_name() if options.device != "cpu" else f"CPU, {torch.get_num_threads()} threads"
        config = {"model": options.model, "machine": machine, "rungs": RUNGS}
        atomic_write_json(
            out, stamp_result({"rows": rows}, config=config, command="python -m benchmarks.memory.full_scale")
        )
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)


if __name__ == "__main__":
    main()
