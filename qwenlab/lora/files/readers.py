"""What diffusers and ComfyUI do with a LoRA file as it is.

diffusers is *asked*: the installed version's own `load_lora_weights` loads a shadow of the file, which has the same
keys, dtypes, ranks, alphas and metadata but only WIDTH columns, into a shadow of the model; then the factor that each
layer really got is measured. So the answer belongs to the installed version, whichever that is.

ComfyUI is not executed. Its answer follows from its source: comfy/lora.py (`model_lora_keys_unet`, `load_lora`) and
comfy/weight_adapter/lora.py of Comfy-Org/ComfyUI at 17358c8 (2026).
"""

from __future__ import annotations

import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qwenlab.lora.files.layouts import QWEN_IMAGE_21
from qwenlab.lora.files.reading import DTYPES, Layer, LoraFile, open_tensors

WIDTH = 8  # of the shadow: one head of 8
ROUNDING = 1e-2  # a relative difference below this is rounding: bfloat16 gives up to 4e-3
EXACT = 1e-5  # and below this float32's

_COMFYUI_PREFIXES = ("", "transformer.", "diffusion_model.", "lora_unet_", "lycoris_")
# Qwen-Image-2.1's gate and projection become one matrix there; the halves have fewer names.
_COMFYUI_HALVES_PREFIXES = ("", "transformer.", "lycoris_")
_COMFYUI_STYLES = {
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_A", ".lora_B"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
}
_COMFYUI_TEXT_ENCODER = ("text_encoders.", "lora_te_layers_")


@dataclass(frozen=True)
class Verdict:
    """What a reader does with a file. outcome: "works", "rounds", "ignores alpha", "wrong scale", "drops DoRA",
    "loads a part", "loads nothing", "leaves weights empty" or "error". "rounds" is "works" up to the rounding of 16-bit
    numbers."""

    reader: str
    outcome: str
    detail: str = ""

    @property
    def works(self) -> bool:
        return self.outcome in ("works", "rounds")

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome


def ask_diffusers(lora: LoraFile) -> Verdict:
    """Load a shadow of the file with the installed diffusers and compare each layer's factor with the file's."""
    reader = f"diffusers {metadata.version('diffusers')}"
    transformer = shadow_model(lora)
    with tempfile.TemporaryDirectory() as folder:
        products = _write_shadow(lora, transformer, Path(folder) / "shadow.safetensors")
        try:
            load_stock(transformer, folder, "shadow.safetensors")
        except Exception as error:  # whatever the stock loader raises is the answer
            lines = str(error).splitlines() or [""]
            return Verdict(reader, "error", f"{type(error).__name__}: {short(lines[0])}")
    verdict = _compare(lora, applied_updates(transformer), products)
    notes = [verdict.detail] if verdict.detail else []
    if lora.text_encoder:
        notes.append("the text encoder's part is dropped without an error")
    return Verdict(reader, verdict.outcome, "; ".join(notes))


def load_stock(transformer: nn.Module, folder: str | Path, name: str) -> None:
    """`load_lora_weights` of the stock pipeline, quietly, on a pipeline that has this transformer and nothing else.

    The pipelines of Qwen-Image, Qwen-Image-Edit and Qwen-Image-2.1 share this loader.
    """
    from diffusers import QwenImagePipeline

    with _quiet():
        pipeline = QwenImagePipeline(None, None, None, None, transformer)
        pipeline.load_lora_weights(folder, weight_name=name)


def applied_updates(transformer: nn.Module) -> dict[str, tuple[float, Tensor, Tensor, bool]]:
    """What peft applies to each layer: scaling, A (r, k), B (d, r), and whether it has DoRA's magnitudes."""
    updates = {}
    for name, module in transformer.named_modules():
        for adapter, a in getattr(module, "lora_A", {}).items():
            magnitude = adapter in getattr(module, "lora_magnitude_vector", {})
            updates[name] = (
                module.scaling[adapter],
                a.weight.detach(),
                module.lora_B[adapter].weight.detach(),
                magnitude,
            )
    return updates


def shadow_model(lora: LoraFile) -> nn.Module:
    """The stock transformer with the right names and number of blocks, WIDTH wide (3,000 parameters a block)."""
    from diffusers import QwenImage21Transformer2DModel, QwenImageTransformer2DModel

    common = dict(num_layers=lora.blocks, num_attention_heads=1, attention_head_dim=WIDTH, axes_dims_rope=(2, 2, 4))
    with torch.random.fork_rng(devices=[]):
        if lora.family is QWEN_IMAGE_21:
            return QwenImage21Transformer2DModel(**common, in_channels=8, out_channels=8, context_in_dim=WIDTH)
        return QwenImageTransformer2DModel(**common, in_channels=8, out_channels=2, joint_attention_dim=WIDTH)


