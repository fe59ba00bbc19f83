"""The `qwenlab` command. Every sub-command is a thin call of a function that notebooks call, too."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from qwenlab.errors import QwenlabError


class _OneLineErrors(TyperGroup):
    """Print a user's mistake as one line and exit with status 2; anything else keeps its traceback."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except QwenlabError as error:
            typer.echo(f"qwenlab: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_OneLineErrors,
    help="Teach Qwen-Image a character with LoRA: notebooks, a micro model for the CPU, and the tools behind them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def check() -> None:
    """Say what this machine has, what it lacks and what it can run. Exits with 1 when something is missing."""
    from qwenlab.machine import check_machine, report

    checks = check_machine()
    typer.echo(report(checks))
    raise typer.Exit(1 if any(check.ok is False for check in checks) else 0)


@app.command()
def check_dataset(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, with captions.jsonl, metadata.* or .txt files")],
    html: Annotated[Path | None, typer.Option(help="Also write the report as one page with thumbnails")] = None,
    fix: Annotated[Path | None, typer.Option(help="Write a repaired copy to this new folder")] = None,
    min_side: Annotated[int, typer.Option(min=1, help="Pixels that the shorter side should have")] = 512,
    encoding: Annotated[
        str, typer.Option(help="Of captions that are not UTF-8, such as gb18030, where the check cannot tell")
    ] = "",
) -> None:
    """Say what is wrong with a data set, and mend it in a copy. Exits with 1 when errors are left."""
    from qwenlab.captions.files import summarise
    from qwenlab.data.check.command import run

    raise typer.Exit(run(folder, html, fix, min_side, encoding, summarise))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/micro_lora.yaml")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was stopped in output_dir")] = False,
) -> None:
    """Train a LoRA as a configuration file says."""
    from qwenlab.config import read_config

    settings = read_config(config)  # before torch is imported: a mistake in the file is answered at once
    from qwenlab.hands import hand_options
    from qwenlab.training import open_pipeline, train_lora

    pipeline = open_pipeline(settings)
    result = train_lora(pipeline, settings, resume=resume, **hand_options(pipeline, settings))
    typer.echo(f"LoRA saved in {result.lora_path} after {result.seconds:.0f} s of training")
    typer.echo(
        f'Next: qwenlab generate --base {settings.base} --lora {result.lora_path} --prompt "..." --out picture.png'
    )


