"""A LoRA file as its header describes it, every tensor accounted for; numbers are read only where they decide.

What a file *means* is `scaling * B A` for each layer. The scaling is alpha / rank (alpha / sqrt(rank) for
rank-stabilised LoRA), and alpha hides in one of four places: tensors `<layer>.alpha`, the metadata entry
`lora_adapter_metadata` (diffusers), `adapter_config.json` beside the file (peft), or nowhere, which every reader takes
for alpha = rank. A fused layer's B holds the rows of several layers, which share A and alpha.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qwenlab.errors import QwenlabError
from qwenlab.lora.files.adapters import Adapter, Layer, adapter_shapes, read_adapters
from qwenlab.lora.files.architecture import Family, Model, block_of
from qwenlab.lora.files.fitting import check_strangers, doubts_about, fit
from qwenlab.lora.files.header import DTYPES, TensorFile, open_safely
from qwenlab.lora.files.identity import read_claims
from qwenlab.lora.files.layouts import Key, parse_key
from qwenlab.lora.files.leftovers import ADAPTERS, Group, groups

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers' name of the entry with peft's configuration
_PEFT_FILE = "adapter_model.safetensors"  # as peft's save_pretrained calls it, with adapter_config.json beside it


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file as its header describes it. layers: by the module's own name, block after block.

    text_encoder: keys for the text encoder. others: keys that are no factor of a layer (LoKr, biases, embeddings, ...).
    alphas: the keys of alphas that belong to a layer. adapters: what changes a layer without being a LoRA, by the
    layer's name; their keys are among the others. width, blocks: of the model it was trained for; model is None
    when no published model has this width. base: the variant of Qwen-Image that the metadata names, or "". doubts:
    sentences on what does not go together.
    """

    path: Path
    layers: Mapping[str, Layer]
    text_encoder: tuple[Key, ...]
    others: tuple[Key, ...]
    alphas: tuple[Key, ...]
    adapters: Mapping[str, Adapter]
    metadata: Mapping[str, str]
    configuration: Mapping
    family: Family
    model: Model | None
    width: int
    blocks: int
    base: str
    doubts: tuple[str, ...]
    index: Mapping[str, tuple[str, tuple[int, ...]]] = field(repr=False)  # key -> dtype, shape

    @property
    def groups(self) -> list[Group]:
        """The tensors that are no factors, sorted."""
        return groups(self.others, self.family)

    @property
    def kinds(self) -> list[str]:
        """What the file holds: "LoRA", "DoRA", "LoKr", "differences of norms", ... in this order."""
        plain = any(layer.magnitude is None for layer in self.layers.values())
        dora = any(layer.magnitude for layer in self.layers.values())
        return ["LoRA"] * plain + ["DoRA"] * dora + sorted(group.what for group in self.groups)


def read_lora(path: str | Path) -> LoraFile:
    """Read the header of a LoRA file and the few numbers that decide its scaling.

    Raises QwenlabError (one line) for a missing, truncated, pickled or huge-header file, for a file without a LoRA,
    for a LoRA of another model, by its layers or by its metadata, for a factor without its partner and for two LoRAs
    of one layer.
    """
    path = Path(path)
    file = TensorFile(path)
    keys = [parse_key(name) for name in file.keys]
    alphas = {key.stem: _alpha(file, key) for key in keys if _is_alpha(key, file.index)}
    text_encoder = tuple(key for key in keys if key.text_encoder)
    rest = [key for key in keys if not key.text_encoder]
    check_strangers(path, rest, bool(text_encoder))
    configuration, source = _configuration(path, file.metadata)
    layers = _layers(path, rest, file.index, alphas, configuration, source)
    taken = {key.text for layer in layers.values() for key in (layer.a, layer.b, layer.magnitude) if key}
    adapted = {key.stem for key in rest if key.text in taken or key.role in ADAPTERS}
    counted = tuple(key for key in rest if key.role == "alpha" and key.stem in alphas and key.stem in adapted)
    others = [key for key in rest if key.text not in taken and key not in counted]
    adapters = read_adapters(others, file.index)
    shapes = {name: layer.shape for name, layer in layers.items()} | adapter_shapes(adapters)
    beside = {source: configuration} if source and source != "metadata" else {}  # the metadata's is read with the rest
    claims = read_claims({**file.metadata, **beside})
    fitted = fit(path, shapes, others, claims, configuration)
    doubts = doubts_about(fitted, claims, configuration, file.metadata, layers) + _incomplete(others, adapters)
    doubts += [] if configuration else _doubt_beside(path, layers)
    return LoraFile(
        path,
        layers,
        text_encoder,
        tuple(others),
        counted,
        adapters,
        file.metadata,
        configuration,
        fitted.family,
        fitted.model,
        fitted.width,
        fitted.blocks,
        fitted.base,
        tuple(doubts),
        file.index,
    )


