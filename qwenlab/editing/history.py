"""The history of an editing session: a tree of turns, in a folder that a person can read.

    session.json      the model, the LoRAs and the turns: what was asked, of which picture, by which method
    001-generate.png  002-redraw.png  002-mask.png ...

A picture is written before session.json mentions it, each file whole or not at all: whenever the process is killed, the
folder holds an intact session, at worst with a picture beside it that no turn mentions and the next turn overwrites.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qwenlab.data.images import open_image
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, sha256_bytes
from qwenlab.show import encode_image

FILE = "session.json"
FORMAT, VERSION = "qwenlab editing session", 1
ROOTS = ("start", "generate")  # methods that begin a tree; the others change the picture of their parent
METHODS = (*ROOTS, "edit", "redraw", "extend", "refine")
_DAMAGED = "the file was damaged or changed by hand; put back a copy of it"


@dataclass(frozen=True)
class StoredFile:
    """A file of the session's folder, and the digest of the bytes that were written."""

    name: str
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or "\\" in self.name or self.name in ("", ".", ".."):
            raise ValueError(f"{self.name!r} is no file of this folder")


@dataclass(frozen=True)
class UsedLora:
    """A LoRA file, by its path from the session's folder (or absolute), and its weight."""

    path: str
    sha256: str
    weight: float = 1.0


