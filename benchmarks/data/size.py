"""How many pictures teach a character: `python -m benchmarks.data.size`.

LoRAs of one configuration and one number of steps on 15, 30, 60 and 120 pictures of the character, three seeds each.
Up to 60 the pictures come from `data_sample`, drawn anew by every seed; 120 are all of these and 60 more scenes made
the same way. With equal steps, fewer pictures are visited more often: 15 pictures eight times as often as 120.

Every LoRA draws the same prompts from the same noise. Their pairs of action and background are in no training picture.
The judge says how many pictures show the character, the action and the background; the held-out flow loss is measured
on renderings of other such scenes. Intervals of rates are Wilson's and hold for these runs; `against_60` is the mean
difference to 60 pictures over seeds, with the interval of a t test. Finished runs stay in --work, so that a broken
benchmark goes on where it stopped; a run made with other weights or settings is not taken.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import Dataset, read_dataset
from qwenlab.files import REPOSITORY, atomic_write_json, sha256_json
from qwenlab.lab import world
from qwenlab.lab.judge import Reading, load_judge, rate
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.results import STAMP_KEY, stamp_result
from qwenlab.lab.world.sample import SAMPLE_COUNT, character_test_scenes, sample_scenes, write_scenes
from qwenlab.lora.io import remove_lora
from qwenlab.model.generation import generate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import TrainingSet, encode_dataset, held_out_loss, train_lora

SIZES = (15, 30, 60, 120)
MORE_SEED, PROMPT_SEED, LOSS_SEED = 61, 61_000, 62_000  # of the 60 further scenes, the prompts, the held-out renderings
LOSS_PICTURES = 64
SAMPLER_STEPS, GUIDANCE = 20, 2.5
MEASURES = ("identity", "action", "background")


def more_scenes(count: int) -> list[world.Scene]:
    """`count` scenes made like those of `data_sample`, with none of its captions."""
    known = {world.caption(scene) for scene in sample_scenes()}
    scenes = sample_scenes(2 * count + SAMPLE_COUNT, MORE_SEED)
    return [scene for scene in scenes if world.caption(scene) not in known][:count]


def chosen(sample: Dataset, more: Dataset, count: int, seed: int) -> Dataset:
    """`count` pictures: a draw of `seed` from `sample`, or all of it and the first ones of `more`."""
    if count <= len(sample):
        picks = sorted(random.Random(f"{seed} {count}").sample(range(len(sample)), count))
        return Dataset(sample.folder, tuple(sample.samples[index] for index in picks))
    return Dataset(sample.folder, sample.samples + more.samples[: count - len(sample)])


def paired_difference(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Mean of `values - others`, pair by pair, with the 95% interval of a t test; at least two pairs."""
    differences = np.subtract(values, others)
    mean, error = float(differences.mean()), float(stats.sem(differences))
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return {"value": mean, "low": mean - half, "high": mean + half}


def kept_pictures(folder: Path, scenes: list[world.Scene], size: int) -> Dataset:
    """Scenes as a data set in `folder`, `size` pixels a side; drawn once."""
    if not (folder / "captions.jsonl").exists():  # written last
        write_scenes(folder, scenes, size)
    return read_dataset(folder)


def count_right(readings: Sequence[Reading], scenes: Sequence[world.Scene]) -> dict[str, int]:
    """Of each of `MEASURES`: in how many pictures the judge reads what their scenes ask for."""
    right = {"identity": sum(reading.is_character for reading in readings)}
    for name in MEASURES[1:]:
        right[name] = sum(r.attributes[name] == getattr(s, name) for r, s in zip(readings, scenes, strict=True))
    return right


