"""The repository keeps its own rules: notebooks, dependencies, weights, and what must never be committed."""

import ast
import copy
import functools
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from qwenlab.files import REPOSITORY
from tests.house.notebook_rules import problems, setup_cell, source

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PACKAGE = sorted((REPOSITORY / "qwenlab").rglob("*.py"))
MAX_LINES, MAX_COLUMNS = 300, 120


def committed():
    """Files that git tracks or would track; every file when this is no clone."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    if listing.returncode:
        return [path for path in REPOSITORY.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [path for name in listing.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


COMMITTED = committed()
TEXTS = {
    path: path.read_text(encoding="utf-8")
    for path in COMMITTED
    if path.suffix in {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".ipynb", ".cfg", ""}
}


# Notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path):
    assert problems(json.loads(path.read_text(encoding="utf-8"))) == []


def test_set_up_cell_is_identical_everywhere_and_leaves_colabs_torch_alone():
    cells = {path.name: source(setup_cell(json.loads(path.read_text(encoding="utf-8")))) for path in NOTEBOOKS}
    assert len(set(cells.values())) <= 1, cells.keys()
    for text in cells.values():
        assert "colab" in text.lower()
        assert not re.search(r"\binstall\b.*\btorch", text), "Colab's torch must stay as it is"


def good_notebook():
    return {
        "metadata": {"kernelspec": {"name": "python3"}},
        "cells": [
            {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# T\nWords."},
            {"cell_type": "code", "id": "b", "metadata": {"tags": ["set-up"]}, "source": "%pip install x",
             "execution_count": 1, "outputs": []},
            {"cell_type": "code", "id": "c", "metadata": {}, "source": "# NBVAL_CHECK_OUTPUT\nx = 1",
             "execution_count": 2, "outputs": []},
        ],
    }  # fmt: skip


def test_a_good_notebook_has_no_problems():
    assert problems(good_notebook()) == []


ERROR = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
STDERR = {"output_type": "stream", "name": "stderr", "text": "warning"}
PICTURE = {
    "output_type": "display_data",
    "data": {"image/png": "AAAA", "text/plain": "<Figure size 640x480>"},
    "metadata": {},
}
HTML_PICTURE = {"output_type": "display_data", "data": {"text/html": "<img src='x'>"}, "metadata": {}}


@pytest.mark.parametrize(
    ("cell", "change", "message"),
    [
        (2, {"source": "# NBVAL_CHECK_OUTPUT please"}, "not a marker"),
        (2, {"source": "# nbval_check_output"}, "not a marker"),
        (2, {"source": "# NBVAL_SKIP\nx"}, "never skipped"),
        (2, {"metadata": {"tags": ["nbval-skip"]}}, "never skipped"),
        (2, {"metadata": {"tags": ["nbval-chek-output"]}}, "unknown tags"),
        (2, {"execution_count": None}, "not executed"),
        (2, {"execution_count": 5}, "not executed in order"),
        (2, {"source": ""}, "empty code cell"),
        (2, {"source": "!false"}, "passes unseen"),
        (2, {"source": "x = 1\n%pip install y"}, "passes unseen"),
        (2, {"metadata": {"execution": {"iopub.execute_input": "2026-01-01"}}}, "time stamps"),
        (2, {"source": "assert x == 1"}, "line 1: an assert without a message"),
        (2, {"source": "x = 1\n%matplotlib inline\nfor y in z:\n    assert y, ''"}, "line 4: an assert without"),
        (2, {"source": "x = 1\nassert x, None"}, "an assert without a message"),
        (2, {"outputs": [ERROR]}, "is an error"),
        (2, {"metadata": {"tags": ["raises-exception"]}}, "nothing was raised"),
        (2, {"source": "# NBVAL_RAISES_EXCEPTION\nx"}, "nothing was raised"),
        (2, {"outputs": [STDERR]}, "stderr"),
        (2, {"outputs": [PICTURE]}, "alternative text"),
        (2, {"outputs": [HTML_PICTURE]}, "alternative text"),
        (2, {"id": "b"}, "id of its own"),
        (1, {"metadata": {}}, "exactly one cell"),
        (1, {"source": "x = 1\n" * 11}, "more than 10 lines"),
        (0, {"source": "No title"}, "must hold the title"),
        (0, {"source": "# T\n![](x.png)"}, "alternative text"),
        (0, {"source": "# T\n<img src='x.png'>"}, "alternative text"),
        (0, {"attachments": {}}, "attachments"),
    ],
)
def test_each_rule_bites(cell, change, message):
    notebook = copy.deepcopy(good_notebook())
    notebook["cells"][cell].update(change)
    assert any(message in problem for problem in problems(notebook)), problems(notebook)


def test_an_assert_with_a_message_is_no_problem():
    notebook = good_notebook()
    notebook["cells"][2]["source"] = "x = 1\nassert x == 1, f'{x} is not 1: was the cell above changed?'"
    assert problems(notebook) == []


def test_rules_for_the_whole_notebook_bite():
    for change, message in (
        ({"widgets": {}}, "widgets"),
        ({"kernelspec": {"name": "my-env"}}, "kernel must be python3"),
        ({"padding": "x" * 600 * 1024}, "KiB, more than 600"),
    ):
        notebook = good_notebook()
        notebook["metadata"].update(change)
        assert any(message in problem for problem in problems(notebook))


# Package


def imports(path):
    return imported_modules(path.read_text(encoding="utf-8"))


def imported_modules(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@functools.cache
def declared(*extras):
    """Names of the dependencies and of those of `extras`, and of what they are imported as."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    names = {re.match(r"[\w-]+", line).group().lower() for line in lines}
    imported = metadata.packages_distributions().items()
    return names | {module for module, found in imported if names & {name.lower().replace("_", "-") for name in found}}


