"""Lessons on Colab: what their first cell does there, and the one address that they are cloned from.

The address stands in pyproject.toml ([tool.qwenlab]); `python -m qwenlab.course.colab ADDRESS` writes it there and
into every lesson. It ships empty: a lesson must not clone from an address that nobody here owns.

The standard library is all that this module may import at its top: on Colab the rest is not installed yet.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

from qwenlab.course.skipped import explain_skipped_cells
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY, atomic_write_text

PROJECT = "pyproject.toml"
TORCH = ("torch", "torchvision", "torchaudio")  # built for each other and for Colab's driver
# "tests" is the last folder that git and unzip write: where it is missing, the repository is missing or broke off
# half-way. What lies there then is moved to /content/old, not deleted: it may be somebody's work.
SET_UP = """\
import os
import sys

if "google.colab" in sys.modules:
    if not os.path.isdir("/content/qwenlab/tests"):
        {get}
    sys.path.insert(0, "/content/qwenlab")
from qwenlab.course.colab import REPOSITORY, begin

begin()  # the cells read data_sample/ and write into runs/, so they run in the repository's folder"""
CLONE = "!cd /content; mv -T --backup=t qwenlab old 2>&-; git clone -q --depth 1 {address} qwenlab"
NO_ADDRESS = (
    'sys.exit("/content/qwenlab is not complete: unzip the repository to /content/qwenlab, or use a fork (README).")'
)
LINK = "[Open in Colab](https://colab.research.google.com/github/{owner}/blob/main/notebooks/{name})"
_ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9-]+/[A-Za-z0-9._-]+?)(?:\.git)?/?")


def begin() -> None:
    """Make the lesson's folder the repository, and on Colab install first what Colab lacks.

    A cell that needs a skipped one says so from now on. Raises QwenlabError on Colab when its PyTorch is too old or
    pip fails.
    """
    if "google.colab" in sys.modules:
        install()
    os.chdir(REPOSITORY)
    explain_skipped_cells()


def install() -> None:
    """Install this clone and its dependencies into the running interpreter; PyTorch stays as it is.

    The caller has put the clone on sys.path: the .pth file of an editable install is read at the next start only.
    """
    versions = {name: version for name in TORCH if (version := _installed(name))}
    wanted = _torch_requirement()
    if "torch" not in versions or not wanted.specifier.contains(versions["torch"], prereleases=True):
        found = f"has torch {versions['torch']}" if "torch" in versions else "has no torch"
        raise QwenlabError(f"this Colab runtime {found}, and the lessons need {wanted}: choose a newer runtime version")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "--editable", str(REPOSITORY), "--constraint", str(constraints)], capture_output=True, text=True
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reasons = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
        raise QwenlabError(f"pip could not install the lessons beside Colab's packages: {' '.join(reasons)}")
    importlib.invalidate_caches()  # packages that were not there when the interpreter started


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torch_requirement():
    from packaging.requirements import Requirement

    requirements = map(Requirement, _project()["project"]["dependencies"])
    return next(requirement for requirement in requirements if requirement.name == "torch")


def read_address() -> str:
    """The address in pyproject.toml: https://github.com/OWNER/NAME, or "" for none."""
    return _project()["tool"]["qwenlab"]["address"]


def write_address(address: str, repository: Path = REPOSITORY) -> str:
    """Write `address` into pyproject.toml and every lesson of `repository`, and return it in its plain form.

    Only the set-up cells and the title cells change. "" takes the address out. Raises QwenlabError for an address
    that is not of the form https://github.com/OWNER/NAME, which is all that Colab opens.
    """
    match = _ADDRESS.fullmatch(address)
    if address and not match:
        raise QwenlabError(f"{address}: not of the form https://github.com/OWNER/NAME, which is all that Colab opens")
    owner = match[1] if match else ""
    address = f"https://github.com/{owner}" if owner else ""
    path = repository / PROJECT
    project = path.read_text(encoding="utf-8")
    atomic_write_text(path, re.sub(r'(?m)^address = "[^"]*"', f'address = "{address}"', project))
    for path in sorted((repository / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if "set-up" in cell["metadata"].get("tags", []):
                _replace(cell, set_up_cell(address))
        title = notebook["cells"][0]
        _replace(title, _with_link("".join(title["source"]), LINK.format(owner=owner, name=path.name) if owner else ""))
        atomic_write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    return address


def set_up_cell(address: str) -> str:
    """The source of the first code cell of every lesson."""
    return SET_UP.format(get=CLONE.format(address=address) if address else NO_ADDRESS)


def _with_link(source: str, link: str) -> str:
    """A title cell with this link to Colab below its heading and no other."""
    heading, *rest = [text for text in source.split("\n\n") if "colab.research.google.com" not in text]
    return "\n\n".join([heading, *([link] if link else []), *rest])


def _replace(cell: dict, source: str) -> None:
    cell["source"] = source.splitlines(keepends=True)


def _project() -> dict:
    path = REPOSITORY / PROJECT
    if not path.is_file():
        raise QwenlabError(f"{path}: not there: run this in a clone of the repository")
    return tomllib.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m qwenlab.course.colab", description=write_address.__doc__)
    parser.add_argument("address", help='https://github.com/OWNER/NAME, or "" for none')
    try:
        write_address(parser.parse_args().address)
    except QwenlabError as error:
        sys.exit(f"qwenlab: {error}")