@app.command()
def memory(
    gpu: Annotated[str, typer.Option(help='GiB of the card, such as 24, or its name, such as "RTX 4090"')],
    resolution: Annotated[int, typer.Option(help="Side of the square pictures, in pixels")] = 1024,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA")] = 16,
    batch: Annotated[int, typer.Option(help="Pictures at once")] = 1,
    accumulation: Annotated[int, typer.Option(help="Batches of one optimizer step")] = 1,
    text_tokens: Annotated[int, typer.Option(help="Tokens of the longest caption")] = 128,
    apply_to: Annotated[list[str] | None, typer.Option(help="Layers with a LoRA; attention+mlp by default")] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Check by executing the step on fake tensors")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the best setting to this new YAML file")] = None,
) -> None:
    """Say what fits a graphics card, and how slow it will be. Exits with 1 when nothing fits."""
    from qwenlab.memory.cards import find_card
    from qwenlab.memory.command import check_simulation, report, write_config
    from qwenlab.memory.plan import step_settings

    question = step_settings(resolution, rank, batch, accumulation, text_tokens, tuple(apply_to or ["attention+mlp"]))
    lines, best = report(question, find_card(gpu))
    for line in lines:
        typer.echo(line)
    if best is None:
        raise typer.Exit(1)
    if out is not None:
        write_config(best, out)
        typer.echo(f"Written: {out}; train with: qwenlab train {out}")
    if simulate:
        typer.echo("Executing the step on fake tensors, about a minute ...")
        typer.echo(check_simulation(best))


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What to draw; Chinese, in the captions' template, for micro")],
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .jpg or .webp")],
    lora: Annotated[Path | None, typer.Option(help="LoRA file; without it the base model draws")] = None,
    base: Annotated[str, typer.Option(help='"micro", a pipeline folder, or "Qwen/Qwen-Image"')] = "micro",
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, int8 or nf4; by default what fits")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture")] = 0,
    steps: Annotated[int, typer.Option(min=2, help="Sampler steps")] = 20,
) -> None:
    """Draw one picture, with or without a LoRA."""
    from qwenlab.show import encode_image

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise QwenlabError(f"--out {out}: unknown picture format {out.suffix!r}; end the name in .png, .jpg or .webp")
    if out.is_dir() or (out.parent.exists() and not out.parent.is_dir()):
        raise QwenlabError(f"--out {out}: no file can be written there; give the path of a new picture")
    if lora is not None:
        from qwenlab.lora.io import lora_metadata

        lora_metadata(lora)  # a missing or broken file is answered before the model is loaded
    from qwenlab.files import atomic_write_bytes
    from qwenlab.model.generation import generate as draw
    from qwenlab.model.pipeline import load_pipeline

    pipeline = load_pipeline(base, precision=precision)
    if lora is not None:
        from qwenlab.lora.io import load_lora

        load_lora(pipeline, lora)
    (image,) = draw(pipeline, prompt, seed, steps=steps, progress=True)
    atomic_write_bytes(out, encode_image(image, out.suffix))
    typer.echo(f"{out}: {image.width}x{image.height}, seed {seed}, {steps} steps")


@app.command()
def doctor(
    file: Annotated[Path, typer.Argument(help="LoRA file (.safetensors) of any trainer")],
    fix: Annotated[Path | None, typer.Option(help="Write the same LoRA in another layout to this new file")] = None,
    layout: Annotated[
        str | None, typer.Option("--format", help="Layout for --fix: diffusers (default), comfyui or kohya")
    ] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Run diffusers' own loader, also where rules know its answer; slow")
    ] = False,
) -> None:
    """Say what a LoRA file is, and what diffusers and ComfyUI do with it; with --fix, rewrite it without loss."""
    if fix is None and layout is not None:
        raise QwenlabError("--format: says how to rewrite the file; give --fix OUT.safetensors as well")
    from qwenlab.lora.files import check_target, diagnose
    from qwenlab.lora.files import fix as rewrite

    def show(path: Path, run_loader: bool) -> None:
        report = diagnose(path, execute=False)
        typer.echo(str(report))
        if run_loader or report.diffusers is None:  # last, because it takes half a minute of imports
            typer.echo("  asking diffusers' own loader ...", err=True)
            verdict = report.executed().diffusers
            typer.echo(f"  {verdict.reader}: {verdict}")

    if fix is not None:
        check_target(file, fix, layout or "diffusers")
    show(file, execute)
    if fix is not None:
        written = rewrite(file, fix, layout or "diffusers")
        for sentence in written.left:
            typer.echo(f"Left out: {sentence}")
        if written.text_encoder:
            typer.echo(f"Written, the text encoder's part: {written.text_encoder}")
        if written.lora:
            typer.echo("Written, the update of each layer unchanged: ", nl=False)
            show(written.lora, execute)


