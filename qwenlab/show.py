"""Pictures in notebooks: side by side, with captions that need no Chinese font, and with a text for screen readers.

The picture itself carries only numbers and Latin column heads, drawn with Pillow's own font. Captions, which are
Chinese, stand below it as HTML, where the reader's browser has the font; a plain-text form goes with both.
"""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARGIN = 4  # pixels between pictures
_QUALITY = 88  # no visible loss at 128 pixels, a fifth of the size of PNG
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def grid(
    images: Sequence[Image.Image],
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    heads: Sequence[str] | None = None,
) -> Image.Image:
    """Lay pictures out in rows and return one RGB picture.

    labels: one short text under each picture; heads: one text over each column. Both Latin only, since no font
    with Chinese may be assumed (ValueError otherwise): give Chinese captions to `image_table`.
    columns: pictures in a row; as many as there are heads, else at most 8. Pictures keep their size; a smaller one
    is centred in its cell.
    """
    if not images:
        raise ValueError("no pictures to show")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} pictures")
    for text in [*(labels or []), *(heads or [])]:
        if not text.isascii():
            raise ValueError(f"only Latin text can be drawn, not {text!r}: use image_table for captions")
    columns = columns or (len(heads) if heads else min(8, len(images)))
    cell_width, cell_height = max(im.width for im in images), max(im.height for im in images)
    font = ImageFont.load_default(size=max(11, cell_width // 11))
    line = sum(font.getmetrics()) + 2
    head_height, label_height = (line if heads else 0), (line if labels else 0)

    rows = -(-len(images) // columns)
    step_x, step_y = cell_width + _MARGIN, cell_height + label_height + _MARGIN
    sheet = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN + head_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads or []):
        draw.text((_MARGIN + column * step_x + cell_width / 2, 2), head, _INK, font, anchor="ma")
    for index, image in enumerate(images):
        x = _MARGIN + index % columns * step_x
        y = _MARGIN + index // columns * step_y + head_height
        sheet.paste(image.convert("RGB"), (x + (cell_width - image.width) // 2, y + (cell_height - image.height) // 2))
        if labels:
            draw.text((x + cell_width / 2, y + cell_height + 1), labels[index], _INK, font, anchor="ma")
    return sheet


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """The bytes of a picture file; the format follows the suffix: ".png" (lossless), ".webp" or ".jpg"."""
    buffer = io.BytesIO()
    kind = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}[suffix.lower()]
    options = {"quality": _QUALITY} | ({"subsampling": 0} if kind == "JPEG" else {})
    image.save(buffer, kind, **({} if kind == "PNG" else options))
    return buffer.getvalue()


@dataclass(frozen=True)
class ImageTable:
    """A picture with alternative text and a numbered list of captions; a notebook shows both below a cell."""

    sheet: Image.Image
    alt: str
    captions: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([self.alt, *(f"{number}. {text}" for number, text in enumerate(self.captions, 1))])

    def to_html(self) -> str:
        """The captions as an HTML list; empty when there are none."""
        if not self.captions:
            return ""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in self.captions)
        return f'<ol style="font-size: 90%">{items}</ol>'

    def _ipython_display_(self) -> None:
        # Two outputs and not one HTML table: code-hosting sites show image outputs but may strip images from HTML.
        from IPython.display import display

        display(
            {"image/jpeg": encode_image(self.sheet, ".jpg"), "text/plain": self.alt},
            metadata={"image/jpeg": {"alt": self.alt}},
            raw=True,
        )
        if self.captions:
            display({"text/html": self.to_html(), "text/plain": str(self)}, raw=True)


def image_table(
    images: Sequence[Image.Image],
    captions: Sequence[str] = (),
    *,
    alt: str,
    columns: int | None = None,
    heads: Sequence[str] | None = None,
) -> ImageTable:
    """Show pictures in a notebook with captions in any script and an alternative text.

    alt: one sentence that says what the pictures show (required, for readers who do not see them).
    captions: one for each picture, or one for each row of the grid; the grid then carries the numbers of the list.
    heads: Latin column heads, such as ("base", "LoRA"). Raises ValueError when the counts do not fit.
    """
    if not alt.strip():
        raise ValueError("alt must say in one sentence what the pictures show")
    columns = columns or (len(heads) if heads else min(8, len(images)))
    rows = -(-len(images) // columns)
    labels = None
    if captions and len(captions) == len(images):
        labels = [str(number) for number in range(1, len(images) + 1)]
    elif captions and len(captions) == rows:
        labels = [str(index // columns + 1) for index in range(len(images))]
    elif captions:
        raise ValueError(f"{len(captions)} captions for {len(images)} pictures in {rows} rows")
    return ImageTable(grid(images, labels, columns, heads), alt, tuple(captions))


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
