"""Layouts as people have them: each is read by training and check alike, and said in one line."""

import json
import unicodedata

import pytest

from qwenlab.captions import lint_file
from qwenlab.data.check import check_dataset, repair_dataset, to_html, to_text
from qwenlab.data.dataset import read_dataset
from tests.data.folders import LIMITS, TEXTS, jsonl, pictures, table, text, usual

LAYOUTS = {}


def layout(understood: str, *, changes: int = 0):
    """A function that writes a data set into a folder and returns the captions by path."""

    def register(function):
        LAYOUTS[function.__name__] = (function, understood, changes)
        return function

    return register


layout("captions.jsonl, pictures in images/")(usual)


@layout("captions.jsonl, pictures in images/")
def line_ends_of_old_macs(folder):
    usual(folder)
    jsonl(folder / "captions.jsonl", {"a.png": TEXTS[0], "b.png": TEXTS[1]}, end="\r")
    return {"images/a.png": TEXTS[0], "images/b.png": TEXTS[1]}


@layout("captions.jsonl, pictures in images/")
def lines_and_marks_that_mean_nothing(folder):
    usual(folder)
    path = folder / "captions.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\xef\xbb\xbf" + first + b"  \r\n\r\n \t \n\xef\xbb\xbf" + second + b"\r")
    return {"images/a.png": TEXTS[0], "images/b.png": TEXTS[1]}


@layout("captions.jsonl, pictures in images/")
def characters_that_other_programs_take_for_line_ends(folder):
    texts = {"a.png": "1女孩,\u2028挥手,\u0085站立,\x0b坐着", "b.png": TEXTS[1]}
    pictures(folder, "images/a.png", "images/b.png")
    lines = [json.dumps({"file_name": name, "text": t}, ensure_ascii=False) for name, t in texts.items()]
    text(folder / "captions.jsonl", "\n".join(lines).replace("\x0b", "\\u000b"))
    return {f"images/{name}": t for name, t in texts.items()}


@layout("captions.jsonl, pictures in images/; 2 names in captions.jsonl count from the data set's folder")
def images_doubled(folder):
    pictures(folder, "images/a.png", "images/b.png", "images/c.png")
    jsonl(folder / "captions.jsonl", {"images/a.png": TEXTS[0], "b.png": TEXTS[1], "images/c.png": TEXTS[2]})
    return {"images/a.png": TEXTS[0], "images/b.png": TEXTS[1], "images/c.png": TEXTS[2]}


@layout("captions.jsonl, pictures beside it")
def pictures_beside_the_captions(folder):
    pictures(folder, "a.png", "sub/b.jpg")
    jsonl(folder / "captions.jsonl", {"a.png": TEXTS[0], "sub/b.jpg": TEXTS[1]})
    return {"a.png": TEXTS[0], "sub/b.jpg": TEXTS[1]}


@layout("captions.jsonl, pictures beside it; 2 names in captions.jsonl count from the data set's folder", changes=0)
def pictures_in_both_places(folder):
    pictures(folder, "images/a.png", "b.png", "more/c.png")
    jsonl(folder / "captions.jsonl", {"a.png": TEXTS[0], "b.png": TEXTS[1], "more/c.png": TEXTS[2]})
    return {"images/a.png": TEXTS[0], "b.png": TEXTS[1], "more/c.png": TEXTS[2]}


@layout("captions.jsonl, pictures in images/")
def equal_names_in_two_folders(folder):
    pictures(folder, "images/a/1.png", "images/b/1.png")
    jsonl(folder / "captions.jsonl", {"a/1.png": TEXTS[0], "b/1.png": TEXTS[1]})
    return {"images/a/1.png": TEXTS[0], "images/b/1.png": TEXTS[1]}


@layout("2 file names are in another Unicode form than the captions write them, and the same", changes=2)
def names_in_decomposed_form(folder):
    names = ["été.png", "naïve/ö.png"]
    pictures(folder, *(f"images/{unicodedata.normalize('NFD', name)}" for name in names))
    jsonl(folder / "captions.jsonl", dict(zip(names, TEXTS, strict=False)))
    return {f"images/{unicodedata.normalize('NFD', n)}": t for n, t in zip(names, TEXTS, strict=False)}


