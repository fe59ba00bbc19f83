"""Labels of edits by eye in miniature: sheets are drawn, answers are scored, the record keeps no picture."""

import json
import sys

import numpy as np

from benchmarks.editing import by_eye, frontier
from qwenlab.lab.editing.pairs import held_out_edits
from qwenlab.lab.labels import COLUMNS


def test_sheets_are_drawn_and_answers_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(by_eye, "KINDS", ("feet",))
    monkeypatch.setattr(by_eye, "EACH", 1)
    monkeypatch.setattr(by_eye, "DECOYS", 1)
    monkeypatch.setattr(by_eye, "OUT", tmp_path / "by_eye.json")
    monkeypatch.setattr(frontier, "STEPS", 2)
    folder = tmp_path / "eye"
    monkeypatch.setattr(sys, "argv", ["by_eye", "--sheets", str(folder)])
    by_eye.main()
    assert len(list((folder / "sheets").glob("*.png"))) == 2, "a sheet for each pass"
    key = json.loads((folder / "key.json").read_text(encoding="utf-8"))
    assert sorted(row["arm"] for row in key["squares"]) == sorted([*by_eye.ARMS, "decoy", "decoy"])
    count = len(key["squares"])
    assert count <= COLUMNS
    for number, order in enumerate(key["orders"], 1):
        words = ["wrong" if key["squares"][index]["truth"] == "wrong" else "right" for index in order]
        (folder / f"sheets/pass-{number}.txt").write_text(f"0: {' '.join(words)}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["by_eye", "--score", str(folder)])
    by_eye.main()
    result = json.loads((tmp_path / "by_eye.json").read_text(encoding="utf-8"))
    assert all(seen[truth]["value"] == 1 for seen in result["decoys"] for truth in ("right", "wrong"))
    assert set(result["arms"]) == set(by_eye.ARMS) and len(result["labels"]) == count


def test_a_square_says_what_was_asked_for():
    edits = held_out_edits("hair_color", 2, seed=frontier.SCENES)
    picture = np.full((128, 128, 3), 200, np.uint8)
    first, second = (np.asarray(by_eye.square(picture, edit)) for edit in edits)
    assert edits[0].target.hair_color != edits[1].target.hair_color, "two values, or this test shows nothing"
    strip = by_eye.STRIP
    assert (first[strip:] == second[strip:]).all() and (first[:strip] != second[:strip]).any()
