"""The editing session with buttons and a brush, for notebooks.

    SessionPage(session)       # with a running kernel: picture, brush, history; without one: the history as a figure
    history_figure(session)    # the figure alone

page.py is the page, parts.py what of it runs in the browser (brush.js, compare.js, strip.js), figure.py the pictures.
"""

from qwenlab.editing.page.figure import history_figure
from qwenlab.editing.page.page import SessionPage

__all__ = ["SessionPage", "history_figure"]