@contextmanager
def open_tensors(path: Path) -> Iterator:
    """The file as safetensors' `safe_open` for torch. Raises QwenlabError as `TensorFile`."""
    with open_safely(path, "pt") as file:
        yield file


def read_factors(file, layer: Layer) -> tuple[Tensor, Tensor]:
    """A (r, k) and B (d, r) of a layer from a file open for torch, in the file's dtype."""
    b = file.get_tensor(layer.b.text)
    return file.get_tensor(layer.a.text), b if layer.rows is None else b[slice(*layer.rows)]


def is_per_output(lora: LoraFile, layer: Layer) -> bool:
    """Whether DoRA's magnitudes are one for each output, as peft's, or one for each input, as OneTrainer's default."""
    shape, outputs = lora.index[layer.magnitude.text][1], lora.index[layer.b.text][1][0]
    return shape[0] == outputs if len(shape) > 1 else math.prod(shape) == outputs


def _incomplete(others: list[Key], adapters: Mapping[str, Adapter]) -> list[str]:
    """Sentences on LoKr and LoHa of which a factor is missing, or fits no other."""
    found = dict.fromkeys(
        (key.role, key.layer)
        for key in others
        if key.role in ("LoKr", "LoHa") and key.layer not in adapters and not re.search(r"_t[12]\b", key.text)
        and key.place and key.place.kind in ("linear", "fused")
    )  # fmt: skip
    return [f"the {role} of {layer} lacks a factor, or has one of another size" for role, layer in found]


def _is_alpha(key: Key, index: Mapping) -> bool:
    return key.role == "alpha" and math.prod(index[key.text][1]) == 1


def _alpha(file: TensorFile, key: Key) -> float:
    alpha = float(file.array(key.text).reshape(()))
    if not math.isfinite(alpha):
        raise QwenlabError(f"{file.path}: alpha of {key.stem!r} is {alpha}; take an earlier checkpoint of the training")
    return alpha


def _configuration(path: Path, metadata: Mapping[str, str]) -> tuple[Mapping, str]:
    """peft's configuration, without prefix, and where it was found."""
    beside = path.with_name("adapter_config.json")
    if ADAPTER_METADATA in metadata:
        text, source = metadata[ADAPTER_METADATA].encode(), "metadata"
    elif path.name == _PEFT_FILE and beside.is_file():  # as peft's save_pretrained leaves them
        text, source = beside.read_bytes(), beside.name
    else:
        return {}, ""
    try:
        loaded = json.loads(text)
        if not isinstance(loaded, dict):
            raise ValueError(f"{type(loaded).__name__} instead of entries")
        entries = {key.removeprefix("transformer."): value for key, value in loaded.items()}
        patterns = dict(entries.get("alpha_pattern") or {})
        entries["alpha_pattern"] = {str(key): float(alpha) for key, alpha in patterns.items()}
        if entries.get("lora_alpha") is not None:
            entries["lora_alpha"] = float(entries["lora_alpha"])
        if not all(map(math.isfinite, [*entries["alpha_pattern"].values(), entries.get("lora_alpha") or 0.0])):
            raise ValueError("alpha is not finite")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise QwenlabError(
            f"{path}: the adapter's configuration in {source} is not one that peft writes ({error})"
        ) from error
    return entries, source


def _doubt_beside(path: Path, layers: Mapping[str, Layer]) -> list[str]:
    """A sentence when peft's configuration lies beside a file of another name and would scale its factors."""
    beside = path.with_name("adapter_config.json")
    if path.name == _PEFT_FILE or not beside.is_file() or not any(key.alpha is None for key in layers.values()):
        return []
    try:
        entries, _ = _configuration(path.with_name(_PEFT_FILE), {})
    except QwenlabError:
        return []
    alpha = entries.get("lora_alpha")
    if alpha is None or {layer.rank for layer in layers.values()} == {alpha}:
        return []
    return [
        f"{beside.name} beside it says alpha {alpha:g}, but peft reads it with {_PEFT_FILE} only; if it belongs to "
        "this file, give it that name"
    ]


