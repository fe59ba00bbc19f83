"""Pictures unlike the rest: another character, another style, a stray photograph.

Each picture is described by its colours and the strengths of its edges (`colour_and_edges`), and judged by the distance
to its second nearest neighbour, so that two strays do not vouch for each other. A distance far above the usual one, by
the robust z-score of Iglewicz and Hoaglin ("How to detect and handle outliers", 1993), is reported.

Limits. Nothing here knows what a face is: another character in the usual colours is missed, and an unusual background
is reported. Three strays of one kind pass for a part of the set. `benchmarks/data/check_rates.py` measures both
errors on drawn pictures, whose few backgrounds make the task easier than that of photographs.
"""

from collections.abc import Sequence

import numpy as np

from qwenlab.data.check.pictures import Limits, Picture
from qwenlab.data.findings import Finding

NEIGHBOUR = 2
MIN_PICTURES = 12  # fewer say nothing about what is usual


def outlier_scores(features: np.ndarray) -> np.ndarray:
    """(N, D) -> (N,) robust z-scores of the distance to the second nearest neighbour; zeros for a small set."""
    count = len(features)
    if count < MIN_PICTURES:
        return np.zeros(count)
    squares = (features**2).sum(axis=1)
    distance = np.empty(count)
    for i in range(count):  # a row at a time: N^2 distances are never held at once
        row = squares + squares[i] - 2 * features @ features[i]
        row[i] = np.inf
        distance[i] = np.sqrt(max(0.0, np.partition(row, NEIGHBOUR - 1)[NEIGHBOUR - 1]))
    middle = np.median(distance)
    spread = np.median(np.abs(distance - middle))
    return 0.6745 * (distance - middle) / max(spread, 0.05 * middle, 1e-6)  # a floor: equal distances spread by nothing


def outlier_findings(pictures: Sequence[Picture], limits: Limits) -> list[Finding]:
    """One finding for each picture whose score is above the limit."""
    if not pictures:
        return []
    scores = outlier_scores(np.stack([picture.features for picture in pictures]))
    return [
        Finding(
            "outlier",
            picture.name,
            f"colours and edges {score:.1f} robust deviations from the usual (limit {limits.outlier_score})",
            (picture.name,),
        )
        for picture, score in zip(pictures, scores, strict=True)
        if score > limits.outlier_score
    ]
