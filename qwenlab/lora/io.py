"""LoRA files of a pipeline: written in the stock layout, checked before the stock loader reads them.

The layout is that of diffusers: `pipe.load_lora_weights(file)` gives the very same pixels anywhere. Other layouts are
the matter of `qwenlab.lora.files`.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, atomic_write_json
from qwenlab.lora.files import read_lora
from qwenlab.lora.files.stock import quiet
from qwenlab.lora.files.text_encoder import text_encoder_folder
from qwenlab.lora.files.verdict import short
from qwenlab.lora.layers import lora_layers, lora_state, unwrap_lora
from qwenlab.model.modulation import replaced_layers

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

ADAPTER = "default"
# A factor, what DoRA adds, or a bias, as diffusers writes them.
_OWN_KEY = re.compile(r"transformer\..+\.(lora_[AB]\.weight|lora_B\.bias|lora_magnitude_vector(\.weight)?)")


def remove_lora(pipeline: QwenImagePipeline) -> None:
    """Take every LoRA off the pipeline, injected or loaded: it computes what the base computes again."""
    unwrap_lora(pipeline.transformer)
    pipeline.unload_lora_weights()
    if pipeline.text_encoder is not None:
        unwrap_lora(pipeline.text_encoder)
        for name in list(getattr(pipeline.text_encoder, "peft_config", {})):
            pipeline.text_encoder.delete_adapter(name)


def carries_lora(pipeline: QwenImagePipeline) -> bool:
    """Whether transformer or text encoder carries a LoRA, injected here or loaded by a stock loader."""
    models = [model for model in (pipeline.transformer, pipeline.text_encoder) if model is not None]
    return any(lora_layers(model) or getattr(model, "peft_config", None) for model in models)


def model_fingerprint(transformer: nn.Module) -> str:
    """Sixteen hex digits that tell base models apart: architecture, and all biases and norms rounded to
    bfloat16.

    Weight matrices are left out, so that the same base has one fingerprint in float32, bfloat16, int8 and
    NF4, with a modulation table and without.
    """
    architecture = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True, default=str).encode())
    parameters = dict(transformer.named_parameters())
    for place, layer in replaced_layers(transformer).items():
        parameters |= {f"{place}.{name}": parameter for name, parameter in layer.named_parameters()}
    for name, parameter in sorted(parameters.items()):
        if parameter.ndim == 1 and "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(parameter.detach().cpu().bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_lora(pipeline: QwenImagePipeline, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the LoRA that `qwenlab.lora.layers.inject_lora` put into the transformer to `path`, atomically.

    The adapter's configuration goes into the metadata, which is where the stock loader reads alpha: without
    it diffusers assumes alpha = rank. `metadata` adds string entries (trigger word, configuration hash ...);
    the fingerprint of the base model is always recorded. Raises QwenlabError when there is no LoRA to save.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors.torch import save

    state = lora_state(pipeline.transformer)
    if not state:
        raise QwenlabError(f"{path}: nothing to save, the transformer carries no injected LoRA")
    entries = {
        **(metadata or {}),
        "format": "pt",
        "qwenlab.base_model": model_fingerprint(pipeline.transformer),
        LORA_ADAPTER_METADATA_KEY: json.dumps(adapter_config(pipeline.transformer), sort_keys=True),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"transformer.{key}": value for key, value in state.items()}
    atomic_write_bytes(path, save(state, metadata=entries))
    return path


def adapter_config(transformer: nn.Module) -> dict[str, object]:
    """The injected LoRA as a peft `LoraConfig` dictionary, with the prefix that the stock loader looks for."""
    return {f"transformer.{key}": value for key, value in _peft_config(transformer).items()}


def _peft_config(model: nn.Module) -> dict[str, object]:
    """The injected LoRA as a peft `LoraConfig` dictionary of JSON values."""
    from peft import LoraConfig

    layers = lora_layers(model)
    first = next(iter(layers.values()))
    ranks = {name: layer.active_rank or layer.rank for name, layer in layers.items()}
    rank = next(iter(ranks.values()))
    config = LoraConfig(
        r=rank,
        lora_alpha=first.alpha,
        rank_pattern={name: found for name, found in ranks.items() if found != rank},
        alpha_pattern={name: layer.alpha for name, layer in layers.items() if layer.alpha != first.alpha},
        use_rslora=first.rslora,
        lora_dropout=first.dropout.p,
        target_modules=sorted({re.sub(r"^.*?\.\d+\.", "", name) for name in layers}),  # without the block's number
    )
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


def save_text_encoder_lora(pipeline: QwenImagePipeline, folder: str | Path) -> Path:
    """Write the LoRA injected into the text encoder as a peft folder, which `text_encoder.load_adapter` reads.

    It has a folder of its own because the stock loader drops `text_encoder.*` tensors of a LoRA file without a word.
    """
    from safetensors.torch import save

    folder = Path(folder)
    state = {f"base_model.model.{key}": value for key, value in lora_state(pipeline.text_encoder).items()}
    atomic_write_bytes(folder / "adapter_model.safetensors", save(state, metadata={"format": "pt"}))
    atomic_write_json(folder / "adapter_config.json", _peft_config(pipeline.text_encoder))
    return folder


def lora_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata of a LoRA file. Raises QwenlabError when the file cannot be read as safetensors."""
    return _read_header(Path(path))[1]


