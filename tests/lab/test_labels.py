"""Labels by eye: what a sheet gives away, what bad answers get, and what comes of good ones."""

import json

import numpy as np
import pytest
from PIL import Image

from qwenlab.errors import QwenlabError
from qwenlab.lab.agreement import Errors, rogan_gladen
from qwenlab.lab.labels import CELL, COLUMNS, ROWS, STRIP, Square, make_sheets, read_answers, score

COUNT = 90  # more than a sheet holds


def squares():
    """Ten decoys, and squares of two ways; their grey says which they are and whether they are right."""
    found = []
    for k in range(COUNT):
        truth = ("right", "wrong")[k % 2]
        image = Image.new("RGB", (40, 40), (2 * k, 2 * k, 200 if truth == "right" else 0))
        arm = ("plain", "repaired")[k // 2 % 2]
        found.append(Square(image, arm, f"picture {k // 2}", truth if k < 10 else None))
    return found


@pytest.fixture
def labelled(tmp_path):
    """Sheets, key, and the truth of every number in each pass, read off the sheets as an eye would."""
    sheets = make_sheets(squares(), tmp_path / "sheets", tmp_path / "key.json", seed=3)
    return sheets, tmp_path / "key.json", {number: seen(sheets, number) for number in (1, 2)}


def seen(sheets, number):
    """(grey, word) of each square of a pass, in the order of its numbers."""
    found = []
    for path in sheets:
        if path.name.startswith(f"pass-{number}"):
            with Image.open(path) as sheet:
                for k in range(min(COUNT - len(found), COLUMNS * ROWS)):
                    centre = (k % COLUMNS * CELL + CELL // 2, k // COLUMNS * (CELL + STRIP) + STRIP + CELL // 2)
                    red, _, blue = sheet.getpixel(centre)
                    found.append((red, "right" if blue > 100 else "wrong"))
                    if k % (COLUMNS * ROWS) == COLUMNS * ROWS - 1:
                        break
    return found


def write(path, words):
    """An answer file as a person writes it: a line for each row of a sheet."""
    rows = [f"{k}: {' '.join(words[k : k + COLUMNS])}" for k in range(0, len(words), COLUMNS)]
    path.write_text("# pass\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def answers(tmp_path, truths, change=None):
    """Both answer files of a labeller who sees everything, changed by change(pass, number, word)."""
    change = change or (lambda _, __, word: word)
    return [
        write(tmp_path / f"pass-{n}.txt", [change(n, k, word) for k, (_, word) in enumerate(truths[n])]) for n in (1, 2)
    ]


def test_sheets_show_every_square_twice_in_another_order_and_nothing_else(labelled):
    sheets, key, truths = labelled
    assert [path.name for path in sheets] == [f"pass-{n}-sheet-0{k}.png" for n in (1, 2) for k in (1, 2)]
    first, second = ([grey for grey, _ in truths[n]] for n in (1, 2))
    assert sorted(first) == sorted(second) == [2 * k for k in range(COUNT)]
    assert first != second and first != sorted(first)
    for path in sheets:
        assert b"repaired" not in path.read_bytes()
        with Image.open(path) as sheet:
            assert not sheet.info and sheet.width == COLUMNS * CELL
    arms = [("plain", "repaired")[grey // 4 % 2] for grey in first]
    changes = sum(a != b for a, b in zip(arms, arms[1:], strict=False))
    assert 25 < changes < 65, "ways lie mixed"
    assert key.parent not in {path.parent for path in sheets}


def test_the_same_seed_gives_the_same_sheets(labelled, tmp_path):
    again = make_sheets(squares(), tmp_path / "again", tmp_path / "again.json", seed=3)
    assert [a.read_bytes() for a in labelled[0]] == [b.read_bytes() for b in again]
    other = make_sheets(squares(), tmp_path / "other", tmp_path / "other.json", seed=4)
    assert labelled[0][0].read_bytes() != other[0].read_bytes()


def test_sheets_that_give_something_away_are_refused(labelled, tmp_path):
    one_way = [s for s in squares() if s.truth or s.arm == "plain"]
    no_decoys = [s for s in squares() if s.truth is None]
    right_decoys = [s for s in squares() if s.truth != "wrong"]
    sizes = [*squares(), Square(Image.new("RGB", (48, 48)), "plain", "p")]
    for given, key, message in (
        (squares(), tmp_path / "x" / "key.json", "must not lie among the sheets"),
        (squares(), labelled[1], "exists"),
        (one_way, tmp_path / "k.json", "two ways"),
        (sizes, tmp_path / "k.json", "several sizes"),
        (no_decoys, tmp_path / "k.json", "decoys of both kinds"),
        (right_decoys, tmp_path / "k.json", "decoys of both kinds"),
    ):
        with pytest.raises(QwenlabError, match=message) as error:
            make_sheets(given, tmp_path / "x", key)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()
    with pytest.raises(QwenlabError, match="is not empty"):
        make_sheets(squares(), labelled[0][0].parent, tmp_path / "k.json")


def test_a_steady_labeller_and_a_judge_that_errs_in_one_way(labelled, tmp_path):
    """The judge calls every wrong square of the repaired way right, and reads the plain way without error."""
    _, key, truths = labelled
    readings = [("right", "wrong")[k % 2] for k in range(COUNT)]
    readings = ["right" if k // 2 % 2 else word for k, word in enumerate(readings)]
    readings[10] = None
    found = score(key, answers(tmp_path, truths), readings)
    assert found["labels"] == [("right", "wrong")[k % 2] for k in range(COUNT)]
    assert found["passes"]["value"] == 1 and found["passes"]["low"] < 1 and found["lacking"] == []
    assert 0.2 < found["judge"]["low"] < found["judge"]["value"] < found["judge"]["high"] < 0.8
    for of_pass in found["decoys"]:
        assert [of_pass[kind]["count"] for kind in ("right", "wrong")] == [5, 5]
    plain, repaired = found["arms"]["plain"], found["arms"]["repaired"]
    assert plain["specificity"]["value"] == 1 and repaired["specificity"]["value"] == 0
    assert plain["sensitivity"]["value"] == repaired["sensitivity"]["value"] == 1
    assert sum(row["unread"] for row in found["arms"].values()) == 1 and plain["unclear"] == 0
    names = ("right", "right_read_right", "wrong", "wrong_read_wrong")
    errors = Errors(*(plain[name] for name in names))
    assert errors.right + errors.wrong + repaired["right"] + repaired["wrong"] == COUNT - 10 - 1
    assert not rogan_gladen(np.arange(20) % 2, errors).alarm


def test_an_unsteady_labeller_shows(labelled, tmp_path):
    _, key, truths = labelled
    flip = {"right": "wrong", "wrong": "right"}
    files = answers(tmp_path, truths, lambda n, k, word: flip[word] if n == 2 and k % 4 == 0 else word)
    found = score(key, files, ["right"] * COUNT)
    assert 0.2 < found["passes"]["value"] < 0.8
    assert found["labels"].count("unclear") == len(range(0, COUNT, 4))
    assert sum(of["count"] for of in found["decoys"][0].values()) == 10
    assert sum(row["unclear"] for row in found["arms"].values()) > 10


def test_a_way_without_wrong_ones_is_named(labelled, tmp_path):
    """Of a way of which all is right it cannot be told how often the judge misses a wrong one."""
    _, key, truths = labelled

    def change(number, k, word):
        return "right" if truths[number][k][0] // 4 % 2 else word

    found = score(key, answers(tmp_path, truths, change), ["right"] * COUNT)
    assert found["lacking"] == ["repaired"] and found["arms"]["repaired"]["specificity"] is None
    everything = score(key, answers(tmp_path, truths, lambda *_: "right"), ["right"] * COUNT)
    assert everything["passes"] is None and everything["judge"] is None and len(everything["lacking"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: right wrong", "1 of 3 squares have no answer: 2"),
        ("", "3 of 3 squares have no answer: 0, 1, 2"),
        ("0: right fine wrong", "line 1: 'fine' is no answer"),
        ("0: right wrong\n\n2: unclear right", "line 3: there is no square 3"),
        ("0: right wrong right\n1: right", "line 2: square 1 has an answer already"),
        ("right wrong right", "begin with the number"),
        ("x: right", "begin with the number"),
        ('{"0": "right", "1": "wrong"}', "1 of 3 squares"),
        ('{"0": "right", "1": "wrong", "2": "maybe"}', "'maybe' is no answer"),
        ('{"0": "right", "1": "wrong", "2": null}', "None is no answer"),
        ('{"0": "right", "1": ["wrong"], "2": {"a": 1}}', "is no answer"),
        ('{"0": "right", "1": "wrong", "1": "right"}', "answer already"),
        ('{"0": "right", "9": "wrong"}', "no square 9"),
        ('{"a": "right"}', "no number of a square"),
        ('{"0": ', "not JSON"),
    ],
)  # fmt: skip
def test_bad_answers_get_one_line(tmp_path, text, message):
    path = tmp_path / "pass-1.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(QwenlabError) as error:
        read_answers(path, 3)
    assert message in str(error.value) and "pass-1.txt" in str(error.value) and "\n" not in str(error.value)


def test_good_answers_in_both_forms(tmp_path):
    text, table = tmp_path / "a.txt", tmp_path / "a.json"
    text.write_text("2: unclear  # the last\n0: right wrong\n", encoding="utf-8")
    table.write_text(json.dumps({"2": "unclear", "0": "right", "1": "wrong"}), encoding="utf-8")
    assert read_answers(text, 3) == read_answers(table, 3) == ["right", "wrong", "unclear"]
    for bytes_ in (None, b"\xff\xfe\x00\xd8"):
        path = tmp_path / "b.txt"
        if bytes_:
            path.write_bytes(bytes_)
        with pytest.raises(QwenlabError, match=r"b\.txt: no answers"):
            read_answers(path, 3)


def test_scoring_refuses_what_does_not_fit(labelled, tmp_path):
    _, key, truths = labelled
    files = answers(tmp_path, truths)
    (tmp_path / "no.json").write_text("[]", encoding="utf-8")
    for given, message in (
        ((key, files[:1], ["right"] * COUNT), "give 2"),
        ((key, [files[0], files[0]], ["right"] * COUNT), "give 2"),
        ((key, files, ["right"] * 3), "3 readings"),
        ((key, files, ["5"] * COUNT), "right, wrong or None"),
        ((tmp_path / "no.json", files, []), "no key"),
        ((tmp_path / "none.json", files, []), "no key"),
    ):
        with pytest.raises(QwenlabError, match=message) as error:
            score(*given)
        assert "\n" not in str(error.value)
