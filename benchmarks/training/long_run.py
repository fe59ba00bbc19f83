"""A run past its optimum, and new pictures instead: `python -m benchmarks.training.long_run`.

Long run: a LoRA on four fifths of `data_sample` (the rest is held out), with a constant rate, far longer than is good.
At some checkpoints, each with the same noise: flow loss on held-out and on training pictures over five sigmas; what the
judge sees in pictures of held-out prompts; copies, diversity, and the two measures the article uses, PSNR against the
renderings of the same prompts and FID (with the judge's features) against 60 renderings.

New pictures: from one of these checkpoints the training goes on (`init_lora`) on the same pictures, on 60 new pictures
of the same character, and on 60 pictures of another character in another style.

Finished rows stay in --work under a hash of weights and settings; --seeds of one's own, then all of them, share work.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.data.size import (
    LOSS_PICTURES,
    LOSS_SEED,
    MORE_SEED,
    PROMPT_SEED,
    count_right,
    kept_pictures,
    more_scenes,
)
from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import Dataset, read_dataset, split_dataset
from qwenlab.files import REPOSITORY, atomic_write_json, sha256_json
from qwenlab.lab import world
from qwenlab.lab.judge import load_judge, rate
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.judge.reading import judge_features
from qwenlab.lab.results import STAMP_KEY, stamp_result
from qwenlab.lab.world.sample import character_test_scenes
from qwenlab.lora.io import load_lora, remove_lora
from qwenlab.model.generation import generate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import TrainingSet, encode_dataset, held_out_loss, train_lora
from qwenlab.training.overfitting import copied_share, diversity, frechet_distance, psnr

STAGES, EVERY = (100, 200, 400, 800, 1600, 2400), 100  # steps that are measured; steps between two checkpoints
NEW_PICTURES = 60
CONTINUE_FROM, CONTINUE_STEPS = 800, 400
PROMPTS, VARIED, EACH = 60, 8, 4  # prompts of one picture; prompts drawn EACH times, for diversity
OTHER = {"gender": "男孩", "hair_style": "刺猬头", "hair_color": "蓝色", "clothes": "黄色雨衣", "style": "水彩画"}


def other_scenes(count: int) -> list[world.Scene]:
    """Scenes of another child in another style, whose words the base knows."""
    rng = np.random.default_rng(MORE_SEED)
    return [world.sample_scene(rng, split="all", **OTHER) for _ in range(count)]


class Bench:
    """The pipeline, the pictures and prompts that everything is measured with, and the rows that are finished."""

    def __init__(self, config: TrainConfig, work: Path) -> None:
        self.config, self.work = config, work
        self.pipeline, self.judge = load_pipeline("micro"), load_judge()
        self.scenes = character_test_scenes(PROMPTS, PROMPT_SEED)
        self.real = [Image.fromarray(world.render(scene, config.resolution).image) for scene in self.scenes]
        self.training, self.validation = split_dataset(read_dataset(REPOSITORY / "data_sample"), 0.2)
        self.training_pictures = [
            Image.open(sample.path).convert("RGB").resize((config.resolution,) * 2, Image.Resampling.LANCZOS)
            for sample in self.training.samples
        ]
        self.new = kept_pictures(work / "new", more_scenes(NEW_PICTURES), 1024)
        self.other = kept_pictures(work / "other", other_scenes(NEW_PICTURES), 1024)
        renderings = kept_pictures(work / "held_out", character_test_scenes(LOSS_PICTURES, LOSS_SEED), 128)
        self.held_out = {
            "validation": self.encode(self.validation),
            "training": self.encode(self.training),
            "renderings": self.encode(renderings),
        }
        self.weights = [*JUDGE, MICRO_WEIGHTS]
        self.hashes = stamp_result({}, weights=self.weights)[STAMP_KEY]["weights"]

    def encode(self, dataset: Dataset) -> TrainingSet:
        return encode_dataset(self.pipeline, dataset, self.config, self.work / "cache")

    def draw(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        return generate(self.pipeline, prompts, seeds, guidance=self.config.guidance)

    def measure(self) -> dict[str, Any]:
        """Everything, for the LoRA that the pipeline carries now."""
        texts = [world.caption(scene) for scene in self.scenes]
        drawn = self.draw(texts, [PROMPT_SEED + number for number in range(PROMPTS)])
        right = count_right(self.judge.read(drawn), self.scenes)
        varied = self.draw(texts[:VARIED] * EACH, [PROMPT_SEED + 1000 + number for number in range(VARIED * EACH)])
        features = judge_features(self.judge, self.real), judge_features(self.judge, drawn)
        loss = {name: held_out_loss(self.pipeline, pictures) for name, pictures in self.held_out.items()}
        return right | {
            "total": PROMPTS,
            "loss": {name: {f"{sigma:g}": value for sigma, value in row.items()} for name, row in loss.items()},
            "copied": copied_share(drawn, self.training_pictures, self.real),
            "diversity": diversity([varied[number::VARIED] for number in range(VARIED)]),
            "psnr": float(np.mean([psnr(a, b) for a, b in zip(drawn, self.real, strict=True)])),
            "fid": frechet_distance(*features),
        }

    def other_child(self) -> int:
        """How many of 24 prompts for the other child show hair, clothes and style as asked."""
        scenes = other_scenes(NEW_PICTURES + 24)[NEW_PICTURES:]
        drawn = self.draw([world.caption(scene) for scene in scenes], [PROMPT_SEED + 2000 + k for k in range(24)])
        asked = {name: value for name, value in OTHER.items() if name != "gender"}
        return sum(all(r.attributes[name] == value for name, value in asked.items()) for r in self.judge.read(drawn))

    def train(self, name: str, seed: int, dataset: Dataset | None = None, **changes: Any) -> Path:
        """The folder of a finished run, trained now or earlier."""
        config = replace(self.config, seed=seed, **changes)
        made_by = sha256_json([self.hashes, config.hash(), len(dataset) if dataset else 0])[:12]
        folder = self.work / f"{name}-{seed}-{made_by}"
        if not (folder / "training.json").exists():
            config = replace(config, output_dir=str(folder), cache_dir=str(self.work / "cache"))
            train_lora(self.pipeline, config, dataset=dataset, progress=False, resume=False)
            remove_lora(self.pipeline)
        return folder

    def row(self, lora: Path | None) -> dict[str, Any]:
        """The measures of a LoRA file, taken now or earlier; None is the base."""
        path = lora.with_suffix(".measures.json") if lora else self.work / f"base-{sha256_json(self.hashes)[:12]}.json"
        if not path.exists():
            if lora:
                load_lora(self.pipeline, lora)
            row = self.measure() | {"other_child": self.other_child()}
            remove_lora(self.pipeline)
            atomic_write_json(path, row)
            print(f"{lora}: {json.dumps(row)}", flush=True)
        return json.loads(path.read_text())


def run(bench: Bench, seed: int) -> dict[str, Any]:
    """The long run of one seed, and the three ways to go on."""
    folder = bench.train("long", seed, validation_share=0.2, validate_every_n_steps=EVERY, save_every_n_steps=EVERY)
    record = json.loads((folder / "training.json").read_text())
    files = {step: folder / f"checkpoint-{step:06d}.safetensors" for step in STAGES[:-1]}
    files[STAGES[-1]] = folder / "lora.safetensors"
    stages = {str(step): bench.row(path) for step, path in files.items()}
    start, ways = files[CONTINUE_FROM], {}
    for name, dataset in (("same pictures", bench.training), ("new pictures", bench.new), ("another", bench.other)):
        further = bench.train(
            name.replace(" ", "-"), seed, dataset, init_lora=str(start), max_train_steps=CONTINUE_STEPS,
            lr_scheduler="cosine", warmup_steps=min(20, CONTINUE_STEPS // 4),
        )  # fmt: skip
        ways[name] = bench.row(further / "lora.safetensors")
    return {"validation": record["validation"], "best_step": record["best_step"], "stages": stages, "go_on": ways}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rates of several seeds together, and the means of everything else."""
    result: dict[str, Any] = {}
    for name in ("identity", "action", "background"):
        pooled = rate(sum(row[name] for row in rows), sum(row["total"] for row in rows))
        result[name] = {"value": pooled.value, "low": pooled.low, "high": pooled.high}
    for name in ("copied", "diversity", "psnr", "fid", "other_child"):
        result[name] = {"value": float(np.mean([row[name] for row in rows])), "runs": [row[name] for row in rows]}
    result["loss"] = {
        kind: {sigma: float(np.mean([row["loss"][kind][sigma] for row in rows])) for sigma in rows[0]["loss"][kind]}
        for kind in rows[0]["loss"]
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "long_run")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/training/long_run.json")
    options = parser.parse_args()
    config = replace(
        read_config(REPOSITORY / "configs" / "micro_lora.yaml"), preview_every_n_steps=0,
        max_train_steps=STAGES[-1], lr_scheduler="constant_with_warmup",
    )  # fmt: skip
    bench = Bench(config, options.work)
    base, runs = bench.row(None), [run(bench, seed) for seed in options.seeds]
    result = {
        "base": summary([base]),
        "runs": [{"validation": row["validation"], "best_step": row["best_step"]} for row in runs],
        "stages": {step: summary([row["stages"][step] for row in runs]) for step in map(str, STAGES)},
        "go_on": {name: summary([row["go_on"][name] for row in runs]) for name in runs[0]["go_on"]},
    }
    settings = {
        "config": config.hash(), "seeds": options.seeds, "prompts": PROMPTS, "continue_from": CONTINUE_FROM,
        "continue_steps": CONTINUE_STEPS, "other": OTHER,
    }  # fmt: skip
    command = "python -m benchmarks.training.long_run"
    atomic_write_json(options.out, stamp_result(result, weights=bench.weights, config=settings, command=command))
    for name, row in ({"base": result["base"]} | result["stages"] | result["go_on"]).items():
        print(f"{name:14}", {key: f"{row[key]['value']:.3f}" for key in row if key != "loss"})


if __name__ == "__main__":
    main()
