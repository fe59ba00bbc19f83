"""What the choices of a training configuration do: `python -m benchmarks.training.choices`.

Three studies, each a LoRA on `data_sample` with one thing changed and all else equal (configs/micro_lora.yaml, fewer
steps): how sigmas are drawn, the learning rate, and a second LoRA on the text encoder. Every LoRA draws the same
prompts from the same noise; none of their pairs of action and background is in a training picture. The judge says how
many show the character, the action and the background; the held-out flow loss is measured at five sigmas on renderings
of other such scenes. Intervals of rates are Wilson's and hold for these runs; `against` is the mean difference to the
study's reference over seeds, with the interval of a t test.

Finished runs stay in --work under a hash of weights and settings, so that a broken benchmark goes on where it stopped,
and several may share the work: `--studies timesteps` beside `--studies learning_rate`; the last one without writes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.data.size import (
    LOSS_PICTURES,
    LOSS_SEED,
    MEASURES,
    PROMPT_SEED,
    count_right,
    kept_pictures,
    paired_difference,
)
from qwenlab.config import TrainConfig, read_config
from qwenlab.files import REPOSITORY, atomic_write_json, sha256_json
from qwenlab.lab import world
from qwenlab.lab.judge import load_judge, rate
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.results import STAMP_KEY, stamp_result
from qwenlab.lab.world.sample import character_test_scenes
from qwenlab.lora.io import remove_lora
from qwenlab.model.generation import generate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import TrainingSet, encode_dataset, held_out_loss, train_lora

#: Study -> variant -> what it changes in the configuration. The first variant is the study's reference.
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "timesteps": {
        "shifted": {},
        "uniform": {"timestep_sampling": "uniform"},
        "logit_normal": {"timestep_sampling": "logit_normal"},
    },
    "learning_rate": {
        "4e-3": {},
        "8e-6": {"learning_rate": 8e-6},
        "1e-4": {"learning_rate": 1e-4},
        "1e-3": {"learning_rate": 1e-3},
        "1.6e-2": {"learning_rate": 1.6e-2},
    },
    "text_encoder": {
        "frozen": {},
        "rank 4, half the rate": {"text_encoder_rank": 4, "text_encoder_alpha": 4.0, "text_encoder_lr_ratio": 0.5},
    },
}


class Bench:
    """The pipeline, what it is measured with, and the rows that are finished."""

    def __init__(self, model: str, config: TrainConfig, prompts: int, work: Path, precision: str | None = None) -> None:
        self.model, self.config, self.prompts, self.work = model, config, prompts, work
        self.pipeline, self.judge = load_pipeline(model, precision), load_judge()
        self.scenes = character_test_scenes(prompts, PROMPT_SEED)
        held_out = character_test_scenes(LOSS_PICTURES, LOSS_SEED)
        self.renderings = kept_pictures(work / "held_out", held_out, config.resolution)
        self.weights = [*JUDGE, MICRO_WEIGHTS if model == "micro" else Path(model)]
        self.hashes = stamp_result({}, weights=self.weights)[STAMP_KEY]["weights"]

    def held_out(self) -> TrainingSet:
        """The renderings as the text encoder reads their captions now."""
        return encode_dataset(self.pipeline, self.renderings, self.config)

    def draw(self) -> list[Image.Image]:
        """What the pipeline draws of the prompts now."""
        texts = [world.caption(scene) for scene in self.scenes]
        seeds = [PROMPT_SEED + number for number in range(len(texts))]
        return generate(self.pipeline, texts, seeds, guidance=self.config.guidance)

    def measure(self) -> dict[str, Any]:
        """What the pipeline draws and how well it predicts now: counts of `MEASURES`, held-out loss by sigma."""
        return self.read(self.draw())

    def read(self, images: list[Image.Image]) -> dict[str, Any]:
        """The counts in pictures of the prompts, and how well the pipeline predicts."""
        right = count_right(self.judge.read(images), self.scenes)
        loss = {f"{sigma:g}": value for sigma, value in held_out_loss(self.pipeline, self.held_out()).items()}
        return right | {"total": len(images), "held_out_loss": loss}

    def paths(self, changes: dict[str, Any] | None, seed: int) -> tuple[Path, Path]:
        """Where the row of a run is kept, and its LoRA."""
        config = replace(self.config, seed=seed, **(changes or {}))
        key = sha256_json([self.hashes, None if changes is None else config.hash(), self.prompts])[:12]
        return self.work / f"{key}.json", self.work / key / "lora.safetensors"

    def row(self, changes: dict[str, Any] | None, seed: int) -> dict[str, Any]:
        """A finished run, or a new one; None trains nothing: the base."""
        path, lora = self.paths(changes, seed)
        if not path.exists():
            row: dict[str, Any] = {}
            if changes is not None:
                config = replace(
                    self.config, seed=seed, output_dir=str(lora.parent), cache_dir=str(self.work / "cache"), **changes
                )
                trained = train_lora(self.pipeline, config, progress=False)
                row = {"seconds": trained.seconds, "train_loss": float(np.mean(trained.losses[-50:]))}
            row |= self.measure()
            remove_lora(self.pipeline)
            atomic_write_json(path, row)
            print(f"{changes}, seed {seed}: {json.dumps(row)}", flush=True)
        return json.loads(path.read_text())


def summary(runs: list[dict[str, Any]], reference: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The rates of all runs of a variant together and of each, its mean losses, and the difference to `reference`."""
    result: dict[str, Any] = {}
    for name in MEASURES:
        pooled = rate(sum(run[name] for run in runs), sum(run["total"] for run in runs))
        result[name] = {"value": pooled.value, "low": pooled.low, "high": pooled.high}
        result[name]["runs"] = [run[name] / run["total"] for run in runs]
    sigmas = runs[0]["held_out_loss"]
    result["held_out_loss"] = {sigma: float(np.mean([run["held_out_loss"][sigma] for run in runs])) for sigma in sigmas}
    result["mean_held_out_loss"] = [float(np.mean(list(run["held_out_loss"].values()))) for run in runs]
    for name in ("train_loss", "seconds"):
        if name in runs[0]:
            result[name] = [run[name] for run in runs]
    if reference:
        others = summary(reference)
        result["against"] = {
            name: paired_difference(result[name]["runs"], others[name]["runs"]) for name in MEASURES
        } | {"held_out_loss": paired_difference(result["mean_held_out_loss"], others["mean_held_out_loss"])}
    return result


