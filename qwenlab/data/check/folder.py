"""The whole check of a data set folder: lines, pictures one by one, then what only shows in comparison."""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qwenlab.data.check.duplicates import duplicate_findings
from qwenlab.data.check.findings import LEVELS, RULES, Finding, shown
from qwenlab.data.check.outliers import outlier_findings
from qwenlab.data.check.pictures import Limits, Picture, inspect_picture
from qwenlab.data.check.records import Layout, Record, find_layout, locate, read_records
from qwenlab.data.check.texts import caption_findings, coverage, coverage_findings
from qwenlab.data.images import FORMATS

_PICTURE_SUFFIXES = {ending for endings in FORMATS.values() for ending in endings} | {".jfif", ".heic", ".heif", ".svg"}


@dataclass(frozen=True)
class Report:
    """What was found in a data set, the worst first, and what a repair needs to know."""

    layout: Layout
    findings: tuple[Finding, ...]
    records: tuple[Record, ...]
    pictures: dict[str, Picture]  # the usable ones, by name
    files: int  # picture files looked at
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)

    def count(self, level: str) -> int:
        """How many findings there are of a level."""
        return sum(finding.level == level for finding in self.findings)

    @property
    def ok(self) -> bool:
        """Whether there is no finding of level error."""
        return self.count("error") == 0


def check_dataset(
    folder: str | Path,
    limits: Limits | None = None,
    *,
    thumbnails: bool = False,
    on_item: Callable[[int], None] = lambda total: None,
) -> Report:
    """Check a folder with images/ and captions.jsonl, or a Hugging Face image folder with metadata.jsonl.

    Nothing in the folder is changed, and nothing outside is opened. thumbnails: keep small pictures for `to_html`.
    on_item: called with the number of pictures after each one. Raises QwenlabError when there is no such folder;
    whatever the folder holds becomes a finding.
    """
    layout, limits = find_layout(folder), limits or Limits()
    records, findings = read_records(layout)
    if not layout.images.is_dir():
        findings.append(Finding("no-images", layout.images.name, f"{layout.images.name}/ is not here"))
        return _report(layout, findings, records, {}, 0)
    if not layout.images.resolve().is_relative_to(layout.folder.resolve()):
        findings.append(Finding("outside", layout.images.name, "a link to a folder outside; check that folder itself"))
        return _report(layout, findings, [], {}, 0)
    files = picture_files(layout.images)
    records = _guess_pictures(records, files)
    findings += _pairing_findings(layout, records, files)

    pictures: dict[str, Picture] = {}
    for record in records:
        if record.path:  # a caption may name a file whose ending is no picture's
            files.setdefault(_relative(record.path, layout.images), record.path)
    for name, path in files.items():
        if locate(layout.images, name) is None:
            findings.append(Finding("outside", name, "a link to a file outside the folder", drops=(name,)))
        else:
            picture, found = inspect_picture(path, name, limits, thumbnails)
            findings += found
            if picture:
                pictures[name] = picture
        on_item(len(files))

    captioned = {_relative(path, layout.images) for record in records if (path := record.path or record.guess)}
    useful = [picture for picture in pictures.values() if not picture.blank]
    findings += duplicate_findings(useful, captioned, limits)
    findings += blur_findings(useful, limits)
    findings += outlier_findings(useful, limits)
    findings += caption_findings(records, layout.captions.name)
    if not captioned & pictures.keys() and layout.captions.exists():
        findings.append(Finding("no-samples", layout.captions.name, f"{len(records)} lines, {len(pictures)} pictures"))
    return _report(layout, findings, records, pictures, len(files))


def _report(
    layout: Layout, findings: list[Finding], records: list[Record], pictures: dict[str, Picture], files: int
) -> Report:
    table = coverage([record.text for record in records])
    findings = findings + coverage_findings(table, len(records), layout.captions.name)
    order = {rule: number for number, rule in enumerate(RULES)}
    findings.sort(key=lambda finding: (LEVELS.index(finding.level), order[finding.rule]))
    return Report(layout, tuple(findings), tuple(records), pictures, files, table)


def picture_files(images: Path) -> dict[str, Path]:
    """All files with a picture's ending, by their name under `images`; linked folders are not entered."""
    found = {}
    for folder, folders, names in os.walk(images):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in _PICTURE_SUFFIXES:
                path = Path(folder) / name
                found[path.relative_to(images).as_posix()] = path
    return found


def _relative(path: Path, images: Path) -> str:
    """The name under `images`; "a/../b.png" and "b.png" are one name."""
    inside = path.relative_to(images)
    if ".." in inside.parts:
        inside = path.resolve().relative_to(images.resolve())
    return inside.as_posix()


def _guess_pictures(records: list[Record], files: dict[str, Path]) -> list[Record]:
    """For lines without a picture: the one unused picture with the same name but for folder, case or ending."""
    taken = {record.path for record in records if record.path}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in files.values():
        if path not in taken:
            by_name[path.name.lower()].append(path)
            by_name[path.stem.lower() + "."].append(path)
    guessed = []
    for record in records:
        if record.path is None:
            wanted = Path(record.name.replace("\\", "/"))
            for key in (wanted.name.lower(), wanted.stem.lower() + "."):
                matches = by_name.get(key, [])
                if len(matches) == 1 and matches[0] not in taken:
                    record = replace(record, guess=matches[0])
                    taken.add(matches[0])
                    break
        guessed.append(record)
    return guessed


def _pairing_findings(layout: Layout, records: list[Record], files: dict[str, Path]) -> list[Finding]:
    """Lines without picture, pictures without line, and pictures with two lines."""
    findings: list[Finding] = []
    lines: dict[str, int] = {}
    for record in records:
        where = f"{layout.captions.name}, line {record.line}"
        if record.path is None:
            meant = f"; probably {shown(_relative(record.guess, layout.images))}" if record.guess else ""
            findings.append(Finding("no-image", where, f"no picture {shown(record.name)}{meant}"))
        else:
            name = _relative(record.path, layout.images)
            if name in lines:
                detail = f"{shown(name)} has a caption on line {lines[name]} already"
                findings.append(Finding("second-caption", where, detail, (name,)))
            lines.setdefault(name, record.line)
    if layout.captions.exists():
        guessed = {_relative(record.guess, layout.images) for record in records if record.guess}
        for name in files:
            if name not in lines and name not in guessed:
                findings.append(Finding("no-caption", name, f"not named in {layout.captions.name}", (name,)))
    return findings


def blur_findings(pictures: list[Picture], limits: Limits) -> list[Finding]:
    """Pictures below the absolute limit of sharpness, or far below what is usual in this data set."""
    if not pictures:
        return []
    usual = float(np.median([picture.sharpness for picture in pictures])) if len(pictures) >= 5 else 0.0
    limit = max(limits.min_sharpness, limits.sharpness_share * usual)
    return [
        Finding("blurred", picture.name, f"sharpness {picture.sharpness:.0f}, limit {limit:.0f}", (picture.name,))
        for picture in pictures
        if picture.sharpness < limit
    ]
