"""A data set for tests whose rows have references: what pictures were before a change."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny import SIZE


def noise(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """A picture of 8 x 8 random squares."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def write_pairs(folder: Path, count: int, with_reference: int, instruction: str = "红色短发{}") -> Path:
    """`count` pictures noise(0), ... in images/; the first ones have noise(10), ... in references/ as a reference."""
    for part in ("images", "references"):
        (folder / part).mkdir(parents=True)
    lines = []
    for number in range(count):
        noise(number).save(folder / "images" / f"{number}.png")
        row = {"file_name": f"{number}.png", "text": instruction.format("长" * number)}
        if number < with_reference:
            noise(10 + number).save(folder / "references" / f"{number}.png")
            row["reference"] = f"references/{number}.png"
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def write_controlled(folder: Path, count: int) -> Path:
    """`count` pictures noise(0), ... in images/, each with its control picture noise(20), ... in control/."""
    for part in ("images", "control"):
        (folder / part).mkdir(parents=True)
    lines = []
    for number in range(count):
        noise(number).save(folder / "images" / f"{number}.png")
        noise(20 + number).save(folder / "control" / f"{number}.png")
        row = {"file_name": f"{number}.png", "text": "1女孩" + "长" * number, "control": f"control/{number}.png"}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
