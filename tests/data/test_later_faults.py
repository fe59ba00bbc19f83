"""Faults that were found by trying folders of every kind: what was silent, or hung, or named another cause."""

import json
import os

import pytest

from qwenlab.captions import lint_file
from qwenlab.data.check import check_dataset, repair_dataset
from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from tests.data.folders import LIMITS, TEXTS, jsonl, pictures, text, usual


def read(folder):
    return {s.path.relative_to(folder).as_posix(): s.text for s in read_dataset(folder).samples}


def repaired(folder, encoding=""):
    """The captions of the repaired copy, and what was changed."""
    out = folder.parent / "out"
    copy = repair_dataset(check_dataset(folder, LIMITS, encoding=encoding), out)
    return sorted(s.text for s in read_dataset(out).samples), copy.changes


def rows(folder, texts, encoding="utf-8"):
    names = [f"{letter}.png" for letter in "abcdef"[: len(texts)]]
    pictures(folder, *(f"images/{name}" for name in names))
    lines = [json.dumps({"file_name": n, "text": t}, ensure_ascii=False) for n, t in zip(names, texts, strict=True)]
    (folder / "captions.jsonl").write_bytes("\n".join(lines).encode(encoding))


# Splits


@pytest.mark.parametrize("train, test", [("train", "test"), ("Training", "val"), ("my_train", "my-test_2")])
@pytest.mark.parametrize("top", ["", "data/", "images/"])
def test_other_splits_are_left_out_wherever_they_lie(tmp_path, top, train, test):
    pictures(tmp_path, f"{top}{train}/a.png", f"{top}{test}/b.png")
    for name, content in ((f"{train}/a", TEXTS[0]), (f"{test}/b", TEXTS[1])):
        text(tmp_path / f"{top}{name}.txt", content)
    assert read(tmp_path) == {f"{top}{train}/a.png": TEXTS[0]}
    assert f"left out as another split than train: {top}{test}" in check_dataset(tmp_path, LIMITS).reading.understood


def test_captions_of_another_split_in_a_table_above_it(tmp_path):
    pictures(tmp_path, "train/a.png", "test/b.png")
    jsonl(tmp_path / "metadata.jsonl", {"train/a.png": TEXTS[0], "test/b.png": TEXTS[1]})
    assert read(tmp_path) == {"train/a.png": TEXTS[0]}
    assert "1 caption of other splits left out" in check_dataset(tmp_path, LIMITS).reading.understood


@pytest.mark.parametrize("names", [("test/a.png", "val/b.png"), ("10_train/a.png", "10_test/b.png"), ("latest/a.png",)])
def test_what_is_no_split_is_read(tmp_path, names):
    pictures(tmp_path, *names, "training_station.png")
    for name, content in zip((*names, "training_station.png"), TEXTS, strict=False):
        text((tmp_path / name).with_suffix(".txt"), content)
    assert read(tmp_path).keys() == {*names, "training_station.png"}


# Encodings


@pytest.mark.parametrize("codec", ["utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"])
def test_wide_text_without_a_mark(tmp_path, codec):
    rows(tmp_path / "in", TEXTS[:3], codec)
    captions, changes = repaired(tmp_path / "in")
    assert captions == sorted(TEXTS[:3]) and len(changes) == 3 and f"read as {codec[:6].upper()}" in changes[0]
    with pytest.raises(QwenlabError, match=codec.upper()):
        lint_file(tmp_path / "in")


@pytest.mark.parametrize("word", ["女士", "一", "伞"])
def test_words_that_are_utf_8_by_chance_are_read_as_their_neighbours_or_asked_about(tmp_path, word):
    assert "\u3041" > word.encode("gb18030").decode("utf-8")[0]  # letters of no caption
    rows(tmp_path / "in", [*TEXTS[:3], word], "gb18030")
    try:
        captions, changes = repaired(tmp_path / "in")
        assert any(f"read as GB18030 (GBK): {word}" in change for change in changes)
    except QwenlabError as error:
        assert "1 line in doubt" in str(error) and word in str(error)
        captions, _ = repaired(tmp_path / "in", encoding="gb18030")
    assert captions == sorted([*TEXTS[:3], word])


