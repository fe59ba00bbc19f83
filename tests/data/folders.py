"""Small data sets for tests: pictures of noise, captions in several kinds of files."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from qwenlab.data.check import Limits

LIMITS = Limits(min_side=64)
TEXTS = [f"1女孩, 黑色短发, {action}, 背景:花园" for action in ("挥手", "站立", "跑步", "坐着", "跳跃", "看书")]


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), np.uint8)
    Image.fromarray(noise).resize((96, 96), Image.Resampling.NEAREST).save(
        path, "JPEG" if path.suffix == ".jpg" else "PNG"
    )


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture(folder / name, sum(name.encode()))


def write(folder: Path, rows: list[dict[str, object]], name: str = "captions.jsonl") -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")


def csv_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def jsonl(path: Path, rows: dict[str, str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) for name, text in rows.items()]
    path.write_bytes(end.join(lines).encode())


def table(
    path: Path, rows: dict[str, str], separator: str = ",", head: tuple[str, str] = ("file_name", "text")
) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator).writerows([head, *rows.items()])
    path.write_text(buffer.getvalue(), encoding="utf-8")


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def usual(folder: Path) -> dict[str, str]:
    """Two pictures in images/ with captions.jsonl; returns their captions by path."""
    pictures(folder, "images/a.png", "images/b.png")
    jsonl(folder / "captions.jsonl", {"a.png": TEXTS[0], "b.png": TEXTS[1]})
    return {"images/a.png": TEXTS[0], "images/b.png": TEXTS[1]}