@dataclass(frozen=True)
class Turn:
    """One picture and all that it takes to draw it again.

    Attributes:
        number: from 1 on, in the order of drawing.
        parent: number of the turn whose picture was changed; None where the tree begins.
        method: one of METHODS.
        prompt: what the whole picture shows, which later turns go on with.
        size: (width, height) in pixels.
        instruction: of `edit`, what was to change; of `extend`, what is new, if it was said.
        seed, steps, guidance: None of `start`, which draws nothing.
        arguments: the method's own, such as strength, or the pixels to extend by.
        mask: of `redraw`, white where it was drawn.
        drawn_with: versions and device; others may round otherwise.
    """

    number: int
    parent: int | None
    method: str
    prompt: str
    picture: StoredFile
    size: tuple[int, int]
    instruction: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mask: StoredFile | None = None
    loras: tuple[UsedLora, ...] = ()
    drawn_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What was asked in this turn: the instruction, or else the prompt."""
        return self.prompt if self.instruction is None else self.instruction


@dataclass(frozen=True)
class History:
    """All turns, where one stands, and what the next turn is drawn with."""

    model: Mapping[str, Any]
    loras: tuple[UsedLora, ...] = ()
    edit_lora: UsedLora | None = None
    turns: tuple[Turn, ...] = ()
    current: int | None = None

    def turn(self, number: int) -> Turn:
        """Raises QwenlabError for a number that no turn has."""
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(self.turns):
            there = f"there are 1 to {len(self.turns)}" if self.turns else "nothing is drawn yet"
            raise QwenlabError(f"turn {number}: no such turn, {there}")
        return self.turns[number - 1]

    def children(self, number: int | None) -> list[Turn]:
        """The turns that changed this one's picture; of None: the beginnings."""
        return [turn for turn in self.turns if turn.parent == number]

    def places(self) -> dict[int, tuple[int, int]]:
        """(row, column) of each turn in a drawing of the tree: a first child stands to the right of its parent, the
        others begin rows below; by number, in the order of reading."""
        found: dict[int, tuple[int, int]] = {}
        stack = [(turn, 0, True) for turn in reversed(self.children(None))]
        row = -1
        while stack:
            turn, column, begins = stack.pop()
            row += begins
            found[turn.number] = row, column
            below = self.children(turn.number)
            stack += [(child, column + 1, child is not below[0]) for child in reversed(below)]
        return found

    def to_bytes(self) -> bytes:
        """session.json."""
        value = {"format": FORMAT, "version": VERSION} | asdict(self)
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> History:
        """The opposite. Raises QwenlabError, which names `path`, for what is no session, or one of a newer version."""
        try:
            value = json.loads(data)
        except ValueError as error:
            raise QwenlabError(f"{path}: not readable as JSON ({error}); {_DAMAGED}") from error
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise QwenlabError(f"{path}: no editing session; give the folder that EditSession.create made")
        version = value.pop("version", None)
        if isinstance(version, int) and version > VERSION:
            raise QwenlabError(f"{path}: version {version}, and this qwenlab reads {VERSION}; install a newer one")
        place = "the head"
        try:
            turns, current = value.pop("turns"), value.pop("current")
            loras, edit_lora = value.pop("loras"), value.pop("edit_lora")
            history = cls(
                **value, loras=tuple(UsedLora(**entry) for entry in loras),
                edit_lora=None if edit_lora is None else UsedLora(**edit_lora),
            )  # fmt: skip
            for number, entry in enumerate(turns, start=1):
                place = f"turn {number}"
                history = replace(history, turns=(*history.turns, _turn(entry, number)))
            place = "current"
            if current is not None or turns:
                history.turn(current)
        except (KeyError, TypeError, ValueError, AttributeError, QwenlabError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise QwenlabError(f"{path}: {place}: {reason}; {_DAMAGED}") from error
        return replace(history, current=current)


def _turn(entry: dict[str, Any], number: int) -> Turn:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is none."""
    files = {
        name: StoredFile(**entry[name]) if entry[name] is not None else None for name in ("picture", "mask")
    }  # fmt: skip
    loras = tuple(UsedLora(**lora) for lora in entry["loras"])
    width, height = entry["size"]
    turn = Turn(**entry | files | {"loras": loras, "size": (width, height)})
    kinds = {
        "number": int, "method": str, "prompt": str, "picture": StoredFile, "arguments": dict, "drawn_with": dict,
        "parent": int | None, "instruction": str | None, "seed": int | None, "steps": int | None,
        "guidance": int | float | None,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(getattr(turn, name), kind):
            raise TypeError(f"{name} is {getattr(turn, name)!r}")
    if turn.number != number:
        raise ValueError(f"its number is {turn.number}")
    if turn.method not in METHODS:
        raise ValueError(f"unknown method {turn.method!r}")
    if turn.method != "start" and None in (turn.seed, turn.steps, turn.guidance):
        raise ValueError("seed, steps or guidance is missing")
    if (turn.parent is None) != (turn.method in ROOTS) or not 1 <= (turn.parent or 1) <= max(number - 1, 1):
        raise ValueError(f"its parent is {turn.parent}")
    if (turn.mask is None) != (turn.method != "redraw"):
        raise ValueError(f"mask is {turn.mask!r}")
    return turn


class SessionFolder:
    """The folder of a session: what is written, and in which order. Holds no picture in memory."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self._seen: bytes | None = None  # session.json as read or written last

    def create(self, history: History) -> None:
        """Write the first session.json. Raises QwenlabError where there is one, and where none can be written."""
        if self.path.exists():
            raise QwenlabError(
                f"{self.folder}: holds a session already; open it with EditSession.open, or take another folder"
            )
        self.write(history)

    def read(self) -> History:
        """Raises QwenlabError for a folder without a session and for a session that cannot be read."""
        if not self.path.is_file():
            what = "holds no session" if self.folder.is_dir() else "no such folder"
            raise QwenlabError(f"{self.folder}: {what} ({FILE}); begin one with EditSession.create")
        self._seen = self._bytes()
        return History.from_bytes(self._seen or b"", self.path)

    def check_unchanged(self) -> None:
        """Raise QwenlabError when another process changed session.json, or took it away."""
        if self._bytes() != self._seen:
            raise QwenlabError(
                f"{self.path}: changed on disk since it was read, perhaps by another notebook; nothing was written: "
                "open the session again"
            )

    def write(self, history: History) -> None:
        """Replace session.json. Raises QwenlabError, with nothing written, when another process changed it."""
        self.check_unchanged()
        data = history.to_bytes()
        self._put(FILE, data)
        self._seen = data

    def add(self, history: History, turn: Turn, image: Image.Image, mask: np.ndarray | None) -> History:
        """Write a turn's files, then session.json; returns the history with the turn, which becomes the current one.

        mask: (H, W) bool. The turn's digests are filled in. Raises QwenlabError when a file cannot be written.
        """
        self.check_unchanged()  # the files of another process's turn of this number must stay, too
        picture = self._put(f"{turn.number:03d}-{turn.method}.png", encode_image(image, ".png"))
        white = None
        if mask is not None:
            grey = Image.fromarray(mask.astype(np.uint8) * 255)
            white = self._put(f"{turn.number:03d}-mask.png", encode_image(grey, ".png"))
        turn = replace(turn, picture=picture, mask=white, size=image.size)
        history = replace(history, turns=(*history.turns, turn), current=turn.number)
        self.write(history)
        return history

    def picture(self, turn: Turn) -> Image.Image:
        """RGB. Raises QwenlabError when the file is missing or was changed."""
        self._check(turn, turn.picture, "picture")
        return open_image(self.folder / turn.picture.name)

    def mask(self, turn: Turn) -> np.ndarray | None:
        """(H, W) bool, or None of a turn without one. Raises QwenlabError when the file is missing or was changed."""
        if turn.mask is None:
            return None
        self._check(turn, turn.mask, "mask")
        return np.asarray(open_image(self.folder / turn.mask.name))[..., 0] > 0

    def _check(self, turn: Turn, file: StoredFile, what: str) -> None:
        path = self.folder / file.name
        try:
            digest = sha256_bytes(path.read_bytes())
        except OSError as error:
            raise QwenlabError(
                f"{path}: the {what} of turn {turn.number} cannot be read ({error.strerror}); put it back, or go on "
                "from another turn (goto)"
            ) from error
        if digest != file.sha256:
            raise QwenlabError(
                f"{path}: the {what} of turn {turn.number} was changed since; put the old file back, or begin with the "
                "changed one (start)"
            )

    def _bytes(self) -> bytes | None:
        try:
            return self.path.read_bytes() if self.path.exists() else None
        except OSError as error:
            raise QwenlabError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from error

    def _put(self, name: str, data: bytes) -> StoredFile:
        path = self.folder / name
        try:
            atomic_write_bytes(path, data)
        except OSError as error:
            raise QwenlabError(
                f"{path}: cannot be written ({error.strerror}); make room or check permissions, then session.save()"
            ) from error
        return StoredFile(name, sha256_bytes(data))
