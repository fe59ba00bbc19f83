"""The captions of a data set, and the edits that are not on disk yet.

Edits live in memory until they are saved, all of them in one step. A file that another program has changed meanwhile is
never overwritten: compared are its bytes, just before the new file takes its name.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from qwenlab.captions.lines import CaptionLine, parse_captions, replace_captions
from qwenlab.data.findings import shown
from qwenlab.data.reader import Layout, find_layout
from qwenlab.data.reader.lines import MAX_CAPTIONS_BYTES
from qwenlab.data.reader.listing import list_files
from qwenlab.data.reader.names import Lookup, Outside, identity, inside_name, locate
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes

Key = tuple[str, int]  # file name, and which of its captions: a file with two of one picture must open, too


@dataclass(frozen=True)
class Entry:
    """A picture and its caption on disk. path: None when the name leads to no file; line: None without a caption."""

    name: str
    path: Path | None
    text: str
    line: CaptionLine | None

    @property
    def place(self) -> str:
        """Where the caption stands, for messages."""
        return f"{shown(self.name)} (line {self.line.number})" if self.line else f"{shown(self.name)} (no line yet)"


class CaptionEdits:
    """The captions of a data set folder whose captions stand in one JSON Lines file, and the edits not yet on disk.

    Pictures without a caption come last, with an empty one; their lines are appended once they have a text. Raises
    QwenlabError for a missing folder, captions in several files or in another form, a captions file that leaves the
    folder, and a line that cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.layout = _editable(find_layout(folder))
        self.path = self.layout.captions
        if not self.path.resolve().is_relative_to(self.layout.folder.resolve()):
            raise QwenlabError(f"{self.path}: a link to a file outside the folder; edit that data set itself")
        self._data, self.entries = self._read()
        self.edits: dict[Key, str] = {}
        if not self.entries:
            raise QwenlabError(f"{folder}: neither captions nor pictures; put pictures into {self.layout.images}")

    def text(self, key: Key) -> str:
        """The caption as edited."""
        return self.edits.get(key, self.entries[key].text)

    def edit(self, key: Key, text: str) -> None:
        """Change a caption in memory; the text on disk takes the edit back."""
        if text == self.entries[key].text:
            self.edits.pop(key, None)
        else:
            self.edits[key] = text

    def save(self) -> int:
        """Write all edits, whole or not at all, and return how many. Order, other keys and line ends stay.

        Raises QwenlabError, with every edit kept, for an empty caption, a file that was changed on disk, and a folder
        that cannot be written.
        """
        for key, text in self.edits.items():
            if not text.strip():
                raise QwenlabError(f"{self.path}: {self.entries[key].place} has an empty caption; write or revert it")
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise QwenlabError(f"{self.path}: {self.entries[key].place} holds half a character; delete it")
        if not self.edits:
            return 0
        if self._bytes() != self._data:
            raise QwenlabError(
                f"{self.path}: changed on disk since it was read; nothing was written, reload (edits are kept) and save"
            )
        old = [(key, entry) for key, entry in self.entries.items() if entry.line]
        new = [
            (entry.name, self.edits[key]) for key, entry in self.entries.items() if not entry.line and key in self.edits
        ]
        data = replace_captions(self._data or b"", [e.line for _, e in old], [self.text(key) for key, _ in old])
        end = b"\r\n" if b"\r\n" in data else b"\n"
        if new and data and not data.endswith(b"\n"):
            data += end
        for name, text in new:
            data += json.dumps({"file_name": name, "text": text}, ensure_ascii=False).encode() + end
        try:
            atomic_write_bytes(self.path, data)
        except OSError as error:
            raise QwenlabError(f"{self.path}: cannot be written ({error.strerror}); your edits are kept") from error
        saved = len(self.edits)
        self._data, self.entries = self._read()
        self.edits = {}
        return saved

    def reload(self) -> list[str]:
        """Read the file again and carry the edits over; returns the pictures whose caption changed on disk as well.

        Raises QwenlabError, with nothing changed, when an edited caption is no longer in the file.
        """
        data, entries = self._read()
        for key in self.edits:
            if key not in entries:
                raise QwenlabError(
                    f"{self.path}: {self.entries[key].place} is gone; copy your caption, revert it, reload again"
                )
        clashes = [key[0] for key in self.edits if entries[key].text not in (self.entries[key].text, self.edits[key])]
        edits, self._data, self.entries, self.edits = self.edits, data, entries, {}
        for key, text in edits.items():
            self.edit(key, text)
        return clashes

    def _bytes(self) -> bytes | None:
        try:
            if not os.path.lexists(self.path):
                return None
            if self.path.stat().st_size > MAX_CAPTIONS_BYTES:
                raise QwenlabError(f"{self.path}: more than {MAX_CAPTIONS_BYTES >> 20} MiB; is it a captions file?")
            return self.path.read_bytes()
        except OSError as error:
            raise QwenlabError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from error

    def _read(self) -> tuple[bytes | None, dict[Key, Entry]]:
        data, images = self._bytes(), self.layout.images
        lookup = Lookup(self.layout.sources[0].bases if self.layout.sources else (images,))
        entries: dict[Key, Entry] = {}
        times: Counter[str] = Counter()
        for line in parse_captions(data or b"", self.path, allow_empty=True):
            name = json.loads(line.raw).get("file_name")
            name = name if isinstance(name, str) else ""
            try:
                path = lookup.find(name) if name else None
            except Outside:
                path = None
            entries[name, times[name]] = Entry(name, path, line.text, line)
            times[name] += 1
        named = {identity(entry.path) for entry in entries.values() if entry.path}
        for path in list_files(images).pictures.values():
            name = inside_name(path, lookup.bases[0])
            if name and identity(path) not in named and locate(images, name):
                entries[name, 0] = Entry(name, path, "", None)
        return data, entries


def _editable(layout: Layout) -> Layout:
    """The layout with one JSON Lines file for captions; raises QwenlabError for captions that stand elsewhere."""
    files = [source.path.name for source in layout.sources]
    if layout.kind in ("sidecars", "folders") or len(files) > 1 or files and not files[0].lower().endswith(".jsonl"):
        where = "beside their pictures" if layout.kind == "sidecars" else f"in {len(files) or 'no'} files"
        raise QwenlabError(
            f"{layout.folder}: captions {where} are not edited here; gather them in one file with: "
            f"qwenlab check-dataset {layout.folder} --fix {layout.folder.resolve().name}_gathered"
        )
    return layout
