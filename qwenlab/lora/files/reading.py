"""LoRA files read safely: the header first, tensors only when asked for, and nothing is ever executed.

What a file *means* is `scaling * B A` for each layer. The scaling is alpha / rank (alpha / sqrt(rank) for
rank-stabilised LoRA), and alpha hides in one of four places: tensors `<layer>.alpha`, the metadata entry
`lora_adapter_metadata` (diffusers), `adapter_config.json` beside the file (peft), or nowhere, which every reader takes
for alpha = rank.
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
from qwenlab.lora.files.layouts import FAMILIES, MODELS, Family, Key, Model, block_of, parse_key, width_in

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_METADATA = "lora_adapter_metadata"  # diffusers' name of the entry with peft's configuration
MAX_HEADER = 32 * 1024**2  # bytes; 2,520 tensors need 0.4 MB, a trainer's notes on its data set some more
# safetensors' names of the dtypes that LoRAs come in, and torch's.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_NOT_TENSORS = (
    (b"PK\x03\x04", "a pickled torch file (.pt, .ckpt), which can run any code when it is opened"),
    (b"\x80", "a pickled file, which can run any code when it is opened"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
    (b"<", "a web page: the download went to a login or error page"),
    (b"GGUF", "a GGUF model"),
)
_OTHER_MODELS = (
    (r"(single|double)_blocks|single_transformer_blocks", "FLUX"),
    (r"input_blocks|output_blocks|down_blocks|up_blocks|mid_block", "Stable Diffusion"),
    (r"joint_blocks", "Stable Diffusion 3"),
    (r"blocks[._]\d+[._](cross_attn|self_attn|ffn)", "Wan"),
    (r"noise_refiner|context_refiner", "Z-Image or Lumina"),
)


@dataclass(frozen=True)
class Layer:
    """The LoRA of one linear layer. a, b: keys in the file; shape (d, k) is the update's.

    scaling: factor of B A that the file means; alpha: as stored, None when nothing stores it. alpha_from: "tensors",
    "metadata", "adapter_config.json" or "" (nothing). magnitude: key of DoRA's magnitudes, when the file has some.
    """

    a: Key
    b: Key
    rank: int
    shape: tuple[int, int]
    alpha: float | None
    alpha_from: str
    scaling: float
    magnitude: Key | None = None


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file as its header describes it. layers: by the module's own name, block after block.

    text_encoder: keys for the text encoder. others: keys that are no part of a LoRA (LoKr, LoHa, biases, ...).
    width, blocks: of the model it was trained for; model is None when no published model has this width.
    """

    path: Path
    layers: Mapping[str, Layer]
    text_encoder: tuple[Key, ...]
    others: tuple[Key, ...]
    metadata: Mapping[str, str]
    family: Family
    model: Model | None
    width: int
    blocks: int
    index: Mapping[str, tuple[str, tuple[int, ...]]] = field(repr=False)  # key -> dtype, shape

    @property
    def kinds(self) -> list[str]:
        """What the file holds: "LoRA", "DoRA", "LoKr", ... in this order."""
        plain = any(layer.magnitude is None for layer in self.layers.values())
        dora = any(layer.magnitude for layer in self.layers.values())
        return ["LoRA"] * plain + ["DoRA"] * dora + sorted({key.role for key in self.others})


