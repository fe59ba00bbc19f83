"""Which file a name in a captions file means: inside of the data set only, in any Unicode form."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from qwenlab.data.reader.wording import without_invisible


class Outside(Exception):
    """A name that leads out of the data set, or that no file can have."""


def locate(images: Path, name: str) -> Path | None:
    """The path that `name` means under `images`; None when it leads out of it or no file can have this name.

    Links are followed before the answer, so that one which points outside is refused like "../".
    """
    if Path(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return None
    try:
        inside = (images / name).resolve().is_relative_to(images.resolve())
    except (OSError, RuntimeError, ValueError):  # too long, half a character, a link that leads to itself
        return None
    return images / name if inside else None


class Lookup:
    """Finds the file that a name means in the first of some folders that has it."""

    def __init__(self, bases: Sequence[Path]) -> None:
        self.bases = tuple(bases)
        self.used: Counter[Path] = Counter()  # how many names were found in each
        self._forms: dict[Path, dict[str, list[str]]] = {}  # folder -> its names by their canonical form

    def find(self, name: str) -> Path | None:
        """The file, or None when no folder has it. Raises Outside."""
        inside = False
        for base in self.bases:
            place = locate(base, name)
            if place is None:
                if _exists(base, name):
                    raise Outside
                continue
            inside |= base == self.bases[0]
            path = place if os.path.isfile(place) else self._in_another_form(base, name)
            if path is not None and os.path.isfile(path):
                if path is not place and locate(base, path.relative_to(base).as_posix()) is None:
                    raise Outside
                self.used[base] += 1
                return path
        if not inside:
            raise Outside
        return None

    def _in_another_form(self, base: Path, name: str) -> Path | None:
        """The file of a canonically equal name, as é and e with an accent are; None when there is not exactly one."""
        parts = Path(name).parts
        if name.isascii() or ".." in parts:
            return None
        path = base
        for part in parts:
            forms = self._names_by_form(path).get(unicodedata.normalize("NFC", part), [])
            if part not in forms and len(forms) != 1:
                return None
            path = path / (part if part in forms else forms[0])
        return path

    def _names_by_form(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._forms:
            forms: dict[str, list[str]] = defaultdict(list)
            for name in os.listdir(folder) if folder.is_dir() else ():
                forms[unicodedata.normalize("NFC", name)].append(name)
            self._forms[folder] = forms
        return self._forms[folder]


def _exists(base: Path, name: str) -> bool:
    try:
        return not Path(name).is_absolute() and ".." not in Path(name).parts and os.path.lexists(base / name)
    except ValueError:
        return False


def identity(path: Path) -> str:
    """What two names of one file have in common: "a/../b.png", a link to b.png, and b.png are one picture."""
    return os.path.realpath(path)


def inside_name(path: Path, folder: Path) -> str | None:
    """The name of a file under a folder, with /, and None when it lies outside."""
    name = _below(path, folder)
    if name is None:  # no error for a link that leads to itself
        name = _below(Path(os.path.realpath(path)), Path(os.path.realpath(folder)))
    return name


def _below(path: Path, folder: Path) -> str | None:
    inside = path.relative_to(folder) if path.is_relative_to(folder) else None
    return None if inside is None or ".." in inside.parts else inside.as_posix()


def fold(name: str) -> str:
    """A name without what people and programs change: case, width, spaces around it, unseen signs, which slash, %20."""
    parts = unicodedata.normalize("NFKC", without_invisible(unquote(name))[0]).casefold().replace("\\", "/").split("/")
    return "/".join(part.strip() for part in parts if part.strip() not in ("", "."))


class Guesses:
    """Which picture a name probably means that leads to none.

    pictures: all pictures of the data set, by name. The same path but for case, width, spaces, slashes and ending; or
    the same file name, if that occurs once and the folder that was named is not here.
    """

    def __init__(self, pictures: Iterable[str]) -> None:
        self._by: dict[str, list[str]] = defaultdict(list)
        self._folders = set()
        for name in pictures:
            folded = fold(name)
            stem = folded.rpartition(".")[0] or folded
            for key in {f"path {folded}", f"stem {stem}", f"name {_last(folded)}", f"last {_last(stem)}"}:
                self._by[key].append(name)
            self._folders.add(folded.rpartition("/")[0])

    def all_with_name(self, name: str) -> list[str]:
        """The pictures with the file name of `name`, in any folder."""
        return self._by[f"name {_last(fold(name))}"]

    def guess(self, name: str) -> str | None:
        """The picture that is probably meant, or None."""
        folded = fold(name)
        folder, stem = folded.rpartition("/")[0], folded.rpartition(".")[0] or folded
        keys = [f"path {folded}", f"stem {stem}"]
        if folder not in self._folders or not folder:
            keys += [f"name {_last(folded)}", f"last {_last(stem)}"]
        for key in keys:
            if len(self._by.get(key, ())) == 1:
                return self._by[key][0]
            if self._by.get(key):
                return None  # several: nobody can tell which
        return None


def _last(path: str) -> str:
    return path.rpartition("/")[2]
