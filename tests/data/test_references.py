"""References in data sets: read in every layout, checked before anything is encoded, kept in a repaired copy."""

import os

import pytest
from PIL import Image

from qwenlab.data.check import check_dataset, repair_dataset
from qwenlab.data.check.report import to_text
from qwenlab.data.dataset import read_dataset, split_dataset
from qwenlab.errors import QwenlabError
from tests.data.folders import LIMITS, csv_table, picture, write


@pytest.fixture
def folder(tmp_path):
    """Two pictures in images/, what they were before in references/."""
    folder = tmp_path / "set"
    for name in ("images/a.png", "images/b.png", "references/a.png", "references/b.png"):
        picture(folder / name, sum(name.encode()))
    return folder


def row(name, reference=None, **more):
    kept = {} if reference is None else {"reference": reference}
    return {"file_name": f"{name}.png", "text": "红色短发"} | kept | more


def names(dataset):
    return [[path.relative_to(dataset.folder).as_posix() for path in s.references] for s in dataset.samples]


def test_one_or_several_references_in_captions(folder):
    write(folder, [row("a", "references/a.png"), row("b", ["references/b.png", "a.png"])])
    dataset = read_dataset(folder)
    assert names(dataset) == [["references/a.png"], ["references/b.png", "images/a.png"]]
    assert "2 of 2 captions have references (1 to 2 each)" in dataset.warnings[0] and len(dataset.warnings) == 1
    report = check_dataset(folder, LIMITS)
    assert report.ok and "2 of 2 captions have references" in to_text(report)
    assert not [f for f in report.findings if f.rule in ("no-caption", "elsewhere")], "references need no caption"


def test_rows_without_references_change_nothing(folder):
    write(folder, [row("a"), row("b", "")])
    dataset = read_dataset(folder)
    assert names(dataset) == [[], []] and "references" not in " ".join(w for w in dataset.warnings if "captions" in w)
    assert any("outside images/" in warning for warning in dataset.warnings), "nobody names what lies in references/"


def test_tables(folder):
    rows = [["file_name", "text", "reference"], ["images/a.png", "红", "references/a.png"]]
    csv_table(folder / "metadata.csv", [*rows, ["images/b.png", "蓝", '["references/b.png", "references/a.png"]']])
    assert names(read_dataset(folder)) == [["references/a.png"], ["references/b.png", "references/a.png"]]


def test_parquet(folder):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "file_name": ["images/a.png", "images/b.png"], "text": ["红", "蓝"],
        "reference": [["references/a.png"], ["references/b.png", "references/a.png"]],
    }  # fmt: skip
    parquet.write_table(pa.table(columns), folder / "metadata.parquet")
    assert names(read_dataset(folder)) == [["references/a.png"], ["references/b.png", "references/a.png"]]


def test_the_layout_of_diffsynth(folder):
    rows = [["image", "prompt", "edit_image"], ["images/a.png", "红", "references/a.png"]]
    csv_table(folder / "metadata.csv", [*rows, ["images/b.png", "蓝", "references/b.png"]])
    dataset = read_dataset(folder)
    assert names(dataset) == [["references/a.png"], ["references/b.png"]]
    assert [sample.text for sample in dataset.samples] == ["红", "蓝"]
    (folder / "metadata.csv").unlink()
    several = {"image": "images/a.png", "prompt": "红", "edit_image": ["references/a.png", "references/b.png"]}
    write(folder, [several], "metadata.jsonl")
    assert names(read_dataset(folder)) == [["references/a.png", "references/b.png"]]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"control_path": "a"}, ["a"]),
        ({"control_path_0": "b", "control_path_1": "a"}, ["b", "a"]),
        ({"control_path_10": "a", "control_path_2": "b"}, ["b", "a"]),
    ],
)
def test_the_lines_of_musubi_tuner(folder, keys, expected):
    controls = {key: f"references/{name}.png" for key, name in keys.items()}
    write(folder, [{"image_path": "images/a.png", "caption": "红"} | controls], "metadata.jsonl")
    assert names(read_dataset(folder)) == [[f"references/{name}.png" for name in expected]]


@pytest.mark.parametrize("target", ["target/", "", "images/"])
def test_folders_of_ai_toolkit_and_musubi(tmp_path, target):
    for name in ("a", "b"):
        picture(tmp_path / f"{target}{name}.png", ord(name))
        (tmp_path / f"{target}{name}.txt").write_text("红色短发", encoding="utf-8")
        picture(tmp_path / "control" / f"{name}.jpg", ord(name) + 10)
        for number in (0, 1):
            picture(tmp_path / "control_2" / f"{name}_{number}.png", ord(name) + 20 + number)
    dataset = read_dataset(tmp_path)
    assert names(dataset) == [[f"control/{n}.jpg", f"control_2/{n}_0.png", f"control_2/{n}_1.png"] for n in "ab"]
    (tmp_path / "control" / "b.jpg").unlink()
    with pytest.raises(QwenlabError, match="b.png: no picture of this name in control/; add it"):
        read_dataset(tmp_path)
    picture(tmp_path / "control" / "b.jpg", 3)
    picture(tmp_path / "control" / "c.jpg", 4)
    assert any("control/c.jpg: no picture has this name" in warning for warning in read_dataset(tmp_path).warnings)


