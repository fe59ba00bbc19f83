"""The README's picture, base above and LoRA below: `python benchmarks/readme_picture.py --lora FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from qwenlab import world
from qwenlab.files import REPOSITORY, atomic_write_bytes, sha256_file, stamp_file
from qwenlab.generate import generate
from qwenlab.lora_io import load_lora
from qwenlab.pipeline import load_pipeline
from qwenlab.show import encode_image, grid
from qwenlab.world.sample import character_test_scenes

MICRO = REPOSITORY / "qwenlab" / "micro" / "weights"
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
    stamp_file(options.out, weights=[MICRO], config=config)


if __name__ == "__main__":
    main()
