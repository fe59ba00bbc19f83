"""The arithmetic of the fusion benchmarks, and their smallest runs."""

import json

import pytest

from benchmarks.fusion import methods as fusion_methods
from benchmarks.fusion import speed as fusion_speed
from benchmarks.fusion.methods import Bench, block_weights, kind_of, only, overlap, without
from benchmarks.fusion.results import mean_score, pooled, score, study_table, versus
from qwenlab.lora.fusion import Source
from qwenlab.lora.io import carries_lora


def row(character=1, style=1, following=2):
    return {"character": character, "style": style, "following": following}


def test_half_of_a_score_is_for_both_and_half_for_what_was_asked():
    assert [score(r) for r in (row(), row(0, 1, 2), row(1, 1, 0), row(1, 0, 1))] == [1.0, 0.5, 0.5, 0.25]
    assert mean_score([row(), row(0, 0, 0)]) == 0.5


def test_rates_count_two_things_that_are_asked_for():
    rows = [row(), row(0, 1, 1), row(1, 0, 0)]
    assert pooled(rows, "following")["value"] == 0.5 and pooled(rows, "following")["total"] == 6
    assert pooled(rows, "both")["count"] == 1
    assert set(study_table(rows)) == {"character", "style", "both", "following", "score"}


def test_differences_are_paired_by_picture():
    better, worse = [row()] * 40, [row(0, 1, 2)] * 40
    gain = versus(better, worse)
    assert gain["score"] == {"value": 0.5, "low": 0.5, "high": 0.5} and gain["style"]["value"] == 0
    mixed = versus(better[:20] + worse[:20], worse)["character"]
    assert mixed["low"] < mixed["value"] == 0.5 < mixed["high"]


def test_blocks_can_be_left_out_or_alone():
    layer = "transformer_blocks.3.attn.to_q"
    for block in (2, 3):
        assert Source("x", 0.8, only(block)).weight_of(layer) == (0.8 if block == 3 else 0)
        assert Source("x", 0.8, without(block)).weight_of(layer) == (0 if block == 3 else 0.8)


def test_each_block_goes_to_the_kind_that_misses_it_more():
    def rows(lost):
        return {"all": {"value": 1.0}} | {f"without {b}": {"value": 1.0 - x} for b, x in enumerate(lost)}

    weights = block_weights({"character": rows([0, 0.5, 0, 0, 0, 0]), "style": rows([0, 0, 0, 0, 0.2, 0.2])})
    assert "transformer_blocks.1.*" in weights["style"]
    assert {"transformer_blocks.4.*", "transformer_blocks.5.*"} <= set(weights["character"])
    assert kind_of("deer") == "character" and kind_of("pop") == "style"


def test_averaging_the_factors_of_the_library_is_far_off():
    errors = overlap()
    assert len(errors) == 9 and all(0.5 < error < 1 for error in errors.values())


def test_a_part_is_drawn_once_and_the_pipeline_comes_back_clean(tmp_path, monkeypatch):
    monkeypatch.setattr(fusion_methods, "PAIRS", [("fox", "paper")])
    monkeypatch.setattr(fusion_methods, "STEPS", 2)
    bench = Bench(tmp_path)
    for method in ("svd to 8", "by block", "switch"):
        rows = bench.pairs("grid", method, (0.8, 0.8), 1, {"style": {"*": 0.5}, "character": {}})
        assert len(rows) == 1 and set(rows[0]) == {"character", "style", "following"}
        assert not carries_lora(bench.pipeline)
    assert len(list(tmp_path.glob("*.json"))) == 3
    monkeypatch.setattr(bench, "rows", lambda *arguments: pytest.fail("drawn again"))
    assert bench.pairs("grid", "switch", (0.8, 0.8), 1) == rows


def test_the_small_speed_run_writes_what_it_measured(tmp_path, monkeypatch):
    words = ["x", "--width", "96", "--blocks", "1", "--rank", "4", "--out", str(tmp_path / "s.json")]
    monkeypatch.setattr("sys.argv", words)
    fusion_speed.main()
    found = json.loads((tmp_path / "s.json").read_text())
    assert all(found[name]["difference"] < 1e-4 for name in found if " x " in name)
    assert found["files"]["layers"] == 14 and found["files"]["anonymous_gib"] > 0


def test_the_stored_result_has_every_method_chosen_on_the_grid():
    stored = json.loads(fusion_methods.OUT.read_text())
    assert set(stored["methods"]) == set(fusion_methods.METHODS)
    for name, found in stored["methods"].items():
        points = [row["weights"] for row in found["grid"]]
        assert len(points) == 9 and found["chosen"] in points
        best = max(row["score"] for row in found["grid"])
        assert found["grid"][points.index(found["chosen"])]["score"] == best
        assert ("against concat" in found) == (name != "concat")
    assert stored["block weights"] == block_weights(stored["blocks"])
