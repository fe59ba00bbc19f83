"""Ways to merge the updates of several LoRAs of one layer, on factors, never on the dense matrix unless a way needs it.

n LoRAs of a layer (d, k): A_i (r_i, k) and B_i (d, r_i), float32, scaling and weight in B_i; R is the sum of the r_i.
Their exact merge is the sum of B_i A_i. Each function takes the pairs and gives one pair again.

Sources: TIES (Yadav et al., arXiv 2306.01708); DARE (Yu et al., 2311.03099); KnOTS (Stoica et al., 2410.19735); Core
Space (Panariello et al., 2509.17786); null-space projection (NP-LoRA, 2511.11051); optimal truncation (Eckart, Young).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qwenlab.errors import QwenlabError
from qwenlab.lora.rank import Pair

#: peft's names (`combination_type` of `LoraModel.add_weighted_adapter`) of what is the same mathematics here.
PEFT_NAMES = {"cat": "concat", "dare_linear_svd": "dare"}
#: Its other names: what it does under them, and what to take instead. Its `svd` is `svd` here, too.
_PEFT_OTHERS = {
    "linear": "adds the factors themselves, which mixes the LoRAs (cross terms); concat is exact",
    "dare_linear": "drops entries of the factors themselves, which mixes the LoRAs; dare drops those of the updates",
    "dare_ties": "drops entries of the factors themselves, which mixes the LoRAs; take dare or ties",
    "dare_ties_svd": "drops entries at random, then elects signs; take dare or ties",
    "ties_svd": "averages what agrees and weighs after the election; ties adds it, weighed before",
    "magnitude_prune": "prunes the factors themselves, which mixes the LoRAs; svd leaves out the least of the sum",
    "magnitude_prune_svd": "adds the largest entries of each update; ties does so where their signs agree",
}

DENSE_SVD = 1024  # up to this many rows or columns the SVD of a dense update is exact, beyond it randomised


def own_name(method: str) -> str:
    """A method's name here for peft's name of it. Raises QwenlabError for those of peft that are something else."""
    if method in _PEFT_OTHERS:
        raise QwenlabError(f"--method {method}: not offered; peft {_PEFT_OTHERS[method]}")
    return PEFT_NAMES.get(method, method)


def concatenate(pairs: Sequence[Pair]) -> Pair:
    """The exact sum: A_i stacked (R, k), B_i side by side (d, R)."""
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1)


def average_factors(pairs: Sequence[Pair]) -> Pair:
    """The article's way, wrong: the sums of the A_i and of the B_i, shorter ones padded with zeros.

    Their product holds B_i A_j of different LoRAs, the cross terms, and the right terms only among them.
    """
    rank = max(len(a) for a, _ in pairs)
    a = sum(torch.nn.functional.pad(a, (0, 0, 0, rank - len(a))) for a, _ in pairs) / len(pairs)
    b = sum(torch.nn.functional.pad(b, (0, rank - b.shape[1])) for _, b in pairs)
    return a, b


def elect(updates: Sequence[Tensor], density: float = 0.2) -> Tensor:
    """TIES: keep the largest entries, `density` of each update, elect a sign for each place, add those that have it.

    updates: tensors of one shape. The sum, not the mean, of what agrees, so that weights mean what they do elsewhere.
    """
    trimmed = []
    for update in updates:
        count = max(1, round(density * update.numel()))
        bound = update.abs().flatten().kthvalue(update.numel() - count + 1).values
        trimmed.append(torch.where(update.abs() >= bound, update, 0))
    stacked = torch.stack(trimmed)
    sign = stacked.sum(0).sign()
    return torch.where(stacked.sign() == sign, stacked, 0).sum(0)


def drop_and_rescale(update: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    """DARE: entries dropped at random with probability `drop`, the others divided by what is left."""
    kept = torch.rand(update.shape, generator=generator) >= drop
    return torch.where(kept, update / (1 - drop), 0)


def ties(pairs: Sequence[Pair], rank: int, density: float = 0.2) -> Pair:
    """TIES on the true updates (d, k), then the best approximation of rank `rank`."""
    return _factor(elect([b @ a for a, b in pairs], density), rank)


def dare(pairs: Sequence[Pair], rank: int, drop: float = 0.5, seed: int = 0) -> Pair:
    """DARE on the true updates (d, k), their sum, then the best approximation of rank `rank`."""
    generator = torch.Generator().manual_seed(seed)
    return _factor(sum(drop_and_rescale(b @ a, drop, generator) for a, b in pairs), rank)


def knots(pairs: Sequence[Pair], density: float = 0.2) -> Pair:
    """KnOTS: all updates written in one basis of their joint column space, TIES on the coordinates (R, k)."""
    _, b = concatenate(pairs)
    basis = _orthonormal(b)
    coordinates = [(basis.mT @ own) @ a for a, own in pairs]
    return elect(coordinates, density), basis


def core_space(pairs: Sequence[Pair], merge: Callable[[Sequence[Tensor]], Tensor] = elect) -> Pair:
    """Core Space: bases of the joint column and row spaces; `merge` sees the cores (R, R) between them.

    Nothing is lost on the way: merged by a plain sum, the exact merge comes out.
    """
    a, b = concatenate(pairs)
    columns, rows = _orthonormal(b), _orthonormal(a.mT)
    cores = [(columns.mT @ own_b) @ (own_a @ rows) for own_a, own_b in pairs]
    return rows.mT, columns @ merge(cores)


def orthogonal(pairs: Sequence[Pair]) -> Pair:
    """Each LoRA without what it would do to inputs that one before it reads: A_i in the null space of A_1 ... A_(i-1).

    The first keeps its update whole: on inputs in its row space the merge acts as it alone would.
    """
    kept: list[Pair] = []
    for a, b in pairs:
        if kept:
            basis = _orthonormal(torch.cat([earlier for earlier, _ in kept]).mT)
            a = a - (a @ basis) @ basis.mT
        kept.append((a, b))
    return concatenate(kept)


def cross_terms(pairs: Sequence[Pair]) -> float:
    """How far the article's way is from the average of the updates, relative to its norm."""
    exact = sum(b @ a for a, b in pairs)
    a, b = average_factors(pairs)
    return float((b @ a - exact).norm() / exact.norm())


def _orthonormal(matrix: Tensor) -> Tensor:
    """An orthonormal basis (n, rank) of the columns of a matrix (n, m)."""
    u, s, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, s > s[0] * 1e-7].to(matrix.dtype) if s[0] > 0 else u[:, :1].to(matrix.dtype)


def _factor(update: Tensor, rank: int) -> Pair:
    """The best factors of rank `rank` of a dense update (d, k); large ones by a randomised SVD."""
    if min(update.shape) <= DENSE_SVD:
        u, s, vh = torch.linalg.svd(update, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(update, q=min(rank + 32, *update.shape), niter=4)
        vh = v.mT
    root = s[:rank].sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root