def foreign(modules):
    return {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"qwenlab", "benchmarks"}


def test_every_import_is_a_declared_dependency():
    """An extra is for the files named here alone; IPython is wherever a notebook is."""
    extras = {"tour.py": "notebooks", "page.py": "notebooks", "tables.py": "parquet"}
    for path in PACKAGE:
        known = declared(extras[path.name]) if path.name in extras else declared() | {"IPython"}
        unknown = foreign(imports(path)) - known
        assert not unknown, f"{path.relative_to(REPOSITORY)} imports {unknown}: declare it in pyproject.toml"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lessons_need_no_extra(path):
    """Colab installs the dependencies alone: its own Jupyter must stay as it is."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    setup = setup_cell({"cells": cells})
    code = [source(cell) for cell in cells if cell["cell_type"] == "code" and cell is not setup]
    modules = [module for text in code for module in imported_modules(re.sub(r"(?m)^\s*%.*$", "", text))]
    assert foreign(modules) <= declared() | {"IPython"}


def test_no_pickle():
    for path in PACKAGE:
        code = path.read_text(encoding="utf-8")
        assert not {"pickle", "dill", "joblib", "shelve"} & set(imports(path)), path
        # weights that exist as .pth alone; this reader runs no code of theirs
        if path.parts[-2:] == ("hands", "openpose.py"):
            assert code.count("torch.load(") == 1 == code.count("weights_only=True"), path
            code = code.replace("torch.load(", "").replace("weights_only=True", "")
        assert not re.search(r"\b(torch\.(load|save)|allow_pickle\s*=\s*True|weights_only)\b", code), path
    assert [path for path in COMMITTED if path.suffix in {".pt", ".pth", ".ckpt", ".pkl", ".bin", ".npy"}] == []


def test_modules_stay_short_and_lines_readable():
    for path in PACKAGE:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= MAX_LINES, f"{path.name}: {len(lines)} lines"
        long = [number for number, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS]
        assert not long, f"{path.name}: long lines {long}"


@pytest.mark.parametrize("check", ["format --check", "check"])
def test_code_and_notebooks_have_one_style(check):
    """`ruff format .` and `ruff check --fix .` mend what this finds; cells are formatted, but not linted as modules."""
    ruff = Path(sys.executable).parent / "ruff"
    paths = ["."] if check.startswith("format") else ["qwenlab", "tests", "benchmarks", "conftest.py"]
    done = subprocess.run([ruff, *check.split(), *paths], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_is_cheap():
    code = (
        "import sys, qwenlab, qwenlab.cli; print([m for m in ('torch', 'diffusers', 'nbconvert') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Environment files


def pins():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_constraints_are_exact_and_platform_neutral():
    for line in pins():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
        assert not line.startswith(("nvidia-", "triton", "cuda-")), f"{line}: torch brings its own"
    assert len({line.partition("==")[0] for line in pins()}) == len(pins())


def test_every_dependency_is_pinned():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    pinned = {line.partition("==")[0] for line in pins()}
    for line in wanted:
        assert re.match(r"[\w-]+", line).group() in pinned, line
        assert "==" not in line, f"{line}: pyproject.toml holds ranges, constraints.txt the versions"


def test_conda_environment_takes_the_same_pins():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == ["--constraint constraints.txt", "--editable .[notebooks,training,test]"]
    assert conda == ["python=3.12", "pip"], "conda gives Python alone: every version stands in constraints.txt"
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "--constraint constraints.txt --editable '.[notebooks,training,test]'" in makefile


# Repository


def test_nothing_names_a_registry_or_a_lock_file():
    hosts = re.compile(
        r"pypi\.org|pythonhosted|anaconda\.(org|com)|download\.pytorch|index-url|tuna\.tsinghua|mirrors\."
    )
    for path, text in TEXTS.items():
        if path.name not in ("test_hygiene.py", "LICENSE"):
            assert not hosts.search(text), f"{path.relative_to(REPOSITORY)}: {hosts.search(text).group()}"
    names = {path.name for path in COMMITTED}
    assert not names & {"uv.lock", "poetry.lock", "Pipfile.lock", "conda-lock.yml", "pdm.lock"}


def test_nothing_names_a_machine_of_ours():
    paths = re.compile(r"(?<![\w.~])/(work|root|home|Users)/[\w.]+")
    for path, text in TEXTS.items():
        assert not paths.search(text), f"{path.relative_to(REPOSITORY)}: {paths.search(text).group()}"


def test_weights_and_pictures_stay_small():
    heavy = {".safetensors", ".webp", ".png", ".jpg", ".jpeg", ".gif", ".npz", ".svg"}
    total = sum(path.stat().st_size for path in COMMITTED if path.suffix in heavy)
    assert total < 61 * 1024**2, f"{total / 1024**2:.1f} MiB"
    sample = sum(path.stat().st_size for path in COMMITTED if "data_sample" in path.parts)
    assert sample < 6 * 1024**2, f"data_sample: {sample / 1024**2:.1f} MiB"


def test_readme_commands_exist():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"\bmake ([\w-]+)", readme))
    assert {"lab", "test"} <= commands <= targets
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()
    for path in re.findall(r"\]\((?!https?:|#)([^)#]+)", readme):
        assert (REPOSITORY / path).exists(), f"README links to {path}, which is not there"
