"""The command line: a user's mistake is one line and status 2; good calls reach the right functions."""

import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.course.claims import load_claims
from qwenlab.errors import QwenlabError

runner = CliRunner()


def assert_one_line_error(result, *parts):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("qwenlab: "), result.stderr
    assert "Traceback" not in result.output
    for part in parts:
        assert part in lines[0]


def test_help_lists_the_commands():
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("check", "train", "generate", "tour", "claims"):
        assert command in result.output


def test_train_without_its_configuration(tmp_path):
    assert_one_line_error(runner.invoke(app, ["train", str(tmp_path / "none.yaml")]), "none.yaml")


def test_train_with_a_misspelt_key(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("training:\n  learning_rat: 1.0e-3\n")
    assert_one_line_error(runner.invoke(app, ["train", str(config)]), "a.yaml", "learning_rat", "learning_rate")


def test_train_with_broken_yaml(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("training: [1,\nlora: 2")
    assert_one_line_error(runner.invoke(app, ["train", str(config)]), "a.yaml")


def test_generate_without_the_lora_file(tmp_path):
    command = [
        "generate",
        "--prompt",
        "1女孩",
        "--lora",
        str(tmp_path / "none.safetensors"),
        "--out",
        "a.png",
    ]
    assert_one_line_error(runner.invoke(app, command), "none.safetensors")


def test_generate_with_a_lora_that_is_none(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not a tensor in sight")
    command = ["generate", "--prompt", "1女孩", "--lora", str(tmp_path / "a.safetensors"), "--out", "a.png"]
    assert_one_line_error(runner.invoke(app, command), "a.safetensors")


@pytest.mark.parametrize("name", ["a.gif", "a"])
def test_generate_to_an_unknown_format(tmp_path, name):
    command = ["generate", "--prompt", "1女孩", "--out", str(tmp_path / name)]
    assert_one_line_error(runner.invoke(app, command), "--out", ".png, .jpg or .webp")


def test_generate_to_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    command = ["generate", "--prompt", "1女孩", "--out", str(tmp_path / "file" / "a.png")]
    assert_one_line_error(runner.invoke(app, command), "a.png")


def test_generate_with_a_base_that_does_not_exist(tmp_path):
    command = [
        "generate",
        "--prompt",
        "1女孩",
        "--base",
        str(tmp_path / "none"),
        "--out",
        str(tmp_path / "a.png"),
    ]
    assert_one_line_error(runner.invoke(app, command), "none")


def test_generate_writes_the_picture(tmp_path, monkeypatch):
    import qwenlab.model.generation
    import qwenlab.model.pipeline

    calls = {}
    monkeypatch.setattr(qwenlab.model.pipeline, "load_pipeline", lambda base, precision=None: (base, precision))
    monkeypatch.setattr(
        qwenlab.model.generation,
        "generate",
        lambda pipeline, prompts, seeds, **options: (
            calls.update(pipeline=pipeline, prompts=prompts, seeds=seeds, **options)
            or [Image.new("RGB", (16, 16), "red")]
        ),
    )
    out = tmp_path / "new" / "a.png"
    result = runner.invoke(app, ["generate", "--prompt", "1女孩", "--out", str(out), "--seed", "7", "--steps", "3"])
    assert result.exit_code == 0, result.output
    assert Image.open(out).getpixel((0, 0)) == (255, 0, 0)
    assert calls["pipeline"] == ("micro", None)
    assert (calls["prompts"], calls["seeds"], calls["steps"]) == ("1女孩", 7, 3)


@pytest.mark.parametrize(("edits", "said"), [(False, "qwenlab generate --prompt"), (True, "qwenlab edit PICTURE")])
def test_train_says_what_to_do_next(tmp_path, monkeypatch, edits, said):
    import qwenlab.training.opening

    config = tmp_path / "a.yaml"
    config.write_text("max_train_steps: 2\n")
    resumed: list[bool] = []
    monkeypatch.setattr(qwenlab.training.opening, "load_pipeline", lambda base, precision, device: base)
    monkeypatch.setattr(
        qwenlab.training,
        "train_lora",
        lambda pipeline, settings, resume, extra, close_ups: resumed.append(resume)
        or SimpleNamespace(
            lora_path=tmp_path / "lora.safetensors", seconds=float(settings.max_train_steps), edits=edits, net=None
        ),
    )  # fmt: skip
    result = runner.invoke(app, ["train", str(config)])
    assert result.exit_code == 0, result.output
    assert "lora.safetensors after 2 s" in result.output and said in result.output
    assert runner.invoke(app, ["train", str(config), "--resume"]).exit_code == 0 and resumed == [False, True]


def test_tour_without_jupyter_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "qwenlab.course.tour", raising=False)
    monkeypatch.setitem(sys.modules, "nbclient", None)  # as if it were not installed
    assert_one_line_error(runner.invoke(app, ["tour"]), 'pip install "qwenlab[notebooks]"')


def test_tour_reports_the_failing_cell(monkeypatch):
    import qwenlab.course.tour

    def fails(out):
        raise QwenlabError("00_start_here.ipynb, cell 3 failed")

    monkeypatch.setattr(qwenlab.course.tour, "run_tour", fails)
    assert_one_line_error(runner.invoke(app, ["tour"]), "00_start_here.ipynb, cell 3")


def test_claims_are_printed_and_written(tmp_path):
    printed = runner.invoke(app, ["claims"])
    assert printed.exit_code == 0 and "| C32 |" in printed.output
    for name, start in (("claims.md", "32 claims"), ("claims.html", "<p>32 claims")):
        assert runner.invoke(app, ["claims", "--out", str(tmp_path / name)]).exit_code == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert_one_line_error(runner.invoke(app, ["claims", "--out", "claims.pdf"]), ".md or .html")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("qwenlab.course.claims.load_claims", lambda: 1 / 0)
    result = runner.invoke(app, ["claims"])
    assert isinstance(result.exception, ZeroDivisionError)
    monkeypatch.undo()
    assert len(load_claims()) == 32
