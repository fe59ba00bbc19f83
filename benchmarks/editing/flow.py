"""What FlowEdit needs on the micro model: `python -m benchmarks.editing.flow`.

Hair gets another colour. With --part development, many settings are screened on a few scenes; the report measures the
defaults of `flow_edit` and of `img2img` at two strengths on other scenes. "Done" is read by the judge; PSNR is over the
pixels that the true edit leaves alone.
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
    column,
    make_parser,
    record,
    record_path,
    rows_of,
    scenes,
    write_table,
)
from benchmarks.editing.redrawing import edit_of
from qwenlab.editing import flow_edit, img2img
from qwenlab.lab import world
from qwenlab.lab.editing.pairs import Edit
from qwenlab.lab.editing.scores import score_edits
from qwenlab.lab.judge import Judge, load_judge
from qwenlab.lab.statistics import mean, share
from qwenlab.model.generation import native_size
from qwenlab.model.pipeline import load_pipeline

SCREENED = {
    f"strength {s:g}, guidance {g:g} against {h:g}": {"strength": s, "guidance": g, "source_guidance": h}
    for s in (0.5, 0.7, 0.85) for g, h in ((4.0, 1.5), (6.0, 1.0), (8.0, 3.0))
}  # fmt: skip
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    DEVELOPMENT: SCREENED,
    REPORT: {"FlowEdit": {}, "image to image 0.3": {"strength": 0.3}, "image to image 0.6": {"strength": 0.6}},
}


def measure(
    pipeline: Any, judge: Judge, way: str, settings: dict[str, Any], edits: list[Edit], steps: int
) -> list[Row]:
    """Scores of each edit."""
    rows = []
    for number, edit in enumerate(edits):
        image = Image.fromarray(world.render(edit.source, native_size(pipeline)).image)
        before, after = world.caption(edit.source), world.caption(edit.target)
        if way.startswith("image"):
            drawn = img2img(pipeline, image, after, seed=number, steps=steps, **settings)
        else:
            drawn = flow_edit(pipeline, image, before, after, seed=number, steps=steps, **settings)
        (score,) = score_edits(judge, [edit], [np.asarray(drawn)])
        rows.append({name: float(getattr(score, name)) for name in ("success", "outside", "truth", "others_kept")})
    return rows


def main() -> None:
    parser = make_parser(__doc__, "flow", 32)
    options = parser.parse_args()
    config = {"count": options.count, "steps": options.steps}
    if not options.table:
        pipeline, judge = load_pipeline("micro"), load_judge()
        edits = scenes(options.part, options.count, edit_of("hair"))
        for way, settings in WAYS[options.part].items():
            run = partial(measure, pipeline, judge, way, settings, edits, options.steps)
            described = config | {"way": way, "part": options.part} | settings
            record(record_path(options.records, "flow", way, options.part), run, described)
    table: dict[str, Any] = {}
    for part, ways in WAYS.items():
        paths = {way: record_path(options.records, "flow", way, part) for way in ways}
        table[part] = {way: summary(rows_of(path)) for way, path in paths.items() if path.exists()}
    write_table(options.out, table, config)


def summary(rows: list[Row]) -> dict[str, Any]:
    """Shares and means with their intervals."""
    return {
        "edits": len(rows), "done": share(column(rows, "success")), "outside": mean(column(rows, "outside")),
        "truth": mean(column(rows, "truth")), "others kept": share(column(rows, "others_kept")),
    }  # fmt: skip


if __name__ == "__main__":
    main()
