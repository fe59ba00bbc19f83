"""The text encoder's part of a LoRA file, in the only form that a stock loader reads.

No Qwen-Image pipeline loads it from one file with the transformer's. `text_encoder.load_adapter(folder)` of
transformers reads peft's folder, with the names of the language model; trainers write other names:

    text_encoder.model.language_model.layers.0.self_attn.q_proj.lora_A.weight            diffusers
    text_encoder.model.language_model.layers.0.self_attn.q_proj.lora_down.weight         OneTrainer
    lora_te_model_language_model_layers_0_self_attn_q_proj.lora_down.weight              OneTrainer, as kohya
    lora_te_layers_0_self_attn_q_proj.lora_down.weight                                   kohya
    text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.q_proj.lora_A.weight    ComfyUI
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qwenlab.files import atomic_write_bytes, atomic_write_json
from qwenlab.lora.files.header import Stored, TensorFile, pack
from qwenlab.lora.files.layouts import Key

_LAYER = re.compile(
    r"(?P<start>.*?)layers[._](?P<block>\d+)[._](?P<part>self_attn|mlp)[._](?P<name>(q|k|v|o|gate|up|down)_proj)"
)
_START = re.compile(
    r"((lora_te\d?_|lora_text_encoder_)|(base_model\.model\.)|(text_encoders?(_\d)?\.)|(te\d?\.)|(qwen\d\w*\.)|"
    r"(transformer\.)|(model[._])|(language_model[._])|((text_model|llm|conditioner|pipe|module|_orig_mod)\.))*"
)


#: A (r, k) and B (d, r) by the language model's own names, in float64, scaling in A.
TextFactors = dict[str, tuple[np.ndarray, np.ndarray]]


def text_encoder_folder(path: str | Path) -> Path:
    """The folder beside a LoRA file for the LoRA of the text encoder: a.safetensors -> a-text-encoder."""
    path = Path(path)
    return path.with_name(f"{path.stem}-text-encoder")


def layer_name(stem: str) -> str | None:
    """`model.language_model.layers.0.self_attn.q_proj` for any trainer's name of that layer; None for other layers."""
    match = _LAYER.fullmatch(stem)
    if not match or not _START.fullmatch(match["start"]):
        return None
    return f"model.language_model.layers.{match['block']}.{match['part']}.{match['name']}"


def can_load(keys: Sequence[Key]) -> bool:
    """Whether all keys are factors, in pairs, and alphas of layers that the language model has."""
    roles: dict[str, list[str]] = {}
    for key in keys:
        roles.setdefault(layer_name(key.stem) or "", []).append(key.role)
    return bool(roles) and "" not in roles and all(
        sorted(found) in (["A", "B"], ["A", "B", "alpha"]) for found in roles.values()
    )  # fmt: skip


def read_text_factors(file: TensorFile, keys: Sequence[Key]) -> TextFactors | None:
    """The factors in `keys`, or None when they are not all known, or do not fit each other."""
    if not can_load(keys):
        return None
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for key in keys:
        arrays.setdefault(layer_name(key.stem), {})[key.role] = file.array(key.text).astype(np.float64)
    factors = {}
    for name, found in arrays.items():
        a, b, alpha = found["A"], found["B"], found.get("alpha")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (alpha is not None and alpha.size != 1):
            return None
        factors[name] = (a if alpha is None else a * (alpha.item() / len(a)), b)
    return factors


def write_folder(factors: TextFactors, folder: Path) -> Path:
    """Write peft's folder: adapter_model.safetensors and adapter_config.json, alpha folded into A in float32."""
    ranks = {name: len(a) for name, (a, _) in factors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: found for name, found in ranks.items() if found != rank}
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": rank, "rank_pattern": others, "alpha_pattern": others,
        "target_modules": sorted(ranks),
    }  # fmt: skip
    tensors = {
        f"base_model.model.{name}.lora_{side}.weight": Stored.of(factor)
        for name, pair in factors.items()
        for side, factor in zip("AB", pair, strict=True)
    }
    atomic_write_bytes(folder / "adapter_model.safetensors", pack(tensors, {"format": "pt"}))
    atomic_write_json(folder / "adapter_config.json", config)
    return folder
