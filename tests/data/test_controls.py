"""Control pictures in data sets: read in every layout, checked before anything is encoded, kept in a repaired copy."""

import os

import pytest
from PIL import Image

from qwenlab.data.check import check_dataset, repair_dataset
from qwenlab.data.check.report import to_text
from qwenlab.data.dataset import read_dataset
from qwenlab.data.reader.controls import same_shape
from qwenlab.errors import QwenlabError
from tests.data.folders import LIMITS, csv_table, picture, write


@pytest.fixture
def folder(tmp_path):
    """Two pictures in images/, their control pictures in control/."""
    folder = tmp_path / "set"
    for name in ("images/a.png", "images/b.png", "control/a.png", "control/b.png"):
        picture(folder / name, sum(name.encode()))
    return folder


def row(name, control=None, **more):
    return (
        {"file_name": f"{name}.png", "text": "1女孩, 挥手"} | ({} if control is None else {"control": control}) | more
    )


def controls(dataset):
    return [s.control and s.control.relative_to(dataset.folder).as_posix() for s in dataset.samples]


def test_a_control_picture_in_captions(folder):
    write(folder, [row("a", "control/a.png"), row("b", ["control/b.png"], text="1女孩, 跑步")])
    dataset = read_dataset(folder)
    assert controls(dataset) == ["control/a.png", "control/b.png"]
    assert not any(sample.references for sample in dataset.samples)
    assert "2 of 2 captions have control pictures" in dataset.warnings[0] and len(dataset.warnings) == 1
    report = check_dataset(folder, LIMITS)
    assert report.ok and "2 of 2 captions have control pictures" in to_text(report)
    assert not [f for f in report.findings if f.rule in ("no-caption", "elsewhere", "grey", "blank")]


def test_rows_without_one_and_beside_a_reference(folder):
    write(folder, [row("a", ""), row("b", "control/b.png", reference="control/a.png")])
    dataset = read_dataset(folder)
    assert controls(dataset) == [None, "control/b.png"]
    assert [len(sample.beside) for sample in dataset.samples] == [0, 2]


def test_one_picture_may_stand_twice_with_two_control_pictures(folder):
    write(folder, [row("a", "control/a.png"), row("a", "control/b.png"), row("b")])
    assert len(read_dataset(folder)) == 3


def test_tables(folder):
    rows = [["file_name", "text", "control"], ["images/a.png", "红", "control/a.png"], ["images/b.png", "蓝", ""]]
    csv_table(folder / "metadata.csv", rows)
    assert controls(read_dataset(folder)) == ["control/a.png", None]


@pytest.mark.parametrize("key", ["conditioning_image", "conditioning_image_file_name"])
def test_the_layout_of_diffusers_scripts(folder, key):
    rows = [{"file_name": f"images/{n}.png", "text": "红", key: f"control/{n}.png"} for n in "ab"]
    write(folder, rows, "metadata.jsonl")
    assert controls(read_dataset(folder)) == ["control/a.png", "control/b.png"]


@pytest.mark.parametrize("key", ["blockwise_controlnet_image", "context_image"])
def test_the_layout_of_diffsynth(folder, key):
    rows = [["image", "prompt", key], *([f"images/{n}.png", f"红{n}", f"control/{n}.png"] for n in "ab")]
    csv_table(folder / "metadata.csv", rows)
    dataset = read_dataset(folder)
    assert controls(dataset) == ["control/a.png", "control/b.png"]
    assert [sample.text for sample in dataset.samples] == ["红a", "红b"]


def link_out(folder):
    picture(folder.parent / "secret.png", 7)
    os.symlink(folder.parent / "secret.png", folder / "control" / "link.png")
    return "control/link.png"


def of_size(*size):
    def make(folder):
        Image.new("RGB", size, "red").save(folder / "control" / "other.png")
        return "control/other.png"

    return make


def broken(folder):
    (folder / "control" / "broken.png").write_bytes((folder / "control" / "a.png").read_bytes()[:60])
    return "control/broken.png"


BAD = {
    "missing": (lambda folder: "control/c.png", "line 1: no control picture 'control/c.png'; add it"),
    "absolute": (lambda folder: str(folder / "control" / "a.png"), "line 1: control '.*' leads out of the folder"),
    "above": (lambda folder: "../secret.png", "line 1: control '../secret.png' leads out of the folder"),
    "link": (link_out, "line 1: control 'control/link.png' leads out of the folder"),
    "itself": (lambda folder: "a.png", "line 1: a.png is its own control picture"),
    "tiny": (of_size(15, 15), "line 1: other.png is 15 x 15 pixels; name a picture"),
    "another shape": (of_size(96, 64), "other.png is 96 x 64 pixels, another shape than the picture's 96 x 96"),
    "number": (lambda folder: 7, 'line 1: "control" must be the name of one file'),
    "several": (lambda folder: ["control/a.png", "control/b.png"], 'line 1: "control" must be the name of one file'),
    "broken": (broken, "broken.png: not a readable image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_control_picture_is_one_line_in_training_and_in_the_check(folder, name):
    make, message = BAD[name]
    write(folder, [row("a", make(folder)), row("b", "control/b.png")])
    with pytest.raises(QwenlabError, match=message) as error:
        read_dataset(folder)
    assert "\n" not in str(error.value)
    report = check_dataset(folder, LIMITS)
    errors = [finding for finding in report.findings if finding.level == "error"]
    assert len(errors) == 1 and not report.ok, errors


def test_shapes_are_one_to_within_a_pixel():
    assert same_shape((96, 96), (512, 512)) and same_shape((1328, 1023), (332, 256))
    assert not same_shape((96, 96), (96, 98)) and not same_shape((64, 128), (128, 64))


def test_a_repaired_copy_keeps_control_pictures(folder, tmp_path):
    Image.new("RGB", (96, 64), "red").save(folder / "control" / "wide.png")
    picture(folder / "images" / "c.png", 11)
    write(folder, [row("a", "control/a.png"), row("b", "gone.png"), row("c", "control/wide.png", text="1男孩")])
    repaired = repair_dataset(check_dataset(folder, LIMITS), tmp_path / "copy")
    assert repaired.samples == 1
    assert any("no control picture 'gone.png'" in change for change in repaired.changes)
    assert any("its control picture wide.png cannot be used" in change for change in repaired.changes)
    (sample,) = read_dataset(tmp_path / "copy").samples
    assert sample.control.read_bytes() == (folder / "control" / "a.png").read_bytes()
