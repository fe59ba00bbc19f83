"""A repaired copy of a data set: what can be mended without a person's judgement is mended, the rest is left out.

The original is only read. The copy is built beside its final place and takes the name in one step, so an interrupted
repair leaves no half of a data set. It always has the layout that training reads: images/ and captions.jsonl.
"""

import json
import os
import shutil
import tempfile
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from qwenlab.data.check.folder import Report
from qwenlab.data.check.pictures import Picture
from qwenlab.data.findings import plural, shown
from qwenlab.data.images import FORMATS, open_image
from qwenlab.data.reader import Record
from qwenlab.data.reader.lines import ASK
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, atomic_write_text
from qwenlab.show import encode_image

_NOT_COPIED = ("unread-captions", "lone-caption", "lone-reference", "other-format", "elsewhere")


@dataclass(frozen=True)
class Repaired:
    """The copy, how many samples it holds of how many captions, and one line for each thing that was changed or left
    out."""

    folder: Path
    samples: int
    captions: int
    changes: tuple[str, ...]


def repair_dataset(report: Report, out: str | Path) -> Repaired:
    """Write a repaired copy of a checked data set to `out`, a folder that does not exist yet or is empty.

    Pictures that are plain RGB are copied byte for byte, the others are written anew as PNG, without loss. Raises
    QwenlabError when `out` holds something, lies inside the data set, nothing would be left, or captions would be left
    out whose encoding a person can tell.
    """
    out, source = Path(out), report.layout.folder
    _refuse_bad_place(out, source)
    _refuse_doubt(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        os.chmod(work, 0o755)  # mkdtemp makes the folder private to its owner
        samples, changes = _write(report, work)
        if not samples:
            raise QwenlabError(f"{source}: nothing would be left in a repaired copy; see the report")
        if out.exists():
            out.rmdir()
        os.replace(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Repaired(out, samples, len(report.records) + len(_unusable_lines(report)), tuple(changes))


def _refuse_bad_place(out: Path, source: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise QwenlabError(f"{out}: is no folder; give a new one for the repaired copy")
    if out.is_dir() and any(out.iterdir()):
        raise QwenlabError(f"{out}: is not empty; give a new folder for the repaired copy")
    if out.resolve().is_relative_to(source.resolve()):
        raise QwenlabError(f"{out}: lies inside the data set {source}; give a folder outside")


def _refuse_doubt(report: Report) -> None:
    doubts = [finding for finding in report.findings if finding.rule == "not-utf8" and ASK in finding.detail]
    if doubts:
        first = f"{shown(doubts[0].where)}: {shown(doubts[0].detail, 200)}"
        raise QwenlabError(f"{report.layout.folder}: {plural(len(doubts), 'line')} in doubt, no copy was made; {first}")


def _write(report: Report, work: Path) -> tuple[int, list[str]]:
    dropped = {name: finding for finding in report.findings for name in finding.drops}
    lines, changes = [], _unusable_lines(report)
    written: dict[str, str] = {}  # pictures by their name in the data set: their name in the copy
    used: set[tuple] = set()
    names: set[str] = set()
    beside: dict[Path, str] = {}  # references and control pictures likewise
    (work / "images").mkdir()
    for record in report.records:
        path = record.path or record.guess
        if path is None:
            changes.append(f"{shown(record.where)}: left out, no picture {shown(record.name)}")
            continue
        name = report.reading.name_of(path)
        picture = report.pictures.get(name)
        if (name, record.beside) in used:
            changes.append(f"{shown(record.where)}: left out, second caption of {shown(name)}")
        elif picture is None or name in dropped:
            reason = dropped[name].detail if name in dropped else "it could not be read"
            changes.append(f"{shown(record.where)}: left out with {shown(name)}: {shown(reason, 120)}")
        elif lost := _lost_beside(report, record):
            changes.append(f"{shown(record.where)}: left out, its {lost} cannot be used")
        else:
            used.add((name, record.beside))
            text = " ".join(record.text.split())
            if name not in written:
                written[name], change = _write_picture(picture, work / "images", names, len(lines) + 1)
                changes += [change] if change else []
            line = {"file_name": written[name], "text": text}
            if record.references:
                line["reference"] = [_write_beside(report, path, work, beside) for path in record.references]
            if record.control:
                line["control"] = _write_beside(report, record.control, work, beside)
            lines.append(json.dumps(line, ensure_ascii=False))
            changes += _changes_of(record, name, text)
    atomic_write_text(work / "captions.jsonl", "".join(line + "\n" for line in lines))
    left = sorted(report.pictures.keys() - written.keys() - dropped.keys())
    changes += [f"{shown(name)}: left out, no caption" for name in left]
    unread = [finding for finding in report.findings if finding.rule in _NOT_COPIED]
    changes += [f"{shown(finding.where)}: left out, {shown(finding.detail, 120)}" for finding in unread]
    return len(lines), changes


def _reference(report: Report, path: Path) -> Picture | None:
    return report.references.get(path) or report.pictures.get(report.reading.name_of(path))


def _lost_beside(report: Report, record: Record) -> str:
    """Kind and name of a reference or control picture that is unusable, or was found to be none; "" for none."""
    faults = {finding.rule for finding in report.findings if finding.where == record.where}
    if "bad-reference" in faults:
        return f"reference {shown(record.references[0].name)}"
    if "bad-control" in faults:
        return f"control picture {shown(record.control.name)}"
    lost = [path.name for path in record.beside if _reference(report, path) is None]
    return f"{'reference' if record.references else 'control picture'} {shown(lost[0])}" if lost else ""


def _write_beside(report: Report, path: Path, work: Path, beside: dict[Path, str]) -> str:
    """Write a reference or control picture once, numbered: references/00001.png; returns its name in the copy."""
    if path not in beside:
        folder = work / "references"
        folder.mkdir(exist_ok=True)
        picture = replace(_reference(report, path), name=f"{len(beside) + 1:05d}{path.suffix}")
        name, _ = _write_picture(picture, folder, set(), len(beside) + 1)
        beside[path] = f"references/{name}"
    return beside[path]


def _unusable_lines(report: Report) -> list[str]:
    """One line for each caption that could not be read, in the order of the report."""
    kept = {record.where for record in report.records}
    return [
        f"{shown(finding.where)}: left out, {shown(finding.detail, 160)}"
        for finding in report.reading.findings
        if finding.level == "error"
        and finding.where not in kept
        and finding.rule != "no-samples"
        and not (finding.rule == "not-utf8" and any(where.startswith(finding.where) for where in kept))
    ]


def _changes_of(record: Record, name: str, text: str) -> list[str]:
    """What a caption in the copy has otherwise than the original, the new caption with it."""
    changes = [f"{shown(record.where)}: {change}: {shown(text)}" for change in record.changes]
    if text != record.text:
        changes.append(f"{shown(record.where)}: line breaks and repeated spaces became one space: {shown(text)}")
    if record.guess:
        changes.append(f"{shown(record.where)}: {shown(record.name)} is taken for {shown(name)}")
    return changes


def _write_picture(picture: Picture, images: Path, names: set[str], number: int) -> tuple[str, str]:
    """Write one picture; returns its new name and a line on what was changed, empty when nothing was."""
    endings = FORMATS[picture.format]
    suffix = PurePosixPath(picture.name).suffix
    if picture.rewrite:
        suffix = ".png"
    elif suffix.lower() not in endings:
        suffix = endings[0]
    stem = unicodedata.normalize("NFC", PurePosixPath(picture.name).with_suffix("").as_posix())
    if not stem.isprintable() or "\ufffd" in stem:
        stem = f"picture_{number:04d}"
    name, count = stem + suffix, 1
    while name.casefold() in names:  # two names must stay two files on Windows and macOS
        count += 1
        name = f"{stem}_{count}{suffix}"
    names.add(name.casefold())
    target = images / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if picture.rewrite:
        atomic_write_bytes(target, encode_image(open_image(picture.path), ".png"))
        return name, f"{shown(picture.name)}: written anew as {shown(name)}"
    shutil.copyfile(picture.path, target)
    if name == picture.name:
        return name, ""
    same = ", the same letters in composed form" if name == unicodedata.normalize("NFC", picture.name) else ""
    return name, f"{shown(picture.name)}: renamed to {shown(name)}{same}"
