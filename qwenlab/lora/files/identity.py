"""Which model a LoRA was trained on: what its metadata says, against what its layers say.

Shapes are not enough: FLUX.1's attention layers have Qwen-Image's names and width. Every trainer leaves other notes:

    modelspec.architecture, modelspec.implementation              kohya, musubi-tuner, OneTrainer, SimpleTuner
    ss_base_model_version, ss_sd_model_name, ss_network_module    kohya, musubi-tuner, ai-toolkit
    ot_config {"model_type": ..., "base_model_name": ...}         OneTrainer
    lora_adapter_metadata, adapter_config.json                    diffusers and peft: base model, class, targets

A contradiction is an error, a doubt is a sentence for the report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from qwenlab.lora.files.architecture import (
    FAMILIES,
    LOOKALIKES,
    QWEN_IMAGE_21,
    SHARED_NAMES,
    Family,
    block_of,
    without_block,
)

_GAP = r"[-_. ]*"
_QWEN = rf"qwen{_GAP}image{_GAP}"
#: Variants of Qwen-Image; the first that is found counts.
_VARIANTS = (
    ("Qwen-Image-2.1", rf"{_QWEN}v?2{_GAP}1(?!\d)"),
    ("Qwen-Image-Layered", rf"{_QWEN}layered"),
    ("Qwen-Image-Edit-2509", rf"{_QWEN}edit{_GAP}(plus[-_. :]*)?2509|{_QWEN}edit{_GAP}v2"),
    ("Qwen-Image-Edit-2511", rf"{_QWEN}edit{_GAP}(plus[-_. :]*)?2511|{_QWEN}edit{_GAP}v3"),
    ("Qwen-Image-Edit-Plus", rf"{_QWEN}edit{_GAP}plus"),  # trainers call 2509 and 2511 so, after the pipeline's class
    ("Qwen-Image-Edit", rf"{_QWEN}edit"),
    ("Qwen-Image-2512", rf"{_QWEN}(2512|v2{_GAP}0)"),  # SimpleTuner calls 2512 v2.0
    ("Qwen-Image", rf"{_QWEN}|^qwen$"),
)
_WORD, _END = r"(?<![a-z])", r"(?![a-z])"
_OTHERS = (
    ("FLUX.2", rf"flux{_GAP}2"),
    ("FLUX.1", r"flux|kontext"),
    ("Chroma", r"chroma"),
    ("Stable Diffusion XL", rf"sd{_GAP}xl|stable{_GAP}diffusion{_GAP}xl|illustrious|noobai|{_WORD}pony"),
    ("Stable Diffusion 3", rf"{_WORD}sd{_GAP}3|stable{_GAP}diffusion{_GAP}3"),
    ("Stable Diffusion", rf"stable{_GAP}diffusion|{_WORD}sd{_GAP}v?[12](?!\d)|{_WORD}v(1-5|2-1)"),
    ("Wan", rf"{_WORD}wan{_END}"),
    ("HunyuanVideo", rf"hunyuan{_GAP}video|framepack|^hv(15)?$"),
    ("HunyuanImage", rf"hunyuan{_GAP}image"),
    ("Z-Image", rf"{_WORD}z[-_ ]?image"),
    ("Krea 2", r"krea"),
    ("LTX-Video", rf"{_WORD}ltx"),
    *(
        (name, rf"{_WORD}{name.lower()}")
        for name in (
            "HunyuanDiT", "HiDream", "Lumina", "Anima", "Ideogram", "CogVideo", "CogView", "PixArt", "AuraFlow", "SANA",
            "Kandinsky", "Kolors", "OmniGen", "MiniMax", "Mochi", "Ernie", "Nucleus", "Ovis", "MageFlow", "Cosmos",
            "Bria", "LongCat",
        )
    ),
)  # fmt: skip
_WEAK = (
    "modelspec.title",
    "ss_output_name",
    "modelspec.description",
    "modelspec.tags",
    "modelspec.merged_from",
    "name",
)
_STRONG = re.compile(
    r"base_?model|architecture|^arch$|model_(name|type|family|class)|name_or_path|network_module|implementation"
    r"|^ss_v2$",
    re.IGNORECASE,
)
_NAMED_OR_DOUBTED = ("modelspec.architecture", "ss_base_model_version")  # an unknown name here is worth a sentence
_NOT_THE_BASE = re.compile(r"text_encoder|vae|lora_model|embedding|tokenizer|controlnet|optimizer|tag_freq|dataset")
_MAX_JSON = 1_000_000  # characters of an entry that is searched


@dataclass(frozen=True)
class Claim:
    """One entry that names a model. key: its name; text: its value; model: which it means, "" when unknown."""

    key: str
    text: str
    model: str
    strong: bool

    def __str__(self) -> str:
        text = "".join(character if character.isprintable() else "?" for character in self.text)
        return f"{self.key} says {text if len(text) <= 60 else text[:57] + '...'!r}"

    @property
    def is_qwen(self) -> bool:
        return self.model.startswith("Qwen")


def read_claims(entries: Mapping[str, object]) -> list[Claim]:
    """What metadata and peft's configuration say about the base model, by the entries' names."""
    claims = []
    for key, text in sorted(_entries(entries)):  # a file has them in any order
        leaf = key.rpartition("/")[2]
        strong = bool(_STRONG.search(leaf)) or leaf.startswith("is_")
        if not strong and key not in _WEAK:
            continue
        model = name_model(text)
        if model or key in _NAMED_OR_DOUBTED:
            claims.append(Claim(key.replace("/", "."), text, model, strong))
    return claims


def name_model(text: str) -> str:
    """The model that a name or path means; "" when none or several are recognised.

    Of a path, the last part that names a model counts: `black-forest-labs/FLUX.1-dev`, `Flux.1-dev/lora`.
    """
    for part in reversed(re.split(r"[/\\]", text.strip().strip('"'))):
        qwen = next((name for name, pattern in _VARIANTS if re.search(pattern, part, re.IGNORECASE)), "")
        other = next((name for name, pattern in _OTHERS if re.search(pattern, part, re.IGNORECASE)), "")
        if qwen or other:
            return "" if qwen and other else qwen or other
    return ""


def find_contradiction(claims: Iterable[Claim], family: Family) -> Claim | None:
    """The first claim that the layers rule out, or that names another maker's model."""
    is_21 = family is QWEN_IMAGE_21
    for claim in claims:
        if claim.strong and claim.model:
            says_21 = claim.model == "Qwen-Image-2.1"
            if not claim.is_qwen or (says_21 and not is_21) or (is_21 and not says_21 and claim.model != "Qwen-Image"):
                return claim
    return None


