"""Tensors of a LoRA file that are no factors: every one belongs to a group that says what it is.

Nothing of a file is passed over in silence. `groups` sorts what `read_lora` could not put into a layer; a key that no
group explains ends in the last one, "unknown tensors".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qwenlab.lora.files.architecture import Family, kind_in
from qwenlab.lora.files.layouts import Key

BIAS_OF_LORA = "biases of the LoRA (lora_B.bias)"
MATRIX = "full differences of matrices (.diff)"
NORM = "differences of norms"
BIAS = "differences of biases"
SET = "weights to be put in place of the model's (.set_weight)"
RESHAPE = "new shapes of weights (.reshape_weight)"
NO_MATRIX = "tensors for modules without a matrix"
NO_WEIGHT = "tensors for modules without such a weight"
NO_LAYER = "tensors for layers that no Qwen-Image has"
OTHER_FAMILY = "tensors for layers of another Qwen-Image"
WHOLE = "whole weights of modules"
ALPHA = "alphas without factors"
MAGNITUDE = "DoRA magnitudes without factors"
ADAPTER_MAGNITUDE = "magnitudes of DoRA beside LoKr or LoHa (.dora_scale)"
UNKNOWN = "unknown tensors"
#: Kinds of adapters that are no pair of low-rank factors; ComfyUI knows them, most other readers do not.
ADAPTERS = ("LoKr", "LoHa", "OFT", "GLoRA", "IA3", "LoCon")
_BY_STYLE = {".diff_b": BIAS, ".b_norm": BIAS, ".set_weight": SET, ".reshape_weight": RESHAPE}
_BY_ROLE = {
    "embedding": "trained embeddings",
    "optimizer state": "optimizer states",
    "moving average": "moving averages of weights",
    "bookkeeping": "bookkeeping of the training",
    "text encoder's weight": "whole weights of the text encoder",
    "VAE's weight": "weights of the VAE",
    "whole weight": WHOLE,
    "bias": BIAS_OF_LORA,
    "DoRA": MAGNITUDE,
    "alpha": ALPHA,
}
#: Sorts that change nothing in the model, whoever passes over them.
HARMLESS = (ALPHA, *(_BY_ROLE[role] for role in ("optimizer state", "moving average", "bookkeeping")))


_LEFT = "--fix leaves them out"
_ABOUT = {
    BIAS_OF_LORA: "diffusers adds them, ComfyUI knows them as .diff_b: --fix --format comfyui",
    MATRIX: "ComfyUI adds them to the weights; --fix makes a LoRA of full rank of each for diffusers, the same update",
    NORM: "ComfyUI adds them to the norms' weights; a LoRA of diffusers has no place for them, there " + _LEFT,
    BIAS: "ComfyUI adds them to the biases; --fix makes lora_B.bias of them for diffusers",
    SET: "ComfyUI does; a LoRA of diffusers has no place for them, there " + _LEFT,
    RESHAPE: "ComfyUI pads the weights; the model has its own shape then, " + _LEFT,
    NO_MATRIX: "the modules are Qwen-Image's, but norms or without weights, so that no reader applies a LoRA; " + _LEFT,
    NO_WEIGHT: "the modules are Qwen-Image's, but have no such weight, so that no reader applies them; " + _LEFT,
    NO_LAYER: "readers pass over them or refuse the file; " + _LEFT,
    OTHER_FAMILY: "readers pass over them or refuse the file; " + _LEFT,
    WHOLE: "weights of the model itself, no update; no reader applies them, " + _LEFT,
    ALPHA: "they scale nothing; " + _LEFT,
    MAGNITUDE: "they scale nothing; " + _LEFT,
    ADAPTER_MAGNITUDE: "part of the update; see the readers",
    UNKNOWN: "no reader is known for them; " + _LEFT,
    "trained embeddings": "words of the text encoder, no part of a LoRA; ComfyUI may take the file in its embeddings "
    "folder, diffusers nowhere; " + _LEFT,
    **dict.fromkeys(ADAPTERS, "no pair of factors A and B; see the readers"),
    "IA3": "a factor for each output or input, no update; no reader of Qwen-Image applies it, " + _LEFT,
}


@dataclass(frozen=True)
class Group:
    """Keys of one sort. what: the sort, in words."""

    what: str
    keys: tuple[Key, ...]

    def __str__(self) -> str:
        first, *others = (key.text for key in self.keys)
        return f"{len(self.keys)} {self.what} ({first}{', ...' if others else ''})"


def about(group: Group) -> str:
    """A sentence on what the tensors are and what becomes of them."""
    return f"{group}: {_ABOUT.get(group.what, 'of no use outside the training; ' + _LEFT)}"


def sort_key(key: Key, family: Family) -> str:
    """The sort of a key that is no factor of a layer of `family`."""
    kind = kind_in(family, key.layer) if key.place else None
    if key.role in ADAPTERS and kind in ("linear", "fused"):
        return key.role
    if key.role in ("unknown", *_BESIDES):
        return _BY_ROLE.get(key.role, UNKNOWN)
    if key.place is None:
        return NO_LAYER if key.role not in ("alpha", "DoRA") else _BY_ROLE[key.role]
    if kind is None:
        return OTHER_FAMILY
    if key.role == "full difference":
        return _sort_difference(key, kind, family)
    if key.role in _BY_ROLE and kind in ("linear", "fused"):
        return _BY_ROLE[key.role]
    return WHOLE if key.role == "whole weight" and kind == "norm" else NO_MATRIX


_BESIDES = ("embedding", "optimizer state", "moving average", "bookkeeping", "text encoder's weight", "VAE's weight")


def _sort_difference(key: Key, kind: str, family: Family) -> str:
    what = _BY_STYLE.get(key.style, MATRIX)
    if kind == "empty" or (what == BIAS and not (kind in ("linear", "fused") and family.biases)):
        return NO_WEIGHT
    return NORM if what == MATRIX and kind == "norm" else what


def groups(keys: Iterable[Key], family: Family) -> list[Group]:
    """The keys by sort, in the order of their first appearance."""
    keys = list(keys)
    sorts: dict[str, list[Key]] = {}
    found = {key.stem: sort_key(key, family) for key in keys if key.role in ADAPTERS}
    for key in keys:
        what, adapter = sort_key(key, family), found.get(key.stem)
        if what == MAGNITUDE and key.style == ".dora_scale" and adapter in ADAPTERS and adapter != "IA3":
            what = ADAPTER_MAGNITUDE
        elif what == WHOLE and adapter == "IA3":  # LyCORIS: <layer>.weight beside <layer>.on_input
            what = adapter
        sorts.setdefault(what, []).append(key)
    return [Group(what, tuple(found)) for what, found in sorts.items()]
