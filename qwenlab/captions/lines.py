"""The captions of a file, `captions.jsonl` of a data set or plain text with one caption a line, and of whole data sets.

What a line is, and what is wrong with it, `qwenlab.data.reader` says, as it does for training and the check.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from json.decoder import scanstring
from pathlib import Path

from qwenlab.data.findings import Finding
from qwenlab.data.reader.parsing import check_text, parse_json
from qwenlab.errors import QwenlabError
from qwenlab.sniffing import damaged_utf8, decode, file_kind

_END = re.compile(r"(\r\n|\n|\r)")
_WHAT = "give captions.jsonl, a .txt file with a caption a line, or the folder of a data set"


@dataclass(frozen=True)
class CaptionLine:
    """One caption of a file. number: its line, from 1; raw: that line; start, end: the caption's place in `raw`.

    In a JSON line the place is that of the quoted string, in which a character may be written as an escape. where: the
    place to print where that is another than file and line.
    """

    number: int
    text: str
    raw: str
    start: int
    end: int
    where: str = ""

    def column(self, position: int) -> int:
        """The column in the file, from 1, of the caption's character `position`."""
        if not self.quoted:
            return self.start + position + 1
        at = self.start + 1
        for _ in range(position):
            at += _escape_length(self.raw, at)
        return at + 1

    @property
    def quoted(self) -> bool:
        """True in a JSON line."""
        return self.end - self.start != len(self.text) or self.raw[self.start] == '"' and self.text[:1] != '"'

    def rewritten(self, text: str) -> str:
        """The line with another caption and everything else as it was."""
        if text == self.text:
            return self.raw
        literal = self.raw[self.start : self.end]
        new = json.dumps(text, ensure_ascii="\\u" in literal) if self.quoted else text
        return self.raw[: self.start] + new + self.raw[self.end :]


def _escape_length(raw: str, at: int) -> int:
    """How many characters of the JSON string in `raw` make the one character at `at`."""
    if raw[at] != "\\":
        return 1
    if raw[at + 1] != "u":
        return 2
    high = 0xD800 <= int(raw[at + 2 : at + 6], 16) < 0xDC00
    return 12 if high and raw[at + 6 : at + 8] == "\\u" else 6


def read_captions(path: str | Path) -> list[CaptionLine]:
    """The captions of a .jsonl file (key "text"), a .txt file or a data set's folder; empty lines are skipped.

    Raises QwenlabError, naming file, line and remedy, for a file that is missing, of another kind, not UTF-8, garbled
    or without captions, for a line that is not JSON or has no "text", and for a folder that training would refuse.
    """
    path = captions_file(path)
    return _of_folder(path) if path.is_dir() else read_bytes(path)[1]


def captions_file(path: str | Path) -> Path:
    """The one JSON Lines file of a data set's folder that holds all its captions; any other path as it is."""
    from qwenlab.data.reader import find_layout  # loads Pillow

    path = Path(path)
    if not path.is_dir():
        return path
    tables = [source.path for source in find_layout(path).sources]
    return tables[0] if len(tables) == 1 and tables[0].suffix.lower() == ".jsonl" and tables[0].is_file() else path


def _of_folder(folder: Path) -> list[CaptionLine]:
    from qwenlab.data.reader import read_folder

    reading = read_folder(folder)
    errors = [finding for finding in reading.findings if finding.level == "error"]
    if errors:
        raise QwenlabError(errors[0].refusal(folder))
    return [
        CaptionLine(record.line, record.text, record.text, 0, len(record.text), f"{folder / record.where}")
        for record in reading.records
    ]


