"""The installed diffusers: its name, and silence around its loaders."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """The installed version, without importing diffusers."""
    return metadata.version("diffusers")


def reader_name() -> str:
    """ "diffusers 0.42.1", as reports call it."""
    return f"diffusers {version()}"


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