@layout("2 file names are in another Unicode form than the captions write them, and the same")
def captions_in_decomposed_form(folder):
    names = ["été.png", "が.png"]
    pictures(folder, *(f"images/{name}" for name in names))
    jsonl(folder / "captions.jsonl", {unicodedata.normalize("NFD", n): t for n, t in zip(names, TEXTS, strict=False)})
    return {f"images/{n}": t for n, t in zip(names, TEXTS, strict=False)}


@layout("3 hidden files left out: ._a.png, ._b.png, .thumb.jpg")
def hidden_files(folder):
    usual(folder)
    for name in ("._a.png", "._b.png", ".thumb.jpg", ".thumbs/c.png", "__MACOSX/a.png", "@eaDir/a.png"):
        text(folder / "images" / name, "\0\5\x16\7 Mac OS X")
    return {"images/a.png": TEXTS[0], "images/b.png": TEXTS[1]}


@layout("metadata.jsonl, as the datasets library reads an image folder")
def image_folder(folder):
    pictures(folder, "a.png", "sub/b.png")
    jsonl(folder / "metadata.jsonl", {"a.png": TEXTS[0], "sub/b.png": TEXTS[1]})
    return {"a.png": TEXTS[0], "sub/b.png": TEXTS[1]}


@layout("metadata.jsonl, sub/metadata.jsonl, sub/deep/metadata.jsonl (3 files, each for its own folder)")
def metadata_in_the_root_and_in_folders(folder):
    pictures(folder, "a.png", "sub/b.png", "sub/deep/c.png")
    jsonl(folder / "metadata.jsonl", {"a.png": TEXTS[0]})
    jsonl(folder / "sub/metadata.jsonl", {"b.png": TEXTS[1]})
    jsonl(folder / "sub/deep/metadata.jsonl", {"c.png": TEXTS[2]})
    return {"a.png": TEXTS[0], "sub/b.png": TEXTS[1], "sub/deep/c.png": TEXTS[2]}


@layout("a/metadata.csv, b/metadata.jsonl (2 files, each for its own folder)")
def metadata_of_two_kinds(folder):
    pictures(folder, "a/1.png", "b/1.png")
    table(folder / "a/metadata.csv", {"1.png": TEXTS[0]})
    jsonl(folder / "b/metadata.jsonl", {"1.png": TEXTS[1]})
    return {"a/1.png": TEXTS[0], "b/1.png": TEXTS[1]}


@layout("metadata.csv, as the datasets library reads an image folder")
def metadata_csv(folder):
    pictures(folder, "a.png", "b.png")
    table(folder / "metadata.csv", {"a.png": TEXTS[0], "b.png": 'NA, "quoted",\n二'})
    return {"a.png": TEXTS[0], "b.png": 'NA, "quoted",\n二'}


@layout("columns of metadata.csv are separated by semicolons")
def csv_of_a_spreadsheet(folder):
    pictures(folder, "a.png", "b.png")
    table(folder / "metadata.csv", {"a.png": TEXTS[0], "b.png": TEXTS[1]}, separator=";")
    path = folder / "metadata.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    return {"a.png": TEXTS[0], "b.png": TEXTS[1]}


@layout("metadata.parquet, as the datasets library reads an image folder")
def metadata_parquet(folder):
    import pyarrow
    import pyarrow.parquet

    pictures(folder, "a.png", "b.png")
    columns = {"n": [1, 2], "file_name": ["a.png", "b.png"], "text": TEXTS[:2], "tags": [["x"], ["y"]]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "metadata.parquet")
    return {"a.png": TEXTS[0], "b.png": TEXTS[1]}


@layout("metadata.jsonl, as the datasets library reads an image folder")
def names_with_backslashes_in_metadata(folder):
    pictures(folder, "sub/a.png")
    jsonl(folder / "metadata.jsonl", {"sub\\a.png": TEXTS[0]})
    return {"sub/a.png": TEXTS[0]}


@layout("1 name in metadata.jsonl counts from images/")
def metadata_that_leaves_images_out(folder):
    pictures(folder, "images/a.png")
    jsonl(folder / "metadata.jsonl", {"a.png": TEXTS[0]})
    return {"images/a.png": TEXTS[0]}


@layout("1 name in images/metadata.jsonl counts from the data set's folder")
def metadata_in_images_that_names_it_again(folder):
    pictures(folder, "images/a.png")
    jsonl(folder / "images/metadata.jsonl", {"images/a.png": TEXTS[0]})
    return {"images/a.png": TEXTS[0]}


