"""The whole check of a data set folder: lines, pictures one by one, then what only shows in comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qwenlab.data.check.duplicates import duplicate_findings, group_numbers
from qwenlab.data.check.outliers import outlier_findings
from qwenlab.data.check.pictures import Limits, Picture, inspect_picture
from qwenlab.data.check.texts import caption_findings, coverage, coverage_findings
from qwenlab.data.findings import LEVELS, RULES, Finding, plural
from qwenlab.data.reader import Layout, Reading, Record, read_folder
from qwenlab.data.reader.lines import codec_named
from qwenlab.data.reader.names import identity, locate

# What may well be so in a reference: a sample of a colour, a thing on its own.
_OF_PICTURES_TO_LEARN = ("blank", "grey", "small", "long-shape")
# A line on what another checker says of a data set's captions, or "".
Summarise = Callable[[Reading], str]


@dataclass(frozen=True)
class Report:
    """What was found in a data set, the worst first, and what a repair needs to know."""

    reading: Reading
    findings: tuple[Finding, ...]
    pictures: dict[str, Picture]  # the usable ones, by name
    files: int  # picture files looked at
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    captions_summary: str = ""
    references: dict[Path, Picture] = field(default_factory=dict)  # usable ones that are no pictures of the set

    @property
    def layout(self) -> Layout:
        """Where the data set keeps captions and pictures."""
        return self.reading.layout

    @property
    def records(self) -> tuple[Record, ...]:
        """The usable captions; training reads the same."""
        return self.reading.records

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
    encoding: str = "",
    thumbnails: bool = False,
    on_item: Callable[[int], None] = lambda total: None,
    summarise: Summarise = lambda reading: "",
) -> Report:
    """Check a folder of any layout that `qwenlab.data.reader` reads.

    Nothing in the folder is changed, and nothing outside is opened. encoding: of text that is not UTF-8 and whose
    encoding cannot be told. thumbnails: keep small pictures for `to_html`. on_item: called with the number of pictures
    after each one. summarise: gives a line on the captions for the report. Raises QwenlabError when there is no such
    folder or encoding; whatever the folder holds becomes a finding.
    """
    codec, limits = codec_named(encoding), limits or Limits()
    reading = read_folder(folder, codec)
    findings, pictures = list(reading.findings), {}
    unused = {finding.where: place for place, finding in enumerate(findings) if finding.rule == "no-caption"}
    for name, path in reading.pictures.items():
        if locate(reading.layout.images, name) is None:
            picture, found = None, [Finding("outside", name, "a link to a file outside the folder", drops=(name,))]
        else:
            picture, found = inspect_picture(path, name, limits, thumbnails)
        if picture:
            pictures[name] = picture
        if name in unused and (errors := [finding for finding in found if finding.level == "error"]):
            # Training never opens it, so this is no error; whoever adds the caption must know.
            found = [finding for finding in found if finding not in errors]
            faults = "; ".join(f"{RULES[error.rule].title.lower()}: {error.detail}" for error in errors)
            lone = findings[unused[name]]
            findings[unused[name]] = replace(lone, detail=f"{lone.detail}; {faults}")
        findings += found
        on_item(len(reading.pictures))
    references = {}
    for path in dict.fromkeys(path for record in reading.records for path in record.beside):
        if path not in reading.pictures.values():
            picture, found = inspect_picture(path, path.relative_to(reading.layout.folder).as_posix(), limits)
            findings += [finding for finding in found if finding.rule not in _OF_PICTURES_TO_LEARN]
            if picture:
                references[path] = picture
    findings += _compared(reading, pictures, limits)
    # Instructions say what changes: what they do not name may well be shown.
    told = replace(reading, records=tuple(record for record in reading.records if not record.references))
    instructions = len(reading.records) > len(told.records) == 0
    table = coverage([record.text for record in told.records])
    findings += [] if instructions else coverage_findings(table, len(told.records), reading.layout.captions.name)
    order = {rule: number for number, rule in enumerate(RULES)}
    findings.sort(key=lambda finding: (LEVELS.index(finding.level), order[finding.rule]))
    return Report(
        reading,
        tuple(findings),
        pictures,
        len(reading.pictures),
        table,
        "" if instructions else summarise(told),
        references,
    )


def _compared(reading: Reading, pictures: dict[str, Picture], limits: Limits) -> list[Finding]:
    """What shows only when pictures, and captions, are compared with each other."""
    meant = [path for record in reading.records if (path := record.path or record.guess)]
    captioned = {reading.name_of(path) for path in meant}
    useful = [picture for picture in pictures.values() if not picture.blank]
    family = _families(reading)
    findings = [
        finding
        for finding in duplicate_findings(useful, captioned, limits)
        if finding.rule == "duplicate" or len({family.get(name, name) for name in finding.pictures}) > 1
    ]
    findings += blur_findings(useful, limits)
    findings += outlier_findings(useful, limits)
    findings += caption_findings([record for record in reading.records if not record.references])
    known = any(finding.rule in ("no-samples", "no-captions", "no-images") for finding in reading.findings)
    if not captioned & pictures.keys() and not known:
        detail = f"{plural(len(reading.records), 'caption')}, {plural(len(pictures), 'picture')}"
        findings.append(Finding("no-samples", reading.layout.captions.name, detail))
    return findings


def _families(reading: Reading) -> dict[str, int]:
    """A number for each picture that belongs to references: what a chain of edits joins is meant to look alike."""
    files: dict[str, int] = {}
    names, pairs = {}, []
    for record in reading.records:
        paths = [path for path in (record.path or record.guess, *record.references) if path]
        if record.references:
            numbers = [files.setdefault(identity(path), len(files)) for path in paths]
            names |= {reading.name_of(path): number for path, number in zip(paths, numbers, strict=True)}
            pairs += [(numbers[0], number) for number in numbers[1:]]
    groups = group_numbers(len(files), pairs)
    return {name: groups[number] for name, number in names.items()}


def blur_findings(pictures: Sequence[Picture], limits: Limits) -> list[Finding]:
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
