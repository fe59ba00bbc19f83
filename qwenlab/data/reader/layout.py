"""Which layout a data set's folder has: where its captions stand, and from which folder their names count.

    captions.jsonl and images/      names count from images/, or from the folder itself
    metadata.jsonl, .csv, .parquet  as the `datasets` library reads an image folder: every one in the tree, each with
                                    names that count from its own folder
    a.png and a.txt                 a caption file beside each picture; folders such as 10_fox are kohya's

The library itself is not needed for these rules; the folder tests compare with it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from qwenlab.data.reader.listing import CAPTIONS, Listing, entry, list_files
from qwenlab.data.reader.names import inside_name
from qwenlab.data.reader.sidecars import find_sidecars
from qwenlab.errors import QwenlabError
from qwenlab.sniffing import kind_of

_TRAIN = frozenset({"train", "training"})
_HELD_OUT = frozenset({"test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev"})
_BETWEEN_WORDS = re.compile(r"[-._ 0-9]+")  # as the `datasets` library takes names of folders apart
_KOHYA = re.compile(r"(?P<repeats>\d{1,3})_(?P<words>.*\S)")  # four digits are a year


@dataclass(frozen=True)
class Source:
    """A file of captions, and the folders from which its names count, the first one first."""

    path: Path
    bases: tuple[Path, ...]


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps captions and pictures.

    kind: "captions", "metadata", "sidecars", "folders" (kohya's names for captions) or "none". captions: the file that
    messages name, and to which an editor adds. images: the folder from which pictures are named. listing: the files
    that count; whole: those of the folder itself. held_out: folders of other splits, which are not read.
    """

    folder: Path
    kind: str
    captions: Path
    images: Path
    sources: tuple[Source, ...] = ()
    listing: Listing = field(default_factory=lambda: Listing(Path()), repr=False)
    whole: Listing = field(default_factory=lambda: Listing(Path()), repr=False)
    held_out: tuple[str, ...] = ()


def find_layout(folder: str | Path) -> Layout:
    """The layout of a data set folder; captions or pictures may be missing. Raises QwenlabError for no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise QwenlabError(_no_folder(folder))
    listing = list_files(folder)
    captions = entry(folder, CAPTIONS)
    images = entry(folder, "images") or folder / "images"
    if images.is_dir():
        listing.drop("masks")  # beside images/: what counts of each picture, no pictures to learn from
    if captions is not None:
        return _beside_captions(folder, captions, images, listing)
    held_out = _drop_other_splits(listing)
    base = images if images.is_dir() and _all_below(listing, images) else folder
    sources = [Source(path, _bases(path, folder)) for path in listing.tables.values()]
    sources.sort(key=lambda source: (len(source.path.parts), source.path))
    kind, captions = "none", folder / CAPTIONS
    if sources:
        kind, captions = "metadata", sources[0].path
    elif find_sidecars(listing):
        kind = "sidecars"
    elif listing.pictures and all(p.parent != folder and kohya(p.parent) for p in listing.pictures.values()):
        kind = "folders"
    else:
        base = images
    return Layout(folder, kind, captions, base, tuple(sources), listing, listing, held_out)


def _no_folder(folder: Path) -> str:
    if folder.is_file():
        kind = kind_of(folder) or "a file"
        return f"{folder}: is {kind}, no dataset folder; give the folder that holds the pictures and their captions"
    return f"{folder}: no such dataset folder; it must hold images/ and captions.jsonl"


def _beside_captions(folder: Path, captions: Path, images: Path, whole: Listing) -> Layout:
    """captions.jsonl in the folder itself; then no other captions are read."""
    own = any("/" not in name for name in whole.pictures)
    if images.is_dir() and ((listing := list_files(images)).pictures or not own):
        bases = (images, folder)
    elif own:
        images, listing, bases = folder, whole, (folder,)
    else:
        listing, bases = Listing(images), (images,)
    return Layout(folder, "captions", captions, images, (Source(captions, bases),), listing, whole)


def _bases(table: Path, top: Path) -> tuple[Path, ...]:
    folder = table.parent
    images = folder / "images"
    if images.is_dir():
        return (images, folder) if table.name.lower() == CAPTIONS else (folder, images)
    if folder.name.lower() == "images" and folder != top:
        return (folder, folder.parent)
    return (folder,)


def _all_below(listing: Listing, images: Path) -> bool:
    return bool(listing.pictures) and all(path.is_relative_to(images) for path in listing.pictures.values())


def _drop_other_splits(listing: Listing) -> tuple[str, ...]:
    """Take out the folders test, validation and the like, where a folder train stands beside them; their names."""
    siblings: dict[Path, set[Path]] = defaultdict(set)
    for path in (*listing.pictures.values(), *listing.tables.values()):
        for folder in path.parents:
            if folder == listing.top:
                break
            siblings[folder.parent].add(folder)
    held_out = []
    for folders in siblings.values():
        if any(_is_split(folder, _TRAIN) for folder in folders):
            held_out += [folder for folder in folders if _is_split(folder, _HELD_OUT)]
    names = tuple(sorted(folder.relative_to(listing.top).as_posix() for folder in held_out))
    for name in names:
        listing.drop(name)
    return names


def _is_split(folder: Path, words: frozenset[str]) -> bool:
    return not kohya(folder) and not words.isdisjoint(_BETWEEN_WORDS.split(folder.name.lower()))


def of_another_split(path: Path, layout: Layout) -> bool:
    """Whether a picture lies in a folder that holds another split than train."""
    name = inside_name(path, layout.folder)
    return name is not None and any(name.startswith(f"{folder}/") for folder in layout.held_out)


def kohya(folder: Path) -> tuple[int, str] | None:
    """Repeats and words of a folder that is named as kohya's trainer asks (10_fox girl); None for any other."""
    match = _KOHYA.fullmatch(folder.name)
    return (int(match["repeats"]), match["words"]) if match else None
