"""Text in other encodings than UTF-8: decoded where one encoding makes sense of it, else a person is asked."""

import json
import random

import pytest
from opencc import OpenCC
from typer.testing import CliRunner

from qwenlab.captions import read_captions
from qwenlab.cli import app
from qwenlab.data.check import Limits, check_dataset, repair_dataset
from qwenlab.data.dataset import read_dataset
from qwenlab.data.reader.garbled import garbled, lost_characters
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.sniffing import decode, file_kind, from_utf7
from tests.data.folders import pictures
from tests.data.zoo import good_folder

LIMITS = Limits(min_side=64)
CHINESE = [
    json.loads(line)["text"]
    for name in ("captions_labelled", "captions_later")
    for line in (REPOSITORY / "tests" / "captions" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
]
LINES = [text for text in CHINESE if len(text) < 200 and not text.isascii()]
OTHERS = {
    "French": "une fillette à la plage, été|café crème et gâteau|robe élégante|garçon près de la forêt|déguisée en fée",
    "German": "Mädchen mit grünem Kleid|ein schöner großer Bär|Straße bei Nacht, müde|kleine Füße|Über den Wolken|süß",
    "Spanish": "niña con vestido rojo, sonrisa|una mañana en el jardín|año nuevo, corazón|la montaña más alta",
    "Polish": "dziewczynka w żółtej sukience|ręce złożone, głowa|młoda kobieta, uśmiech",
    "Turkish": "küçük kız çocuğu, sarı elbise|gülümseyen genç kadın, şapka",
    "Russian": "девочка в красном платье|маленькая девочка, улыбка, лес|Портрет, акварель|ДЕВОЧКА|кот",
    "Greek": "κορίτσι με κόκκινο φόρεμα|παραλία το καλοκαίρι",
    "Japanese": "女の子、赤いワンピース|1女の子, 黄色いレインコート|猫耳の少女が笑っている|東京の夜景|公園で走る少年",
    "Korean": "빨간 드레스를 입은 소녀|1소녀, 노란 우비, 손 흔들기|고양이|밤하늘",
}
SAVED_AS = {
    "French": ("cp1252", "latin-1", "mac_roman", "cp437"), "German": ("cp1252", "cp850"), "Spanish": ("cp1252",),
    "Polish": ("cp1250", "iso8859_2"), "Turkish": ("cp1254",), "Russian": ("cp1251", "koi8_r", "cp866"),
    "Greek": ("cp1253",), "Japanese": ("cp932", "euc_jp"), "Korean": ("cp949",),
}  # fmt: skip
CASES = [(language, codec) for language, codecs in SAVED_AS.items() for codec in codecs]


def answers(texts, codec, context=""):
    """How often a text that was saved in `codec` is read right, wrongly, or left to a person."""
    counts = {"right": 0, "wrong": 0, "asked": 0}
    for text in texts:
        try:
            data = text.encode(codec)
        except UnicodeEncodeError:
            continue
        found = decode(data, context).text
        counts["asked" if found is None else "right" if found == text else "wrong"] += 1
    return counts


def joined(texts, count=5, times=60):
    rng = random.Random(0)
    return ["\n".join(rng.sample(texts, count)) for _ in range(times)]


# What bytes are


def test_chinese_in_utf7_is_known_and_captions_with_a_plus_are_not(tmp_path):
    read = [from_utf7(text.encode("utf-7").decode("ascii")) for text in LINES]
    assert all(found in (None, text) for found, text in zip(read, LINES, strict=True))
    assert sum(found is not None for found in read) > 0.98 * len(LINES)
    for text in ("cat+dog", "1girl +yellow- hair", "A+B, C++", "red+bow+hat, 3+4", "+1, +WXM-", *LINES, "a" * 99):
        assert from_utf7(text) is None and not garbled(text), text
    folder = good_folder(tmp_path / "data")
    captions = folder / "captions.jsonl"
    rows = [json.loads(line) for line in captions.read_text("utf-8").splitlines()]
    captions.write_bytes("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-7"))
    with pytest.raises(QwenlabError, match="line 1: .* is UTF-7 that was read as ASCII"):
        read_dataset(folder)
    copy = repair_dataset(check_dataset(folder, LIMITS), tmp_path / "out").folder
    assert [sample.text for sample in read_dataset(copy).samples] == [row["text"] for row in rows]
    captions.write_text("+AHsAIg-file_name+ACI-: ...", "ascii")  # as iconv writes it
    with pytest.raises(QwenlabError, match="line 1: not JSON: text in UTF-7: save the file as UTF-8"):
        read_dataset(folder)


def test_chinese_files_are_read_and_never_wrongly():
    lines, files = answers(LINES, "gb18030"), answers(joined(LINES), "gb18030")
    assert lines["wrong"] == files["wrong"] == 0
    assert lines["right"] > 0.7 * len(LINES) and files["right"] > 50
    beside = answers(LINES[300:500], "gb18030", context="\n".join(LINES[:60]))
    assert beside["wrong"] == 0 and beside["right"] > 190, "other lines of the file say what its characters are"


