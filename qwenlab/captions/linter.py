"""The linter: all rules on one caption, and what only the whole set of captions can tell."""

from __future__ import annotations

import re
from collections.abc import Callable

from qwenlab.captions.contradictions import check_contradictions
from qwenlab.captions.finding import Edit, Finding, apply_edits
from qwenlab.captions.language import check_language
from qwenlab.captions.length import check_length
from qwenlab.captions.normal import normalise
from qwenlab.captions.repetitions import check_repetitions
from qwenlab.captions.subjects import check_subjects
from qwenlab.captions.template import Caption, parse_normalised
from qwenlab.captions.vague import check_vague

_SPACE = re.compile(r"[^\S\n]*")
#: The rules that look at one caption.
RULES = (
    "missing-anchor",
    "ambiguous-subject",
    "vague-word",
    "fullwidth-punctuation",
    "traditional-character",
    "mixed-language",
    "contradiction",
    "repeated-tag",
    "too-long",
    "empty-part",
)


def lint(text: str, tokenizer: Callable | None = None) -> list[Finding]:
    """The faults of one caption, in the order of their positions; none for a good caption.

    tokenizer: Qwen-Image's (`pipeline.tokenizer`), to count tokens exactly; without it their number is estimated.
    """
    return lint_caption(text, tokenizer)[1]


def lint_caption(text: str, tokenizer: Callable | None = None) -> tuple[Caption, list[Finding]]:
    """`lint`, with the parts of the caption besides."""
    norm, findings = normalise(text)
    caption = parse_normalised(text, norm)
    findings += check_subjects(caption)
    findings += check_vague(caption)
    findings += check_language(caption)
    findings += check_contradictions(caption)
    findings += check_repetitions(caption)
    findings += _check_empty(caption)
    findings += check_length(text, tokenizer)
    return caption, sorted(findings, key=lambda finding: (finding.start, finding.end, finding.rule))


def fix(text: str) -> tuple[str, int]:
    """The caption with every safe rewrite applied, and how many findings that mended.

    Safe: half width, simplified characters, a repeated or empty part taken out. Nothing that only the picture can
    decide, and no number for the character, which belongs to a whole set (`qwenlab.captions.fix_set`): a LoRA trained
    without it does not know a prompt that has it.
    """
    total = 0
    for _ in range(10):  # a rewrite may uncover another, as simplified characters show a repetition
        text, mended = apply_edits(text, lint(text))
        total += mended
        if not mended:
            break
    return text, total


def _check_empty(caption: Caption) -> list[Finding]:
    findings = []
    for index, part in enumerate(caption.parts):
        if part.kind != "empty" or caption.text[: part.start].rstrip().endswith("。"):
            continue
        said = f"{part.label}: with nothing after it" if part.label else "nothing between two commas"
        if index > 0:
            edit = Edit(caption.parts[index - 1].end, _SPACE.match(caption.text, part.end).end(), "")
        elif len(caption.parts) > 1:
            edit = Edit(0, caption.parts[1].outer, "")
        else:
            continue
        start = part.outer if part.label else max(0, min(part.start, len(caption.text) - 1))
        end = max(part.end, start + 1)
        findings.append(Finding(start, min(end, len(caption.text)), "empty-part", said, "leave it out", (edit,)))
    return findings
