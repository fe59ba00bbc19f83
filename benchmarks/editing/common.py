"""What the benchmarks of editing share: scenes to choose on and to report on, and records of what was measured."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qwenlab.files import REPOSITORY, atomic_write_json, atomic_write_text
from qwenlab.lab import world
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.results import stamp_result
from qwenlab.lab.statistics import Effect
from qwenlab.model.micro_weights import MICRO_WEIGHTS

FOLDER = REPOSITORY / "benchmarks" / "editing"
DEVELOPMENT, REPORT = "development", "report"
# Seed and split of the scenes; what the report draws are combinations that the model never saw.
PARTS = {DEVELOPMENT: (61_000, "train"), REPORT: (62_000, "test")}
USED = (MICRO_WEIGHTS, *JUDGE)
Row = dict[str, Any]


def scenes(part: str, count: int, draw: Callable[[np.random.Generator, str], Any | None]) -> list[Any]:
    """`count` of what `draw` makes with a generator and a split of the world, those left out that are None."""
    seed, split = PARTS[part]
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    while len(found) < count:
        if (one := draw(rng, split)) is not None:
            found.append(one)
    return found


def any_scene(rng: np.random.Generator, split: str) -> world.Scene:
    """A scene of the split."""
    return world.sample_scene(rng, split=split)


def make_parser(text: str, name: str, count: int) -> argparse.ArgumentParser:
    """The options that all of these benchmarks have."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--part", choices=[*PARTS], default=REPORT, help="scenes to choose on or to report on")
    parser.add_argument("--count", type=int, default=count, help="scenes")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--records", type=Path, default=FOLDER / "records", help="folder of what was measured")
    parser.add_argument("--out", type=Path, default=FOLDER / f"{name}.json", help="table")
    parser.add_argument("--table", action="store_true", help="write the table of what is recorded, measure nothing")
    return parser


def record_path(folder: Path, *names: str) -> Path:
    """Where the record of a way lies."""
    return folder / ("-".join(re.findall(r"[\w.]+", " ".join(names))) + ".json")


def record(
    path: Path, measure: Callable[[], list[Row]], config: dict[str, Any], weights: Iterable[Path] = USED
) -> list[Row]:
    """The rows, one a scene, in the record at `path`; measured and written, with a stamp, when it is missing."""
    if not path.exists():
        rows = measure()
        stamped = stamp_result({"rows": rows}, weights=weights, config=config)
        atomic_write_text(path, json.dumps(stamped, ensure_ascii=False) + "\n")
        print(f"{path.stem}: {len(rows)} rows", flush=True)
    return rows_of(path)


def rows_of(path: Path) -> list[Row]:
    """The rows of a record."""
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def write_table(path: Path, table: dict[str, Any], config: dict[str, Any], weights: Iterable[Path] = USED) -> None:
    """Write a table with its stamp, and print it; an `Effect` becomes its fields."""
    plain = json.loads(json.dumps(table, ensure_ascii=False, default=asdict))
    atomic_write_json(path, stamp_result(plain, weights=weights, config=config))
    print(json.dumps(table, ensure_ascii=False, indent=1, default=in_words))


def in_words(effect: Effect) -> str:
    """A number with its interval."""
    return f"{effect.value:.3f} [{effect.low:.3f}, {effect.high:.3f}]"


def column(rows: list[Row], name: str) -> np.ndarray:
    """(P,) of one measure."""
    return np.array([row[name] for row in rows], float)
