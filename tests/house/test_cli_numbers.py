"""Numbers and words that users type: wrong ones are one line, before a file is read or a model loaded."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import qwenlab.model.pipeline
from qwenlab.cli import app
from tests.house.test_cli import assert_one_line_error

runner = CliRunner()
GENERATE = ["generate", "--prompt", "1女孩", "--out", "none/a.png", "--lora", "none.safetensors"]
FUSE = ["fuse", "none.safetensors", "--out", "none/out.safetensors"]
RESIZE = ["resize", "none.safetensors", "--out", "none/out.safetensors"]
MEMORY = ["memory", "--gpu", "24"]


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(qwenlab.model.pipeline, "load_pipeline", lambda *args, **kwargs: 1 / 0)


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        (GENERATE, "--steps", ["1", "0", "-5", "1001", "nan", "2.5", "twenty", "1e2"]),
        (GENERATE, "--seed", ["-1", str(2**64), "nan", "1.5", "zero"]),
        (GENERATE, "--count", ["0", "-1", "1001", "nan", "two"]),
        (GENERATE, "--guidance", ["nan", "inf", "-inf", "-1", "1e9", "much"]),
        (GENERATE, "--size", ["0", "100", "1328x1000", "8192", "-64", "nan", "64x", "1e3x64", "64 64", "64x64x64"]),
        (GENERATE, "--max-tokens", ["0", "-1", "1025", "nan", "512.5"]),
        (GENERATE, "--lora", ["a.safetensors:nan", "a.safetensors:inf", "a.safetensors:1e5", "a.safetensors:"]),
        (FUSE, "--rank", ["0", "-3", "5000", "nan", "inf", "1.5", "all"]),
        (RESIZE, "--rank", ["0", "-3", "5000", "nan", "inf", "1.5", "all"]),
        (RESIZE, "--energy", ["0", "-0.1", "1.01", "nan", "inf", "-inf", "95%"]),
        (FUSE, "--dtype", ["float8", "nan", ""]),
        (RESIZE, "--dtype", ["float8", "nan", ""]),
        (FUSE, "--format", ["a1111", "nan", ""]),
        (RESIZE, "--format", ["a1111", "nan", ""]),
        (FUSE, "--method", ["best", "linear", "magnitude_prune", "nan", ""]),
        (MEMORY, "--resolution", ["0", "-16", "1000", "16000000", "nan", "1e3"]),
        (MEMORY, "--rank", ["0", "-1", "5000", "nan", "8.5"]),
        (MEMORY, "--batch", ["0", "-1", "10000", "nan"]),
        (MEMORY, "--accumulation", ["0", "-1", "10000", "nan"]),
        (MEMORY, "--text-tokens", ["0", "-1", "1025", "nan"]),
        (["memory"], "--gpu", ["nan", "inf", "-inf", "-24", "0", "1e9", ""]),
        (["check-dataset", "none"], "--min-side", ["0", "-1", "nan", "inf", "1.5"]),
    ],
)
def test_a_wrong_number_is_one_line(command, option, values):
    for value in values:
        extra = ["--rank", "4"] if command is RESIZE and option in ("--dtype", "--format") else []
        result = runner.invoke(app, [*command, *extra, f"{option}={value}"])
        assert_one_line_error(result)
        line = result.stderr
        named = value.rpartition(":")[0] if option == "--lora" else option
        assert named in line, line
        assert not Path("none").exists()


@pytest.mark.parametrize("weight", ["nan", "-nan", "inf", "-Infinity", "1e999", "101", "0,5", "1_0", "x"])
def test_a_wrong_weight_of_fuse_is_one_line(tmp_path, weight):
    for files in ([f"a.safetensors:{weight}"], ["b.safetensors:1", f"a.safetensors:{weight}"]):
        result = runner.invoke(app, ["fuse", *files, "--out", str(tmp_path / "out.safetensors")])
        assert_one_line_error(result, "a.safetensors", "weight")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["generate", "--prompt", "a"], "Missing option '--out'"),
        (["fuse", "--out", "a.safetensors"], "Missing argument 'files'; see"),
        (["generate", "--sede", "3"], "No such option: --sede"),
        (["resize", "a.safetensors", "--out", "b.safetensors"], "give either --rank"),
        (["doctor", "a", "b"], "unexpected extra argument"),
        (["drow"], "No such command 'drow'"),
        ([*GENERATE, "--guidance", "1", "--negative-prompt", "x"], "--negative-prompt: is not used at --guidance 1"),
        ([*GENERATE, "--prompt", "\udcff"], "--prompt: holds bytes that are no text"),
        (["generate", "--prompt", "a", "--out", "a.png", "--lora", "none.safetensors"], "none.safetensors"),
    ],
)
def test_what_a_command_cannot_read_is_one_line(arguments, part):
    assert_one_line_error(runner.invoke(app, arguments), part)


@pytest.mark.parametrize(
    "command", [GENERATE[:3], ["fuse", "none.safetensors"], ["resize", "none.safetensors", "--rank", "4"]]
)
def test_a_place_where_no_file_can_be_is_named_before_files_are_read(tmp_path, command):
    suffix = "png" if command[0] == "generate" else "safetensors"
    (tmp_path / "file").write_text("")
    (tmp_path / f"folder.{suffix}").mkdir()
    for out in (
        tmp_path / "file" / f"a.{suffix}",
        tmp_path / "file" / "b" / f"a.{suffix}",
        tmp_path / f"folder.{suffix}",
    ):
        result = runner.invoke(app, [*command, "--out", str(out)])
        assert_one_line_error(result, f"--out {out}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"folder.{suffix}"]


def test_what_the_system_refuses_is_one_line_and_bugs_are_not(monkeypatch):
    def fails(error):
        monkeypatch.setattr("qwenlab.course.claims.load_claims", lambda: (_ for _ in ()).throw(error))
        return runner.invoke(app, ["claims"])

    assert_one_line_error(fails(PermissionError(13, "Permission denied", "a.md")), "a.md: Permission denied")
    assert_one_line_error(fails(OSError(28, "No space left on device", "b.md")), "b.md: No space left")
    bug = fails(FileNotFoundError(2, "No such file", "inside.yaml"))
    assert isinstance(bug.exception, FileNotFoundError)


class Drawing:
    """Stands for pipeline and sampler: notes what it is asked for."""

    def __init__(self, monkeypatch):
        import qwenlab.lora.io
        import qwenlab.model.generation

        self.loaded, self.calls, self.weights = [], [], {}
        monkeypatch.setattr(qwenlab.model.pipeline, "load_pipeline", lambda base, precision=None: self)
        monkeypatch.setattr(qwenlab.lora.io, "check_lora_file", lambda path: None)
        monkeypatch.setattr(qwenlab.lora.io, "load_lora", lambda _, path, name: self.loaded.append((str(path), name)))
        monkeypatch.setattr(qwenlab.lora.io, "weigh_loras", lambda _, weights: self.weights.update(weights))
        monkeypatch.setattr(qwenlab.model.generation, "generate", self.generate)

    def generate(self, pipeline, prompt, seed, **options):
        if seed == 13:
            raise RuntimeError("out of memory")
        self.calls.append((prompt, seed, options))
        return [Image.new("RGB", options["size"] or (16, 16), (seed, 0, 0))]


def test_options_reach_the_sampler(tmp_path, monkeypatch):
    drawing = Drawing(monkeypatch)
    command = [
        "generate", "--prompt", "1女孩", "--out", str(tmp_path / "a.png"), "--seed", "7", "--count", "3",
        "--size", "64x32", "--guidance", "2.5", "--negative-prompt", "坏手", "--max-tokens", "512", "--steps", "4",
        "--lora", "fox.safetensors:0.8", "--lora", "ink.safetensors",
    ]  # fmt: skip
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert drawing.loaded == [("fox.safetensors", "file_0"), ("ink.safetensors", "file_1")]
    assert drawing.weights == {"file_0": 0.8, "file_1": 1.0}
    assert [(prompt, seed) for prompt, seed, _ in drawing.calls] == [("1女孩", 7), ("1女孩", 8), ("1女孩", 9)]
    (options,) = {tuple(sorted(options.items())) for _, _, options in drawing.calls}
    assert dict(options) == {
        "steps": 4, "guidance": 2.5, "size": (64, 32), "negative_prompt": "坏手", "max_tokens": 512, "progress": True,
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.png", "a-2.png", "a-3.png"]
    assert Image.open(tmp_path / "a-2.png").getpixel((0, 0)) == (8, 0, 0)


def test_what_is_drawn_is_kept_when_a_later_picture_fails(tmp_path, monkeypatch):
    Drawing(monkeypatch)
    command = ["generate", "--prompt", "a", "--out", str(tmp_path / "a.png"), "--seed", "11", "--count", "12"]
    assert isinstance(runner.invoke(app, command).exception, RuntimeError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-01.png", "a-02.png"]


def test_without_options_the_negative_prompt_is_the_one_of_training(tmp_path, monkeypatch):
    from qwenlab.model.generation import NEGATIVE_PROMPT

    drawing = Drawing(monkeypatch)
    assert runner.invoke(app, ["generate", "--prompt", "a", "--out", str(tmp_path / "a.png")]).exit_code == 0
    ((_, seed, options),) = drawing.calls
    assert (seed, options["negative_prompt"], options["size"], options["max_tokens"]) == (
        0,
        NEGATIVE_PROMPT,
        None,
        None,
    )
    assert (tmp_path / "a.png").is_file() and not drawing.loaded


def test_warnings_are_one_line_without_code(tmp_path, monkeypatch):
    import warnings

    drawing = Drawing(monkeypatch)
    monkeypatch.setattr(
        "qwenlab.model.generation.generate",
        lambda *args, **options: (warnings.warn("cut\noff", stacklevel=1), drawing.generate(*args, **options))[1],
    )
    result = runner.invoke(app, ["generate", "--prompt", "a", "--out", str(tmp_path / "a.png")])
    assert result.stderr == "qwenlab: warning: cut off\n"
