"""Atomic writes and the stamps that tie results to the weights they were made with."""

import json
import os
from dataclasses import dataclass

import pytest

from qwenlab import files
from qwenlab.errors import QwenlabError


def test_atomic_write_replaces_whole_file_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    files.atomic_write_text(path, "一")
    files.atomic_write_text(path, "二")
    assert path.read_text(encoding="utf-8") == "二"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_atomic_write_keeps_old_file_when_interrupted(tmp_path, monkeypatch):
    path = files.atomic_write_text(tmp_path / "a.txt", "old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        files.atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX matter")
def test_atomic_write_respects_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = files.atomic_write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_atomic_write_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        files.atomic_write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_hashes():
    # The digest of the empty input is in FIPS 180-4's example files.
    assert files.sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files.sha256_json({"a": 1, "b": "女"}) == files.sha256_json({"b": "女", "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})


@dataclass
class Config:
    seed: int = 0
    sizes: tuple[int, ...] = (1, 2)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "REPOSITORY", tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(b"a")
    (tmp_path / "weights" / "b.bin").write_bytes(b"b")
    return tmp_path


def test_stamp_holds_until_weights_change(repository):
    made = files.stamp_result({"score": 0.5}, weights=[repository / "weights"], config=Config(), command="python x.py")
    stored = json.loads(json.dumps(made))
    assert stored["score"] == 0.5
    assert set(stored["made_with"]["weights"]) == {"weights/a.bin", "weights/b.bin"}
    assert stored["made_with"]["config"] == {"seed": 0, "sizes": [1, 2]}
    assert files.check_stamp(stored, root=repository) == []

    (repository / "weights" / "a.bin").write_bytes(b"A")
    (repository / "weights" / "b.bin").unlink()
    problems = files.check_stamp(stored, root=repository)
    assert len(problems) == 2 and "a.bin has changed" in problems[0] and "python x.py" in problems[0]
    assert "b.bin is gone" in problems[1]


def test_stamp_notices_an_edited_configuration(repository):
    stored = files.stamp_result({}, config={"seed": 0})
    stored["made_with"]["config"]["seed"] = 1
    assert files.check_stamp(stored, root=repository) == [
        "the stored configuration was edited after the result was made"
    ]


def test_unstamped_result_is_reported(repository):
    (problem,) = files.check_stamp({"score": 1}, root=repository)
    assert "stamp_result" in problem


def test_stamp_refuses_missing_and_foreign_weights(repository, tmp_path_factory):
    with pytest.raises(QwenlabError, match="not found"):
        files.stamp_result({}, weights=[repository / "none"])
    foreign = tmp_path_factory.mktemp("elsewhere") / "w.bin"
    foreign.write_bytes(b"")
    with pytest.raises(QwenlabError, match="outside the repository"):
        files.stamp_result({}, weights=[foreign])


def test_stamped_file(repository):
    figure = files.atomic_write_bytes(repository / "figure.webp", b"picture")
    assert files.check_stamped_file(figure, root=repository) != []
    files.stamp_file(figure, weights=[repository / "weights" / "a.bin"], config={"seed": 1}, command="python figure.py")
    assert files.check_stamped_file(figure, root=repository) == []
    figure.write_bytes(b"another picture")
    assert files.check_stamped_file(figure, root=repository) == ["figure.webp is not the file that was recorded"]


def stored_results():
    """Every JSON file of the repository that says what it was made with."""
    for folder in ("benchmarks", "docs", "notebooks", "qwenlab", "data_sample"):
        for path in sorted((files.REPOSITORY / folder).rglob("*.json")):
            value = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(value, dict) and files.STAMP_KEY in value:
                yield path, value


def test_stored_results_match_the_shipped_weights():
    stale = {
        path.relative_to(files.REPOSITORY).as_posix(): problems
        for path, value in stored_results()
        if (problems := files.check_stamp(value))
    }
    assert not stale, f"measure again, these results belong to other weights: {json.dumps(stale, indent=1)}"


def test_every_benchmark_result_and_figure_is_stamped():
    stamped = {path for path, _ in stored_results()}
    results = files.REPOSITORY / "benchmarks" / "results"
    assert [path.name for path in results.rglob("*.json") if path not in stamped] == []
    for folder in (results, files.REPOSITORY / "docs"):
        for suffix in ("webp", "png", "jpg", "csv"):
            for path in folder.rglob(f"*.{suffix}"):
                assert files.check_stamped_file(path) == []
