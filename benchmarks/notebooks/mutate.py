"""Does notebook 00 notice when a central function is wrong? Break one after another and see the notebook fail.

    python -m benchmarks.notebooks.mutate                    # every mutant, at most the notebook's own time for each
    python -m benchmarks.notebooks.mutate sample_lost        # some of them; nothing is stored

A mutant is one function of the package, wrapped. A cell put before the notebook's first one imports the whole package
and puts the mutant wherever the package refers to the original; then the notebook runs unchanged until a cell fails.
A mutant that survives is a hole in the notebook's checks: the command names it and exits with status 1. A full run
is stored in benchmarks/notebooks/mutations.json; a test fails when the notebook's code has changed since.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from qwenlab.course.tour import CellFailed, execute
from qwenlab.files import REPOSITORY, atomic_write_json, sha256_json
from qwenlab.lab.results import stamp_result

NOTEBOOK = REPOSITORY / "notebooks" / "00_start_here.ipynb"
RESULTS = REPOSITORY / "benchmarks/notebooks/mutations.json"


@dataclass(frozen=True)
class Mutant:
    """target: "module:name" of the function; wrap: source of a function that takes the original, returns the mutant."""

    target: str
    wrap: str


MUTANTS = {
    # Training runs away from the data instead of towards it.
    "velocity_sign": Mutant("qwenlab.model.flow:velocity", "lambda f: lambda x0, noise: -f(x0, noise)"),
    # Data and noise change places along the path.
    "path_reversed": Mutant("qwenlab.model.flow:interpolate", "lambda f: lambda x0, noise, sigma: f(noise, x0, sigma)"),
    # The file forgets half of every LoRA product: what is loaded is not what was trained.
    "lora_scale": Mutant(
        "qwenlab.lora.layers:lora_state",
        "lambda f: lambda model: {k: v / 2 if '.lora_B.' in k else v for k, v in f(model).items()}",
    ),
    # Both factors at zero: no gradient ever reaches them.
    "lora_all_zero": Mutant(
        "qwenlab.lora.layers:inject_lora",
        "lambda f: lambda *a, **k: (lambda p: ([v.data.zero_() for v in p.values()], p)[1])(f(*a, **k))",
    ),
    # The seed is not used.
    "seed_ignored": Mutant(
        "qwenlab.model.generation:generate",
        "lambda f: lambda pipeline, prompts, seeds, **k: f(pipeline, prompts, "
        "[__import__('random').randrange(2**31) for _ in ([seeds] if isinstance(seeds, int) else seeds)], **k)",
    ),
    # Each caption belongs to another scene, drawn at random.
    "caption_swapped": Mutant(
        "qwenlab.lab.world.attributes:caption",
        "lambda f: lambda scene: f(__import__('qwenlab.lab.world').world.sample_scene("
        "__import__('numpy').random.default_rng()))",
    ),
    # Training scenes come from the combinations that are kept for tests.
    "splits_swapped": Mutant(
        "qwenlab.lab.world.attributes:sample_scene", "lambda f: lambda rng, **k: f(rng, **{**k, 'split': 'test'})"
    ),
    # Wrong anatomy is drawn right.
    "anatomy_ignored": Mutant(
        "qwenlab.lab.world.render:render", "lambda f: lambda scene, size=128, anatomy=None: f(scene, size)"
    ),
    # The same scene gives another picture every time.
    "picture_random": Mutant(
        "qwenlab.lab.world.render:render",
        "lambda f: lambda scene, *a, **k: f(__import__('dataclasses').replace(scene, "
        "seed=__import__('random').randrange(2**31)), *a, **k)",
    ),
    # Reading the folder loses its last picture.
    "sample_lost": Mutant(
        "qwenlab.data.dataset:read_dataset",
        "lambda f: lambda *a: (lambda d: __import__('dataclasses').replace(d, samples=d.samples[:-1]))(f(*a))",
    ),
    # Captions move on by one picture.
    "captions_shifted": Mutant(
        "qwenlab.data.dataset:read_dataset",
        "lambda f: lambda *a: (lambda d: __import__('dataclasses').replace(d, samples=tuple("
        "__import__('dataclasses').replace(s, text=t.text) for s, t in "
        "zip(d.samples, d.samples[1:] + d.samples[:1]))))(f(*a))",
    ),
}


def inject(notebook: NotebookNode, mutant: Mutant) -> NotebookNode:
    """A copy of the notebook whose first cell, with the id "mutant", puts the mutant in place."""
    module, name = mutant.target.split(":")
    source = f"""
import functools, importlib, pkgutil, sys
import qwenlab
for found in pkgutil.walk_packages(qwenlab.__path__, "qwenlab."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
original = getattr(sys.modules[{module!r}], {name!r})
mutant = functools.wraps(original)(({mutant.wrap})(original))
for module in [module for key, module in sys.modules.items() if key.split(".")[0] == "qwenlab"]:
    for key, value in list(vars(module).items()):
        if value is original:
            setattr(module, key, mutant)
del found, key, module, mutant, original, value
""".strip()
    copy = nbformat.from_dict(notebook)
    copy.cells = [nbformat.v4.new_code_cell(source, id="mutant"), *map(nbformat.from_dict, notebook.cells)]
    return copy


def survives(notebook: NotebookNode, path: Path, mutant: Mutant) -> tuple[bool, dict[str, str]]:
    """Run the notebook with the mutant in place. Returns (no cell failed, {"cell": id, "error": one line})."""
    try:
        execute(inject(notebook, mutant), path)
    except CellFailed as failure:
        if failure.cell_id == "mutant":
            raise RuntimeError(f"the mutant itself is broken, not the notebook: {failure.what}") from failure
        return False, {"cell": failure.cell_id, "error": failure.what}
    return True, {}


def code_hash(notebook: NotebookNode) -> str:
    """SHA-256 of the sources of the code cells that teach: prose and the set-up cell may change without a new run."""
    teaching = (c for c in notebook.cells if c.cell_type == "code" and "set-up" not in c.metadata.get("tags", []))
    return sha256_json([cell.source for cell in teaching])


def main(names: list[str], path: Path = NOTEBOOK) -> int:
    """Run the named mutants, or all of them; returns how many survive."""
    notebook = nbformat.read(path, as_version=4)
    outcomes = {}
    for name in names or MUTANTS:
        started = time.perf_counter()
        survived, failure = survives(notebook, path, MUTANTS[name])
        outcomes[name] = {"survived": survived, **failure}
        seconds = time.perf_counter() - started
        print(f"{name:16} {'SURVIVED' if survived else 'killed'} {seconds:5.0f} s  {failure}", flush=True)
    if not names:
        config = {"notebook": path.name, "code_sha256": code_hash(notebook)}
        result = stamp_result({"mutants": outcomes}, config=config, command="python -m benchmarks.notebooks.mutate")
        atomic_write_json(RESULTS, result)
    return sum(outcome["survived"] for outcome in outcomes.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MUTANT", help="; ".join(MUTANTS))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MUTANTS):
        parser.error(f"unknown mutants {', '.join(sorted(unknown))}: there are {', '.join(MUTANTS)}")
    sys.exit(1 if main(arguments.names) else 0)
