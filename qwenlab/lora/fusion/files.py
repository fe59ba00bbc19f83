"""LoRA files merged into one, layer by layer."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlab.errors import QwenlabError
from qwenlab.files import check_place, sha256_file
from qwenlab.lora.files.reading import LoraFile, open_tensors, read_factors, read_lora
from qwenlab.lora.files.writing import check_format, check_readable, fix
from qwenlab.lora.fusion.methods import (
    average_factors,
    concatenate,
    core_space,
    dare,
    knots,
    orthogonal,
    own_name,
    ties,
)
from qwenlab.lora.fusion.sources import Source, check_rank
from qwenlab.lora.fusion.stream import write_tensors
from qwenlab.lora.rank import Pair, compress

#: What `fuse` can do; the second entry says whether the method needs a rank.
METHODS: Mapping[str, tuple[Callable[..., Pair], bool]] = {
    "concat": (concatenate, False),
    "svd": (concatenate, True),
    "average": (average_factors, False),
    "ties": (ties, True),
    "dare": (dare, True),
    "knots": (knots, False),
    "core": (core_space, False),
    "orthogonal": (orthogonal, False),
}
_DENSE = ("ties", "dare")  # methods that take the rank themselves
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BASE_MODEL = "qwenlab.base_model"


@dataclass(frozen=True)
class Fusion:
    """What `fuse` did. kept: layer -> share of the energy that the rank keeps; empty without a rank."""

    path: Path
    layers: int
    kept: Mapping[str, float]


def fuse(
    sources: Sequence[Source],
    out: str | Path,
    *,
    method: str = "concat",
    rank: int | None = None,
    allow_partial: bool = False,
    dtype: str = "float32",
    layout: str = "diffusers",
    on_layer: Callable[[int], Any] = lambda total: None,
) -> Fusion:
    """Merge LoRA files into the new file `out`, scaling and weights folded into it.

    Args:
        method: "concat" (exact), "svd" (exact, then the best of `rank`), "average" (the article's, wrong), "ties",
            "dare", "knots", "core", "orthogonal" (the first file keeps its update whole); or peft's name of one of
            them (`qwenlab.lora.fusion.methods.PEFT_NAMES`).
        rank: of the result; "svd", "ties" and "dare" need it, what others give is compressed to it.
        allow_partial: layers that only some of the files have get the sum of those; otherwise they are an error.
        dtype: "float32", or "bfloat16", which halves the file and rounds.
        layout: "diffusers", "comfyui" or "kohya" (`qwenlab.lora.files.fix`).
        on_layer: called with the number of all layers after each one.

    Raises QwenlabError, before anything is written, for files of different models, for what is no plain LoRA, for
    layers that are missing, for NaN (while writing), and for an `out` that exists.
    """
    out = Path(out)
    method = own_name(method)
    _check_choices(method, rank, dtype)
    loras = read_plain(sources, out, layout)
    layers = _common_layers(loras, allow_partial)
    kept: dict[str, float] = {}
    with ExitStack() as stack:
        files = [stack.enter_context(open_tensors(lora.path)) for lora in loras]

        def merged(layer: str) -> Pair:
            pairs = [
                scaled_pair(file, lora, source, layer)
                for file, lora, source in zip(files, loras, sources, strict=True) if layer in lora.layers
            ]  # fmt: skip
            pair, share = _merge(pairs, method, rank)
            if share is not None:
                kept[layer] = share
            return pair

        write_layers(out, layers, merged, _metadata(sources, loras, method, rank), dtype, on_layer, layout)
    return Fusion(out, len(layers), kept)


def write_layers(
    out: Path,
    layers: Sequence[str],
    pair_of: Callable[[str], Pair],
    metadata: Mapping[str, str],
    dtype: str,
    on_layer: Callable[[int], Any],
    layout: str = "diffusers",
) -> None:
    """Write the factors that `pair_of` gives for each layer, one layer in memory at a time, in a layout of `fix`."""
    if layout != "diffusers":
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            plain = Path(folder) / out.name
            write_layers(plain, layers, pair_of, metadata, dtype, on_layer)
            fix(plain, out, layout)
        return

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for layer in layers:
            for side, factor in zip("AB", pair_of(layer), strict=True):
                yield f"transformer.{layer}.lora_{side}.weight", factor.to(DTYPES[dtype])
            on_layer(len(layers))

    names = [f"transformer.{layer}.lora_{side}.weight" for layer in layers for side in "AB"]
    write_tensors(out, names, tensors(), metadata)


def _merge(pairs: Sequence[Pair], method: str, rank: int | None) -> tuple[Pair, float | None]:
    merge, _ = METHODS[method]
    if method in _DENSE:
        return merge(pairs, rank), None
    pair = merge(pairs)
    return compress(pair, rank) if rank else (pair, None)


def scaled_pair(file: Any, lora: LoraFile, source: Source, name: str) -> Pair:
    """A layer's factors, float32, scaling and weight in B. Raises QwenlabError for NaN and infinity."""
    layer = lora.layers[name]
    a, b = (factor.float() for factor in read_factors(file, layer))
    if not (a.isfinite().all() and b.isfinite().all()):
        raise QwenlabError(f"{lora.path}: {name!r} holds NaN or infinity; take an earlier checkpoint")
    b = b * (layer.scaling * source.weight_of(name))
    if not b.isfinite().all():
        raise QwenlabError(f"{lora.path}: {name!r} times {layer.scaling:g} and its weight leaves the range of float32")
    return a, b


def read_plain(sources: Sequence[Source], out: Path, layout: str = "diffusers") -> list[LoraFile]:
    """The headers of plain LoRAs of one model. Raises QwenlabError for others, also for what the metadata alone says is
    another model's, for an `out` that exists, and for a layout that cannot hold them. Warns of doubts."""
    check_format(layout)
    if not sources:
        raise QwenlabError("give at least one LoRA file, such as style.safetensors:0.8")
    if out.suffix != ".safetensors":
        raise QwenlabError(f"--out {out}: end the name in .safetensors")
    if out.exists():
        raise QwenlabError(f"--out {out}: exists already and is never overwritten; give a new name")
    check_place(out, "--out")
    loras = [read_lora(source.path) for source in sources]
    for lora in loras:
        for doubt in lora.doubts:
            warnings.warn(f"{lora.path}: {doubt}", stacklevel=3)
        check_readable(lora, layout)
        kinds = [kind for kind in lora.kinds if kind != "LoRA"]
        if kinds:
            raise QwenlabError(
                f"{lora.path}: {kinds[0]} cannot be fused, only plain LoRA{_named(_not_plain(lora))}; for what can be "
                f"kept: qwenlab doctor {lora.path} --fix NEW.safetensors"
            )
        if lora.text_encoder:
            raise QwenlabError(
                f"{lora.path}: holds tensors for the text encoder ({lora.text_encoder[0].text}); split the file first: "
                f"qwenlab doctor {lora.path} --fix NEW.safetensors"
            )
        same = (loras[0].family, loras[0].width)
        if (lora.family, lora.width) != same:
            raise QwenlabError(
                f"{lora.path}: made for {_model(lora)}, but {loras[0].path} for {_model(loras[0])}; "
                "only LoRAs of one model can be fused"
            )
        for name, layer in lora.layers.items():
            first = loras[0].layers.get(name)
            if first and first.shape != layer.shape:
                raise QwenlabError(f"{lora.path}: {name} is {layer.shape}, in {loras[0].path} {first.shape}")
    bases = {lora.base: str(lora.path) for lora in loras if lora.base}
    if len(bases) > 1:
        made = ", ".join(f"{path} for {base}" for base, path in bases.items())
        warnings.warn(f"the metadata names variants of one model ({made}); look at what comes out", stacklevel=3)
    return loras


def _check_choices(method: str, rank: int | None, dtype: str) -> None:
    if method not in METHODS:
        raise QwenlabError(f"--method {method!r}: unknown; choose from {', '.join(METHODS)}")
    if METHODS[method][1] and rank is None:
        raise QwenlabError(f"--method {method}: needs a rank, such as --rank 64")
    check_rank(rank)
    check_dtype(dtype)


def check_dtype(dtype: str) -> None:
    """Raise QwenlabError for what is not one of DTYPES."""
    if dtype not in DTYPES:
        raise QwenlabError(f"--dtype {dtype!r}: unknown; choose from {', '.join(DTYPES)}")


def _common_layers(loras: Sequence[LoraFile], allow_partial: bool) -> list[str]:
    """The layers of all files, in the order of the first that has them."""
    layers = list(dict.fromkeys(name for lora in loras for name in lora.layers))
    for lora in loras:
        missing = [name for name in layers if name not in lora.layers]
        if missing and not allow_partial:
            raise QwenlabError(
                f"{lora.path}: lacks {len(missing)} of {len(layers)} layers{_named(missing)}; "
                "--allow-partial fuses them from the files that have them"
            )
    return layers


def _not_plain(lora: LoraFile) -> list[str]:
    return [key.text for key in lora.others] + [name for name, layer in lora.layers.items() if layer.magnitude]


def _named(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return f" ({shown})" if names else ""


def _model(lora: LoraFile) -> str:
    return lora.model.name if lora.model else f"a model of width {lora.width}"


def _metadata(sources: Sequence[Source], loras: Sequence[LoraFile], method: str, rank: int | None) -> dict[str, str]:
    recipe = {
        "method": method,
        "rank": rank,
        "sources": [
            {"file": s.path.name, "sha256": sha256_file(s.path), "weight": s.weight}
            | ({"layer_weights": dict(s.layer_weights)} if s.layer_weights else {})
            for s in sources
        ],
    }
    base = {lora.metadata.get(BASE_MODEL) for lora in loras}
    known = {BASE_MODEL: base.pop()} if len(base) == 1 and None not in base else {}
    return {"format": "pt", "qwenlab.fused_from": json.dumps(recipe, ensure_ascii=False)} | known
