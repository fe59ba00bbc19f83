"""Pictures that a caption speaks of, as "the girl of Picture 1 in a red jumper" does: found, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from qwenlab.data.findings import Finding, plural, shown
from qwenlab.data.images import image_size
from qwenlab.data.reader.names import Lookup, Outside, identity
from qwenlab.errors import QwenlabError

SMALLEST = 16  # pixels of a side: one token of the transformer
LARGEST_COUNT = 16  # references of one row; models are trained on three, Qwen-Image-2.1 on ten


class _Record(Protocol):
    name: str
    where: str
    path: Path | None
    references: tuple[Path, ...]


def find_references(names: Sequence[str], where: str, lookup: Lookup) -> tuple[tuple[Path, ...], list[Finding]]:
    """The files that the names in a `reference` mean, and what is wrong: with a finding the line cannot be used."""
    if len(names) > LARGEST_COUNT:
        return (), [Finding("bad-reference", where, f"{len(names)} references; at most {LARGEST_COUNT} are read")]
    found = []
    for name in names:
        try:
            path = lookup.find(name)
        except Outside:
            return (), [Finding("outside", where, f"reference '{shown(name)}' leads out of the folder")]
        if path is None:
            return (), [Finding("no-reference", where, f"no reference '{shown(name)}'")]
        found.append(path)
    return tuple(found), []


def reference_findings(records: Iterable[_Record]) -> list[Finding]:
    """What is wrong with references that exist: one that is its own picture, stands twice, is tiny or of another size.

    Only headers of files are read; a file that is no picture is found out where it is opened.
    """
    findings, sizes = [], {}

    def size(path: Path) -> tuple[int, int] | None:
        if path not in sizes:
            try:
                sizes[path] = image_size(path)
            except QwenlabError:
                sizes[path] = None
        return sizes[path]

    for record in records:
        if not record.references:
            continue
        same = [identity(path) for path in record.references]
        known = [size(path) for path in record.references]
        small = next(
            (path for path, pair in zip(record.references, known, strict=True) if pair and min(pair) < SMALLEST), None
        )
        picture = size(record.path) if record.path else None
        if record.path and identity(record.path) in same:
            findings.append(Finding("bad-reference", record.where, f"{shown(record.name)} is its own reference"))
        elif len(set(same)) < len(same):
            findings.append(Finding("bad-reference", record.where, "names one reference twice"))
        elif small is not None:
            width, height = size(small)
            findings.append(Finding("bad-reference", record.where, f"{shown(small.name)} is {width} x {height} pixels"))
        elif picture and all(known) and picture not in known:
            sides = " and ".join(f"{width} x {height}" for width, height in dict.fromkeys(known))
            detail = f"references of {sides} pixels, the picture has {picture[0]} x {picture[1]}"
            findings.append(Finding("reference-size", record.where, detail))
    return findings


def references_remark(records: Sequence[_Record]) -> str:
    """How many captions have references; "" when none has."""
    counts = [len(record.references) for record in records if record.references]
    if not counts:
        return ""
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    verb = "has" if len(counts) == 1 else "have"
    return f"{len(counts)} of {plural(len(records), 'caption')} {verb} references ({each} each)"
