"""What ComfyUI does with a LoRA file as it is. It is not executed: the answer follows from its source.

comfy/lora.py (`model_lora_keys_unet`, `load_lora`), comfy/lora_convert.py and comfy/weight_adapter of Comfy-Org/ComfyUI
at 2bffe2f (autumn 2026). A key that it does not know is reported in its log and passed over.
"""

from __future__ import annotations

import re

from qwenlab.lora.files.adapters import Layer
from qwenlab.lora.files.architecture import without_block
from qwenlab.lora.files.layouts import Key
from qwenlab.lora.files.leftovers import ADAPTER_MAGNITUDE, ADAPTERS, BIAS, MATRIX, NORM, SET, Group
from qwenlab.lora.files.reading import LoraFile
from qwenlab.lora.files.verdict import Verdict, named, split_harmless, strength

READER = "ComfyUI (from its source, not executed)"
_PREFIXES = ("", "transformer.", "diffusion_model.", "lora_unet_", "lycoris_")
# Qwen-Image-2.1's gate and projection are one matrix there: the halves have fewer names, and so has the whole.
_HALVES, _HALVES_PREFIXES = ("img_mlp.proj", "img_mlp.gate_layer"), ("", "transformer.", "lycoris_")
_WHOLE_PREFIXES = ("diffusion_model.", "lora_unet_")
_STYLES = {
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_A", ".lora_B"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
}
_SPLIT_STYLES = {(".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")}
_TEXT_ENCODER = re.compile(r"text_encoders\.(qwen\w+\.)?transformer\.model\.layers\.\d+\.|lora_te_layers_\d+_")
_TAKEN = {MATRIX, NORM, BIAS, SET, ADAPTER_MAGNITUDE, *ADAPTERS} - {"IA3"}
_EXACT = 1e-5


def ask_comfyui(lora: LoraFile) -> Verdict:
    """What ComfyUI's source says of the keys; the label is part of the answer."""
    loaded = {name: layer for name, layer in lora.layers.items() if _knows_layer(layer)}
    known, passed = _sort_groups(lora)
    lost, harmless = split_harmless(passed)
    notes = []
    text_encoder = all(_TEXT_ENCODER.match(key.text) for key in lora.text_encoder)
    if lora.text_encoder:
        notes.append(
            "the text encoder's part is loaded with its CLIP input"
            if text_encoder
            else "the text encoder's part is not loaded"
        )
    if any(layer.rows and layer.a.layer.endswith("attn.to_qkv") for layer in loaded.values()):
        notes.append("attn.to_qkv is split by ComfyUI itself; one of before autumn 2026 passes over it")
    if harmless:
        notes.append(f"passed over, without effect: {named(harmless)}")
    outcome, detail = _judge(lora, loaded, known, lost, text_encoder)
    return Verdict(READER, outcome, "; ".join(filter(None, [detail, *notes])))


def _judge(
    lora: LoraFile, loaded: dict[str, Layer], known: list[Group], lost: list[Group], text_encoder: bool
) -> tuple[str, str]:
    if not loaded and not known and not (lora.text_encoder and text_encoder):
        return "loads nothing", "every key is reported as not loaded"
    missing = [name for name in lora.layers if name not in loaded]
    lost_parts = [f"{len(missing)} of {len(lora.layers)} layers ({missing[0]}, ...)"] if missing else []
    lost_parts += [str(group) for group in lost]
    lost_parts += [f"{len(lora.text_encoder)} tensors of the text encoder"] if not text_encoder else []
    if overridden := sorted(
        {key.layer for group in known if group.what in (MATRIX, SET) for key in group.keys} & set(loaded)
    ):
        lost_parts.append(f"the LoRA of {overridden[0]}, in whose place the difference of the whole matrix is put")
    if lost_parts:
        return "loads a part", f"not loaded, and reported as such: {', '.join(lost_parts)}"
    if any(m.style != ".dora_scale" or m.stem != layer.a.stem for layer in loaded.values() if (m := layer.magnitude)):
        return "drops DoRA", "it knows dora_scale only; the low-rank part alone is applied"
    if sentence := _wrong_lengths(lora, loaded, known):
        return "wrong scale", sentence
    ignored = [
        name for name, layer in loaded.items() if layer.alpha_from != "tensors" and abs(layer.scaling - 1) > _EXACT
    ]
    if ignored:
        return "ignores alpha", strength(lora.layers, dict.fromkeys(ignored, 1.0))
    return "works", ""


def _wrong_lengths(lora: LoraFile, loaded: dict[str, Layer], known: list[Group]) -> str:
    """A sentence where ComfyUI's `weight_decompose` is not DoRA, "" where it is (lengths of columns, one an input).

    For lengths of rows it computes m (W + BA) / |W| in place of m (W + BA) / |W + BA| (pull request 15458 was open in
    August 2026), and a vector, shape (d,), is multiplied along the wrong axis.
    """
    sizes = [(layer.magnitude, lora.index[layer.b.text][1][0]) for layer in loaded.values() if layer.magnitude]
    for group in known:
        if group.what == ADAPTER_MAGNITUDE:
            sizes += [(key, lora.adapters[key.layer].shape[0]) for key in group.keys if key.layer in lora.adapters]
    shapes = [(lora.index[key.text][1], outputs) for key, outputs in sizes]
    if any(len(shape) < 2 for shape, _ in shapes):
        return "it multiplies lengths of DoRA that have one axis along the inputs, or fails"
    if any(shape[0] == outputs for shape, outputs in shapes):
        return (
            "DoRA with one length for each output is not computed as trained: it divides by the rows' lengths before "
            "the update, not after it, so that the strength is off by their ratio"
        )
    return ""


def _knows_layer(layer: Layer) -> bool:
    key = layer.a
    if not _knows_name(key) or key.stem != layer.b.stem:
        return False
    style = (key.style, layer.b.style)
    if layer.rows and key.layer.endswith("attn.to_qkv"):
        return style in _SPLIT_STYLES
    return style in _STYLES


def _knows_name(key: Key) -> bool:
    """Whether ComfyUI has this module under this prefix."""
    name = without_block(key.layer)
    if name in _HALVES:
        return key.prefix in _HALVES_PREFIXES
    if key.place.kind == "fused":
        if name == "attn.to_qkv":
            return key.prefix in _PREFIXES
        return name == "img_mlp.gate_up" and key.prefix in _WHOLE_PREFIXES
    return key.prefix in _PREFIXES


def _knows_key(key: Key) -> bool:
    """Whether a tensor that is no factor of a LoRA is applied."""
    if key.adapter or not _knows_name(key):
        return False
    if key.role == "OFT":
        return key.text.endswith((".oft_blocks", ".rescale"))
    return key.role != "full difference" or not key.layer.endswith("attn.to_qkv")


def _sort_groups(lora: LoraFile) -> tuple[list[Group], list[Group]]:
    """Groups of tensors that are loaded besides the LoRA, and groups that are passed over."""
    known, passed = [], []
    for group in lora.groups:
        takes = group.what in _TAKEN
        split = {True: [], False: []}
        for key in group.keys:
            split[takes and _knows_key(key)].append(key)
        known += [Group(group.what, tuple(split[True]))] if split[True] else []
        passed += [Group(group.what, tuple(split[False]))] if split[False] else []
    return known, passed
