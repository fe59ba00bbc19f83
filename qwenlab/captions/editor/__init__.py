"""Captions beside their pictures: an editor for notebooks, and a table for places where no widget runs.

    CaptionEditor("my_dataset")     # with a running kernel: picture, caption, what the linter says, next, save
    caption_table("my_dataset")     # HTML alone: on a page, on GitHub

edits.py holds what both show and knows no widget; table.py makes HTML of it, editor.py widgets.
"""

from qwenlab.captions.editor.edits import CaptionEdits, Entry
from qwenlab.captions.editor.table import CaptionTable, caption_table
from qwenlab.captions.editor.widget import CaptionEditor

__all__ = ["CaptionEditor", "CaptionEdits", "CaptionTable", "Entry", "caption_table"]