@app.command()
def fuse(
    files: Annotated[list[str], typer.Argument(help="LoRA files with weights, such as fox.safetensors:0.8")],
    out: Annotated[Path, typer.Option(help="New .safetensors file")],
    method: Annotated[
        str, typer.Option(help="concat (exact), svd, average (wrong), ties, dare, knots, core or orthogonal")
    ] = "concat",
    rank: Annotated[int | None, typer.Option(help="Of the result; svd, ties and dare need it")] = None,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16, which rounds")] = "float32",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take layers that only some files have from those")
    ] = False,
) -> None:
    """Merge LoRA files into one, layer by layer."""
    from rich.progress import Progress

    from qwenlab.lora.fusion import fuse as merge
    from qwenlab.lora.fusion import parse_source

    sources = [parse_source(text) for text in files]
    with Progress() as bar:
        task = bar.add_task("fusing layers", total=None, visible=False)  # a refused file shows no empty bar
        result = merge(
            sources, out, method=method, rank=rank, dtype=dtype, allow_partial=allow_partial,
            on_layer=lambda total: bar.update(task, total=total, advance=1, visible=True),
        )  # fmt: skip
    typer.echo(f"{result.layers} layers of {len(sources)} files in {result.path}")
    if result.kept:
        worst = min(result.kept, key=result.kept.get)
        mean = sum(result.kept.values()) / len(result.kept)
        typer.echo(f"rank {rank} keeps {mean:.1%} of the energy of a layer; least in {worst}: {result.kept[worst]:.1%}")


@app.command()
def resize(
    file: Annotated[Path, typer.Argument(help="LoRA file (.safetensors) of any trainer")],
    out: Annotated[Path, typer.Option(help="New .safetensors file")],
    rank: Annotated[int | None, typer.Option(help="Of every layer; more than the file's changes nothing else")] = None,
    energy: Annotated[float | None, typer.Option(help="Or: the share to keep, 0.95; each layer gets its rank")] = None,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16, which rounds")] = "float32",
) -> None:
    """Write a LoRA in another rank: smaller with the least loss, or larger without any."""
    from rich.progress import Progress

    from qwenlab.lora.resizing import resize as change

    with Progress() as bar:
        task = bar.add_task("layers", total=None, visible=False)  # a refused file shows no empty bar
        result = change(
            file, out, rank=rank, energy=energy, dtype=dtype,
            on_layer=lambda total: bar.update(task, total=total, advance=1, visible=True),
        )  # fmt: skip
    ranks, worst = sorted(result.ranks.values()), min(result.kept, key=result.kept.get)
    typer.echo(f"{len(ranks)} layers of rank {ranks[0]} to {ranks[-1]} in {result.path}")
    typer.echo(f"least energy kept: {result.kept[worst]:.1%}, in {worst}")


@app.command()
def tour(
    out: Annotated[Path, typer.Option(help="Folder for the executed copies and the page")] = Path("build"),
) -> None:
    """Run every notebook in order, without a browser, and put them on one HTML page."""
    from qwenlab.course.tour import run_tour

    page = run_tour(out)
    typer.echo(f"All notebooks ran. Open {page} in a browser.")


@app.command()
def claims(
    out: Annotated[Path | None, typer.Option(help="Write the table here (.md or .html) instead of printing it")] = None,
) -> None:
    """Show the claims this series examines, with verdict and evidence."""
    from qwenlab.course.claims import load_claims, to_html, to_markdown
    from qwenlab.files import atomic_write_text

    formats = {".md": to_markdown, ".html": to_html}
    if out is None:
        typer.echo(to_markdown(load_claims()))
    elif out.suffix in formats:
        atomic_write_text(out, formats[out.suffix](load_claims()))
        typer.echo(f"{out}: written")
    else:
        raise QwenlabError(f"--out {out}: unknown format {out.suffix!r}; end the name in .md or .html")


@app.command()
def lint_captions(
    file: Annotated[Path, typer.Argument(help="captions.jsonl, a .txt file with one caption a line, or a data set")],
    fix: Annotated[Path | None, typer.Option(help="Write the captions with all safe rewrites to this new file")] = None,
) -> None:
    """Check captions against the template, one line a finding. Exits with 1 when something is found."""
    from qwenlab.captions import fix_file, lint_file

    report = lint_file(file) if fix is None else fix_file(file, fix)
    for line in report.lines():
        typer.echo(line)
    typer.echo(report.summary(), err=True)
    raise typer.Exit(1 if report.report.findings else 0)


def main() -> None:
    """Entry point of the `qwenlab` command."""
    app()
