"""Results that say which weights and configuration made them.

A result stored under `benchmarks/` is worth nothing once the weights it was measured with have changed. `stamp_result`
writes the digests of both into the result; `check_stamp` looks for files with these digests, wherever they now lie.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY, atomic_write_json, package_versions, sha256_file, sha256_json

STAMP_KEY = "made_with"
SHIPPED = ("qwenlab", "lora_library", "data_sample", "benchmarks")  # where the files that results cite may lie


def stamp_result(
    result: Mapping[str, Any],
    *,
    weights: Iterable[str | Path] = (),
    config: Mapping[str, Any] | Any = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Return `result` with a record of what made it under the key "made_with".

    weights: files or folders (every file below them counts but for Markdown), inside the repository; stored as
        {SHA-256: what it is}, so that a file may move without a new measurement.
    config: a mapping or dataclass with all that decides the numbers, seeds included; stored whole, with its hash.
    command: how to make the result again; the running command, as a reader would type it, when absent.

    The record also holds the date (UTC), the machine and the versions of the main packages.
    Raises QwenlabError when a weights path is missing or lies where `check_stamp` does not look.
    """
    config = _plain(config)
    return dict(result) | {
        STAMP_KEY: {
            "weights": {sha256_file(file): what for file, what in _files(weights)},
            "config": config,
            "config_sha256": sha256_json(config),
            "command": command or typed_command(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_accelerator()}",
            "versions": {"python": platform.python_version()} | package_versions(),
        }
    }


def typed_command() -> str:
    """The running command as a reader would type it in the repository: no absolute path, modules by name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__") if spec else None
    program = ["-m", name] if name else [_from_repository(sys.argv[0])]
    return shlex.join(["python", *program, *map(_from_repository, sys.argv[1:])])


def check_stamp(result: Mapping[str, Any], *, root: str | Path = REPOSITORY) -> list[str]:
    """Name every way in which a stored result no longer belongs to the files under `root`; empty when it does.

    Reported: no stamp, weights of which no shipped file has the bytes any more, a stored configuration that was edited.
    """
    stamp = result.get(STAMP_KEY)
    if not isinstance(stamp, Mapping):
        return [f'the result has no "{STAMP_KEY}" record: write it with qwenlab.lab.results.stamp_result']
    have = _digests(Path(root)) if stamp["weights"] else frozenset()
    problems = [
        f"{what} has changed or is gone since the result was made: run again: {stamp['command']}"
        for digest, what in stamp["weights"].items()
        if digest not in have
    ]
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
        return [f"{path.name} has no record beside it: write it with qwenlab.lab.results.stamp_file"]
    record = json.loads(record_path.read_text(encoding="utf-8"))
    changed = [] if record["sha256"] == sha256_file(path) else [f"{path.name} is not the file that was recorded"]
    return changed + check_stamp(record, root=root)


def _files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, str]]:
    """Each file with what it is: its name, below the folder's own name where a folder was given."""
    for path in map(Path, paths):
        if not path.exists():
            raise QwenlabError(f"weights not found: {path} (give a file or folder that exists)")
        inside = path.resolve()
        if not any(inside.is_relative_to(REPOSITORY / folder) for folder in SHIPPED):
            raise QwenlabError(
                f"{path} lies outside the repository's {', '.join(SHIPPED)}: a stored result cites files in them only"
            )
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".md":
                yield file, file.relative_to(path.parent).as_posix()


def _digests(root: Path) -> frozenset[str]:
    """SHA-256 of all shipped files but for code."""
    files = (file for folder in SHIPPED for file in (root / folder).rglob("*"))
    found = set()
    for file in files:
        if file.suffix not in (".py", ".pyc") and file.is_file():
            status = file.stat()
            found.add(_digest(file, status.st_mtime_ns, status.st_size))
    return frozenset(found)


@cache
def _digest(file: Path, changed: int, size: int) -> str:
    """Read again only when time or size of the file has changed: a test asks for all results."""
    return sha256_file(file)


def _from_repository(text: str) -> str:
    path = Path(text)
    if not path.is_absolute():
        return text
    path = path.resolve()
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else f"PATH/{path.name}"


def _plain(config: Any) -> Any:
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    return json.loads(json.dumps(config, default=str, allow_nan=False))  # tuples and paths become what JSON keeps


def _accelerator() -> str:
    torch = sys.modules.get("torch")  # only a program that has imported torch can have used a GPU
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "no GPU"
