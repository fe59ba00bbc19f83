"""What the reader does not read is named, and what it refuses has its cause; names are guessed only where one fits."""

import os
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from qwenlab.captions.editor import CaptionEdits
from qwenlab.cli import app
from qwenlab.data.check import check_dataset, repair_dataset
from qwenlab.data.dataset import read_dataset
from qwenlab.data.reader.names import fold
from qwenlab.errors import QwenlabError
from tests.data.folders import LIMITS, TEXTS, jsonl, pictures, text, usual

# What is not read is named


def warned(folder):
    report = check_dataset(folder, LIMITS)
    return {(f.rule, f.where): f.detail for f in report.findings}, read_dataset(folder).warnings


def test_formats_that_are_not_read_are_counted_and_named(tmp_path):
    usual(tmp_path)
    names = ["x.heic", "y.HEIF", "p.psd", "q.jxl", "s.svg", "r.CR2", "v.mp4", "z.zip"]
    for name in names:
        text(tmp_path / "images" / name, "x")
    found, warnings = warned(tmp_path)
    assert {where for rule, where in found if rule == "other-format"} == {f"images/{name}" for name in names}
    assert found["other-format", "images/q.jxl"] == "JPEG XL"
    (line,) = warnings
    assert "picture format that is not read (8): " in line and all(name in line for name in names)


@pytest.mark.parametrize("suffix, kind", [(".gif", "GIF"), (".tiff", "TIFF"), (".avif", "AVIF"), (".jfif", "JPEG")])
def test_formats_that_are_read_count_with_and_without_a_caption(tmp_path, suffix, kind):
    usual(tmp_path)
    for name in ("with", "without"):
        Image.effect_noise((96, 96), len(name)).convert("RGB").save(tmp_path / "images" / f"{name}{suffix}", kind)
    jsonl(tmp_path / "captions.jsonl", {"a.png": TEXTS[0], "b.png": TEXTS[1], f"with{suffix}": TEXTS[2]})
    found, warnings = warned(tmp_path)
    assert len(read_dataset(tmp_path)) == 3 and ("no-caption", f"without{suffix}") in found
    assert any(f"without{suffix}: no caption" in line for line in warnings)


def test_captions_and_pictures_that_another_file_outranks_are_named(tmp_path):
    usual(tmp_path)
    jsonl(tmp_path / "metadata.jsonl", {"a.png": TEXTS[3]})
    jsonl(tmp_path / "images/metadata.jsonl", {"a.png": TEXTS[3]})
    text(tmp_path / "images/a.txt", TEXTS[4])
    pictures(tmp_path, "more/c.png", "more/d.png", "e.png", "masks/a.png")
    found, warnings = warned(tmp_path)
    assert found["unread-captions", "metadata.jsonl"] == "captions.jsonl is read instead"
    assert ("unread-captions", "images/metadata.jsonl") in found and ("unread-captions", "images/a.txt") in found
    assert found["elsewhere", "more/"] == "2 pictures outside images/" and ("elsewhere", "e.png") in found
    assert not any("masks" in where for _, where in found)
    assert (
        sum("is read instead" in line for line in warnings) == 3 and sum("outside images/" in w for w in warnings) == 2
    )


