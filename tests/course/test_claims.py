"""The claims ledger: complete, well formed, and every piece of evidence exists."""

import ast
import json
import re

import pytest

from qwenlab.course.claims import VERDICTS, load_claims, to_html, to_markdown
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY

CLAIMS = load_claims()


def test_ledger_is_complete_and_in_order():
    assert [claim.id for claim in CLAIMS] == [f"C{number}" for number in range(1, 33)]
    assert all(claim.claim and re.fullmatch(r"\d\d", claim.lesson) for claim in CLAIMS)


def test_evidence_exists():
    for claim in CLAIMS:
        for evidence in claim.evidence:
            assert_exists(evidence)


def assert_exists(evidence):
    """A test must be defined in its file (class methods as Class::test), a cell id must be in its notebook."""
    assert re.fullmatch(r"tests/\w+/\w+\.py(::\w+)+|notebooks/\d\d_\w+\.ipynb#[\w-]+", evidence), evidence
    if "::" in evidence:
        path, *names = evidence.split("::")
        scope = ast.parse((REPOSITORY / path).read_text(encoding="utf-8")).body
        for name in names:
            (found,) = [node for node in scope if getattr(node, "name", None) == name] or [None]
            assert found is not None, f"{evidence}: no {name} there"
            scope = found.body
        assert names[-1].startswith("test_")
    else:
        path, cell_id = evidence.split("#")
        notebook = json.loads((REPOSITORY / path).read_text(encoding="utf-8"))
        assert cell_id in [cell.get("id") for cell in notebook["cells"]], f"{evidence}: no such cell"


def test_missing_evidence_is_noticed():
    assert_exists("tests/course/test_claims.py::test_missing_evidence_is_noticed")
    with pytest.raises(AssertionError):
        assert_exists("tests/course/test_claims.py::test_that_nobody_wrote")
    with pytest.raises(AssertionError):
        assert_exists("a claim's word")


ENTRY = {
    "id": "C1", "claim": "x", "verdict": "confirmed", "figure": "1 of 1", "evidence": ["tests/a.py::test_b"],
    "lesson": "01",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "true"}, "not one of open"),
        ({"figure": ""}, "needs a figure"),
        ({"evidence": []}, "needs evidence"),
        ({"verdict": "open"}, "no verdict"),
        ({"extra": 1}, "exactly the fields"),
    ],
)
def test_malformed_entries_are_refused(tmp_path, change, message):
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps([ENTRY | change]))
    with pytest.raises(QwenlabError, match=message):
        load_claims(path)


def test_missing_broken_and_repeated(tmp_path):
    path = tmp_path / "claims.yaml"
    with pytest.raises(QwenlabError, match="no such ledger"):
        load_claims(path)
    path.write_text("- {")
    with pytest.raises(QwenlabError, match="not YAML"):
        load_claims(path)
    path.write_text(json.dumps([ENTRY, ENTRY]))
    with pytest.raises(QwenlabError, match="twice"):
        load_claims(path)


def test_tables_have_a_row_for_each_claim_and_escape():
    assert to_markdown(CLAIMS).count("\n| C") == 1 + 32
    page = to_html(CLAIMS)
    assert page.count("<tr>") == 33 and "&quot;DyLoRA&quot;" in page
    assert all(verdict in VERDICTS for verdict in {claim.verdict for claim in CLAIMS})
