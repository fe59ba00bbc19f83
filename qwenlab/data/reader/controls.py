"""The control picture of a row, which lies pixel on pixel on its picture: found, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from qwenlab.data.findings import Finding, plural, shown
from qwenlab.data.images import image_size
from qwenlab.data.reader.names import Lookup, Outside, identity
from qwenlab.data.reader.references import SMALLEST
from qwenlab.errors import QwenlabError


class _Record(Protocol):
    name: str
    where: str
    path: Path | None
    control: Path | None


def find_control(name: str, where: str, lookup: Lookup) -> tuple[Path | None, list[Finding]]:
    """The file that the name in a `control` means, None for ""; what is wrong: then the line cannot be used."""
    if not name:
        return None, []
    try:
        path = lookup.find(name)
    except Outside:
        return None, [Finding("outside", where, f"control '{shown(name)}' leads out of the folder")]
    return path, [] if path else [Finding("no-control", where, f"no control picture '{shown(name)}'")]


def control_findings(records: Iterable[_Record]) -> list[Finding]:
    """What is wrong with control pictures that exist: one that is the picture itself, is tiny or of another shape.

    Only headers of files are read; a file that is no picture is found out where it is opened.
    """
    findings = []
    for record in records:
        if record.control is None or record.path is None:
            continue
        try:
            size, picture = image_size(record.control), image_size(record.path)
        except QwenlabError:
            continue
        sides = f"{shown(record.control.name)} is {size[0]} x {size[1]} pixels"
        if identity(record.control) == identity(record.path):
            findings.append(Finding("bad-control", record.where, f"{shown(record.name)} is its own control picture"))
        elif min(size) < SMALLEST:
            findings.append(Finding("bad-control", record.where, sides))
        elif not same_shape(size, picture):
            detail = f"{sides}, another shape than the picture's {picture[0]} x {picture[1]}"
            findings.append(Finding("bad-control", record.where, detail))
    return findings


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two pictures, (width, height) in pixels, are one shape in two sizes, to within a pixel of the smaller."""
    (width, height), (wide, high) = sorted((size, other))
    return abs(wide * height - high * width) <= max(wide, high)


def controls_remark(records: Sequence[_Record]) -> str:
    """How many captions have control pictures; "" when none has."""
    count = sum(record.control is not None for record in records)
    verb = "has a control picture" if count == 1 else "have control pictures"
    return f"{count} of {plural(len(records), 'caption')} {verb}" if count else ""
