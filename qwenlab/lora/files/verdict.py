"""What a reader does with a LoRA file, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qwenlab.lora.files.adapters import Layer
from qwenlab.lora.files.leftovers import HARMLESS, Group


@dataclass(frozen=True)
class Verdict:
    """What a reader does with a file. outcome: "works", "rounds", "ignores alpha", "wrong scale", "drops DoRA",
    "loads a part", "loads nothing", "leaves weights empty", "hangs" or "error". "rounds" is "works" up to the rounding
    of 16-bit numbers. "works" is said only when the reader applies every tensor that changes the model. how: whether
    the reader was executed, in words."""

    reader: str
    outcome: str
    detail: str = ""
    how: str = ""

    @property
    def works(self) -> bool:
        return self.outcome in ("works", "rounds")

    def __str__(self) -> str:
        text = f"{self.outcome}: {self.detail}" if self.detail else self.outcome
        return f"{text} ({self.how})" if self.how else text


def strength(layers: Mapping[str, Layer], factors: Mapping[str, float]) -> str:
    """Sentence on the strength with which a LoRA acts. factors: what each layer's B A is multiplied by."""
    ratios = sorted(factor / (layers[name].scaling or 1) for name, factor in factors.items())
    low, high = f"{ratios[0]:.3g}", f"{ratios[-1]:.3g}"
    return f"the LoRA acts with {low if low == high else f'{low} to {high}'} times its strength"


def split_harmless(groups: Iterable[Group]) -> tuple[list[Group], list[Group]]:
    """Groups that change the model, and groups that do not, such as an optimizer's state."""
    groups = list(groups)
    return [g for g in groups if g.what not in HARMLESS], [g for g in groups if g.what in HARMLESS]


def named(groups: Iterable[Group]) -> str:
    """The groups in one line."""
    return ", ".join(map(str, groups))


def short(text: str, length: int = 120) -> str:
    """One line of foreign text, fit for a terminal."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= length else text[: length - 4] + " ..."
