"""The doctor's report on a LoRA file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qwenlab.lora.files.architecture import QWEN_IMAGE, block_of, without_block
from qwenlab.lora.files.comfyui import ask_comfyui
from qwenlab.lora.files.fitting import SHARED
from qwenlab.lora.files.header import DTYPES, TensorFile
from qwenlab.lora.files.layouts import PREFIXES, Key
from qwenlab.lora.files.leftovers import about
from qwenlab.lora.files.reading import LoraFile, is_per_output, read_lora
from qwenlab.lora.files.stock import reader_name
from qwenlab.lora.files.stock_rules import predict_diffusers
from qwenlab.lora.files.text_encoder import can_load
from qwenlab.lora.files.verdict import Verdict, short

_HINTS = ("modelspec.architecture", "modelspec.title", "ss_base_model_version", "qwenlab.trigger")


@dataclass(frozen=True)
class Report:
    """What a LoRA file is and what readers do with it; `str()` of it is the doctor's answer, one fact a line.

    damage: layers with NaN; idle: layers that change nothing. diffusers is None where no rule decides and its loader
    was not run.
    """

    file: LoraFile
    damage: str
    idle: str
    diffusers: Verdict | None
    comfyui: Verdict

    def __str__(self) -> str:
        stock = self.diffusers or Verdict(
            reader_name(), "not known", "no rule decides, its own loader must be executed"
        )
        facts = [
            *describe(self.file),
            ("damage", self.damage),
            ("idle", self.idle),
            (self.comfyui.reader, str(self.comfyui)),
            (stock.reader, str(stock)),
        ]
        return "\n".join([str(self.file.path), *(f"  {label}: {text}" for label, text in facts if text)])

    def executed(self) -> Report:
        """The same with the answer of diffusers' own loader, which is run now: half a minute of imports."""
        from qwenlab.lora.files.readers import ask_diffusers  # torch, diffusers and peft

        return replace(self, diffusers=ask_diffusers(self.file))


def diagnose(path: str | Path, *, execute: bool | None = None) -> Report:
    """Read a LoRA file, look for damage, say what both readers do with it.

    execute: whether to run diffusers' own loader. By default only where no rule of `stock_rules` decides; the rest
    takes a second. Raises QwenlabError for what `read_lora` refuses.
    """
    lora = read_lora(path)
    report = Report(lora, *damage_texts(lora), predict_diffusers(lora), ask_comfyui(lora))
    return report.executed() if execute or (execute is None and report.diffusers is None) else report


def describe(lora: LoraFile) -> list[tuple[str, str]]:
    """Label and text of each fact that the header tells."""
    return [
        ("kind", ", ".join(lora.kinds) or "nothing for the transformer"),
        ("fits", model_text(lora)),
        ("format", format_text(lora)),
        ("prefix", prefix_text(lora)),
        ("fused", fused_text(lora)),
        ("ranks", ranks_text(lora)),
        ("alpha", alpha_text(lora)),
        ("magnitudes", magnitudes_text(lora)),
        ("targets", targets_text(lora)),
        ("dtype", dtype_text(lora)),
        ("text encoder", text_encoder_text(lora)),
        *(("besides", about(group)) for group in lora.groups),
        ("says", "; ".join(f"{key}: {short(lora.metadata[key])}" for key in _HINTS if key in lora.metadata)),
        *(("doubt", short(doubt, 400)) for doubt in lora.doubts),
    ]


def model_text(lora: LoraFile) -> str:
    """Which base model it fits."""
    if lora.model is None:
        width = f"width {lora.width}" if lora.width else "a width that the file does not tell"
        return f"{lora.family.name}'s layers at {width}; no published model has {'it' if lora.width else 'to have it'}"
    name = lora.model.name
    if lora.model.family is not QWEN_IMAGE or name == "micro":
        return name
    if lora.base:
        return f"{name}; made for {lora.base}, its metadata says"
    if any(doubt.startswith(SHARED) for doubt in lora.doubts):
        return f"{name} by names and shapes, but see the doubt"
    return f"{name}; Qwen-Image-Edit has the same shapes, the file cannot tell them apart"


def format_text(lora: LoraFile) -> str:
    """Prefix and factor names with the name of the layout."""
    layouts = Counter((layer.a.prefix, layer.a.style, layer.b.style) for layer in lora.layers.values())
    texts = [f"{_layout(prefix)} ({prefix}*{a}, *{b})" for (prefix, a, b), _ in layouts.most_common()]
    prefixes = {key.prefix for key in lora.others if key.place} - {prefix for prefix, _, _ in layouts}
    return "; ".join([*texts, *(f"{_layout(prefix)} ({prefix}*)" for prefix in sorted(prefixes))])


def _layout(prefix: str) -> str:
    return PREFIXES.get(prefix, "known layers behind an unknown prefix")


def prefix_text(lora: LoraFile) -> str:
    """What stands before the layers' names and belongs to no layout."""
    keys = [key for layer in lora.layers.values() for key in (layer.a, layer.b)]
    keys += [key for key in lora.others if key.place]
    unknown = dict.fromkeys(key.prefix for key in keys if key.wrapped)
    if not unknown:
        return ""
    names = ", ".join(map(repr, unknown))
    return f"{names} is no layout's: diffusers' pipeline and ComfyUI do not take it off, --fix does"


