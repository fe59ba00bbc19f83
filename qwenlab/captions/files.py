"""Captions files and data sets, linted and mended as a whole."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwenlab.captions.finding import Finding
from qwenlab.captions.lines import CaptionLine, captions_file, read_bytes, read_captions, replace_captions
from qwenlab.captions.linter import fix, lint
from qwenlab.captions.sets import SetReport, fix_set, lint_set
from qwenlab.data.findings import plural
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes

if TYPE_CHECKING:
    from qwenlab.data.reader import Reading

_SHOWN = 80  # characters of a suggestion that are printed
_RULES_SHOWN = 4  # rules named in a summary


@dataclass(frozen=True)
class FileReport:
    """The captions of a file or data set and what the linter says of them. mended: findings that `fix_file` rewrote.

    numbered: captions that got the number of their character from it, all that lacked it.
    """

    path: Path
    captions: tuple[CaptionLine, ...]
    report: SetReport
    mended: int = 0
    numbered: int = 0

    def lines(self) -> list[str]:
        """One line a finding: file:line:column: rule: reason -> suggestion."""
        return [self._line(self.captions[index], finding) for index, finding in self.report.findings]

    def _line(self, caption: CaptionLine, finding: Finding) -> str:
        file = caption.where or f"{self.path}:{caption.number}"
        arrow = f" -> {_short(finding.suggestion)}" if finding.suggestion else ""
        return _printable(f"{file}:{caption.column(finding.start)}: {finding.rule}: {finding.reason}{arrow}")

    def summary(self) -> str:
        """How many captions, findings and rewrites, and the notes on the set."""
        found = len(self.report.findings)
        findings = plural(found, "finding") if found else "no findings"
        say = f"{self.path}: {plural(len(self.captions), 'caption')}, {findings}"
        if self.mended:
            say += f" left after {plural(self.mended, 'safe rewrite')}"
        notes = self.report.notes
        if self.numbered:
            notes = (f"{plural(self.numbered, 'caption')} got the number in front, and so must every prompt", *notes)
        return "\n".join([say, *(f"note: {note}" for note in notes)])


def lint_file(path: str | Path) -> FileReport:
    """Lint all captions of a file, or of a data set's folder, as one set; raises what `read_captions` raises.

    A .txt file with a single caption is a prompt and no set.
    """
    path = captions_file(path)
    captions = read_captions(path)
    texts = [caption.text for caption in captions]
    if _is_prompt(path, texts):
        report = SetReport(tuple((0, finding) for finding in lint(texts[0])))
    else:
        report = lint_set(texts)
    return FileReport(path, tuple(captions), report)


def _is_prompt(path: Path, texts: Sequence[str]) -> bool:
    return path.suffix.lower() == ".txt" and len(texts) == 1


def fix_file(path: str | Path, out: str | Path) -> FileReport:
    """Write the captions with all safe rewrites to a new file, and report what is left in it.

    Everything but the captions stays as it is, byte for byte; the original is never touched. Raises QwenlabError when
    `out` exists, is of another kind than `path` or cannot be written, and what `read_captions` raises.
    """
    path, out = Path(path), Path(out)
    if path.is_dir():
        what = f"give {captions_file(path)}" if captions_file(path) != path else "gather them: check-dataset --fix"
        raise QwenlabError(f"--fix: {path} is a folder, and one captions file is rewritten; {what}")
    if out.exists() or out.is_symlink():
        raise QwenlabError(f"--fix {out}: exists already and is not overwritten; give a new name")
    if out.suffix.lower() != path.suffix.lower():
        raise QwenlabError(f"--fix {out}: not of the same kind as {path.name}; end the name in {path.suffix}")
    data, captions = read_bytes(path)
    texts = [caption.text for caption in captions]
    if _is_prompt(path, texts):
        text, mended = fix(texts[0])
        new, numbered = [text], 0
    else:
        numbered = lint_set(texts).numbered
        new, mended = fix_set(texts)
    try:
        atomic_write_bytes(out, replace_captions(data, captions, new))
    except OSError as error:
        raise QwenlabError(
            f"--fix {out}: cannot be written ({error.strerror}); give a file in another folder"
        ) from error
    left = lint_file(out)
    return FileReport(out, left.captions, left.report, mended, 0 if left.report.numbered else numbered)


def summarise(reading: Reading) -> str:
    """One line on what the linter says of a data set's captions, with the command that shows it."""
    report = lint_set([record.text for record in reading.records])
    found, total = report.findings, len(reading.records)
    if not found:
        return f"Captions: the linter finds nothing in {total}" if total else ""
    counts = Counter(finding.rule for _, finding in found).most_common()
    rules = ", ".join(f"{rule} {count}" for rule, count in counts[:_RULES_SHOWN])
    rules += f" and {plural(len(counts) - _RULES_SHOWN, 'rule')} more" if len(counts) > _RULES_SHOWN else ""
    captions = len({index for index, _ in found})
    errors = any(finding.level == "error" for finding in reading.findings)
    command = f"qwenlab lint-captions {shlex.quote(str(reading.layout.folder))}"
    show = f"once the errors above are mended, show them with: {command}" if errors else f"show them with: {command}"
    return f"Captions: {plural(len(found), 'linter finding')} in {captions} of {total} ({rules}); {show}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
