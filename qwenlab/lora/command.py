"""What `qwenlab generate`, `doctor`, `fuse` and `resize` do: numbers first, then headers, then what takes time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from qwenlab.data.findings import plural
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes
from qwenlab.lora.fusion.sources import parse_source
from qwenlab.lora.options import check_texts, open_with_loras, picture_names


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

    pictures = picture_names(out, count)
    check_drawing(steps=steps, guidance=guidance, first_seed=seed, last_seed=seed + count - 1, max_tokens=max_tokens)
    pixels = None if size is None else parse_size(size)
    check_texts(prompt, negative_prompt, guidance)
    sources = [parse_source(text) for text in loras]
    from qwenlab.model.generation import NEGATIVE_PROMPT, generate
    from qwenlab.show import encode_image

    pipeline = open_with_loras(base, precision, sources)
    for number, path in enumerate(pictures):
        (image,) = generate(
            pipeline, prompt, seed + number, steps=steps, guidance=guidance, size=pixels, progress=True,
            negative_prompt=NEGATIVE_PROMPT if negative_prompt is None else negative_prompt, max_tokens=max_tokens,
        )  # fmt: skip
        atomic_write_bytes(path, encode_image(image, path.suffix))
        typer.echo(f"{path}: {image.width}x{image.height}, seed {seed + number}, {plural(steps, 'step')}")


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
    typer.echo(f"{plural(result.layers, 'layer')} of {plural(len(sources), 'file')} in {result.path}")
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
    typer.echo(f"{plural(len(ranks), 'layer')} of rank {ranks[0]} to {ranks[-1]} in {result.path}")
    typer.echo(f"least energy kept: {result.kept[worst]:.1%}, in {worst}")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A bar that appears with the first layer: a refused file shows no empty one."""
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda total: bar.update(task, total=total, advance=1, visible=True)
