"""Five turns of editing in three forms, and the cure: `python -m benchmarks.editing.turns`.

Each turn is image to image with the picture's own caption at a low strength. Between the turns stands an 8-bit picture,
one that was not rounded, or latents, which the VAE need not encode again. Beside them the VAE without drawing, and
`redraw`, which changes one region at every turn. PSNR is over the pixels outside that region's tokens, to the first
picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.editing.common import Row, any_scene, make_parser, record, record_path, rows_of, scenes, write_table
from qwenlab.editing import img2img, redraw
from qwenlab.editing.latents import from_latents, to_latents, to_picture
from qwenlab.editing.masks import grow_to_tokens
from qwenlab.lab import world
from qwenlab.lab.editing.scores import psnr
from qwenlab.lab.localisation import region
from qwenlab.lab.statistics import difference, mean
from qwenlab.model.generation import native_size
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

TURNS, STRENGTH = 5, 0.1
MOST = 100.0  # dB, of equal pictures
FORMS = {"PNG again": "picture", "float again": "float", "latents carried": "latents"}
WAYS = (*FORMS, "VAE alone", "redraw")


def turn_of(pipeline: Any, way: str, caption: str, mask: np.ndarray, steps: int) -> Callable[[Any, int], Any]:
    """One turn of a way: picture and seed -> picture, in the form of the way."""
    if way == "VAE alone":
        return lambda picture, seed: from_latents(pipeline, to_latents(pipeline, picture))
    if way == "redraw":
        return lambda picture, seed: redraw(pipeline, picture, mask, caption, seed=seed, steps=steps)
    return lambda picture, seed: img2img(
        pipeline, picture, caption, strength=STRENGTH, seed=seed, steps=steps, form=FORMS[way]
    )


def pixels(pipeline: Any, picture: Any) -> np.ndarray:
    """(H, W, 3) uint8 of any form."""
    if not isinstance(picture, Image.Image):
        picture = to_picture(picture) if picture.shape[0] == 3 else from_latents(pipeline, picture)
    return np.asarray(picture)


def measure(pipeline: Any, way: str, found: list[world.Scene], steps: int) -> list[Row]:
    """PSNR after each turn, for each scene."""
    rows = []
    for number, scene in enumerate(found):
        first = world.render(scene, native_size(pipeline)).image
        mask = region(scene, "hair_color", len(first))
        outside, turn = ~grow_to_tokens(mask), turn_of(pipeline, way, world.caption(scene), mask, steps)
        picture, after = Image.fromarray(first), []
        for seed in range(TURNS):
            picture = turn(picture, TURNS * number + seed)
            after.append(psnr(pixels(pipeline, picture), first, outside))
        rows.append({"psnr": after})
    return rows


def summary(tables: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means by way, and paired differences of the last turn to "PNG again". tables: (P, turns) by way."""
    result: dict[str, Any] = {}
    for way, table in tables.items():
        spans = [None if np.ptp(after) else MOST for after in table.T]
        result[way] = {f"after turn {k + 1}": mean(table[:, k], span=span) for k, span in enumerate(spans)}
    last = {way: table[:, -1] for way, table in tables.items()}
    result["last turn, minus PNG again"] = {
        way: difference(last[way], last["PNG again"]) for way in FORMS if way != "PNG again"
    }
    return result


def main() -> None:
    parser = make_parser(__doc__, "turns", 24)
    options = parser.parse_args()
    paths = {way: record_path(options.records, "turns", way, options.part) for way in WAYS}
    config = {
        "part": options.part, "count": options.count, "steps": options.steps, "guidance": 4.0, "strength": STRENGTH,
        "turns": TURNS,
    }  # fmt: skip
    if not options.table:
        pipeline, found = load_pipeline("micro"), scenes(options.part, options.count, any_scene)
        for way, path in paths.items():
            record(path, partial(measure, pipeline, way, found, options.steps), config | {"way": way}, [MICRO_WEIGHTS])
    tables = {way: np.array([row["psnr"] for row in rows_of(path)]) for way, path in paths.items()}
    write_table(options.out, summary(tables), config, [MICRO_WEIGHTS])


if __name__ == "__main__":
    main()
