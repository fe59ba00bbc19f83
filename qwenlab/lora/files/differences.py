"""Trained biases and whole matrices of a LoRA file, in a layout: the same update, exactly.

ComfyUI and LyCORIS add `<layer>.diff` to a weight and `<layer>.diff_b` to a bias. peft has no whole differences, but a
LoRA of full rank, one factor of which is the identity, is one; and it has `lora_B.bias`, for all layers of an adapter
or for none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qwenlab.errors import QwenlabError
from qwenlab.lora.files.architecture import block_of, without_block
from qwenlab.lora.files.header import Stored, TensorFile, check_finite, lossless
from qwenlab.lora.files.layouts import Key, stem_in
from qwenlab.lora.files.reading import LoraFile


def convert_matrices(lora: LoraFile, file: TensorFile, keys: Sequence[Key], layout: str) -> dict[str, Stored]:
    """Differences of whole matrices: `.diff` for ComfyUI, a LoRA of full rank for diffusers.

    Raises QwenlabError for what is no matrix, for NaN, and for a layer that has a LoRA as well.
    """
    found: dict[str, Stored] = {}
    for key in keys:
        whole, dtype = file.array(key.text), lossless(lora.index[key.text][0], 1.0)
        pieces = key.place.parts or (key.layer,)
        if whole.ndim != 2 or len(whole) % len(pieces):
            raise QwenlabError(f"{lora.path}: {key.text!r} has the shape {whole.shape} and is no matrix of this layer")
        check_finite(lora.path, key.text, whole)
        for name, matrix in zip(pieces, np.split(whole, len(pieces)), strict=True):
            stem, (d, k) = stem_in(name, layout, lora.family), matrix.shape
            if name in lora.layers or f"{stem}.diff" in found or f"{stem}.lora_A.weight" in found:
                raise QwenlabError(
                    f"{lora.path}: {name!r} has a full difference beside another update, of which readers take one; "
                    "split the file"
                )
            if layout != "diffusers":
                found[f"{stem}.diff"] = Stored.of(matrix, dtype)
                continue
            a, b = (np.eye(k), matrix) if k <= d else (matrix, np.eye(d))
            found |= {f"{stem}.lora_A.weight": Stored.of(a, dtype), f"{stem}.lora_B.weight": Stored.of(b, dtype)}
    return found


def convert_biases(
    lora: LoraFile, file: TensorFile, keys: Sequence[Key], layout: str, taken: Mapping[str, Stored]
) -> tuple[dict[str, Stored], list[str]]:
    """What is added to biases: `.diff_b` for ComfyUI, `lora_B.bias` for diffusers; and sentences on what is left out.

    taken: the layers' tensors before. A bias of LoRA factors counts `scaling` times, as the factors do. Raises
    QwenlabError for NaN.
    """
    biases = _add_up(lora, file, keys)
    if layout != "diffusers" or not biases:
        return {f"{stem_in(n, layout, lora.family)}.diff_b": Stored.of(bias) for n, bias in biases.items()}, []
    found = {
        name.removesuffix("weight") + "bias": Stored.of(np.zeros(stored.shape[0]))
        for name, stored in taken.items()
        if name.endswith(".lora_B.weight")
    }
    left = []
    for name, bias in biases.items():
        stem = stem_in(name, layout, lora.family)
        if f"{stem}.lora_B.weight" not in taken:  # the bias alone was trained: a LoRA of zeros carries it
            inputs = _inputs(lora, name)
            if not inputs:
                left.append(f"the bias of {name}: a LoRA needs the number of its inputs, which the file does not tell")
                continue
            found[f"{stem}.lora_A.weight"] = Stored.of(np.zeros((1, inputs)))
            found[f"{stem}.lora_B.weight"] = Stored.of(np.zeros((len(bias), 1)))
        found[f"{stem}.lora_B.bias"] = Stored.of(bias)
    return found, left


def _add_up(lora: LoraFile, file: TensorFile, keys: Sequence[Key]) -> dict[str, np.ndarray]:
    """The sum of all biases of each layer, in float64."""
    biases: dict[str, np.ndarray] = {}
    for key in keys:
        values = file.array(key.text).astype(np.float64).reshape(-1)
        check_finite(lora.path, key.text, values)
        pieces = key.place.parts or (key.layer,)
        for name, piece in zip(pieces, np.array_split(values, len(pieces)), strict=True):
            layer = lora.layers.get(name)
            if layer and len(piece) != layer.shape[0]:
                raise QwenlabError(
                    f"{lora.path}: {key.text!r} has {len(piece)} numbers, the layer has {layer.shape[0]} outputs; "
                    "the file is not whole"
                )
            scaling = layer.scaling if layer and key.role == "bias" else 1.0
            biases[name] = biases.get(name, 0.0) + scaling * piece
    return biases


def _inputs(lora: LoraFile, name: str) -> int:
    """The number of a layer's inputs, 0 where it does not follow from the model's width."""
    units = (lora.family.block if block_of(name) is not None else lora.family.top)[without_block(name)][1]
    return units * lora.width