def fused_text(lora: LoraFile) -> str:
    """Layers that share one B, and what they are in the model."""
    parts = {
        without_block(layer.a.layer): [without_block(part) for part in layer.a.place.parts]
        for layer in lora.layers.values()
        if layer.rows
    }
    texts = [f"{name} holds the rows of {', '.join(names)}" for name, names in parts.items()]
    return f"{'; '.join(texts)}; --fix splits them, exactly" if texts else ""


def magnitudes_text(lora: LoraFile) -> str:
    """DoRA's magnitudes: how many, how they are called, along which axis."""
    layers = [layer for layer in lora.layers.values() if layer.magnitude]
    if not layers:
        return ""
    names = _distribution(layer.magnitude.style for layer in layers)
    axis = _distribution("output" if is_per_output(lora, layer) else "input" for layer in layers)
    return f"{len(layers)} of {len(lora.layers)} layers have magnitudes of DoRA ({names}), one for each {axis}"


def ranks_text(lora: LoraFile) -> str:
    """The ranks, with the number of layers of each when they differ."""
    return _distribution(layer.rank for layer in lora.layers.values())


def alpha_text(lora: LoraFile) -> str:
    """Alphas, where they are stored, and the scaling that they make."""
    if not lora.layers:
        return ""
    scaling = _distribution(f"{layer.scaling:g}" for layer in lora.layers.values())
    alphas = [layer.alpha for layer in lora.layers.values()]
    if set(alphas) == {None}:
        return "none stored; every reader takes alpha = rank (scaling 1)"
    stored = _distribution("none" if alpha is None else f"{alpha:g}" for alpha in alphas)
    places = sorted({layer.alpha_from for layer in lora.layers.values()} - {""})
    return f"{stored}, from {' and '.join(places)}; scaling {scaling}"


def targets_text(lora: LoraFile) -> str:
    """Coverage: which linear layers of a block, in how many blocks, and which layers outside the blocks."""
    names = list(lora.layers) or sorted({key.layer for key in lora.others if key.layer})
    counts = Counter(without_block(name) for name in names if block_of(name) is not None)
    parts = []
    if counts:
        blocks = {block_of(name) for name in names} - {None}
        absent = [name for name in lora.family.block if name not in counts]
        parts.append(f"{len(counts)} of the {len(lora.family.block)} linear layers of a block")
        parts.append(f"in {len(blocks)} of {lora.blocks} blocks")
        if absent:
            parts.append(f"not {', '.join(absent)}" if len(absent) <= len(counts) else f"namely {', '.join(counts)}")
        uneven = [f"{name} in {count}" for name, count in counts.items() if count < len(blocks)]
        if uneven:
            parts.append(f"of these blocks only: {', '.join(uneven)}")
    outside = [name for name in names if block_of(name) is None]
    if outside:
        parts.append(f"outside the blocks: {', '.join(outside)}")
    return "; ".join(parts)


def dtype_text(lora: LoraFile) -> str:
    """Dtypes of the factors."""
    keys = [key.text for layer in lora.layers.values() for key in (layer.a, layer.b)]
    keys = keys or [key.text for key in lora.others]
    return _distribution(DTYPES.get(lora.index[key][0], lora.index[key][0]) for key in keys)


def text_encoder_text(lora: LoraFile) -> str:
    """What loads the text encoder's part."""
    if not lora.text_encoder:
        return ""
    count = f"{len(lora.text_encoder)} tensors"
    if can_load(lora.text_encoder):
        return (
            f"{count}: the stock pipeline never loads them; --fix writes them as peft's folder, which "
            "pipeline.text_encoder.load_adapter(FOLDER) reads"
        )
    return f"{count}: the stock pipeline never loads them, and no other loader is known for their names"


def damage_texts(lora: LoraFile) -> tuple[str, str]:
    """Layers with NaN or infinity, and layers that do nothing because a factor is zero; "" for none."""
    broken, idle = [], []
    file = TensorFile(lora.path)
    for name, layer in lora.layers.items():
        a, b = file.array(layer.a.text), file.array(layer.b.text)
        b = b[slice(*layer.rows)] if layer.rows else b
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            broken.append(name)
        elif not (a.any() and b.any() and layer.scaling):
            idle.append(name)
    others = [key for key in lora.others if _is_broken(file, key)]
    broken += [key.text for key in others]
    texts = []
    for names, what in ((broken, "hold NaN or infinity"), (idle, "are zero and change nothing")):
        shown = ", ".join(names[:4]) + ", ..." * (len(names) > 4)
        texts.append(f"{len(names)} layers {what} ({shown})" if names else "")
    if idle and all(_never_trained(lora, name) for name in idle):
        texts[1] += "; the text half of the last block reaches no pixel, so that no training changes it"
    return tuple(texts)


def _never_trained(lora: LoraFile, name: str) -> bool:
    """Whether a layer gets no gradient in any training: what it computes is dropped after the last block."""
    last = block_of(name) == lora.blocks - 1 and lora.family is QWEN_IMAGE
    return last and without_block(name).startswith(("attn.add_q_proj", "attn.to_add_out", "txt_mlp"))


def _is_broken(file: TensorFile, key: Key) -> bool:
    return file.index[key.text][0] in DTYPES and not np.isfinite(file.array(key.text)).all()


def _distribution(values: Iterable[object]) -> str:
    counts = Counter(values)
    if len(counts) <= 1:
        return str(next(iter(counts), ""))
    return ", ".join(f"{value} ({count}x)" for value, count in counts.most_common())