def test_traditional_files_are_read_and_never_wrongly():
    traditional = [OpenCC("s2t").convert(text) for text in LINES[:400]]
    for codec in ("cp950", "gb18030"):
        assert answers(traditional, codec)["wrong"] == answers(traditional, codec, "\n".join(LINES[:60]))["wrong"] == 0
    assert answers(traditional, "cp950")["right"] > 250


@pytest.mark.parametrize("language, codec", CASES)
@pytest.mark.parametrize("context", ["", "\n".join(LINES[:60])], ids=["alone", "among Chinese lines"])
def test_other_languages_are_never_made_into_nonsense(language, codec, context):
    texts = OTHERS[language].split("|")
    counts = answers([*texts, "\n".join(texts)], codec, context)
    assert counts["wrong"] == 0 and counts["right"] + counts["asked"] > 0


def test_a_doubt_names_what_it_may_be():
    doubt = decode("une fillette à la plage".encode("cp1252"))
    assert doubt.text is None and {name for name, _ in doubt.candidates} >= {"Windows-1252", "Windows-1250"}
    assert "à la plage" in doubt.doubt() and "ŕ la plage" in doubt.doubt()
    assert decode(b"\x81\x8d\x8f\x90\x9d").doubt() == "in no encoding known here"


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_wide_encodings_are_certain(codec):
    text = '{"file_name": "a.png", "text": "1女孩, 挥手"}\n'
    assert decode(text.encode(codec)).text == text


@pytest.mark.parametrize(
    "head, kind",
    [
        (b"SQLite format 3\0", "SQLite"),
        (b"PK\x03\x04\x14\0", "ZIP archive"),
        (b"\x80\x04\x95\x10\0", "pickle"),
        (b"\x93NUMPY\x01", "NumPy"),
        (b"\x90\0\0\0\0\0\0\0{", "safetensors"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PAR1", "Parquet"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\n<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs", "Git LFS"),
        (b'{"file_name": "a.png"}', ""),
        ("1女孩, 挥手".encode(), ""),
        (b"PKW\n", ""),
        (b"", ""),
    ],
)
def test_kinds_of_files(head, kind):
    assert kind in file_kind(head) and bool(kind) == bool(file_kind(head))


# Garbled text


def misread(text, codec):
    """`text` after a program took its UTF-8 for `codec`; with a sign for each byte that the codec does not know."""
    if codec == "cp1252":  # as Windows does it
        return "".join(bytes([b]).decode(codec) if b not in b"\x81\x8d\x8f\x90\x9d" else chr(b) for b in text.encode())
    return text.encode().decode(codec, "replace")


@pytest.mark.parametrize("codec", ["cp1252", "latin-1", "mac_roman", "cp437"])
def test_chinese_read_as_letters_is_undone(codec):
    for text in LINES[:300]:
        assert garbled(misread(text, codec)).text == text


@pytest.mark.parametrize("codec", ["gb18030", "cp950", "cp932", "cp949", "cp1251"])
def test_chinese_read_as_other_characters_is_undone_or_refused(codec):
    undone = 0
    for text in LINES[:300]:
        wrong = misread(text, codec)
        found = garbled(wrong)
        assert found is not None or lost_characters(wrong), (text, wrong)
        assert found is None or found.text in (None, text)
        undone += found is not None and found.text == text
    assert codec != "gb18030" or undone > 50


def test_gb18030_read_as_letters_is_undone_or_refused():
    found = [garbled(text.encode("gb18030").decode("latin-1")) for text in LINES[:300]]
    assert all(wrong is not None and wrong.text in (None, text) for wrong, text in zip(found, LINES, strict=False))
    assert sum(wrong.text is not None for wrong in found) > 200


def test_garbled_twice():
    text = "1女孩, 黑色短发"
    assert garbled(misread(misread(text, "cp1252"), "cp1252")).text == text


@pytest.mark.parametrize("language", OTHERS)
def test_garbled_letters_of_other_languages(language):
    for text in OTHERS[language].split("|"):
        if not text.isascii():
            assert garbled(misread(text, "cp1252")).text == text


def test_good_text_is_not_garbled():
    good = [
        *CHINESE,
        *(OpenCC("s2t").convert(text) for text in LINES[:300]),
        "½ × ¾, 50°C ± 5°",
        "¿Qué? «Olé»",
        "★☆★",
        "锛",
    ]
    good += [text for texts in OTHERS.values() for text in texts.split("|")]
    assert [text for text in good if garbled(text) or lost_characters(text)] == []


def test_lost_characters():
    lost = ("1??, ????, ????", "1\ufffd\ufffd, 长发", "锟斤拷锟斤拷, 红裙")
    assert all(map(lost_characters, lost)) and not lost_characters("1女孩, 牌子上写着“WHAT??”, 背景:街道, 风格:水彩画")


# Files


