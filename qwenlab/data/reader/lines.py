"""The lines of a text file, read within fixed memory and without trusting it.

A line ends with LF, CR LF or CR, as in every program that people write captions with; U+2028 and the like are
characters of a caption. Text is UTF-8. What is not is decoded where only one encoding makes sense of it, with a finding
that says so: training refuses such a line, a repaired copy has it in UTF-8.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from qwenlab.data.findings import Finding
from qwenlab.errors import QwenlabError
from qwenlab.sniffing import (
    ENCODINGS,
    by_chance,
    damaged_utf8,
    decode,
    file_kind,
    shortened,
    strangeness,
    wide_encoding,
)

MAX_LINE_BYTES = 64 * 1024  # twenty times the longest caption the text encoder takes
MAX_CAPTIONS_BYTES = 64 * 1024**2  # a file without line ends must not fill the memory
MAX_LINES = 200_000
ASK = ": say which with --encoding"  # ends a finding that a person can settle
_BLOCK = 1024 * 1024
_HEAD = 512
_EVIDENCE = 200_000  # bytes or characters that are looked at to tell an encoding
_ODD = 0.5  # share of unusual characters above which a line is not in the encoding of its neighbours


class Line(NamedTuple):
    """A line without its end. number: from 1. encoding: the one it was decoded from, "" for UTF-8."""

    number: int
    text: str
    encoding: str = ""


class Evidence(NamedTuple):
    """What other files of the same kind tell about an encoding: their text, and the one in which all of them read."""

    context: str = ""
    together: str = ""


_NO_EVIDENCE = Evidence()


def evidence(paths: Iterable[Path]) -> Evidence:
    """The evidence of many short files, such as caption files beside pictures. Files that cannot be read tell none."""
    good, bad, size = [], [], 0
    for path in filter(Path.is_file, paths):  # a pipe would never end
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_LINE_BYTES)
        except OSError:
            continue
        size += len(data)
        try:
            good.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            bad.append(data)
        if size > _EVIDENCE:
            break
    context = "\n".join(good)
    return Evidence(context, decode(b"\n".join(bad), context).encoding if bad else "")


def codec_named(name: str) -> str:
    """Python's codec for what a person calls an encoding; "" for "". Raises QwenlabError for no text encoding."""
    try:
        codec = next((codec for label, codec in ENCODINGS.items() if label.lower() == name.lower()), name)
        if codec:
            "a".encode(codec)
        return codec
    except (LookupError, UnicodeError, TypeError):
        known = ", ".join(sorted(ENCODINGS.values()))
        raise QwenlabError(f"--encoding {name}: no such encoding; give one such as {known}") from None


def read_lines(
    path: Path, name: str, encoding: str = "", others: Evidence = _NO_EVIDENCE
) -> tuple[list[Line], list[Finding]]:
    """All lines that can be read, blank ones left out, and what is wrong with the others.

    name: of the file, in findings. encoding: a codec for lines that are not UTF-8. others: what files beside it tell.
    A line of 2 GB costs no more memory than a short one. Raises OSError.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        file.seek(0)
        if kind := file_kind(head):
            return [], [Finding("not-text", name, f"is {kind}")]
        wide = wide_encoding(head)
        good, bad, findings = [], [], []
        if wide.startswith("utf-16") or wide.startswith("utf-32"):
            findings.append(Finding("not-utf8", name, f"is {wide[:6].upper()}"))
        for number, line in _raw_lines(_utf8_blocks(file, wide)):
            if line is None:
                findings.append(_too_long(name, number))
                continue
            try:
                text = line.decode("utf-8").lstrip("\ufeff")  # also where files were joined
            except UnicodeDecodeError as error:
                bad.append((number, line, error.start))
            else:
                if text.strip():
                    good.append(
                        Line(number, text, wide[:6].upper() if findings and not wide.startswith("utf-8") else "")
                    )
    decoded, found = _decode_others(bad, name, good, encoding, others)
    return sorted(decoded), findings + found


def _too_long(name: str, number: int) -> Finding:
    if number:
        return Finding(
            "long-line", f"{name}, line {number}", f"more than {MAX_LINE_BYTES >> 10} KiB without a line end"
        )
    return Finding("endless-captions", name, f"more than {MAX_CAPTIONS_BYTES >> 20} MiB or {MAX_LINES:,} lines")


def _utf8_blocks(file: BinaryIO, wide: str) -> Iterator[bytes]:
    """The file's bytes, block by block, in UTF-8 where it is UTF-16 or UTF-32."""
    if wide in ("", "utf-8-sig"):
        while block := file.read(_BLOCK):
            yield block
        return
    decoder = codecs.getincrementaldecoder(wide)(errors="replace")
    while block := file.read(_BLOCK):
        yield decoder.decode(block).encode("utf-8", "replace")


