"""Captions in files beside the pictures: a.txt or a.caption for a.png, in any case, or a.png.txt."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from pathlib import Path

from qwenlab.data.findings import Finding, shown
from qwenlab.data.reader.lines import Evidence, read_lines
from qwenlab.data.reader.listing import CAPTION_SUFFIXES, Listing
from qwenlab.data.reader.parsing import Parsed, check_text


def find_sidecars(listing: Listing) -> dict[str, list[str]]:
    """For each picture that has some, its caption files, by name; an exact name before one in another case."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in listing.texts:
        by_stem[_stem(name)].append(name)
    found = {}
    for picture in listing.pictures:
        keys = (_folded(picture.rpartition(".")[0]), _folded(picture))
        names = [name for key in keys for name in by_stem.get(key, ())]
        stem = picture.rpartition(".")[0]
        exact = [name for name in names if name.rpartition(".")[0] in (stem, picture)]
        if names:
            found[picture] = sorted(exact or names, key=_order)
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    return _folded(name.rpartition(".")[0])


def _order(name: str) -> int:
    return CAPTION_SUFFIXES.index("." + name.rpartition(".")[2].lower())


def read_sidecar(
    path: Path, name: str, picture: str, encoding: str, others: Evidence
) -> tuple[Parsed | None, list[Finding]]:
    """The caption in a file, all its lines joined by commas, and what is wrong with it. Raises OSError.

    name: of the file, in findings. picture: the name of its picture.
    """
    if not path.is_file():
        return None, [Finding("no-captions", name, "no such file, but something else of that name")]
    lines, findings = read_lines(path, name, encoding, others)
    findings = [Finding(found.rule, found.where.split(", line ")[0], found.detail) for found in findings]
    if any(found.rule != "not-utf8" for found in findings) or (findings and not lines):
        return None, findings
    parts = [line.text.strip() for line in lines]
    if not parts:
        return None, [Finding("empty-caption", name, f"is empty, and is the caption of {shown(picture)}")]
    changes = [f"read as {lines[0].encoding}"] if lines[0].encoding else []
    if len(parts) > 1:
        findings.append(Finding("several-lines", name, f"{len(parts)} lines"))
        changes.append(f"{len(parts)} lines joined by commas")
    text, found, changed = check_text(", ".join(part.rstrip(",，") for part in parts), name)
    return (None if text is None else Parsed(picture, text, (*changes, *changed))), findings + found
