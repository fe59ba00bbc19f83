"""In words: how a folder was understood, what in it is not read, and what may be meant where captions are missing."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Protocol

from qwenlab.data.findings import Finding, plural, shown
from qwenlab.data.reader.layout import Layout, kohya
from qwenlab.data.reader.listing import CAPTIONS, OTHER_FORMATS
from qwenlab.data.reader.names import Guesses, identity, inside_name
from qwenlab.data.reader.sidecars import find_sidecars
from qwenlab.data.reader.wording import unseen_in_name

_SHOWN = 3  # names in one line


class _Record(Protocol):
    name: str
    where: str
    path: Path | None
    guess: Path | None


def understood(layout: Layout, records: Sequence[_Record], remarks: Sequence[str] = ()) -> str:
    """One line: which captions are read, from where names count, and what else was made of the folder."""
    parts = [_main_part(layout, records), *remarks]
    folders = sorted({path.parent for path in layout.listing.pictures.values() if kohya(path.parent)})
    if folders and layout.kind in ("sidecars", "folders"):
        repeats = ", ".join(f"{shown(folder.name)} ({kohya(folder)[0]})" for folder in folders[:_SHOWN])
        parts.append(f"kohya's repeats are not used, every picture counts once: {repeats}")
    forms = sum(record.path is not None and _another_form(record) for record in records)
    if forms:
        be = "is" if forms == 1 else "are"
        parts.append(
            f"{plural(forms, 'file name')} {be} in another Unicode form than the captions write them, and the same"
        )
    if layout.held_out:
        parts.append(f"left out as another split than train: {', '.join(map(shown, layout.held_out))}")
    if layout.listing.hidden:
        parts.append(f"{plural(len(layout.listing.hidden), 'hidden file')} left out: {_names(layout.listing.hidden)}")
    return "; ".join(parts)


def _main_part(layout: Layout, records: Sequence[_Record]) -> str:
    name = shown(layout.captions.name)
    if layout.kind == "captions":
        if layout.images == layout.folder:
            return f"{name}, pictures beside it"
        return f"{name}, pictures in {layout.images.name}/"
    if layout.kind == "metadata":
        tables = [source.path.relative_to(layout.folder).as_posix() for source in layout.sources]
        each = "" if len(tables) == 1 else f" ({len(tables)} files, each for its own folder)"
        own = any(source.path.name.lower() == CAPTIONS for source in layout.sources)
        return f"{_names(tables)}{each}" + ("" if own else ", as the datasets library reads an image folder")
    if layout.kind == "sidecars":
        suffixes = sorted({"." + record.where.rpartition(".")[2].lower() for record in records})
        files = len({record.where for record in records})
        return f"{plural(files, 'caption file')} beside the pictures" + (f" ({', '.join(suffixes)})" if files else "")
    if layout.kind == "folders":
        return "no caption files: the words in the names of the folders are the captions, as in kohya's trainer"
    return "no captions"


def _another_form(record: _Record) -> bool:
    """Whether the file has another Unicode form than its name in the captions."""
    written = record.name.replace("\\", "/").rpartition("/")[2]
    return written != record.path.name and unicodedata.normalize("NFC", written) == unicodedata.normalize(
        "NFC", record.path.name
    )


def unread_findings(layout: Layout, references: Set[str] = frozenset()) -> list[Finding]:
    """Warnings about files that look as if they belonged to the data set and are not read.

    references: identities of the pictures that captions speak of.
    """
    listing = layout.listing
    findings = [
        Finding("other-format", _place(path, layout), OTHER_FORMATS[path.suffix.lower()])
        for path in dict.fromkeys((*listing.others.values(), *layout.whole.others.values()))
    ]
    read = {source.path for source in layout.sources}
    if layout.kind == "captions":
        unread = sorted(name for name, path in layout.whole.tables.items() if path not in read)
        findings += [Finding("unread-captions", name, f"{layout.captions.name} is read instead") for name in unread]
        findings += _elsewhere(layout, references)
    if layout.kind in ("captions", "metadata"):
        sidecars = [listing.texts[name] for names in find_sidecars(listing).values() for name in names]
        if sidecars:
            detail = f"{plural(len(sidecars), 'caption file')} beside pictures: {layout.captions.name} is read instead"
            findings.append(Finding("unread-captions", _names(_place(path, layout) for path in sidecars), detail))
    return findings


def _place(path: Path, layout: Layout) -> str:
    return path.relative_to(layout.folder).as_posix()


def _elsewhere(layout: Layout, references: Set[str]) -> list[Finding]:
    """Pictures in the data set's folder that lie outside images/."""
    if layout.images == layout.folder:
        return []
    by_top: dict[str, list[str]] = defaultdict(list)
    for name, path in layout.whole.pictures.items():
        if inside_name(path, layout.images) is None and (not references or identity(path) not in references):
            by_top[name.split("/")[0] + "/" if "/" in name else ""].append(name)
    return [
        Finding("elsewhere", top or _names(names), f"{plural(len(names), 'picture')} outside {layout.images.name}/")
        for top, names in by_top.items()
    ]


