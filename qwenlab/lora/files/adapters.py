"""What changes a layer: a pair of LoRA factors, LoKr, LoHa, or a whole difference, as far as the header tells.

LoKr is a Kronecker product w1 x w2, LoHa an elementwise product (w1_a w1_b) * (w2_a w2_b) (LyCORIS, 2309.14859); each
factor of LoKr may itself be a product of two. LoKr's alpha counts only when a factor is such a product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qwenlab.lora.files.header import TensorFile
from qwenlab.lora.files.layouts import Key

_FACTOR = re.compile(r"\.(lokr|hada)_(?P<name>[wt][12](_[ab])?)")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """The LoRA of one linear layer. a, b: keys in the file; shape (d, k) is the update's.

    scaling: factor of B A that the file means; alpha: as stored, None when nothing stores it. alpha_from: "tensors",
    "metadata", "adapter_config.json" or "" (nothing). magnitude: key of DoRA's magnitudes, when the file has some.
    rows: first and last + 1 of the rows of B that are this layer's, when the file has it fused with others.
    """

    a: Key
    b: Key
    rank: int
    shape: tuple[int, int]
    alpha: float | None
    alpha_from: str
    scaling: float
    magnitude: Key | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Adapter:
    """What changes one layer without being a LoRA. kind: "LoKr", "LoHa" or "full difference"; shape (d, k).

    keys: by factor, such as "w1" or "w2_a"; "diff" for a difference.
    """

    kind: str
    shape: tuple[int, int]
    keys: Mapping[str, Key]


def read_adapters(keys: Iterable[Key], index: Mapping[str, tuple[str, Shape]]) -> dict[str, Adapter]:
    """The adapters of linear layers whose factors are complete; by the layer's own name, fused ones by theirs."""
    found: dict[tuple[str, str], dict[str, Key]] = {}
    for key in keys:
        if key.place and key.place.kind in ("linear", "fused"):
            if key.role == "full difference" and key.style == ".diff":
                found.setdefault((key.layer, key.role), {})["diff"] = key
            elif key.role in ("LoKr", "LoHa") and (match := _FACTOR.search(key.text)):
                found.setdefault((key.layer, key.role), {})[match["name"]] = key
    adapters = {}
    for (layer, kind), factors in found.items():
        shapes = {name: index[key.text][1] for name, key in factors.items()}
        shape = {"LoKr": _lokr_shape, "LoHa": _loha_shape, "full difference": lambda s: s["diff"]}[kind](shapes)
        if shape and len(shape) == 2 and 0 not in shape:
            adapters[layer] = Adapter(kind, shape, factors)
    return adapters


def adapter_shapes(adapters: Mapping[str, Adapter]) -> dict[str, Shape]:
    """Shapes (d, k) of the layers, a fused one as its pieces."""
    shapes = {}
    for layer, adapter in adapters.items():
        pieces = next(iter(adapter.keys.values())).place.parts or (layer,)
        shapes |= dict.fromkeys(pieces, (adapter.shape[0] // len(pieces), adapter.shape[1]))
    return shapes


def lokr_scaling(alpha: float | None, shapes: Mapping[str, Shape]) -> float:
    """The factor of w1 x w2 that LyCORIS and ComfyUI apply: alpha / rank, 1 where both factors are whole."""
    ranks = [shapes[name][0] for name in ("w2_b", "w1_b") if name in shapes]
    return alpha / ranks[0] if ranks and alpha is not None else 1.0


def lokr_update(file: TensorFile, adapter: Adapter, alpha: float | None) -> np.ndarray:
    """The update (d, k) of a LoKr, in float64."""
    arrays = {name: file.array(key.text).astype(np.float64) for name, key in adapter.keys.items()}
    scaling = lokr_scaling(alpha, {name: array.shape for name, array in arrays.items()})
    w1, w2 = (arrays[w] if w in arrays else arrays[f"{w}_a"] @ arrays[f"{w}_b"] for w in ("w1", "w2"))
    return scaling * np.kron(w1, w2)


def _lokr_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    sides = []
    for w in ("w1", "w2"):
        if w in shapes:
            sides.append(shapes[w])
        elif f"{w}_a" in shapes and f"{w}_b" in shapes and shapes[f"{w}_a"][-1:] == shapes[f"{w}_b"][:1]:
            sides.append((shapes[f"{w}_a"][0], shapes[f"{w}_b"][-1]))
    if len(sides) != 2 or any(len(side) != 2 for side in sides) or any(name[0] == "t" for name in shapes):
        return None
    return tuple(math.prod(sizes) for sizes in zip(*sides, strict=True))


def _loha_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    pairs = [(shapes.get(f"{w}_a"), shapes.get(f"{w}_b")) for w in ("w1", "w2")]
    if any(a is None or b is None or len(a) != 2 or len(b) != 2 or a[1] != b[0] for a, b in pairs):
        return None
    products = {(a[0], b[1]) for a, b in pairs}
    return products.pop() if len(products) == 1 else None