def load_lora(pipeline: QwenImagePipeline, path: str | Path, adapter_name: str = ADAPTER) -> dict[str, str]:
    """Check that `path` is a LoRA for this architecture, load it the stock way, return its metadata.

    The base may be in any precision: its weights stay as they are. Several files need several names; `weigh_loras` says
    how much each counts.

    Raises QwenlabError (one line), with the pipeline as it was, for a missing, unreadable or non-LoRA file, for NaN in
    it and for a LoRA of another model: the stock loader would answer some of these with a mere warning and a pipeline
    that ignores the file; and for an adapter name that is taken or that a module cannot have, such as "pop", over which
    it would stop half-way. A file that fits but was trained on other weights is loaded with a warning.
    """
    if lora_layers(pipeline.transformer):
        raise QwenlabError(f"{path}: the pipeline carries a trained LoRA: call remove_lora(pipeline) first")
    if "." in adapter_name or hasattr(nn.ModuleDict(), adapter_name):  # peft keeps adapters in such dictionaries
        raise QwenlabError(f"adapter_name {adapter_name!r} cannot name a module of torch: take another, without a dot")
    if any(adapter_name in getattr(part, "peft_config", {}) for part in (pipeline.transformer, pipeline.text_encoder)):
        raise QwenlabError(
            f"{path}: the pipeline carries a LoRA named {adapter_name!r}: call remove_lora(pipeline) first, or load "
            "this one under another adapter_name, beside it"
        )
    path = Path(path)
    shapes, metadata = _read_header(path)
    _check_layout(shapes, path)
    _check_fits(shapes, pipeline.transformer, path)
    for doubt in read_lora(path).doubts:  # a FLUX LoRA may have the same names and shapes
        warnings.warn(f"{path}: {doubt}", stacklevel=2)
    _check_finite(path)
    if text_encoder_folder(path).is_dir() and pipeline.text_encoder is None:
        raise QwenlabError(f"{text_encoder_folder(path)}: the pipeline's text encoder was freed; load it again")
    trained_on = metadata.get("qwenlab.base_model")
    if trained_on and trained_on != model_fingerprint(pipeline.transformer):
        warnings.warn(f"{path}: trained on other weights of this architecture; expect other pictures", stacklevel=2)
    with warnings.catch_warnings():  # several adapters at once are meant
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        _load_transformer_lora(pipeline, path, adapter_name)
        if text_encoder_folder(path).is_dir():
            _load_text_encoder_lora(pipeline, text_encoder_folder(path), adapter_name)
    return metadata


def _load_transformer_lora(pipeline: QwenImagePipeline, path: Path, adapter_name: str) -> None:
    """The first half of `load_lora`: a file whose configuration contradicts its tensors (another rank, DoRA without
    magnitudes) is refused by the stock loader, or leaves weights without values; both are undone."""
    reason = ""
    try:
        with quiet():
            pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=adapter_name)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = short(" ".join(str(error).split()) or type(error).__name__)
    weights = pipeline.transformer.named_parameters()
    if empty := _first(name for name, weight in weights if ".lora_" in name and weight.is_meta):
        reason = f"{empty} stays without values"
    if reason:
        others = getattr(pipeline.transformer, "peft_config", {}).keys() - {adapter_name}
        pipeline.delete_adapters(adapter_name) if others else pipeline.unload_lora_weights()
        mend = f"see qwenlab doctor {path}, which rewrites it with --fix NEW.safetensors"
        raise QwenlabError(f"{path}: diffusers does not load it ({reason}); {mend}")


