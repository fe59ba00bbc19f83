"""The lines of a captions file, read within fixed memory and without trusting them.

Two layouts are read: `images/` with `captions.jsonl`, and a Hugging Face image folder, whose `metadata.jsonl` stands
beside the pictures. Both hold one JSON object a line with "file_name" and "text", so one reader does for both and the
`datasets` library is not needed.
"""

import codecs
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from qwenlab.data.check.findings import Finding, shown
from qwenlab.errors import QwenlabError

MAX_LINE_BYTES = 64 * 1024  # twenty times the longest caption the text encoder takes
MAX_CAPTIONS_BYTES = 64 * 1024**2
MAX_LINES = 200_000
_OTHER_KEYS = ("caption", "prompt", "description")


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its captions and pictures, in either layout."""

    folder: Path
    captions: Path
    images: Path


@dataclass(frozen=True)
class Record:
    """One usable caption line: its number from 1, the name and text as written, and the picture it names.

    path: the file that exists, or None. `guess`, set later, is the picture that was probably meant.
    """

    line: int
    name: str
    text: str
    path: Path | None
    guess: Path | None = None


def find_layout(folder: str | Path) -> Layout:
    """The layout of a data set folder; captions or pictures may be missing. Raises QwenlabError for no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise QwenlabError(f"{folder}: no such dataset folder; it must hold images/ and captions.jsonl")
    captions = folder / "captions.jsonl"
    if not captions.exists() and (folder / "metadata.jsonl").exists():
        return Layout(folder, folder / "metadata.jsonl", folder)
    return Layout(folder, captions, folder / "images")


def read_records(layout: Layout) -> tuple[list[Record], list[Finding]]:
    """All usable lines, and what is wrong with the others. A line of 2 GB costs no more memory than a short one."""
    captions = layout.captions
    if not os.path.isfile(captions):
        return [], [Finding("no-captions", captions.name, _missing(layout))]
    if not captions.resolve().is_relative_to(layout.folder.resolve()):
        return [], [Finding("outside", captions.name, "a link to a file outside the folder")]
    records, findings = [], []
    for number, line in _lines(captions):
        where = f"{captions.name}, line {number}"
        if line is None:
            detail = f"more than {MAX_LINE_BYTES >> 10} KiB without a line end"
            findings.append(Finding("long-line", where, detail))
        elif number == 0:
            detail = f"more than {MAX_CAPTIONS_BYTES >> 20} MiB or {MAX_LINES:,} lines"
            findings.append(Finding("endless-captions", captions.name, detail))
        elif line.strip():
            record, found = read_line(line, number, where, layout.images)
            records += [record] if record else []
            findings += found
    return records, findings


def _missing(layout: Layout) -> str:
    if (layout.folder / "metadata.csv").exists():
        return "only metadata.csv is here: write the same as metadata.jsonl, one JSON object a line"
    folder = layout.images if layout.images.is_dir() else layout.folder
    if any(name.endswith(".txt") for name in os.listdir(folder)):
        return "captions seem to stand in .txt files beside the pictures: gather them in captions.jsonl"
    return "neither captions.jsonl nor metadata.jsonl is here"


def _lines(captions: Path) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) with None for a line that is too long; at the limits of the file (0, b"") and no more."""
    with open(captions, "rb") as file:
        number, first = 0, True
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            too_long = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
            yield number, None if too_long else line.removeprefix(codecs.BOM_UTF8) if first else line
            first = False
            while too_long and file.tell() <= MAX_CAPTIONS_BYTES:  # skip to the line's end, block by block
                block = file.readline(1024**2)
                too_long = bool(block) and not block.endswith(b"\n")
            if file.tell() > MAX_CAPTIONS_BYTES or number >= MAX_LINES:
                yield 0, b""
                return


def read_line(line: bytes, number: int, where: str, images: Path) -> tuple[Record | None, list[Finding]]:
    """One line -> the record in it, if there is one, and what is wrong with it."""
    findings = []
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        text = _chinese(line)
        detail = f"byte {error.start + 1} of the line" + ("; reads well as GB18030" if text else "")
        findings.append(Finding("not-utf8", where, detail))
        if text is None:
            return None, findings
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, [*findings, Finding("not-json", where, getattr(error, "msg", type(error).__name__))]
    if not isinstance(value, dict) or not isinstance(value.get("file_name"), str) or not value["file_name"].strip():
        return None, [*findings, Finding("bad-record", where, 'no "file_name" with a text')]
    name, caption = value["file_name"], value.get("text")
    if "text" not in value:
        key = next((key for key in _OTHER_KEYS if isinstance(value.get(key), str)), None)
        if key:
            caption = value[key]
            findings.append(Finding("wrong-key", where, f'the caption of {shown(name)} stands under "{key}"'))
    if not isinstance(caption, str):
        return None, [*findings, Finding("bad-record", where, f'no "text" with a caption for {shown(name)}')]
    if not caption.strip():
        return None, [*findings, Finding("empty-caption", where, f"the caption of {shown(name)} is empty")]
    path = locate(images, name)
    if path is None:
        detail = f"{shown(name)} leads out of the folder"
        return None, [*findings, Finding("outside", where, detail)]
    return Record(number, name, caption.strip(), path if os.path.isfile(path) else None), findings


def _chinese(line: bytes) -> str | None:
    """The line decoded from GB18030, if all of it is then Latin, Chinese, or punctuation; else None."""
    try:
        text = line.decode("gb18030")
    except UnicodeDecodeError:
        return None
    likely = all(c.isascii() or "\u4e00" <= c <= "\u9fff" or c in "，。、：；！？“”（）《》…—·～" for c in text)
    return text if likely else None


def locate(images: Path, name: str) -> Path | None:
    """The path that `name` means under `images`; None when it leads out of it or no file can have this name.

    Links are followed before the answer, so that one which points outside is refused like "../".
    """
    if Path(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return None
    try:
        inside = (images / name).resolve().is_relative_to(images.resolve())
    except (OSError, RuntimeError, ValueError):  # too long, half a character, a link that leads to itself
        return None
    return images / name if inside else None
