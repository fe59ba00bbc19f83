"""Captions that became nonsense before they were saved: decoded in a wrong encoding, or with characters lost.

Nothing here is guessed: a text counts as garbled when its bytes in the wrong encoding are valid UTF-8 throughout, or
UTF-7 with the characters of captions, which next to no other text is by chance, and it is undone by the same bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from qwenlab.sniffing import (
    CERTAIN,
    HIGH_BYTES,
    LONG_SEQUENCE,
    WESTERN_PUNCTUATION,
    decode,
    from_utf7,
    strangeness,
)

_LOST = re.compile(r"\ufffd|锟斤拷|烫烫烫|\?{2,}")
_LOST_SHARE, _LOST_COUNT = 1 / 4, 4  # of the characters: fewer question marks may be meant
_LATIN_RUN = re.compile(r"[\x80-\xff\u0152-\u0192\u2018-\u2122]{4}")
_ALPHABETS = {
    "Windows-1252": "cp1252", "Mac Roman": "mac_roman", "code page 437": "cp437", "Windows-1251": "cp1251",
    "Windows-1250": "cp1250",
}  # fmt: skip
_CP1252 = frozenset(bytes(range(256)).decode("cp1252", "ignore"))
_EAST_ASIAN = {"GB18030 (GBK)": "gb18030", "Big5": "cp950", "Shift JIS": "cp932", "EUC-KR": "cp949"}


class Garbled(NamedTuple):
    """How a text came to be nonsense, and the text before; None when it cannot be had back exactly."""

    how: str
    text: str | None


def garbled(text: str) -> Garbled | None:
    """Whether a text is UTF-8 that was read in another encoding (女孩 as å¥³å­©); None for any other text."""
    found, undone = None, text
    for _ in range(3):  # some files went through it more than once
        step = _garbled_once(undone)
        if step is None:
            break
        found = step
        if step.text is None:
            break
        undone = step.text
    return found


def _garbled_once(text: str) -> Garbled | None:
    if text.isascii():
        undone = from_utf7(text)
        return Garbled("UTF-7 that was read as ASCII", undone) if undone else None
    east_asian = any("\u3041" <= character <= "\ud7a3" or character == "\ufffd" for character in text)
    for name, codec in (_EAST_ASIAN if east_asian else _ALPHABETS).items():
        data = _encoded(text, codec)
        high, long = len(HIGH_BYTES.findall(data)), sum(map(len, LONG_SEQUENCE.findall(data)))
        try:
            undone = data.decode("utf-8")
        except UnicodeDecodeError:
            undone = ""
        plain = sum(not character.isascii() for character in undone)
        if undone and plain and (2 * long >= high or codec in ("cp1252", "mac_roman") and _accents(undone)):
            return Garbled(f"UTF-8 that was read as {name}", undone)
        if long >= 9 and 2 * long >= high:
            return Garbled(f"UTF-8 that was read as {name}, with losses", None)
    return _latin_garbled(text)


def _encoded(text: str, codec: str) -> bytes:
    """The bytes that gave a text, 0xFF where one is lost; none when the codec cannot have given it.

    Windows' own decoder takes the five bytes that Windows-1252 leaves undefined for control characters.
    """
    try:
        return b"\xff".join(part.encode(codec) for part in text.split("\ufffd"))
    except UnicodeEncodeError:
        if codec != "cp1252" or not all(character < "\u0100" or character in _CP1252 for character in text):
            return b""
        return b"".join(character.encode("cp1252" if character in _CP1252 else "latin-1") for character in text)


def _accents(text: str) -> bool:
    return all(character.isascii() or character.isalpha() or character in WESTERN_PUNCTUATION for character in text)


def _latin_garbled(text: str) -> Garbled | None:
    """Chinese, Japanese or Korean bytes that were read as Latin letters: Å®º¢ for 女孩."""
    if not _LATIN_RUN.search(text) or strangeness(text, "cp1252") <= CERTAIN:
        return None
    decoded = decode(_encoded(text, "cp1252"))
    if decoded.text is None and not decoded.candidates:
        return None
    return Garbled(f"{decoded.encoding or 'East Asian text'} that was read as Windows-1252", decoded.text)


def lost_characters(text: str) -> str:
    """What stands where characters were lost for good (\ufffd, 锟斤拷, ????); "" when none were."""
    found = _LOST.findall(text)
    marks = sum(len(match) for match in found if match[0] == "?")
    if marks < max(_LOST_COUNT, _LOST_SHARE * len("".join(text.split()))):
        found = [match for match in found if match[0] != "?"]
    return found[0] if found else ""
