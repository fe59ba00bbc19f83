"""Files that are whole or absent, and results that say which weights and configuration made them.

A result stored under `benchmarks/results/` is worth nothing once the weights it was measured with have changed.
`stamp_result` writes the hashes of both into the result; `check_stamp` reads them back and names what has changed.
"""

import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from qwenlab.errors import QwenlabError

REPOSITORY = Path(__file__).resolve().parent.parent
STAMP_KEY = "made_with"
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


def stamp_result(
    result: Mapping[str, Any],
    *,
    weights: Iterable[str | Path] = (),
    config: Mapping[str, Any] | Any = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Return `result` with a record of what made it under the key "made_with".

    weights: files or folders (every file below them counts), inside the repository; stored by relative path.
    config: a mapping or dataclass with all that decides the numbers, seeds included; stored whole, with its hash.
    command: how to make the result again; the running command line when absent.

    The record also holds the date (UTC), the machine and the versions of the main packages.
    Raises QwenlabError when a weights path is missing or lies outside the repository.
    """
    config = _plain(config)
    return dict(result) | {
        STAMP_KEY: {
            "weights": {_relative(file): sha256_file(file) for file in _files(weights)},
            "config": config,
            "config_sha256": sha256_json(config),
            "command": command or " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_accelerator()}",
            "versions": {"python": platform.python_version()} | package_versions(),
        }
    }


def check_stamp(result: Mapping[str, Any], *, root: str | Path = REPOSITORY) -> list[str]:
    """Name every way in which a stored result no longer belongs to the files under `root`; empty when it does.

    Reported: no stamp, a weights file that is gone or has other bytes, a stored configuration that was edited.
    """
    stamp = result.get(STAMP_KEY)
    if not isinstance(stamp, Mapping):
        return [f'the result has no "{STAMP_KEY}" record: write it with qwenlab.files.stamp_result']
    problems = []
    for name, expected in stamp["weights"].items():
        file = Path(root) / name
        if not file.is_file():
            problems.append(f"{name} is gone: run again: {stamp['command']}")
        elif sha256_file(file) != expected:
            problems.append(f"{name} has changed since the result was made: run again: {stamp['command']}")
    if sha256_json(stamp["config"]) != stamp["config_sha256"]:
        problems.append("the stored configuration was edited after the result was made")
    return problems


def stamp_file(path: str | Path, **made_with: Any) -> Path:
    """Put a record beside a figure or table, `picture.webp.json` for `picture.webp`, with the file's own hash.

    The keyword arguments are those of `stamp_result`. Returns the path of the record.
    """
    path = Path(path)
    record = stamp_result({"file": path.name, "sha256": sha256_file(path)}, **made_with)
    return atomic_write_json(path.with_name(path.name + ".json"), record)


def check_stamped_file(path: str | Path, *, root: str | Path = REPOSITORY) -> list[str]:
    """`check_stamp` for a file with a record beside it; also reports a file that is not the recorded one."""
    path = Path(path)
    record_path = path.with_name(path.name + ".json")
    if not record_path.is_file():
        return [f"{path.name} has no record beside it: write it with qwenlab.files.stamp_file"]
    record = json.loads(record_path.read_text(encoding="utf-8"))
    changed = (
        [] if record["sha256"] == sha256_file(path) else [f"{path.name} is not the file that was recorded"]
    )
    return changed + check_stamp(record, root=root)


def _files(paths: Iterable[str | Path]) -> list[Path]:
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise QwenlabError(f"weights not found: {path} (give a file or folder that exists)")
    return found


def _relative(path: Path) -> str:
    path = path.resolve()
    if not path.is_relative_to(REPOSITORY):
        raise QwenlabError(
            f"{path} lies outside the repository: a stored result may only cite files inside {REPOSITORY}"
        )
    return path.relative_to(REPOSITORY).as_posix()


def _plain(config: Any) -> Any:
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    return json.loads(
        json.dumps(config, default=str, allow_nan=False)
    )  # tuples and paths become what JSON keeps


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return versions


def _accelerator() -> str:
    torch = sys.modules.get("torch")  # only a program that has imported torch can have used a GPU
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "no GPU"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
