"""What the check counts is what training reads: on generated folders, and on 1,000 mutated captions files."""

import json
import os
import random
import re
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from qwenlab.captions import read_captions
from qwenlab.data.check import check_dataset, repair_dataset, to_text
from qwenlab.data.dataset import read_dataset
from qwenlab.data.reader import read_folder
from qwenlab.errors import QwenlabError
from tests.data.folders import LIMITS, TEXTS, jsonl, picture, table, text, usual

FOLDERS, MUTATIONS = 80, 1000
NAMES = ["a.png", "Ä.PNG", "b c.jpg", "sub/a.png", "sub/été.png", "日本/が.jpg"]


def rows_as(rng, rows):
    """The rows of a captions file as bytes, in a random spelling that means the same."""
    end = rng.choice(["\n", "\r\n", "\r"])
    lines = []
    for name, content in rows.items():
        form = rng.choice(["NFC", "NFD"])
        row = {"seed": 1, "file_name": unicodedata.normalize(form, name), "text": rng.choice(["", " "]) + content}
        row = dict(rng.sample(list(row.items()), len(row)))
        lines.append(json.dumps(row, ensure_ascii=rng.random() < 0.5) + rng.choice(["", " ", "\t"]))
        lines += rng.choices(["", " ", "\u3000"], k=rng.choice([0, 0, 1]))
    return (rng.choice(["", "\ufeff"]) + end.join(lines) + rng.choice(["", end])).encode()


def write_folder(rng, folder):
    """A data set in a random layout that holds what it should: its captions by picture."""
    kind = rng.choice(["captions", "captions", "metadata", "tables", "sidecars", "csv"])
    names = rng.sample(NAMES, rng.randint(1, len(NAMES)))
    contents = dict(zip(names, rng.sample(TEXTS, len(names)), strict=True))
    base = folder / "images" if kind == "captions" or rng.random() < 0.5 else folder
    paths = {}
    for number, name in enumerate(names):
        paths[name] = base / unicodedata.normalize(rng.choice(["NFC", "NFD"]), name)
        picture(paths[name], 100 * number + len(name))
    if kind == "captions":
        prefix = rng.choice(["", "images/"])
        (folder / "captions.jsonl").write_bytes(rows_as(rng, {prefix + name: t for name, t in contents.items()}))
    elif kind == "metadata":
        (base / "metadata.jsonl").write_bytes(rows_as(rng, contents))
    elif kind == "csv":
        table(base / "metadata.csv", contents, separator=rng.choice([",", ";", "\t"]))
    elif kind == "tables":
        for part in {str(Path(name).parent) for name in names}:
            rows = {Path(name).name: t for name, t in contents.items() if str(Path(name).parent) == part}
            (base / part / "metadata.jsonl").write_bytes(rows_as(rng, rows))
    else:
        for name, content in contents.items():
            suffix = rng.choice([".txt", ".TXT", ".caption"])
            text(base / unicodedata.normalize(rng.choice(["NFC", "NFD"]), str(Path(name).with_suffix(suffix))), content)
    for name in rng.sample(["._a.png", ".DS_Store", "__MACOSX/a.png", "notes.pdf", "more.heic"], rng.randint(0, 3)):
        text(base / name, "x")
    return {paths[name]: content for name, content in contents.items()}


@pytest.mark.parametrize("seed", range(FOLDERS))
def test_training_and_check_agree_on_generated_folders(seed, tmp_path):
    rng = random.Random(seed)
    folder = tmp_path / "data"
    expected = write_folder(rng, folder)
    dataset, report = read_dataset(folder), check_dataset(folder, LIMITS)
    assert {sample.path: sample.text for sample in dataset.samples} == expected
    assert [(record.path, record.text) for record in report.records] == [(s.path, s.text) for s in dataset.samples]
    assert report.ok and report.files == len(expected), to_text(report)
    copy = repair_dataset(report, tmp_path / "out")
    assert [sample.text for sample in read_dataset(copy.folder).samples] == [s.text for s in dataset.samples]


