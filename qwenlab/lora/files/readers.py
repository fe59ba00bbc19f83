"""diffusers is *asked*: its loaders read a shadow of the file, and what each layer really got is measured.

The shadow has the same keys, dtypes, ranks, alphas and metadata but only WIDTH columns, and is loaded into a shadow of
the model. So the answer belongs to the installed version, whichever that is. torch, diffusers and peft are imported
here and nowhere else in this package, when a question is asked.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwenlab.lora.files.adapters import Layer
from qwenlab.lora.files.architecture import QWEN_IMAGE_21
from qwenlab.lora.files.header import DTYPES
from qwenlab.lora.files.leftovers import BIAS_OF_LORA, Group
from qwenlab.lora.files.lokr_loader import ask_lokr_loader
from qwenlab.lora.files.reading import LoraFile, open_tensors
from qwenlab.lora.files.stock import quiet, reader_name
from qwenlab.lora.files.stock_rules import must_not_load
from qwenlab.lora.files.verdict import Verdict, named, short, split_harmless, strength

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WIDTH = 8  # of the shadow: one head of 8
ROUNDING = 1e-2  # a relative difference below this is rounding: bfloat16 gives up to 4e-3
EXACT = 1e-5  # and below this float32's


def ask_diffusers(lora: LoraFile) -> Verdict:
    """Load a shadow of the file with the installed diffusers and compare each layer's factor with the file's."""
    if refusal := must_not_load(lora):
        return refusal
    verdict = _load_shadow(lora)
    besides = bool(lora.others or lora.text_encoder or any(layer.magnitude for layer in lora.layers.values()))
    if verdict.outcome == "error" and besides and lora.layers:
        plain = {name: replace(layer, magnitude=None) for name, layer in lora.layers.items()}
        alone = _load_shadow(replace(lora, layers=plain, others=(), text_encoder=()))
        if alone.outcome != "error":
            magnitudes = [layer.magnitude for layer in lora.layers.values() if layer.magnitude]
            groups = [*lora.groups, *([Group("magnitudes of DoRA", tuple(magnitudes))] if magnitudes else [])]
            cause = named(groups) or "the text encoder's part"
            return replace(verdict, detail=f"{verdict.detail}; refused for {cause}; the factors alone: {alone.outcome}")
    if sentence := ask_lokr_loader(lora):
        return replace(verdict, detail=f"{verdict.detail}; {sentence}")
    return verdict


def load_stock(transformer: nn.Module, folder: str | Path, name: str) -> None:
    """`load_lora_weights` of the stock pipeline, quietly, on a pipeline that has this transformer and nothing else.

    The pipelines of Qwen-Image, Qwen-Image-Edit and Qwen-Image-2.1 share this loader.
    """
    from diffusers import QwenImagePipeline

    with quiet():
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
    import torch
    from diffusers import QwenImage21Transformer2DModel, QwenImageTransformer2DModel

    common = dict(num_layers=lora.blocks, num_attention_heads=1, attention_head_dim=WIDTH, axes_dims_rope=(2, 2, 4))
    with torch.random.fork_rng(devices=[]):
        if lora.family is QWEN_IMAGE_21:
            return QwenImage21Transformer2DModel(**common, in_channels=8, out_channels=8, context_in_dim=WIDTH)
        return QwenImageTransformer2DModel(**common, in_channels=8, out_channels=2, joint_attention_dim=WIDTH)


def _load_shadow(lora: LoraFile) -> Verdict:
    transformer = shadow_model(lora)
    with tempfile.TemporaryDirectory() as folder:
        products = _write_shadow(lora, transformer, Path(folder) / "shadow.safetensors")
        try:
            load_stock(transformer, folder, "shadow.safetensors")
        except Exception as error:  # whatever the stock loader raises is the answer
            lines = str(error).splitlines() or [""]
            return Verdict(reader_name(), "error", f"{type(error).__name__}: {short(lines[0])}", "executed")
    outcome, detail = _compare(lora, applied_updates(transformer), products)
    if any(parameter.is_meta for name, parameter in transformer.named_parameters() if "lora_" in name):
        outcome = "leaves weights empty"
    lost, harmless = split_harmless(group for group in lora.groups if group.what != BIAS_OF_LORA)
    if outcome in ("works", "rounds") and (lost or lora.text_encoder):
        outcome = "loads a part"
    notes = [detail] if detail else []
    if lost:
        notes.append(f"left out without an error: {named(lost)}")
    if lora.text_encoder:
        notes.append("the text encoder's part is dropped without an error")
    if harmless:
        notes.append(f"passed over, without effect: {named(harmless)}")
    return Verdict(reader_name(), outcome, "; ".join(notes), "executed")


def _write_shadow(lora: LoraFile, transformer: nn.Module, path: Path) -> dict[str, Tensor]:
    """Write the shadow's file; return the products B A (d, k) that its layers hold, in float64."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    linear = dict(transformer.named_modules())
    state, products = {}, {}
    for name, layer in sorted(lora.layers.items(), key=lambda item: item[1].rows or (0, 0)):  # rows in their order
        d, k = linear[name].out_features, linear[name].in_features
        if layer.a.text not in state:
            a = torch.randn(layer.rank, k, generator=generator)
            state[layer.a.text] = a.to(_dtype(lora, layer.a.text))
        b = torch.randn(d, layer.rank, generator=generator).to(_dtype(lora, layer.b.text))
        products[name] = b.double() @ state[layer.a.text].double()
        if layer.rows and layer.b.text in state:
            b = torch.cat([state[layer.b.text].float(), b.float()]).to(b.dtype)
        state[layer.b.text] = b
        if layer.magnitude:
            state[layer.magnitude.text] = torch.ones(_small(lora, layer, d, k))
    with open_tensors(lora.path) as file:
        for key in (*lora.others, *lora.text_encoder, *lora.alphas):
            shape = lora.index[key.text][1]
            small = all(size == 1 for size in shape)  # alphas keep their values
            state[key.text] = file.get_tensor(key.text) if small else torch.zeros([min(size, 4) for size in shape])
            if key.role == "bias" and key.layer in products:
                state[key.text] = torch.ones(len(products[key.layer]))
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=dict(lora.metadata) or None)
    return products


