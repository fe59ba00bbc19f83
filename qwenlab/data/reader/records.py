"""Everything that a data set's folder says: pictures, captions, which belongs to which, and what is wrong with them.

`read_folder` is the one reader: training takes its records and stops at its errors, the check reports them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwenlab.data.findings import Finding, plural, shown
from qwenlab.data.reader.controls import control_findings, controls_remark, find_control
from qwenlab.data.reader.layout import Layout, Source, find_layout, kohya, of_another_split
from qwenlab.data.reader.lines import evidence, read_lines
from qwenlab.data.reader.listing import METADATA
from qwenlab.data.reader.names import Guesses, Lookup, Outside, identity, inside_name, locate
from qwenlab.data.reader.notes import missing_captions, missing_images, no_image, understood, unread_findings
from qwenlab.data.reader.parsing import Parsed, parse_json, parse_record
from qwenlab.data.reader.references import (
    find_references,
    pair_controls,
    reference_findings,
    references_remark,
    take_controls,
)
from qwenlab.data.reader.sidecars import find_sidecars, read_sidecar
from qwenlab.data.reader.tables import read_csv, read_parquet


@dataclass(frozen=True)
class Record:
    """One usable caption: where it stands, its line from 1, the name and text as written, and the picture it names.

    path: the file that exists, or None. guess: the picture that was probably meant. changes: what had to be done to
    read it; training refuses such a record, a repaired copy holds what came of it. references: pictures that the
    caption speaks of, in order; they exist. control: the picture that says where things are, if there is one.
    """

    where: str
    line: int
    name: str
    text: str
    path: Path | None
    guess: Path | None = None
    changes: tuple[str, ...] = ()
    references: tuple[Path, ...] = ()
    control: Path | None = None

    @property
    def beside(self) -> tuple[Path, ...]:
        """The pictures that are read with this one: references and control picture."""
        return self.references + ((self.control,) if self.control else ())


@dataclass(frozen=True)
class Reading:
    """What was read of a folder. pictures: all that count, by their names. understood: one line on the layout.

    What only references and control pictures name is not among the pictures.
    """

    layout: Layout
    records: tuple[Record, ...]
    findings: tuple[Finding, ...]
    pictures: dict[str, Path]
    understood: str

    def name_of(self, path: Path) -> str:
        """The name of a picture under `layout.images`; "a/../b.png" and "b.png" are one name."""
        return inside_name(path, self.layout.images) or path.name


def read_folder(folder: str | Path, encoding: str = "") -> Reading:
    """Read a data set of any layout; whatever the folder holds becomes a record or a finding.

    encoding: a codec for text that is not UTF-8 and whose encoding cannot be told. Raises QwenlabError when there is no
    such folder.
    """
    layout = find_layout(folder)
    if layout.kind == "none":
        return Reading(layout, (), missing_captions(layout), _pictures(layout, ()), understood(layout, ()))
    if not layout.images.is_dir():
        records, findings, _ = _read(layout, encoding)
        return Reading(layout, tuple(records), (missing_images(layout), *findings), {}, understood(layout, ()))
    if not layout.images.resolve().is_relative_to(layout.folder.resolve()):
        finding = Finding("outside", layout.images.name, "a link to a folder outside; check that folder itself")
        return Reading(layout, (), (finding,), {}, understood(layout, ()))
    records, findings, remarks = _read(layout, encoding)
    if any(record.path and inside_name(record.path, layout.images) is None for record in records):
        layout = replace(layout, images=layout.folder, listing=layout.whole)  # some lie beside images/
    pictures = _pictures(layout, records)
    guesses = Guesses(pictures)
    records = _guess_pictures(records, pictures, guesses)
    references = {identity(path) for record in records for path in record.beside}
    findings += _pairing_findings(records, layout, pictures, guesses) + unread_findings(layout, references)
    findings += reference_findings(records) + control_findings(records)
    remarks += [remark for remark in (references_remark(records), controls_remark(records)) if remark]
    if not records and not any(finding.level == "error" for finding in findings):
        findings.append(Finding("no-samples", layout.captions.name, "holds no caption"))
    return Reading(layout, tuple(records), tuple(findings), pictures, understood(layout, records, remarks))


def _pictures(layout: Layout, records: Sequence[Record]) -> dict[str, Path]:
    """All pictures by name; a caption may name a file whose ending is no picture's. Mere references are left out."""
    found = {}
    own = {identity(record.path) for record in records if record.path}
    references = {identity(path) for record in records for path in record.beside} - own
    for path in (*layout.listing.pictures.values(), *(record.path for record in records if record.path)):
        if not references or identity(path) not in references:
            found.setdefault(inside_name(path, layout.images) or path.name, path)
    return found


