"""What no editing can be done with. Without torch: mistakes are answered at once."""

from __future__ import annotations

import operator

import numpy as np

from qwenlab.editing.windows import check_sides
from qwenlab.errors import QwenlabError, check_range
from qwenlab.model.limits import MAX_SIDE


def check_strength(strength: float, name: str = "strength") -> None:
    """Raise QwenlabError unless 0 < strength <= 1."""
    check_range(name, strength, 0, 1)
    if not strength > 0:
        raise QwenlabError(
            f"{name} {strength}: changes nothing, and the stock pipeline takes no step; take more than 0"
        )


def first_step(strength: float, steps: int) -> int:
    """The number of steps, of `steps`, that a strength leaves out: rounded as the stock pipelines do."""
    return int(max(steps - min(steps * strength, steps), 0))


def check_something_stays(white: np.ndarray, strength: float, name: str = "mask") -> None:
    """Raise QwenlabError when nothing of the picture would matter: all white (H, W), and drawn from noise alone."""
    if strength == 1 and white.all():
        raise QwenlabError(f"{name}: white everywhere, which leaves nothing of the picture; use qwenlab generate")


def check_extension(
    size: tuple[int, int], left: int, right: int, top: int, bottom: int, *, name: str = "picture", dashes: str = "--"
) -> None:
    """Raise QwenlabError for pixels that a picture of `size` (W, H) cannot be extended by.

    name: of the picture, dashes: before the names of the sides, for the messages.
    """
    check_sides(size, name)
    for side, count in (("left", left), ("right", right), ("top", top), ("bottom", bottom)):
        check_range(f"{dashes}{side}", count, 0, MAX_SIDE)
    if not any((left, right, top, bottom)):
        raise QwenlabError(f"nothing to extend by: give pixels for {dashes}left, {dashes}right, {dashes}top or "
                           f"{dashes}bottom")  # fmt: skip


def check_text(text: str, name: str) -> None:
    """Raise QwenlabError for a text that no file can hold: half of a character, as a broken paste gives it."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise QwenlabError(f"{name}: holds half a character; delete it and type it again")


def check_whole(value: int, name: str) -> int:
    """The number as an int of Python. Raises QwenlabError for what is no whole number."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise QwenlabError(f"{name} {value!r}: must be a whole number") from error
