"""Fixtures shared by the tests: a tiny random pipeline and a tiny dataset folder."""

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.tiny import SIZE, tiny_pipeline


@pytest.fixture
def pipeline():
    """A fresh tiny QwenImagePipeline, always with the same weights."""
    return tiny_pipeline()


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """Four pictures with captions of different lengths."""
    folder = tmp_path / "dataset"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, colour in enumerate(["red", "green", "blue", "orange"]):
        image = Image.new("RGB", (2 * SIZE, 2 * SIZE), "white")
        ImageDraw.Draw(image).ellipse((4 + number, 8, 40, 50), fill=colour)
        image.save(folder / "images" / f"img_{number}.png")
        text = f"1女孩, {colour}" + ", 挥手" * number
        lines.append(json.dumps({"file_name": f"img_{number}.png", "text": text}, ensure_ascii=False))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