def test_what_has_no_picture_or_two_captions(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    for name, content in {"a.txt": TEXTS[0], "a.caption": TEXTS[0], "b.txt": TEXTS[1], "README.txt": "hello"}.items():
        text(tmp_path / name, content)
    found, warnings = warned(tmp_path)
    assert ("lone-caption", "README.txt") in found and ("no-caption", "c.png") in found and len(warnings) == 3
    text(tmp_path / "b.caption", TEXTS[2])
    with pytest.raises(QwenlabError, match="b.caption: b.png has another caption in b.txt already"):
        read_dataset(tmp_path)


def test_masks_beside_images_are_no_pictures_to_learn_from(tmp_path):
    for write in (usual, lambda folder: (folder / "captions.jsonl").rename(folder / "metadata.jsonl")):
        write(tmp_path)
        pictures(tmp_path, "masks/a.png")
        found, _ = warned(tmp_path)
        assert found == {} and len(read_dataset(tmp_path)) == 2


def test_a_link_from_images_to_another_folder_inside(tmp_path):
    usual(tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    (tmp_path / "images").symlink_to("pictures")
    found, warnings = warned(tmp_path)
    assert found == {} and warnings == () and len(read_dataset(tmp_path)) == 2


@pytest.mark.parametrize("name", [b"\xff\xfe.png", b"a\nb.png", b"a\x1b[31m.png", b" .png", b"-rf.png"])
def test_names_that_no_terminal_should_see(tmp_path, name):
    folder, path = tmp_path / "in", tmp_path / "in" / os.fsdecode(name)
    usual(folder)
    pictures(folder, "images/c.png")
    (folder / "images/c.png").rename(path)
    (folder / "captions.jsonl").unlink()
    path.with_suffix(".txt").write_text(TEXTS[0], encoding="utf-8")
    assert [(s.path, s.text) for s in read_dataset(folder).samples] == [(path, TEXTS[0])]
    result = CliRunner().invoke(app, ["check-dataset", str(folder), "--min-side", "64", "--fix", str(tmp_path / "out")])
    assert result.exit_code == 0 and all(line.isprintable() for line in result.output.splitlines())
    assert len(read_dataset(tmp_path / "out")) == 1
    path.with_suffix(".txt").write_text("", encoding="utf-8")
    assert refused(folder).isprintable()


# What is refused, with the cause


def refused(folder):
    with pytest.raises(QwenlabError) as caught:
        read_dataset(folder)
    assert "\n" not in str(caught.value) and not check_dataset(folder, LIMITS).ok
    return str(caught.value)


@pytest.mark.parametrize(
    "name, content, cause",
    [
        ("captions.json", "[]", "captions.json is not read: rename or save it as captions.jsonl"),
        ("list.txt", "a.png: 1", "list.txt has the name of no picture"),
        ("data/train-00000-of-00001.parquet", "PAR1", "Parquet files are here .*save their pictures as files"),
        ("model_index.json", "{}", "the folder holds a model, no data set"),
        ("pytorch_lora_weights.safetensors", "x", "the folder holds weights"),
        ("README.md", "x", "2 pictures without captions"),
    ],
)
def test_a_folder_without_captions_is_told_what_it_holds(tmp_path, name, content, cause):
    pictures(tmp_path, "images/a.png", "images/b.png")
    text(tmp_path / name, content)
    with pytest.raises(QwenlabError, match=f"captions.jsonl: no such file; .*{cause}"):
        read_dataset(tmp_path)
    assert not check_dataset(tmp_path, LIMITS).ok


@pytest.mark.parametrize(
    "content, cause",
    [
        ("file_name,text\na.png,1女孩, 长发, 红裙\n", "line 2: 4 values for 2 columns: put a caption with commas into"),
        ("image,text\na.png,1女孩\n", 'no column "file_name" in the first line .*image, text'),
        ("file_name,text,text\na.png,1,2\n", 'the column "text" stands twice'),
        ("file_name，text\na.png，1女孩\n", "full-width commas ， between the columns"),
        ("file_name,caption\na.png,1女孩\n", 'line 2: needs "text": the caption of a.png stands under "caption"'),
        ("file_name,text\na.png\n", 'line 2: needs "text" with a caption for a.png'),
        ("file_name,text\na.png,\n", 'line 2: needs "text": the caption of a.png is empty'),
    ],
)
def test_tables_that_would_lose_captions(tmp_path, content, cause):
    pictures(tmp_path, "a.png")
    text(tmp_path / "metadata.csv", content)
    with pytest.raises(QwenlabError, match=cause):
        read_dataset(tmp_path)
    assert not check_dataset(tmp_path, LIMITS).ok


@pytest.mark.parametrize("name", ["2024_holiday/a.png", "a.png", "10_/a.png", "fox/a.png"])
def test_only_kohyas_folders_give_captions(tmp_path, name):
    folder = tmp_path / "10_fox"
    pictures(folder, name)
    assert "captions.jsonl: no such file; 1 picture without captions" in refused(folder)


def test_parquet_without_its_package_and_broken(tmp_path, monkeypatch):
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 no table PAR1")
    assert "metadata.parquet: no Parquet table" in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "Parquet needs the package pyarrow: pip install pyarrow" in refused(tmp_path)


@pytest.mark.parametrize(
    "line, cause",
    [
        ("{“file_name”: “b.png”, “text”: “1女孩”}", "quotes are curly"),
        ('{"file_name"： "b.png", "text"： "1女孩"}', "a full-width colon ："),
        ('{"file_name": "b.png"，"text": "1女孩"}', "a full-width comma ，"),
        ("{'file_name': 'b.png', 'text': '1女孩'}", "single quotes"),
        ('{"file_name": "b.png", "text": "1女孩",}', "a comma after the last value"),
        ('{"file_name": "b.png", "text": "1女孩"},', "a comma after the object"),
        ('{"file_name": "b.png", "text": "1"}{"file_name": "b.png", "text": "2"}', "two objects on one line"),
        ('{"file_name": "b.png", "text": "1女孩, "红"裙"}', "a quote inside of a text"),
        ('{"file_name": "sub\\b.png\\c", "text": "1女孩"}', "a backslash inside of a text"),
        ('{"file_name": "b.png", "text": "1女孩\t红裙"}', "a tab, line break or other control character"),
        ('{"file_name": "b.png", "text": "1女', "the line was cut"),
        ('{\n"file_name": "b.png",\n"text": "1女孩"\n}', "an object over several lines"),
        ("b.png：1女孩, 红裙", "a file name and a caption with a mark such as : or ： between them"),
        ('{"file_name": "b.png", "text": None}', "None, True and False are Python's"),
        ('[{"file_name": "b.png", "text": "1女孩"}]', "this is a list"),
        ('{"file_name": "b.png", "text": "1女孩", "text": "1男孩"}', '"text" stands twice'),
        ('{"image": "b.png", "text": "1女孩"}', 'needs "file_name": rename "image" to it'),
        ('{"file_name": "b.png", "caption": "1", "prompt": "2"}', '"caption" and "prompt" are here'),
        ('{"file_name": "images\\new.png", "text": "1女孩"}', r"a backslash is written \\\\ in JSON"),
        ('{"file_name": "images\\b\u200b.png", "text": "1女孩"}', r"a backslash is written \\\\ in JSON"),
        ('{"file_name": "b\u200b.png", "text": "1女孩"}', r"probably b.png: the name has U\+200B, which nobody sees"),
        ('{"file_name": "\ufeffb.png", "text": "1女孩"}', r"probably b.png: the name has U\+FEFF"),
        ('{"file_name": "c\u202e\u00ad.png", "text": "1女孩"}', r"the name has U\+202E, U\+00AD, which nobody sees"),
        ('{"file_name": "c\u00a0d.png", "text": "1女孩"}', r"the name has U\+00A0"),
        ('{"file_name": "b.png ", "text": "1女孩"}', "no image 'images/b.png ', probably b.png"),
        ('{"file_name": "B.PNG", "text": "1女孩"}', "no image 'images/B.PNG', probably b.png"),
        ('{"file_name": "1.png", "text": "1女孩"}', r"2 pictures are called so \(x/1.png, y/1.png\)"),
    ],
)
def test_lines_are_refused_with_their_cause(tmp_path, line, cause):
    pictures(tmp_path, "images/a.png", "images/b.png", "images/x/1.png", "images/y/1.png")
    jsonl(tmp_path / "captions.jsonl", {"a.png": TEXTS[0]})
    with open(tmp_path / "captions.jsonl", "a", encoding="utf-8") as file:
        file.write("\n" + line)
    with pytest.raises(QwenlabError, match=f"captions.jsonl, line 2: .*{cause}"):
        read_dataset(tmp_path)
    assert not check_dataset(tmp_path, LIMITS).ok


@pytest.mark.parametrize("data", [b"SQLite format 3\0", b"PK\x03\x04", b"\x80\x04\x95\0", b"\x1f\x8b\x08"])
def test_other_files_in_place_of_captions(tmp_path, data):
    pictures(tmp_path, "images/a.png")
    (tmp_path / "captions.jsonl").write_bytes(data + bytes(100))
    assert "captions.jsonl: is a" in refused(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    pictures(tmp_path, "a.png")
    with pytest.raises(QwenlabError, match="a.png: is a PNG picture, no dataset folder"):
        read_dataset(tmp_path / "a.png")


# Guesses


def test_a_name_is_guessed_only_where_one_picture_can_be_meant(tmp_path):
    folder = tmp_path / "data"
    pictures(folder, "images/a/1.png", "images/b/2.png", "images/c/2.png", "images/d.png")
    names = {"A/1.PNG": TEXTS[0], "gone/d.png": TEXTS[1], "b/1.png": TEXTS[2], "2.png": TEXTS[3], "a/1.jpeg": TEXTS[4]}
    jsonl(folder / "captions.jsonl", names)
    report = check_dataset(folder, LIMITS)
    guesses = {record.name: record.guess and report.reading.name_of(record.guess) for record in report.records}
    assert guesses == {"A/1.PNG": "a/1.png", "gone/d.png": "d.png", "b/1.png": None, "2.png": None, "a/1.jpeg": None}
    changes = repair_dataset(report, tmp_path / "out").changes
    assert "captions.jsonl, line 1: A/1.PNG is taken for a/1.png" in changes
    assert "captions.jsonl, line 3: left out, no picture b/1.png" in changes


def test_folding():
    assert fold(" Ａ\\b%20c.PNG ") == "a/b c.png" and fold("./a//b") == "a/b"


def test_the_editor_says_where_captions_are_that_it_does_not_edit(tmp_path):
    pictures(tmp_path, "a.png")
    text(tmp_path / "a.txt", TEXTS[0])
    with pytest.raises(
        QwenlabError, match="captions beside their pictures are not edited here; .*check-dataset .* --fix"
    ):
        CaptionEdits(tmp_path)
