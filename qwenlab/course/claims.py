"""The claims ledger: what the article says, what was found, and the test or notebook cell that shows it."""

import html
from dataclasses import dataclass
from pathlib import Path

import yaml

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY

LEDGER = REPOSITORY / "notebooks" / "claims.yaml"
VERDICTS = ("open", "confirmed", "corrected", "refuted", "not_testable_here")
_FIELDS = {"id", "claim", "verdict", "figure", "evidence", "lesson"}
_HEADS = ("Claim", "What is claimed", "Verdict", "What was found", "Evidence", "Lesson")


@dataclass(frozen=True)
class Claim:
    """One claim. verdict: one of VERDICTS; figure: what was found, in one sentence with its number.

    evidence: `tests/ROOM/test_x.py::test_y` or `notebooks/NN_name.ipynb#cell-id`; lesson: the number that settles it.
    """

    id: str
    claim: str
    verdict: str
    figure: str
    evidence: tuple[str, ...]
    lesson: str


def load_claims(path: str | Path = LEDGER) -> list[Claim]:
    """Read and validate the ledger, in its order.

    Raises QwenlabError for a missing file, unknown or missing fields, an unknown verdict, a repeated id, and a verdict
    that is given without a figure and (unless the claim is not testable here) without evidence.
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
        claim = Claim(
            **{name: str(entry[name] or "") for name in _FIELDS - {"evidence"}},
            evidence=tuple(entry["evidence"] or ()),
        )
        _check(claim, where)
        if any(claim.id == other.id for other in claims):
            raise QwenlabError(f"{where}: {claim.id} is listed twice")
        claims.append(claim)
    return claims


def _check(claim: Claim, where: str) -> None:
    if claim.verdict not in VERDICTS:
        raise QwenlabError(f"{where} ({claim.id}): verdict {claim.verdict!r} is not one of {', '.join(VERDICTS)}")
    if claim.verdict == "open":
        if claim.evidence:
            raise QwenlabError(f"{where} ({claim.id}): has evidence but no verdict: give the verdict")
        return
    if not claim.figure:
        raise QwenlabError(f"{where} ({claim.id}): a verdict needs a figure: say what was found")
    if not claim.evidence and claim.verdict != "not_testable_here":
        raise QwenlabError(f"{where} ({claim.id}): a verdict needs evidence: name a test or a notebook cell")


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
    return claim.id, claim.claim, verdict, claim.figure, ", ".join(claim.evidence), claim.lesson


def _summary(claims: list[Claim]) -> str:
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in VERDICTS}
    shown = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in counts.items() if count)
    return f"{len(claims)} claims: {shown}."
