"""Labels by eye that cannot see which way drew the picture.

    make_sheets(squares, "runs/eye/sheets", key="runs/eye-key.json")    # PNG sheets to look at, in two passes
    ... a person writes runs/eye/sheets/pass-1.txt and pass-2.txt ...
    result = score("runs/eye-key.json", ["runs/eye/sheets/pass-1.txt", "runs/eye/sheets/pass-2.txt"], readings)

The squares of all ways are shuffled together with decoys, whose truth is known. A sheet shows squares and numbers, and
nothing else; which square a number stands for is in the key, a file that lies elsewhere and is opened last. Both
passes show the same squares in another order, so that the labeller's own steadiness can be told.

An answer file is text or JSON. Text: a line for each row of a sheet, the number of its first square, a colon, a word
for each square from left to right (`20: right right wrong unclear`); # begins a comment. JSON: {"20": "right", ...}.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, atomic_write_json
from qwenlab.lab.agreement import Errors, kappa
from qwenlab.lab.statistics import rate
from qwenlab.show import encode_image

WORDS = ("right", "wrong", "unclear")
PASSES = 2
COLUMNS, ROWS, CELL, STRIP = 10, 7, 160, 14  # of a sheet; a cell's side and the strip for its number in pixels


@dataclass(frozen=True)
class Square:
    """What is to be labelled. arm: the way that drew it; picture: where it was cut from, squares of one are related.

    truth: "right" or "wrong" for a decoy, whose arm is of no account; None where only the eye can tell.
    """

    image: Image.Image
    arm: str
    picture: str
    truth: str | None = None


def make_sheets(squares: Sequence[Square], out: str | Path, key: str | Path, seed: int = 0) -> list[Path]:
    """Write the sheets of both passes into `out` and what their numbers stand for into `key`; returns the sheets.

    Raises QwenlabError when the key would lie among the sheets or be written over, when `out` holds files already (old
    answers would be taken for new ones), for squares of several sizes, and without two ways and decoys of both kinds.
    """
    out, key = Path(out), Path(key)
    if key.resolve().is_relative_to(out.resolve()):
        raise QwenlabError(f"{key}: the key must not lie among the sheets in {out}: choose a place elsewhere")
    if key.exists():
        raise QwenlabError(f"{key} exists: score its answers first, or delete it to label anew")
    if out.is_dir() and any(out.iterdir()):
        raise QwenlabError(f"{out} is not empty: choose a new folder, so that no old answer is taken for a new one")
    if len({square.image.size for square in squares}) > 1:
        raise QwenlabError("squares of several sizes give the way away: cut and scale all of them alike")
    if len({square.arm for square in squares if square.truth is None}) < 2:
        raise QwenlabError("labels that cannot see the way need squares of two ways or more")
    if {square.truth for square in squares} != {"right", "wrong", None}:
        raise QwenlabError(
            "mix in decoys of both kinds: squares whose truth is 'right' and squares whose truth is 'wrong'"
        )
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(squares)).tolist() for _ in range(PASSES)]
    sheets = []
    for number, order in enumerate(orders, 1):
        for start in range(0, len(order), COLUMNS * ROWS):
            path = out / f"pass-{number}-sheet-{start // (COLUMNS * ROWS) + 1:02d}.png"
            images = [squares[index].image for index in order[start : start + COLUMNS * ROWS]]
            atomic_write_bytes(path, encode_image(_sheet(images, start), ".png"))
            sheets.append(path)
    rows = [{"arm": s.arm, "picture": s.picture, "truth": s.truth} for s in squares]
    atomic_write_json(key, {"squares": rows, "orders": orders})
    return sheets


def _sheet(images: Sequence[Image.Image], start: int) -> Image.Image:
    sheet = Image.new("RGB", (COLUMNS * CELL, -(-len(images) // COLUMNS) * (CELL + STRIP)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, image in enumerate(images):
        x, y = k % COLUMNS * CELL, k // COLUMNS * (CELL + STRIP)
        draw.text((x + 2, y + 1), str(start + k), fill="black")
        sheet.paste(image.convert("RGB").resize((CELL - 4, CELL - 4), Image.Resampling.BICUBIC), (x, y + STRIP))
    return sheet


def read_answers(path: str | Path, count: int) -> list[str]:
    """The word for each of `count` numbers of one pass, in their order.

    Raises QwenlabError in one line for a missing or unreadable file, an unknown word, a number twice, a number that is
    on no sheet, and squares without an answer.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QwenlabError(f"{path}: no answers can be read: {error}") from error
    found: dict[int, str] = {}
    for where, number, word in (
        _json_answers(path, text) if text.lstrip().startswith("{") else _text_answers(path, text)
    ):
        if word not in WORDS:
            raise QwenlabError(f"{where}: {word!r} is no answer: write {', '.join(WORDS[:-1])} or {WORDS[-1]}")
        if not 0 <= number < count:
            raise QwenlabError(f"{where}: there is no square {number}: the last one is {count - 1}")
        if number in found:
            raise QwenlabError(f"{where}: square {number} has an answer already: give one a square")
        found[number] = word
    missing = [number for number in range(count) if number not in found]
    if missing:
        names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise QwenlabError(f"{path}: {len(missing)} of {count} squares have no answer: {names}")
    return [found[number] for number in range(count)]


