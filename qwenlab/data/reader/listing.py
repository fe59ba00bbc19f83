"""The files of a data set's folder: which are pictures, which could be captions, and which are neither.

What the `datasets` library leaves out is left out here, too: names that begin with a dot (._a.png, which macOS writes
beside a.png, is no picture), and folders that begin with two underscores.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from qwenlab.data.images import readable_suffixes

CAPTIONS = "captions.jsonl"
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of the `datasets` library's image folders
CAPTION_SUFFIXES = (".txt", ".caption", ".captions", ".cap", ".prompt", ".tags")
_SKIPPED_FOLDERS = frozenset({"@eadir", "$recycle.bin", "lost+found", "node_modules"})
#: Endings of pictures, and of what holds pictures, that are not read -> what they are.
OTHER_FORMATS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC, as phones store it"),
    **dict.fromkeys((".psd", ".psb"), "a Photoshop file"),
    **dict.fromkeys((".svg", ".eps", ".ai", ".pdf", ".emf", ".wmf"), "a drawing or document"),
    **dict.fromkeys((".jxl",), "JPEG XL"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw"), "a camera's raw file"),
    **dict.fromkeys((".exr", ".hdr"), "a picture with high dynamic range"),
    **dict.fromkeys((".xcf", ".kra", ".clip", ".sai", ".procreate", ".ora"), "a painting program's own file"),
    **dict.fromkeys((".ico", ".icns", ".tga", ".dds", ".pcx", ".qoi", ".ppm", ".pgm", ".pnm"), "a rare picture format"),
    **dict.fromkeys((".mp4", ".mov", ".webm", ".avi", ".mkv"), "a video"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"), "an archive: unpack it"),
    **dict.fromkeys((".gif", ".tif", ".tiff", ".avif"), "a format that this Pillow was built without"),
}


@dataclass
class Listing:
    """Files below `top` by their names there, with /."""

    top: Path
    pictures: dict[str, Path] = field(default_factory=dict)
    others: dict[str, Path] = field(default_factory=dict)  # of `OTHER_FORMATS`
    texts: dict[str, Path] = field(default_factory=dict)  # of `CAPTION_SUFFIXES`
    tables: dict[str, Path] = field(default_factory=dict)  # captions.jsonl and metadata.*
    hidden: list[str] = field(default_factory=list)  # pictures that are left out for their name

    def drop(self, folder: str) -> None:
        """Take out all files below a folder in `top`."""
        for files in (self.pictures, self.others, self.texts, self.tables):
            for name in [name for name in files if name.startswith(f"{folder}/")]:
                del files[name]


def list_files(top: Path) -> Listing:
    """All files below a folder, in order; linked folders are not entered."""
    found = Listing(top)
    for folder, folders, names in os.walk(top):
        hidden = [name for name in folders if name.startswith((".", "__")) or name.lower() in _SKIPPED_FOLDERS]
        folders[:] = sorted(set(folders) - set(hidden))
        for name in sorted(names):
            _sort_in(found, Path(folder) / name)
    return found


def _sort_in(found: Listing, path: Path) -> None:
    name, suffix = path.relative_to(found.top).as_posix(), path.suffix.lower()
    if path.name.startswith("."):
        if suffix in readable_suffixes():
            found.hidden.append(name)
    elif suffix in readable_suffixes():
        found.pictures[name] = path
    elif suffix in OTHER_FORMATS:
        found.others[name] = path
    elif suffix in CAPTION_SUFFIXES:
        found.texts[name] = path
    elif path.name.lower() in (CAPTIONS, *METADATA):
        found.tables[name] = path


def entry(folder: Path, name: str) -> Path | None:
    """The file or folder of that name, in any case; the exact one before others."""
    if os.path.lexists(folder / name):
        return folder / name
    return next((folder / other for other in sorted(os.listdir(folder)) if other.lower() == name), None)
