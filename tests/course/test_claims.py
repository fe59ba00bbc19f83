"""The claims ledger: complete, well formed, and every piece of evidence exists."""

import ast
import json
import re

import pytest

from qwenlab.course.claims import SCOPES, VERDICTS, load_claims, to_html, to_markdown
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
    "id": "C1", "claim": "x", "verdict": "confirmed", "figure": "1 of 1", "scope": ["micro model"],
    "n": "3 trainings", "evidence": ["tests/a.py::test_b"], "lesson": "01",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "true"}, "not one of open"),
        ({"figure": ""}, "needs a figure"),
        ({"evidence": []}, "needs evidence"),
        ({"verdict": "open"}, "has scope, n, evidence but no verdict"),
        ({"verdict": "open", "evidence": [], "n": ""}, "has scope but no verdict"),
        ({"scope": []}, "needs scope: name some of arithmetic"),
        ({"scope": ["the moon"]}, "'the moon' is not one of arithmetic"),
        ({"scope": ["source", "source"]}, "or there twice"),
        ({"scope": "source"}, "scope is a list"),
        ({"evidence": "tests/a.py::test_b"}, "evidence is a list"),
        ({"n": None}, "needs n: say what was counted"),
        ({"n": "some trainings"}, "n counts nothing"),
        ({"extra": 1}, "exactly the fields"),
    ],
)
def test_malformed_entries_are_refused(tmp_path, change, message):
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps([ENTRY | change]))
    with pytest.raises(QwenlabError, match=message):
        load_claims(path)


def test_open_and_untestable_claims_need_no_count(tmp_path):
    path = tmp_path / "claims.yaml"
    empty = {"scope": [], "n": "", "evidence": []}
    open_, untestable = (ENTRY | empty | {"id": v, "verdict": v} for v in ("open", "not_testable_here"))
    arithmetic = ENTRY | {"scope": ["arithmetic", "source"], "n": "the whole configuration"}
    path.write_text(json.dumps([open_ | {"figure": ""}, untestable, arithmetic]))
    assert [claim.scope for claim in load_claims(path)] == [(), (), ("arithmetic", "source")]


def test_a_verdict_by_trainings_of_the_micro_model_says_so_and_how_many():
    """A claim whose sentence says "micro model" has that scope; trainings are counted, as they are the repetition."""
    for claim in CLAIMS:
        if "micro model" in claim.figure:
            assert "micro model" in claim.scope, claim.id
        if "trainings" in claim.figure or "seeds" in claim.figure:
            assert re.search(r"\d trainings x \d+", claim.n), claim.id
        if claim.scope == ("predicted",):
            assert "predicted" in claim.figure and "run" in claim.n, claim.id
    settled = [claim for claim in CLAIMS if claim.verdict != "open"]
    assert {scope for claim in settled for scope in claim.scope} <= set(SCOPES) and len(settled) >= 27


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
    for text in (to_markdown(CLAIMS), page):
        assert "Scope" in text and "Counted" in text and "629 open hands" in text and "arithmetic, predicted" in text
    assert all(verdict in VERDICTS for verdict in {claim.verdict for claim in CLAIMS})
