"""The claims ledger: what the article says, what was found, and the test or notebook cell that shows it."""

import html
from dataclasses import dataclass
from pathlib import Path

import yaml

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY

LEDGER = REPOSITORY / "notebooks" / "claims.yaml"
VERDICTS = ("open", "confirmed", "corrected", "refuted", "not_testable_here")
#: Of what a verdict holds. Arithmetic: of anything. Source: read in published code, files or configurations. The micro
#: model stands in for the real one, and what it shows may not hold there; predicted: for the real one, not run on it.
SCOPES = ("arithmetic", "source", "micro model", "predicted", "real model")
_LISTS = {"scope", "evidence"}
_FIELDS = {"id", "claim", "verdict", "figure", "n", "lesson"} | _LISTS
_HEADS = ("Claim", "What is claimed", "Verdict", "What was found", "Scope", "Counted", "Evidence", "Lesson")
_NEEDED = {
    "scope": f"name some of {', '.join(SCOPES)}",
    "n": "say what was counted, as in 3 trainings x 256 pictures",
    "evidence": "name a test or a notebook cell",
}


@dataclass(frozen=True)
class Claim:
    """One claim. verdict: one of VERDICTS; figure: what was found, in one sentence with its number.

    scope: some of SCOPES; n: what was counted, such as "3 trainings x 256 pictures".
    evidence: `tests/ROOM/test_x.py::test_y` or `notebooks/NN_name.ipynb#cell-id`; lesson: the number that settles it.
    """

    id: str
    claim: str
    verdict: str
    figure: str
    scope: tuple[str, ...]
    n: str
    evidence: tuple[str, ...]
    lesson: str


def load_claims(path: str | Path = LEDGER) -> list[Claim]:
    """Read and validate the ledger, in its order.

    Raises QwenlabError for a missing file, unknown or missing fields, an unknown verdict or scope, a repeated id, and a
    verdict that is given without a figure and (unless the claim is not testable here) without scope, n and evidence.
    """
    path = Path(path)
    if not path.is_file():
        raise QwenlabError(f"{path}: no such ledger: run this in a clone of the repository")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise QwenlabError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    claims: list[Claim] = []
    for number, entry in enumerate(entries or [], 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or set(entry) != _FIELDS:
            raise QwenlabError(f"{where}: an entry has exactly the fields {', '.join(sorted(_FIELDS))}")
        for name in _LISTS:
            if not isinstance(entry[name] or [], list):
                raise QwenlabError(f"{where}: {name} is a list, as in {name}: [...]")
        texts = {name: str(entry[name] or "") for name in _FIELDS - _LISTS}
        claim = Claim(**texts, **{name: tuple(map(str, entry[name] or ())) for name in _LISTS})
        _check(claim, where)
        if any(claim.id == other.id for other in claims):
            raise QwenlabError(f"{where}: {claim.id} is listed twice")
        claims.append(claim)
    return claims


def _check(claim: Claim, where: str) -> None:
    if claim.verdict not in VERDICTS:
        raise QwenlabError(f"{where} ({claim.id}): verdict {claim.verdict!r} is not one of {', '.join(VERDICTS)}")
    given = [name for name in ("scope", "n", "evidence") if getattr(claim, name)]
    if claim.verdict == "open":
        if given:
            raise QwenlabError(f"{where} ({claim.id}): has {', '.join(given)} but no verdict: give the verdict")
        return
    if not claim.figure:
        raise QwenlabError(f"{where} ({claim.id}): a verdict needs a figure: say what was found")
    for name, remedy in _NEEDED.items():
        if name not in given and claim.verdict != "not_testable_here":
            raise QwenlabError(f"{where} ({claim.id}): a verdict needs {name}: {remedy}")
    for scope in claim.scope:
        if scope not in SCOPES or claim.scope.count(scope) > 1:
            raise QwenlabError(
                f"{where} ({claim.id}): scope {scope!r} is not one of {', '.join(SCOPES)}, or there twice"
            )
    if {"micro model", "real model"} & {*claim.scope} and not any(map(str.isdigit, claim.n)):
        raise QwenlabError(f"{where} ({claim.id}): n counts nothing: say how many trainings and pictures")


def to_markdown(claims: list[Claim]) -> str:
    """The ledger as a Markdown table, with a line that counts the verdicts."""
    lines = [_summary(claims), "", f"| {' | '.join(_HEADS)} |", "|" + " --- |" * len(_HEADS)]
    for row in map(_row, claims):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def to_html(claims: list[Claim]) -> str:
    """The ledger as an HTML fragment: a paragraph and a table."""
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in map(_row, claims)
    )
    return f"<p>{_summary(claims)}</p>\n<table>\n<tr>{heads}</tr>\n{rows}</table>\n"


def _row(claim: Claim) -> tuple[str, ...]:
    verdict = claim.verdict.replace("_", " ")
    scope, evidence = ", ".join(claim.scope), ", ".join(claim.evidence)
    return claim.id, claim.claim, verdict, claim.figure, scope, claim.n, evidence, claim.lesson


def _summary(claims: list[Claim]) -> str:
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS}
    shown = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.items() if count)
    return f"{len(claims)} claims: {shown}."
