"""What a rule reports, and how safe rewrites are applied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Replace `text[start:end]` by `new`; positions count characters from 0."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Finding:
    """One fault of a caption: `text[start:end]` breaks `rule`.

    suggestion: a rewrite for a person to judge, None where only the picture can say what is right.
    edits: the same rewrite for a machine, present only where it cannot change what the caption means.
    set_edits: a rewrite for a machine that is right only when every caption of a set has it, as the number of the
    character: a LoRA answers prompts in the form of its captions (lesson 08), so a mixed set teaches two names.
    """

    start: int
    end: int
    rule: str
    reason: str
    suggestion: str | None = None
    edits: tuple[Edit, ...] = ()
    set_edits: tuple[Edit, ...] = ()

    @property
    def safe(self) -> bool:
        """True when `fix` applies the rewrite by itself."""
        return bool(self.edits)


def apply_edits(text: str, findings: Iterable[Finding]) -> tuple[str, int]:
    """Apply the safe rewrites; returns the new text and how many findings were mended.

    A finding whose edits touch what an earlier one has rewritten is left for the next round.
    """
    taken: list[Edit] = []
    touched = bytearray(len(text) + 1)
    mended = 0
    for finding in findings:
        spans = [slice(edit.start, max(edit.end, edit.start + 1)) for edit in finding.edits]
        if not spans or any(any(touched[span]) for span in spans):
            continue
        for span in spans:
            touched[span] = b"\1" * (span.stop - span.start)
        taken += finding.edits
        mended += 1
    for edit in sorted(taken, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.new + text[edit.end :]
    return text, mended
