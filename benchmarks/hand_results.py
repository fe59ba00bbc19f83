"""What the judges and the networks say of the pictures of `benchmarks.hand_repair`, and how the ways differ.

Rows hold what was read in each picture, so that intervals can resample prompts. A way that draws no open hands any
more escapes the share of right ones, so hands found are counted, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from qwenlab import world
from qwenlab.hands.captions import shows_hands
from qwenlab.hands.finder import Finder
from qwenlab.hands.form_net import FormScore
from qwenlab.hands.regions import Region
from qwenlab.hands.squares import as_tensor, cut
from qwenlab.judge import Judge, Reading, corrected_rate, rate, wanted
from qwenlab.judge.second import SecondJudge

DRAWS = 4000  # of prompts, for the intervals
FOLLOWED = ("action", "background", "hands", "framing", "view")  # what a prompt asks for beyond the character
MEASURES = ("hands", "feet", "likeness", "following")


def read_pictures(
    images: Sequence[Image.Image], scenes: Sequence[world.Scene], judge: Judge, second: SecondJudge, form: FormScore,
    finder: Finder,
) -> list[dict[str, Any]]:
    """One row for each picture: pairs (right, of how many), of the first and of the second judge, and form scores."""
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
            "form score, hands": [value for region, value in mark if region.kind == "hand" and asked],
            "form score, feet": [value for region, value in mark if region.kind == "feet" and full],
        })  # fmt: skip
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


def summary(
    rows: Sequence[Sequence[dict[str, Any]]], errors: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Rates of a way over all its seeds of training, as read, and those of hands and feet corrected by `errors`."""
    result: dict[str, Any] = {}
    for name in (*MEASURES, "hands, second judge", "feet, second judge"):
        table = share(rows, name)
        right, total = table.sum(0).astype(int).tolist()
        result[name] = vars(rate(right, total)) if total else None
        if name in errors and total:
            result[name + ", corrected"] = vars(corrected_rate([tuple(pair) for pair in table], errors[name]))
    for name in ("form score, hands", "form score, feet"):
        values = [value for of_seed in rows for row in of_seed for value in row[name]]
        result[name] = {"mean": float(np.mean(values)), "count": len(values)} if values else None
    return result


def spread(images: Sequence[Image.Image], regions: Sequence[Sequence[Region]]) -> float:
    """How much upright squares of hands differ: the standard deviation over hands, a mean over pixels in [0, 1]."""
    squares = [cut(image, r, 32, 1.0) for image, found in zip(images, regions, strict=True) for r in found
               if r.kind == "hand"]  # fmt: skip
    return float(as_tensor(squares).std(0).mean() / 2) if len(squares) > 1 else 0.0