# One fault each: (name, what it does to the folder and its first picture)

FAULTS = {
    "picture gone": lambda folder, path: path.unlink(),
    "picture empty": lambda folder, path: path.write_bytes(b""),
    "picture is a folder": lambda folder, path: (path.unlink(), path.mkdir()),
    "picture leads out": lambda folder, path: (
        path.rename(folder.parent / "p.png"),
        path.symlink_to(folder.parent / "p.png"),
    ),
    "link to itself": lambda folder, path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("seed", range(FOLDERS // 2))
def test_what_training_refuses_is_an_error_of_the_check(seed, tmp_path):
    rng = random.Random(1000 + seed)
    folder = tmp_path / "data"
    expected = write_folder(rng, folder)
    path = rng.choice(sorted(expected))
    fault = rng.choice(sorted(FAULTS))
    FAULTS[fault](folder, path)
    report = check_dataset(folder, LIMITS)
    try:
        dataset = read_dataset(folder)
    except QwenlabError as error:
        assert not report.ok and "\n" not in str(error), fault
    else:  # a caption file without a picture, and a picture without a caption, are warnings
        assert {s.path: s.text for s in dataset.samples} == {p: t for p, t in expected.items() if p != path}, fault
        assert any(name in to_text(report) for name in (path.name, path.stem)) and dataset.warnings


@pytest.mark.parametrize("fault", [*FAULTS, "blank", "noise"][1:])
def test_what_is_wrong_with_a_picture_without_caption_is_no_error_to_either(fault, tmp_path):
    expected = usual(folder := tmp_path / "data")
    picture(path := folder / "images" / "c.png", 5)
    if fault == "blank":
        Image.new("RGB", (96, 96), "white").save(path)
    elif fault == "noise":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    else:
        FAULTS[fault](folder, path)
    dataset, report = read_dataset(folder), check_dataset(folder, LIMITS)
    assert {s.path.relative_to(folder).as_posix(): s.text for s in dataset.samples} == expected
    assert report.ok, to_text(report)
    lone = [finding.detail for finding in report.findings if finding.where == "c.png"]
    if fault != "picture is a folder":  # which the reader does not take for a picture
        assert len(lone) == 1 and lone[0].startswith("no caption in captions.jsonl; "), lone
        assert any("c.png" in warning for warning in dataset.warnings)
    repaired = repair_dataset(report, tmp_path / "out")
    assert repaired.samples == 2 and check_dataset(repaired.folder, LIMITS).ok
    jsonl(
        folder / "captions.jsonl",
        {name.removeprefix("images/"): t for name, t in expected.items()} | {"c.png": "1男孩"},
    )
    assert not check_dataset(folder, LIMITS).ok, "with a caption it is one"


def test_links_inside_the_folder_are_one_picture(tmp_path):
    picture(tmp_path / "images" / "a.png", 1)
    os.symlink("a.png", tmp_path / "images" / "b.png")
    lines = [json.dumps({"file_name": name, "text": t}) for name, t in zip(("a.png", "b.png"), TEXTS, strict=False)]
    text(tmp_path / "captions.jsonl", "\n".join(lines))
    with pytest.raises(QwenlabError, match="line 2: b.png has a caption on line 1 already"):
        read_dataset(tmp_path)
    assert "second-caption" in {finding.rule for finding in check_dataset(tmp_path, LIMITS).findings}


# Mutations

ROWS = dict(zip(("a.png", "b.png", "sub/c.png"), TEXTS, strict=False))


def edit(data, rng):
    """A few bytes changed, put in, taken out, or cut off."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        choice = rng.randrange(4)
        if choice == 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif choice == 1:
            data[place:place] = rng.choice(
                [b"\0", b"\r", b"\n", b"\xff", b'"', b"\\", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"{"]
            )
        elif choice == 2:
            del data[place : place + rng.randint(1, 9)]
        else:
            del data[place:]
    return bytes(data)


def saved_by_another_program(data, rng):
    codec = rng.choice(["gb18030", "cp950", "utf-16", "utf-16-be", "utf-8-sig", "ascii"])
    return data.decode().encode(codec, "replace")


def garbled(data, rng):
    return data.decode().encode().decode(rng.choice(["cp1252", "latin-1", "gb18030", "mac_roman"]), "replace").encode()


def typed_wrongly(data, rng):
    old, new = rng.choice(
        [
            ('"', "“"),
            (":", "："),
            (",", "，"),
            ('"', "'"),
            ("}", ",}"),
            ("}\n", "},\n"),
            ("{", "["),
            ("text", "caption"),
        ]
        + [
            ("text", "Text"),
            ("file_name", "file"),
            ("png", "PNG"),
            ("a.png", "../a.png"),
            ("\n", ""),
            ("女", "\\u5973"),
        ]
    )
    return data.decode().replace(old, new, rng.choice([1, -1])).encode()


def lines_moved(data, rng):
    lines = data.splitlines(keepends=True)
    return b"".join(rng.choices(lines, k=rng.randint(1, 4)))


WAYS = [edit, edit, saved_by_another_program, garbled, typed_wrongly, lines_moved, lambda data, rng: rows_as(rng, ROWS)]


def plainly_read(data):
    """The rows of a captions file by Python's own means, or None where they do not apply; to compare with."""
    try:
        lines = re.split("\r\n|\n|\r", data.decode("utf-8-sig"))
        rows = [json.loads(line.lstrip("\ufeff")) for line in lines if line.strip("\ufeff \t\r\n\u3000")]
        return [(unicodedata.normalize("NFC", row["file_name"]), row["text"].strip()) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def test_1000_mutated_captions_files(tmp_path):
    folder = tmp_path / "data"
    for number, name in enumerate(ROWS):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((24, 24), 20 + number).convert("RGB").save(folder / "images" / name)
    rng = random.Random(20)
    untouched = "\n".join(json.dumps({"file_name": n, "text": t}, ensure_ascii=False) for n, t in ROWS.items()).encode()
    outcomes = {"refused": 0, "the same": 0, "as written": 0}
    for number in range(MUTATIONS):
        data = rng.choice(WAYS)(untouched, rng)
        (folder / "captions.jsonl").write_bytes(data)
        reading = read_folder(folder)
        errors = [finding for finding in reading.findings if finding.level == "error"]
        try:
            samples = read_dataset(folder).samples
        except QwenlabError as error:
            outcomes["refused"] += 1
            assert errors and "\n" not in str(error), data
        else:
            found = [(reading.name_of(sample.path), sample.text) for sample in samples]
            assert not errors and found == [(reading.name_of(r.path), r.text) for r in reading.records]
            same = found == list(ROWS.items())
            outcomes["the same" if same else "as written"] += 1
            assert same or found == plainly_read(data), data
        try:
            read_captions(folder / "captions.jsonl")
        except QwenlabError as error:
            assert "\n" not in str(error), data
        if number % 20 == 0:
            every_change_is_named(folder, tmp_path / str(number), data)
    assert min(outcomes.values()) > 50, outcomes


def every_change_is_named(folder, out, data):
    report = check_dataset(folder, LIMITS)
    to_text(report).encode()
    try:
        repaired = repair_dataset(report, out)
    except QwenlabError as error:
        assert "\n" not in str(error), data
        return
    written = dict(row for line in re.split(b"\r\n|\n|\r", data) for row in plainly_read(line) or ())
    named = " ".join(repaired.changes)
    for sample in read_dataset(out).samples:
        name = sample.path.relative_to(out / "images").as_posix()
        assert written.get(name, "") == sample.text or sample.text[:40] in named or name in named, (data, repaired)
