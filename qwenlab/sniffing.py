"""What the bytes of a file are: which kind of file, and in which encoding its text was saved.

A wrong encoding seldom fails: Windows-1252 text reads as Chinese in GB18030, and only rare characters give it away. So
bytes are read in every encoding in question, and a reading counts when it looks like writing: common characters, the
letters of one alphabet in a word. One such reading, with which charset-normalizer agrees, is an answer. Anything else
is a doubt, and a person decides.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

#: What people call an encoding -> Python's codec.
ENCODINGS = {
    "GB18030 (GBK)": "gb18030", "Big5": "cp950", "Shift JIS": "cp932", "EUC-JP": "euc_jp", "EUC-KR": "cp949",
    "Windows-1252": "cp1252", "Windows-1250": "cp1250", "Windows-1251": "cp1251", "Windows-1253": "cp1253",
    "Windows-1254": "cp1254", "ISO-8859-2": "iso8859_2", "KOI8-R": "koi8_r",
}  # fmt: skip
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
#: How files of other kinds begin -> what they are.
_KINDS = (
    (b"SQLite format 3\0", "an SQLite database"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"GGUF", "a GGUF model"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (.xls, .doc)"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\0", "a Windows program"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file (run git lfs pull)"),
    (b"{\\rtf", "a rich text document (.rtf)"),
)
SAFETENSORS = "a safetensors file"
HEAD = 512  # bytes of a file that tell its kind
# The first file of a ZIP archive tells which kind it is.
_ZIPS = (
    (b".npy", "a file of NumPy arrays (.npz)"),
    (b"data.pkl", "a pickled torch file (.pt, .ckpt), which can run any code when it is opened"),
    (b"[Content_Types].xml", "an Office document (.docx, .xlsx)"),
)
_ZIP = "a ZIP archive, such as a pickled torch file (.pt, .ckpt), which can run any code when it is opened"
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95(}\]c\x8a\x8cq]")
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body|\?xml)", re.IGNORECASE)

_PUNCTUATION = frozenset("，。、：；！？“”‘’（）《》〈〉「」『』【】…—·～\u3000") | {
    chr(c) for c in range(0xFF01, 0xFF5F)
}
WESTERN_PUNCTUATION = frozenset("‘’“”„–—…«»€°·×¡¿§\u00a0")
_SPLIT_WORD = re.compile(r"[^\W\d_][‘“”„–—…«»€°·×¡¿§\u00a0][^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
HIGH_BYTES = re.compile(rb"[\x80-\xff]")
_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")  # of UTF-8
LONG_SEQUENCE = re.compile(rb"[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
CERTAIN, _POSSIBLE = 0.25, 0.5  # shares of strange characters up to which a reading is certain, or possible
#: Characters of captions in the template; a wrong reading hits next to none of them.
_EVERYDAY = (
    "女男孩人老小长短发卷马尾色红黄蓝绿白黑紫橙粉金棕灰衣裙裤鞋帽衫袍毛戴穿手脚指双单眼脸头身全半正侧背面景风格细节画"
    "站坐走跑跳立挥持拿抱举笑看着在的花草树园海山天空夜雪雨光水彩油墨写真"
)
_FAMILIAR = 0.4
_SHIFTED = re.compile(r"\+[A-Za-z0-9+/]{3}")  # where UTF-7 leaves ASCII


class Decoded(NamedTuple):
    """Text of bytes: None when it is in doubt. encoding: as people call it. candidates: possible (encoding, text)."""

    text: str | None
    encoding: str = ""
    candidates: tuple[tuple[str, str], ...] = ()

    def doubt(self) -> str:
        """What the bytes may be, for a message."""
        if not self.candidates:
            return "in no encoding known here"
        return "perhaps " + " or ".join(f"{name} ({shortened(text)})" for name, text in self.candidates[:3])


def file_kind(head: bytes) -> str:
    """What kind of file begins so, with its article; "" for text and what is not known here."""
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 2**28:
        return SAFETENSORS  # first of all: its first bytes are a number, which may look like any other kind
    for start, kind in _KINDS:
        if head.startswith(start):
            return kind
    if head.startswith(b"PK\x03\x04"):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return next((kind for end, kind in _ZIPS if name.endswith(end)), _ZIP)
    if _PICKLE.match(head):
        return "a Python pickle, which can run any code when it is opened"
    if _WEB_PAGE.match(head):
        return "a web page saved in place of the file"
    return ""


def kind_of(path: str | Path) -> str:
    """`file_kind` of a file; "" when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file_kind(file.read(HEAD))
    except OSError:
        return ""


