"""The set-up cell, executed as on Colab: fresh interpreter, package not installed, clone beside the working folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from qwenlab.course.colab import read_address, set_up_cell, write_address
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from tests.house.notebook_rules import SETUP_LINES, setup_cell, source

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
ADDRESS = "https://github.com/you/qwenlab"
PROGRAM = """
import importlib.metadata, json, os, sys, types
sys.modules["google"], sys.modules["google.colab"] = types.ModuleType("google"), types.ModuleType("google.colab")
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(history_manager=None)
results = [shell.run_cell(open(sys.argv[1]).read()) for _ in range(int(sys.argv[2]))]
found = {"torch": importlib.metadata.version("torch"), "good": [result.success for result in results]}
if all(found["good"]):
    import qwenlab
    found |= {"file": qwenlab.__file__, "folder": os.getcwd(), "exit": shell.user_ns["REPOSITORY"].as_posix()}
print("FOUND " + json.dumps(found))
"""


class Runtime:
    """A stand-in for a Colab machine: an environment that sees this one's packages but for qwenlab, and /content.

    The address is a copy of this repository without weights: git is told to look there for what lies on GitHub.
    """

    def __init__(self, folder):
        self.content, self.origin, self.wheels = folder / "content", folder / "you" / "qwenlab", folder / "wheels"
        for path in (self.content, self.wheels):
            path.mkdir()
        (self.origin / "tests").mkdir(parents=True)  # an empty file stands for all of them
        (self.origin / "tests" / "__init__.py").touch()
        for name in ("qwenlab", "notebooks", "pyproject.toml", "README.md", "LICENSE"):
            copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
            kept = {"ignore": shutil.ignore_patterns("*.safetensors", "__pycache__")} if copy is shutil.copytree else {}
            copy(REPOSITORY / name, self.origin / name, **kept)
        venv.create(folder / "runtime", with_pip=False, symlinks=os.name == "posix")
        scheme = {"base": str(folder / "runtime"), "platbase": str(folder / "runtime")}
        self.python = os.path.join(sysconfig.get_path("scripts", "venv", scheme), "python")
        # Folders named in a .pth file are searched, but their own .pth files are not read: so qwenlab is not there.
        own = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        packages = os.path.join(sysconfig.get_path("purelib", "venv", scheme), "packages.pth")
        with open(packages, "w", encoding="utf-8") as file:
            file.write("\n".join(sorted(own)) + "\n")

    def commit(self):
        who = ["-c", "user.name=you", "-c", "user.email=you@example.org"]
        for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "x"]):
            subprocess.run(["git", *command], cwd=self.origin, check=True, capture_output=True)

    def change_project(self, old, new):
        path = self.origin / "pyproject.toml"
        changed, count = re.subn(old, new, path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert count == 1
        path.write_text(changed, encoding="utf-8")

    def run(self, cell, times=1, **variables):
        """What was found after the cell ran `times` times in a new interpreter, and all that was printed."""
        path = self.content / "cell.py"
        path.write_text(cell.replace("/content", self.content.as_posix()), encoding="utf-8")
        settings = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{self.origin.parent.as_uri()}/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/you/",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_BUILD_ISOLATION": "0",  # 0 is how pip is told this option by a variable
            "IPYTHONDIR": str(self.content / "ipython"),
        }
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [self.python, "-c", PROGRAM, str(path), str(times)],
            cwd=self.content, env=env | settings | variables, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        printed, found, result = done.stdout.partition("FOUND ")
        assert found, done.stdout + done.stderr
        return json.loads(result), printed + done.stderr

    def wheel(self, name, version, needs=""):
        """A wheel without content, as far as pip looks."""
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as file:
            lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            lines += [f"Requires-Dist: {needs}"] if needs else []
            file.writestr(f"{about}/METADATA", "\n".join(lines) + "\n")
            file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{about}/RECORD", "")


@pytest.fixture
def colab(tmp_path):
    return Runtime(tmp_path)


def test_the_cell_imports_the_clone_at_the_first_run_and_the_second(colab):
    colab.commit()
    clone = colab.content / "qwenlab"
    for times in (2, 1):  # on a new machine, then after the interpreter was started again
        found, printed = colab.run(set_up_cell(ADDRESS), times, PIP_NO_DEPS="1")
        assert found["good"] == [True] * times, printed
        assert found["file"] == str(clone / "qwenlab" / "__init__.py")
        assert found["folder"] == found["exit"] == clone.as_posix()
        assert "Traceback" not in printed


def test_an_unpacked_repository_needs_no_address(colab):
    shutil.copytree(colab.origin, colab.content / "qwenlab")
    found, printed = colab.run(set_up_cell(""), PIP_NO_DEPS="1")
    assert found["good"] == [True], printed
    assert found["folder"] == (colab.content / "qwenlab").as_posix()


def test_without_address_and_repository_the_cell_says_what_to_do(colab):
    found, printed = colab.run(set_up_cell(""))
    assert found["good"] == [False]
    assert "unzip the repository to" in printed and "Traceback" not in printed
    assert os.listdir(colab.content) and not (colab.content / "qwenlab").exists()


@pytest.mark.parametrize("inside", ["", "qwenlab-main"])
def test_a_folder_without_the_package_is_no_clone(colab, inside):
    (colab.content / "qwenlab" / inside).mkdir(parents=True)
    found, said = colab.run(set_up_cell(""))
    assert found["good"] == [False] and "unzip the repository to" in said and "ModuleNotFoundError" not in said


def test_an_empty_folder_is_cloned_into(colab):
    colab.commit()
    (colab.content / "qwenlab").mkdir()
    found, _ = colab.run(set_up_cell(ADDRESS), PIP_NO_DEPS="1")
    assert found["good"] == [True]


@pytest.mark.parametrize("left", ["nothing checked out", "half the package", "a zip that broke off"])
def test_a_clone_that_broke_off_is_made_again_and_nothing_is_lost(colab, left):
    colab.commit()
    clone = colab.content / "qwenlab"
    if left == "a zip that broke off":
        shutil.copytree(colab.origin / "qwenlab" / "course", clone / "qwenlab" / "course")
    else:
        options = ["--no-checkout"] if left == "nothing checked out" else []
        subprocess.run(["git", "clone", "-q", *options, colab.origin, clone], check=True)
        (clone / ".git" / "index.lock").touch()  # of a git that was killed
    if left == "half the package":
        for name in ("tests", "qwenlab/training", "qwenlab/errors.py"):  # git writes in alphabetical order
            (shutil.rmtree if (clone / name).is_dir() else os.unlink)(clone / name)
    (clone / "my_lora.txt").write_text("hours of work")
    found, said = colab.run(set_up_cell(""))
    assert found["good"] == [False] and "/content/qwenlab is not complete: unzip" in said.replace(
        str(colab.content), "/content"
    )
    assert "Traceback" not in said and "ModuleNotFoundError" not in said
    found, said = colab.run(set_up_cell(ADDRESS), 2, PIP_NO_DEPS="1")
    assert found["good"] == [True, True] and "Traceback" not in said, said
    assert found["folder"] == clone.as_posix() and "mv:" not in said
    assert (colab.content / "old" / "my_lora.txt").read_text() == "hours of work"


def test_too_old_a_torch_is_named_and_left_alone(colab):
    colab.change_project(r'"torch>=[\d.]+"', '"torch>=98"')
    colab.wheel("torch", "99.0")
    colab.commit()
    found, printed = colab.run(set_up_cell(ADDRESS))
    assert found["good"] == [False] and found["torch"] != "99.0"
    assert f"has torch {found['torch']}, and the lessons need torch>=98" in printed and "Traceback" not in printed


def test_pip_may_not_replace_torch(colab):
    colab.change_project(r"\ndependencies = \[.*?\n\]", '\ndependencies = ["torch>=2", "newcomer"]')
    colab.wheel("torch", "99.0")
    colab.wheel("newcomer", "1.0", needs="torch>=98")
    colab.commit()
    found, printed = colab.run(set_up_cell(ADDRESS))
    assert found["good"] == [False] and found["torch"] != "99.0"
    assert "pip could not install the lessons beside Colab's packages" in printed and "Traceback" not in printed


def test_the_cell_needs_the_standard_library_alone_before_it_installs():
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from qwenlab.course.colab import begin; print('here')"
    command = [sys.executable, "-I", "-S", "-c", code]  # -S: site-packages are not searched
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "here\n"


# The one address


def test_every_lesson_agrees_with_the_address_and_fits():
    address = read_address()
    for text in (set_up_cell(""), set_up_cell(ADDRESS)):
        assert len(text.splitlines()) <= SETUP_LINES and max(map(len, text.splitlines())) <= 120
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert source(setup_cell(notebook)) == set_up_cell(address), path.name
        links = re.findall(r"colab\.research\.google\.com/github/([^)]*)", source(notebook["cells"][0]))
        owner = address.removeprefix("https://github.com/")
        assert links == ([f"{owner}/blob/main/notebooks/{path.name}"] if address else []), path.name


def test_an_address_is_written_everywhere_and_taken_out_again(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for path in [REPOSITORY / "pyproject.toml", *NOTEBOOKS[:2]]:
        target = tmp_path / path.relative_to(REPOSITORY)
        shutil.copy(path, target)
    write_address("", tmp_path)
    plain = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert write_address("https://github.com/you/qwenlab.git", tmp_path) == ADDRESS
    assert f'\naddress = "{ADDRESS}"\n' in (tmp_path / "pyproject.toml").read_text(encoding="utf-8")
    for path in NOTEBOOKS[:2]:
        cells = json.loads((tmp_path / "notebooks" / path.name).read_text(encoding="utf-8"))["cells"]
        before = json.loads(plain[tmp_path / "notebooks" / path.name])["cells"]
        target = f"https://colab.research.google.com/github/you/qwenlab/blob/main/notebooks/{path.name}"
        assert f"\n\n[Open in Colab]({target})\n\n" in source(cells[0])
        assert f"git clone -q --depth 1 {ADDRESS} qwenlab" in source(setup_cell({"cells": cells}))
        changed = [cell["id"] for cell, old in zip(cells, before, strict=True) if cell != old]
        assert changed == ["title", "set-up"]
    write_address(ADDRESS, tmp_path)  # a second time: one link, not two
    write_address("", tmp_path)
    assert {path: path.read_bytes() for path in plain} == plain


@pytest.mark.parametrize(
    "address",
    ["https://example.org/you/qwenlab", "you/qwenlab", "https://github.com/you", "https://github.com/you/x; rm -rf ~"],
)
def test_another_kind_of_address_is_refused_before_anything_is_written(tmp_path, address):
    with pytest.raises(QwenlabError, match="https://github.com/OWNER/NAME"):
        write_address(address, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "qwenlab.course.colab", address], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
