"""The benchmarks of editing in miniature: two scenes, two steps; records are kept, tables come from records."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks.editing import common, extending, flow, grey_masks, redrawing, refining, turns, words
from qwenlab.lab.editing import calibrate_heads
from qwenlab.lab.editing.heads import HeadNet
from qwenlab.lab.networks import save_half
from qwenlab.lab.results import check_stamped_file
from qwenlab.lora.io import remove_lora
from qwenlab.model.pipeline import load_pipeline


@pytest.fixture(scope="module")
def micro():
    return load_pipeline("micro")


@pytest.fixture
def bench(tmp_path, monkeypatch, micro):
    """Runs a benchmark's main; the second run must take all from the records. Returns the table."""

    def run(module, *arguments):
        monkeypatch.setattr(module, "load_pipeline", lambda name: micro)
        given = [
            "--count",
            "2",
            "--steps",
            "2",
            "--records",
            str(tmp_path / "records"),
            "--out",
            str(tmp_path / "t.json"),
        ]
        monkeypatch.setattr(sys, "argv", [module.__name__, *given, *arguments])
        (tmp_path / "records").mkdir(exist_ok=True)
        module.main()
        records = sorted((tmp_path / "records").iterdir())
        before = [path.stat().st_mtime_ns for path in records]
        sys.argv.append("--table")
        module.main()
        remove_lora(micro)
        assert records and [path.stat().st_mtime_ns for path in records] == before
        return json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))

    return run


def test_redrawing_leaves_all_outside(bench):
    table = bench(redrawing)
    assert set(table) == {*redrawing.KINDS, "made_with"}
    for kind in redrawing.KINDS:
        assert table[kind]["largest difference outside"] == 0 and table[kind]["seam ratio"]["value"] > 0


def test_turns_wear_a_picture_out_and_redrawing_does_not(bench):
    table = bench(turns)
    assert table["PNG again"]["after turn 5"]["value"] < table["PNG again"]["after turn 1"]["value"] < 60
    assert table["redraw"]["after turn 5"]["value"] == turns.MOST


def test_refining_is_measured_against_the_picture_before(bench):
    table = bench(refining)
    assert table["before"]["edges"] == 1 and table["before"]["psnr"] == 100
    assert table["refined 0.35"]["psnr"] < table["VAE alone"]["psnr"]
    watch = table["left hand drawn again"]
    assert watch["largest difference outside"] == 0 < watch["mean difference inside"]


def test_the_share_of_a_word_is_chosen_on_other_scenes(bench):
    table = bench(words)
    chosen = table["development"][words.THINGS]
    assert chosen[str(table["best on development"])] == max(chosen.values())
    assert set(table["report"][words.THINGS]) >= {"share 0.5", "all patches"}


def test_overlap():
    a, b = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    assert words.overlap(a, b) == pytest.approx(1 / 3) and words.overlap(a, a) == 1


def test_flow_edit_is_screened_and_reported(bench, monkeypatch):
    first = dict(list(flow.SCREENED.items())[:1])
    monkeypatch.setitem(flow.WAYS, common.DEVELOPMENT, first)
    assert set(bench(flow, "--part", "development")["development"]) == set(first)
    assert set(bench(flow)["report"]) == set(flow.WAYS["report"])


def test_extending_keeps_old_pixels_and_a_copied_edge_has_no_seam(bench, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = HeadNet()
    monkeypatch.setattr(extending, "load_head_net", lambda: network)
    monkeypatch.setattr(extending, "WEIGHTS", common.USED)
    report = bench(extending)["report"]
    assert set(report) == set(extending.WAYS["report"])
    assert all(row["old pixels bit for bit"] == row["pictures"] == 2 for row in report.values())
    assert report[extending.NOT_DRAWN]["seam ratio"]["value"] == 0 < report["extend"]["seam ratio"]["value"]


def test_a_strip_alone_holds_no_old_pixel():
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, 80:] = 9
    alone = extending.strip_alone(image)
    assert alone.shape == image.shape and (alone == 9).all()


def test_the_picture_of_grey_masks_is_stamped(tmp_path, monkeypatch, micro):
    monkeypatch.setattr(grey_masks, "load_pipeline", lambda name: micro)
    monkeypatch.setattr(sys, "argv", ["grey_masks", "--steps", "2", "--out", str(tmp_path / "grey.webp")])
    grey_masks.main()
    assert check_stamped_file(tmp_path / "grey.webp") == []


def test_scenes_to_choose_on_and_to_report_on_are_others():
    drawn = {part: common.scenes(part, 4, common.any_scene) for part in common.PARTS}
    assert drawn["report"] == common.scenes("report", 4, common.any_scene)
    assert not set(map(str, drawn["report"])) & set(map(str, drawn["development"]))


def test_errors_of_the_counter_are_counted(tmp_path, monkeypatch):
    torch.manual_seed(0)
    path, out = tmp_path / "heads.safetensors", tmp_path / "heads.json"
    save_half(path, HeadNet().state_dict())  # sees no head anywhere
    monkeypatch.setattr(calibrate_heads, "stamp_result", lambda result, **made_with: result)
    given = ["heads", "--weights", path, "--count", 6, "--of-style", 3, "--out", out]
    monkeypatch.setattr(sys, "argv", list(map(str, given)))
    calibrate_heads.main()
    stored = json.loads(out.read_text(encoding="utf-8"))
    assert stored["renderings"]["read"] == [[2, 0, 0, 0]] * 3 and stored["renderings"]["right"] == pytest.approx(1 / 3)
