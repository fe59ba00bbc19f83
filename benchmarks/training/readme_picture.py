"""The README's picture, base above and LoRA below: `python -m benchmarks.training.readme_picture --lora FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from qwenlab.files import REPOSITORY, atomic_write_bytes, sha256_file
from qwenlab.lab import world
from qwenlab.lab.results import stamp_file
from qwenlab.lab.world.sample import character_test_scenes
from qwenlab.lora.io import load_lora
from qwenlab.model.generation import generate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.show import encode_image, grid

COLUMNS, SEED, GUIDANCE = 8, 4242, 2.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lora", type=Path, required=True, help="a LoRA trained on data_sample")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "base_and_lora.webp")
    options = parser.parse_args()
    pipeline = load_pipeline("micro")
    prompts = [world.caption(scene) for scene in character_test_scenes(COLUMNS, SEED)]
    seeds = [SEED + index for index in range(COLUMNS)]
    images = generate(pipeline, prompts, seeds, guidance=GUIDANCE)
    load_lora(pipeline, options.lora)
    images += generate(pipeline, prompts, seeds, guidance=GUIDANCE)
    atomic_write_bytes(options.out, encode_image(grid(images, columns=COLUMNS), ".webp"))
    config = {"prompts": prompts, "seeds": seeds, "guidance": GUIDANCE, "lora_sha256": sha256_file(options.lora)}
    stamp_file(options.out, weights=[MICRO_WEIGHTS], config=config)


if __name__ == "__main__":
    main()
