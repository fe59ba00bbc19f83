"""Does a rank that changes while training beat a fixed one? `python -m benchmarks.rank.dynamic`.

LoRAs on `data_sample`, 400 steps, three seeds, all else equal (configs/micro_lora.yaml): fixed ranks, among them 10,
about the mean rank of the article's 64-96-64 at micro width (8-12-8); that, the same with the last ranks shared out by
energy, 12 cut to 8 by energy, and DyLoRA. Plain and DyLoRA are measured at smaller ranks as well: prefixes of both, and
the best approximations of the plain one.

Every LoRA draws the same prompts from the same noise; measured as in `benchmarks.training.choices`, and for the
article's claim of "9% more detail" the mean step between neighbouring pixels, relative to the renderings of the same
scenes. `against` are mean differences to rank 8 over seeds with the interval of a t test.

Finished runs stay in --work; `--arms` makes those of some arms only and writes nothing, so that two processes may share
the work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.data.size import MEASURES, paired_difference
from benchmarks.training.choices import Bench, as_line, study_config, study_parser, summary, write_study
from qwenlab.files import atomic_write_json
from qwenlab.lab import world
from qwenlab.lora.io import remove_lora
from qwenlab.lora.layers import lora_layers
from qwenlab.lora.rank import change_ranks, prefix
from qwenlab.training import train_lora

SMALL = (4, 2)  # ranks that finished LoRAs are cut to
REFERENCE = "8"


def arms(steps: int) -> dict[str, dict[str, Any]]:
    """Name -> what it changes in the configuration; ranks change after 30% and 70% of the steps, as the article's."""
    up, down = round(0.3 * steps) + 1, round(0.7 * steps) + 1
    twelve = {"rank": 12, "alpha": 12.0}
    return {
        REFERENCE: {},
        "10": {"rank": 10, "alpha": 10.0},
        "12": twelve,
        "8-12-8": {"rank_schedule": {up: 12, down: 8}},
        "8-12-8 by energy": {"rank_schedule": {up: 12, down: 8}, "rank_by_energy": True},
        "12-8 by energy": twelve | {"rank_schedule": {down: 8}, "rank_by_energy": True},
        "DyLoRA": {"dylora": True},
    }


def detail(images: Sequence[Image.Image]) -> float:
    """The mean absolute step between neighbouring pixels, grey values 0..255, over both directions."""
    steps = []
    for image in images:
        grey = np.asarray(image.convert("L"), float)
        steps += [np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]
    return float(np.mean(steps))


class RankBench(Bench):
    """The bench of the training choices, with detail, ranks and cut LoRAs."""

    def measure(self) -> dict[str, Any]:
        drawn = self.draw()
        rendered = [Image.fromarray(world.render(scene, drawn[0].width).image) for scene in self.scenes]
        return self.read(drawn) | {"detail": detail(drawn) / detail(rendered)}

    def row(self, changes: dict[str, Any] | None, seed: int) -> dict[str, Any]:
        path, lora = self.paths(changes, seed)
        if not path.exists():
            config = replace(
                self.config, seed=seed, output_dir=str(lora.parent), cache_dir=str(self.work / "cache"), **changes
            )
            trained = train_lora(self.pipeline, config, progress=False)
            model = self.pipeline.transformer
            row = {"seconds": trained.seconds, "train_loss": float(np.mean(trained.losses[-50:]))} | self.measure()
            row["ranks"] = {name: layer.rank for name, layer in lora_layers(model).items()}
            row["losses at changes"] = {
                step: [float(np.mean(trained.losses[step - 11 : step - 1])), *trained.losses[step - 1 : step + 9]]
                for step in config.rank_schedule
            }
            if config.dylora or not changes:
                for rank in SMALL:
                    with prefix(model, rank):
                        row[f"prefix {rank}"] = self.measure()
            if not changes:
                for rank in SMALL:
                    change_ranks(model, rank)
                    row[f"cut to {rank}"] = self.measure()
            remove_lora(self.pipeline)
            atomic_write_json(path, row)
            shown = {name: row[name] for name in (*MEASURES, "detail", "seconds")}
            print(f"{changes}, seed {seed}: {json.dumps(shown)}", flush=True)
        return json.loads(path.read_text())


def row_summary(runs: list[dict[str, Any]], reference: list[dict[str, Any]] | None) -> dict[str, Any]:
    """`summary` of the runs of an arm, with what only this study measures."""
    result = summary(runs, reference) | {"detail": [run["detail"] for run in runs]}
    if reference:
        result["against"]["detail"] = paired_difference(result["detail"], [run["detail"] for run in reference])
        if "seconds" in runs[0]:
            ratios = [run["seconds"] / other["seconds"] for run, other in zip(runs, reference, strict=True)]
            result["time"] = float(np.mean(ratios))
    for name in ("ranks", "losses at changes"):
        if runs[0].get(name):
            result[name] = [run[name] for run in runs]
    return result


def main() -> None:
    parser = study_parser(__doc__, "rank/dynamic")
    parser.add_argument("--arms", nargs="+", help="only make the runs of these")
    options = parser.parse_args()
    config = study_config(parser, options)
    bench = RankBench(options.model, config, options.prompts, options.work)
    every = arms(options.steps)
    wanted = options.arms or list(every)
    runs = {name: [bench.row(every[name], seed) for seed in options.seeds] for name in wanted}
    if options.arms:
        return
    reference = runs[REFERENCE]
    result = {name: row_summary(rows, None if name == REFERENCE else reference) for name, rows in runs.items()}
    for name, key in [("8", f"{way} {rank}") for way in ("prefix", "cut to") for rank in SMALL] + [
        ("DyLoRA", f"prefix {rank}") for rank in SMALL
    ]:
        result[f"{name}, {key}"] = row_summary([run[key] for run in runs[name]], reference)
    write_study({"arms": result}, bench, options, "rank.dynamic", arms=every)
    for name, row in result.items():
        print(as_line(name, row))


if __name__ == "__main__":
    main()
