"""A picture of what grey masks do: `python -m benchmarks.editing.grey_masks`.

The background of a drawing changes by a mask that goes from black at the left to white at the right. Beside it the same
with the mask made black and white, as the stock inpainting pipeline makes it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.editing.common import FOLDER
from qwenlab.editing import redraw, redraw_softly
from qwenlab.files import atomic_write_bytes
from qwenlab.lab import world
from qwenlab.lab.results import stamp_file
from qwenlab.model.generation import native_size
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.show import encode_image, grid

SCENES, SEED, GUIDANCE = 3, 64_000, 2.5
FROM, TO = "花园", "夜空"
COLUMNS = ("before", "mask", "grey mask", "black and white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--out", type=Path, default=FOLDER / "grey_masks.webp")
    options = parser.parse_args()
    pipeline = load_pipeline("micro")
    size = native_size(pipeline)
    ramp = np.tile(np.clip(np.linspace(-0.25, 1.25, size, dtype=np.float32), 0, 1), (size, 1))
    rng, cells = np.random.default_rng(SEED), []
    for number in range(SCENES):
        scene = world.sample_scene(rng, background=FROM)
        before, prompt = Image.fromarray(world.render(scene, size).image), world.caption(replace(scene, background=TO))
        drawing = {"seed": SEED + number, "steps": options.steps, "guidance": GUIDANCE}
        cells += [
            before, Image.fromarray((ramp * 255).astype(np.uint8)).convert("RGB"),
            redraw_softly(pipeline, before, ramp, prompt, **drawing),
            redraw(pipeline, before, ramp >= 0.5, prompt, **drawing),
        ]  # fmt: skip
    atomic_write_bytes(options.out, encode_image(grid(cells, columns=len(COLUMNS)), ".webp"))
    config = {"scenes": SCENES, "seed": SEED, "guidance": GUIDANCE, "steps": options.steps, "columns": COLUMNS}
    stamp_file(options.out, weights=[MICRO_WEIGHTS], config=config)


if __name__ == "__main__":
    main()
