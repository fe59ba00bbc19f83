"""What a picture is extended with: `python -m benchmarks.editing.extending`.

A window of the model's size shows the old picture at the left and a new strip of 3/8 at the right. Truths are drawn
whole, with the figure so far left that it stands in the old part; then the strip is cut off and drawn again. The judge
reads style and place from the whole window and from the strip alone (beside its mirror images); what it reads in the
truth stands beside that. Heads are counted in the whole; the seam is compared with the truth's. "wide" is a picture
with its figure in the middle, extended to 11/8: heads, and that every old pixel is there.
"Edges" are the mean step between neighbouring pixels of the strip, over the truth's: a smear has few.

With --part development all ways are tried; the report measures what `extend` does by default, a drawing from noise with
the whole caption, and a strip that is not drawn at all.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.editing.common import (
    DEVELOPMENT,
    REPORT,
    USED,
    Row,
    any_scene,
    column,
    make_parser,
    record,
    record_path,
    rows_of,
    scenes,
    write_table,
)
from benchmarks.rank.dynamic import detail
from qwenlab.editing import extend, extending
from qwenlab.lab import world
from qwenlab.lab.editing.heads import WEIGHTS as HEADS
from qwenlab.lab.editing.heads import count_heads, load_head_net
from qwenlab.lab.editing.seams import seam_ratio, steps_across
from qwenlab.lab.judge import Judge, load_judge
from qwenlab.lab.statistics import share
from qwenlab.model.generation import native_size
from qwenlab.model.pipeline import load_pipeline

STRIP = 3 / 8  # of the window
SHIFT = -STRIP / 2  # of the figure: it stands in the middle of the old part
WEIGHTS = (*USED, HEADS)
NOT_DRAWN = "colours at the edge carried on"
WHOLE = {"caption": True, "guidance": 4.0, "strength": 1.0}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    DEVELOPMENT: {f"no caption, strength {s:g}": {"strength": s} for s in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
    | {
        "caption, strength 0.7": {"caption": True, "strength": 0.7},
        "caption, strength 1": {"caption": True, "strength": 1.0},
        "caption, guidance 4, strength 1": WHOLE,
        "the same in strips of 1/8": WHOLE | {"fresh": 1 / 8},
    },
    REPORT: {"extend": {}, "caption, guidance 4, strength 1": WHOLE, NOT_DRAWN: {}},
}


def strip_alone(image: np.ndarray) -> np.ndarray:
    """(S, S, 3): the new strip between its mirror images, as a judge of whole pictures can read it."""
    size = len(image)
    strip = image[:, size - strip_of(size) :]
    row = np.concatenate([strip[:, ::-1], strip, strip[:, ::-1]], axis=1)
    start = (row.shape[1] - size) // 2
    return row[:, start : start + size]


def drawn_by(pipeline: Any, settings: dict[str, Any], image: np.ndarray, caption: str, **drawing: Any) -> np.ndarray:
    """A picture (H, W, 3) extended to the right by a way: what it changes of the defaults of `extend`."""
    changes = dict(settings)
    prompt = {"prompt": caption} if changes.pop("caption", False) else {}
    with patch.object(extending, "FRESH", changes.pop("fresh", extending.FRESH)):
        return np.asarray(
            extend(pipeline, Image.fromarray(image), right=strip_of(len(image)), **drawing, **prompt, **changes)
        )


def strip_of(size: int) -> int:
    """Pixels of the new strip."""
    return round(STRIP * size)


def measure(
    pipeline: Any, judge: Judge, way: str, settings: dict[str, Any], found: list[world.Scene], steps: int
) -> list[Row]:
    """Each truth's strip drawn again, and its picture extended: what is read, counted and compared."""
    size = native_size(pipeline)
    old = size - strip_of(size)
    new = np.zeros((size, size), bool)
    new[:, old:] = True
    heads, rows = load_head_net(), []
    for number, scene in enumerate(found):
        truth, middle = world.render(scene, size, shift=SHIFT).image, world.render(scene, size).image
        if way == NOT_DRAWN:
            drawn, wide = (
                np.pad(part, ((0, 0), (0, strip_of(size)), (0, 0)), "edge") for part in (truth[:, :old], middle)
            )
        else:
            drawing = {"caption": world.caption(scene), "seed": number, "steps": steps}
            drawn, wide = (drawn_by(pipeline, settings, part, **drawing) for part in (truth[:, :old], middle))
        row: Row = {
            "seam": steps_across(drawn, new), "true seam": steps_across(truth, new),
            "edges": detail([Image.fromarray(drawn[:, old:])]), "true edges": detail([Image.fromarray(truth[:, old:])]),
            "old pixels": bool((wide[:, :size] == middle).all() and (drawn[~new] == truth[~new]).all()),
        }  # fmt: skip
        pictures = {"drawn": drawn, "truth": truth, "wide": wide, "middle": middle}
        counts = count_heads(heads, [Image.fromarray(image) for image in pictures.values()])
        row |= {f"heads, {name}": count for name, count in zip(pictures, counts, strict=True)}
        views = [view for image in (drawn, truth) for view in (image, strip_alone(image))]
        names = ("window", "strip", "window, truth", "strip, truth")
        for name, reading in zip(names, judge.read(views), strict=True):
            row[f"style, {name}"] = reading.attributes["style"] == scene.style
            row[f"place, {name}"] = reading.attributes["background"] == scene.background
        rows.append(row)
    return rows


def summary(rows: list[Row]) -> dict[str, Any]:
    """Shares with their intervals; beside each what is read of the truth."""
    result: dict[str, Any] = {
        "pictures": len(rows), "old pixels bit for bit": int(column(rows, "old pixels").sum()),
        "edges": float(column(rows, "edges").sum() / column(rows, "true edges").sum()),
        "seam ratio": seam_ratio(column(rows, "seam"), column(rows, "true seam")),
    }  # fmt: skip
    for name in ("drawn", "truth", "wide", "middle"):
        result[f"one head, {name}"] = share(column(rows, f"heads, {name}") == 1)
    for what in ("style", "place"):
        for name in ("window", "window, truth", "strip", "strip, truth"):
            result[f"{what}, {name}"] = share(column(rows, f"{what}, {name}"))
    return result


def main() -> None:
    parser = make_parser(__doc__, "extending", 64)
    parser.add_argument("--ways", nargs="+", default=[], help="measure these, and write no table")
    options = parser.parse_args()
    config = {"count": options.count, "steps": options.steps, "strip": STRIP, "shift": SHIFT}
    if not options.table:
        pipeline, judge = load_pipeline("micro"), load_judge()
        found = scenes(options.part, options.count, any_scene)
        for way in options.ways or WAYS[options.part]:
            settings = WAYS[options.part][way]
            run = partial(measure, pipeline, judge, way, settings, found, options.steps)
            described = config | {"way": way, "part": options.part, "settings": settings}
            record(record_path(options.records, "extending", way, options.part), run, described, WEIGHTS)
    if options.ways:
        return
    table: dict[str, Any] = {}
    for part, ways in WAYS.items():
        paths = {way: record_path(options.records, "extending", way, part) for way in ways}
        table[part] = {way: summary(rows_of(path)) for way, path in paths.items() if path.exists()}
    write_table(options.out, table, config, WEIGHTS)


if __name__ == "__main__":
    main()
