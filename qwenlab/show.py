"""Pictures in notebooks: side by side, with what they show in words below, and captions that need no Chinese font.

The picture itself carries only numbers and Latin heads of rows and columns, drawn with Pillow's own font. Captions,
which are Chinese, stand below it as HTML, where the reader's browser has the font; a plain-text form goes with both.
The description is visible text: no front end passes the alternative text of an output on to its reader.
"""

import html
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARGIN = 4  # pixels between pictures
_QUALITY = 88  # of picture files: no visible loss at 128 pixels, a fifth of the size of PNG
_PAGE_QUALITY = 65  # of drawings in notebooks: outlines of hands at 128 pixels stay crisp, 0.6 of the bytes
_PLOT_COLORS = 4096  # a plot has fewer, a drawing has more than twice as many
_SMALL, _WIDE = 256, 960  # pictures up to this side are shown at twice their size, sheets up to this width
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def grid(
    images: Sequence[Image.Image],
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    heads: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
) -> Image.Image:
    """Lay pictures out in rows and return one RGB picture.

    labels: one short text under each picture; heads: one text over each column; rows: one text left of each row. All
    Latin only, since no font with Chinese may be assumed (ValueError otherwise): give captions to `image_table`.
    columns: pictures in a row; as many as there are heads, else at most 8. Pictures keep their size; a smaller one
    is centred in its cell.
    """
    if not images:
        raise ValueError("no pictures to show")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} pictures")
    for text in [*(labels or []), *(heads or []), *(rows or [])]:
        if not text.isascii():
            raise ValueError(f"only Latin text can be drawn, not {text!r}: use image_table for captions")
    columns = columns or (len(heads) if heads else min(8, len(images)))
    cell_width, cell_height = max(im.width for im in images), max(im.height for im in images)
    font = ImageFont.load_default(size=max(11, cell_width // 11))
    labels, heads, rows = (_wide_spaces(texts, font) for texts in (labels, heads, rows))
    line = sum(font.getmetrics()) + 2
    head_height, label_height = (line if heads else 0), (line if labels else 0)

    count = -(-len(images) // columns)
    if rows is not None and len(rows) != count:
        raise ValueError(f"{len(rows)} row heads for {count} rows")
    left = _MARGIN + max((int(font.getlength(text)) + 2 * _MARGIN for text in rows or []), default=0)
    step_x, step_y = cell_width + _MARGIN, cell_height + label_height + _MARGIN
    sheet = Image.new("RGB", (left + columns * step_x, count * step_y + _MARGIN + head_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads or []):
        draw.text((left + column * step_x + cell_width / 2, 2), head, _INK, font, anchor="ma")
    for row, text in enumerate(rows or []):
        draw.text((_MARGIN, _MARGIN + row * step_y + head_height + cell_height / 2), text, _INK, font, anchor="lm")
    for index, image in enumerate(images):
        x = left + index % columns * step_x
        y = _MARGIN + index // columns * step_y + head_height
        sheet.paste(image.convert("RGB"), (x + (cell_width - image.width) // 2, y + (cell_height - image.height) // 2))
        if labels:
            draw.text((x + cell_width / 2, y + cell_height + 1), labels[index], _INK, font, anchor="ma")
    return sheet


def _wide_spaces(texts: Sequence[str] | None, font: ImageFont.FreeTypeFont) -> Sequence[str] | None:
    """Texts whose spaces are seen: Pillow's font has spaces of 2 pixels at small sizes, as between two letters."""
    if not texts:
        return texts
    space = " " * round(max(1, font.size / 3 / font.getlength(" ")))
    return [text.replace(" ", space) for text in texts]


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """The bytes of a picture file; the format follows the suffix: ".png" (lossless), ".webp" or ".jpg"."""
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}[suffix.lower()]
    options = {"quality": _QUALITY} | ({"subsampling": 0} if kind == "JPEG" else {})
    image.save(buffer, kind, **({} if kind == "PNG" else options))
    return buffer.getvalue()


def encode_for_page(image: Image.Image) -> tuple[str, bytes]:
    """Media type and bytes of an RGB picture for a notebook, which keeps them as base64 in its JSON.

    A plot, told by its few colours, becomes a PNG with a palette of 256; a drawing becomes a JPEG with colour at full
    resolution, since small coloured shapes fade at half of it. Not WebP, which is smaller still: nbconvert shows the
    text in place of it.
    """
    buffer = io.BytesIO()
    if image.getcolors(_PLOT_COLORS):
        # This method keeps rare colours, such as a thin line's, where the default method takes the mean of many.
        image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        return "image/png", buffer.getvalue()
    image.save(buffer, "JPEG", quality=_PAGE_QUALITY, subsampling="4:4:4", progressive=True)
    return "image/jpeg", buffer.getvalue()


@dataclass(frozen=True)
class ImageTable:
    """A picture, what it shows in words, and a numbered list of captions; a notebook shows all three below a cell.

    width: in pixels, at which a page shows the picture; None: its own.
    """

    sheet: Image.Image
    alt: str
    captions: tuple[str, ...] = ()
    width: int | None = None

    def __str__(self) -> str:
        if len(self.captions) == 1:
            return f"{self.alt}\n{self.captions[0]}"
        return "\n".join([self.alt, *(f"{number}. {text}" for number, text in enumerate(self.captions, 1))])

    def to_html(self) -> str:
        """Description and captions as HTML."""
        items = [html.escape(text) for text in self.captions]
        listed = ""
        if len(items) == 1:
            listed = f'<p style="font-size: 90%">{items[0]}</p>'
        elif items:
            listed = f'<ol style="font-size: 90%">{"".join(f"<li>{item}</li>" for item in items)}</ol>'
        return f'<p style="font-size: 90%"><em>{html.escape(self.alt)}</em></p>{listed}'

    def outputs(self) -> list[tuple[dict[str, object], dict[str, object]]]:
        """What a notebook shows below a cell, as (data, metadata): the picture, then the words."""
        # Two outputs and not one HTML table: code-hosting sites show image outputs but may strip images from HTML.
        shown = {"alt": self.alt} | ({"width": self.width} if self.width else {})
        kind, data = encode_for_page(self.sheet)
        picture = {kind: data, "text/plain": self.alt}, {kind: shown}
        return [picture, ({"text/html": self.to_html(), "text/plain": str(self)}, {})]

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for data, metadata in self.outputs():
            display(data, metadata=metadata, raw=True)


def image_table(
    images: Sequence[Image.Image],
    captions: Sequence[str] = (),
    *,
    alt: str,
    columns: int | None = None,
    heads: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
) -> ImageTable:
    """Show pictures in a notebook with a description, captions in any script, and heads of columns and rows.

    alt: one sentence that says what the pictures show (required); it stands below them.
    captions: one for each picture, or one for each row of the grid; the grid carries their numbers, if `rows` does not
        name the rows.
    heads, rows: Latin texts over the columns and left of the rows, such as ("base", "LoRA").
    Pictures of at most 256 pixels are shown at twice their size where the page has room. Raises ValueError when the
    counts do not fit.
    """
    if not alt.strip():
        raise ValueError("alt must say in one sentence what the pictures show")
    columns = columns or (len(heads) if heads else min(8, len(images)))
    count = -(-len(images) // columns)
    labels = None
    if captions and len(captions) not in (len(images), count):
        raise ValueError(f"{len(captions)} captions for {len(images)} pictures in {count} rows")
    each = len(captions) == len(images)
    if len(captions) > 1 and (each or not rows):  # heads of rows stand in the order of the list
        labels = [str(index + 1 if each else index // columns + 1) for index in range(len(images))]
    sheet = grid(images, labels, columns, heads, rows)
    small = max(max(image.size) for image in images) <= _SMALL
    width = min(2 * sheet.width, _WIDE) if small and sheet.width < _WIDE else None
    return ImageTable(sheet, alt, tuple(captions), width)


@dataclass(frozen=True)
class Animation:
    """Pictures of one size that a notebook shows one after the other, for ever, with what they show in words below.

    width: in pixels, at which a page shows them.
    """

    frames: tuple[Image.Image, ...]
    alt: str
    milliseconds: int
    width: int

    def __str__(self) -> str:
        return self.alt

    def to_bytes(self) -> bytes:
        """The frames as an animated PNG of 256 colours.

        Every reader of notebooks knows PNG, and one that shows no animation shows the first frame; nbconvert shows
        neither GIF nor WebP.
        """
        stacked = Image.new("RGB", (self.frames[0].width, self.frames[0].height * len(self.frames)))
        for number, frame in enumerate(self.frames):
            stacked.paste(frame.convert("RGB"), (0, number * frame.height))
        colours = stacked.quantize(256, Image.Quantize.MEDIANCUT)  # the same for all frames, or they flicker
        first, *others = [
            frame.convert("RGB").quantize(palette=colours, dither=Image.Dither.NONE) for frame in self.frames
        ]
        buffer = io.BytesIO()
        first.save(buffer, "PNG", save_all=True, append_images=others, duration=self.milliseconds, loop=0)
        return buffer.getvalue()

    def outputs(self) -> list[tuple[dict[str, object], dict[str, object]]]:
        """What a notebook shows below a cell, as (data, metadata): the animation, then the words."""
        shown = {"alt": self.alt, "width": self.width}
        words = f'<p style="font-size: 90%"><em>{html.escape(self.alt)}</em></p>'
        picture = {"image/png": self.to_bytes(), "text/plain": self.alt}, {"image/png": shown}
        return [picture, ({"text/html": words, "text/plain": self.alt}, {})]

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for data, metadata in self.outputs():
            display(data, metadata=metadata, raw=True)


def animation(frames: Sequence[Image.Image], *, alt: str, milliseconds: int = 100) -> Animation:
    """Frames as an `Animation`; each is shown for `milliseconds`.

    alt: one sentence that says what moves and how (required); it stands below. Frames of at most 256 pixels are shown
    at twice their size. Raises ValueError for frames of several sizes.
    """
    if not alt.strip():
        raise ValueError("alt must say in one sentence what the pictures show")
    if not frames or len({frame.size for frame in frames}) > 1:
        raise ValueError("an animation needs frames, all of one size")
    wide = frames[0].width
    return Animation(tuple(frames), alt, milliseconds, min(_WIDE, 2 * wide if max(frames[0].size) <= _SMALL else wide))


class StandIn:
    """What a notebook shows in a widget's place, until a front end says that the widget is on its page."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def show(self, outputs: Iterable[tuple[dict[str, object], dict[str, object]]]) -> None:
        """Display (data, metadata) pairs, such as `Animation.outputs` gives."""
        from IPython.display import display

        self._handles += [display(data, metadata=more, raw=True, display_id=True) for data, more in outputs]

    def remove(self) -> None:
        """Leave nothing of them on the page."""
        for handle in self._handles:
            if handle is not None:  # outside a notebook
                handle.update({"text/html": "", "text/plain": ""}, raw=True)
        self._handles = []


def figure_table(figure: "Figure", *, alt: str) -> ImageTable:
    """A matplotlib figure as an `ImageTable`, so that it carries alternative text; the figure is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return image_table([Image.open(buffer).convert("RGB")], alt=alt)


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys as aligned text, one line each under a line of the keys; floats with two decimals.

    Columns of numbers are aligned to the right. ValueError for no rows or other keys.
    """
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError("a table needs rows, all with the same keys")
    cells = [[f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    columns = list(zip(rows[0].keys(), *cells, strict=True))
    numbers = [all(isinstance(row[name], int | float) for row in rows) for name in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for line in zip(*columns, strict=True):
        pairs = zip(line, widths, numbers, strict=True)
        lines.append("  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in pairs))
    return "\n".join(line.rstrip() for line in lines)


def progress_stream() -> TextIO:
    """Where progress bars and notes belong: standard error, but standard output in a notebook.

    A notebook shows standard error on red, as if something had failed.
    """
    ipython = sys.modules.get("IPython")
    in_kernel = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    return sys.stdout if in_kernel else sys.stderr