def said_model(claims: Iterable[Claim]) -> str:
    """The most exact variant of Qwen-Image that the metadata names, "" when it names none or several."""
    names = {claim.model for claim in claims if claim.strong and claim.is_qwen}
    exact = _most_exact(names)
    return exact.pop() if len(exact) == 1 else ""


def _most_exact(names: set[str]) -> set[str]:
    """Without names that others say more exactly: Qwen-Image-Edit-2511 says Qwen-Image-Edit and -Edit-Plus, too."""
    plus = {"Qwen-Image-Edit-2509", "Qwen-Image-Edit-2511"}
    return {
        name
        for name in names
        if not any(other.startswith(f"{name}-") for other in names)
        and not (name == "Qwen-Image-Edit-Plus" and names & plus)
    }


def doubts_of(claims: Iterable[Claim], family: Family) -> list[str]:
    """Sentences on what the metadata leaves open."""
    claims = list(claims)
    strong = {claim.model for claim in claims if claim.strong and claim.model}
    doubts = []
    for claim in claims:
        if not claim.model and claim.strong:
            doubts.append(f"{claim}, a name that is not known here")
        elif not claim.strong and not claim.is_qwen:
            doubts.append(f"{claim}, which names {claim.model}")
        elif claim.model == "Qwen-Image" and family is QWEN_IMAGE_21:
            doubts.append(f"{claim}, but the layers are Qwen-Image-2.1's")
    exact = sorted(_most_exact(strong))
    if len(exact) > 1:
        doubts.append(f"its metadata names several models: {', '.join(exact)}")
    return doubts


def lookalikes(layers: Iterable[str], width: int) -> list[str]:
    """Other models that have all these layers in this width, with the number of their blocks: "FLUX.1 (19 blocks)"."""
    layers = list(layers)
    if not layers or any(without_block(layer) not in SHARED_NAMES for layer in layers):
        return []
    seen = max((block_of(layer) or 0 for layer in layers), default=0) + 1
    return [
        f"{name} ({blocks} blocks)"
        for name, (its_width, blocks) in LOOKALIKES.items()
        if its_width == width and seen <= blocks
    ]


def foreign_targets(configuration: Mapping) -> list[str]:
    """Targets in peft's configuration that no Qwen-Image has a module for. A pattern (one text) tells nothing."""
    targets = configuration.get("target_modules")
    targets = [target for target in targets if isinstance(target, str)] if isinstance(targets, list) else []
    names = [name for family in FAMILIES for name in (*family.block, *family.top, *family.fused, *family.norms)]
    places = [f".{name}" for name in names] + [f".transformer_blocks.0.{name}" for name in names]
    return [
        target
        for target in targets
        if not any(place.endswith(re.sub(r"(^|\.)transformer_blocks\.\d+\.", ".transformer_blocks.0.", f".{target}"))
                   for place in places)
    ]  # fmt: skip


def _entries(values: Mapping, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Names and texts of all entries, those of nested JSON too, as a/b/c. What is not about the base is left out."""
    for name, value in values.items():
        if _NOT_THE_BASE.search(str(name)):
            continue
        key = f"{path}{name}"
        if isinstance(value, str) and value[:1] == "{" and len(value) <= _MAX_JSON:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if isinstance(value, Mapping) and depth < 4:
            yield from _entries(value, f"{key}/", depth + 1)
        elif isinstance(value, str):
            yield key, "sd_2" if name == "ss_v2" and value.lower() == "true" else value
        elif value is True and str(name).startswith("is_"):
            yield key, str(name)[3:]
