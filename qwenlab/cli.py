"""The `qwenlab` command. Every sub-command is a thin call of a function that notebooks call, too."""

import errno
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from qwenlab.editing.command import edit, extend, redraw
from qwenlab.errors import QwenlabError
from qwenlab.lora.options import Base, Guidance, Loras, NegativePrompt, Precision, Prompt, Steps

_REFUSED_BY_THE_SYSTEM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)
_UsageError = typer.BadParameter.__base__  # typer brings a click of its own, or uses the installed one


class _OneLineErrors(TyperGroup):
    """Print a user's mistake as one line and exit with status 2; anything else keeps its traceback.

    Warnings are one line, too, without the place in the code.
    """

    def invoke(self, ctx):
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except QwenlabError as error:
                typer.echo(f"qwenlab: {error}", err=True)
            except OSError as error:
                if error.errno not in _REFUSED_BY_THE_SYSTEM:
                    raise
                typer.echo(f"qwenlab: {error.filename or 'output'}: {error.strerror}", err=True)
            except _UsageError as error:
                command = error.ctx.command_path if error.ctx else "qwenlab"
                message = " ".join(error.format_message().split()).rstrip(".")
                typer.echo(f"qwenlab: {message}; see {command} --help", err=True)
        raise typer.Exit(2)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    typer.echo(f"qwenlab: warning: {' '.join(str(message).split())}", err=True)


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
    """Train a LoRA, or a ControlNet, as a configuration file says."""
    from qwenlab.config import read_config

    settings = read_config(config)  # before torch is imported: a mistake in the file is answered at once
    from qwenlab.hands import hand_options
    from qwenlab.training import open_pipeline, train_lora

    pipeline = open_pipeline(settings)
    result = train_lora(pipeline, settings, resume=resume, **hand_options(pipeline, settings))
    what = "LoRA" if result.net is None else "ControlNet"
    typer.echo(f"{what} saved in {result.lora_path} after {result.seconds:.0f} s of training")
    if settings.control_kind:
        return  # it draws from control pictures: qwenlab.model.controlled, qwenlab.model.references
    use = 'edit PICTURE --instruction "..."' if result.edits else 'generate --prompt "..."'
    typer.echo(f"Next: qwenlab {use} --base {settings.base} --lora {result.lora_path} --out picture.png")


@app.command()
def memory(
    gpu: Annotated[str, typer.Option(help='GiB of the card, such as 24, or its name, such as "RTX 4090"')],
    resolution: Annotated[int, typer.Option(help="Side of the square pictures, in pixels")] = 1024,
    rank: Annotated[int, typer.Option(help="Rank of the LoRA")] = 16,
    batch: Annotated[int, typer.Option(help="Pictures at once")] = 1,
    accumulation: Annotated[int, typer.Option(help="Batches of one optimizer step")] = 1,
    text_tokens: Annotated[int, typer.Option(help="Tokens of the longest caption")] = 128,
    references: Annotated[
        int,
        typer.Option(help="Pictures that each row speaks of, of that size; an Edit model adds 190 text tokens each"),
    ] = 0,
    control_blocks: Annotated[int, typer.Option(help="Of a ControlNet that is trained in place of a LoRA")] = 0,
    apply_to: Annotated[list[str] | None, typer.Option(help="Layers with a LoRA; attention+mlp by default")] = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Check by executing the step on fake tensors")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the best setting to this new YAML file")] = None,
) -> None:
    """Say what fits a graphics card, and how slow it will be. Exits with 1 when nothing fits."""
    from qwenlab.memory.cards import find_card
    from qwenlab.memory.command import check_simulation, report, write_config
    from qwenlab.memory.plan import step_settings

    layers = tuple(apply_to or ["attention+mlp"])
    question = step_settings(resolution, rank, batch, accumulation, text_tokens, layers, references, control_blocks)
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
    prompt: Prompt,
    out: Annotated[Path, typer.Option(help="Picture to write: .png, .jpg or .webp; several are numbered")],
    lora: Loras = None,
    base: Base = "micro",
    precision: Precision = None,
    seed: Annotated[int, typer.Option(help="Of the first picture; the same seed gives the same picture")] = 0,
    count: Annotated[int, typer.Option(help="Pictures, with seeds one after the other")] = 1,
    steps: Steps = 20,
    guidance: Guidance = 4.0,
    size: Annotated[
        str | None, typer.Option(help="Pixels, WIDTHxHEIGHT or one number, multiples of 16; by default the model's")
    ] = None,
    negative_prompt: NegativePrompt = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Cut prompts after so many tokens, such as 512; by default all 1024 are read")
    ] = None,
) -> None:
    """Draw pictures, with or without LoRAs."""
    from qwenlab.lora.command import draw

    draw(
        prompt, out, lora or [], base=base, precision=precision, seed=seed, count=count, steps=steps,
        guidance=guidance, size=size, negative_prompt=negative_prompt, max_tokens=max_tokens,
    )  # fmt: skip


for command in (redraw, extend, edit):
    app.command()(command)


@app.command()
def doctor(
    file: Annotated[Path, typer.Argument(help="LoRA file (.safetensors) of any trainer")],
    fix: Annotated[Path | None, typer.Option(help="Write the same LoRA in another layout to this new file")] = None,
    layout: Annotated[
        str | None, typer.Option("--format", help="Layout for --fix: diffusers (default), comfyui or kohya")
    ] = None,
) -> None:
    """Say what a LoRA file is, and what diffusers and ComfyUI do with it; with --fix, rewrite it without loss."""
    from qwenlab.lora.command import diagnose

    diagnose(file, fix, layout)


_LAYOUT = typer.Option("--format", help="diffusers, comfyui or kohya")
_DTYPE = typer.Option(help="float32, or bfloat16, which rounds")


@app.command()
def fuse(
    files: Annotated[list[str], typer.Argument(help="LoRA files with weights, such as fox.safetensors:0.8")],
    out: Annotated[Path, typer.Option(help="New .safetensors file")],
    method: Annotated[
        str,
        typer.Option(help="concat (exact; cat in peft), svd, average (wrong), ties, dare, knots, core or orthogonal"),
    ] = "concat",
    rank: Annotated[int | None, typer.Option(help="Of the result; svd, ties and dare need it")] = None,
    dtype: Annotated[str, _DTYPE] = "float32",
    layout: Annotated[str, _LAYOUT] = "diffusers",
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take layers that only some files have from those")
    ] = False,
) -> None:
    """Merge LoRA files into one, layer by layer."""
    from qwenlab.lora.command import fuse as merge

    merge(files, out, rank=rank, method=method, dtype=dtype, layout=layout, allow_partial=allow_partial)


@app.command()
def resize(
    file: Annotated[Path, typer.Argument(help="LoRA file (.safetensors) of any trainer")],
    out: Annotated[Path, typer.Option(help="New .safetensors file")],
    rank: Annotated[int | None, typer.Option(help="Of every layer; more than the file's changes nothing else")] = None,
    energy: Annotated[float | None, typer.Option(help="Or: the share to keep, 0.95; each layer gets its rank")] = None,
    dtype: Annotated[str, _DTYPE] = "float32",
    layout: Annotated[str, _LAYOUT] = "diffusers",
) -> None:
    """Write a LoRA in another rank: smaller with the least loss, or larger without any."""
    from qwenlab.lora.command import resize as change

    change(file, out, rank=rank, energy=energy, dtype=dtype, layout=layout)


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