def _text_answers(path: Path, text: str) -> Iterator[tuple[str, int, str]]:
    for line_number, line in enumerate(text.splitlines(), 1):
        line, where = line.partition("#")[0].strip(), f"{path}, line {line_number}"
        if not line:
            continue
        first, colon, words = line.partition(":")
        if not (colon and first.strip().isdecimal()):
            raise QwenlabError(
                f"{where}: begin with the number of a row's first square and a colon, as in 20: right wrong"
            )
        for k, word in enumerate(words.split()):
            yield where, int(first) + k, word


def _json_answers(path: Path, text: str) -> Iterator[tuple[str, int, str]]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)  # pairs, so that a number given twice is seen
    except ValueError as error:
        raise QwenlabError(f"{path}: not JSON: {error}") from error
    for name, word in pairs:
        if not name.strip().isdecimal():
            raise QwenlabError(f"{path}: {name!r} is no number of a square")
        yield str(path), int(name), word


def score(key: str | Path, answers: Sequence[str | Path], readings: Sequence[str | None]) -> dict[str, Any]:
    """Open the key: how steady the labeller is, and how the judge errs on the squares of each way.

    answers: a file for each pass. readings: what the judge read, "right" or "wrong", None where it found nothing to
    read; one for each of the squares that `make_sheets` was given, in that order, decoys included.

    Returns
        "passes": Cohen's kappa between the passes, and "judge": between labels and judge, each with its interval, or
            None where only one word was used, which shows nothing;
        "decoys": for each pass and kind, how many of those shown the labeller called so, with Wilson's interval;
        "arms": for each way the judge's counts as `agreement.Errors`, its "sensitivity" and "specificity" (None where
            none was there), "unclear" (not labelled the same twice, or unclear) and "unread" squares;
        "lacking": ways without right or without wrong ones, for which one of the judge's errors is not known;
        "labels": the word for each square, "unclear" where the passes differ.
    Raises QwenlabError for bad answers, and when the number of answers or readings does not fit the key.
    """
    try:
        opened = json.loads(Path(key).read_text(encoding="utf-8"))
        squares, orders = opened["squares"], opened["orders"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QwenlabError(f"{key}: no key of make_sheets can be read: {error!r}") from error
    if len({Path(path).resolve() for path in answers}) != PASSES:
        raise QwenlabError(f"{len(answers)} answer files: give {PASSES}, one for each pass")
    if len(readings) != len(squares) or not set(readings) <= {"right", "wrong", None}:
        raise QwenlabError(f"{len(readings)} readings for {len(squares)} squares: give each one: right, wrong or None")
    passes = []
    for path, order in zip(answers, orders, strict=True):
        words = dict(zip(order, read_answers(path, len(order)), strict=True))
        passes.append([words[index] for index in range(len(squares))])
    labels = [a if a == b else "unclear" for a, b in zip(*passes, strict=True)]
    judged = [k for k, square in enumerate(squares) if square["truth"] is None]
    clear = [k for k in judged if labels[k] != "unclear" and readings[k]]
    arms = {}
    for arm in sorted({squares[k]["arm"] for k in judged}):
        own = [k for k in judged if squares[k]["arm"] == arm]
        arms[arm] = _judge_errors([(labels[k], readings[k]) for k in own])
    decoys = [
        {kind: _rate([words[k] == kind for k, s in enumerate(squares) if s["truth"] == kind]) for kind in WORDS[:2]}
        for words in passes
    ]
    return {
        "passes": _kappa(*([words[k] for k in judged] for words in passes), [squares[k]["picture"] for k in judged]),
        "judge": _kappa(
            *([words[k] for k in clear] for words in (labels, readings)), [squares[k]["picture"] for k in clear]
        ),
        "decoys": decoys,
        "arms": arms,
        "lacking": [arm for arm, row in arms.items() if None in (row["sensitivity"], row["specificity"])],
        "labels": labels,
    }


def _judge_errors(pairs: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """Of (label, reading)."""
    found = {kind: [read == kind for label, read in pairs if label == kind and read] for kind in ("right", "wrong")}
    right, wrong = found["right"], found["wrong"]
    return asdict(Errors(len(right), sum(right), len(wrong), sum(wrong))) | {
        "sensitivity": _rate(right),
        "specificity": _rate(wrong),
        "unclear": sum(label == "unclear" for label, _ in pairs),
        "unread": sum(label != "unclear" and read is None for label, read in pairs),
    }


def _rate(hits: Sequence[bool]) -> dict[str, float] | None:
    return asdict(rate(sum(hits), len(hits))) if hits else None


def _kappa(first: Sequence[str], second: Sequence[str], pictures: Sequence[str]) -> dict[str, float] | None:
    return asdict(kappa(first, second, pictures)) if len({*first, *second}) > 1 else None
