"""Precision and recall of the caption linter on the labelled captions: `python -m benchmarks.captions.rates`.

Prints a table by rule for the development half, the held-out half and the later batches, and every miss.
"""

from __future__ import annotations

from qwenlab.captions import RULES
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.caption_scores import Scores, halves, read_labelled, score
from qwenlab.lab.results import stamp_result

DATA = REPOSITORY / "tests" / "captions"


def figures(scores: Scores) -> dict:
    """The numbers of a table as plain data."""
    rules = {rule: {name: getattr(scores, name).get(rule, 0) for name in ("hits", "wrong", "missed")} for rule in RULES}
    return {
        "captions": scores.captions,
        "precision": round(scores.precision, 4),
        "recall": round(scores.recall, 4),
        "rules": rules,
        "misses": [str(miss) for miss in scores.misses],
    }


def main() -> None:
    development, held_out = halves(read_labelled(DATA / "captions_labelled.jsonl"))
    later = read_labelled(DATA / "captions_later.jsonl")
    result = {}
    for name, captions in (("development half", development), ("held-out half", held_out), ("later batches", later)):
        result[name] = table = figures(score(captions))
        print(f"{name}: {table['captions']} captions, precision {table['precision']:.1%}, recall {table['recall']:.1%}")
        for rule, counts in table["rules"].items():
            print(f"  {rule:22} hits {counts['hits']:3}  wrong {counts['wrong']:2}  missed {counts['missed']:2}")
        for miss in table["misses"]:
            print(f"  {miss}")
    out = REPOSITORY / "benchmarks/captions/rates.json"
    atomic_write_json(out, stamp_result(result, config={"data": "tests/captions"}))
    print(f"{out.relative_to(REPOSITORY)}: written")


if __name__ == "__main__":
    main()
