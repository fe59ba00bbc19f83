"""What `qwenlab generate`, `doctor`, `fuse` and `resize` do: numbers first, then headers, then what takes time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from qwenlab.errors import QwenlabError, check_range
from qwenlab.files import atomic_write_bytes, check_place
from qwenlab.lora.fusion.sources import parse_source

MAX_COUNT = 1000  # pictures of one call
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def draw(
    prompt: str,
    out: Path,
    loras: Sequence[str] = (),
    *,
    base: str = "micro",
    precision: str | None = None,
    seed: int = 0,
    count: int = 1,
    steps: int = 20,
    guidance: float = 4.0,
    size: str | None = None,
    negative_prompt: str | None = None,
    max_tokens: int | None = None,
) -> None:
    """Draw `count` pictures of the seeds from `seed` on; each is written when finished. loras: FILE or FILE:WEIGHT.

    Raises QwenlabError; for numbers, names and LoRA files before anything is loaded.
    """
    from qwenlab.model.limits import check_drawing, parse_size

    check_range("--count", count, 1, MAX_COUNT)
    check_drawing(steps=steps, guidance=guidance, first_seed=seed, last_seed=seed + count - 1, max_tokens=max_tokens)
    pixels = None if size is None else parse_size(size)
    if negative_prompt is not None and guidance <= 1:
        raise QwenlabError(f"--negative-prompt: is not used at --guidance {guidance:g}; take more than 1")
    for name, text in (("--prompt", prompt), ("--negative-prompt", negative_prompt or "")):
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            raise QwenlabError(f"{name}: holds bytes that are no text in the terminal's encoding; use UTF-8")
    pictures = _picture_names(out, count)
    sources = [parse_source(text) for text in loras]
    from qwenlab.lora.io import check_lora_file, load_lora, weigh_loras
    from qwenlab.model.generation import NEGATIVE_PROMPT, generate
    from qwenlab.model.pipeline import load_pipeline
    from qwenlab.show import encode_image

    for source in sources:
        check_lora_file(source.path)
    pipeline = load_pipeline(base, precision=precision)
    names = [f"file_{number}" for number in range(len(sources))]
    for name, source in zip(names, sources, strict=True):
        load_lora(pipeline, source.path, name)
    if sources:
        weigh_loras(pipeline, {name: source.weight for name, source in zip(names, sources, strict=True)})
    for number, path in enumerate(pictures):
        (image,) = generate(
            pipeline, prompt, seed + number, steps=steps, guidance=guidance, size=pixels, progress=True,
            negative_prompt=NEGATIVE_PROMPT if negative_prompt is None else negative_prompt, max_tokens=max_tokens,
        )  # fmt: skip
        atomic_write_bytes(path, encode_image(image, path.suffix))
        typer.echo(f"{path}: {image.width}x{image.height}, seed {seed + number}, {steps} steps")


def _picture_names(out: Path, count: int) -> list[Path]:
    """`girl.png`, or girl-1.png, girl-2.png ... for several. Raises QwenlabError for what cannot be written."""
    if out.suffix.lower() not in _PICTURES:
        raise QwenlabError(f"--out {out}: unknown picture format {out.suffix!r}; end the name in .png, .jpg or .webp")
    width = len(str(count))
    names = [out] if count == 1 else [out.with_stem(f"{out.stem}-{n:0{width}d}") for n in range(1, count + 1)]
    for path in names:
        check_place(path, "--out")
    return names


def diagnose(file: Path, fix: Path | None, layout: str | None) -> None:
    """Print the doctor's report on `file`, and rewrite it to `fix` when that is given."""
    if fix is None and layout is not None:
        raise QwenlabError("--format: says how to rewrite the file; give --fix OUT.safetensors as well")
    from qwenlab.lora.files import check_target
    from qwenlab.lora.files import diagnose as report
    from qwenlab.lora.files import fix as rewrite

    if fix is not None:
        check_target(file, fix, layout or "diffusers")
    typer.echo(str(report(file)))
    if fix is None:
        return
    written = rewrite(file, fix, layout or "diffusers")
    if written.lora:
        typer.echo(f"Written, the update of each layer unchanged: {report(written.lora)}")
    if written.text_encoder:
        typer.echo(f"Written, the text encoder's part: {written.text_encoder}")
    for line in written.left:
        typer.echo(f"Left out: {line}")


def fuse(files: Sequence[str], out: Path, *, rank: int | None, **how: Any) -> None:
    """Merge files, named as `parse_source` reads them, with `qwenlab.lora.fusion.fuse`, and say what was kept."""
    sources = [parse_source(text) for text in files]
    from qwenlab.lora.fusion import fuse as merge

    with _progress("fusing layers") as on_layer:
        result = merge(sources, out, rank=rank, on_layer=on_layer, **how)
    typer.echo(f"{result.layers} layers of {len(sources)} files in {result.path}")
    if result.kept:
        worst = min(result.kept, key=result.kept.get)
        mean = sum(result.kept.values()) / len(result.kept)
        typer.echo(f"rank {rank} keeps {mean:.1%} of the energy of a layer; least in {worst}: {result.kept[worst]:.1%}")


def resize(file: Path, out: Path, **how: Any) -> None:
    """Write `file` in another rank with `qwenlab.lora.resizing.resize`, and say what was kept."""
    from qwenlab.lora.resizing import resize as change

    with _progress("layers") as on_layer:
        result = change(file, out, on_layer=on_layer, **how)
    ranks, worst = sorted(result.ranks.values()), min(result.kept, key=result.kept.get)
    typer.echo(f"{len(ranks)} layers of rank {ranks[0]} to {ranks[-1]} in {result.path}")
    typer.echo(f"least energy kept: {result.kept[worst]:.1%}, in {worst}")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A bar that appears with the first layer: a refused file shows no empty one."""
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda total: bar.update(task, total=total, advance=1, visible=True)
