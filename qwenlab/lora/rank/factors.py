"""How much of a weight update fits into a low rank, and LoRA factors of another rank.

d x k the shape of a weight, r a rank; a pair of factors is A (r, k) and B (d, r).

Source: Eckart and Young, The approximation of one matrix by another of lower rank (Psychometrika 1936): the first r
singular triples give the best approximation of rank r.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # A (r, k), B (d, r)


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


def compress(pair: Pair, rank: int) -> tuple[Pair, float]:
    """The best approximation of B A of rank at most `rank`, and the share of its energy that is kept (1 if B A is 0).

    QR of both factors, SVD of the r x r core between them: the (d, k) matrix is never formed. In float64; the
    result is float32.
    """
    u, s, vh = spectrum(pair, rank)
    energy = s.square()
    kept = float(energy[:rank].sum() / energy.sum()) if energy.sum() > 0 else 1.0
    root = s[:rank].sqrt()
    a, b = (root[:, None] * vh).float(), (u * root).float()
    return (a.contiguous(), b.contiguous()), kept  # as they lie in a file: other strides round otherwise in training


def spectrum(pair: Pair, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of B A from its factors: U (d, n), s (n,), V^T (n, k), n = min(r, d, k); float64.

    rank: of U and V^T the first `rank` columns and rows only, which saves most of the time; s is always whole.
    """
    a, b = pair
    (reflect_b, r_b), (reflect_a, r_a) = _thin_qr(b.double()), _thin_qr(a.double().mT)
    u, s, vh = torch.linalg.svd(r_b @ r_a.mT, full_matrices=False)
    return _times_q(reflect_b, u[:, :rank]), s, _times_q(reflect_a, vh[:rank].mT).mT


def _thin_qr(matrix: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Q of (m, n), left as Householder reflections, and R (min(m, n), n)."""
    reflections, scales = torch.geqrf(matrix)
    size = len(scales)
    return (reflections[:, :size], scales), reflections[:size].triu()


def _times_q(reflections: tuple[Tensor, Tensor], columns: Tensor) -> Tensor:
    """Q times `columns` without forming Q."""
    padding = columns.new_zeros(len(reflections[0]) - len(columns), columns.shape[1])
    return torch.ormqr(*reflections, torch.cat([columns, padding]))


def grow(pair: Pair, rank: int, seed: int = 0) -> Pair:
    """The same B A in factors of a higher rank: new rows of A are drawn as for a new LoRA, new columns of B are zero.

    What scales the product must stay: alpha is to grow with the rank. Raises ValueError for a rank below the pair's.
    """
    a, b = pair
    if rank < len(a):
        raise ValueError(f"rank {rank} is less than {len(a)}: use compress")
    bound = math.sqrt(1 / a.shape[1])  # kaiming_uniform with a = sqrt(5), as torch's Linear and peft draw A
    generator = torch.Generator().manual_seed(seed)
    new = (2 * torch.rand(rank - len(a), a.shape[1], generator=generator) - 1) * bound
    return torch.cat([a, new.to(a)]), torch.nn.functional.pad(b, (0, rank - len(a)))


def rank_for(pair: Pair, energy: float) -> int:
    """The lowest rank, 1 or more, whose best approximation of B A keeps the share `energy` (0..1)."""
    squares = spectrum(pair)[1].square()
    if not squares.sum() > 0:
        return 1
    shares = squares.cumsum(0) / squares.sum()
    return min(int((shares < energy * (1 - 1e-12)).sum()) + 1, len(squares))
