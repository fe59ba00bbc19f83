"""A data set of pictures and the skeletons that they follow: drawn scenes in random poses, with the column `control`.

    python -m qwenlab.lab.pose.pairs --out runs/pose_pairs

writes images/, control/, captions.jsonl and keypoints.jsonl. The skeleton's limbs are coloured, and brighter the nearer
they are (condition "b"), or coloured alone, as public pose nets expect them ("a"). The same seed gives the same
pictures with either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from qwenlab.data.keypoints import Keypoints, write_keypoints
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_text
from qwenlab.lab.pose.scenes import PosedScene, sample_posed
from qwenlab.pose.condition import draw_condition

CONDITIONS = ("a", "b")  # colours alone; with a code of depth


def training_scene(seed: int, number: int) -> PosedScene:
    """Scene `number` of a data set. Every second caption says the word that is nearest to the pose."""
    posed = sample_posed(np.random.default_rng([seed, number]))
    return posed.saying(posed.nearest) if number % 2 else posed


def control_picture(posed: PosedScene, size: int = 128, condition: str = "b") -> Image.Image:
    """The skeleton picture of a scene. Raises QwenlabError for a condition that is not among CONDITIONS."""
    if condition not in CONDITIONS:
        raise QwenlabError(f"condition {condition!r}: choose a (colours alone) or b (nearer limbs are brighter)")
    return draw_condition(posed.points(size), size, depth=condition == "b")


def write_pairs(folder: Path, count: int = 3000, seed: int = 0, size: int = 128, condition: str = "b") -> int:
    """Write `count` pictures with their skeletons; returns how many. `seed` decides everything."""
    for name in ("images", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines, keypoints = [], {}
    for number in range(count):
        posed, name = training_scene(seed, number), f"{number:05d}.png"
        control = control_picture(posed, size, condition)
        drawing = posed.draw(size)
        Image.fromarray(drawing.image).save(folder / "images" / name)
        control.save(folder / "control" / name)
        keypoints[name] = Keypoints((size, size), drawing.body, drawing.hands, drawing.feet)
        row = {"file_name": name, "text": posed.caption, "control": f"control/{name}"}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_keypoints(folder, keypoints)
    atomic_write_text(folder / "captions.jsonl", "".join(lines))
    return count


def main(
    out: Annotated[Path, typer.Option(help="New folder of the data set")],
    count: Annotated[int, typer.Option(min=1, help="Pictures")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures")] = 0,
    condition: Annotated[str, typer.Option(help="a: colours alone; b: nearer limbs are brighter")] = "b",
) -> None:
    """Draw pictures and the skeletons that they follow."""
    typer.echo(f"{write_pairs(out, count, seed, condition=condition)} pictures in {out}")


if __name__ == "__main__":
    typer.run(main)
