"""Captions in a table, CSV or Parquet: one row a picture, with the columns file_name and text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qwenlab.data.findings import Finding, shown
from qwenlab.data.reader.lines import ASK, MAX_CAPTIONS_BYTES, MAX_LINES
from qwenlab.data.reader.parsing import REFERENCE
from qwenlab.data.reader.references import names_pictures
from qwenlab.sniffing import decode, file_kind

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "，": "full-width commas"}
_SEP_LINE = re.compile(r"sep=.\r?\n?", re.IGNORECASE)  # Excel's own first line
_SHOWN = 6  # column names in a message


class Row(NamedTuple):
    """A row as an object. where: the file and the line or row."""

    number: int
    where: str
    value: dict[str, Any]
    changes: tuple[str, ...] = ()


Table = tuple[list[Row], list[Finding], list[str]]  # rows, what is wrong, and remarks


def read_csv(path: Path, name: str, encoding: str) -> Table:
    """The rows of a CSV file, with commas, semicolons or tabs between the columns. Raises OSError."""
    if path.stat().st_size > MAX_CAPTIONS_BYTES:
        return [], [Finding("endless-captions", name, f"more than {MAX_CAPTIONS_BYTES >> 20} MiB")], []
    data = path.read_bytes()
    if kind := file_kind(data[:512]):
        return [], [Finding("not-text", name, f"is {kind}")], []
    text, findings, changes = _text(data, name, encoding)
    if text is None:
        return [], findings, []
    text = text.lstrip("\ufeff")
    first = 1  # line of the header
    if _SEP_LINE.match(text):
        text, first = _SEP_LINE.sub("", text), 2
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]
    separator = next((mark for mark in _SEPARATORS if names_pictures(_cells(header, mark))), ",")
    if separator == "，":
        return [], [*findings, Finding("bad-table", name, "full-width commas ， between the columns: write ,")], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    try:
        names = [cell.strip() for cell in next(reader, [])]
        if not names_pictures(names):
            return [], [*findings, _no_column(name, names)], []
        if twice := [column for column in ("file_name", "text") if names.count(column) > 1]:
            return [], [*findings, Finding("bad-table", name, f'the column "{twice[0]}" stands twice')], []
        rows, found = _rows(reader, names, name, first - 1, changes)
    except csv.Error as error:
        where = f"{name}, line {reader.line_num + first - 1}"
        return [], [*findings, Finding("bad-table", where, f"no CSV: {_cause(error, separator)}")], []
    remarks = [] if separator == "," else [f"columns of {shown(name)} are separated by {_SEPARATORS[separator]}"]
    return rows, findings + found, remarks


def _text(data: bytes, name: str, encoding: str) -> tuple[str | None, list[Finding], tuple[str, ...]]:
    try:
        decoded = decode(data)
        text, label = decoded.text, decoded.encoding
        if text is None and encoding:
            text, label = data.decode(encoding), encoding
    except UnicodeDecodeError:
        return None, [Finding("not-utf8", name, f"not UTF-8, nor {encoding}")], ()
    if text is None:
        ask = ASK if decoded.candidates else ""
        return None, [Finding("not-utf8", name, f"not UTF-8; {decoded.doubt()}{ask}")], ()
    if label == "UTF-8":
        return text, [], ()
    return text, [Finding("not-utf8", name, f"not UTF-8; reads as {label}")], (f"read as {label}",)


def _cells(line: str, mark: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(mark)]


def _no_column(name: str, names: list[str]) -> Finding:
    columns = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return Finding("bad-table", name, f'no column "file_name" in the first line ({shown(columns)})')


def _cause(error: csv.Error, separator: str) -> str:
    message = str(error)
    if "expected after" in message:
        return f"after the quote that ends a value stands no {separator!r}: write a quote inside of a caption twice"
    return "a quote at the start of a value is not closed" if "unexpected end" in message else message


def _rows(
    reader: Any, names: list[str], name: str, before: int, changes: tuple[str, ...]
) -> tuple[list[Row], list[Finding]]:
    rows, findings = [], []
    for cells in reader:
        number = reader.line_num + before
        where = f"{name}, line {number}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(rows) + len(findings) >= MAX_LINES:
            findings.append(Finding("endless-captions", name, f"more than {MAX_LINES:,} lines"))
            break
        if len(cells) > len(names):
            detail = f"{len(cells)} values for {len(names)} columns: put a caption with commas into double quotes"
            findings.append(Finding("bad-table", where, detail))
        else:
            rows.append(Row(number, where, dict(zip(names, cells, strict=False)), changes))
    return rows, findings


def read_parquet(path: Path, name: str) -> Table:
    """The rows of a Parquet file. Raises OSError."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return [], [Finding("bad-table", name, "Parquet needs the package pyarrow: pip install pyarrow")], []
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if not names_pictures(names):
                return [], [_no_column(name, names)], []
            if file.metadata.num_rows > MAX_LINES:
                return [], [Finding("endless-captions", name, f"more than {MAX_LINES:,} rows")], []
            plain = [
                column.name
                for column in file.schema_arrow
                if not pyarrow.types.is_nested(column.type) or column.name in (REFERENCE, "edit_image")
            ]
            return list(_parquet_rows(file.read(columns=plain), name)), [], []
    except pyarrow.ArrowException as error:
        return [], [Finding("bad-table", name, f"no Parquet table ({type(error).__name__})")], []


def _parquet_rows(table: Any, name: str) -> Iterator[Row]:
    for number, value in enumerate(table.to_pylist(), start=1):
        yield Row(number, f"{name}, row {number}", value)
