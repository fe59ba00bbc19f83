"""The shipped weights that fit only the micro model and the drawn world: files in `micro/`, `hands/` and `judge/`."""

from pathlib import Path

FOLDER = Path(__file__).parent