def _small(lora: LoraFile, layer: Layer, d: int, k: int) -> list[int]:
    """The shape of DoRA's magnitudes in the shadow."""
    shape = lora.index[layer.magnitude.text][1]
    return [d if size == layer.shape[0] else k if size == layer.shape[1] else size for size in shape]


def _dtype(lora: LoraFile, key: str) -> torch.dtype:
    import torch

    return getattr(torch, DTYPES[lora.index[key][0]])


def _compare(lora: LoraFile, updates: dict, products: dict[str, Tensor]) -> tuple[str, str]:
    if not updates:
        return "loads nothing", "the pipeline goes on without the LoRA, after a warning at most"
    empty = [name for name, (_, a, b, _) in updates.items() if a.is_meta or b.is_meta]
    if empty:
        detail = f"after a warning, {empty[0]} and others stay without values: pictures are garbage or an error"
        return "leaves weights empty", detail
    missing = [name for name in lora.layers if name not in updates]
    if missing:
        return "loads a part", f"{len(missing)} of {len(lora.layers)} layers are left out ({missing[0]}, ...)"
    factors, spread = {}, 0.0
    for name, layer in lora.layers.items():
        scaling, a, b, magnitude = updates[name]
        update, product = scaling * (b.double() @ a.double()), products[name]
        factors[name] = ((update * product).sum() / product.square().sum()).item()
        spread = max(
            spread, ((update - layer.scaling * product).norm() / product.norm() / abs(layer.scaling or 1)).item()
        )
        if layer.magnitude and not magnitude:
            return "drops DoRA", "the magnitudes are ignored, the low-rank part alone is applied"
    if spread <= EXACT:
        return "works", ""
    if spread <= ROUNDING:
        return "rounds", f"alpha / rank is multiplied in 16 bits, updates are off by up to {spread:.1%}"
    if all(abs(factor - 1) <= ROUNDING for factor in factors.values()):
        return "ignores alpha", strength(lora.layers, factors)
    return "wrong scale", strength(lora.layers, factors)
