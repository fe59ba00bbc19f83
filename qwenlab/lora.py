"""LoRA on Qwen-Image: which layers, how they are injected, saved and loaded.

W' x = W x + (alpha / rank) B A x, A (rank, in) Kaiming-uniform, B (out, rank) zero, so that training starts
from the pretrained function and both factors receive gradients after the first step. Injection is peft's,
files are in the layout of diffusers, so that `pipe.load_lora_weights(file)` gives the very same pixels
anywhere.

Source: Hu et al., LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

ADAPTER = "default"

_IMAGE_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")

# A block holds 14 linear layers: these twelve and the two modulation layers, which depend on the timestep
# alone.
TARGETS: dict[str, tuple[str, ...]] = {
    "attention-4": _IMAGE_ATTENTION,
    "attention-8": _IMAGE_ATTENTION + _TEXT_ATTENTION,
    "mlp": _MLP,
    "attention+mlp": _IMAGE_ATTENTION + _TEXT_ATTENTION + _MLP,
}


def target_modules(apply_to: str | Sequence[str]) -> list[str]:
    """Module-name endings for one or several names of `TARGETS`, in order and without repeats.

    Raises QwenlabError for an unknown name.
    """
    names = [apply_to] if isinstance(apply_to, str) else list(apply_to)
    for name in names:
        if name not in TARGETS:
            raise QwenlabError(
                f"apply_to: {name!r} names no layers of Qwen-Image; choose from {', '.join(TARGETS)}"
            )
    return list(dict.fromkeys(module for name in names for module in TARGETS[name]))


def inject_lora(
    pipeline: QwenImagePipeline,
    *,
    rank: int,
    alpha: float,
    apply_to: str | Sequence[str] = "attention+mlp",
    dropout: float = 0.0,
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Freeze the transformer, wrap its target layers with LoRA and return the trainable parameters by name.

    LoRA parameters are float32 whatever the dtype of the base: small updates vanish in bfloat16. `seed` alone
    decides the values of A. The caller's global random state is left as it was.
    """
    from peft import LoraConfig

    transformer = pipeline.transformer
    transformer.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        init_lora_weights=True,
        target_modules=target_modules(apply_to),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(config, adapter_name=ADAPTER)
    parameters = trainable_parameters(transformer)
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
    return parameters


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training will change, by name: after `inject_lora`, exactly the LoRA factors."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def remove_lora(pipeline: QwenImagePipeline) -> None:
    """Take every LoRA off the pipeline: it computes what the base computes again."""
    pipeline.unload_lora_weights()


def model_fingerprint(transformer: nn.Module) -> str:
    """Sixteen hex digits that tell base models apart: architecture, and all biases and norms rounded to
    bfloat16.

    Weight matrices are left out, so that the same base has one fingerprint in float32, bfloat16, int8 and
    NF4.
    """
    architecture = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True, default=str).encode())
    for name, parameter in sorted(transformer.named_parameters(), key=lambda item: item[0]):
        if parameter.ndim == 1 and "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(parameter.detach().cpu().bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def lora_state(pipeline: QwenImagePipeline) -> dict[str, Tensor]:
    """LoRA factors in the stock layout: `transformer.<layer>.lora_A.weight` (r, in) and `lora_B` (out, r)."""
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(pipeline.transformer, adapter_name=ADAPTER)
    return {f"transformer.{key}": value.detach().cpu().contiguous() for key, value in state.items()}


def save_lora(
    pipeline: QwenImagePipeline, path: str | Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write the pipeline's LoRA to the safetensors file `path`, atomically.

    The adapter's configuration goes into the metadata, which is where the stock loader reads alpha: without
    it diffusers assumes alpha = rank. `metadata` adds string entries (trigger word, configuration hash ...);
    the fingerprint of the base model is always recorded.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from safetensors.torch import save

    adapter = pipeline.transformer.peft_config[ADAPTER].to_dict()
    adapter = {f"transformer.{key}": _jsonable(value) for key, value in adapter.items()}
    entries = {
        **(metadata or {}),
        "format": "pt",
        "qwenlab.base_model": model_fingerprint(pipeline.transformer),
        LORA_ADAPTER_METADATA_KEY: json.dumps(adapter, sort_keys=True),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, save(lora_state(pipeline), metadata=entries))
    return path


def _jsonable(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


def lora_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata of a LoRA file. Raises QwenlabError when the file cannot be read as safetensors."""
    return _read_header(Path(path))[1]


def load_lora(pipeline: QwenImagePipeline, path: str | Path, adapter_name: str = ADAPTER) -> dict[str, str]:
    """Check that `path` is a LoRA for this architecture, load it the stock way, return its metadata.

    Raises QwenlabError (one line) for a missing, unreadable or non-LoRA file and for a LoRA of another model:
    the stock loader would answer some of these with a mere warning and a pipeline that ignores the file. A
    file that fits but was trained on other weights is loaded with a warning.
    """
    path = Path(path)
    shapes, metadata = _read_header(path)
    _check_fits(shapes, pipeline.transformer, path)
    trained_on = metadata.get("qwenlab.base_model")
    if trained_on and trained_on != model_fingerprint(pipeline.transformer):
        warnings.warn(
            f"{path}: trained on other weights of this architecture; expect other pictures", stacklevel=2
        )
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=adapter_name)
    return metadata


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
        raise QwenlabError(
            f"{path}: not a readable safetensors file ({error}); copy or train it again"
        ) from error


def _check_fits(shapes: Mapping[str, tuple[int, ...]], transformer: nn.Module, path: Path) -> None:
    if not any(".lora_A." in key for key in shapes):
        raise QwenlabError(
            f"{path}: holds no LoRA (no 'lora_A' tensor); give a file written by LoRA training"
        )
    foreign = _first(key for key in shapes if not key.startswith("transformer."))
    if foreign:
        raise QwenlabError(
            f"{path}: tensor {foreign!r} is not in the 'transformer.*' layout of diffusers; convert it first"
        )
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


def _first(items: Iterable[str]) -> str | None:
    return next(iter(items), None)
