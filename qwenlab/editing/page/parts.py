"""What of the page runs in the browser: brush, slider and strip. The scripts lie beside this file; nothing is fetched.

Pictures travel as PNG bytes, a mask as bits, eight pixels a byte.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import numpy as np
import traitlets

from qwenlab.errors import QwenlabError
from qwenlab.model.limits import SIDE_STEP

_HERE = Path(__file__).resolve().parent


class Brush(anywidget.AnyWidget):
    """A picture to paint a mask on.

    Traits: picture (PNG); size, (width, height) in pixels; mask, the bits of its rows; brush, the diameter in pixels;
    token, the side of what is drawn together; enabled.
    """

    _esm = _HERE / "brush.js"
    _css = _HERE / "page.css"
    picture = traitlets.Bytes(b"").tag(sync=True)
    size = traitlets.List(traitlets.Int(), [0, 0]).tag(sync=True)
    mask = traitlets.CBytes(b"").tag(sync=True)  # the browser's bytes arrive as a memoryview
    brush = traitlets.Int(16).tag(sync=True)
    token = traitlets.Int(SIDE_STEP).tag(sync=True)
    enabled = traitlets.Bool(True).tag(sync=True)

    def white(self) -> np.ndarray:
        """(H, W) bool: what is painted. Raises QwenlabError for a mask of another size than the picture's."""
        width, height = self.size
        bits = np.unpackbits(np.frombuffer(self.mask, np.uint8))
        if not len(self.mask):
            return np.zeros((height, width), bool)
        if len(bits) - width * height not in range(8):
            raise QwenlabError("mask: of another size than the picture; clear it and paint again")
        return bits[: width * height].reshape(height, width).astype(bool)

    def paint(self, white: np.ndarray) -> None:
        """Show a mask (H, W) bool."""
        self.mask = np.packbits(white).tobytes()


class Compare(anywidget.AnyWidget):
    """Two pictures, one over the other, and a slider between them.

    Traits: before, after (PNG); before_label, after_label; box, where the first lies in the second: left, top, width
    and height as shares; size, (width, height) of the second.
    """

    _esm = _HERE / "compare.js"
    _css = _HERE / "page.css"
    before = traitlets.Bytes(b"").tag(sync=True)
    after = traitlets.Bytes(b"").tag(sync=True)
    before_label = traitlets.Unicode("").tag(sync=True)
    after_label = traitlets.Unicode("").tag(sync=True)
    box = traitlets.List(traitlets.Float(), [0.0, 0.0, 1.0, 1.0]).tag(sync=True)
    size = traitlets.List(traitlets.Int(), [0, 0]).tag(sync=True)


class Strip(anywidget.AnyWidget):
    """The tree of turns as small pictures. A click sends {"goto": number}.

    Traits: tiles, dictionaries of number, row, column, label, words, picture (a data URL) and here; enabled.
    """

    _esm = _HERE / "strip.js"
    _css = _HERE / "page.css"
    tiles = traitlets.List(traitlets.Dict()).tag(sync=True)
    enabled = traitlets.Bool(True).tag(sync=True)
