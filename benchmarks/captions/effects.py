"""What the form of a caption does: `python -m benchmarks.captions.effects`.

Prompts: 64 scenes of held-out combinations, 4 seeds each, drawn by the base from captions of every form in
`qwenlab.lab.caption_effects.FORMS`: the same scenes and seeds in all. The judge says how many of the wanted attributes
are right, and how often pictures of one scene show the same child.

Training: LoRAs on the 60 pictures of `data_sample`, each with another form of the same captions: with the number and
without, with the words for hair and clothes and without. Each draws 64 prompts with and without the number, none of
whose pairs of action and place the 60 pictures hold. The judge says how many show the character.

Pictures and LoRAs are kept in --work under a hash of all that made them: a broken run goes on where it stopped, and
after a change of the judge alone the kept pictures are read again, which takes seconds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import read_dataset
from qwenlab.files import REPOSITORY, atomic_write_bytes, atomic_write_json, sha256_file, sha256_json
from qwenlab.lab import world
from qwenlab.lab.caption_effects import FORMS, effects, estimate
from qwenlab.lab.judge import load_judge
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.results import stamp_result
from qwenlab.lab.world.sample import character_test_scenes
from qwenlab.lora.io import load_lora
from qwenlab.model.generation import generate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.show import encode_image
from qwenlab.training import train_lora

CHUNK = 32  # pictures between two writes to disk


def unnumbered(text: str) -> str:
    return text.removeprefix("1")


def undescribed(text: str) -> str:
    """The caption without hair and clothes, its second and third tags."""
    tags = text.split(", ")
    return ", ".join(tags[:1] + tags[3:])


#: Forms of the training captions -> how a full caption becomes one.
TRAINING_FORMS: dict[str, Callable[[str], str]] = {
    "described, number": lambda text: text,
    "described, no number": unnumbered,
    "bare, number": undescribed,
    "bare, no number": lambda text: unnumbered(undescribed(text)),
}


class Workshop:
    """Draws pictures and trains LoRAs once; whatever is in `work` already is not made again."""

    def __init__(self, model: str, work: Path, steps: int) -> None:
        self.model, self.work, self.steps = model, work, steps
        folder = MICRO_WEIGHTS if model == "micro" else Path(model)
        self.weights = {str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}

    def pictures(
        self, prompts: Sequence[str], seeds: Sequence[int], guidance: float, lora: Path | None = None
    ) -> list[Image.Image]:
        """One picture for each pair of prompt and seed, in their order."""
        made_by = [self.weights, sha256_file(lora) if lora else None, self.steps, guidance, [*prompts], [*seeds]]
        folder = self.work / f"pictures-{sha256_json(made_by)[:12]}"
        files = [folder / f"{k:04d}.png" for k in range(len(prompts))]
        missing = [k for k, file in enumerate(files) if not file.is_file()]
        if missing:
            pipeline = load_pipeline(self.model)
            if lora:
                load_lora(pipeline, lora)
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            drawn = generate(
                pipeline, [prompts[k] for k in chunk], [seeds[k] for k in chunk], steps=self.steps, guidance=guidance
            )
            for k, image in zip(chunk, drawn, strict=True):
                atomic_write_bytes(files[k], encode_image(image, ".png"))
            print(f"  {start + len(chunk)} of {len(missing)} pictures", flush=True)
        return [Image.open(file).convert("RGB") for file in files]

    def lora(self, config: TrainConfig, form: Callable[[str], str]) -> Path:
        """A LoRA trained on the captions in this form."""
        dataset = read_dataset(config.dataset)
        dataset = replace(dataset, samples=tuple(replace(s, text=form(s.text)) for s in dataset.samples))
        key = sha256_json([self.weights, config.hash(), [[s.text, sha256_file(s.path)] for s in dataset.samples]])
        folder = self.work / f"lora-{key[:12]}"
        if not (folder / "lora.safetensors").is_file():
            train_lora(load_pipeline(self.model), replace(config, output_dir=str(folder)), dataset=dataset)
        return folder / "lora.safetensors"


def measure_prompts(shop: Workshop, options: argparse.Namespace) -> dict[str, Any]:
    """The forms of a prompt, drawn by the base."""
    rng = np.random.default_rng(options.seed)
    scenes = [world.sample_scene(rng, split="test") for _ in range(options.scenes)]
    seeds = [options.seed + k for k in range(options.scenes * options.each)]
    judge, readings = load_judge(), {}
    for form, write in FORMS.items():
        print(f"prompts, {form}", flush=True)
        prompts = [write(scene) for scene in scenes for _ in range(options.each)]
        readings[form] = judge.read(shop.pictures(prompts, seeds, options.guidance))
    return effects(readings, scenes)


def measure_training(shop: Workshop, options: argparse.Namespace) -> dict[str, Any]:
    """The forms of training captions: how often each LoRA draws the character, prompted with and without the number."""
    config = read_config(REPOSITORY / "configs" / "micro_lora.yaml")
    base = replace(config, max_train_steps=options.train_steps, preview_every_n_steps=0)
    scenes = character_test_scenes(options.scenes, options.seed + 1)
    seeds = [options.seed + 1 + k for k in range(options.scenes)]
    judge, result, hers = load_judge(), {}, {}
    for form, write in TRAINING_FORMS.items():
        for name, prompt in (("with number", lambda text: text), ("without number", unnumbered)):
            runs = []
            for train_seed in options.train_seeds:
                print(f"training, {form}, seed {train_seed}, prompted {name}", flush=True)
                lora = shop.lora(replace(base, seed=train_seed), write)
                texts = [world.caption(scene) for scene in scenes]
                if form.startswith("bare"):  # prompts name no hair and clothes either
                    texts = list(map(undescribed, texts))
                texts = list(map(prompt, texts))
                readings = judge.read(shop.pictures(texts, seeds, base.guidance, lora))
                runs.append([reading.is_character for reading in readings])
            hers[form, name] = np.mean(runs, axis=0)  # (S,)
            result.setdefault(form, {})[f"prompted {name}"] = asdict(estimate(hers[form, name])) | {
                "each_training_seed": [float(np.mean(run)) for run in runs]
            }
    for kind in ("described", "bare"):
        with_it, without = f"{kind}, number", f"{kind}, no number"
        paired = hers[without, "without number"] - hers[with_it, "with number"]
        dropped = hers[with_it, "without number"] - hers[with_it, "with number"]
        result[without]["minus_with_number"] = asdict(estimate(paired))
        result[with_it]["number_dropped_from_prompt"] = asdict(estimate(dropped))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("--model", default="micro")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--each", type=int, default=4, help="pictures of a scene, each with a seed of its own")
    parser.add_argument("--seed", type=int, default=64_000, help="of the scenes; picture i is drawn with seed + i")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0, help="of the base; the LoRAs draw with their own")
    parser.add_argument("--train-steps", type=int, default=400)
    parser.add_argument("--train-seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "caption_effects")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/captions/effects.json")
    options = parser.parse_args()
    shop = Workshop(options.model, options.work, options.steps)
    result = {"prompts": measure_prompts(shop, options), "training": measure_training(shop, options)}
    config = {k: v for k, v in vars(options).items() if k not in ("out", "work")}
    model = MICRO_WEIGHTS if options.model == "micro" else Path(options.model)
    atomic_write_json(options.out, stamp_result(result, weights=[*JUDGE, model], config=config))
    for form, row in result["prompts"].items():
        print(f"{form:12}", *(f"{name} {row[name]['value']:.1%}" for name in ("right", "identity", "stability")))
    for form, row in result["training"].items():
        print(f"{form:22}", *(f"{k} {v['value']:.1%} [{v['low']:.1%}, {v['high']:.1%}]" for k, v in row.items()))


if __name__ == "__main__":
    main()