def wide_encoding(head: bytes) -> str:
    """The codec of a file that begins with a byte order mark, or whose zeros show UTF-16 or UTF-32; "" for others."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    quarters = [any(head[place : len(head) // 4 * 4 : 4]) for place in range(4)]
    if quarters in ([True, False, False, False], [True, True, False, False]):
        return "utf-32-le"
    if quarters in ([False, False, False, True], [False, False, True, True]):
        return "utf-32-be"
    if len(head) < 4 or head[0] and head[1]:
        return ""
    zeros = [head[place::2].count(0) / len(head[place::2]) for place in (0, 1)]
    if max(zeros) < 0.3 or min(zeros) > 0.05:
        return ""
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def decode(data: bytes, context: str = "") -> Decoded:
    """The text of bytes that are UTF-8, UTF-16, or read as writing in one other encoding only.

    context: text of the same file, whose characters make a reading likelier that has them, too.
    """
    wide = wide_encoding(data[:HEAD])
    try:
        text = data.decode(wide or "utf-8")
        return Decoded(text, wide.upper().removesuffix("-SIG") or "UTF-8")
    except UnicodeDecodeError:
        pass
    found = [] if wide else _readings(data)
    ranked = sorted(((_familiar(text, context), name, text) for name, text, _ in found), reverse=True)
    if ranked and ranked[0][0] >= _FAMILIAR and (len(ranked) == 1 or 2 * ranked[1][0] <= ranked[0][0]):
        _, name, text = ranked[0]
        return Decoded(text, name)
    if len(found) == 1 and found[0][2]:
        from charset_normalizer import from_bytes

        name, text, _ = found[0]
        second = from_bytes(data).best()
        if second is not None and str(second) == text:
            return Decoded(text, name)
    return Decoded(None, candidates=tuple((name, text) for name, text, _ in found))


def from_utf7(text: str) -> str | None:
    """What Chinese in UTF-7 says (+WXNbaQ- is 女孩); None for any other text.

    "cat+dog" is valid UTF-7, too, for cat and one rare character: so two everyday characters of captions are asked for.
    """
    if not _SHIFTED.search(text):
        return None
    try:
        plain = text.encode("ascii").decode("utf-7")
    except UnicodeError:
        return None
    return plain if len(set(plain).intersection(_EVERYDAY)) >= 2 else None


def _familiar(text: str, context: str) -> float:
    """The share of the special letters of a text, at least three, that stand in captions or in `context`."""
    letters = {character for character in text if not character.isascii() and character.isalpha()}
    familiar = letters & ({*_EVERYDAY} | {*context})
    return len(familiar) / len(letters) if len(familiar) >= 3 else 0.0


def damaged_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8 but for a few: most of those above 127 belong to its sequences.

    Sequences of two bytes are common in GB18030 by chance, longer ones are not.
    """
    high, whole, long = (sum(map(len, pattern.findall(data))) for pattern in (HIGH_BYTES, _SEQUENCE, LONG_SEQUENCE))
    return high > 0 and (2 * long >= high or 4 * whole >= 3 * high)


def _readings(data: bytes) -> list[tuple[str, str, bool]]:
    """(encoding, text, whether it is certainly writing) of each encoding that is possible; equal texts once."""
    found: list[tuple[str, str, bool]] = []
    if damaged_utf8(data):
        return found
    for name, codec in ENCODINGS.items():
        try:
            text = data.decode(codec)
        except UnicodeDecodeError:
            continue
        strange = strangeness(text, codec)
        if strange <= _POSSIBLE and text not in [known for _, known, _ in found]:
            found.append((name, text, strange <= (CERTAIN if codec in _STRANGE else 0)))
    return sorted(found, key=lambda reading: not reading[2])


