"""A LoRA file in another rank: smaller with the least loss, or larger without any change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlab.errors import QwenlabError
from qwenlab.lora.files.reading import open_tensors
from qwenlab.lora.fusion.files import BASE_MODEL, check_dtype, read_plain, scaled_pair, write_layers
from qwenlab.lora.fusion.sources import Source, check_rank
from qwenlab.lora.rank import Pair, compress, grow, rank_for


@dataclass(frozen=True)
class Resized:
    """ranks: of every layer now; kept: the share of each layer's energy that is left."""

    path: Path
    ranks: Mapping[str, int]
    kept: Mapping[str, float]


def resize(
    file: str | Path,
    out: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str = "float32",
    layout: str = "diffusers",
    on_layer: Callable[[int], Any] = lambda total: None,
) -> Resized:
    """Write the LoRA in `file` with another rank to the new file `out`, its scaling folded in.

    Args:
        rank: of every layer. Smaller than a layer's: the best approximation; larger: new rows of A, zero columns of B.
        energy: instead, the lowest rank of each layer that keeps this share of its energy, more than 0 and at most 1.
        dtype: "float32" or "bfloat16", which rounds.
        layout: "diffusers", "comfyui" or "kohya" (`qwenlab.lora.files.fix`).
        on_layer: called with the number of all layers after each one.

    Raises QwenlabError for neither or both, for values out of range, and for what `qwenlab.lora.fusion.fuse` refuses.
    """
    if (rank is None) == (energy is None):
        raise QwenlabError("resize: give either --rank, such as 16, or --energy, such as 0.95")
    check_rank(rank)
    if energy is not None and not 0 < energy <= 1:
        raise QwenlabError(f"--energy {energy}: must be more than 0 and at most 1")
    check_dtype(dtype)
    source, out = Source(Path(file)), Path(out)
    (lora,) = read_plain([source], out, layout)
    full = max(min(layer.shape) for layer in lora.layers.values())
    if rank is not None and rank > full:
        raise QwenlabError(f"--rank {rank}: no layer of {file} can use more than {full}; take that or less")
    ranks: dict[str, int] = {}
    kept: dict[str, float] = {}

    def resized(layer: str) -> Pair:
        pair = scaled_pair(opened, lora, source, layer)
        wanted = rank or rank_for(pair, energy)
        if wanted > len(pair[0]):
            pair, kept[layer] = grow(pair, wanted, seed=len(ranks)), 1.0
        else:
            pair, kept[layer] = compress(pair, wanted)
        ranks[layer] = len(pair[0])
        return pair

    base = {BASE_MODEL: lora.metadata[BASE_MODEL]} if BASE_MODEL in lora.metadata else {}
    made = {"format": "pt", "qwenlab.resized": f"rank {rank}" if rank else f"energy {energy}"}
    with open_tensors(lora.path) as opened:
        write_layers(out, list(lora.layers), resized, made | base, dtype, on_layer, layout)
    return Resized(out, ranks, kept)