@layout("left out as another split than train: test, validation")
def splits(folder):
    for split, content in (("train", TEXTS[0]), ("test", TEXTS[1]), ("validation", TEXTS[2])):
        pictures(folder, f"{split}/a.png")
        jsonl(folder / split / "metadata.jsonl", {"a.png": content})
    return {"train/a.png": TEXTS[0]}


@layout("a/captions.jsonl, b/captions.jsonl (2 files, each for its own folder)")
def two_data_sets_in_one_folder(folder):
    for name, content in (("a", TEXTS[0]), ("b", TEXTS[1])):
        pictures(folder, f"{name}/images/1.png")
        jsonl(folder / name / "captions.jsonl", {"1.png": content})
    return {"a/images/1.png": TEXTS[0], "b/images/1.png": TEXTS[1]}


@layout("5 caption files beside the pictures (.caption, .txt)")
def caption_files_in_any_case_and_suffix(folder):
    files = ("a.txt", "b.TXT", "c.Caption", "D.txt", "e.png.txt")
    pictures(folder, *(f"set/{letter}.png" for letter in "abcde"))
    for name, content in zip(files, TEXTS, strict=False):
        text(folder / "set" / name, f"\ufeff{content}\r\n")
    return {f"set/{letter}.png": content for letter, content in zip("abcde", TEXTS, strict=False)}


@layout("2 caption files beside the pictures (.txt)", changes=2)
def caption_files_in_other_forms(folder):
    pictures(folder, f"{unicodedata.normalize('NFD', 'é')}.png", "b.png")
    text(folder / "é.txt", TEXTS[0])
    text(folder / "b.txt", f"{TEXTS[1]},\n五指张开\n")
    return {f"{unicodedata.normalize('NFD', 'é')}.png": TEXTS[0], "b.png": f"{TEXTS[1]}, 五指张开"}


@layout("kohya's repeats are not used, every picture counts once: 10_fox girl (10), 2_hat (2)")
def folders_of_kohya(folder):
    pictures(folder, "10_fox girl/a.png", "10_fox girl/b.png", "2_hat/a.png")
    names = ("10_fox girl/a.txt", "10_fox girl/b.caption", "2_hat/a.txt")
    for name, content in zip(names, TEXTS, strict=False):
        text(folder / name, content)
    return {"10_fox girl/a.png": TEXTS[0], "10_fox girl/b.png": TEXTS[1], "2_hat/a.png": TEXTS[2]}


@layout("no caption files: the words in the names of the folders are the captions, as in kohya's trainer")
def folders_of_kohya_without_captions(folder):
    pictures(folder, "10_1女孩/a.png", "2_1男孩/a.png")
    return {"10_1女孩/a.png": "1女孩", "2_1男孩/a.png": "1男孩"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_training_and_check_read_the_same_and_say_how(name, tmp_path):
    write, understood, changes = LAYOUTS[name]
    folder = tmp_path / "data"
    folder.mkdir()
    expected = {folder / path: content for path, content in write(folder).items()}
    dataset = read_dataset(folder)
    assert {sample.path: sample.text for sample in dataset.samples} == expected
    assert any(understood in warning for warning in dataset.warnings) == (
        understood != "captions.jsonl, pictures in images/"
    )
    report = check_dataset(folder, LIMITS, thumbnails=True)
    assert report.ok, to_text(report)
    assert [(r.path, r.text) for r in report.records] == [(s.path, s.text) for s in dataset.samples]
    assert understood in report.reading.understood and f"read as: {report.reading.understood}" in to_text(report)
    assert "\n" not in report.reading.understood and "Read as: " in to_html(report)

    repaired = repair_dataset(report, tmp_path / "out")
    copy = read_dataset(repaired.folder)
    assert [sample.text for sample in copy.samples] == [" ".join(sample.text.split()) for sample in dataset.samples]
    for old, new in zip(dataset.samples, copy.samples, strict=True):
        assert new.path.read_bytes() == old.path.read_bytes()
        assert unicodedata.is_normalized("NFC", new.path.relative_to(tmp_path).as_posix())
    texts_changed = sum(" ".join(s.text.split()) != s.text for s in dataset.samples)
    assert len(repaired.changes) == changes + texts_changed, repaired.changes
    assert copy.warnings == () and check_dataset(repaired.folder, LIMITS).ok
    assert len(lint_file(folder).captions) == len(expected), "lint-captions takes the folder, too"
