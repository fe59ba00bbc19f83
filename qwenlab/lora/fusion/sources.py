"""LoRA files with their weights, as they are typed. Without torch: a wrong number is answered at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from qwenlab.errors import QwenlabError, check_range

MAX_WEIGHT = 100.0  # in either direction; a LoRA of weight 2 is mostly broken already
MAX_RANK = 4096  # full rank of every layer of the widest Qwen-Image


@dataclass(frozen=True)
class Source:
    """A LoRA file and its weight. layer_weights: patterns of layer names, such as "transformer_blocks.[0-2].*", and
    factors that the weight gets there; the first pattern that fits counts. Raises QwenlabError for numbers that are
    none."""

    path: Path
    weight: float = 1.0
    layer_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range(f"{self.path}: weight", self.weight, -MAX_WEIGHT, MAX_WEIGHT)
        for pattern, factor in self.layer_weights.items():
            check_range(f"{self.path}: weight of {pattern!r}", factor, -MAX_WEIGHT, MAX_WEIGHT)

    def weight_of(self, layer: str) -> float:
        """The weight in one layer."""
        factors = (factor for pattern, factor in self.layer_weights.items() if fnmatchcase(layer, pattern))
        return self.weight * next(factors, 1.0)


def parse_source(text: str) -> Source:
    """`style.safetensors:0.4` -> Source; without a number the weight is 1. Raises QwenlabError for no weight."""
    if "：" in text and not Path(text).is_file():
        raise QwenlabError(f"{text}: a full-width colon ：; write FILE.safetensors:0.8")
    path, colon, weight = text.rpartition(":")
    if not colon or weight.endswith(".safetensors") or Path(text).is_file():  # C:\style.safetensors has a colon, too
        return Source(Path(text))
    try:
        number = float(weight)
    except ValueError:
        number = None
    if number is None or "_" in weight or not path:  # Python reads 1_0 as 10
        raise QwenlabError(f"{text}: {weight!r} is no weight; write FILE.safetensors:0.8")
    return Source(Path(path), number)


def check_rank(rank: int | None) -> None:
    """Raise QwenlabError for what is no rank; None is fine."""
    if rank is not None:
        check_range("--rank", rank, 1, MAX_RANK)
