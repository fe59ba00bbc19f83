"""The history of a session as a labelled figure, which needs no running kernel and no script."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageOps

from qwenlab.editing.describing import glossed, settings
from qwenlab.editing.history import Turn
from qwenlab.editing.session import EditSession
from qwenlab.errors import QwenlabError
from qwenlab.show import ImageTable, grid

FRAME = (25, 118, 210)  # around the current picture
_WIDEST = 960  # pixels that a page has room for


def history_figure(session: EditSession) -> ImageTable:
    """The tree of pictures, the current one framed, and below it what each turn was asked.

    A picture stands to the right of the one that it was drawn from; a branch begins a row of its own. Raises
    QwenlabError before the first turn.
    """
    session.current  # noqa: B018  (raises)
    history = session.history
    places = history.places()
    rows, columns = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    side = max(64, min(128, _WIDEST // columns))
    images, labels = [Image.new("RGB", (side, side), "white")] * (rows * columns), [""] * (rows * columns)
    for number, (row, column) in places.items():
        turn = history.turn(number)
        images[row * columns + column] = thumbnail(session, turn, side, framed=number == history.current)
        labels[row * columns + column] = label(turn)
    sheet = grid(images, labels, columns)
    said = "a picture stands to the right of the one it was drawn from, a branch in a row of its own"
    alt = f"The history of {len(history.turns)} turns: {said}; the blue frame is around turn {history.current}."
    words = tuple(f"{label(turn, number=False)}: {describe(turn)}" for turn in history.turns)
    return ImageTable(sheet, alt, words, min(2 * sheet.width, _WIDEST) if sheet.width < _WIDEST else None)


def label(turn: Turn, number: bool = True) -> str:
    """ "3 refine of 1"."""
    origin = "" if turn.parent is None else f" of {turn.parent}"
    return f"{turn.number} {turn.method}{origin}" if number else f"{turn.method}{origin}"


def describe(turn: Turn) -> str:
    """What was asked, with its English, and the settings."""
    return f"{glossed(turn.words) or 'no prompt'} ({', '.join(settings(turn))})"


def thumbnail(session: EditSession, turn: Turn, side: int, framed: bool = False) -> Image.Image:
    """A turn's picture within `side` x `side` pixels; a grey one where its file is missing or was changed."""
    try:
        picture = ImageOps.contain(session.picture(turn.number), (side, side), Image.Resampling.LANCZOS)
    except QwenlabError:
        picture = Image.new("RGB", (side, side), (200, 200, 200))
        ImageDraw.Draw(picture).text((side / 2, side / 2), "missing", "black", anchor="mm")
    if framed:
        ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=FRAME, width=3)
    return picture
