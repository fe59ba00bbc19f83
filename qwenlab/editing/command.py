"""The commands `qwenlab redraw`, `extend` and `edit`. All that was typed is checked before the model is loaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes
from qwenlab.lora.fusion.sources import parse_source
from qwenlab.lora.options import (
    Base,
    Guidance,
    Loras,
    NegativePrompt,
    Precision,
    Prompt,
    Steps,
    check_texts,
    open_with_loras,
    picture_names,
)
from qwenlab.model.limits import check_drawing

if TYPE_CHECKING:
    from PIL import Image

Picture = Annotated[Path, typer.Argument(help="Picture to start from; the file is not changed")]
Out = Annotated[Path, typer.Option(help="Picture to write: .png, .jpg or .webp; PNG alone keeps every pixel")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same picture")]
EditGuidance = Annotated[
    float | None,
    typer.Option(help="Away from the negative prompt; 1 or less: off. Default: 4.0 for an Edit model, else off"),
]
Side = Annotated[int, typer.Option(help="Pixels to draw on this side")]


def redraw(
    picture: Picture,
    mask: Annotated[Path, typer.Option(help="Picture of the same size: white is drawn again, black stays")],
    prompt: Prompt,
    out: Out,
    exact: Annotated[bool, typer.Option("--exact", help="Change no pixel outside the mask itself")] = False,
    strength: Annotated[float, typer.Option(help="Share of the steps that is walked; 1 forgets what was there")] = 1.0,
    lora: Loras = None,
    base: Base = "micro",
    precision: Precision = None,
    seed: Seed = 0,
    steps: Steps = 20,
    guidance: Guidance = 4.0,
    negative_prompt: NegativePrompt = None,
) -> None:
    """Draw a region of a picture again. Outside the 16-pixel tokens that the mask touches nothing changes."""
    sources, drawing = _check(prompt, lora, seed, steps, guidance, negative_prompt)
    from qwenlab.editing.checks import check_something_stays, check_strength
    from qwenlab.editing.masks import read_mask, white_pixels
    from qwenlab.editing.windows import check_sides

    check_strength(strength, "--strength")
    image = _open(picture, out, mask)
    check_sides(image.size, str(picture))
    region = read_mask(mask, image.size)
    check_something_stays(white_pixels(region, image.size, str(mask)), strength, str(mask))
    from qwenlab.editing.redrawing import redraw as draw

    pipeline = open_with_loras(base, precision, sources)
    _write(out, draw(pipeline, image, region, prompt, exact=exact, strength=strength, **drawing))


def extend(
    picture: Picture,
    out: Out,
    prompt: Annotated[str, typer.Option(help="What to draw there: place and style, no figure. For micro: none")] = " ",
    left: Side = 0,
    right: Side = 0,
    top: Side = 0,
    bottom: Side = 0,
    lora: Loras = None,
    base: Base = "micro",
    precision: Precision = None,
    seed: Seed = 0,
    steps: Steps = 20,
    guidance: Guidance = 1.0,
    negative_prompt: NegativePrompt = None,
) -> None:
    """Draw beyond the edges of a picture. The result is larger, and the old pixels are in it unchanged."""
    sources, drawing = _check(prompt, lora, seed, steps, guidance, negative_prompt)
    from qwenlab.editing.checks import check_extension

    image = _open(picture, out)
    check_extension(image.size, left, right, top, bottom, name=str(picture))
    from qwenlab.editing.extending import extend as draw

    pipeline = open_with_loras(base, precision, sources)
    _write(out, draw(pipeline, image, prompt, left=left, right=right, top=top, bottom=bottom, **drawing))


def edit(
    picture: Picture,
    instruction: Annotated[str, typer.Option(help="What to change; for micro in words of its captions: 红色短发")],
    out: Out,
    reference: Annotated[
        list[Path] | None, typer.Option(help="Further picture that the instruction speaks of; more than once for more")
    ] = None,
    lora: Loras = None,
    base: Base = "micro",
    precision: Precision = None,
    seed: Seed = 0,
    steps: Steps = 20,
    guidance: EditGuidance = None,
    negative_prompt: NegativePrompt = None,
) -> None:
    """Change a picture by instruction, with an Edit model, or a LoRA that was trained on references."""
    sources, drawing = _check(instruction, lora, seed, steps, 4.0 if guidance is None else guidance, negative_prompt)
    if guidance is None and negative_prompt is None:
        drawing["guidance"] = None
    from qwenlab.data.images import open_image
    from qwenlab.model.references import check_references, is_edit

    others = reference or []
    pictures = [_open(picture, out, *others), *(open_image(path) for path in others)]
    check_references(pictures)
    from qwenlab.editing.instructing import instruct

    pipeline = open_with_loras(base, precision, sources)
    if not sources and not is_edit(pipeline):
        raise QwenlabError(
            f"--lora: {base} draws from text alone; give a LoRA trained on references (configs/micro_edit.yaml)"
        )
    _write(out, instruct(pipeline, pictures, instruction, **drawing))


def _check(
    prompt: str, loras: list[str] | None, seed: int, steps: int, guidance: float, negative_prompt: str | None
) -> tuple[list[Any], dict[str, Any]]:
    """LoRA files with weights, and the arguments that say how to draw. Raises QwenlabError."""
    check_drawing(steps=steps, guidance=guidance, first_seed=seed, last_seed=seed)
    check_texts(prompt, negative_prompt, guidance)
    drawing = {"seed": seed, "steps": steps, "guidance": guidance, "progress": True}
    if negative_prompt is not None:
        drawing["negative_prompt"] = negative_prompt
    return [parse_source(text) for text in loras or []], drawing


def _open(picture: Path, out: Path, *others: Path) -> "Image.Image":
    """The picture. Raises QwenlabError when it cannot be read, and when `out` cannot be written or is an input."""
    from qwenlab.data.images import open_image

    picture_names(out)
    image = open_image(picture)
    for path in (picture, *others):
        if out.exists() and path.exists() and os.path.samefile(out, path):
            raise QwenlabError(f"--out {out}: is an input, which would be lost; give the path of another file")
    return image


def _write(out: Path, image: "Image.Image") -> None:
    from qwenlab.show import encode_image

    atomic_write_bytes(out, encode_image(image, out.suffix))
    typer.echo(f"{out}: {image.width}x{image.height}")