def _layers(
    path: Path, keys: list[Key], index: Mapping, alphas: Mapping[str, float], configuration: Mapping, source: str
) -> dict[str, Layer]:
    found: dict[str, dict[str, Key]] = {}
    for key in keys:
        if key.role in ("A", "B", "DoRA") and key.place and key.place.kind in ("linear", "fused"):
            parts = found.setdefault(key.layer, {})
            if key.role in parts:
                raise QwenlabError(
                    f"{path}: two LoRAs for {key.layer!r} ({parts[key.role].text!r} and {key.text!r}); split the file"
                )
            parts[key.role] = key
    layers: dict[str, Layer] = {}
    for name, parts in found.items():
        if not {"A", "B"} & parts.keys():
            continue  # magnitudes alone: no layer, but named among the others
        layer = _layer(path, name, parts, index, alphas, configuration, source)
        pieces = parts["A"].place.parts or (name,)
        rows, rest = divmod(layer.shape[0], len(pieces))
        if rest:
            raise QwenlabError(
                f"{path}: {name!r} is {len(pieces)} layers in one, but B has {layer.shape[0]} rows; "
                "the file is not whole"
            )
        for number, piece in enumerate(pieces):
            if piece in layers:
                raise QwenlabError(f"{path}: two LoRAs for {piece!r} (alone and in a fused layer); split the file")
            share = {"rows": (number * rows, (number + 1) * rows)} if len(pieces) > 1 else {}
            layers[piece] = Layer(**vars(layer) | {"shape": (rows, layer.shape[1])} | share)
    return dict(sorted(layers.items(), key=lambda item: (_order(item[0]), item[0])))


def _layer(
    path: Path,
    name: str,
    parts: Mapping[str, Key],
    index: Mapping,
    alphas: Mapping[str, float],
    configuration: Mapping,
    source: str,
) -> Layer:
    """One pair of factors with its scaling."""
    for role, partner in (("A", "B"), ("B", "A")):
        if role not in parts:
            raise QwenlabError(f"{path}: {name!r} has no factor {role} to go with {partner}; the file is not whole")
    (a_dtype, a_shape), (b_dtype, b_shape) = index[parts["A"].text], index[parts["B"].text]
    if not {a_dtype, b_dtype} <= set(DTYPES):
        raise QwenlabError(f"{path}: {name!r} is stored as {a_dtype} and {b_dtype}; only {', '.join(DTYPES)} are read")
    if len(a_shape) != 2 or len(b_shape) != 2 or a_shape[0] != b_shape[1] or 0 in a_shape + b_shape:
        raise QwenlabError(f"{path}: {name!r}: A {a_shape} and B {b_shape} make no low-rank product")
    rank, shape = a_shape[0], (b_shape[0], a_shape[1])
    magnitude = index[parts["DoRA"].text][1] if "DoRA" in parts else None
    if magnitude is not None and math.prod(magnitude) not in shape:
        raise QwenlabError(
            f"{path}: {parts['DoRA'].text!r} has {math.prod(magnitude)} numbers, but the layer {shape[0]} outputs and "
            f"{shape[1]} inputs; no magnitudes of DoRA, or the file is not whole"
        )
    if parts["A"].stem in alphas:
        alpha, alpha_from, root = alphas[parts["A"].stem], "tensors", False
    else:
        alpha, alpha_from = _alpha_in(configuration, name), source
        root = bool(configuration.get("use_rslora"))
    if alpha is None:
        alpha_from, scaling = "", 1.0
    else:
        scaling = alpha / (math.sqrt(rank) if root else rank)
    return Layer(parts["A"], parts["B"], rank, shape, alpha, alpha_from, scaling, parts.get("DoRA"))


def _alpha_in(configuration: Mapping, layer: str) -> float | None:
    """peft's rule: the first pattern that the layer's name ends in, else the common alpha."""
    for pattern, alpha in configuration.get("alpha_pattern", {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return alpha
        except re.error:
            continue
    return configuration.get("lora_alpha")


def _order(layer: str) -> int:
    block = block_of(layer)
    return -1 if block is None else block
