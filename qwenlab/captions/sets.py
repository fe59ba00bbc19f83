"""Faults that only all captions of a data set show: another character's anchor or hair, the same caption twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from qwenlab.captions.finding import Edit, Finding, apply_edits
from qwenlab.captions.linter import lint_caption
from qwenlab.captions.template import Caption, Part, anchor_match
from qwenlab.captions.words import LIVING

#: The rules that look at all captions of a set.
SET_RULES = ("anchor-outlier", "identity-outlier", "duplicate-caption")
#: Share of the captions that makes an anchor, or a hair, the set's own; in a set of 3 or 4, all but one.
DOMINANT, DOMINANT_IN_FEW = 0.75, 0.6
#: Share of captions that may be the same as another: two of 500 pictures can look alike in words, two of 60 is a slip.
DUPLICATES = 0.01
_FEW, _SHARED_BY_ONE_FROM = 4, 10
_UNNUMBERED = ("missing-anchor", "ambiguous-subject")
_SHOWN = 5  # captions named in a note


@dataclass(frozen=True)
class SetReport:
    """findings: (index of the caption, finding) in reading order. notes: what may be intended, one line each.

    numbered: how many captions `fix_set` gives the number that they lack; all of them, or none.
    """

    findings: tuple[tuple[int, Finding], ...]
    notes: tuple[str, ...] = ()
    numbered: int = 0


def lint_set(texts: Sequence[str], tokenizer: Callable | None = None) -> SetReport:
    """The faults of each caption, and those of the set.

    A set of pictures of one character has one anchor in (nearly) every caption; a caption without it, or with an anchor
    that no other caption has, is an `anchor-outlier`. The same holds for the hair (`identity-outlier`): clothes change,
    hair is part of who it is. A set without such an anchor is one of a style; then a note counts the anchors.
    """
    captions, found = [], []
    for index, text in enumerate(texts):
        caption, findings = lint_caption(text, tokenizer)
        captions.append(caption)
        found += [(index, finding) for finding in findings]
    found, numbered, numbers = _offer_numbers(captions, found)
    dominant, notes = _dominant_anchor(captions)
    notes = numbers + notes
    if dominant:
        found = [(index, _with_the_sets_number(finding, dominant)) for index, finding in found]
        found += _anchor_outliers(captions, dominant)
        found += _hair_outliers(captions, dominant)
    repeated = _duplicates(captions)
    if len(repeated) > DUPLICATES * len(texts):
        found += repeated
    elif repeated:
        notes += (f"{len(repeated)} of {len(texts)} captions occur twice, which so many pictures may well",)
    found.sort(key=lambda item: (item[0], item[1].start, item[1].end, item[1].rule))
    return SetReport(tuple(found), notes, numbered)


def fix_set(texts: Iterable[str]) -> tuple[list[str], int]:
    """All captions with every safe rewrite applied, and how many findings that mended.

    The number of the character is added to all captions that lack it, or to none: where one of them cannot be
    rewritten, the set would be mixed.
    """
    plain, mended = _rewritten(list(texts), numbers=False)
    numbered, more = _rewritten(plain, numbers=True)
    if any(finding.set_edits or finding.rule == "missing-anchor" and finding.safe for _, finding in _lint(numbered)):
        return plain, mended  # not all came through
    return numbered, mended + more


def _lint(texts: list[str]) -> tuple[tuple[int, Finding], ...]:
    return lint_set(texts).findings


def _rewritten(texts: list[str], *, numbers: bool) -> tuple[list[str], int]:
    texts, total = list(texts), 0
    for _ in range(10):  # a rewrite may uncover another
        by_caption: dict[int, list[Finding]] = {}
        for index, finding in _lint(texts):
            if numbers or finding.rule != "missing-anchor":
                by_caption.setdefault(index, []).append(finding)
        mended = 0
        for index, findings in by_caption.items():
            texts[index], count = apply_edits(texts[index], findings)
            mended += count
        total += mended
        if not mended:
            break
    return texts, total


def _offer_numbers(
    captions: Sequence[Caption], found: list[tuple[int, Finding]]
) -> tuple[list[tuple[int, Finding]], int, tuple[str, ...]]:
    """The findings, with the rewrites that add a number made safe if then no caption of a character lacks one."""
    mendable = {index for index, finding in found if finding.set_edits}
    lacking = {index for index, finding in found if finding.rule in _UNNUMBERED and not captions[index].subjects}
    if not mendable:
        return found, 0, ()
    lack, have = ("lacks", "has") if len(mendable) == 1 else ("lack", "have")
    count = f"{len(mendable)} of {len(captions)} captions {lack} the number of the character, or {have} it later"
    if left := sorted(lacking - mendable):
        which = ", ".join(str(index + 1) for index in left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        note = f"{count}; it is added to none of them, for caption {which} would stay without: write that first"
        return found, 0, (note,)
    offered = [(i, replace(f, edits=f.set_edits, set_edits=()) if f.set_edits else f) for i, f in found]
    note = f"{count}; rewritten, all have it in front, and so must every prompt: a LoRA trained without it loses it"
    return offered, len(mendable), (note,)


def anchor_name(part: Part, *, first: bool = False) -> str:
    """Number and noun of an anchor without counter and without what follows the noun: 1个女孩站在海边 -> 1女孩."""
    match = anchor_match(part.norm, first=first)
    subject = match["subject"]
    noun = LIVING.search(subject)
    return f"{int(match['number'])}{subject[: noun.end()] if noun else subject}"


def _anchors(caption: Caption) -> list[tuple[str, Part]]:
    return [(anchor_name(part, first=part is caption.parts[0]), part) for part in caption.anchors]


def _threshold(count: int) -> float:
    return DOMINANT_IN_FEW if count <= _FEW else DOMINANT


def _dominant(counts: Counter, total: int) -> str | None:
    if total < 3 or not counts:
        return None
    value, count = counts.most_common(1)[0]
    return value if count >= _threshold(total) * total else None


def _dominant_anchor(captions: list[Caption]) -> tuple[str | None, tuple[str, ...]]:
    anchored = [{name for name, _ in _anchors(caption)} for caption in captions if caption.subjects]
    counts = Counter(name for names in anchored for name in names)
    dominant = _dominant(counts, len(anchored))
    if dominant is not None or len(counts) < 2 or len(anchored) < 5:
        return dominant, ()
    shown = ", ".join(f"{name} in {count}" for name, count in counts.most_common(4)) + ", ..." * (len(counts) > 4)
    return None, (f"no anchor leads ({shown}): right for a style, wrong for one character",)


def _with_the_sets_number(finding: Finding, dominant: str) -> Finding:
    """女孩 in a set of 2女孩 becomes 2女孩, not 1女孩."""
    suggestion, noun = finding.suggestion, dominant.lstrip("0123456789")
    if finding.rule != "missing-anchor" or not suggestion or not suggestion.startswith(f"1{noun}"):
        return finding
    if suggestion.startswith(dominant) or "..." in suggestion:
        return finding
    suggestion = suggestion.replace(f"1{noun}", dominant, 1)
    edits, set_edits = (
        tuple(replace(edit, new=edit.new.replace(f"1{noun}", dominant, 1)) for edit in some)
        for some in (finding.edits, finding.set_edits)
    )
    return replace(finding, suggestion=suggestion, edits=edits, set_edits=set_edits)


def _anchor_outliers(captions: list[Caption], dominant: str) -> list[tuple[int, Finding]]:
    total = sum(bool(caption.subjects) for caption in captions)
    counts = Counter(name for caption in captions for name in {name for name, _ in _anchors(caption)})
    found = []
    for index, caption in enumerate(captions):
        anchors = _anchors(caption)
        names = [name for name, _ in anchors]
        for position, (name, part) in enumerate(anchors):
            written = part.norm[: len(name)]
            span = (part.start, part.end)
            if name == dominant and written != name:
                match = anchor_match(part.norm, first=part is caption.parts[0])
                edit = Edit(part.start, part.start + match.start("subject"), match["number"])
                reason = f"{match['number']}{match['counter']}... is written {dominant} elsewhere in this set"
                found.append((index, Finding(*span, "anchor-outlier", reason, dominant, (edit,))))
            elif dominant not in names and position == 0:
                reason = f"{name} in {counts[name]} of {total} captions, {dominant} in {counts[dominant]}: who is it?"
                found.append((index, Finding(*span, "anchor-outlier", reason, dominant)))
            elif name != dominant and dominant in names and counts[name] == 1 and total >= _SHARED_BY_ONE_FROM:
                reason = f"{name} is in no other of {total} captions: nothing can be learnt of a character seen once"
                found.append((index, Finding(*span, "anchor-outlier", reason)))
    return found


def _hair_outliers(captions: list[Caption], dominant: str) -> list[tuple[int, Finding]]:
    hair: list[tuple[int, Part]] = []
    for index, caption in enumerate(captions):
        names = [name for name, _ in _anchors(caption)]
        if dominant in names:
            character = names.index(dominant)
            hair += [(index, p) for p in caption.parts if p.kind == "hair" and p.character == character][:1]
    counts = Counter(part.norm for _, part in hair)
    usual = _dominant(counts, len(hair))
    found = []
    for index, part in hair:
        if usual and part.norm != usual and part.norm not in usual and usual not in part.norm:
            reason = f"{dominant} has {usual} in {counts[usual]} of {len(hair)} captions: is this the same character?"
            found.append((index, Finding(part.start, part.end, "identity-outlier", reason, usual)))
    return found


def _duplicates(captions: list[Caption]) -> list[tuple[int, Finding]]:
    first: dict[str, int] = {}
    found = []
    for index, caption in enumerate(captions):
        key = "".join(caption.norm.split())
        if key and key in first:
            reason = f"the same as caption {first[key] + 1} of the set: say what differs between the two pictures"
            found.append((index, Finding(0, len(caption.text), "duplicate-caption", reason)))
        first.setdefault(key, index)
    return found
