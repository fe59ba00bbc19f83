"""One form of a caption for all other rules: half width, simplified, quotations hidden, every position kept.

The characters that had to be changed are themselves findings: full-width punctuation and traditional characters.
"""

from __future__ import annotations

import re
from functools import lru_cache

from qwenlab.captions.finding import Edit, Finding

#: Stands for each character of a quotation, so that no rule looks into text that the picture shows.
HIDDEN = "\u25a1"

_QUOTED = re.compile(r"“[^”]{0,200}”|‘[^’]{0,200}’|「[^」]{0,200}」|『[^』]{0,200}』|《[^》]{0,200}》|\"[^\"]{0,200}\"")
_HALF = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", ord("。"): ","}
_FULL = re.compile("[" + "".join(map(chr, _HALF)) + "]")
_LIST_MARK_SEPARATES = re.compile(r"^\s*\d{1,3}[^,，、:：]{1,8}、")
_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\u3041-\u30fa]+")
_KANA = re.compile(r"[\u3041-\u30fa]")

# GB 2312 holds the characters of simplified writing, and these besides, which OpenCC rewrites with good reason.
_TRADITIONAL_IN_GB2312 = frozenset("後於夥菸麽榘麴醣")
# Some are both, according to the word: 饼乾 but 乾坤, 象徵 but 文徵明, 坐著 but 名著.
_BY_WORD = re.compile(
    r"乾(?=[净燥杯枯草涸果脆粮洗])|(?<=[饼晒烘擦吹风肉豆])乾|(?<=[特象])徵"
    r"|(?<=[站坐走看拿穿戴抱握举提捧骑躺趴蹲跪靠背撑牵望听笑哭唱跳跑睡吃喝写画弹吹拉推追等开挂摆放飘飞闪盯朝向对沿随披叼"
    r"端扛托夹扶指踩踏围绕系绑含咬舔闻摸])著(?![名作称述书])|妳"
)
_SIMPLE = {"乾": "干", "徵": "征", "著": "着", "妳": "你"}


def normalise(text: str) -> tuple[str, list[Finding]]:
    """A copy of `text` of the same length for the rules to read, and the findings made on the way.

    Traditional characters are recognised and rewritten with OpenCC's dictionaries (package opencc-py), in context:
    乾坤 and 著名 stay.
    """
    plain = _QUOTED.sub(lambda match: HIDDEN * len(match.group()), text)
    if _LIST_MARK_SEPARATES.search(plain) or ("," not in plain and "，" not in plain and plain.count("、") > 1):
        plain = plain.replace("、", "，")  # 、 lists words inside a tag; here it stands between tags
    half, findings = _half_width(plain, text)
    simple, traditional = _simplify(half)
    return simple, findings + traditional


def _half_width(text: str, original: str) -> tuple[str, list[Finding]]:
    marks = list(_FULL.finditer(text))
    if not marks:
        return text, []
    shown = "".join(dict.fromkeys(original[mark.start()] for mark in marks)).replace("\u3000", "\u2423")
    count = f" ({len(marks)} places)" if len(marks) > 1 else ""
    finding = Finding(
        marks[0].start(),
        marks[0].end(),
        "fullwidth-punctuation",
        f"full-width {shown}{count}: other tokens than the template's half-width , and :",
        _half_suggestion(marks[0].group()),
        tuple(Edit(mark.start(), mark.end(), _replacement(text, mark.start())) for mark in marks),
    )
    return text.translate(_HALF), [finding]


def _half_suggestion(mark: str) -> str:
    return "a space" if mark == "\u3000" else _HALF[ord(mark)]


def _replacement(text: str, at: int) -> str:
    mark, after = text[at], text[at + 1 :]
    if mark == "。" and not after.strip():
        return ""
    if mark in "，；。":
        return "," if after[:1].isspace() else ", "
    if mark == "\u3000" and after[:1].isspace():
        return ""
    return _HALF[ord(mark)]


def _simplify(text: str) -> tuple[str, list[Finding]]:
    if _in_gb2312(text) and not _TRADITIONAL_IN_GB2312.intersection(text) and not _BY_WORD.search(text):
        return text, []
    findings, pieces, done = [], [], 0
    for match in _WORD.finditer(text):
        word = match.group()
        simple = _simple_word(word)
        if simple != word:
            start, end = match.span()
            reason = f"traditional {_changed(word, simple)}: other tokens than the simplified form"
            edits = (Edit(start, end, simple),)
            findings.append(Finding(start, end, "traditional-character", reason, simple, edits))
            pieces += [text[done:start], simple if len(simple) == len(word) else word]
            done = end
    return "".join(pieces) + text[done:], findings


def _in_gb2312(text: str) -> bool:
    try:
        text.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=65536)
def _simple_word(word: str) -> str:
    """The simplified form of a run of Chinese characters; the word itself when none is certainly traditional."""
    if _KANA.search(word):
        return word  # Japanese: another rule's
    if any(map(_is_traditional, word)):
        word = _converter().convert(word)
    return _BY_WORD.sub(lambda match: _SIMPLE[match.group()], word)


@lru_cache(maxsize=65536)
def _is_traditional(character: str) -> bool:
    if _in_gb2312(character):
        return character in _TRADITIONAL_IN_GB2312
    simple = _converter().convert(character)
    return simple != character and all("\u4e00" <= c <= "\u9fff" for c in simple)


@lru_cache(maxsize=1)
def _converter():
    from opencc import OpenCC  # loaded only when a caption needs it

    return OpenCC("t2s")


def _changed(word: str, simple: str) -> str:
    if len(word) != len(simple):
        return word
    return "".join(dict.fromkeys(old for old, new in zip(word, simple, strict=True) if old != new))
