"""What the judges and the networks say of the pictures of `benchmarks.hands.repair`, and how the ways differ.

Rows hold what was read in each picture, so that intervals can resample prompts. A way that draws no open hands any
more escapes the share of right ones, so hands found are counted, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwenlab.data.regions import Region
from qwenlab.files import atomic_write_json
from qwenlab.hands.captions import shows_hands
from qwenlab.hands.finder import Finder
from qwenlab.hands.form_net import FormScore
from qwenlab.hands.squares import as_tensor, cut
from qwenlab.lab import world
from qwenlab.lab.hands.score import PoseScore
from qwenlab.lab.judge import Judge, Reading, corrected_rate, rate, wanted
from qwenlab.lab.judge.second import SecondJudge
from qwenlab.lab.results import STAMP_KEY, stamp_result

RESULTS = Path(__file__).parent
RECORDS = RESULTS / "records"  # one file for each way and seed of training
DRAWS = 4000  # of prompts, for the intervals
FOLLOWED = ("action", "background", "hands", "framing", "view")  # what a prompt asks for beyond the character
JUDGED = ("hands", "feet", "hands, second judge", "feet, second judge")
MEASURES = (*JUDGED, "likeness", "following")


def read_pictures(
    images: Sequence[Image.Image],
    scenes: Sequence[world.Scene],
    judge: Judge,
    second: SecondJudge,
    pose: PoseScore,
    form: FormScore,
    finder: Finder,
) -> list[dict[str, Any]]:
    """One row for each picture: pairs (right, of how many) by both judges, and the marks of the other networks."""
    marks = form.of_pictures(finder, images)
    rows = []
    for reading, other, mark, scene in zip(judge.read(images), second.read(images), marks, scenes, strict=True):
        asked = shows_hands(world.caption(scene))
        full = scene.framing == "全身"
        hands = [hand.reading for hand in reading.hands] if asked else []
        others = [answer for _, answer in other.hands] if asked else []
        rows.append({
            "hands": [hands.count("5"), len(hands)],
            "hands, second judge": [others.count("5"), len(others)],
            "feet": [int(full and reading.feet == "2"), int(full)],
            "feet, second judge": [int(full and other.feet == "2"), int(full)],
            "likeness": [int(reading.is_character), 1],
            "following": _followed(reading, scene),
            "form score, hands": [round(value, 3) for region, value in mark if region.kind == "hand" and asked],
            "form score, feet": [round(value, 3) for region, value in mark if region.kind == "feet" and full],
        })  # fmt: skip
    for row, image, mark in zip(rows, images, marks, strict=True):
        hands = [region for region, _ in mark if region.kind == "hand"] if row["form score, hands"] else []
        row["pose score"] = [round(value, 3) for value in pose.of_pictures([image], [hands])]
    return rows


def _followed(reading: Reading, scene: world.Scene) -> list[int]:
    asked = {name: value for name, value in wanted(scene).items() if name in FOLLOWED}
    return [sum(reading.attributes.get(name) == value for name, value in asked.items()), len(asked)]


def share(rows: Sequence[Sequence[dict[str, Any]]], name: str) -> np.ndarray:
    """Pairs (right, of how many) of a measure, summed over the seeds of training: (prompts, 2)."""
    return np.array([[row[name] for row in of_seed] for of_seed in rows], float).sum(0)


def difference(
    rows: Sequence[Sequence[dict[str, Any]]], others: Sequence[Sequence[dict[str, Any]]], name: str, seed: int = 0
) -> dict[str, float]:
    """The share in `rows` minus that in `others`, same seeds of training and prompts, with a 95% interval.

    Resamples prompts: the pictures of one prompt, by all seeds of training and both ways, stay together.
    """
    ours, theirs = share(rows, name), share(others, name)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), DRAWS)  # (draws, prompts)

    def of(table: np.ndarray) -> np.ndarray:
        sums = weights @ table
        return sums[:, 0] / np.maximum(sums[:, 1], 1)

    low, high = np.quantile(of(ours) - of(theirs), (0.025, 0.975))
    total, other = ours.sum(0), theirs.sum(0)
    value = total[0] / max(total[1], 1) - other[0] / max(other[1], 1)
    return {"value": float(value), "low": float(low), "high": float(high)}


def summary(rows: Sequence[Sequence[dict[str, Any]]], errors: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Rates of a way over all its seeds of training, as read, and those of hands and feet corrected by `errors`."""
    result: dict[str, Any] = {}
    for name in MEASURES:
        table = share(rows, name)
        right, total = table.sum(0).astype(int).tolist()
        result[name] = vars(rate(right, total)) if total else None
        if name in errors and total and _better_than_chance(errors[name]):
            result[name + ", corrected"] = vars(corrected_rate([tuple(pair) for pair in table], errors[name]))
    for name in ("pose score", "form score, hands", "form score, feet"):
        values = [value for of_seed in rows for row in of_seed for value in row[name]]
        result[name] = {"mean": float(np.mean(values)), "count": len(values)} if values else None
    return result


