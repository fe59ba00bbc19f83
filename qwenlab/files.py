"""Files that are whole or absent, and their digests."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from qwenlab.errors import QwenlabError

REPOSITORY = Path(__file__).resolve().parent.parent
_PACKAGES = ("torch", "diffusers", "transformers", "peft")


def atomic_write_bytes(path: str | Path, data: bytes) -> Path:
    """Write `data` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    The bytes go to a temporary file in the same folder, are forced to disk, and take the name in one step.
    Missing parent folders are made. Returns the path. Raises OSError when the folder cannot be written.
    """
    with atomic_open(path) as file:
        file.write(data)
    return Path(path)


@contextmanager
def atomic_open(path: str | Path) -> Iterator[BinaryIO]:
    """As `atomic_write_bytes`, for what is written piece by piece: a file opened for it, named when the block ends."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes the file private to its owner
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself is durable only once the folder is on disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_place(path: str | Path, name: str) -> None:
    """Raise QwenlabError when no file `path` can be: a folder, or below something that is no folder.

    name: the option that gave the path, for the message. Missing folders are fine, writing makes them.
    """
    path = Path(path)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not above.is_dir():
        why = "is a folder" if path.is_dir() else f"{above} is no folder"
        raise QwenlabError(f"{name} {path}: no file can be written there, {why}; give the path of a new file")


def atomic_write_text(path: str | Path, text: str) -> Path:
    """`atomic_write_bytes` for text, as UTF-8 with the line ends as given."""
    return atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | Path, value: Any) -> Path:
    """`atomic_write_bytes` for JSON: indented, Chinese readable, NaN refused (ValueError), newline at the end."""
    return atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks. Raises OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value's canonical form: the order of keys and the white space do not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return sha256_bytes(text.encode("utf-8"))


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return versions


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
