"""Names of LoRA tensors: which layer a key belongs to, in which layout, for which model. No tensor is touched here.

A key is `<prefix><layer>.<factor>`. Trainers disagree on all three:

    transformer.transformer_blocks.0.attn.to_q.lora_A.weight      diffusers, Unsloth
    diffusion_model.transformer_blocks.0.attn.to_q.lora_A.weight  ai-toolkit, diffusion-pipe
    lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight     kohya, musubi-tuner (dots become underscores)
    transformer_blocks.0.attn.to_q.lora_A.default.weight          DiffSynth-Studio (peft's adapter name stays in)

Factors: A is (r, k), B is (d, r). d outputs, k inputs, r rank, w the model's width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# What stands before the layer's name, and what the layout is called.
DOTTED_PREFIXES = {
    "transformer.base_model.model.": "peft inside diffusers",
    "model.diffusion_model.": "checkpoint",
    "base_model.model.": "peft",
    "diffusion_model.": "ComfyUI",
    "transformer.": "diffusers",
    "": "bare",
}
FLAT_PREFIXES = {"lora_unet_": "kohya", "lora_transformer_": "OneTrainer", "lycoris_": "LyCORIS"}
PREFIXES = DOTTED_PREFIXES | FLAT_PREFIXES

_TEXT_ENCODER = re.compile(
    r"text_encoders?(_\d)?\.|lora_te\d?_|(base_model\.model\.)?(model\.)?(language_model\.)?(model\.)?layers\.\d+\."
    r"(self_attn|mlp)\."
)
# The end of a key. In each pattern, `layer` is what precedes it (with the prefix).
_ENDINGS = (
    ("bias", r"(?P<layer>.+)\.(lora_B|lora_up)(\.[^.]+)?\.bias"),
    ("A", r"(?P<layer>.+?)\.lora(_A|_down|\.down|_linear_layer\.down)(?P<rest>\.[^.]+)?(\.weight)?"),
    ("B", r"(?P<layer>.+?)\.lora(_B|_up|\.up|_linear_layer\.up)(?P<rest>\.[^.]+)?(\.weight)?"),
    ("alpha", r"(?P<layer>.+)\.alpha"),
    ("DoRA", r"(?P<layer>.+)\.(dora_scale|lora_magnitude_vector)(?P<rest>\.[^.]+)?(\.weight)?"),
    ("LoKr", r"(?P<layer>.+)\.lokr_(w1|w2|t2)(_a|_b)?(?P<rest>\.[^.]+)?"),
    ("LoHa", r"(?P<layer>.+)\.hada_(w1|w2|t1|t2)(_a|_b)?(?P<rest>\.[^.]+)?"),
    ("OFT", r"(?P<layer>.+)\.oft_\w+(?P<rest>\.[^.]+)?(\.weight)?"),
    ("full difference", r"(?P<layer>.+)\.(diff|diff_b|set_weight|w_norm|b_norm)"),
)  # fmt: skip
_PATTERNS = tuple((role, re.compile(pattern)) for role, pattern in _ENDINGS)


@dataclass(frozen=True)
class Family:
    """Linear layers of a model family: (d, k) in units of the width w; 0 where the size does not follow from w."""

    name: str
    block: Mapping[str, tuple[int, int]]
    top: Mapping[str, tuple[int, int]]


_ATTENTION = {f"attn.{name}": (1, 1) for name in ("to_q", "to_k", "to_v", "to_out.0")}
_TEXT_ATTENTION = {f"attn.{name}": (1, 1) for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")}
_EMBEDDER = {"time_text_embed.timestep_embedder.linear_1": (1, 0), "time_text_embed.timestep_embedder.linear_2": (1, 1)}
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
)
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
)
FAMILIES = (QWEN_IMAGE, QWEN_IMAGE_21)


@dataclass(frozen=True)
class Model:
    """A published size of a family."""

    name: str
    family: Family
    width: int
    blocks: int


# Qwen-Image-Edit is of the same class and size as Qwen-Image: a LoRA file cannot tell them apart.
MODELS = (
    Model("Qwen-Image", QWEN_IMAGE, 3072, 60),
    Model("Qwen-Image-2.1", QWEN_IMAGE_21, 4096, 32),
    Model("micro", QWEN_IMAGE, 192, 6),
)
# Own names by the names in a file: with dots (False) or flat (True). No two names become one.
_BLOCK_LAYERS, _TOP_LAYERS = (
    {flat: {name.replace(".", "_") if flat else name: name for name in names} for flat in (False, True)}
    for names in ([n for f in FAMILIES for n in f.block], [n for f in FAMILIES for n in f.top])
)


@dataclass(frozen=True)
class Key:
    """A key taken apart. role: A, B, alpha, bias, DoRA, LoKr, LoHa, OFT, full difference, or "unknown".

    layer: the module's own name, such as `transformer_blocks.0.attn.to_q`; None when no Qwen-Image has it.
    stem: prefix and layer as written in the file. style: how the file names the factor. adapter: peft's name or "".
    """

    text: str
    role: str
    prefix: str
    layer: str | None
    stem: str
    style: str = ""
    adapter: str = ""
    text_encoder: bool = False


def parse_key(text: str) -> Key:
    """Take the name of one tensor apart; never raises."""
    for role, pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            groups = match.groupdict()
            stem = groups["layer"]
            rest = (groups.get("rest") or "").removeprefix(".")
            adapter = "" if rest == "weight" else rest
            # ".weight" or not is part of the style: readers look for the exact ending
            style = text[len(stem) :] if role in ("A", "B", "DoRA") else ""
            break
    else:
        role, stem, style, adapter = "unknown", text, "", ""
    prefix = find_prefix(stem)
    layer = own_name(stem[len(prefix) :], flat=prefix in FLAT_PREFIXES)
    text_encoder = layer is None and role != "unknown" and bool(_TEXT_ENCODER.match(text))
    return Key(text, role, prefix, layer, stem, style, adapter, text_encoder)


def find_prefix(stem: str) -> str:
    """The known prefix of a name; "" for a bare one."""
    return next(prefix for prefix in sorted(PREFIXES, key=len, reverse=True) if stem.startswith(prefix))


def own_name(name: str, *, flat: bool) -> str | None:
    """The module's name in the model, exactly, or None: `transformer_blocks_0_attn_to_out_0` (flat) is
    `transformer_blocks.0.attn.to_out.0`."""
    separator = "_" if flat else r"\."
    match = re.fullmatch(rf"transformer_blocks{separator}(0|[1-9]\d{{0,2}}){separator}(.+)", name)
    if match:
        layer = _BLOCK_LAYERS[flat].get(match[2])
        return layer and f"transformer_blocks.{match[1]}.{layer}"
    return _TOP_LAYERS[flat].get(name)


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
