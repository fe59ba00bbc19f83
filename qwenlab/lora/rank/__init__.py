"""Rank: how much of an update fits into a low one, factors of another rank, and ranks that change while training.

`factors` works on A and B of one layer, `layers` on the LoRA of a model.
"""

from qwenlab.lora.rank.factors import Pair, compress, energy_by_rank, grow, rank_for, spectrum, truncate
from qwenlab.lora.rank.layers import allocate, change_ranks, prefix

__all__ = [
    "Pair", "allocate", "change_ranks", "compress", "energy_by_rank", "grow", "prefix", "rank_for", "spectrum",
    "truncate",
]  # fmt: skip
