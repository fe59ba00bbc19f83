"""Rates, scores and paired differences of `benchmarks.fusion.methods`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from qwenlab.lab.judge import rate
from qwenlab.lab.statistics import estimate

DRAWS, SEED = 2000, 0  # of the bootstrap


def score(row: dict[str, int]) -> float:
    """Of a picture, 0 to 1: half for character and style both right, half for action and place."""
    return 0.5 * (row["character"] * row["style"]) + 0.25 * row["following"]


def mean_score(rows: Sequence[dict[str, int]]) -> float:
    """The mean of `score`."""
    return float(np.mean([score(row) for row in rows]))


def pooled(rows: Sequence[dict[str, int]], name: str) -> dict[str, Any]:
    """A rate with its interval; "both" is character and style, "following" counts two a picture."""
    if name == "both":
        return asdict(rate(sum(row["character"] * row["style"] for row in rows), len(rows)))
    return asdict(rate(sum(row[name] for row in rows), len(rows) * (2 if name == "following" else 1)))


def study_table(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
    """All rates, and the mean score."""
    return {name: pooled(rows, name) for name in ("character", "style", "both", "following")} | {
        "score": mean_score(rows)
    }


def versus(rows: Sequence[dict[str, int]], others: Sequence[dict[str, int]]) -> dict[str, dict[str, float]]:
    """Mean differences to `others`, picture by picture, with 95% intervals by resampling pictures."""
    measures = {
        "score": score, "both": lambda row: row["character"] * row["style"], "character": lambda row: row["character"],
        "style": lambda row: row["style"], "following": lambda row: row["following"] / 2,
    }  # fmt: skip
    result = {}
    for name, measure in measures.items():
        differences = np.array([measure(a) - measure(b) for a, b in zip(rows, others, strict=True)])
        result[name] = asdict(estimate(differences, SEED, DRAWS))
    return result