@pytest.mark.parametrize("word", ["café", "девочка", "naïve", "一朵花"])
def test_utf_8_among_other_lines_stays_or_is_asked_about(tmp_path, word):
    rows(tmp_path / "in", [*TEXTS[:3], "?"], "gb18030")
    path = tmp_path / "in/captions.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"?"', f'"{word}"'.encode()))
    try:
        assert word in repaired(tmp_path / "in")[0]
    except QwenlabError as error:
        assert word in str(error)


@pytest.mark.parametrize("caption", ["30° angle", "a girl’s hand", "“smile”, cat – sitting…"])
def test_punctuation_alone_is_asked_about(tmp_path, caption):
    rows(tmp_path / "in", ["boy", caption], "cp1252")
    with pytest.raises(QwenlabError, match="1 line in doubt.*Windows-1252"):
        repaired(tmp_path / "in")
    assert repaired(tmp_path / "in", encoding="cp1252")[0] == sorted(["boy", caption])


# Characters


@pytest.mark.parametrize("sign", ["\ufeff", "\u200b", "\u200e", "\xad", "\0", "\x07", "\u2060"])
def test_invisible_characters_are_taken_out_and_named(tmp_path, sign):
    rows(tmp_path / "in", [sign + TEXTS[0], TEXTS[1].replace("黑", "黑" + sign)])
    assert sorted(read(tmp_path / "in").values()) == sorted(TEXTS[:2])
    assert any(f"U+{ord(sign):04X}" in line for line in read_dataset(tmp_path / "in").warnings)
    captions, changes = repaired(tmp_path / "in")
    assert captions == sorted(TEXTS[:2]) and sum(f"taken out (U+{ord(sign):04X})" in change for change in changes) == 2
    lint_file(tmp_path / "in")


@pytest.mark.parametrize("caption", ["👩\u200d🎨画画", "می\u200cخواهم", "1女孩\u3000挥手", "abcabc", "5", "♥"])
def test_characters_that_belong_to_a_caption_stay(tmp_path, caption):
    rows(tmp_path, [caption, TEXTS[1]])
    assert caption in read(tmp_path).values() and read_dataset(tmp_path).warnings == ()


@pytest.mark.parametrize("caption", ["\u200b\u200b", ",,,", "，。", "\ufeff \u3000", "---"])
def test_captions_without_a_letter_are_empty(tmp_path, caption):
    rows(tmp_path, [caption, TEXTS[1]])
    with pytest.raises(QwenlabError, match="line 1: .*(holds no letter|is empty)"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "content, what",
    [
        ('{"file_name": "a.png", "text": "1女孩"}', "a JSON object"),
        ("0 0.5 0.5 0.1 0.1\n1 0.2 0.3 0.1 0.1", "labels for a detector"),
        ("fox\nNegative prompt: bad\nSteps: 20, Sampler: Euler", "a picture was generated"),
        ("None", "stands for nothing"),
        ("nan", "stands for nothing"),
        ("TODO", "stands for nothing"),
    ],
)
def test_texts_that_are_no_captions_are_named(tmp_path, content, what):
    pictures(tmp_path, "a.png", "b.png")
    text(tmp_path / "a.txt", content)
    text(tmp_path / "b.txt", TEXTS[0])
    assert any(what in line for line in read_dataset(tmp_path).warnings)
    assert any(what in f.detail for f in check_dataset(tmp_path, LIMITS).findings if f.rule == "no-description")


# Lines and tables


