"""qwenlab redraw and extend: mistakes are one line before the model is loaded, inputs are never overwritten."""

import os

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import qwenlab.model.pipeline
from qwenlab.cli import app
from tests.house.test_cli import assert_one_line_error

runner = CliRunner()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a picture and masks, from which no model is loaded."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 48, 3), np.uint8)).save(tmp_path / "girl.png")
    Image.new("RGB", (200, 8)).save(tmp_path / "low.png")
    mask = np.zeros((32, 48), np.uint8)
    mask[2:9, 2:9] = 255
    for name, pixels in (("mask", mask), ("black", 0 * mask), ("white", 0 * mask + 255), ("other", mask[:16])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.fromarray(mask[:8].repeat(5, 1)[:, :200]).save(tmp_path / "low_mask.png")
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(qwenlab.model.pipeline, "load_pipeline", lambda *args, **kwargs: 1 / 0)
    return tmp_path


REDRAW = {"picture": "girl.png", "--mask": "mask.png", "--prompt": "1女孩", "--out": "new.png"}
EXTEND = {"picture": "girl.png", "--left": "16", "--prompt": "1女孩", "--out": "new.png"}


def call(command, options):
    arguments = [options["picture"]]
    for name, value in options.items():
        if name != "picture":
            arguments += [f"{name}={value}"] if value is not None else [name]
    return runner.invoke(app, [command, *arguments])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"picture": "none.png"}, ["none.png"]),
        ({"picture": "text.png"}, ["text.png"]),
        ({"--out": "new.gif"}, ["--out", ".png"]),
        ({"--out": "girl.png/new.png"}, ["--out"]),
        ({"--out": "girl.png"}, ["--out girl.png", "input"]),
        ({"--out": "link.png"}, ["--out link.png", "input"]),
        ({"--steps": "1"}, ["--steps"]),
        ({"--steps": "nan"}, ["--steps"]),
        ({"--seed": "-1"}, ["--seed"]),
        ({"--guidance": "inf"}, ["--guidance"]),
        ({"--guidance": "1", "--negative-prompt": "blur"}, ["--negative-prompt"]),
        ({"--lora": "none.safetensors"}, ["none.safetensors"]),
        ({"--lora": "none.safetensors:nan"}, ["none.safetensors"]),
        ({"--prompt": "\udcff"}, ["--prompt"]),
    ],
)
@pytest.mark.parametrize(("command", "options"), [("redraw", REDRAW), ("extend", EXTEND)])
def test_mistakes_of_both_are_one_line(place, command, options, change, said):
    os.link(place / "girl.png", place / "link.png")
    before = (place / "girl.png").read_bytes()
    assert_one_line_error(call(command, options | change), *said)
    assert (place / "girl.png").read_bytes() == before and not (place / "new.png").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--mask": "none.png"}, ["none.png"]),
        ({"--mask": "text.png"}, ["text.png"]),
        ({"--mask": "other.png"}, ["other.png", "48 x 16", "48 x 32"]),
        ({"--mask": "black.png"}, ["black.png", "white"]),
        ({"--mask": "white.png"}, ["white.png", "generate"]),
        ({"--out": "mask.png"}, ["--out mask.png", "input"]),
        ({"picture": "low.png", "--mask": "low_mask.png"}, ["low.png", "200 x 8"]),
        ({"--strength": "0"}, ["--strength"]),
        ({"--strength": "1.5"}, ["--strength"]),
        ({"--strength": "nan"}, ["--strength"]),
    ],
)
def test_mistakes_of_redraw_are_one_line(place, change, said):
    assert_one_line_error(call("redraw", REDRAW | change), *said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--left": "0"}, ["--left", "--bottom"]),
        ({"--left": "-3"}, ["--left"]),
        ({"--top": "5000"}, ["--top"]),
        ({"--right": "nan"}, ["--right"]),
        ({"picture": "low.png"}, ["low.png", "200 x 8"]),
    ],
)
def test_mistakes_of_extend_are_one_line(place, change, said):
    assert_one_line_error(call("extend", EXTEND | change), *said)


def test_both_write_what_was_drawn(place, monkeypatch, pipeline):
    opened = []
    monkeypatch.setattr(
        qwenlab.model.pipeline, "load_pipeline", lambda base, precision: opened.append((base, precision)) or pipeline
    )
    old = np.asarray(Image.open("girl.png"))
    result = call("redraw", REDRAW | {"--steps": "2", "--guidance": "1", "--exact": None, "--base": "here"})
    assert result.exit_code == 0, result.output
    new = np.asarray(Image.open("new.png"))
    changed = (new != old).any(-1)
    assert changed[2:9, 2:9].mean() > 0.5 and not changed[9:].any() and not changed[:, 9:].any()
    result = call("extend", EXTEND | {"--steps": "2", "--guidance": "1", "--out": "deep/wide.png", "--bottom": "5"})
    assert result.exit_code == 0 and "64x37" in result.output, result.output
    assert np.array_equal(np.asarray(Image.open("deep/wide.png"))[:32, 16:], old)
    assert opened == [("here", None), ("micro", None)]
