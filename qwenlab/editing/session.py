"""Generate, edit, refine: turns on one picture, kept as a tree in a folder, each of which can be drawn again.

    session = EditSession.create("my_session", load_pipeline("micro"))
    session.generate("1女孩, 红色短发, 挥手, 背景:花园", seed=3)
    session.refine(strength=0.25)
    session.goto(1)                       # a second branch
    session.extend(right=32)
    print(session)

Between two turns a picture is what its PNG file holds; what that costs: `benchmarks/editing/turns.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from PIL import Image

from qwenlab.data.images import open_image, to_rgb
from qwenlab.editing import provenance
from qwenlab.editing.checks import check_something_stays, check_strength, check_text, check_whole
from qwenlab.editing.describing import tree_lines
from qwenlab.editing.history import History, SessionFolder, StoredFile, Turn, UsedLora
from qwenlab.editing.instructing import usual_guidance
from qwenlab.editing.masks import read_mask, white_pixels
from qwenlab.editing.turns import EXTEND_GUIDANCE, GUIDANCE, STEPS, STRENGTH, Drawing, OnStep, draw_turn, drawing_lock
from qwenlab.editing.windows import check_sides
from qwenlab.errors import QwenlabError
from qwenlab.model.generation import native_size
from qwenlab.model.references import is_edit

if TYPE_CHECKING:
    from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline

_NOT_YET = StoredFile("none", "")


class EditSession:
    """Pictures drawn from one another, as a tree in a folder; made by `create` or `open`, not directly.

    Every drawing method goes on from the current turn, takes seed, steps and guidance, saves what it draws, makes it
    the current turn and returns it as an RGB picture. One drawing at a time: a call from another thread waits.

    Attributes:
        on_step: None, or called with (calls of the transformer done, all of them) while a turn is drawn.

    All methods raise QwenlabError in one line, with nothing lost, for numbers, masks and texts that cannot be drawn
    with, for files of the session that are missing or were changed, and when the disk is full; `save` then writes the
    picture that is still in memory.
    """

    def __init__(
        self, store: SessionFolder, history: History, pipeline: QwenImagePipeline | QwenImageEditPlusPipeline
    ) -> None:
        self._store, self._history, self._pipeline = store, history, pipeline
        self._unsaved: tuple[Turn, Image.Image, np.ndarray | None] | None = None
        self.on_step: OnStep | None = None

    @classmethod
    def create(
        cls,
        folder: str | Path,
        pipeline: QwenImagePipeline | QwenImageEditPlusPipeline,
        *,
        loras: Sequence[str | Path] = (),
        edit_lora: str | Path | None = None,
    ) -> EditSession:
        """Begin a session in a folder that holds none.

        loras: files, or "FILE:WEIGHT", that act on every turn. edit_lora: one that was trained on references
        (configs/micro_edit.yaml), which acts on `edit` alone. The session loads and removes them itself. Raises
        QwenlabError for a folder that holds a session or cannot be written, and for files that are no LoRA.
        """
        used = provenance.used_loras([*loras, *([edit_lora] if edit_lora else [])], folder)
        history = History(provenance.identify_model(pipeline), used[: len(loras)], *used[len(loras) :])
        store = SessionFolder(folder)
        store.create(history)
        return cls(store, history, pipeline)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        pipeline: QwenImagePipeline | QwenImageEditPlusPipeline,
        *,
        loras: Sequence[str | Path] | None = None,
        edit_lora: str | Path | None = None,
    ) -> EditSession:
        """Go on with a session. loras, edit_lora: as in `create`, for the next turns; None: those it had.

        Raises QwenlabError for a folder without a session, a file that is damaged or of a newer version, and a session
        of another model.
        """
        store = SessionFolder(folder)
        history = store.read()
        provenance.check_same_model(history.model, provenance.identify_model(pipeline), store.path)
        if loras is not None:
            history = replace(history, loras=provenance.used_loras(loras, folder))
        if edit_lora is not None:
            history = replace(history, edit_lora=provenance.used_loras([edit_lora], folder)[0])
        return cls(store, history, pipeline)

    # What is there

    @property
    def folder(self) -> Path:
        """Where the session lies."""
        return self._store.folder

    @property
    def history(self) -> History:
        """All turns. It does not change: the next turn makes another."""
        return self._history

    @property
    def current(self) -> Turn:
        """The turn from which the next one goes on. Raises QwenlabError before the first."""
        if self._history.current is None:
            raise QwenlabError(f"{self.folder}: nothing is drawn yet; begin with generate, or with start(picture)")
        return self._history.turn(self._history.current)

    @property
    def pipeline(self) -> QwenImagePipeline | QwenImageEditPlusPipeline:
        """What draws."""
        return self._pipeline

    def picture(self, number: int | None = None) -> Image.Image:
        """The picture of a turn (None: the current one), read from its file: RGB."""
        return self._store.picture(self.current if number is None else self._history.turn(number))

    def mask(self, number: int) -> np.ndarray | None:
        """(H, W) bool: what `redraw` drew in that turn; None for other methods."""
        return self._store.mask(self._history.turn(number))

    def __str__(self) -> str:
        head = f"{self.folder}: {len(self._history.turns)} turns with {self._history.model['name']}"
        return "\n".join([head, *tree_lines(self._history)])

    # Turns

    def start(self, picture: Image.Image | str | Path, prompt: str = "") -> Image.Image:
        """Begin a tree with a picture that is there; prompt: what it shows. Nothing is drawn."""
        image = to_rgb(picture) if isinstance(picture, Image.Image) else open_image(picture)
        check_sides(image.size)
        check_text(prompt, "prompt")
        with drawing_lock(self._pipeline):
            self.save()
            return self._keep(self._turn("start", prompt, image.size), image, None)

    def generate(self, prompt: str, *, size: tuple[int, int] | None = None, **how: Unpack[Drawing]) -> Image.Image:
        """Begin a tree with a picture drawn from a prompt. size: (width, height); None: the model's own."""
        size = size or (native_size(self._pipeline),) * 2
        return self._draw("generate", prompt, size=size, **how)

    def edit(self, instruction: str, prompt: str | None = None, **how: Unpack[Drawing]) -> Image.Image:
        """Change the picture as an instruction says, with the edit LoRA or an Edit model.

        prompt: what the new picture shows, for later turns; None: they go on with the old prompt.
        """
        check_text(instruction, "instruction")
        history = self._history
        if history.edit_lora is None and not is_edit(self._pipeline):
            raise QwenlabError(
                "edit: no edit LoRA is loaded, and this model draws from text alone; give edit_lora= to "
                "EditSession.create or open, a LoRA trained on references (configs/micro_edit.yaml)"
            )
        if history.model["name"] == provenance.MICRO:
            provenance.check_words(instruction, provenance.triggers(self._files(provenance.of_session(history))))
        return self._draw("edit", prompt, instruction=instruction, **{"guidance": usual_guidance(self._pipeline)} | how)

    def redraw(
        self,
        mask: Image.Image | np.ndarray | str | Path,
        prompt: str | None = None,
        *,
        strength: float = 1.0,
        exact: bool = False,
        **how: Unpack[Drawing],
    ) -> Image.Image:
        """Draw what is white in a mask again (`qwenlab.editing.redraw`). prompt: of the whole picture; None: as before.

        mask: a picture or its file, or (H, W) bool or uint8, of the current picture's size.
        """
        check_strength(strength)
        arguments = {"strength": float(strength), "exact": bool(exact)}
        return self._draw("redraw", prompt, arguments, mask=mask, **how)

    def extend(
        self, words: str | None = None, *, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0,
        **how: Unpack[Drawing],
    ) -> Image.Image:  # fmt: skip
        """Draw so many pixels beyond the edges (`qwenlab.editing.extend`).

        words: place and style of what is new; None: what is there says it. The prompt of later turns stays.
        """
        check_text(words or "", "words")
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        arguments = {name: check_whole(side, name) for name, side in sides.items()}
        return self._draw("extend", None, arguments, instruction=words, **{"guidance": EXTEND_GUIDANCE} | how)

    def refine(self, prompt: str | None = None, *, strength: float = STRENGTH, **how: Unpack[Drawing]) -> Image.Image:
        """Draw the whole picture again from a little noise (`qwenlab.editing.img2img`), by default with its prompt."""
        check_strength(strength)
        return self._draw("refine", prompt, {"strength": float(strength)}, **how)

    def undo(self) -> Turn:
        """Go back to the parent of the current turn and return it; nothing is deleted."""
        with drawing_lock(self._pipeline):
            turn = self.current
            if turn.parent is None:
                raise QwenlabError(f"undo: turn {turn.number} is a beginning, there is nothing before it; use goto")
            return self.goto(turn.parent)

    def goto(self, number: int) -> Turn:
        """Make a turn the current one, from which the next goes on: another branch, if it has children."""
        with drawing_lock(self._pipeline):
            self.save()
            turn = self._history.turn(number)
            history = replace(self._history, current=number)
            self._store.write(history)
            self._history = history
            return turn

    def reproduce(self, number: int) -> int:
        """Draw a turn again from its parent's file; returns how many pixels differ from its own file, 0 for none.

        Of `start` the file's digest is checked. Other versions, machines and numbers of threads may round otherwise
        (`Turn.drawn_with`).
        """
        turn = self._history.turn(number)
        kept = self._store.picture(turn)
        if turn.method == "start":
            return 0
        parent = None if turn.parent is None else self.picture(turn.parent)
        loras = self._files(turn.loras)
        drawn = draw_turn(self._pipeline, turn, parent, self._store.mask(turn), loras, self.on_step)
        return int((np.asarray(drawn) != np.asarray(kept)).any(-1).sum())

    def save(self) -> None:
        """Write what an earlier turn could not write, on a full disk for example. Nothing to do: nothing happens."""
        if self._unsaved:
            turn, image, mask = self._unsaved
            self._keep(turn, image, mask)

    def _draw(
        self,
        method: str,
        prompt: str | None,
        arguments: Mapping[str, Any] | None = None,
        *,
        mask: Image.Image | np.ndarray | str | Path | None = None,
        size: tuple[int, int] | None = None,
        instruction: str | None = None,
        seed: int = 0,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
    ) -> Image.Image:
        check_text(prompt or "", "prompt")
        how = {"seed": check_whole(seed, "seed"), "steps": check_whole(steps, "steps"), "guidance": float(guidance)}
        with drawing_lock(self._pipeline):  # from the choice of the parent on: a second call goes on from the first
            self.save()
            self._store.check_unchanged()  # before the time is spent, not after
            parent = None if method == "generate" else self.current
            picture = None if parent is None else self._store.picture(parent)
            white = None
            if method == "redraw":
                white = _white(mask, picture.size)
                check_something_stays(white, arguments["strength"])
            loras = provenance.of_session(self._history) if method == "edit" else self._history.loras
            turn = self._turn(method, parent.prompt if prompt is None else prompt, size or picture.size, loras=loras,
                              arguments=dict(arguments or {}), instruction=instruction, **how)  # fmt: skip
            image = draw_turn(self._pipeline, turn, picture, white, self._files(loras), self.on_step)
            return self._keep(turn, image, white)

    def _turn(self, method: str, prompt: str, size: tuple[int, int], **more: Any) -> Turn:
        parent = None if method in ("start", "generate") else self.current.number
        versions = {} if method == "start" else provenance.drawn_with(self._pipeline)
        number = len(self._history.turns) + 1
        return Turn(number, parent, method, prompt, _NOT_YET, size, drawn_with=versions, **more)

    def _keep(self, turn: Turn, image: Image.Image, mask: np.ndarray | None) -> Image.Image:
        self._unsaved = turn, image, mask
        self._history = self._store.add(self._history, turn, image, mask)
        self._unsaved = None
        return image

    def _files(self, loras: Sequence[UsedLora]) -> list[tuple[Path, float]]:
        return provenance.find_loras(loras, self._history, self.folder)


def _white(mask: Image.Image | np.ndarray | str | Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool."""
    if isinstance(mask, str | Path):
        return white_pixels(read_mask(mask, size), size, str(mask))
    return white_pixels(mask, size)