@pytest.mark.parametrize("before, after", [("", "\x0c"), ("\x0c", ""), ("", "\u3000\xa0"), ("\u2028", "\u0085")])
def test_spaces_around_an_object_are_no_fault(tmp_path, before, after):
    usual(tmp_path)
    lines = (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    text(tmp_path / "captions.jsonl", "\n".join(before + line + after for line in lines))
    assert read(tmp_path) == {"images/a.png": TEXTS[0], "images/b.png": TEXTS[1]}
    assert len(lint_file(tmp_path).captions) == 2


@pytest.mark.parametrize(
    "line, cause",
    [
        ("\x1a", "only control characters"),
        ("\0" * 40, "only control characters"),
        ('{"file_name": "b.png", "text": "x"} y', "something stands after the object"),
        ('{" file_name": "b.png", "text": "x"}', 'rename " file_name" to it'),
        ('{"File Name": "b.png", "text": "x"}', 'rename "File Name" to it'),
        ('{"file_name": "b.png", "Text ": "x"}', 'stands under "Text "'),
    ],
)
def test_lines_with_their_cause(tmp_path, line, cause):
    usual(tmp_path)
    with open(tmp_path / "captions.jsonl", "a", encoding="utf-8") as file:
        file.write("\n" + line)
    with pytest.raises(QwenlabError, match=cause):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\nfile_name;text\na.png;1\nb.png;2\n",
        'file_name, text\na.png, "1"\nb.png, "2"\n',
        ',file_name,text\n0,a.png,"1"\n1,b.png,2\n',
        '\ufefffile_name\ttext\ra.png\t"1"\rb.png\t2\r',
    ],
)
def test_tables_of_other_programs(tmp_path, content):
    pictures(tmp_path, "a.png", "b.png")
    text(tmp_path / "metadata.csv", content)
    assert read(tmp_path) == {"a.png": "1", "b.png": "2"}


@pytest.mark.parametrize(
    "content, cause",
    [
        ('file_name;text\na.png;"1\nb.png;"2"\nc.png;"3"\n', "line 3: .*the quote that ends a value"),
        ('file_name;text\na.png;1\nb.png;"2\nc.png;3\n', "a quote at the start of a value is not closed"),
        ('file_name,text\na.png,"1 \\"x\\" y"\n', "write a quote inside of a caption twice"),
    ],
)
def test_a_quote_at_fault_swallows_no_row(tmp_path, content, cause):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    text(tmp_path / "metadata.csv", content)
    with pytest.raises(QwenlabError, match=cause):
        read_dataset(tmp_path)


# Files


@pytest.mark.parametrize("name", ["b.txt", "metadata.csv", "captions.jsonl"])
def test_a_pipe_is_refused_and_never_waited_for(tmp_path, name):
    pictures(tmp_path, "a.png", "b.png")
    text(tmp_path / "a.txt", TEXTS[0])
    os.mkfifo(tmp_path / name)
    with pytest.raises(QwenlabError, match=f"{name}: no such file, but something else of that name"):
        read_dataset(tmp_path)
    assert not check_dataset(tmp_path, LIMITS).ok


@pytest.mark.parametrize(
    "name, cause",
    [
        ("captions.jsonl.txt", "has two endings: rename it to captions.jsonl"),
        ("metadata.csv.txt", "rename it to metadata.csv"),
        ("data-00000-of-00001.arrow", "save_to_disk: save its pictures as files"),
        ("dataset_dict.json", "save_to_disk"),
        ("captions/a.txt", "captions/a.txt has the name of no picture beside it"),
    ],
)
def test_what_is_here_in_place_of_captions(tmp_path, name, cause):
    pictures(tmp_path, "images/a.png")
    text(tmp_path / name, "x")
    with pytest.raises(QwenlabError, match=cause):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "start, cause",
    [(b"8BPS\0\1", "Photoshop"), (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL")],
)
def test_formats_under_another_name(tmp_path, start, cause):
    usual(tmp_path)
    (tmp_path / "images/c.png").write_bytes(start + bytes(100))
    assert any(cause in finding.detail for finding in check_dataset(tmp_path, LIMITS).findings)


def test_formats_beside_the_pictures_folder_are_named(tmp_path):
    usual(tmp_path)
    text(tmp_path / "more.heic", "x")
    text(tmp_path / "old/more.psd", "x")
    found = {f.where for f in check_dataset(tmp_path, LIMITS).findings if f.rule == "other-format"}
    assert found == {"more.heic", "old/more.psd"}