def rewrite(folder, encode_line):
    """Save each line of captions.jsonl by `encode_line(number, text) -> bytes`; returns the captions."""
    path = folder / "captions.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_bytes(
        b"".join(encode_line(n, json.dumps(line, ensure_ascii=False)) + b"\n" for n, line in enumerate(lines))
    )
    return [line["text"] for line in lines]


@pytest.fixture
def folder(tmp_path):
    return good_folder(tmp_path / "data")


def repaired(folder, encoding=""):
    result = repair_dataset(check_dataset(folder, LIMITS, encoding=encoding), folder.parent / "out")
    return [sample.text for sample in read_dataset(result.folder).samples], result.changes


@pytest.mark.parametrize("codec, name", [("gb18030", "GB18030"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16")])
def test_a_file_in_another_encoding_is_refused_by_training_and_mended_line_by_line(folder, codec, name):
    texts = rewrite(folder, lambda _, line: line.encode())
    path = folder / "captions.jsonl"
    path.write_bytes(path.read_bytes().decode().encode(codec))
    with pytest.raises(QwenlabError, match=f"captions.jsonl.*{name}.*save the file as UTF-8"):
        read_dataset(folder)
    found, changes = repaired(folder)
    assert found == texts and len(changes) == len(texts)
    for number, (change, text) in enumerate(zip(changes, texts, strict=True), 1):
        assert change.startswith(f"captions.jsonl, line {number}: read as {name}") and text[:20] in change


def test_several_encodings_in_one_file(folder):
    codecs = ["utf-8", "gb18030", "utf-8", "gb18030", "utf-8"]
    texts = rewrite(folder, lambda number, line: line.encode(codecs[number]))
    found, changes = repaired(folder)
    assert found == texts and [change[:22] for change in changes] == [
        "captions.jsonl, line 2",
        "captions.jsonl, line 4",
    ]


def test_caption_files_are_evidence_for_each_other(tmp_path):
    texts = dict(zip("abcdef", LINES[:6], strict=True))
    pictures(tmp_path / "in", *(f"{name}.png" for name in texts))
    for name, text in texts.items():
        (tmp_path / "in" / f"{name}.txt").write_bytes(text.encode("gb18030"))
    alone = sum(decode(text.encode("gb18030")).text is None for text in texts.values())
    found, changes = repaired(tmp_path / "in")
    assert alone > 0 and found == list(texts.values()) and len(changes) == len(texts)
    assert all(change.startswith(f"{name}.txt: read as GB18030") for name, change in zip(texts, changes, strict=True))


def test_in_doubt_nothing_is_written_and_the_person_is_asked(folder):
    french = OTHERS["French"].split("|")
    lines = iter(french)
    rewrite(
        folder,
        lambda _, line: json.dumps({**json.loads(line), "text": next(lines)}, ensure_ascii=False).encode("cp1252"),
    )
    out = folder.parent / "out"
    command = ["check-dataset", str(folder), "--min-side", "64", "--fix", str(out)]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and not out.exists()
    (line,) = refused.stderr.strip().splitlines()
    assert "no copy was made" in line and "Windows-1252" in line and "Windows-1250" in line and "--encoding" in line
    mended = CliRunner().invoke(app, [*command, "--encoding", "cp1252"])
    assert mended.exit_code == 0 and [sample.text for sample in read_dataset(out).samples] == french[:5]
    unknown = CliRunner().invoke(app, [*command, "--encoding", "klingon"])
    assert unknown.exit_code == 2 and "no such encoding" in unknown.stderr


def test_damaged_utf8_is_called_so(folder):
    rewrite(
        folder, lambda number, line: line.encode().replace("孩".encode(), b"\xe5\xad") if number == 2 else line.encode()
    )
    with pytest.raises(QwenlabError, match="line 3: not UTF-8 .*bytes are missing or changed"):
        read_dataset(folder)
    found, changes = repaired(folder)
    assert len(found) == 4 and "line 3: left out, not UTF-8" in changes[0]


def test_garbled_captions_are_undone_in_the_copy_only(folder):
    texts = rewrite(folder, lambda number, line: misread(line, "cp1252").encode() if number % 2 else line.encode())
    with pytest.raises(QwenlabError, match="line 2: .*UTF-8 that was read as Windows-1252: '1"):
        read_dataset(folder)
    with pytest.raises(QwenlabError, match="line 2: .*UTF-8 that was read as Windows-1252"):
        read_captions(folder / "captions.jsonl")
    found, changes = repaired(folder)
    assert found == texts and len(changes) == 2 and all("garbled text undone" in change for change in changes)


def test_most_captions_lost_is_no_success(folder):
    rewrite(folder, lambda number, line: line.encode() if not number else line.encode("ascii", "replace"))
    result = CliRunner().invoke(
        app, ["check-dataset", str(folder), "--min-side", "64", "--fix", str(folder.parent / "out")]
    )
    assert result.exit_code == 1 and "Only 1 sample of 5 came through" in result.output