class Bench:
    """The pipeline, the pictures, the prompts, and the rows that are finished."""

    def __init__(self, model: str, config: TrainConfig, count: int, work: Path) -> None:
        self.pipeline, self.config, self.work = load_pipeline(model), config, work
        self.judge = load_judge()
        self.scenes = character_test_scenes(count, PROMPT_SEED)
        self.sample = read_dataset(REPOSITORY / "data_sample")
        self.more = kept_pictures(work / "more", more_scenes(max(SIZES) - SAMPLE_COUNT), 1024)
        held_out = character_test_scenes(LOSS_PICTURES, LOSS_SEED)
        renderings = kept_pictures(work / "held_out", held_out, config.resolution)
        self.held_out: TrainingSet = encode_dataset(self.pipeline, renderings, config, work / "cache")
        self.settings = {
            "model": model, "config": config.hash(), "prompts": count, "sampler_steps": SAMPLER_STEPS,
            "guidance": GUIDANCE,
        }  # fmt: skip
        self.weights = [*JUDGE, MICRO_WEIGHTS if model == "micro" else Path(model)]
        made_with = stamp_result({}, weights=self.weights, config=self.settings)[STAMP_KEY]
        self.key = sha256_json([made_with["weights"], made_with["config"]])[:12]

    def measure(self) -> dict[str, Any]:
        """What the pipeline draws and how well it predicts now: counts of `MEASURES`, and the held-out flow loss."""
        prompts = [world.caption(scene) for scene in self.scenes]
        seeds = [PROMPT_SEED + number for number in range(len(prompts))]
        readings = self.judge.read(generate(self.pipeline, prompts, seeds, steps=SAMPLER_STEPS, guidance=GUIDANCE))
        loss = float(np.mean(list(held_out_loss(self.pipeline, self.held_out).values())))
        return count_right(readings, self.scenes) | {"total": len(prompts), "held_out_loss": loss}

    def row(self, count: int, seed: int) -> dict[str, Any]:
        """A finished run of `count` pictures from the work folder, or a new one; 0 pictures are the base."""
        path = self.work / f"{count}-{seed}-{self.key}.json"
        if not path.exists():
            row: dict[str, Any] = {}
            if count:
                config = replace(
                    self.config, seed=seed, output_dir=str(self.work / f"{count}-{seed}"),
                    cache_dir=str(self.work / "cache"),
                )  # fmt: skip
                trained = train_lora(self.pipeline, config, dataset=chosen(self.sample, self.more, count, seed))
                row = {"seconds": trained.seconds, "train_loss": float(np.mean(trained.losses[-50:]))}
            row |= self.measure()
            remove_lora(self.pipeline)
            atomic_write_json(path, row)
            print(f"{count:3} pictures, seed {seed}: {json.dumps(row)}", flush=True)
        return json.loads(path.read_text())


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The rates of all runs of one size together, each run's own, and the mean losses."""
    result: dict[str, Any] = {}
    for name in MEASURES:
        pooled = rate(sum(run[name] for run in runs), sum(run["total"] for run in runs))
        result[name] = asdict(pooled) | {"runs": [run[name] / run["total"] for run in runs]}
    for name in ("held_out_loss", "train_loss"):
        if name in runs[0]:
            result[name] = {"value": float(np.mean([r[name] for r in runs])), "runs": [r[name] for r in runs]}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="micro")
    parser.add_argument("--steps", type=int, help="of training; by default those of configs/micro_lora.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    parser.add_argument("--count", type=int, default=128, help="prompts for each LoRA")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "dataset_size")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/data/size.json")
    options = parser.parse_args()
    if len(options.seeds) < 2:
        parser.error("--seeds: two or more, since differences between sizes are judged by their spread over seeds")
    config = replace(read_config(REPOSITORY / "configs" / "micro_lora.yaml"), preview_every_n_steps=0)
    if options.steps:
        config = replace(
            config, max_train_steps=options.steps, warmup_steps=min(config.warmup_steps, options.steps // 4)
        )
    bench = Bench(options.model, config, options.count, options.work)
    base = bench.row(0, 0)
    runs = {count: [bench.row(count, seed) for seed in options.seeds] for count in SIZES}
    result: dict[str, Any] = {"base": summary([base]), "sizes": {}}
    for count in SIZES:
        row = summary(runs[count])
        if count != SAMPLE_COUNT:
            row["against_60"] = {
                name: paired_difference(*([run[name] / run["total"] for run in runs[n]] for n in (count, SAMPLE_COUNT)))
                for name in MEASURES
            }
        row["visits_a_picture"] = config.max_train_steps * config.batch_size_per_gpu / count
        result["sizes"][str(count)] = row
    described = bench.settings | {"steps": config.max_train_steps, "seeds": options.seeds}
    atomic_write_json(options.out, stamp_result(result, weights=bench.weights, config=described))
    print(f"{'pictures':8} {'identity':>24} {'action':>24} {'background':>24}  held-out loss")
    for name, row in {"base": result["base"], **result["sizes"]}.items():
        cells = [f"{row[m]['value']:.1%} [{row[m]['low']:.1%}, {row[m]['high']:.1%}]" for m in MEASURES]
        print(f"{name:8} " + " ".join(f"{cell:>24}" for cell in cells) + f"  {row['held_out_loss']['value']:.5f}")


if __name__ == "__main__":
    main()
