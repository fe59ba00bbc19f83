"""The comparison of ways of editing in miniature: one kind, two edits, two steps; units are kept."""

import json
import sys

import numpy as np
import pytest

from benchmarks.editing import frontier, results
from qwenlab.files import REPOSITORY
from qwenlab.lab.agreement import Corrected
from qwenlab.lab.editing.pairs import held_out_edits


def test_units_are_kept_and_the_table_is_theirs(tmp_path, monkeypatch):
    for module in (frontier, results):
        monkeypatch.setattr(module, "KINDS", ("feet",))
    monkeypatch.setattr(frontier, "STEPS", 2)
    monkeypatch.setattr(frontier, "COUNT", 2)
    records, out = tmp_path / "records", tmp_path / "frontier.json"
    records.mkdir()
    monkeypatch.setattr(frontier.Bench.__init__, "__defaults__", (records,))
    monkeypatch.setattr(frontier, "OUT", out)
    lora = REPOSITORY / "lora_library/edit.safetensors"
    monkeypatch.setattr(sys, "argv", ["frontier", "--loras", str(lora), str(lora), "--count", "2"])
    frontier.main()
    before = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    frontier.main()
    assert before == {path: path.stat().st_mtime_ns for path in records.iterdir()}, "nothing is drawn twice"
    table = json.loads(out.read_text(encoding="utf-8"))
    assert set(table["ways"]) == set(frontier.WAYS) == set(table["seconds"])
    exact = table["ways"]["redraw, exact mask"]["all"]
    assert exact["outside"]["value"] == 100 > table["ways"]["img2img 0.8"]["all"]["outside"]["value"]
    assert exact["success"]["trainings"] == 1 and table["ways"]["edit LoRA"]["feet"]["success"]["trainings"] == 2
    assert table["judge"]["feet"]["right"] == table["judge"]["feet"]["wrong"] == 8


def test_a_box_holds_the_mask_and_a_shift_is_seen():
    (edit,) = held_out_edits("feet", 1, seed=frontier.SCENES)
    exact, box = (np.asarray(frontier.mask_of(edit, box)) for box in (False, True))
    assert exact.any() and (box >= exact).all() and box.sum() > exact.sum()
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    everywhere = np.ones((64, 64), bool)
    assert frontier.shift(np.roll(picture, (3, -4), (0, 1)), picture, everywhere) == pytest.approx(5, abs=0.2)
    assert frontier.shift(picture, picture, everywhere) == 0


def test_corrected_shares_of_kinds_are_averaged():
    parts = [Corrected(0.8, 0.7, 0.9, False), Corrected(0.6, 0.4, 0.7, True)]
    mean = results.over_kinds(parts)
    assert mean.value == pytest.approx(0.7) and mean.alarm
    assert mean.low == pytest.approx(0.7 - np.hypot(0.1, 0.2) / 2) and mean.high == pytest.approx(
        0.7 + np.hypot(0.1, 0.1) / 2
    )


def test_styles_are_taken_apart():
    of_way = {"feet": {"success": np.array([[1.0, 0, 1, 1, 0]]), "outside": np.array([[20.0, 22, 30, 32, 9]])}}
    found = results.by_style(of_way, {"feet": [30, 32, 40, 42, 9]}, {"feet": ["ink", "ink", "flat", "flat", "anime"]})
    assert set(found) == {"ink", "flat"}, "one edit has no interval"
    assert found["ink"]["edits"] == 2 and found["ink"]["outside"] == 21 and found["ink"]["ceiling"] == 31
    assert found["flat"]["success"]["value"] == 1 and found["ink"]["success"]["value"] == 0.5
