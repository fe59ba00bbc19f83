"""Pictures, captions and findings as plain HTML. Styles are inline, since many sites strip style sheets."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path

from qwenlab.captions import lint
from qwenlab.captions.editor.edits import CaptionEdits, Entry
from qwenlab.data.check.pictures import reduced
from qwenlab.data.findings import plural, shown
from qwenlab.data.images import open_image
from qwenlab.errors import QwenlabError
from qwenlab.show import encode_image

SIDE = 112  # pixels of a picture's longer side


def caption_table(folder: str | Path, limit: int = 12) -> CaptionTable:
    """The first `limit` captions with picture and findings; missing captions and those with findings come first.

    Raises what `CaptionEdits` raises.
    """
    entries = list(CaptionEdits(folder).entries.values())
    faulty = [entry for entry in entries if not entry.text.strip() or lint(entry.text)]
    order = faulty + [entry for entry in entries if entry not in faulty]
    head = f"{plural(len(entries), 'caption')}, {len(faulty)} to mend; {min(limit, len(entries))} shown"
    return CaptionTable(head, tuple(order[:limit]))


@dataclass(frozen=True)
class CaptionTable:
    """Pictures, captions and findings as HTML without scripts or outside files, and as plain text."""

    head: str
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        lines = [self.head]
        for entry in self.entries:
            lines.append(f"{entry.place}: {entry.text or 'no caption'}")
            lines += [f"    {f.rule}: {f.reason}" for f in lint(entry.text)]
        return "\n".join(lines)

    def to_html(self) -> str:
        """The table. Styles are inline, since many sites strip style sheets; colours suit light and dark pages."""
        line = "background: none; border-top: 1px solid rgba(128, 128, 128, 0.4)"
        cell = "text-align: left; vertical-align: top; padding: 8px"
        rows = "".join(
            f'<tr style="{line}"><td style="{cell}">{picture_html(entry, SIDE)}</td><td style="{cell}">'
            f"<small>{html.escape(entry.place)}</small><br>{_marked(entry.text)}{findings_html(entry.text)}</td></tr>"
            for entry in self.entries
        )
        return (
            f'<table style="border-collapse: collapse; max-width: 60em; font-size: 14px">'
            f'<caption style="text-align: left; padding: 4px 8px">{html.escape(self.head)}</caption>'
            f"<tbody>{rows}</tbody></table>"
        )

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display({"text/html": self.to_html(), "text/plain": str(self)}, raw=True)


def picture_html(entry: Entry, side: int) -> str:
    """The picture as an HTML image whose alternative text is its name and caption, or why there is none."""
    try:
        if entry.path is None:
            raise QwenlabError("no such picture in the folder")
        image = reduced(open_image(entry.path), side)
    except QwenlabError as error:
        return f'<div style="width: {side}px; color: #d32f2f">{html.escape(shown(str(error), 200))}</div>'
    data = base64.b64encode(encode_image(image, ".jpg")).decode()
    alt = html.escape(f"{shown(entry.name)}: {shown(entry.text, 200) or 'no caption yet'}")
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" {size} style="max-width: none; margin: 0" alt="{alt}">'


def _marked(text: str) -> str:
    """The caption with the places of findings marked."""
    if not text:
        return "<i>no caption yet</i>"
    faulty = [False] * len(text)
    for finding in lint(text):
        faulty[finding.start : finding.end] = [True] * (finding.end - finding.start)
    mark = '<mark style="background: rgba(255, 170, 0, 0.35); color: inherit">'
    parts, inside = [], False
    for character, wrong in zip(text, faulty, strict=True):
        parts.append((mark if wrong else "</mark>") * (wrong != inside) + html.escape(character))
        inside = wrong
    return "".join(parts) + "</mark>" * inside


def findings_html(text: str) -> str:
    """What the linter says of a caption, as an HTML list."""
    if not text.strip():
        return '<div style="color: #d32f2f">No caption: write one.</div>'
    items = "".join(
        f"<li><code>{finding.rule}</code> {html.escape(finding.reason)}"
        + (f" → {html.escape(shown(finding.suggestion))}" if finding.suggestion else "")
        + "</li>"
        for finding in lint(text)
    )
    if not items:
        return '<div style="color: #2e7d32">✓ no finding</div>'
    return f'<ul style="margin: 4px 0; padding-left: 1.4em">{items}</ul>'
