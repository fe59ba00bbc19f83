"""A cell that needs a skipped one says which one; a typing error keeps Python's own words."""

import json
from types import SimpleNamespace

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from qwenlab.course.skipped import explain_skipped_cells
from qwenlab.course.tour import find_notebooks
from qwenlab.files import REPOSITORY

LESSON = ["import math\n\nhalf = lambda x: x / 2", "def train():\n    inner = 1\n\nlosses = [x for x in (3, 2)]",
          "losses[0], inner", "last = losses[-1]"]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "00_a.ipynb", ["losses = 1", "print(losses)"])
    write(tmp_path / "01_b.ipynb", LESSON)
    return tmp_path


def write(path, sources):
    cells = [{"cell_type": "markdown", "source": ["losses = 0"]}]
    cells += [{"cell_type": "code", "source": source.splitlines(keepends=True)} for source in sources]
    path.write_text(json.dumps({"cells": cells}))


@pytest.fixture
def run(monkeypatch, capsys, folder):
    """Runs cells as a notebook does; returns what the last one prints."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.kernel = SimpleNamespace()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    explain_skipped_cells(folder)

    def call(*sources):
        for source in sources:
            capsys.readouterr()
            shell.run_cell(source, store_history=True)
        return capsys.readouterr().out

    return call


def test_the_skipped_cell_is_named(run):
    shown = run(LESSON[0], LESSON[3])
    assert "'losses' is not there yet: the cell that begins with `def train():` makes it" in shown
    assert "Traceback" not in shown and len(shown.strip().splitlines()) == 1


def test_a_name_that_no_cell_leaves_keeps_pythons_words(run):
    shown = run(LESSON[0], LESSON[1], LESSON[2])  # `inner` lives in a function
    assert "NameError" in shown and "Traceback" in shown
    assert "Traceback" in run("lossess")


def test_nothing_changes_when_the_cell_has_run(run):
    assert run(LESSON[0], LESSON[1], LESSON[3]) == ""


def test_outside_a_notebook_nothing_is_changed(monkeypatch, folder):
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    explain_skipped_cells(folder)
    assert NameError not in shell.custom_exceptions


def test_every_lesson_asks_for_it():
    for path in find_notebooks(REPOSITORY / "notebooks"):
        assert "begin()" in path.read_text(encoding="utf-8"), path.name