def read_lora(path: str | Path) -> LoraFile:
    """Read the header of a LoRA file and the few numbers that decide its scaling.

    Raises QwenlabError (one line) for a missing, truncated, pickled or huge-header file, for a file without a LoRA,
    for a LoRA of another model, for a factor without its partner and for two LoRAs of one layer.
    """
    path = Path(path)
    with open_tensors(path) as file:
        index = {name: _dtype_and_shape(file, name) for name in file.keys()}
        metadata = file.metadata() or {}
        keys = [parse_key(name) for name in index]
        alphas = {key.stem: float(file.get_tensor(key.text)) for key in keys if _is_alpha(key, index)}
    wrong = next((stem for stem, alpha in alphas.items() if not math.isfinite(alpha)), None)
    if wrong:
        raise QwenlabError(f"{path}: alpha of {wrong!r} is {alphas[wrong]}; take an earlier checkpoint of the training")
    text_encoder = tuple(key for key in keys if key.text_encoder)
    rest = [key for key in keys if not key.text_encoder]
    _check_known(path, rest, bool(text_encoder))
    layers = _layers(path, rest, index, alphas, *_configuration(path, metadata))
    taken = {key.text for layer in layers.values() for key in (layer.a, layer.b, layer.magnitude) if key}
    others = [key for key in rest if key.text not in taken and not (key.role == "alpha" and key.stem in alphas)]
    family, model, width, blocks = _fit(path, layers, others)
    return LoraFile(
        path,
        layers,
        text_encoder,
        tuple(others),
        metadata,
        family,
        model,
        width,
        blocks,
        index,
    )


@contextmanager
def open_tensors(path: Path) -> Iterator:
    """The file as safetensors' `safe_open`, after its first bytes were looked at. Raises QwenlabError as above."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise QwenlabError(f"{path}: no such LoRA file; give the path of a .safetensors file")
    with open(path, "rb") as raw:
        start = raw.read(32)
    for magic, what in _NOT_TENSORS:
        if start.startswith(magic) and start[8:9] != b"{":
            raise QwenlabError(f"{path}: not opened, it is {what}; get the .safetensors file instead")
    size, header = path.stat().st_size, int.from_bytes(start[:8], "little")
    if len(start) < 10 or header > size - 8:
        raise QwenlabError(f"{path}: truncated or no safetensors file ({size} bytes); copy or download it again")
    if header > MAX_HEADER:  # refused before anything of that size is allocated
        raise QwenlabError(
            f"{path}: claims a header of {header} bytes, a LoRA needs less than {MAX_HEADER}; do not trust this file"
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise QwenlabError(f"{path}: damaged safetensors file ({error}); copy or download it again") from error


def read_factors(file, layer: Layer) -> tuple[Tensor, Tensor]:
    """A (r, k) and B (d, r) of a layer from an open file, in the file's dtype."""
    return file.get_tensor(layer.a.text), file.get_tensor(layer.b.text)


def _dtype_and_shape(file, name: str) -> tuple[str, tuple[int, ...]]:
    view = file.get_slice(name)
    return view.get_dtype(), tuple(view.get_shape())


def _is_alpha(key: Key, index: Mapping) -> bool:
    return key.role == "alpha" and math.prod(index[key.text][1]) == 1


def _check_known(path: Path, keys: list[Key], has_text_encoder: bool) -> None:
    useful = [key for key in keys if key.role not in ("unknown", "alpha")]
    if not useful and not has_text_encoder:
        raise QwenlabError(f"{path}: holds no LoRA; give a file written by LoRA training, not a whole model")
    stranger = next((key for key in useful if key.layer is None), None)
    if stranger:
        name = stranger.stem[len(stranger.prefix) :]
        guess = next((f" (it looks like {who})" for pattern, who in _OTHER_MODELS if re.search(pattern, name)), "")
        raise QwenlabError(
            f"{path}: LoRA of another model: no Qwen-Image has a layer {name!r}{guess}; load its own base"
        )


def _configuration(path: Path, metadata: Mapping[str, str]) -> tuple[Mapping, str]:
    """peft's configuration, without prefix, and where it was found."""
    beside = path.with_name("adapter_config.json")
    if ADAPTER_METADATA in metadata:
        text, source = metadata[ADAPTER_METADATA].encode(), "metadata"
    elif path.name == "adapter_model.safetensors" and beside.is_file():  # as peft's save_pretrained leaves them
        text, source = beside.read_bytes(), beside.name
    else:
        return {}, ""
    try:
        entries = {key.removeprefix("transformer."): value for key, value in dict(json.loads(text)).items()}
        patterns = dict(entries.get("alpha_pattern") or {})
        entries["alpha_pattern"] = {str(key): float(alpha) for key, alpha in patterns.items()}
        if entries.get("lora_alpha") is not None:
            entries["lora_alpha"] = float(entries["lora_alpha"])
    except (ValueError, TypeError, RecursionError) as error:
        raise QwenlabError(
            f"{path}: the adapter's configuration in {source} is not one that peft writes ({error})"
        ) from error
    return entries, source