def study_parser(description: str, name: str) -> argparse.ArgumentParser:
    """The options that studies of LoRAs share; their files carry `name`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--model", default="micro")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    parser.add_argument("--prompts", type=int, default=64, help="pictures of each LoRA")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / name)
    parser.add_argument("--out", type=Path, default=REPOSITORY / f"benchmarks/{name}.json")
    return parser


def study_config(parser: argparse.ArgumentParser, options: argparse.Namespace) -> TrainConfig:
    """configs/micro_lora.yaml for the steps that `options` asks for; ends the program when there is one seed only."""
    if len(options.seeds) < 2:
        parser.error("--seeds: two or more, since differences are judged by their spread over seeds")
    return replace(
        read_config(REPOSITORY / "configs" / "micro_lora.yaml"), preview_every_n_steps=0,
        max_train_steps=options.steps, warmup_steps=min(30, options.steps // 4),
    )  # fmt: skip


def write_study(
    result: dict[str, Any], bench: Bench, options: argparse.Namespace, command: str, **made_of: Any
) -> None:
    """Store the result of a study in `options.out`, stamped with its settings and what it is `made_of`."""
    settings = {"config": bench.config.hash(), "steps": options.steps, "seeds": options.seeds}
    settings |= {"prompts": options.prompts} | made_of
    made = stamp_result(result, weights=bench.weights, config=settings, command=f"python -m benchmarks.{command}")
    atomic_write_json(options.out, made)


def as_line(name: str, row: dict[str, Any]) -> str:
    """A summary in one line."""
    rates = " ".join(f"{m} {row[m]['value']:.1%} [{row[m]['low']:.1%}, {row[m]['high']:.1%}]" for m in MEASURES)
    return f"{name:22} {rates}  held-out loss {np.mean(row['mean_held_out_loss']):.4f}"


def main() -> None:
    parser = study_parser(__doc__, "training/choices")
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), help="only make the runs of these")
    options = parser.parse_args()
    config = study_config(parser, options)
    bench = Bench(options.model, config, options.prompts, options.work)
    result: dict[str, Any] = {"base": summary([bench.row(None, 0)])}
    for study in options.studies or STUDIES:
        runs = {name: [bench.row(changes, seed) for seed in options.seeds] for name, changes in STUDIES[study].items()}
        first = next(iter(runs))
        result[study] = {name: summary(rows, None if name == first else runs[first]) for name, rows in runs.items()}
    if options.studies:
        return
    write_study(result, bench, options, "training.choices", studies=STUDIES)
    for study in STUDIES:
        for name, row in result[study].items():
            print(f"{study:14} {as_line(name, row)}")


if __name__ == "__main__":
    main()