def _read(layout: Layout, encoding: str) -> tuple[list[Record], list[Finding], list[str]]:
    """The records, what is wrong, and remarks on how names and columns were understood."""
    if layout.kind in ("sidecars", "folders"):
        findings = _drop_what_leads_out(layout)
        if layout.kind == "sidecars":
            controls = take_controls(layout.listing)
            records, found = _read_sidecars(layout, encoding)
            if controls:
                records, lone = pair_controls(records, controls)
                found += lone
            return records, findings + found, []
        pictures = layout.listing.pictures
        return [Record(p.parent.name, 1, name, kohya(p.parent)[1], p) for name, p in pictures.items()], findings, []
    records, findings, remarks = [], [], []
    for source in layout.sources:
        name = source.path.relative_to(layout.folder).as_posix()
        if not source.path.is_file():
            findings.append(Finding("no-captions", name, "no such file, but something else of that name"))
        elif not source.path.resolve().is_relative_to(layout.folder.resolve()):
            findings.append(Finding("outside", name, "a link to a file outside the folder"))
        else:
            lookups = lookup, _ = Lookup(source.bases), Lookup(source.bases)
            for number, where, parsed in _parsed(source, name, encoding, findings, remarks):
                record = _located(number, where, parsed, source, lookups, findings)
                records += [record] if record else []
            for base, count in lookup.used.items():
                if base != source.bases[0]:
                    place = (
                        base.relative_to(layout.folder).as_posix() + "/"
                        if base != layout.folder
                        else "the data set's folder"
                    )
                    verb = "counts" if count == 1 else "count"
                    remarks.append(f"{plural(count, 'name')} in {shown(name)} {verb} from {place}")
    kept = [record for record in records if record.path is None or not of_another_split(record.path, layout)]
    if len(kept) < len(records):
        remarks.append(f"{plural(len(records) - len(kept), 'caption')} of other splits left out")
    return kept, findings, remarks


def _parsed(
    source: Source, name: str, encoding: str, findings: list[Finding], remarks: list[str]
) -> Iterator[tuple[int, str, Parsed]]:
    """(line, where, picture and caption) of each usable line or row; what is wrong with others goes to `findings`."""
    suffix = source.path.suffix.lower()
    try:
        if suffix == ".jsonl":
            lines, found = read_lines(source.path, name, encoding)
            findings += found
            for line in lines:
                where = f"{name}, line {line.number}"
                value, wrong = parse_json(line.text, where)
                changes = (f"read as {line.encoding}",) if line.encoding else ()
                if wrong:
                    findings.append(wrong)
                else:
                    yield from _record_of(value, line.number, where, changes, findings)
            return
        read = read_csv(source.path, name, encoding) if suffix == ".csv" else read_parquet(source.path, name)
        rows, found, remark = read
    except OSError as error:
        findings.append(Finding("no-captions", name, f"cannot be read ({error.strerror or type(error).__name__})"))
        return
    findings += found
    remarks += remark
    for row in rows:
        yield from _record_of(row.value, row.number, row.where, row.changes, findings)


def _record_of(
    value: object, number: int, where: str, changes: tuple[str, ...], findings: list[Finding]
) -> Iterator[tuple[int, str, Parsed]]:
    parsed, found = parse_record(value, where)
    findings += found
    if parsed:
        yield number, where, parsed._replace(changes=changes + parsed.changes)


