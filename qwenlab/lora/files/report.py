"""The doctor's report on a LoRA file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qwenlab.lora.files.layouts import PREFIXES, QWEN_IMAGE, block_of, without_block
from qwenlab.lora.files.readers import Verdict, ask_comfyui, ask_diffusers, short
from qwenlab.lora.files.reading import DTYPES, LoraFile, open_tensors, read_factors, read_lora

_HINTS = ("modelspec.architecture", "modelspec.title", "ss_base_model_version", "qwenlab.trigger")


@dataclass(frozen=True)
class Report:
    """What a LoRA file is and what readers do with it; `str()` of it is the doctor's answer, one fact a line."""

    file: LoraFile
    damage: str
    diffusers: Verdict
    comfyui: Verdict

    def __str__(self) -> str:
        facts = [
            ("kind", ", ".join(self.file.kinds) or "nothing for the transformer"),
            ("fits", model_text(self.file)),
            ("format", format_text(self.file)),
            ("ranks", ranks_text(self.file)),
            ("alpha", alpha_text(self.file)),
            ("targets", targets_text(self.file)),
            ("dtype", dtype_text(self.file)),
            (
                "text encoder",
                f"{len(self.file.text_encoder)} tensors: {TEXT_ENCODER}" if self.file.text_encoder else "",
            ),
            (
                "says",
                "; ".join(f"{key}: {short(self.file.metadata[key])}" for key in _HINTS if key in self.file.metadata),
            ),
            ("damage", self.damage),
            (self.diffusers.reader, str(self.diffusers)),
            (self.comfyui.reader, str(self.comfyui)),
        ]
        return "\n".join([str(self.file.path), *(f"  {label}: {text}" for label, text in facts if text)])


TEXT_ENCODER = "the stock pipeline never loads them; in a file of their own, text_encoder.load_adapter does"


def diagnose(path: str | Path) -> Report:
    """Read a LoRA file, look for damage, ask both readers. Raises QwenlabError for what `read_lora` refuses."""
    lora = read_lora(path)
    return Report(lora, damage_text(lora), ask_diffusers(lora), ask_comfyui(lora))


def model_text(lora: LoraFile) -> str:
    """Which base model it fits."""
    if lora.model is None:
        width = f"width {lora.width}" if lora.width else "a width that the file does not tell"
        return f"{lora.family.name}'s layers at {width}; no published model has {'it' if lora.width else 'to have it'}"
    if lora.model.family is QWEN_IMAGE and lora.model.name != "micro":
        return f"{lora.model.name}; Qwen-Image-Edit has the same shapes, the file cannot tell them apart"
    return lora.model.name


def format_text(lora: LoraFile) -> str:
    """Prefix and factor names with the name of the layout."""
    layouts = Counter((layer.a.prefix, layer.a.style, layer.b.style) for layer in lora.layers.values())
    texts = [f"{PREFIXES[prefix]} ({prefix}*{a}, *{b})" for (prefix, a, b), _ in layouts.most_common()]
    prefixes = {key.prefix for key in lora.others} - {prefix for prefix, _, _ in layouts}
    return "; ".join([*texts, *(f"{PREFIXES[prefix]} ({prefix}*)" for prefix in sorted(prefixes))])


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


def damage_text(lora: LoraFile) -> str:
    """Layers with NaN or infinity, and layers that do nothing because a factor is zero; "" for a sound file."""
    broken, idle = [], []
    with open_tensors(lora.path) as file:
        for name, layer in lora.layers.items():
            a, b = (factor.float() for factor in read_factors(file, layer))
            if not (a.isfinite().all() and b.isfinite().all()):
                broken.append(name)
            elif not (a.any() and b.any()):
                idle.append(name)
    found = [(broken, "hold NaN or infinity"), (idle, "are zero and change nothing")]
    return "; ".join(f"{len(names)} layers {what} ({names[0]}, ...)" for names, what in found if names)


def _distribution(values: Iterable[object]) -> str:
    counts = Counter(values)
    if len(counts) <= 1:
        return str(next(iter(counts), ""))
    return ", ".join(f"{value} ({count}x)" for value, count in counts.most_common())
