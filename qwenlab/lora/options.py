"""The options that every drawing command has, and what they open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qwenlab.errors import QwenlabError, check_range
from qwenlab.files import check_place
from qwenlab.lora.fusion.sources import Source

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

MAX_COUNT = 1000  # pictures of one call
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")

Prompt = Annotated[str, typer.Option(help="What to draw; Chinese, in the captions' template, for micro")]
Loras = Annotated[
    list[str] | None, typer.Option(help="LoRA file, or FILE:WEIGHT; more than once for several. None: the base")
]
Base = Annotated[str, typer.Option(help='"micro", a pipeline folder, or "Qwen/Qwen-Image"')]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16, int8 or nf4; by default what fits")]
Steps = Annotated[int, typer.Option(help="Sampler steps, from 2 on")]
Guidance = Annotated[float, typer.Option(help="Away from the negative prompt; 1 or less: off, twice as fast")]
NegativePrompt = Annotated[
    str | None,
    typer.Option(help="What not to draw; empty by default (Qwen-Image-2512's card recommends a long one)"),
]


def check_texts(prompt: str, negative_prompt: str | None, guidance: float) -> None:
    """Raise QwenlabError for prompts that are no text, and for a negative one that is not used."""
    if negative_prompt is not None and guidance <= 1:
        raise QwenlabError(f"--negative-prompt: is not used at --guidance {guidance:g}; take more than 1")
    for name, text in (("--prompt", prompt), ("--negative-prompt", negative_prompt or "")):
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            raise QwenlabError(f"{name}: holds bytes that are no text in the terminal's encoding; use UTF-8")


def picture_names(out: Path, count: int = 1) -> list[Path]:
    """`girl.png`, or girl-1.png, girl-2.png ... for several. Raises QwenlabError for what cannot be written."""
    check_range("--count", count, 1, MAX_COUNT)
    if out.suffix.lower() not in _PICTURES:
        raise QwenlabError(f"--out {out}: unknown picture format {out.suffix!r}; end the name in .png, .jpg or .webp")
    width = len(str(count))
    names = [out] if count == 1 else [out.with_stem(f"{out.stem}-{n:0{width}d}") for n in range(1, count + 1)]
    for path in names:
        check_place(path, "--out")
    return names


def open_with_loras(base: str, precision: str | None, sources: Sequence[Source]) -> QwenImagePipeline:
    """The model, with all LoRAs acting together. Raises QwenlabError; for LoRA files before the model is loaded."""
    from qwenlab.lora.io import check_lora_file, load_lora, weigh_loras
    from qwenlab.model.pipeline import load_pipeline

    for source in sources:
        check_lora_file(source.path)
    pipeline = load_pipeline(base, precision=precision)
    names = [f"file_{number}" for number in range(len(sources))]
    for name, source in zip(names, sources, strict=True):
        load_lora(pipeline, source.path, name)
    if sources:
        weigh_loras(pipeline, {name: source.weight for name, source in zip(names, sources, strict=True)})
    return pipeline
