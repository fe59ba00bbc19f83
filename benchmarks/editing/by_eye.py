"""Does the judge see edits as the eye does? `python -m benchmarks.editing.by_eye --sheets runs/eye`, then --score.

Some of the edits of `benchmarks.editing.frontier`, drawn again from the same noise by four ways, are shuffled with
decoys: true edits and sources, both after the VAE. Over each square stands the value that was asked for, and nothing
says who drew it. A person writes an answer file for each of two passes (`qwenlab.lab.labels`); --score then opens the
key and compares the labels with what the judge reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.editing.frontier import SCENES, WAYS
from benchmarks.editing.results import KINDS
from qwenlab.captions.vocabulary import english
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab import world
from qwenlab.lab.editing.pairs import Edit, held_out_edits
from qwenlab.lab.judge import load_judge
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.labels import Square, make_sheets, score
from qwenlab.lab.micro.round_trip import round_trip
from qwenlab.lab.results import stamp_result
from qwenlab.lora.io import load_lora, remove_lora
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

OUT = REPOSITORY / "benchmarks/editing/by_eye.json"
ARMS = ("img2img 0.65", "redraw, box", "FlowEdit", "edit LoRA")
EACH = 8  # edits of each kind
DECOYS = 4  # of each kind, and of each truth
DECOY_SCENES = 3  # seed of their edits
STRIP = 16  # pixels over a picture


def square(image: np.ndarray, edit: Edit) -> Image.Image:
    """The picture (S, S, 3) under the English name of the value that was asked for, in a square."""
    side = len(image) + STRIP
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(Image.fromarray(image), (STRIP // 2, STRIP))
    ImageDraw.Draw(canvas).text((2, 1), english(getattr(edit.target, edit.attribute)), fill="black")
    return canvas


def draw_all(lora: Path) -> tuple[list[Square], list[np.ndarray], list[Edit]]:
    """The squares, and the picture and the edit of each, in one order."""
    pipeline = load_pipeline("micro")
    squares, images, edits = [], [], []

    def add(image: np.ndarray, edit: Edit, arm: str, picture: str, truth: str | None = None) -> None:
        squares.append(Square(square(image, edit), arm, picture, truth))
        images.append(image)
        edits.append(edit)

    for kind in KINDS:
        for number, edit in enumerate(held_out_edits(kind, EACH, seed=SCENES)):
            source = Image.fromarray(world.render(edit.source).image)
            for arm in ARMS:
                if arm == "edit LoRA":
                    load_lora(pipeline, lora)
                add(np.asarray(WAYS[arm](pipeline, edit, source, 1000 + number)), edit, arm, f"{kind} {number}")
                if arm == "edit LoRA":
                    remove_lora(pipeline)
        for number, edit in enumerate(held_out_edits(kind, DECOYS, seed=DECOY_SCENES)):
            scenes = {"right": edit.target, "wrong": edit.source}
            decoys = round_trip(np.stack([world.render(scene).image for scene in scenes.values()]), pipeline.vae)
            for truth, image in zip(scenes, decoys, strict=True):
                add(image, edit, "decoy", f"decoy {kind} {number}", truth)
    return squares, images, edits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lora", type=Path, default=REPOSITORY / "lora_library/edit.safetensors")
    parser.add_argument("--sheets", type=Path, help="New folder: draw, and write sheets and key into it")
    parser.add_argument("--score", type=Path, help="That folder, with pass-1.txt and pass-2.txt beside the sheets")
    options = parser.parse_args()
    if options.sheets:
        squares, images, edits = draw_all(options.lora)
        readings = [reading.attributes for reading in load_judge().read(images)]
        read = [
            "right" if found.get(edit.attribute) == getattr(edit.target, edit.attribute) else "wrong"
            for found, edit in zip(readings, edits, strict=True)
        ]
        make_sheets(squares, options.sheets / "sheets", options.sheets / "key.json")
        atomic_write_json(options.sheets / "readings.json", read)
    if options.score:
        sheets = options.score / "sheets"
        read = json.loads((options.score / "readings.json").read_text(encoding="utf-8"))
        result = score(options.score / "key.json", [sheets / "pass-1.txt", sheets / "pass-2.txt"], read)
        config = {"arms": ARMS, "each": EACH, "decoys": DECOYS, "scenes": SCENES, "decoy_scenes": DECOY_SCENES}
        atomic_write_json(OUT, stamp_result(result, weights=[*JUDGE, MICRO_WEIGHTS, options.lora], config=config))


if __name__ == "__main__":
    main()
