"""What redrawing leaves outside a mask and at its edge: `python -m benchmarks.editing.redrawing`.

The mask holds the pixels that belong to a thing (`qwenlab.lab.localisation.region`), and another value of it is drawn;
the true edit is the same scene with that value. The exact mask makes this an upper bound of what a brush reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.editing.common import Row, column, make_parser, record, record_path, rows_of, scenes, write_table
from qwenlab.editing import redraw
from qwenlab.editing.masks import grow_to_tokens
from qwenlab.lab import world
from qwenlab.lab.editing.pairs import Edit
from qwenlab.lab.editing.scores import score_edits
from qwenlab.lab.editing.seams import seam_ratio, steps_across
from qwenlab.lab.judge import Judge, load_judge
from qwenlab.lab.localisation import region, things
from qwenlab.lab.statistics import share
from qwenlab.model.generation import native_size
from qwenlab.model.limits import SIDE_STEP
from qwenlab.model.pipeline import load_pipeline

KINDS = ("hair", "clothes", "prop", "feet", "hands")
STILL = ("", "手插口袋")  # values that move the figure: no true edit of the same picture


def edit_of(kind: str) -> Callable[[np.random.Generator, str], Edit | None]:
    """Draws an edit of a thing, None where the scene does not show it."""

    def draw(rng: np.random.Generator, split: str) -> Edit | None:
        scene = world.sample_scene(rng, split=split)
        if kind not in (shown := things(scene)):
            return None
        attribute = shown[kind][1]
        others = [v for v in world.ATTRIBUTES[attribute] if v not in (getattr(scene, attribute), *STILL)]
        if scene.gender == "男孩":
            others = [v for v in others if v != "白色连衣裙"]  # no boy of the world wears it
        target = replace(scene, **{attribute: others[int(rng.integers(len(others)))]})
        return Edit(scene, target, attribute) if region(scene, attribute).any() else None

    return draw


def measure(pipeline: Any, judge: Judge, edits: list[Edit], **drawing: Any) -> list[Row]:
    """Redraw each edit and measure it."""
    size, rows = native_size(pipeline), []
    for number, edit in enumerate(edits):
        old, true = (world.render(scene, size).image for scene in (edit.source, edit.target))
        mask = region(edit.source, edit.attribute, size)
        caption = world.caption(edit.target)
        drawn = np.asarray(redraw(pipeline, Image.fromarray(old), mask, caption, seed=number, **drawing))
        touched = grow_to_tokens(mask)
        (score,) = score_edits(judge, [edit], [drawn])
        outside = np.abs(drawn.astype(int) - old).max(-1)[~touched].max(initial=0)
        rows.append({
            "outside": int(outside), "seam": steps_across(drawn, touched), "true seam": steps_across(true, touched),
            "tokens": int(touched.sum()) // SIDE_STEP**2, "success": score.success, "others_kept": score.others_kept,
        })  # fmt: skip
    return rows


def summary(rows: list[Row]) -> dict[str, Any]:
    """What the table says of one kind of mask."""
    return {
        "edits": len(rows),
        "largest difference outside": int(column(rows, "outside").max()),
        "seam ratio": seam_ratio(column(rows, "seam"), column(rows, "true seam")),
        "read as done": share(column(rows, "success")),
        "tokens": float(column(rows, "tokens").mean()),
    }


def main() -> None:
    parser = make_parser(__doc__, "redrawing", 32)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[], help="measure these, and write no table")
    options = parser.parse_args()
    paths = {kind: record_path(options.records, "redrawing", kind, options.part) for kind in KINDS}
    config = {"part": options.part, "count": options.count, "steps": options.steps, "guidance": 4.0}
    if not options.table:
        pipeline, judge = load_pipeline("micro"), load_judge()
        for kind in options.kinds or KINDS:
            edits = scenes(options.part, options.count, edit_of(kind))
            record(paths[kind], partial(measure, pipeline, judge, edits, steps=options.steps), config | {"kind": kind})
    if not options.kinds:
        write_table(
            options.out, {kind: summary(rows_of(path)) for kind, path in paths.items() if path.exists()}, config
        )


if __name__ == "__main__":
    main()
