"""The stamps that tie stored results to the weights they were made with, and the commands that make them again."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

import pytest

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY, atomic_write_bytes
from qwenlab.lab import results
from qwenlab.lab.results import STAMP_KEY, check_stamp, check_stamped_file, stamp_file, stamp_result


@dataclass
class Config:
    seed: int = 0
    sizes: tuple[int, ...] = (1, 2)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "REPOSITORY", tmp_path)
    folder = tmp_path / "qwenlab" / "weights"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a")
    (folder / "b.bin").write_bytes(b"b")
    (folder / "README.md").write_text("prose decides no number")
    return tmp_path


def test_stamp_holds_until_weights_change(repository):
    made = stamp_result(
        {"score": 0.5}, weights=[repository / "qwenlab" / "weights"], config=Config(), command="python x.py"
    )
    stored = json.loads(json.dumps(made))
    assert stored["score"] == 0.5
    assert sorted(stored["made_with"]["weights"].values()) == ["weights/a.bin", "weights/b.bin"]
    assert stored["made_with"]["config"] == {"seed": 0, "sizes": [1, 2]}
    assert check_stamp(stored, root=repository) == []

    (repository / "qwenlab" / "weights" / "a.bin").write_bytes(b"A")
    (repository / "qwenlab" / "weights" / "b.bin").unlink()
    problems = check_stamp(stored, root=repository)
    assert len(problems) == 2
    assert "weights/a.bin has changed or is gone" in problems[0] and "python x.py" in problems[0]
    assert "weights/b.bin has changed or is gone" in problems[1]


def test_weights_may_move(repository):
    stored = stamp_result({}, weights=[repository / "qwenlab" / "weights"])
    elsewhere = repository / "qwenlab" / "lab" / "deep"
    elsewhere.mkdir(parents=True)
    (repository / "qwenlab" / "weights" / "a.bin").rename(elsewhere / "renamed.bin")
    assert check_stamp(stored, root=repository) == []
    (elsewhere / "renamed.bin").rename(repository / "left.bin")  # not among the shipped files any more
    (problem,) = check_stamp(stored, root=repository)
    assert "weights/a.bin" in problem


def test_stamp_notices_an_edited_configuration(repository):
    stored = stamp_result({}, config={"seed": 0})
    stored["made_with"]["config"]["seed"] = 1
    assert check_stamp(stored, root=repository) == ["the stored configuration was edited after the result was made"]


def test_unstamped_result_is_reported(repository):
    (problem,) = check_stamp({"score": 1}, root=repository)
    assert "stamp_result" in problem


def test_stamp_refuses_missing_and_foreign_weights(repository, tmp_path_factory):
    with pytest.raises(QwenlabError, match="not found"):
        stamp_result({}, weights=[repository / "none"])
    foreign = tmp_path_factory.mktemp("elsewhere") / "w.bin"
    foreign.write_bytes(b"")
    with pytest.raises(QwenlabError, match="lies outside"):
        stamp_result({}, weights=[foreign])


def test_stamped_file(repository):
    figure = atomic_write_bytes(repository / "figure.webp", b"picture")
    assert check_stamped_file(figure, root=repository) != []
    stamp_file(
        figure, weights=[repository / "qwenlab" / "weights" / "a.bin"], config={"seed": 1}, command="python figure.py"
    )
    assert check_stamped_file(figure, root=repository) == []
    figure.write_bytes(b"another picture")
    assert check_stamped_file(figure, root=repository) == ["figure.webp is not the file that was recorded"]


FOLDERS = ("benchmarks", "docs", "notebooks", "qwenlab", "data_sample")
STORED = {
    path.relative_to(REPOSITORY).as_posix(): value
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.json"))
    if isinstance(value := json.loads(path.read_text(encoding="utf-8")), dict) and STAMP_KEY in value
}
COMMANDS = sorted({value[STAMP_KEY]["command"] for value in STORED.values()})


def test_stored_results_match_the_shipped_weights():
    stale = {name: problems for name, value in STORED.items() if (problems := check_stamp(value))}
    assert not stale, f"measure again, these results belong to other weights: {json.dumps(stale, indent=1)}"


def test_every_benchmark_result_and_figure_is_stamped():
    """But for the folders named data, whose labels and LoRAs are what benchmarks read."""
    benchmarks = [
        path for path in (REPOSITORY / "benchmarks").rglob("*") if "data" not in path.parts[len(REPOSITORY.parts) + 2 :]
    ]
    found = [path.relative_to(REPOSITORY).as_posix() for path in benchmarks if path.suffix == ".json"]
    assert len(found) > 50
    assert [name for name in found if name not in STORED] == []
    for path in [*benchmarks, *(REPOSITORY / "docs").rglob("*")]:
        if path.suffix in {".webp", ".png", ".jpg", ".csv"}:
            assert check_stamped_file(path) == [], path


@pytest.mark.parametrize("command", COMMANDS)
def test_stored_command_is_one_that_a_reader_can_type(command):
    assert not re.search(r"(?<![\w.])/\w|[A-Z]:\\\\", command), f"an absolute path: {command}"
    python, flag, module, *_ = shlex.split(command)
    assert (python, flag) == ("python", "-m"), command
    assert hasattr(importlib.import_module(module), "main"), f"{module} has no main()"


@pytest.mark.parametrize("way", ["module", "script"])
def test_running_command_is_stored_without_the_machine(way, tmp_path):
    script = REPOSITORY / "qwenlab" / "lab" / "results.py"
    code = (
        "import sys, runpy; sys.argv = [{program!r}, {inside!r}, {outside!r}, '--ways', 'two words'];"
        "import qwenlab.lab.results as r; {spec}; print(r.typed_command())"
    ).format(
        program=str(script), inside=str(REPOSITORY / "configs" / "micro_lora.yaml"), outside=str(tmp_path / "model"),
        spec="sys.modules['__main__'].__spec__ = r.__spec__" if way == "module" else "pass",
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    program = "-m qwenlab.lab.results" if way == "module" else "qwenlab/lab/results.py"
    assert done.stdout.strip() == f"python {program} configs/micro_lora.yaml PATH/model --ways 'two words'"
