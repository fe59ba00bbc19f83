"""How well the linter does on labelled captions: precision and recall of its rules, and every miss."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenlab.captions.linter import lint


@dataclass(frozen=True)
class Labelled:
    """A caption and the rules that it breaks. number: its line in the file, from 1."""

    number: int
    text: str
    rules: frozenset[str]


@dataclass(frozen=True)
class Miss:
    """A caption on which the linter and the label disagree."""

    number: int
    text: str
    missed: tuple[str, ...]
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"missed {rule}" for rule in self.missed] + [f"wrongly {rule}" for rule in self.wrong]
        return f"line {self.number}: {', '.join(parts)}: {self.text[:80]}"


@dataclass(frozen=True)
class Scores:
    """hits, wrong, missed: pairs of caption and rule, by rule. A caption may break several rules."""

    captions: int
    hits: dict[str, int]
    wrong: dict[str, int]
    missed: dict[str, int]
    misses: tuple[Miss, ...]

    @property
    def precision(self) -> float:
        """Share of the reported pairs that are labelled so; 1 when nothing is reported."""
        hits = sum(self.hits.values())
        return hits / max(1, hits + sum(self.wrong.values())) if hits or sum(self.wrong.values()) else 1.0

    @property
    def recall(self) -> float:
        """Share of the labelled pairs that are reported; 1 when nothing is labelled."""
        hits = sum(self.hits.values())
        return hits / (hits + sum(self.missed.values())) if hits or sum(self.missed.values()) else 1.0


def read_labelled(path: str | Path) -> list[Labelled]:
    """Read {"text": ..., "rules": [...]} lines, as in tests/captions."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [Labelled(i, record["text"], frozenset(record["rules"])) for i, record in enumerate(records, 1)]


def halves(captions: Sequence[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    """Odd lines, on which rules are developed, and even lines, which are held out."""
    return [c for c in captions if c.number % 2], [c for c in captions if not c.number % 2]


def score(captions: Iterable[Labelled]) -> Scores:
    """Lint every caption by itself and compare the rules found with the label."""
    captions = list(captions)
    hits: dict[str, int] = {}
    wrong: dict[str, int] = {}
    missed: dict[str, int] = {}
    misses = []
    for caption in captions:
        found = {finding.rule for finding in lint(caption.text)}
        for counts, rules in (
            (hits, found & caption.rules),
            (wrong, found - caption.rules),
            (missed, caption.rules - found),
        ):
            for rule in rules:
                counts[rule] = counts.get(rule, 0) + 1
        if found != caption.rules:
            lost, extra = tuple(sorted(caption.rules - found)), tuple(sorted(found - caption.rules))
            misses.append(Miss(caption.number, caption.text, lost, extra))
    return Scores(len(captions), hits, wrong, missed, tuple(misses))
