"""Which way of editing does what is asked and leaves the rest alone: `python -m benchmarks.editing.frontier`.

Five kinds of edits of the drawn world (hair colour, clothes, background, prop, feet), of which the true result can be
drawn. Image to image at five strengths, redrawing with the exact mask and with its box, FlowEdit, and the edit LoRA
make the same edits from the same noise. The combinations of attribute, value and style are in no training pair of the
LoRA, and the scenes are not those on which its recipe was chosen (`SCENES`).

- success: the judge reads the new value; corrected for its errors on true edits and on sources, both after the VAE
- outside: PSNR to the source where the true edit changes nothing; `ceiling`: the same of the VAE's round trip
- truth: PSNR to the true edit; others_kept: the other attributes are read as in the true edit
- shift: pixels by which what should stay has moved, by phase correlation

The masks come from the true edit: what redrawing reaches with them is an upper bound. Each kind of each way is a unit,
kept in benchmarks/editing/records/, so that a broken benchmark goes on where it stopped. Without --ways everything that
is missing is drawn, and the table written. --seconds measures how long each way takes, in turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.editing.results import FIELDS, KINDS, errors_of, table
from qwenlab.editing.flow_editing import flow_edit
from qwenlab.editing.instructing import instruct
from qwenlab.editing.redrawing import redraw
from qwenlab.editing.strength import img2img
from qwenlab.files import REPOSITORY, atomic_write_json, sha256_file
from qwenlab.lab import world
from qwenlab.lab.editing.pairs import Edit, held_out_edits
from qwenlab.lab.editing.scores import psnr, score_edits, untouched
from qwenlab.lab.judge import Judge, load_judge
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.micro.round_trip import round_trip
from qwenlab.lab.results import stamp_result
from qwenlab.lora.io import load_lora, remove_lora
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

OUT = REPOSITORY / "benchmarks/editing/frontier.json"
RECORDS = REPOSITORY / "benchmarks/editing/records"
SCENES, JUDGED = 1, 2  # seeds of the edits that are reported, and of those that show the judge's errors
COUNT = 64  # edits of each kind
STEPS, GUIDANCE = 20, 4.0  # of all ways but the LoRA, which draws without guidance
STRENGTHS = (0.2, 0.35, 0.5, 0.65, 0.8)
SETTINGS = {"steps": STEPS, "guidance": GUIDANCE, "scenes": SCENES, "judged": JUDGED}
WEIGHTS = (*JUDGE, MICRO_WEIGHTS)
Draw = Callable[[Any, Edit, Image.Image, int], Image.Image]  # (pipeline, edit, source, seed)


def mask_of(edit: Edit, box: bool) -> Image.Image:
    """White where the true edit changes something, or in the rectangle around it."""
    changed = ~untouched(edit)
    if box:
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return Image.fromarray(changed)


def by_strength(strength: float) -> Draw:
    """Image to image with the caption of the result."""

    def draw(pipeline: Any, edit: Edit, source: Image.Image, seed: int) -> Image.Image:
        caption = world.caption(edit.target)
        return img2img(pipeline, source, caption, strength=strength, seed=seed, steps=STEPS, guidance=GUIDANCE)

    return draw


def by_mask(box: bool) -> Draw:
    """Redraw what the true edit changes, with the caption of the result."""

    def draw(pipeline: Any, edit: Edit, source: Image.Image, seed: int) -> Image.Image:
        caption, strength = world.caption(edit.target), 1.0
        mask = mask_of(edit, box)
        if np.asarray(mask).all():  # a box around a background: nothing stays to be seen
            strength = (STEPS - 1) / STEPS
        return redraw(
            pipeline, source, mask, caption, strength=strength, seed=seed, steps=STEPS, guidance=GUIDANCE, exact=not box
        )

    return draw


def by_flow(pipeline: Any, edit: Edit, source: Image.Image, seed: int) -> Image.Image:
    """FlowEdit from the one caption to the other."""
    captions = world.caption(edit.source), world.caption(edit.target)
    return flow_edit(pipeline, source, *captions, seed=seed, steps=STEPS)


def by_instruction(pipeline: Any, edit: Edit, source: Image.Image, seed: int) -> Image.Image:
    """The edit LoRA that is loaded, by the words that change."""
    return instruct(pipeline, [source], edit.instruction, seed=seed, steps=STEPS, guidance=1.0)


#: Way -> what draws it. An edit LoRA's row has a number for each of its trainings.
WAYS: Mapping[str, Draw] = {f"img2img {strength:g}": by_strength(strength) for strength in STRENGTHS} | {
    "redraw, exact mask": by_mask(box=False),
    "redraw, box": by_mask(box=True),
    "FlowEdit": by_flow,
    "edit LoRA": by_instruction,
}


def shift(image: np.ndarray, source: np.ndarray, where: np.ndarray) -> float:
    """Pixels by which `image` lies beside `source`, both (H, W, 3) uint8, over the pixels `where` (H, W) bool."""
    from skimage.registration import phase_cross_correlation

    greys = [np.where(where, picture.mean(axis=-1), 0.0) for picture in (source, image)]
    moved, _, _ = phase_cross_correlation(*greys, upsample_factor=10)
    return float(np.hypot(*moved))


def unit(pipeline: Any, judge: Judge, draw: Draw, kind: str, count: int) -> dict[str, list[float]]:
    """`count` edits of one kind, drawn and scored: a number a picture for each of `FIELDS`."""
    edits = held_out_edits(kind, count, seed=SCENES)
    sources = [world.render(edit.source).image for edit in edits]
    images = [
        np.asarray(draw(pipeline, edit, Image.fromarray(source), 1000 + number))
        for number, (edit, source) in enumerate(zip(edits, sources, strict=True))
    ]
    rows = [asdict(score) for score in score_edits(judge, edits, images)]
    for row, edit, image, source in zip(rows, edits, images, sources, strict=True):
        row["shift"] = shift(image, source, untouched(edit))
    return {name: [round(float(row[name]), 3) for row in rows] for name in FIELDS}


def ceilings(pipeline: Any, kind: str, count: int) -> list[float]:
    """`outside` of the round trip of the sources, in dB."""
    edits = held_out_edits(kind, count, seed=SCENES)
    sources = np.stack([world.render(edit.source).image for edit in edits])
    pairs = zip(round_trip(sources, pipeline.vae), sources, edits, strict=True)
    return [round(psnr(passed, source, untouched(edit)), 3) for passed, source, edit in pairs]


def judged(pipeline: Any, judge: Judge, kind: str, count: int) -> dict[str, int]:
    """How the judge reads true edits, which show the new value, and sources, which do not, both after the VAE."""
    edits = held_out_edits(kind, count, seed=JUDGED)
    readings = [
        judge.read(round_trip(np.stack([world.render(getattr(edit, which)).image for edit in edits]), pipeline.vae))
        for which in ("target", "source")
    ]
    wanted = [getattr(edit.target, kind) for edit in edits]
    done, undone = (
        sum(reading.attributes.get(kind) == value for reading, value in zip(of_some, wanted, strict=True))
        for of_some in readings
    )
    return {"right": count, "right_read_right": done, "wrong": count, "wrong_read_wrong": count - undone}


class Bench:
    """Pipeline and judge, and the units that are finished."""

    def __init__(self, loras: Sequence[Path], count: int, records: Path = RECORDS) -> None:
        self.pipeline, self.judge = load_pipeline("micro"), load_judge()
        self.loras, self.count, self.records = loras, count, records

    def names(self) -> list[str]:
        """The rows of the table: ways, an edit LoRA for each training."""
        return [name for name in WAYS if name != "edit LoRA"] + [f"edit LoRA {n}" for n in range(len(self.loras))]

    def path(self, name: str, kind: str) -> Path:
        """The record of a part of a row."""
        return self.records / f"{name.replace(' ', '_').replace(',', '')}-{kind}.json"

    def part(self, name: str, kind: str, make: Callable[[], Any]) -> Any:
        """The finished part of a row, or a new one."""
        path = self.path(name, kind)
        if not path.exists():
            atomic_write_json(path, stamp_result({"value": make()}, weights=WEIGHTS, config=self.config(name, kind)))
            print(f"{name}, {kind}: done", flush=True)
        return json.loads(path.read_text(encoding="utf-8"))["value"]

    def config(self, name: str, kind: str) -> dict[str, Any]:
        """What decides a part; of an edit LoRA the digest, as only the shipped one lies in the repository."""
        lora = sha256_file(self.loras[int(name.split()[-1])]) if name.startswith("edit LoRA") else None
        return {"part": name, "kind": kind, "count": self.count, "lora": lora} | SETTINGS

    def row(self, name: str, kind: str) -> dict[str, list[float]]:
        """The numbers of one kind of one way."""

        def make() -> dict[str, list[float]]:
            way = name.rstrip("0123456789 ") if name.startswith("edit LoRA") else name
            if way == "edit LoRA":
                load_lora(self.pipeline, self.loras[int(name.split()[-1])])
            try:
                return unit(self.pipeline, self.judge, WAYS[way], kind, self.count)
            finally:
                if way == "edit LoRA":
                    remove_lora(self.pipeline)

        return self.part(name, kind, make)


def seconds(bench: Bench, rounds: int) -> dict[str, float]:
    """Seconds a picture of each way, the median of some rounds in which the ways take turns."""
    edit = held_out_edits("hair_color", 1, seed=SCENES)[0]
    source = Image.fromarray(world.render(edit.source).image)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, draw in WAYS.items():
            if way == "edit LoRA":
                load_lora(bench.pipeline, bench.loras[0])
            started = time.perf_counter()
            draw(bench.pipeline, edit, source, number)
            if number:  # the first round warms up
                taken[way].append(time.perf_counter() - started)
            if way == "edit LoRA":
                remove_lora(bench.pipeline)
    return {way: round(float(np.median(values)), 3) for way, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--loras", type=Path, nargs="+", required=True, help="Edit LoRAs, one for each training; the shipped one first"
    )
    parser.add_argument("--ways", nargs="*", help="Draw these rows only, and write no table")
    parser.add_argument("--count", type=int, default=COUNT, help="Edits of each kind")
    parser.add_argument("--seconds", type=int, default=0, metavar="ROUNDS", help="Measure seconds only")
    options = parser.parse_args()
    bench = Bench(options.loras, options.count)
    if options.seconds:
        bench.part("seconds", "all", lambda: seconds(bench, options.seconds))
        return
    rows = {name: {kind: bench.row(name, kind) for kind in KINDS} for name in options.ways or bench.names()}
    if options.ways:
        return
    of_kind = {
        kind: {
            "judge": bench.part("judge", kind, lambda kind=kind: judged(bench.pipeline, bench.judge, kind, 4 * COUNT)),
            "ceiling": bench.part("ceiling", kind, lambda kind=kind: ceilings(bench.pipeline, kind, options.count)),
        }
        for kind in KINDS
    }
    taken = bench.part("seconds", "all", lambda: seconds(bench, 5))
    styles = {kind: [edit.target.style for edit in held_out_edits(kind, options.count, seed=SCENES)] for kind in KINDS}
    result = table(rows, of_kind, {kind: errors_of(of_kind[kind]["judge"]) for kind in KINDS}, taken, styles)
    records = [json.loads(bench.path(name, KINDS[0]).read_text(encoding="utf-8")) for name in rows if "LoRA" in name]
    config = SETTINGS | {"count": options.count, "loras": [record["made_with"]["config"]["lora"] for record in records]}
    atomic_write_json(OUT, stamp_result(result, weights=[*WEIGHTS, options.loras[0]], config=config))


if __name__ == "__main__":
    main()