def _scripts(text: str) -> set[str]:
    letters = {character for character in text if character.isalpha()}
    return {unicodedata.name(letter, "?").split()[0].partition("-")[0] for letter in letters}


def strangeness(text: str, codec: str) -> float:
    """The share of what is not ASCII in a text that is unusual in writing, 0 to 1; 1 for what no text holds."""
    special = [character for character in text if not character.isascii()]
    if any(unicodedata.category(character) in ("Cc", "Co", "Cn", "Cs") for character in special):
        return 1.0
    if codec not in _STRANGE:
        return _strange_letters(text, special)
    words = [character for character in special if character not in _PUNCTUATION]
    broken = sum(map(_is_mixed, _WORD.findall(text)))
    return min(1.0, (_STRANGE[codec](words) + broken) / len(words)) if words else 1.0


def _is_mixed(word: str) -> bool:
    """Whether a word is Latin but for a Chinese character or two: gar鏾n."""
    return not word.isascii() and 2 * sum(letter.islower() and letter.isascii() for letter in word) >= len(word)


def _rare(characters: Iterable[str], codec: str, last: int) -> int:
    """How many stand outside the rows of a character set, up to `last`, that hold its common characters."""
    codes = [character.encode(codec, "ignore") for character in characters]
    return sum(len(code) != 2 or not 0xA4 <= code[0] <= last for code in codes)


def _strange_chinese(words: list[str]) -> int:
    return _rare(words, "gb2312", 0xD7) + sum("\u3041" <= character <= "\u30fa" for character in words)


def _strange_japanese(words: list[str]) -> int:
    if not any("\u3041" <= character <= "\u30fa" for character in words):
        return len(words)  # a caption without any kana is Chinese
    return _rare((character for character in words if character not in "々ー"), "euc_jp", 0xCF)


_STRANGE: dict[str, Callable[[list[str]], int]] = {
    "gb18030": _strange_chinese,
    "cp950": lambda words: _rare(words, "big5", 0xC6),
    "cp932": _strange_japanese,
    "euc_jp": _strange_japanese,
    "cp949": lambda words: _rare(words, "euc_kr", 0xC8),
}


def by_chance(text: str, codec: str) -> tuple[str, bool] | None:
    """What a text that was read as UTF-8 says in an East Asian encoding, and whether that is certainly meant.

    女士 in GB18030 is valid UTF-8, and reads as Ůʿ. None where UTF-8 cannot be chance, or the other reading is no
    writing.
    """
    data = text.encode("utf-8", "replace")
    if text.isascii() or codec not in _STRANGE or LONG_SEQUENCE.search(data):
        return None
    try:
        other = data.decode(codec)
    except UnicodeDecodeError:
        return None
    if strangeness(other, codec) > CERTAIN:
        return None
    return other, strangeness(text, "utf-8") > 0


def _strange_letters(text: str, special: list[str]) -> float:
    """For alphabets: other signs, words in two alphabets, capitals inside of words, more accents than letters."""
    if not any(character.isalpha() for character in special):
        return _POSSIBLE if WESTERN_PUNCTUATION.issuperset(special) else 1.0  # 30° or a girl’s hand: never certain
    strange = sum(not character.isalpha() and character not in WESTERN_PUNCTUATION for character in special)
    strange += len(_SPLIT_WORD.findall(text))
    for word in _WORD.findall(text):
        if not word.isascii():
            own, scripts = sum(not letter.isascii() for letter in word), _scripts(word)
            odd = len(scripts) > 1 or not (word.islower() or word.isupper() or word.istitle())
            odd |= scripts == {"LATIN"} and 4 * own > 3 * len(word) > 3
            strange += own * odd
    return min(1.0, strange / len(special))


def shortened(text: str, length: int = 24) -> str:
    """The first characters of a text that are not ASCII, with what stands around them, fit to print."""
    start = next((place for place, character in enumerate(text) if not character.isascii()), 0)
    part = text[max(0, start - 2) :][:length]
    return "".join(character if character.isprintable() else "\ufffd" for character in part)