def _located(
    number: int, where: str, parsed: Parsed, source: Source, lookups: tuple[Lookup, Lookup], findings: list[Finding]
) -> Record | None:
    """The record of a line, or a finding. lookups: for its picture, and for those beside it."""
    lookup, of_others = lookups
    name, names, control = parsed.name, parsed.references, parsed.control
    if source.path.name.lower() in METADATA:  # as the `datasets` library does
        name, *names, control = (other.replace("\\", "/") for other in (name, *names, control))
    try:
        path = lookup.find(name)
    except Outside:
        findings.append(Finding("outside", where, f"'{shown(parsed.name)}' leads out of the folder"))
        return None
    references, wrong = find_references(names, where, of_others)
    control, lost = find_control(control, where, of_others)
    findings += wrong + lost
    if wrong or lost:
        return None
    return Record(where, number, parsed.name, parsed.text, path, None, parsed.changes, references, control)


def _drop_what_leads_out(layout: Layout) -> list[Finding]:
    """Take links to files outside out of the listing; a finding for each."""
    findings = []
    for files in (layout.listing.pictures, layout.listing.texts):
        for name in [name for name in files if locate(layout.listing.top, name) is None]:
            del files[name]
            findings.append(Finding("outside", name, f"'{shown(name)}' is a link that leads out of the folder"))
    return findings


def _read_sidecars(layout: Layout, encoding: str) -> tuple[list[Record], list[Finding]]:
    records, findings = [], []
    listing = layout.listing
    sidecars = find_sidecars(listing)
    others = evidence(listing.texts[name] for names in sidecars.values() for name in names)
    for picture, names in sidecars.items():
        taken: Record | None = None
        for name in names:
            try:
                parsed, found = read_sidecar(listing.texts[name], name, picture, encoding, others)
            except OSError as error:
                parsed, found = None, [Finding("no-captions", name, f"cannot be read ({error.strerror})")]
            findings += [finding for finding in found if finding not in findings]  # one file may serve two pictures
            if parsed and taken is None:
                taken = Record(name, 1, picture, parsed.text, listing.pictures[picture], None, parsed.changes)
                records.append(taken)
            elif parsed and parsed.text != taken.text:
                detail = f"{shown(picture)} has another caption in {shown(taken.where)} already"
                findings.append(Finding("second-caption", name, detail, (picture,)))
    used = {name for names in sidecars.values() for name in names}
    lone = [name for name in listing.texts if name not in used]
    return records, findings + [Finding("lone-caption", name, "no picture has this name") for name in lone]


def _guess_pictures(records: list[Record], pictures: dict[str, Path], guesses: Guesses) -> list[Record]:
    """For lines without a picture: the picture without caption that their name probably means."""
    taken = {identity(record.path) for record in records if record.path}
    guessed = []
    for record in records:
        name = guesses.guess(record.name) if record.path is None else None
        if name is not None and identity(pictures[name]) not in taken:
            record = replace(record, guess=pictures[name])
            taken.add(identity(pictures[name]))
        guessed.append(record)
    return guessed


def _pairing_findings(
    records: list[Record], layout: Layout, pictures: dict[str, Path], guesses: Guesses
) -> list[Finding]:
    """Lines without picture, pictures without line, and pictures with two lines."""
    findings: list[Finding] = []
    first: dict[str, Record] = {}
    for record in records:
        if record.path is None:
            findings.append(Finding("no-image", record.where, no_image(record, layout, guesses)))
            continue
        name = inside_name(record.path, layout.images) or record.path.name
        # An edited picture may be the answer to several others: those are different samples.
        key = "\0".join([identity(record.path), *(identity(path) for path in record.beside)])
        earlier = first.setdefault(key, record)
        if earlier is not record:
            same_file = earlier.where.split(", ")[0] == record.where.split(", ")[0]
            place = f"on line {earlier.line}" if same_file else f"in {shown(earlier.where)}"
            findings.append(
                Finding("second-caption", record.where, f"{shown(name)} has a caption {place} already", (name,))
            )
    used = {identity(path) for record in records if (path := record.path or record.guess)}
    for name, path in pictures.items():
        if identity(path) not in used:
            findings.append(Finding("no-caption", name, f"no caption in {_captions_of(layout)}", (name,)))
    return findings


def _captions_of(layout: Layout) -> str:
    if layout.kind == "sidecars":
        return "a file of its name"
    names = sorted({source.path.name for source in layout.sources})
    return " or ".join(names)
