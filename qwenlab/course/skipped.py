"""A skipped cell: what a lesson says when a name is missing that one of its cells makes.

The standard library is all that this module imports: the first cell of every lesson calls it.
"""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"


def explain_skipped_cells(folder: Path = NOTEBOOKS) -> None:
    """From now on a NameError in the running notebook names the cell that makes the name, if one of its lesson does.

    Does nothing outside a notebook. A name that no cell makes keeps Python's own traceback.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return

    def show(shell: Any, kind: type, error: NameError, traceback: Any, tb_offset: int | None = None) -> None:
        text = explanation(error.name, shell.user_ns["In"], folder) if error.name else None
        told = QwenlabError(text) if text else error
        shell.showtraceback((type(told), told, traceback), tb_offset=tb_offset)

    shell.set_custom_exc((NameError,), show)


def explanation(name: str, executed: list[str], folder: Path) -> str | None:
    """Which cell makes `name` in the lesson that most of the executed cells come from; None when none does."""
    ran = set(executed)
    lessons = [_code(path) for path in sorted(folder.glob("*.ipynb"))]
    cells = max(lessons, key=lambda cells: len(ran.intersection(cells)), default=[])
    for source in cells:
        if name in _made(source):
            first = next(line for line in source.splitlines() if line.strip())
            return (
                f"{name!r} is not there yet: the cell that begins with `{first}` makes it. "
                "Run that cell first (in JupyterLab: Run > Run All Above Selected Cell)"
            )
    return None


def _code(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _made(source: str) -> set[str]:
    """Names that a cell leaves behind."""
    try:
        return set(_names(ast.parse(source)))
    except SyntaxError:  # a cell with IPython's own commands
        return set()


def _names(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.alias):
            yield (child.asname or child.name).partition(".")[0]
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif not isinstance(child, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            yield from _names(child)
