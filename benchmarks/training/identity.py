"""Base against LoRA on the character of `data_sample`: `python -m benchmarks.training.identity --lora FILE`.

128 prompts for the character in its style, one fixed seed each, drawn by the base and by the base with the LoRA. The
judge says how many show the character (its threshold was frozen on renderings) and whether action, background and the
rest of the prompt are right.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.micro.base_rates import drawing_parser, write_rates
from qwenlab.files import sha256_file
from qwenlab.lab import world
from qwenlab.lab.judge import Reading, attribute_rate, hand_right_rate, identity_rate, load_judge
from qwenlab.lora.io import load_lora, lora_metadata
from qwenlab.model.generation import generate
from qwenlab.model.pipeline import load_pipeline

_ATTRIBUTES = (
    "action", "background", "hair_style", "hair_color", "clothes", "style", "prop", "view", "framing", "gender"
)  # fmt: skip


def character_scenes(count: int, seed: int) -> list[world.Scene]:
    """`count` scenes of the character; one in ten shows open fingers, as in the base's training pictures."""
    rng = np.random.default_rng(seed)
    return [world.sample_character_scene(rng, open_hands=0.1) for _ in range(count)]


def rates(readings: list[Reading], scenes: list[world.Scene]) -> dict[str, Any]:
    """Identity, attributes and hands of the pictures of one model."""
    result = {"identity": asdict(identity_rate(readings))}
    for name in _ATTRIBUTES:
        result[name] = asdict(attribute_rate(readings, [getattr(scene, name) for scene in scenes], name))
    if any(reading.hands for reading in readings):
        result["hands"] = asdict(hand_right_rate(readings))
    return result


def main() -> None:
    parser = drawing_parser(__doc__, "training/identity", count=128, seed=128_000, guidance=2.5)
    parser.add_argument("--lora", type=Path, required=True, help="a LoRA trained on data_sample")
    options = parser.parse_args()
    judge, pipeline = load_judge(), load_pipeline(options.model)
    scenes = character_scenes(options.count, options.seed)
    prompts, seeds = [world.caption(scene) for scene in scenes], [options.seed + i for i in range(options.count)]
    result: dict[str, Any] = {"rendering": rates(judge.read([world.render(scene).image for scene in scenes]), scenes)}
    for name in ("base", "lora"):
        if name == "lora":
            load_lora(pipeline, options.lora)
        images = generate(pipeline, prompts, seeds, steps=options.steps, guidance=options.guidance)
        result[name] = rates(judge.read(images), scenes)
    made_of = {"lora_sha256": sha256_file(options.lora), "lora_metadata": lora_metadata(options.lora)}
    write_rates(result, options, **made_of)
    for attribute, row in result["lora"].items():
        base = result["base"].get(attribute)
        before = f"{base['value']:.3f}" if base else "-"
        print(f"{attribute:12} base {before}  LoRA {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")


if __name__ == "__main__":
    main()
