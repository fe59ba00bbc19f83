"""Files of captions: `captions.jsonl` of a data set, or plain text with one caption a line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.decoder import scanstring
from pathlib import Path

from qwenlab.captions.finding import Finding
from qwenlab.captions.sets import SetReport, fix_set, lint_set
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes

_SHOWN = 80  # characters of a suggestion that are printed


@dataclass(frozen=True)
class CaptionLine:
    """One caption of a file. number: its line, from 1; raw: that line; start, end: the caption's place in `raw`.

    In a JSON line the place is that of the quoted string, in which a character may be written as an escape.
    """

    number: int
    text: str
    raw: str
    start: int
    end: int

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
    """The captions of a .jsonl file (key "text") or a .txt file; empty lines are skipped.

    Raises QwenlabError, naming file, line and remedy, for a file that is missing, of another kind, not UTF-8 or without
    captions, and for a line that is not JSON or has no "text".
    """
    return _read(Path(path))[1]


def parse_captions(data: bytes, path: str | Path, *, allow_empty: bool = False) -> list[CaptionLine]:
    """`read_captions` for the bytes of a file that was read already; `path` gives its kind and its name in messages.

    allow_empty: in a JSON line "text" may be empty, for a caption that is still to be written.
    """
    jsonl = Path(path).suffix.lower() == ".jsonl"
    captions = []
    for number, raw in enumerate(_lines(data, path), 1):
        if not raw.strip():
            continue
        where = f"{path}, line {number}"
        caption = _json_line(raw, number, where, allow_empty) if jsonl else _text_line(raw, number)
        if any("\ud800" <= character <= "\udfff" for character in caption.text):
            raise QwenlabError(f"{where}: half of a surrogate pair, no character; write the caption again")
        captions.append(caption)
    return captions


def replace_captions(data: bytes, captions: Sequence[CaptionLine], texts: Sequence[str]) -> bytes:
    """The bytes of a file with `texts` in place of `captions`; all else stays, byte for byte."""
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    lines = data.decode("utf-8-sig").split("\n")
    for caption, text in zip(captions, texts, strict=True):
        lines[caption.number - 1] = caption.rewritten(text)
    return mark + "\n".join(lines).encode()


def _read(path: Path) -> tuple[bytes, list[CaptionLine]]:
    if path.suffix.lower() not in (".jsonl", ".txt"):
        raise QwenlabError(
            f"{path}: unknown kind of file {path.suffix!r}; give captions.jsonl, or .txt with a caption a line"
        )
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise QwenlabError(f"{path}: {what}; give captions.jsonl, or .txt with a caption a line")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise QwenlabError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    captions = parse_captions(data, path)
    if not captions:
        raise QwenlabError(f"{path}: holds no caption; write one a line")
    return data, captions


def _lines(data: bytes, path: str | Path) -> list[str]:
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise QwenlabError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def _text_line(raw: str, number: int) -> CaptionLine:
    text = raw.strip()
    start = raw.index(text)
    return CaptionLine(number, text, raw, start, start + len(text))


def _json_line(raw: str, number: int, where: str, allow_empty: bool) -> CaptionLine:
    example = '{"file_name": "a.png", "text": "..."}'
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise QwenlabError(f"{where}: not JSON ({reason}); write {example}") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not (allow_empty or text.strip()):
        raise QwenlabError(f'{where}: needs "text" with a caption that is not empty; write {example}')
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


@dataclass(frozen=True)
class FileReport:
    """The captions of a file and what the linter says of them. mended: findings that `fix_file` rewrote."""

    path: Path
    captions: tuple[CaptionLine, ...]
    report: SetReport
    mended: int = 0

    def lines(self) -> list[str]:
        """One line a finding: file:line:column: rule: reason -> suggestion."""
        return [self._line(self.captions[index], finding) for index, finding in self.report.findings]

    def _line(self, caption: CaptionLine, finding: Finding) -> str:
        place = f"{self.path}:{caption.number}:{caption.column(finding.start)}"
        arrow = f" -> {_short(finding.suggestion)}" if finding.suggestion else ""
        return _printable(f"{place}: {finding.rule}: {finding.reason}{arrow}")

    def summary(self) -> str:
        """How many captions, findings and rewrites, and the notes on the set."""
        found = len(self.report.findings)
        say = f"{self.path}: {len(self.captions)} captions, {found or 'no'} finding{'s' * (found != 1)}"
        if self.mended:
            say += f" left after {self.mended} safe rewrite{'s' * (self.mended != 1)}"
        return "\n".join([say, *(f"note: {note}" for note in self.report.notes)])


def lint_file(path: str | Path) -> FileReport:
    """Lint all captions of a file as one set; raises what `read_captions` raises."""
    captions = read_captions(path)
    return FileReport(Path(path), tuple(captions), lint_set([caption.text for caption in captions]))


def fix_file(path: str | Path, out: str | Path) -> FileReport:
    """Write the captions with all safe rewrites to a new file, and report what is left in it.

    Everything but the captions stays as it is, byte for byte; the original is never touched. Raises QwenlabError when
    `out` exists, is of another kind than `path` or cannot be written, and what `read_captions` raises.
    """
    path, out = Path(path), Path(out)
    if out.exists() or out.is_symlink():
        raise QwenlabError(f"--fix {out}: exists already and is not overwritten; give a new name")
    if out.suffix.lower() != path.suffix.lower():
        raise QwenlabError(f"--fix {out}: not of the same kind as {path.name}; end the name in {path.suffix}")
    data, captions = _read(path)
    texts, mended = fix_set(caption.text for caption in captions)
    try:
        atomic_write_bytes(out, replace_captions(data, captions, texts))
    except OSError as error:
        raise QwenlabError(
            f"--fix {out}: cannot be written ({error.strerror}); give a file in another folder"
        ) from error
    left = lint_file(out)
    return FileReport(out, left.captions, left.report, mended)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
