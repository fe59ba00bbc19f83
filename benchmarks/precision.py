"""What fewer bits of the base weights cost in quality: `python -m benchmarks.precision`.

The same LoRA (attention and MLPs, seeds paired) is trained on the micro model in bf16, in bf16 with a modulation table
of 1000 timesteps, in int8 and in NF4, and each draws the same prompts from the same noise on the very weights that it
was trained on; those trained on quantised weights also on the bf16 weights. The judge counts the character, the action
and the background; the held-out flow loss is measured at five sigmas on renderings of other scenes. Intervals of rates
are Wilson's; `against` is the mean difference to bf16 over seeds, with the interval of a t test.

A micro model is no proof for 20 billion parameters: large models lose less by rounding.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dataset_size import MEASURES
from benchmarks.training_choices import Bench, summary
from qwenlab.config import read_config
from qwenlab.files import REPOSITORY, atomic_write_json, stamp_result
from qwenlab.lora_io import load_lora, remove_lora

#: Variant -> what it changes in the configuration; the first one is the reference.
VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"base_precision": "bf16"},
    "bf16 + table": {"base_precision": "bf16", "modulation_timesteps": 1000},
    "int8": {"base_precision": "int8"},
    "nf4": {"base_precision": "nf4"},
}


def drawn_in_bf16(bench: Bench, reference: Bench, changes: dict[str, Any], seed: int) -> dict[str, Any]:
    """The row of `changes` measured again with its LoRA on the weights of `reference`."""
    path, lora = bench.paths(changes, seed)
    again = path.with_suffix(".bf16.json")
    if not again.exists():
        load_lora(reference.pipeline, lora)
        atomic_write_json(again, reference.measure())
        remove_lora(reference.pipeline)
    return json.loads(again.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="micro")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    parser.add_argument("--prompts", type=int, default=64, help="pictures of each LoRA")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "precision")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "precision.json")
    options = parser.parse_args()
    if len(options.seeds) < 2:
        parser.error("--seeds: two or more, since differences are judged by their spread over seeds")
    config = replace(
        read_config(REPOSITORY / "configs" / "micro_lora.yaml"), preview_every_n_steps=0, apply_to=["attention+mlp"],
        max_train_steps=options.steps, warmup_steps=min(30, options.steps // 4),
    )  # fmt: skip
    result: dict[str, Any] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    benches: dict[str, Bench] = {}
    for name, changes in VARIANTS.items():
        precision = changes["base_precision"]
        if precision not in benches:
            benches[precision] = Bench(options.model, config, options.prompts, options.work, precision)
        runs[name] = [benches[precision].row(changes, seed) for seed in options.seeds]
        if precision != "bf16":
            others = [drawn_in_bf16(benches[precision], benches["bf16"], changes, seed) for seed in options.seeds]
            runs[f"{name}, drawn in bf16"] = others
    for name, rows in runs.items():
        result[name] = summary(rows, None if name == "bf16" else runs["bf16"])
    settings = {"config": config.hash(), "steps": options.steps, "seeds": options.seeds, "prompts": options.prompts}
    made = stamp_result(
        result, weights=benches["bf16"].weights, config=settings | {"variants": VARIANTS},
        command="python -m benchmarks.precision",
    )  # fmt: skip
    atomic_write_json(options.out, made)
    for name, row in result.items():
        rates = " ".join(f"{m} {row[m]['value']:.1%} [{row[m]['low']:.1%}, {row[m]['high']:.1%}]" for m in MEASURES)
        print(f"{name:22} {rates}  held-out loss {np.mean(row['mean_held_out_loss']):.4f}")


if __name__ == "__main__":
    main()
