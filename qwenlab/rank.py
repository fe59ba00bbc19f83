"""How much of a weight update fits into a low rank: singular values, and the best approximation of each rank.

d x k the shape of a weight, r a rank. Source: Eckart and Young, The approximation of one matrix by another of lower
rank (Psychometrika 1936): the first r singular triples give the best approximation of rank r.
"""

from __future__ import annotations

import torch
from torch import Tensor


def energy_by_rank(delta: Tensor) -> Tensor:
    """Share of the squared Frobenius norm that the best approximation of rank 1, 2, ... holds.

    delta (d, k), any floating dtype -> (min(d, k),) float32, rising to 1. Raises ValueError for an update that is zero.
    """
    squares = torch.linalg.svdvals(delta.float()).square()
    total = squares.sum()
    if not total > 0:
        raise ValueError("the update is zero everywhere: it has no spectrum")
    return squares.cumsum(0) / total


def truncate(delta: Tensor, rank: int) -> Tensor:
    """The best approximation of `delta` (d, k) by a matrix of rank at most `rank`, in its own dtype."""
    u, s, vh = torch.linalg.svd(delta.float(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).to(delta.dtype)
