"""A session's history in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qwenlab.captions.vocabulary import english
from qwenlab.editing.history import History, Turn


def glossed(text: str) -> str:
    """A text with its English behind it, where the world's word list has it."""
    gloss = english(text)
    return text if gloss == text else f"{text} = {gloss}"


def tree_lines(history: History) -> Iterator[str]:
    """The tree, a line a turn; an arrow marks the current one."""
    for number, (_, column) in history.places().items():
        turn = history.turn(number)
        branch = "   " * (column - 1) + "└─ " if column else ""
        arrow = "  <- here" if number == history.current else ""
        words = glossed(turn.words) or "no prompt"
        yield f"{branch}{number} {turn.method}: {words} ({', '.join(settings(turn))}){arrow}"


def settings(turn: Turn) -> list[str]:
    """What a turn was drawn with."""
    words = []
    for name, value in turn.arguments.items():
        if value is True:
            words.append(name)
        elif value:  # 0 pixels, not exact: as if nothing was said
            words.append(f"{name} {value:g}")
    if turn.seed is not None:
        words += [f"seed {turn.seed}", f"steps {turn.steps}", f"guidance {turn.guidance:g}"]
    words += [f"LoRA {Path(lora.path).name} x {lora.weight:g}" for lora in turn.loras]
    return [*words, "{} x {} pixels".format(*turn.size)]