def _write_shadow(lora: LoraFile, transformer: nn.Module, path: Path) -> dict[str, Tensor]:
    """Write the shadow's file; return the products B A (d, k) that its layers hold, in float64."""
    generator = torch.Generator().manual_seed(0)
    linear = dict(transformer.named_modules())
    state, products = {}, {}
    for name, layer in lora.layers.items():
        d, k = linear[name].out_features, linear[name].in_features
        a = torch.randn(layer.rank, k, generator=generator).to(_dtype(lora, layer.a.text))
        b = torch.randn(d, layer.rank, generator=generator).to(_dtype(lora, layer.b.text))
        state |= {layer.a.text: a, layer.b.text: b}
        products[name] = b.double() @ a.double()
        if layer.magnitude:
            shape = lora.index[layer.magnitude.text][1]
            state[layer.magnitude.text] = torch.ones([d if size == layer.shape[0] else 1 for size in shape])
    with open_tensors(lora.path) as file:
        for key, (_, shape) in lora.index.items():
            if key not in state:
                small = all(size == 1 for size in shape)  # alphas keep their values
                state[key] = file.get_tensor(key) if small else torch.zeros([min(size, 4) for size in shape])
    save_file(state, path, metadata=dict(lora.metadata))
    return products


def _dtype(lora: LoraFile, key: str) -> torch.dtype:
    return getattr(torch, DTYPES[lora.index[key][0]])


def _compare(lora: LoraFile, updates: dict, products: dict[str, Tensor]) -> Verdict:
    if not updates:
        return Verdict("", "loads nothing", "the pipeline goes on without the LoRA, after a warning at most")
    empty = [name for name, (_, a, b, _) in updates.items() if a.is_meta or b.is_meta]
    if empty:
        detail = f"after a warning, {empty[0]} and others stay without values: pictures are garbage or an error"
        return Verdict("", "leaves weights empty", detail)
    missing = [name for name in lora.layers if name not in updates]
    if missing:
        return Verdict(
            "", "loads a part", f"{len(missing)} of {len(lora.layers)} layers are left out ({missing[0]}, ...)"
        )
    factors, spread = {}, 0.0
    for name, layer in lora.layers.items():
        scaling, a, b, magnitude = updates[name]
        update, product = scaling * (b.double() @ a.double()), products[name]
        factors[name] = ((update * product).sum() / product.square().sum()).item()
        spread = max(
            spread, ((update - layer.scaling * product).norm() / product.norm() / abs(layer.scaling or 1)).item()
        )
        if layer.magnitude and not magnitude:
            return Verdict("", "drops DoRA", "the magnitudes are ignored, the low-rank part alone is applied")
    if spread <= EXACT:
        return Verdict("", "works")
    if spread <= ROUNDING:
        return Verdict("", "rounds", f"alpha / rank is multiplied in 16 bits, updates are off by up to {spread:.1%}")
    if all(abs(factor - 1) <= ROUNDING for factor in factors.values()):
        return Verdict("", "ignores alpha", _strength(lora, factors))
    return Verdict("", "wrong scale", _strength(lora, factors))


def ask_comfyui(lora: LoraFile) -> Verdict:
    """What ComfyUI's source says of the keys; the label is part of the answer."""
    reader = "ComfyUI (from its source, not executed)"
    loaded = {name: layer for name, layer in lora.layers.items() if _comfyui_knows(name, layer)}
    others = [key for key in lora.others if key.role in ("LoKr", "LoHa", "OFT", "full difference")]
    others_loaded = [key for key in others if key.prefix in _COMFYUI_PREFIXES and not key.adapter]
    notes = []
    known = all(key.text.startswith(_COMFYUI_TEXT_ENCODER) for key in lora.text_encoder)
    if lora.text_encoder:
        notes.append(f"the text encoder's part {'is loaded with its CLIP input' if known else 'is not loaded'}")
    if lora.text_encoder and known and not lora.layers and not others:
        outcome, detail = "works", ""
    elif not loaded and not others_loaded:
        outcome, detail = "loads nothing", "every key is reported as not loaded"
    elif len(loaded) < len(lora.layers) or len(others_loaded) < len(others):
        missing = next((name for name in lora.layers if name not in loaded), others[0].text if others else "")
        outcome, detail = "loads a part", f"{missing} and others are reported as not loaded"
    elif any(layer.magnitude and "dora_scale" not in layer.magnitude.text for layer in loaded.values()):
        outcome, detail = "drops DoRA", "it knows dora_scale only; the low-rank part alone is applied"
    elif ignored := [
        name for name, layer in loaded.items() if layer.alpha_from != "tensors" and abs(layer.scaling - 1) > EXACT
    ]:
        outcome, detail = "ignores alpha", _strength(lora, dict.fromkeys(ignored, 1.0))
    else:
        outcome, detail = "works", ""
    return Verdict(reader, outcome, "; ".join(filter(None, [detail, *notes])))


def _comfyui_knows(name: str, layer: Layer) -> bool:
    halves = name.endswith((".img_mlp.proj", ".img_mlp.gate_layer"))
    prefixes = _COMFYUI_HALVES_PREFIXES if halves else _COMFYUI_PREFIXES
    return layer.a.prefix in prefixes and (layer.a.style, layer.b.style) in _COMFYUI_STYLES


def _strength(lora: LoraFile, factors: dict[str, float]) -> str:
    ratios = sorted(factor / (lora.layers[name].scaling or 1) for name, factor in factors.items())
    low, high = f"{ratios[0]:.3g}", f"{ratios[-1]:.3g}"
    return f"the LoRA acts with {low if low == high else f'{low} to {high}'} times its strength"


def short(text: str, length: int = 120) -> str:
    """One line of foreign text, fit for a terminal."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= length else text[: length - 4] + " ..."


@contextmanager
def _quiet():
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