def test_a_set_of_control_pictures_alone_is_a_set(tmp_path):
    picture(tmp_path / "control" / "a.png", 1)
    (tmp_path / "control" / "a.txt").write_text("红色短发", encoding="utf-8")
    assert names(read_dataset(tmp_path)) == [[]]


def link_out(folder):
    picture(folder.parent / "secret.png", 7)
    os.symlink(folder.parent / "secret.png", folder / "references" / "link.png")
    return "references/link.png"


def tiny(folder):
    Image.new("RGB", (15, 40), "red").save(folder / "references" / "tiny.png")
    return "references/tiny.png"


def broken(folder):
    (folder / "references" / "broken.png").write_bytes((folder / "references" / "a.png").read_bytes()[:60])
    return "references/broken.png"


BAD = {
    "missing": (lambda folder: "references/c.png", "line 1: no reference 'references/c.png'; add it"),
    "absolute": (lambda folder: str(folder / "references" / "a.png"), "line 1: reference '.*' leads out of the folder"),
    "above": (lambda folder: "../secret.png", "line 1: reference '../secret.png' leads out of the folder"),
    "link": (link_out, "line 1: reference 'references/link.png' leads out of the folder"),
    "itself": (lambda folder: "a.png", "line 1: a.png is its own reference"),
    "twice": (lambda folder: ["references/a.png"] * 2, "line 1: names one reference twice"),
    "tiny": (tiny, "line 1: tiny.png is 15 x 40 pixels; name the picture"),
    "number": (lambda folder: 7, 'line 1: "reference" must be a file name'),
    "empty": (lambda folder: ["references/a.png", ""], 'line 1: "reference" must be a file name'),
    "many": (lambda folder: ["references/a.png"] * 17, "line 1: 17 references; at most 16 are read"),
    "broken": (broken, "broken.png: not a readable image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reference_is_one_line_in_training_and_in_the_check(folder, name):
    make, message = BAD[name]
    write(folder, [row("a", make(folder)), row("b", "references/b.png")])
    with pytest.raises(QwenlabError, match=message) as error:
        read_dataset(folder)
    assert "\n" not in str(error.value)
    report = check_dataset(folder, LIMITS)
    errors = [finding for finding in report.findings if finding.level == "error"]
    assert len(errors) == 1 and not report.ok, errors


def test_another_size_is_a_warning_unless_one_reference_has_the_pictures(folder):
    Image.new("RGB", (64, 96), "red").save(folder / "references" / "thing.png")
    write(folder, [row("a", "references/thing.png"), row("b", ["references/b.png", "references/thing.png"])])
    found = [finding for finding in check_dataset(folder, LIMITS).findings if finding.rule == "reference-size"]
    assert [finding.where for finding in found] == ["captions.jsonl, line 1"]
    assert "64 x 96 pixels, the picture has 96 x 96" in found[0].detail
    assert any("64 x 96" in warning for warning in read_dataset(folder).warnings)


def test_one_picture_may_answer_several_instructions(folder):
    rows = [row("a", "b.png"), row("a", "references/a.png"), row("b", "a.png")]
    write(folder, rows)
    assert len(read_dataset(folder)) == 3
    write(folder, [*rows, row("a", "b.png", text="蓝色")])
    with pytest.raises(QwenlabError, match="line 4: a.png has a caption on line 1 already"):
        read_dataset(folder)


def test_a_repaired_copy_keeps_references(folder, tmp_path):
    picture(folder / "references" / "c.png", 11)
    write(folder, [row("a", ["references/a.png", "references/c.png"]), row("b", "gone.png")])
    repaired = repair_dataset(check_dataset(folder, LIMITS), tmp_path / "copy")
    assert repaired.samples == 1 and any("no reference 'gone.png'" in change for change in repaired.changes)
    copy = read_dataset(tmp_path / "copy")
    assert [[p.read_bytes() for p in s.references] for s in copy.samples] == [
        [(folder / "references" / name).read_bytes() for name in ("a.png", "c.png")]
    ]
    assert check_dataset(tmp_path / "copy", LIMITS).ok


def test_a_split_keeps_references_on_one_side(tmp_path):
    lines = []
    for number in range(12):  # in pairs: each is made of the other
        picture(tmp_path / "images" / f"{number}.png", 100 + number)
        lines.append(row(number, f"{number ^ 1}.png"))
    write(tmp_path, lines)
    train, held_out = split_dataset(read_dataset(tmp_path), 0.3)
    used = [{path for s in side.samples for path in (s.path, *s.references)} for side in (train, held_out)]
    assert used[1] and not used[0] & used[1]
