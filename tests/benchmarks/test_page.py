"""benchmarks/README.md names every benchmark, and only what is there."""

import ast
import re

from qwenlab.files import REPOSITORY
from qwenlab.lab.results import STAMP_KEY

FOLDER = REPOSITORY / "benchmarks"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"python -m (benchmarks\.[\w.]+)", PAGE))


def test_every_benchmark_has_a_row():
    programs = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in FOLDER.rglob("*.py")
        if any(
            isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
            for node in ast.parse(path.read_text()).body
        )
    }
    assert programs == NAMED


def test_every_result_is_linked_and_every_link_leads_somewhere():
    links = set(re.findall(r"\]\(([^)]+)\)", PAGE))
    assert all((FOLDER / link).exists() for link in links)
    results = {
        path.relative_to(FOLDER).as_posix()
        for path in FOLDER.glob("*/*.json")
        if STAMP_KEY in path.read_text(encoding="utf-8")
    }
    assert results == {link for link in links if link.endswith(".json") and not link.startswith("..")}
