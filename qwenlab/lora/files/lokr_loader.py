"""LoKr in diffusers: the pipeline refuses it, `transformer.load_lora_adapter` may read it. It is executed to know.

That loader takes the Kronecker factors as they are and passes over alpha, so that a file whose alpha counts comes out
too strong or too weak; and it must find one `decompose_factor` that explains all layers. One layer of each sort is
loaded into a model of the real width whose other weights have no memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwenlab.lora.files.adapters import Adapter, lokr_update
from qwenlab.lora.files.architecture import QWEN_IMAGE_21, block_of, kind_in, without_block
from qwenlab.lora.files.header import TensorFile, pack
from qwenlab.lora.files.layouts import FLAT_PREFIXES, Key
from qwenlab.lora.files.leftovers import ADAPTER_MAGNITUDE
from qwenlab.lora.files.reading import LoraFile
from qwenlab.lora.files.stock import quiet
from qwenlab.lora.files.verdict import short

if TYPE_CHECKING:
    from torch import nn

LOADER = "transformer.load_lora_adapter"
_HEAD = 8  # dimensions of a head: axes of 2, 2 and 4
_EXACT, _ROUNDING = 1e-5, 1e-2  # relative differences of float32, and of 16-bit factors (4e-3)


def ask_lokr_loader(lora: LoraFile) -> str:
    """A sentence on what `load_lora_adapter` does with the LoKr of a file, "" when it holds none or more than LoKr."""
    lokr = {name: adapter for name, adapter in lora.adapters.items() if adapter.kind == "LoKr"}
    if not lokr or lora.layers or lokr.keys() != lora.adapters.keys():
        return ""
    prefixes = {key.prefix for adapter in lokr.values() for key in adapter.keys.values()}
    prefix = prefixes.pop()
    if prefixes or prefix.endswith(tuple(FLAT_PREFIXES)) or "..." in prefix or prefix.endswith("_"):
        return f"{LOADER} does not know these names either"
    samples = _samples(lora, lokr)
    if not samples or not lora.width or lora.width % _HEAD:
        return ""
    call = f"{LOADER}(FILE, prefix={prefix.rstrip('.') or None!r})"
    file = TensorFile(lora.path)
    alphas = {key.layer: float(file.array(key.text).reshape(())) for key in lora.alphas}
    try:
        transformer = _load(lora, file, samples, prefix)
    except Exception as error:  # whatever the stock loader raises is the answer
        return f"{call} raises {type(error).__name__}: {short(str(error).splitlines()[0] if str(error) else '')}"
    found = f"{call} {_compare(transformer, file, samples, alphas)}"
    return f"{found}, and leaves out the magnitudes of DoRA" if _magnitudes(lora) else found


def _magnitudes(lora: LoraFile) -> list[Key]:
    return [key for group in lora.groups if group.what == ADAPTER_MAGNITUDE for key in group.keys]


def _samples(lora: LoraFile, lokr: dict[str, Adapter]) -> dict[str, Adapter]:
    """One layer for each name in a block, set of factor shapes and alpha."""
    found: dict[object, tuple[str, Adapter]] = {}
    for name, adapter in lokr.items():
        if kind_in(lora.family, name) == "linear" and block_of(name) is not None:
            shapes = tuple(sorted((factor, lora.index[key.text][1]) for factor, key in adapter.keys.items()))
            found.setdefault((without_block(name), shapes), (name, adapter))
    return dict(found.values())


def _load(lora: LoraFile, file: TensorFile, samples: dict[str, Adapter], prefix: str) -> nn.Module:
    """A transformer into which the stock loader has put the samples."""
    keys = [key.text for adapter in samples.values() for key in adapter.keys.values()]
    keys += [key.text for key in (*lora.alphas, *_magnitudes(lora)) if key.layer in samples]
    transformer = _hollow_model(lora, samples)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "samples.safetensors"
        path.write_bytes(pack({key: file.stored(key) for key in keys}, {"format": "pt"}))
        transformer.load_lora_adapter(str(path), prefix=prefix.rstrip(".") or None)
    return transformer


def _hollow_model(lora: LoraFile, samples: dict[str, Adapter]) -> nn.Module:
    """The stock class at the file's width; the samples' weights are one number seen as a matrix, the rest has none."""
    import torch
    from diffusers import QwenImage21Transformer2DModel, QwenImageTransformer2DModel

    is_21 = lora.family is QWEN_IMAGE_21
    with torch.device("meta"):
        model = (QwenImage21Transformer2DModel if is_21 else QwenImageTransformer2DModel)(
            num_layers=max(block_of(name) for name in samples) + 1,
            num_attention_heads=lora.width // _HEAD,
            attention_head_dim=_HEAD,
            axes_dims_rope=(2, 2, 4),
        )
    for name in samples:
        layer = model.get_submodule(name)
        for leaf, parameter in list(layer.named_parameters()):
            number = torch.nn.Parameter(torch.zeros(1).expand(parameter.shape), requires_grad=False)
            setattr(layer, leaf, number)
    return model


def _compare(transformer: nn.Module, file: TensorFile, samples: dict[str, Adapter], alphas: dict[str, float]) -> str:
    """What the loader made of the samples, against what the file means."""
    factors, spread = [], 0.0
    for name, adapter in samples.items():
        module = transformer.get_submodule(name)
        names = list(getattr(module, "lokr_w1", {})) or list(getattr(module, "lokr_w1_a", {}))
        if not names:
            return f"leaves out {name}"
        got = module.get_delta_weight(names[0]).detach().double().numpy()
        meant = lokr_update(file, adapter, alphas.get(name))
        size = float(np.vdot(meant, meant))
        if not size:
            continue
        factors.append(float(np.vdot(got, meant)) / size)
        spread = max(spread, float(np.vdot(got - factors[-1] * meant, got - factors[-1] * meant) / size) ** 0.5)
    if spread > _ROUNDING:
        return "loads other weights than the file's"
    low, high = min(factors, default=1.0), max(factors, default=1.0)
    off = max(abs(low - 1), abs(high - 1), spread)
    if off <= _ROUNDING:
        return "reads it exactly" if off <= _EXACT else "reads it up to the rounding of 16-bit numbers"
    times = f"{low:.3g}" if np.isclose(low, high, rtol=1e-3) else f"{low:.3g} to {high:.3g}"
    return f"passes over alpha: it acts with {times} times its strength" if high else "loads nothing"
