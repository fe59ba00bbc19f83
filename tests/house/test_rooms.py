"""The house: few entries, no import upwards, one seam to the laboratory, entrances that cost nothing."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwenlab.files import REPOSITORY

PACKAGE = REPOSITORY / "qwenlab"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
LAZY = [room for room in ROOMS if hasattr(importlib.import_module(f"qwenlab.{room}"), "__getattr__")]


def lint(folder):
    """(exit status, report) of import-linter for the package in `folder`."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--config", folder / "pyproject.toml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def house(tmp_path):
    """A copy of the package's code with its contracts."""
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold():
    status, report = lint(REPOSITORY)
    assert status == 0, report


@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        ("model/flow.py", "from qwenlab.training import loop", "No import runs upwards"),
        ("data/images.py", "def later():\n    from qwenlab.captions import template", "No import runs upwards"),
        ("errors.py", "import qwenlab.files", "No import runs upwards"),
        ("training/batches.py", "import qwenlab.hands.structure", "No import runs upwards"),
        ("lora/io.py", "from qwenlab.lab import world", "No import runs upwards"),
        ("cli.py", "from qwenlab.lab.judge import load_judge", "Nothing but the course uses the laboratory"),
        ("lab/micro/latents.py", "import qwenlab.lab.judge.reading", "The judge grades what it did not teach"),
        ("lab/world/canvas.py", "from qwenlab.lab.world import render", "No circle, in any room"),
        ("lora/layers.py", "from qwenlab.lora import io", "No circle, in any room"),
        ("attic/__init__.py", '"""A room that no floor names."""', "No import runs upwards"),
    ],
)
def test_a_planted_import_is_seen(house, file, planted, contract):
    path = house / "qwenlab" / file
    path.parent.mkdir(exist_ok=True)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(f"{before}\n{planted}\n", encoding="utf-8")
    status, report = lint(house)
    assert status == 1 and f"{contract} BROKEN" in report, report


def test_a_newcomer_sees_few_entries():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 22, sorted(entries)


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_it_holds(room):
    text = importlib.import_module(f"qwenlab.{room}").__doc__
    assert text and len(text) > 80, f"qwenlab/{room}/__init__.py needs a paragraph"


def test_entrances_import_no_torch():
    rooms = ", ".join(f"qwenlab.{room}" for room in ROOMS)
    code = (
        f"import sys, {rooms}; print([m for m in ('torch', 'diffusers', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("room", LAZY)
def test_entrances_hand_out_what_they_name(room):
    module = importlib.import_module(f"qwenlab.{room}")
    files = {path.stem for path in Path(module.__file__).parent.iterdir()}
    for name in module.__all__:
        assert getattr(module, name).__module__.startswith(f"qwenlab.{room}."), name
        assert name not in files, f"{name}: once that file is imported, the name means the module"


def test_most_rooms_are_lazy():
    """Not the course: on Colab its entrance is passed before lazy_loader is installed, so it hands nothing out."""
    assert {"model", "data", "lora", "training", "hands", "memory"} <= set(LAZY)
