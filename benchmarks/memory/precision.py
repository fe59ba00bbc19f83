"""What fewer bits of the base weights cost in quality: `python -m benchmarks.memory.precision`.

The same LoRA (attention and MLPs, seeds paired) is trained on the micro model in bf16, in fp32, in bf16 with a
modulation table of 1000 timesteps, in int8 and in NF4, and each draws the same prompts from the same noise on the very
weights that it was trained on; those trained on quantised weights also on the bf16 weights. The judge counts the
character, the action and the background; the held-out flow loss is measured at five sigmas on renderings of other
scenes. Intervals of rates are Wilson's; `against` is the mean difference to bf16 over seeds, with the interval of a t
test.

A micro model is no proof for 20 billion parameters.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from benchmarks.training.choices import Bench, as_line, study_config, study_parser, summary, write_study
from qwenlab.files import atomic_write_json
from qwenlab.lora.io import load_lora, remove_lora
from qwenlab.model.quantize import QUANTISED

#: Variant -> what it changes in the configuration; the first one is the reference.
VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"base_precision": "bf16"},
    "fp32": {"base_precision": "fp32"},
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
    parser = study_parser(__doc__, "memory/precision")
    options = parser.parse_args()
    config = replace(study_config(parser, options), apply_to=["attention+mlp"])
    runs: dict[str, list[dict[str, Any]]] = {}
    benches: dict[str, Bench] = {}
    for name, changes in VARIANTS.items():
        precision = changes["base_precision"]
        if precision not in benches:
            benches[precision] = Bench(options.model, config, options.prompts, options.work, precision)
        runs[name] = [benches[precision].row(changes, seed) for seed in options.seeds]
        if precision in QUANTISED:
            others = [drawn_in_bf16(benches[precision], benches["bf16"], changes, seed) for seed in options.seeds]
            runs[f"{name}, drawn in bf16"] = others
    result = {name: summary(rows, None if name == "bf16" else runs["bf16"]) for name, rows in runs.items()}
    write_study(result, benches["bf16"], options, f"memory.precision --prompts {options.prompts}", variants=VARIANTS)
    for name, row in result.items():
        print(as_line(name, row))


if __name__ == "__main__":
    main()
