"""The installed diffusers: its name, and silence around its loaders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata


def reader_name() -> str:
    """ "diffusers 0.42.1": the installed version, without importing it."""
    return f"diffusers {metadata.version('diffusers')}"


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log of diffusers."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