def missing_images(layout: Layout) -> Finding:
    """The finding that there is no folder of pictures."""
    tops = sorted({name.split("/")[0] for name in layout.whole.pictures if "/" in name})
    meant = f"; pictures lie in {_names(f'{top}/' for top in tops)}: rename it to images" if tops else ""
    return Finding("no-images", layout.images.name, f"no such folder{meant}")


def missing_captions(layout: Layout) -> tuple[Finding, ...]:
    """The finding that no captions are here, with what is here instead."""
    return (Finding("no-captions", CAPTIONS, f"no such file; {_what_is_here(layout)}"),)


def _what_is_here(layout: Layout) -> str:
    names = {path.name.lower(): path.name for path in layout.folder.iterdir()}
    suffixes = Counter(Path(name).suffix for name in names)
    listing = layout.listing
    if "model_index.json" in names or "adapter_config.json" in names:
        return "the folder holds a model, no data set"
    if suffixes[".safetensors"]:
        return (
            f"the folder holds weights ({_names(n for n in names.values() if n.endswith('.safetensors'))}), no data set"
        )
    if any(name.endswith(".arrow") for name in names) or "dataset_dict.json" in names:
        return "the folder was written by the datasets library's save_to_disk: save its pictures as files"
    hidden = [name for key, name in names.items() if key.endswith((".jsonl.txt", ".csv.txt", ".jsonl.json"))]
    if hidden:
        return f"{_names(hidden)} has two endings: rename it to {Path(hidden[0]).stem}"
    parquet = [path.name for path in layout.folder.rglob("*.parquet")]
    if parquet:
        return f"Parquet files are here ({_names(parquet)}): save their pictures as files, and write metadata.parquet"
    tables = [
        name for name in names.values() if Path(name).suffix.lower() in (".jsonl", ".json", ".csv", ".tsv", ".xlsx")
    ]
    if tables:
        verb, them = ("is", "it") if len(tables) == 1 else ("are", "them")
        return f"{_names(tables)} {verb} not read: rename or save {them} as captions.jsonl or metadata.csv"
    if listing.texts:
        verb = "has" if len(listing.texts) == 1 else "have"
        return f"{_names(listing.texts)} {verb} the name of no picture beside it"
    if listing.pictures:
        return f"{plural(len(listing.pictures), 'picture')} without captions"
    if listing.others:
        return f"no picture in a format that is read ({_names(listing.others)})"
    return "the folder holds no picture either"


def no_image(record: _Record, layout: Layout, guesses: Guesses) -> str:
    """What is the matter with a caption whose picture is not there, and what it may have meant."""
    base = layout.sources[0].bases[0].name if layout.sources else ""
    said = f"no image '{shown(f'{base}/{record.name}')}'"
    if record.guess:
        said += f", probably {shown(inside_name(record.guess, layout.images) or record.guess.name)}"
    if why := unseen_in_name(record.name):
        return f"{said}: {why}"
    if record.guess:
        return said
    same = guesses.all_with_name(record.name)
    if len(same) > 1:
        return f"{said}: {len(same)} pictures are called so ({', '.join(map(shown, same[:_SHOWN]))})"
    return said


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown(name, 60) for name in names[:_SHOWN]) + more
