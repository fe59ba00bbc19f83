"""The rule `repeated-tag`: a tag that says again what another one has said."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import combinations

from qwenlab.captions.finding import Edit, Finding
from qwenlab.captions.template import Caption, Part
from qwenlab.captions.words import CLOTHES, COLOUR, HAIR, WORN

# One wording of a tag -> others, all without particles.
_WORDINGS = {
    "看书": "读书 阅读 看着书",
    "跑步": "奔跑 跑",
    "站立": "站",
    "坐": "坐下",
    "光脚": "赤脚 赤足 光足",
    "微笑": "面带微笑 笑 面露微笑",
    "长发": "长头发",
    "短发": "短头发",
    "跳舞": "舞蹈 起舞",
    "走路": "步行 行走",
    "闭眼": "双目紧闭 眼睛闭 闭眼睛 双眼紧闭",
}
_SAME = {other: word for word, others in _WORDINGS.items() for other in others.split()}
_DRESSED = re.compile(
    r"^(?:身穿|身着|穿着|穿|头戴|佩戴|戴着|戴|留着|一头|手里拿着|手中拿着|手拿着|手持着|手拿|拿着|握着|手握|手持)"
)
_ECHO = re.compile(r"([\u4e00-\u9fff]{2,})\1")
_MOST_ALIKE = 200  # comparing is quadratic; a caption with more tags of one kind is broken anyway
_COLOUR_WORD, _SUFFIX = re.compile(rf"({COLOUR.removesuffix('(?:色)?')})色"), re.compile(r"([裙裤鞋帽袜])子$")
_NEGATION = re.compile(r"[没不无未非别]")
_PARTICLES = re.compile(r"[的着了地得\s]")


def plain(part: Part) -> str:
    """What a tag says, to compare it with others."""
    return _plain(part.norm, part.kind in ("background", "style"))


@lru_cache(maxsize=65536)  # the captions of a set share most of their tags
def _plain(tag: str, scene: bool) -> str:
    """What a tag says, without particles and ways to put it: 穿着红色的裙子 -> 红色裙子."""
    text = _PARTICLES.sub("", _DRESSED.sub("", tag) or tag)
    text = _SUFFIX.sub(r"\1", _COLOUR_WORD.sub(r"\1", text))
    if scene and len(text) > 3:
        text = re.sub(r"(?:背景|风格|画风)$", "", text)
    return _SAME.get(text, text)


def check_repetitions(caption: Caption) -> list[Finding]:
    """`repeated-tag`: a tag that says again what an earlier one of the same character, or of the scene, has said."""
    findings = []
    parts = [part for part in caption.parts if part.kind != "empty"]
    said = [plain(part) for part in parts]
    done: set[int] = set()
    candidates = (pair for same in _same_end(said) for pair in combinations(same, 2))
    for i, j in candidates:
        one, other = said[i], said[j]
        if not (one.endswith(other) or other.endswith(one)) or i in done or j in done:
            continue
        if not _comparable(parts[i], parts[j], caption):
            continue
        again = _says_again(parts[i], one, parts[j], other)
        if again is None:
            continue
        shorter, same = again
        longer = parts[j] if shorter is parts[i] else parts[i]
        done.add(i if shorter is parts[i] else j)
        reason = f"{shorter.norm} is said already" if same else f"{shorter.norm} is part of {longer.norm}"
        edits = _removal(caption, shorter)
        findings.append(Finding(shorter.outer, shorter.end, "repeated-tag", reason, "leave it out", edits))
    for part in parts:
        echo = _echo(part.norm)
        if echo:
            start, end = part.start + echo.start(), part.start + echo.end()
            edits = (Edit(start, end, caption.text[start : start + len(echo[1])]),)
            findings.append(Finding(start, end, "repeated-tag", f"{echo[1]} twice in a row", echo[1], edits))
    return sorted(findings, key=lambda finding: finding.start)


def _same_end(said: list[str]) -> list[list[int]]:
    """Groups of tags that may say the same: only those with the same last character can."""
    if len({text[-1:] for text in said}) == len(said):
        return []
    ends: dict[str, list[int]] = {}
    for index, text in enumerate(said):
        group = ends.setdefault(text[-1:], [])
        if len(group) < _MOST_ALIKE:
            group.append(index)
    return list(ends.values())


@lru_cache(maxsize=65536)
def _echo(tag: str) -> re.Match | None:
    """长发长发, but not 哗啦哗啦 or 很多很多, which Chinese doubles by itself."""
    echo = _ECHO.search(tag)
    doubled = echo and (len(echo[1]) > 2 or HAIR.search(echo[1]) or CLOTHES.search(echo[1]))
    return echo if doubled and len(set(echo[1])) > 1 else None


def _comparable(one: Part, other: Part, caption: Caption) -> bool:
    if one.kind == "anchor" or other.kind == "anchor":
        return one.kind == other.kind and one.norm == other.norm and one.character + 1 == other.character
    if one.character is None or other.character is None:
        return len(caption.subjects) <= 1 or one.character == other.character
    return one.character == other.character


def _says_again(earlier: Part, one: str, later: Part, other: str) -> tuple[Part, bool] | None:
    """(the part to leave out, whether both say the same), or None when each says something of its own."""
    if one == other:
        keep_later = later.label and not earlier.label and later.kind in ("background", "style")
        return (earlier if keep_later else later), True
    short, long, part = (one, other, earlier) if len(one) < len(other) else (other, one, later)
    if len(short) < 2 or earlier.kind != later.kind:
        return None
    rest = long[: -len(short)]
    if _NEGATION.search(rest):
        return None  # 帽子 and 没戴帽子: a contradiction, not a repetition
    described = HAIR.search(short) or CLOTHES.search(short) or WORN.search(short)
    return (part, False) if described or re.fullmatch(COLOUR, rest) else None


def _removal(caption: Caption, part: Part) -> tuple[Edit, ...]:
    """The edit that takes a part out together with one separator; a label that others stand under stays."""
    parts = caption.parts
    index = parts.index(part)
    follower = parts[index + 1] if index + 1 < len(parts) else None
    if (
        part.label
        and part.kind == "detail"
        and follower is not None
        and follower.kind == "detail"
        and not follower.label
    ):
        return (Edit(part.start, follower.start, ""),)
    if index > 0:
        return (Edit(parts[index - 1].end, part.end, ""),)
    return (Edit(part.outer, follower.outer, ""),) if follower is not None else ()
