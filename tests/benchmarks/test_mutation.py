"""Breaking a central function makes a notebook fail: the mechanism, and the stored run of all mutants."""

import importlib
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from benchmarks.notebooks.mutate import MUTANTS, NOTEBOOK, RESULTS, Mutant, code_hash, survives

VELOCITY_SIGN = Mutant("qwenlab.model.flow:velocity", "lambda f: lambda x0, noise: -f(x0, noise)")


@pytest.fixture
def notebook():
    return new_notebook(
        cells=[
            new_markdown_cell("# A small lesson"),
            new_code_cell(
                "from qwenlab.model.flow import velocity\nfrom qwenlab.training import batches", id="imports"
            ),
            new_code_cell("assert velocity(1.0, 3.0) == 2.0 and batches.velocity is velocity", id="check"),
        ]
    )


def test_a_mutant_in_place_makes_the_check_fail(notebook, tmp_path):
    survived, failure = survives(notebook, tmp_path / "a.ipynb", VELOCITY_SIGN)
    assert not survived
    assert failure["cell"] == "check" and failure["error"].startswith("AssertionError")
    assert len(notebook.cells) == 3  # the notebook itself is not changed


def test_a_broken_mutant_is_no_kill(notebook, tmp_path):
    with pytest.raises(RuntimeError, match="mutant itself is broken"):
        survives(notebook, tmp_path / "a.ipynb", Mutant("qwenlab.errors:no_such_name", "lambda f: f"))


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_has_a_target(name):
    module, function = MUTANTS[name].target.split(":")
    original = getattr(importlib.import_module(module), function)
    assert callable(eval(MUTANTS[name].wrap)(original))


def test_stored_run_killed_every_mutant_of_the_present_notebook():
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    survived = {name: outcome["survived"] for name, outcome in stored["mutants"].items()}
    assert survived == dict.fromkeys(MUTANTS, False)
    present = code_hash(nbformat.read(NOTEBOOK, as_version=4))
    assert stored["made_with"]["config"]["code_sha256"] == present, "run again: python -m benchmarks.notebooks.mutate"