def _raw_lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) with None for a line that is too long; at the limits of the file (0, None) and no more."""
    number, held, skipping, total = 1, b"", False, 0
    for block in blocks:
        total += len(block)
        if not block:
            continue  # half a character of UTF-16
        *lines, held = (held + block).splitlines(keepends=True)  # of bytes: LF, CR LF and CR, nothing else
        if held.endswith(b"\n"):
            lines, held = [*lines, held], b""  # after CR the LF may come with the next block
        for line in lines:
            if not skipping:
                yield number, None if len(line) > MAX_LINE_BYTES else line.rstrip(b"\r\n")
            skipping, number = False, number + 1
            if number > MAX_LINES:
                yield 0, None
                return
        if len(held) > MAX_LINE_BYTES:
            if not skipping:
                yield number, None
            skipping, held = True, held[-1:]
        if total > MAX_CAPTIONS_BYTES:
            yield 0, None
            return
    if held and not skipping:
        yield number, held.rstrip(b"\r")


def _decode_others(
    bad: list[tuple[int, bytes, int]], name: str, good: list[Line], encoding: str, others: Evidence
) -> tuple[list[Line], list[Finding]]:
    """All lines, those that are not UTF-8 in one encoding where that fits every one of them, else one by one."""
    if not bad and not others.together:
        return good, []
    context = "\n".join([*(line.text for line in good), others.context])[:_EVIDENCE]
    together = decode(b"\n".join(line for _, line, _ in bad)[:_EVIDENCE], context).encoding if bad else ""
    together = together or others.together
    lines, findings = _without_chance(good, name, encoding, together)
    for number, data, start in bad:
        text, label, doubt = _decode_one(data, encoding, together, context)
        where, detail = f"{name}, line {number}", f"not UTF-8 (byte {start + 1} of the line)"
        if text is None:
            findings.append(Finding("not-utf8", where, f"{detail}; {doubt}"))
        else:
            findings.append(Finding("not-utf8", where, f"{detail}; reads as {label}"))
            lines.append(Line(number, text, label))
    return lines, findings


def _without_chance(good: list[Line], name: str, encoding: str, together: str) -> tuple[list[Line], list[Finding]]:
    """Lines that are UTF-8; those that are so by chance as the other lines of the file are, or in doubt."""
    lines, findings = [], []
    for line in good:
        reading = None if line.encoding else by_chance(line.text, encoding or ENCODINGS.get(together, ""))
        if reading is None:
            lines.append(line)
            continue
        text, certain = reading
        label = encoding or together
        detail = f"UTF-8 by chance; reads as {label}"
        if encoding or certain:
            lines.append(Line(line.number, text, label))
        else:
            both = f"UTF-8 ({shortened(line.text)}) or, like the other text, {label} ({shortened(text)})"
            detail = f"perhaps {both}{ASK}"
        findings.append(Finding("not-utf8", f"{name}, line {line.number}", detail))
    return lines, findings


def _decode_one(data: bytes, encoding: str, together: str, context: str) -> tuple[str | None, str, str]:
    """(text, encoding, "") or (None, "", what is doubtful)."""
    if encoding:
        try:
            return data.decode(encoding), encoding, ""
        except UnicodeDecodeError:
            return None, "", f"nor {encoding}"
    if damaged_utf8(data):
        return None, "", "UTF-8 of which bytes are missing or changed"
    codec = ENCODINGS.get(together, "")
    if codec:
        try:
            text = data.decode(codec)
            if strangeness(text, codec) <= _ODD:
                return text, together, ""
        except UnicodeDecodeError:
            pass
    decoded = decode(data, context)
    if decoded.text is not None:
        return decoded.text, decoded.encoding, ""
    return None, "", f"{decoded.doubt()}{ASK}" if decoded.candidates else decoded.doubt()
