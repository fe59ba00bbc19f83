"""Changing a picture by instruction: the function, and the command with everything that can be wrong before it."""

import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.config import TrainConfig
from qwenlab.editing import instruct
from qwenlab.lora.io import load_lora
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import train_lora
from tests.pairs import noise, write_pairs
from tests.tiny import SIZE, tiny_pipeline


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(path)
    return path


@pytest.fixture
def lora(tmp_path):
    config = TrainConfig(
        resolution=SIZE, dataset=str(write_pairs(tmp_path / "pairs", 3, 3)), output_dir=str(tmp_path / "run"),
        max_train_steps=2, rank=4, learning_rate=0.1, batch_size_per_gpu=2,
    )  # fmt: skip
    result = train_lora(tiny_pipeline(), config, progress=False)
    assert result.edits
    return result.lora_path


def edit(*arguments):
    result = CliRunner().invoke(app, ["edit", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_is_the_function(base, lora, tmp_path):
    noise(1, (48, 32)).save(tmp_path / "girl.png")
    noise(2).save(tmp_path / "more.png")
    pipeline = load_pipeline(base)
    load_lora(pipeline, lora)
    options = {"seed": 3, "steps": 2, "guidance": 2.0}
    alone = instruct(pipeline, [noise(1, (48, 32))], "红色短发", **options)
    both = instruct(pipeline, [noise(1, (48, 32)), noise(2)], "红色短发", **options)
    assert alone.size == both.size == (48, 32)
    given = [tmp_path / "girl.png", "--instruction", "红色短发", "--base", base, "--lora", lora, "--seed", 3]
    given += ["--steps", 2, "--guidance", 2.0]
    for more, expected in (((), alone), (("--reference", tmp_path / "more.png"), both)):
        code, output = edit(*given, *more, "--out", tmp_path / "out.png")
        assert code == 0, output
        drawn = np.asarray(Image.open(tmp_path / "out.png"))
        assert np.array_equal(drawn, np.asarray(expected))


def test_transparent_pictures_are_put_on_white(base, lora, tmp_path):
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    given = ["--instruction", "红", "--base", base, "--lora", lora, "--steps", 2, "--out", tmp_path / "out.png"]
    assert edit(tmp_path / "clear.png", *given)[0] == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("girl.png", (), "--lora: .* draws from text alone; give a LoRA trained on references"),
        ("nowhere.png", (), "nowhere.png: not a readable image"),
        ("small.png", (), "reference 1: 15 x 32 pixels, less than one token"),
        ("girl.png", ("--reference", "small.png"), "reference 2: 15 x 32 pixels"),
        ("girl.png", ("--steps", 1), "--steps"),
        ("girl.png", ("--out", "girl.png"), "--out .*girl.png: is an input"),
        ("girl.png", ("--reference", "other.png", "--out", "other.png"), "--out .*other.png: is an input"),
        ("girl.png", ("--out", "x.tiff"), "unknown picture format"),
    ],
)
def test_mistakes_are_one_line(base, tmp_path, name, options, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise(1).save("girl.png")
    noise(2).save("other.png")
    noise(3, (15, 32)).save("small.png")
    code, output = edit(name, "--instruction", "红", "--base", base, "--out", "out.png", *options)
    assert code == 2 and "Traceback" not in output
    assert re.search(message, output), output
    assert not (tmp_path / "out.png").exists()
