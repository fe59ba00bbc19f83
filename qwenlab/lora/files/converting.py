"""Tensors of a LoRA file under the names of a layout, and what the layout cannot hold."""

from __future__ import annotations

import numpy as np

from qwenlab.errors import QwenlabError
from qwenlab.lora.files.adapters import Layer
from qwenlab.lora.files.differences import convert_biases, convert_matrices
from qwenlab.lora.files.header import Stored, TensorFile, check_finite, lossless
from qwenlab.lora.files.layouts import stem_in
from qwenlab.lora.files.leftovers import (
    ADAPTER_MAGNITUDE,
    ADAPTERS,
    BIAS,
    BIAS_OF_LORA,
    HARMLESS,
    MATRIX,
    NORM,
    SET,
    UNKNOWN,
    WHOLE,
    Group,
)
from qwenlab.lora.files.reading import LoraFile, is_per_output

_COMFYUI_KEEPS = "a LoRA of diffusers has no place for them, --format comfyui keeps them"
_WHY = {
    NORM: _COMFYUI_KEEPS,
    SET: _COMFYUI_KEEPS,
    BIAS_OF_LORA: "this model has no biases, and only diffusers adds some",
    UNKNOWN: "no reader is known for them",
    WHOLE: "they are weights, not an update",
    "trained embeddings": "part of the text encoder's vocabulary; ComfyUI reads them from its embeddings folder",
    "LoKr": "a Kronecker product has no small A and B; --format comfyui keeps it, the doctor says what else reads it",
    "LoHa": "a Hadamard product has no small A and B; --format comfyui keeps it",
    **dict.fromkeys(("OFT", "GLoRA"), "it is no low-rank product; --format comfyui keeps it"),
    ADAPTER_MAGNITUDE: "they belong to an adapter that no LoRA of diffusers holds; --format comfyui keeps them",
    "IA3": "no reader of Qwen-Image applies it",
    **dict.fromkeys(HARMLESS, "without effect on the model"),
}


_COMFYUI_KNOWS = {NORM, SET, ADAPTER_MAGNITUDE, *ADAPTERS} - {"IA3"}


def convert(lora: LoraFile, file: TensorFile, layout: str) -> tuple[dict[str, Stored], list[str]]:
    """The tensors of `lora` in a layout of FORMATS, and sentences on what is left out.

    Raises QwenlabError for NaN and infinity, and for magnitudes of DoRA that the layout cannot hold.
    """
    _check_magnitudes(lora, layout)
    tensors: dict[str, Stored] = {}
    for name, layer in lora.layers.items():
        tensors |= _layer(lora, file, name, layer, layout)
    left = []
    biases = [key for group in lora.groups if group.what in (BIAS, BIAS_OF_LORA) for key in group.keys]
    for group in lora.groups:
        if group.what == MATRIX:
            tensors |= convert_matrices(lora, file, group.keys, layout)
        elif group.what in _COMFYUI_KNOWS and layout != "diffusers":
            tensors |= _renamed(lora, file, group, layout)
        elif group.what not in (BIAS, BIAS_OF_LORA) or not (layout == "diffusers" or lora.family.biases):
            left.append(f"{group}: {_zero(file, group) or _WHY.get(group.what, 'the model has no place for them')}")
    if layout == "diffusers" or lora.family.biases:
        added, lost = convert_biases(lora, file, biases, layout, tensors)
        tensors |= added
        left += lost
    return tensors, left


def _layer(lora: LoraFile, file: TensorFile, name: str, layer: Layer, layout: str) -> dict[str, Stored]:
    """The tensors of one LoRA layer."""
    a_dtype, b_dtype = (lora.index[key.text][0] for key in (layer.a, layer.b))
    a, b = file.array(layer.a.text), file.array(layer.b.text)
    check_finite(lora.path, name, a, b)
    b = b[slice(*layer.rows)] if layer.rows else b
    stem, scaling = stem_in(name, layout, lora.family), layer.scaling
    if layout == "diffusers":
        scaled = a if scaling == 1 else a.astype(np.float64) * scaling
        tensors = {
            f"{stem}.lora_A.weight": Stored.of(scaled, lossless(a_dtype, scaling)),
            f"{stem}.lora_B.weight": Stored.of(b, lossless(b_dtype, 1.0)),
        }
    else:
        if scaling < 0:  # diffusers' loader never ends on an alpha below zero
            b, scaling = -b, -scaling
        down, up = ("lora_down", "lora_up") if layout == "kohya" else ("lora_A", "lora_B")
        alpha = np.array(scaling * layer.rank)
        tensors = {
            f"{stem}.{down}.weight": Stored.of(a, lossless(a_dtype, scaling)),
            f"{stem}.{up}.weight": Stored.of(b, lossless(b_dtype, scaling)),
            f"{stem}.alpha": Stored.of(alpha, "F32" if np.float32(alpha) == alpha else "F64"),
        }
    if layer.magnitude:
        values = file.array(layer.magnitude.text).reshape(-1)
        check_finite(lora.path, layer.magnitude.text, values)
        outputs = is_per_output(lora, layer)
        values = values[slice(*layer.rows)] if layer.rows and outputs else values
        if layout == "diffusers":
            tensors[f"{stem}.lora_magnitude_vector"] = Stored.of(values)
        else:
            tensors[f"{stem}.dora_scale"] = Stored.of(values.reshape((-1, 1) if outputs else (1, -1)))
    return tensors


def _check_magnitudes(lora: LoraFile, layout: str) -> None:
    layers = [layer for layer in lora.layers.values() if layer.magnitude]
    if layout != "diffusers" or not layers:
        return
    if len(layers) < len(lora.layers):
        raise QwenlabError(
            f"{lora.path}: DoRA is not rewritten for diffusers, {len(lora.layers) - len(layers)} layers have no "
            "magnitudes and peft wants them for all; use --format comfyui"
        )
    if not all(is_per_output(lora, layer) for layer in layers):
        raise QwenlabError(
            f"{lora.path}: DoRA is not rewritten for diffusers, its magnitudes are one for each input and peft knows "
            "one for each output; use --format comfyui"
        )


def _renamed(lora: LoraFile, file: TensorFile, group: Group, layout: str) -> dict[str, Stored]:
    """Tensors that ComfyUI knows, as they are, under the layout's names; alphas of adapters go with them."""
    endings = {".w_norm": ".diff"}
    alphas = {key.stem: key for key in lora.alphas}
    tensors = {}
    for key in group.keys:
        ending = key.text[len(key.stem) :]
        stem = stem_in(key.layer, layout, lora.family)
        tensors[stem + endings.get(ending, ending)] = file.stored(key.text)
        if group.what in ADAPTERS and key.stem in alphas:
            tensors[f"{stem}.alpha"] = file.stored(alphas[key.stem].text)
    return tensors


def _zero(file: TensorFile, group: Group) -> str:
    """A sentence when every number of a group of differences is zero."""
    zero = group.what in (NORM, BIAS, MATRIX) and not any(file.array(key.text).any() for key in group.keys)
    return "all zero, so that nothing is lost" if zero else ""