def _layers(
    path: Path, keys: list[Key], index: Mapping, alphas: Mapping[str, float], configuration: Mapping, source: str
) -> dict[str, Layer]:
    found: dict[str, dict[str, Key]] = {}
    for key in keys:
        if key.role in ("A", "B", "DoRA"):
            parts = found.setdefault(key.layer, {})
            if key.role in parts:
                raise QwenlabError(
                    f"{path}: two LoRAs for {key.layer!r} ({parts[key.role].text!r} and {key.text!r}); split the file"
                )
            parts[key.role] = key
    layers = {}
    for name, parts in sorted(found.items(), key=lambda item: (_order(item[0]), item[0])):
        for role, partner in (("A", "B"), ("B", "A")):
            if role not in parts:
                raise QwenlabError(f"{path}: {name!r} has no factor {role} to go with {partner}; the file is not whole")
        (a_dtype, a_shape), (b_dtype, b_shape) = index[parts["A"].text], index[parts["B"].text]
        if not {a_dtype, b_dtype} <= set(DTYPES):
            raise QwenlabError(
                f"{path}: {name!r} is stored as {a_dtype} and {b_dtype}; only {', '.join(DTYPES)} are read"
            )
        if len(a_shape) != 2 or len(b_shape) != 2 or a_shape[0] != b_shape[1] or 0 in a_shape + b_shape:
            raise QwenlabError(f"{path}: {name!r}: A {a_shape} and B {b_shape} make no low-rank product")
        rank, shape = a_shape[0], (b_shape[0], a_shape[1])
        if parts["A"].stem in alphas:
            alpha, alpha_from, root = alphas[parts["A"].stem], "tensors", False
        else:
            alpha, alpha_from = _alpha_in(configuration, name), source
            root = bool(configuration.get("use_rslora"))
        if alpha is None:
            alpha_from, scaling = "", 1.0
        else:
            scaling = alpha / (math.sqrt(rank) if root else rank)
        layers[name] = Layer(parts["A"], parts["B"], rank, shape, alpha, alpha_from, scaling, parts.get("DoRA"))
    return layers


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


def _fit(path: Path, layers: Mapping[str, Layer], others: list[Key]) -> tuple[Family, Model | None, int, int]:
    """The family that has all layers in one width, and the published model of that width."""
    names = [*layers, *(key.layer for key in others if key.layer)]
    seen = max((block_of(name) or 0 for name in names), default=0) + 1
    fits = []
    for family in FAMILIES:
        try:
            widths = {width_in(family, name, layer.shape) for name, layer in layers.items()}
            [width_in(family, name, (0, 0)) for name in names]  # only whether it has them
        except KeyError:
            continue
        if None not in widths and len(widths - {0}) <= 1:
            fits.append((family, max(widths, default=0)))
    if not fits:
        name, layer = next(iter(layers.items()), (names[0], None))
        what = f"{name!r} is {layer.shape[0]}x{layer.shape[1]}" if layer else f"{name!r}"
        raise QwenlabError(
            f"{path}: LoRA of another model: the layers ({what}, ...) fit no Qwen-Image; load its own base"
        )
    for family, width in fits:
        for model in MODELS:
            if (model.family, model.width) == (family, width):
                if seen > model.blocks:
                    raise QwenlabError(
                        f"{path}: LoRA of another model: block {seen - 1}, but {model.name} has {model.blocks} blocks; "
                        "load its own base"
                    )
                return family, model, width, model.blocks
    family, width = fits[0]
    return family, None, width, seen
