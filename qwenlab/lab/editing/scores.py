"""How good an edit is, against the true one: read by the judge, and measured where nothing should have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image

from qwenlab.editing.instructing import instruct
from qwenlab.lab import world
from qwenlab.lab.editing.pairs import ATTRIBUTES, Edit, held_out_edits
from qwenlab.lab.judge import Judge, load_judge
from qwenlab.lab.localisation import CHANGED
from qwenlab.lab.micro.round_trip import round_trip
from qwenlab.lora.io import load_lora
from qwenlab.model.pipeline import load_pipeline

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


@dataclass(frozen=True)
class Score:
    """One edited picture. PSNR in dB, of 8-bit pixels."""

    success: bool  # the judge reads the new value
    outside: float  # PSNR to the source, over the pixels that the true edit leaves alone
    truth: float  # PSNR to the true edit, over all pixels
    others_kept: float  # share of the other attributes that are read as the judge reads them in the true edit


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Of two pictures (H, W, 3) uint8, over the pixels `where` (H, W) bool; 100 at most."""
    difference = (a.astype(np.float64) - b)[... if where is None else where]
    return float(min(100.0, 10 * np.log10(255**2 / max(np.mean(difference**2), 1e-6))))


def untouched(edit: Edit, size: int = 128) -> np.ndarray:
    """(size, size) bool: the pixels that are the same before and after the true edit."""
    before, after = (world.render(scene, size).image.astype(int) for scene in (edit.source, edit.target))
    return np.abs(after - before).max(axis=-1) <= CHANGED


def score_edits(judge: Judge, edits: Sequence[Edit], images: Sequence[np.ndarray]) -> list[Score]:
    """Score edited pictures, (H, W, 3) uint8 of the native size, one for each edit."""
    scores = []
    truths = [world.render(edit.target, len(image)).image for edit, image in zip(edits, images, strict=True)]
    readings = zip(judge.read(images), judge.read(truths), strict=True)
    for edit, image, truth, (read, ideal) in zip(edits, images, truths, readings, strict=True):
        others = [name for name in ideal.attributes if name != edit.attribute]
        kept = np.mean([read.attributes.get(name) == ideal.attributes[name] for name in others])
        source = world.render(edit.source, len(image)).image
        success = read.attributes.get(edit.attribute) == getattr(edit.target, edit.attribute)
        outside = psnr(image, source, untouched(edit, len(image)))
        scores.append(Score(success, outside, psnr(image, truth), float(kept)))
    return scores


@dataclass(frozen=True)
class Summary:
    """Means over edits of one kind, as in `Score`. ceiling: `outside` of the round trip of the sources, in dB."""

    edits: int
    success: float
    outside: float
    ceiling: float
    truth: float
    others_kept: float


def measure(
    pipeline: QwenImagePipeline, judge: Judge, edits: Sequence[Edit], *, guidance: float, steps: int, seed: int = 0
) -> Summary:
    """Draw the edits with the pipeline as it is, its LoRA included, each with a seed of its own, and score them."""
    sources = np.stack([world.render(edit.source).image for edit in edits])  # (N, 128, 128, 3)
    images = [
        instruct(
            pipeline, [Image.fromarray(source)], edit.instruction, seed=seed + number, steps=steps, guidance=guidance
        )
        for number, (edit, source) in enumerate(zip(edits, sources, strict=True))
    ]
    scores = score_edits(judge, edits, [np.asarray(image) for image in images])
    means = {name: float(np.mean([getattr(score, name) for score in scores])) for name in Score.__dataclass_fields__}
    passed = round_trip(sources, pipeline.vae)
    ceilings = [psnr(*pair, untouched(edit)) for *pair, edit in zip(passed, sources, edits, strict=True)]
    return Summary(edits=len(edits), ceiling=float(np.mean(ceilings)), **means)


def main(
    lora: Annotated[Path, typer.Option(help="LoRA file that edits by instruction")],
    count: Annotated[int, typer.Option(min=1, help="Edits of each attribute")] = 64,
    guidance: Annotated[float, typer.Option(help="1: off")] = 1.0,
    steps: Annotated[int, typer.Option(help="Of the sampler")] = 20,
) -> None:
    """Judge edits whose combination of attribute, value and style was never trained."""
    pipeline, judge = load_pipeline("micro"), load_judge()
    load_lora(pipeline, lora)
    for attribute in ATTRIBUTES:
        summary = measure(pipeline, judge, held_out_edits(attribute, count), guidance=guidance, steps=steps)
        typer.echo(
            f"{attribute:12} success {summary.success:.1%} of {count}, outside {summary.outside:.1f} dB (round trip "
            f"{summary.ceiling:.1f}), truth {summary.truth:.1f} dB, others kept {summary.others_kept:.1%}"
        )


if __name__ == "__main__":
    typer.run(main)