def feet_by(rows: Sequence[Sequence[dict[str, Any]]], scenes: Sequence[world.Scene]) -> dict[str, Any]:
    """Rates of feet as the second judge reads them: of shoes and bare ones, and of the bare ones where and how seen."""
    picked = {"shoes": [], "bare": []}
    for scene, pair in zip(scenes, share(rows, "feet, second judge").astype(int).tolist(), strict=True):
        if not pair[1]:
            continue
        if scene.feet == "穿鞋":
            picked["shoes"].append(pair)
            continue
        place = "bare, in snow" if scene.background == "雪地" else "bare, elsewhere"
        side = "bare, from the side" if scene.view == "侧面" else "bare, from the front"
        for name in ("bare", place, side):
            picked.setdefault(name, []).append(pair)
    return {name: vars(rate(*np.sum(pairs, 0).tolist())) for name, pairs in picked.items() if pairs}


def _right_ones_of(way: str, counts: Mapping[str, Any]) -> dict[str, int]:
    """The counts of a judge with the right ones of one way alone, by any seed; the wrong ones of all: it has few."""
    own = np.sum([pair for name, pair in counts["right_of"].items() if name.rpartition("-")[0] == way], 0)
    return {
        "right": int(own[1]), "right_read_right": int(own[0]), "wrong": counts["wrong"],
        "wrong_read_wrong": counts["wrong_read_wrong"],
    }  # fmt: skip


def _better_than_chance(errors: Mapping[str, int]) -> bool:
    """Whether a judge's readings can be corrected at all: the first calls every pair of feet right."""
    return errors["right_read_right"] / errors["right"] + errors["wrong_read_wrong"] / errors["wrong"] > 1


def spread(images: Sequence[Image.Image], regions: Sequence[Sequence[Region]]) -> float:
    """How much upright squares of hands differ: the standard deviation over hands, a mean over pixels in [0, 1]."""
    squares = [cut(image, r, 32, 1.0) for image, found in zip(images, regions, strict=True) for r in found
               if r.kind == "hand"]  # fmt: skip
    return float(as_tensor(squares).std(0).mean() / 2) if len(squares) > 1 else 0.0


def write_table(ways: Mapping[str, Sequence[int]], scenes: Sequence[world.Scene]) -> dict[str, Any]:
    """Write `hand_repair.json`: a summary of each way (name -> seeds of training) and what it changes, from records.

    scenes: of the prompts, in their order.

    Rates of hands and feet are corrected by how each judge agreed with the labels (`benchmarks.hands.labels`), those of
    ways that draw hands and feet again by the second set of labels, right ones of the recipe's pictures alone: what is
    drawn again and right is read more strictly than other right ones. Raises FileNotFoundError when a record or the
    labels' result is missing.
    """
    labels = json.loads((RESULTS / "labels.json").read_text(encoding="utf-8"))
    errors, redrawn = (
        {
            f"{part}{suffix}": labels[f"{judge} judge, {kind}{which}"]
            for kind, part in (("hand", "hands"), ("feet", "feet"))
            for judge, suffix in (("first", ""), ("second", ", second judge"))
        }
        for which in ("", ", redrawn")
    )
    redrawn = {name: _right_ones_of("recipe", counts) for name, counts in redrawn.items()}
    records = {
        (name, seed): json.loads((RECORDS / f"{name}-{seed}.json".replace(" ", "-")).read_text(encoding="utf-8"))
        for name, seeds in ways.items() for seed in seeds
    }  # fmt: skip
    table: dict[str, Any] = {}
    for name, seeds in ways.items():
        own = [records[name, seed] for seed in seeds]
        rows = [record["rows"] for record in own]
        confused = redrawn if "bare feet" in own[0]["steps"] else errors
        table[name] = summary(rows, confused) | {"seeds": list(seeds), "steps": own[0]["steps"]}
        prompts = table[name]["prompts"] = len(rows[0])  # some ways have fewer: the first ones
        table[name]["feet by kind"] = feet_by(rows, scenes[:prompts])
        for key in ("seconds_a_picture", "spread of hands", "held-out loss", "training loss"):
            values = [record[key] for record in own if key in record]
            table[name][key] = float(np.mean(values)) if values else None
        if name != "plain":
            others = [records["plain", seed]["rows"][:prompts] for seed in seeds]
            table[name]["against plain"] = {measure: difference(rows, others, measure) for measure in MEASURES}
    made = {f"{name}-{seed}": record[STAMP_KEY]["config_sha256"] for (name, seed), record in records.items()}
    result = stamp_result({"ways": table}, config={"records": made}, command="python -m benchmarks.hands.repair")
    atomic_write_json(RESULTS / "repair.json", result)
    return result