def _load_text_encoder_lora(pipeline: QwenImagePipeline, folder: Path, adapter_name: str) -> None:
    """The second half of `load_lora`; when it fails, the first half is undone."""
    try:
        pipeline.text_encoder.load_adapter(str(folder), adapter_name=adapter_name)
    except Exception as error:  # transformers and peft raise many kinds, from missing files to mismatched shapes
        pipeline.delete_adapters(adapter_name)
        if adapter_name in getattr(pipeline.text_encoder, "peft_config", {}):
            pipeline.text_encoder.delete_adapter(adapter_name)
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise QwenlabError(
            f"{folder}: no LoRA for this text encoder ({reason}); train it again, or move the folder away to load the "
            "transformer's part alone"
        ) from error


def weigh_loras(pipeline: QwenImagePipeline, weights: Mapping[str, float]) -> None:
    """Let the loaded LoRAs of these adapter names act together, each times its weight, in both models they change.

    The stock `set_adapters` weighs the transformer's alone. Raises QwenlabError for names that are not loaded.
    """
    from diffusers.utils.peft_utils import set_weights_and_activate_adapters

    loaded = getattr(pipeline.transformer, "peft_config", {})
    for name in weights.keys() - loaded.keys():
        raise QwenlabError(f"no LoRA named {name!r} is loaded; there are {', '.join(map(repr, loaded)) or 'none'}")
    pipeline.set_adapters(list(weights), list(weights.values()))
    own = [name for name in weights if name in getattr(pipeline.text_encoder, "peft_config", {})]
    if own:
        set_weights_and_activate_adapters(pipeline.text_encoder, own, [weights[name] for name in own])


def check_lora_file(path: Path) -> None:
    """Raise QwenlabError for what no `load_lora` takes, whatever the model: not readable, no LoRA, another layout."""
    _check_layout(_read_header(path)[0], path)


def _read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Names and shapes of the tensors, and the metadata, without reading the tensors."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise QwenlabError(f"{path}: no such LoRA file; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            return shapes, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise QwenlabError(f"{path}: not a readable safetensors file ({error}); copy or train it again") from error


def _check_layout(shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    if not any(".lora_A." in key for key in shapes):
        raise QwenlabError(f"{path}: holds no LoRA (no 'lora_A' tensor); see qwenlab doctor {path}")
    foreign = _first(key for key in shapes if not _OWN_KEY.fullmatch(key))
    if foreign:
        raise QwenlabError(
            f"{path}: tensor {foreign!r} is not in the 'transformer.*' layout of diffusers; see qwenlab doctor {path}, "
            "which rewrites it with --fix NEW.safetensors"
        )

    layers = {key.partition(".lora_A")[0] for key in shapes if ".lora_A." in key}
    for what in (".lora_B.bias", ".lora_magnitude_vector"):
        have = {key.partition(what)[0] for key in shapes if what in key}
        if have and have != layers:
            raise QwenlabError(
                f"{path}: {len(have)} of {len(layers)} layers have {what}, and diffusers wants all or none; see "
                f"qwenlab doctor {path}"
            )


def _check_fits(shapes: Mapping[str, tuple[int, ...]], transformer: nn.Module, path: Path) -> None:
    layers = {name.removesuffix(".base_layer"): module for name, module in transformer.named_modules()}
    for key, shape in shapes.items():
        layer_name, _, factor = key.removeprefix("transformer.").partition(".lora_")
        layer = layers.get(layer_name)
        if not hasattr(layer, "in_features"):
            raise QwenlabError(
                f"{path}: LoRA of another model: this one has no layer {layer_name!r}; load its own base"
            )
        expected = layer.in_features if factor.startswith("A") else layer.out_features
        actual = shape[1] if factor.startswith("A") else shape[0]
        if actual != expected:
            raise QwenlabError(
                f"{path}: LoRA of another model: {layer_name!r} is {expected} wide here and {actual} in the "
                "file; load its own base"
            )


def _check_finite(path: Path) -> None:
    """A factor with NaN makes every picture black, without a word."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for key in file.keys():
            if not file.get_tensor(key).isfinite().all():
                raise QwenlabError(f"{path}: {key!r} holds NaN or infinity; take an earlier checkpoint of its training")


def _first(items: Iterable[str]) -> str | None:
    return next(iter(items), None)