def parse_captions(data: bytes, path: str | Path, *, allow_empty: bool = False) -> list[CaptionLine]:
    """`read_captions` for the bytes of a file that was read already; `path` gives its kind and its name in messages.

    allow_empty: in a JSON line "text" may be empty or garbled, for a caption that is still to be written.
    """
    path = Path(path)
    jsonl = path.suffix.lower() == ".jsonl"
    captions = []
    for number, raw in enumerate(_lines(data, path), 1):
        raw = raw.removeprefix("\ufeff") if number == 1 else raw
        if not raw.strip("\ufeff").strip():
            continue
        where = f"{path.name}, line {number}"
        caption = _json_line(raw, number, where, path, allow_empty) if jsonl else _text_line(raw, number)
        halves = any("\ud800" <= character <= "\udfff" for character in caption.text)
        if halves or not allow_empty:
            _, faults, _ = check_text(caption.text, where)
            _refuse([fault for fault in faults if fault.level == "error"][:1], path)
        captions.append(caption)
    return captions


def _refuse(faults: Sequence[Finding | None], path: Path) -> None:
    for fault in filter(None, faults):
        raise QwenlabError(fault.refusal(path.parent))


def replace_captions(data: bytes, captions: Sequence[CaptionLine], texts: Sequence[str]) -> bytes:
    """The bytes of a file with `texts` in place of `captions`; all else stays, byte for byte."""
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    pieces = _END.split(data.decode("utf-8-sig"))  # lines and their ends in turn
    for caption, text in zip(captions, texts, strict=True):
        pieces[2 * (caption.number - 1)] = caption.rewritten(text)
    return mark + "".join(pieces).encode()


def read_bytes(path: Path) -> tuple[bytes, list[CaptionLine]]:
    """The bytes of a captions file, and the captions in them; raises as `read_captions` does."""
    if path.is_dir():
        raise QwenlabError(f"{path}: a folder; {_WHAT}")
    if not path.is_file():
        raise QwenlabError(f"{path}: no such file; {_WHAT}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise QwenlabError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if kind := file_kind(data[:512]):
        raise QwenlabError(f"{path}: is {kind}; {_WHAT}")
    if path.suffix.lower() not in (".jsonl", ".txt"):
        raise QwenlabError(f"{path}: unknown kind of file {path.suffix!r}; {_WHAT}")
    captions = parse_captions(data, path)
    if not captions:
        raise QwenlabError(f"{path}: holds no caption; write one a line")
    return data, captions


def _lines(data: bytes, path: Path) -> list[str]:
    try:
        return _END.split(data.decode("utf-8-sig"))[::2]
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\n|\r", data[: error.start])) + 1
        if damaged_utf8(data):
            cause = "bytes are missing or changed; write the line again"
        else:
            decoded = decode(data)
            cause = f"it reads as {decoded.encoding}" if decoded.text else decoded.doubt()
            cause += "; save the file as UTF-8"
        raise QwenlabError(f"{path}, line {line}: not UTF-8: {cause}") from error


def _text_line(raw: str, number: int) -> CaptionLine:
    text = raw.strip()
    start = raw.index(text)
    return CaptionLine(number, text, raw, start, start + len(text))


def _json_line(raw: str, number: int, where: str, path: Path, allow_empty: bool) -> CaptionLine:
    record, fault = parse_json(raw.lstrip("\ufeff"), where)
    _refuse([fault], path)
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not (allow_empty or text.strip()):
        example = '{"file_name": "a.png", "text": "..."}'
        raise QwenlabError(f'{path}, line {number}: needs "text" with a caption that is not empty; write {example}')
    return CaptionLine(number, text, raw, *_literal(raw))


def _literal(raw: str) -> tuple[int, int]:
    """The span, quotes included, of the string under the key "text" in a line that is a valid JSON object."""
    decoder, at, span = json.JSONDecoder(), raw.index("{") + 1, (0, 0)
    while True:
        key, at = scanstring(raw, raw.index('"', at) + 1)
        at = raw.index(":", at) + 1
        at += len(raw[at:]) - len(raw[at:].lstrip())
        value, end = decoder.raw_decode(raw, at)
        if key == "text" and isinstance(value, str):
            span = (at, end)
        at = end + len(raw[end:]) - len(raw[end:].lstrip())
        if raw[at] == "}":
            return span
