"""Whether the edge of what was drawn shows: steps across it, against those of the true drawing at the same place."""

from __future__ import annotations

import numpy as np

from qwenlab.lab.statistics import Effect, mean


def steps_across(image: np.ndarray, inside: np.ndarray) -> float:
    """The sum of |differences| between neighbouring pixels of which one is `inside`, a mean over channels.

    image: (H, W, 3) uint8; inside: (H, W) bool, not the edge of the picture. Raises ValueError for other shapes and
    for a region without an edge.
    """
    if image.shape[:2] != inside.shape:
        raise ValueError(f"a picture of shape {image.shape} and a region of shape {inside.shape}")
    total, edges = 0.0, 0
    for axis in (0, 1):
        crossing = np.diff(inside, axis=axis)
        total += np.abs(np.diff(image.astype(float), axis=axis)).mean(-1)[crossing].sum()
        edges += crossing.sum()
    if not edges:
        raise ValueError("the region has no edge in the picture")
    return float(total)


def seam_ratio(drawn: np.ndarray, true: np.ndarray) -> Effect:
    """Steps across the edges of pictures (P,), over those of the true drawings (P,): a ratio of sums, 1 if no seam.

    The interval is over pictures (Taylor linearisation; Cochran, Sampling Techniques, 1977, chapter 6). Raises
    ValueError when the true drawings have no steps at all.
    """
    drawn, true = np.asarray(drawn, float), np.asarray(true, float)
    if not true.sum() > 0:
        raise ValueError("the true drawings are flat at these edges: there is nothing to compare with")
    ratio = drawn.sum() / true.sum()
    values = ratio + (drawn - ratio * true) / true.mean()
    return mean(values, span=None if np.ptp(values) else 1)
