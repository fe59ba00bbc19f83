"""From which share of its reading on a patch belongs to a word: `python -m benchmarks.editing.words`.

Intersection over union of the patches that `word_mask` chooses, and of those that the true region of the thing touches,
for a row of shares. The best share is chosen on development scenes, over all things but the background, of which a mask
of all patches holds more than any other; it is reported on other scenes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.editing.common import (
    DEVELOPMENT,
    REPORT,
    Row,
    any_scene,
    make_parser,
    record,
    record_path,
    rows_of,
    scenes,
    write_table,
)
from qwenlab.editing.latents import to_latents
from qwenlab.editing.masks import grow_to_tokens
from qwenlab.editing.pointing import SHARE, chosen_patches
from qwenlab.lab import world
from qwenlab.lab.localisation import region, things
from qwenlab.lab.statistics import share
from qwenlab.model.attention_maps import attention_maps
from qwenlab.model.generation import native_size
from qwenlab.model.limits import SIDE_STEP
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

THINGS = "all but the background"
SHARES = tuple(round(0.1 * k, 1) for k in range(1, 10))


def overlap(chosen: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two regions (rows, columns) bool."""
    return float((chosen & true).sum() / (chosen | true).sum())


def measure(pipeline: Any, found: list[world.Scene]) -> list[Row]:
    """For each scene and thing: the overlap at each share, and that of a mask of all patches."""
    size, rows = native_size(pipeline), []
    for number, scene in enumerate(found):
        image = Image.fromarray(world.render(scene, size).image)
        maps = attention_maps(pipeline, world.caption(scene), to_latents(pipeline, image), seed=number)
        row: Row = {}
        for name, (word, attribute) in things(scene).items():
            true = grow_to_tokens(region(scene, attribute, size))[::SIDE_STEP, ::SIDE_STEP]
            if true.any():
                heat = maps.readers_of(word).numpy()
                row[name] = [overlap(chosen_patches(heat, s), true) for s in SHARES] + [float(true.mean())]
        rows.append(row)
    return rows


def tables(rows: list[Row]) -> dict[str, np.ndarray]:
    """(N, shares + 1) of each kind of thing, and of the means over the things of a scene but for its background."""
    kinds = sorted({name for row in rows for name in row})
    found = {kind: np.array([row[kind] for row in rows if kind in row]) for kind in kinds}
    without = [[values for kind, values in row.items() if kind != "background"] for row in rows]
    return found | {THINGS: np.array([np.mean(values, axis=0) for values in without])}


def main() -> None:
    parser = make_parser(__doc__, "words", 64)
    options = parser.parse_args()
    paths = {part: record_path(options.records, "words", part) for part in (DEVELOPMENT, REPORT)}
    config = {"count": options.count, "shares": SHARES}
    if not options.table:
        pipeline = load_pipeline("micro")
        for part, path in paths.items():
            found = scenes(part, options.count, any_scene)
            record(path, partial(measure, pipeline, found), config | {"part": part}, [MICRO_WEIGHTS])
    chosen = {kind: values[:, :-1].mean(0) for kind, values in tables(rows_of(paths[DEVELOPMENT])).items()}
    best = SHARES[int(chosen[THINGS].argmax())]
    result: dict[str, Any] = {
        "development": {k: dict(zip(map(str, SHARES), means.tolist(), strict=True)) for k, means in chosen.items()},
        "best on development": best,
        "shipped": SHARE,
        "report": {},
    }
    for kind, values in tables(rows_of(paths[REPORT])).items():
        if len(values) < 2:
            continue  # no interval from one picture
        result["report"][kind] = {
            "pictures": len(values), "all patches": share(values[:, -1]),
            **{f"share {s:g}": share(values[:, SHARES.index(s)]) for s in sorted({best, 0.5})},
        }  # fmt: skip
    write_table(options.out, result, config, [MICRO_WEIGHTS])


if __name__ == "__main__":
    main()
