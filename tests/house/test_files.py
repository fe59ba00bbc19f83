"""Atomic writes and digests."""

import os

import pytest

from qwenlab import files


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
