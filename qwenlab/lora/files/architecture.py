"""The modules of Qwen-Image by name: linear layers, norms, fused layers, places without weights. No file is read here.

The names are those of diffusers' classes; tests compare every table with the real classes. Sizes are (d, k), outputs
and inputs of a linear layer, in units of the model's width w.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """A model family. block, top: linear layers in a block and outside; 0 where a size does not follow from w.

    norms: modules whose weight is a vector. empty: modules without any weights. fused: one matrix of a block in other
    implementations, whose rows are those of several layers here, in this order. biases: whether the linear layers
    have biases.
    """

    name: str
    block: Mapping[str, tuple[int, int]]
    top: Mapping[str, tuple[int, int]]
    norms: tuple[str, ...]
    top_norms: tuple[str, ...]
    empty: tuple[str, ...]
    top_empty: tuple[str, ...]
    fused: Mapping[str, tuple[str, ...]]
    biases: bool


@dataclass(frozen=True)
class Model:
    """A published size of a family."""

    name: str
    family: Family
    width: int
    blocks: int


@dataclass(frozen=True)
class Place:
    """What a name means in a family. kind: "linear", "norm", "fused" or "empty". parts: the layers of a fused one."""

    name: str
    kind: str
    parts: tuple[str, ...] = field(default=())


_ATTENTION = {f"attn.{name}": (1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")}
_TEXT_ATTENTION = {f"attn.{name}": (1, 1) for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")}
_EMBEDDER = {"time_text_embed.timestep_embedder.linear_1": (1, 0), "time_text_embed.timestep_embedder.linear_2": (1, 1)}
_QKV, _ADDED_QKV = (tuple(name for name in names if "out" not in name) for names in (_ATTENTION, _TEXT_ATTENTION))
# Names of fused layers: diffusers' fuse_projections (to_qkv, to_added_qkv), nunchaku (add_qkv_proj), plain qkv.
_FUSED_QKV = {f"attn.{name}": _QKV for name in ("to_qkv", "qkv", "qkv_proj")}
_FUSED_ADDED = {f"attn.{name}": _ADDED_QKV for name in ("to_added_qkv", "add_qkv_proj", "added_qkv")}
_FUSED_KV = {f"attn.{name}": _QKV[1:] for name in ("to_kv", "kv", "kv_proj")}
_FUSED_ADDED_KV = {f"attn.{name}": _ADDED_QKV[1:] for name in ("to_added_kv", "add_kv_proj", "added_kv")}
_GATE_UP = ("img_mlp.gate_layer", "img_mlp.proj")  # ComfyUI's rows: gate first, then proj
_EMPTY_TOP = (
    "pos_embed", "time_text_embed", "time_text_embed.time_proj", "time_text_embed.timestep_embedder",
    "time_text_embed.timestep_embedder.act", "norm_out", "norm_out.silu", "norm_out.norm",
)  # fmt: skip
QWEN_IMAGE = Family(
    "Qwen-Image",
    {
        **_ATTENTION,
        **_TEXT_ATTENTION,
        **{f"{stream}_mlp.net.0.proj": (4, 1) for stream in ("img", "txt")},
        **{f"{stream}_mlp.net.2": (1, 4) for stream in ("img", "txt")},
        **{f"{stream}_mod.1": (6, 1) for stream in ("img", "txt")},
    },
    {**_EMBEDDER, "img_in": (1, 0), "txt_in": (1, 0), "norm_out.linear": (2, 1), "proj_out": (0, 1)},
    norms=tuple(f"attn.{name}" for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")),
    top_norms=("txt_norm",),
    empty=(
        "attn", "attn.to_out", "attn.to_out.1",
        *(f"{stream}_{name}" for stream in ("img", "txt")
          for name in ("mod", "mod.0", "norm1", "norm2", "mlp", "mlp.net", "mlp.net.0", "mlp.net.1")),
    ),
    top_empty=_EMPTY_TOP,
    fused=_FUSED_QKV | _FUSED_ADDED | _FUSED_KV | _FUSED_ADDED_KV,
    biases=True,
)  # fmt: skip
QWEN_IMAGE_21 = Family(
    "Qwen-Image-2.1",
    {**_ATTENTION, "img_mlp.proj": (3, 1), "img_mlp.gate_layer": (3, 1), "img_mlp.out": (1, 3)},
    {
        **_EMBEDDER,
        "img_in": (1, 0),
        "txt_in.in_layer": (1, 0),
        "txt_in.out_layer": (1, 1),
        "modulation.1": (4, 1),
        "norm_out.linear": (1, 1),
        "proj_out": (0, 1),
    },
    norms=("attn.norm_q", "attn.norm_k"),
    top_norms=("txt_in.text_norm",),
    empty=(
        "attn", "attn.to_out", "attn.to_out.1", "img_norm1", "img_norm2", "img_mlp", "img_mlp.activation_fn",
    ),
    top_empty=(*_EMPTY_TOP, "txt_in", "txt_in.act", "modulation", "modulation.0"),
    fused=_FUSED_QKV | _FUSED_KV | dict.fromkeys(("img_mlp.gate_up", "img_mlp.gate_up_proj"), _GATE_UP),
    biases=False,
)  # fmt: skip
FAMILIES = (QWEN_IMAGE, QWEN_IMAGE_21)

# Qwen-Image-Edit and -Layered are of the same class and size as Qwen-Image: shapes cannot tell them apart.
MODELS = (
    Model("Qwen-Image", QWEN_IMAGE, 3072, 60),
    Model("Qwen-Image-2.1", QWEN_IMAGE_21, 4096, 32),
    Model("micro", QWEN_IMAGE, 192, 6),
)
# Other models whose attention layers have Qwen-Image's names: (width, blocks) by name.
LOOKALIKES = {
    "FLUX.1": (3072, 19),
    "Chroma": (3072, 19),
    "Bria": (3072, 19),
    "LongCat-Image": (3072, 19),
    "HunyuanVideo": (3072, 20),
    "Ovis-Image": (3072, 6),
    "FLUX.2 klein 4B": (3072, 5),
    "FLUX.2 klein 9B": (4096, 8),
    "FLUX.2": (6144, 8),
    "HunyuanImage": (3584, 20),
    "HunyuanVideo-1.5": (2048, 54),
    "Stable Diffusion 3 medium": (1536, 24),
    "Stable Diffusion 3.5 large": (2432, 38),
}
# What these have in common with Qwen-Image, inside a block and outside.
SHARED_NAMES = (*_ATTENTION, *_TEXT_ATTENTION, *_EMBEDDER, "norm_out.linear", "proj_out")


def block_of(layer: str) -> int | None:
    """Number of the block that a layer belongs to; None outside the blocks."""
    return int(layer.split(".")[1]) if layer.startswith("transformer_blocks.") else None


def without_block(layer: str) -> str:
    """`attn.to_q` for `transformer_blocks.0.attn.to_q`; other names as they are."""
    return layer.split(".", 2)[2] if layer.startswith("transformer_blocks.") else layer


def width_in(family: Family, layer: str, shape: tuple[int, int]) -> int | None:
    """The width w that a layer of this (d, k) means in `family`; None when its shape is impossible there, 0 when it
    says nothing about w. Raises KeyError when the family has no such layer."""
    units = (family.block if block_of(layer) is not None else family.top)[without_block(layer)]
    widths = {size / unit for size, unit in zip(shape, units, strict=True) if unit}
    if len(widths) > 1 or any(width % 1 for width in widths):
        return None
    return int(widths.pop()) if widths else 0


def kind_in(family: Family, layer: str) -> str | None:
    """ "linear", "norm", "fused" or "empty": what `layer` is in this family; None when it has no such module."""
    return _kinds(family, block=block_of(layer) is not None).get(without_block(layer))


def find_place(name: str, *, flat: bool = False) -> Place | None:
    """The module that exactly this name means in some Qwen-Image, or None.

    flat: underscores in place of dots, as kohya writes; `transformer_blocks_0_attn_to_out_0` is
    `transformer_blocks.0.attn.to_out.0`. The name of a Place has dots.
    """
    separator = "_" if flat else r"\."
    match = re.fullmatch(rf"transformer_blocks{separator}(0|[1-9]\d{{0,2}}){separator}(.+)", name)
    known = (_BLOCK_PLACES if match else _TOP_PLACES)[flat].get(match[2] if match else name)
    if known is None or not match:
        return known
    start = f"transformer_blocks.{match[1]}."
    return Place(start + known.name, known.kind, tuple(start + part for part in known.parts))


def _kinds(family: Family, *, block: bool) -> dict[str, str]:
    """Kinds of all names inside the blocks or outside them."""
    if block:
        names = {"empty": family.empty, "norm": family.norms, "fused": family.fused, "linear": family.block}
    else:
        names = {"empty": family.top_empty, "norm": family.top_norms, "linear": family.top}
    return {name: kind for kind, group in names.items() for name in group}


def _places(*, block: bool) -> dict[bool, dict[str, Place]]:
    """Places by their names in a file, with dots (False) or flat (True). No two names become one."""
    found: dict[str, Place] = {}
    for family in FAMILIES:
        for name, kind in _kinds(family, block=block).items():
            if name not in found or kind == "linear":  # txt_in is a layer of one family and a container in the other
                found[name] = Place(name, kind, family.fused.get(name, ()))
    return {
        flat: {name.replace(".", "_") if flat else name: place for name, place in found.items()}
        for flat in (False, True)
    }


_BLOCK_PLACES, _TOP_PLACES = _places(block=True), _places(block=False)
