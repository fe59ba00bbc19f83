"""Which model the layers of a LoRA file fit, and what contradicts it: shapes, block numbers, targets, metadata."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenlab.errors import QwenlabError
from qwenlab.lora.files.adapters import Layer
from qwenlab.lora.files.architecture import FAMILIES, MODELS, QWEN_IMAGE_21, Family, Model, block_of, kind_in, width_in
from qwenlab.lora.files.identity import (
    Claim,
    doubts_of,
    find_contradiction,
    foreign_targets,
    lookalikes,
    said_model,
)
from qwenlab.lora.files.layouts import Key, hidden_layer

_OTHER_MODELS = (
    (r"(single|double)_(stream_)?blocks|single_transformer_blocks|x_embedder|context_embedder|proj_mlp", "FLUX"),
    (r"joint_blocks|(^|[._])ff(_context)?[._]net|norm1(_context)?[._]linear", "FLUX or Stable Diffusion 3"),
    (r"input_blocks|output_blocks|down_blocks|up_blocks|mid_block", "Stable Diffusion"),
    (r"blocks[._]\d+[._](cross_attn|self_attn|ffn)", "Wan"),
    (r"noise_refiner|context_refiner|(^|[._])layers[._]\d+[._]attention", "Z-Image or Lumina"),
)


SHARED = "names, width and block numbers"  # with which the doubt begins that other models have them, too


@dataclass(frozen=True)
class Fit:
    """What the layers fit: see LoraFile. base: the variant that the metadata names, or ""."""

    family: Family
    model: Model | None
    width: int
    blocks: int
    base: str


def check_strangers(path: Path, keys: Sequence[Key], has_text_encoder: bool) -> None:
    """Raise QwenlabError for a file without a LoRA, and for one whose layers are another model's.

    A few unknown layers among many known ones are no other model: they end among the leftovers, by name.
    """
    useful = [key for key in keys if key.role not in _NO_LAYER_NAMED]
    if not useful and not has_text_encoder:
        raise QwenlabError(f"{path}: holds no LoRA; give a file written by LoRA training, not a whole model")
    strangers = {key.stem: key for key in useful if key.place is None}
    known = {key.layer for key in useful if key.place}
    for key in strangers.values():
        name = key.stem[len(key.prefix) :]
        guess = next((who for pattern, who in _OTHER_MODELS if re.search(pattern, key.stem)), "")
        if not guess and (hidden := hidden_layer(key.stem)) and len(strangers) > len(known):
            raise QwenlabError(
                f"{path}: names that are not known here: {name!r} would be Qwen-Image's {hidden[0]!r} without "
                f"{hidden[1]!r}, and no reader takes that out; rename its tensors, if they are what that says"
            )
        if guess or len(strangers) > len(known):
            raise QwenlabError(
                f"{path}: LoRA of another model: no Qwen-Image has a layer {name!r}"
                f"{f' (it looks like {guess})' if guess else ''}; load its own base"
            )


_NO_LAYER_NAMED = (
    "unknown", "alpha", "whole weight", "embedding", "optimizer state", "moving average", "bookkeeping",
    "text encoder's weight", "VAE's weight",
)  # fmt: skip


def fit(
    path: Path,
    shapes: Mapping[str, tuple[int, int]],
    others: Sequence[Key],
    claims: Sequence[Claim],
    configuration: Mapping,
) -> Fit:
    """The family and published model that have all layers, shapes (d, k), in one width.

    Raises QwenlabError where no Qwen-Image has them, and where the metadata or the targets name another model.
    """
    places = [key.layer for key in others if key.place]
    fits = [found for family in FAMILIES if (found := _width(family, shapes)) is not None]
    if not fits:
        raise QwenlabError(f"{path}: LoRA of another model: {_misfit(shapes)}; load its own base")
    counts = [sum(kind_in(family, name) is not None for name in places) for family, _ in fits]
    says_21 = any(claim.strong and claim.model == "Qwen-Image-2.1" for claim in claims)
    candidates = [
        (family, width, next((model for model in MODELS if (model.family, model.width) == (family, width)), None))
        for (family, width), count in zip(fits, counts, strict=True)
        if count == max(counts)
    ]
    # a published size decides; where layers and width leave it open, the metadata; the micro model comes last
    family, width, model = min(
        candidates,
        key=lambda found: (
            found[2] is None or found[2].name == "micro",
            says_21 is not (found[0] is QWEN_IMAGE_21),
            found[2] is None,
        ),
    )
    _check_claims(path, claims, configuration, family, model, width)
    seen = max((block_of(name) or 0 for name in (*shapes, *places)), default=0) + 1
    most = model.blocks if model else max(model.blocks for model in MODELS)
    if seen > most:
        who = f"{model.name} has {most} blocks" if model else f"no Qwen-Image has more than {most} blocks"
        raise QwenlabError(f"{path}: LoRA of another model: block {seen - 1}, but {who}; load its own base")
    return Fit(family, model, width, model.blocks if model else seen, said_model(claims))


def doubts_about(
    fitted: Fit,
    claims: Sequence[Claim],
    configuration: Mapping,
    metadata: Mapping[str, str],
    layers: Mapping[str, Layer],
) -> list[str]:
    """Sentences on what the file leaves open."""
    doubts = doubts_of(claims, fitted.family)
    others = lookalikes(layers, fitted.width)
    if others and not any(claim.strong and claim.is_qwen for claim in claims):
        seen = {block_of(name) for name in layers} - {None}
        doubts.append(
            f"{SHARED} are also those of {_list(others)}; it has {len(seen)} blocks, {fitted.family.name} has "
            f"{fitted.blocks}, and nothing in the file says that it is {fitted.family.name}'s"
        )
    if strange := foreign_targets(configuration):
        doubts.append(f"the adapter's configuration names targets that no Qwen-Image has: {_list(strange)}")
    if configuration.get("use_dora") is True and not any(layer.magnitude for layer in layers.values()):
        doubts.append("the adapter's configuration says DoRA, but the file holds no magnitudes")
    ranks = {layer.rank for layer in layers.values()}
    if (
        ranks
        and isinstance(r := configuration.get("r"), int)
        and not configuration.get("rank_pattern")
        and ranks != {r}
    ):
        doubts.append(
            f"the adapter's configuration says rank {r}, the factors have {_list(sorted(ranks))}: peft refuses them, "
            "and the strength that was meant is not certain"
        )
    if layers and (text := _scale_doubt(metadata, layers)):
        doubts.append(text)
    return doubts


def _scale_doubt(metadata: Mapping[str, str], layers: Mapping[str, Layer]) -> str:
    """kohya's and musubi-tuner's notes on rank and alpha, where the tensors say something else."""
    numbers = {}
    for name in ("dim", "alpha"):
        try:
            numbers[name] = float(metadata.get(f"ss_network_{name}", ""))
        except ValueError:
            continue
    ranks, alphas = {layer.rank for layer in layers.values()}, {layer.alpha for layer in layers.values()}
    if "dim" in numbers and numbers["dim"] not in ranks:
        return f"ss_network_dim says rank {numbers['dim']:g}, the factors have rank {_list(sorted(ranks))}"
    if "alpha" in numbers and alphas == {None} and numbers["alpha"] not in ranks:
        text = (
            f"ss_network_alpha says {numbers['alpha']:g}, but the file stores no alpha: every reader takes alpha = rank"
        )
        return f"{text}, {max(ranks) / numbers['alpha']:g} times that strength" if numbers["alpha"] > 0 else text
    return ""


def _check_claims(
    path: Path, claims: Sequence[Claim], configuration: Mapping, family: Family, model: Model | None, width: int
) -> None:
    looks = f"{model.name if model else family.name} (width {width})" if width else family.name
    if claim := find_contradiction(claims, family):
        raise QwenlabError(
            f"{path}: LoRA of another model: {claim} ({claim.model}), though its layers could be those of {looks}; "
            f"load it on {claim.model}, or take the entry out of the metadata if it is wrong"
        )
    for target in foreign_targets(configuration):
        guess = next((who for pattern, who in _OTHER_MODELS if re.search(pattern, target)), "")
        if guess:
            raise QwenlabError(
                f"{path}: LoRA of another model: the adapter's configuration names the target {target!r}, which "
                f"{guess} has and no Qwen-Image, though its layers could be those of {looks}; load its own base"
            )


def _width(family: Family, shapes: Mapping[str, tuple[int, int]]) -> tuple[Family, int] | None:
    """The one width in which the family has all layers; 0 when they do not tell, None when there is none."""
    try:
        widths = {width_in(family, name, shape) for name, shape in shapes.items()}
    except KeyError:
        return None
    if None in widths or len(widths - {0}) > 1:
        return None
    return family, max(widths, default=0)


def _misfit(shapes: Mapping[str, tuple[int, int]]) -> str:
    """What does not fit: the layer whose shape is not that of the most."""
    votes: Counter = Counter()
    for family in FAMILIES:
        for name, shape in shapes.items():
            if kind_in(family, name) == "linear" and (width := width_in(family, name, shape)):
                votes[FAMILIES.index(family), width] += 1
    if not votes:
        name, (d, k) = next(iter(shapes.items()))
        return f"the layers ({name!r} is {d}x{k}, ...) fit no Qwen-Image"
    (number, width), count = votes.most_common(1)[0]
    family = FAMILIES[number]
    name, (d, k) = next(
        (name, shape)
        for name, shape in shapes.items()
        if kind_in(family, name) != "linear" or width_in(family, name, shape) not in (width, 0)
    )
    return (
        f"{name!r} is {d}x{k}, but {count} others are {family.name}'s layers at width {width}; "
        "together they fit no Qwen-Image"
    )


def _list(values: Iterable[object], most: int = 4) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
