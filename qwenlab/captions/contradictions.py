"""The rule `contradiction`: parts that cannot both be true of one character, or of the scene."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations, takewhile
from typing import NamedTuple

from qwenlab.captions.axes import COMPATIBLE, SCENE_AXES, WHOLE_TAGS, WORDS
from qwenlab.captions.finding import Finding
from qwenlab.captions.repetitions import plain
from qwenlab.captions.subjects import second_character
from qwenlab.captions.template import Caption, Part
from qwenlab.captions.words import CLOTHES, COLOUR, FEMALE, HAIR, MALE, any_of, is_group

_WORD = re.compile(any_of(WORDS))
# A tag that speaks of somebody or something else than the character.
_ELSEWHERE = re.compile(r"旁边|身旁|身边|身后|怀里|怀中|远处|对面|另一|一旁|与.*对比|倒影|玩偶|雕像|海报|壁画|照片里")
_NEGATED = re.compile(r"^(?:没有?|不|未|无)(?:戴|穿|拿|带|持)?着?(?P<what>[\u4e00-\u9fff]{1,8})$")
_MIXED = re.compile(r"渐变|挑染|双色|异色|拼色|混色|相间|撞色|条纹|格|内搭|外搭|内衬|和|与|及")
_COLOURED = re.compile(
    rf"^(?:穿着?|身穿|身着|戴着?|一头|留着)?(?P<colour>{COLOUR})的?(?P<what>[\u4e00-\u9fff]{{1,6}})$"
)
_ONE_COLOUR = re.compile(r"(?:毛发|皮毛|毛色|羽毛|鳞片|眼睛|眼眸|瞳孔|双眼|双眸|皮肤|肤色|鬃毛|尾巴)$")
_HAIR_LENGTHS = re.compile(r"(?:长|短|中长|直|卷|中|大波浪|头)?发$|马尾$|辫$|辫子$|头发$")
_LONG_HAIR = re.compile(r"(?<![中半])长长?的?[\u4e00-\u9fff]{0,3}(?:辫子?|马尾|头发)$")
_SHOES = re.compile(
    r"^(?!.*[提拎拿脱抱捧挂擦系画旁不没])(?:[\u4e00-\u9fff]{0,6}(?:鞋子?|靴子?)$|.*[穿踩蹬踏]着?[\u4e00-\u9fff]{0,5}[鞋靴])"
)
_SLEEVES = re.compile(rf"^(?:穿着?)?(?:{COLOUR})?(?P<length>[长短无])袖(?P<what>[\u4e00-\u9fffT]{{0,4}})$")
_PEOPLE = (
    ("nobody", re.compile(r"空无一人|^无人$|四下无人|^无人的")),
    ("alone", re.compile(r"^(?:单人|独自一人|只有一个?人)$")),
    ("male", re.compile(r"男性|络腮胡|(?<!假)胡子|胡须|胡茬|八字胡|喉结")),
    ("female", re.compile(r"女性|孕肚|怀孕")),
)
# Tags whose sense depends on more than their axis: the other hand, a horse that runs, how far the camera is.
_ONE_HAND = re.compile(r"左|右|单手|一手|一只手|另一")
_RIDING = re.compile(r"骑|马背|马上|车上|船|舟|轿")
_SHOT = re.compile(r"^(?:特写|近景|大特写|微距|远景|大远景|全景|鸟瞰)(?:镜头|构图|视角|拍摄|画面)?$")

Report = Callable[[Part, str, str], None]


class Said(NamedTuple):
    """What a tag states: the value on an axis, and the words that state it."""

    axis: str
    value: str
    word: str


def check_contradictions(caption: Caption) -> list[Finding]:
    """`contradiction`, reported at the later of the two parts."""
    said = [(part, said) for part in caption.parts for said in _said(part.norm)]
    axes = {fact.axis for _, fact in said}
    findings: dict[tuple[int, int], Finding] = {}

    def report(later: Part, earlier: str, now: str) -> None:
        reason = f"{now} contradicts {earlier}"
        findings.setdefault((later.start, later.end), Finding(later.start, later.end, "contradiction", reason))

    if len(axes) < len(said):  # something is stated twice
        for parts, scene in _subjects(caption):
            _check_axes(parts, scene, report)
    if "not" in axes:
        _check_negations(caption, report)
    if "people" in axes and caption.subjects:
        _check_people(caption, report)
    _check_labels(caption, report)
    return sorted(findings.values(), key=lambda finding: finding.start)


@lru_cache(maxsize=65536)  # the captions of a set share most of their tags
def _said(tag: str) -> tuple[Said, ...]:
    """All that a tag states of the character or of the scene."""
    if _ELSEWHERE.search(tag):
        return ()
    said = [Said(*pair, match.group()) for match in _WORD.finditer(tag) for pair in WORDS[match.group()]]
    if tag in WHOLE_TAGS:
        said.append(Said(*WHOLE_TAGS[tag], tag))
    if _LONG_HAIR.search(tag):
        said.append(Said("hair length", "long", tag))
    if _SHOES.search(tag):
        said.append(Said("feet", "shod", tag))
    if sleeves := _SLEEVES.match(tag):
        said.append(Said(f"sleeves of {sleeves['what']}", sleeves["length"], tag))
    if coloured := _coloured(tag):
        said.append(Said(f"colour of {coloured[0]}", coloured[1], tag))
    if negated := _NEGATED.match(tag):
        said.append(Said("not", negated["what"], tag))
    said += [Said("people", value, tag) for value, pattern in _PEOPLE if pattern.search(tag)]
    return tuple(said)


def _coloured(tag: str) -> tuple[str, str] | None:
    """(thing, colour) of a tag about something that has one colour only: hair, fur, eyes, a garment."""
    match = _COLOURED.match(tag)
    if match is None or _MIXED.search(tag):
        return None
    what, colour = match["what"], match["colour"].removesuffix("色")
    if _HAIR_LENGTHS.search(what):
        return "hair", colour
    return (what, colour) if _ONE_COLOUR.search(what) or CLOTHES.search(what) else None


def _subjects(caption: Caption) -> Iterator[tuple[list[Part], bool]]:
    """The parts that speak of the same subject, and whether that is the scene; else it is one character."""
    yield [part for part in caption.parts if part.kind != "empty"], True
    if not caption.subjects:
        yield [part for part in caption.parts if part.kind not in ("empty", "background", "style")], False
    for index, subject in enumerate(caption.subjects):
        if not is_group(subject):
            alone = len(caption.subjects) == 1
            own = [p for p in caption.parts if p.character == index or (alone and p.kind == "detail")]
            yield list(takewhile(lambda part: second_character(part) is None, own)), False


def _check_axes(parts: list[Part], scene: bool, report: Report) -> None:
    seen: dict[str, dict[str, tuple[str, Part]]] = {}  # axis -> value -> where it was said first
    for part in parts:
        if part.kind == "anchor" and not scene:
            continue
        for axis, value, word in _said(part.norm):
            if (axis in SCENE_AXES) != scene or axis in ("not", "people"):
                continue
            values = seen.setdefault(axis, {})
            if value in values or _skipped(axis, part):
                continue
            for other, (earlier_word, earlier) in values.items():
                if _exclude(axis, other, value) and (earlier is not part or axis == "time"):
                    report(part, earlier_word, word)
                    break
            values[value] = (word, part)


def _exclude(axis: str, one: str, other: str) -> bool:
    if axis.startswith("colour"):
        return one not in other and other not in one
    return frozenset((axis, one, other)) not in COMPATIBLE


def _skipped(axis: str, part: Part) -> bool:
    """True where a word of this axis says nothing about the character."""
    if axis in ("hand", "both hands", "empty hands"):
        return bool(_ONE_HAND.search(part.norm))
    if axis == "posture":
        return bool(_RIDING.search(part.norm))
    if axis == "distance":
        return not _SHOT.match(part.norm)
    if axis in ("style", "tone"):
        return part.kind != "style" and part.norm not in WORDS
    if axis in ("hair length", "hair form", "hair do"):
        return part.kind not in ("hair", "detail") and not HAIR.search(part.norm)
    if axis == "garment":
        return part.kind != "clothes"
    return axis != "weather" and part.kind == "style"


def _check_negations(caption: Caption, report: Report) -> None:
    """戴帽子 and 没戴帽子 of the same character."""
    for parts, scene in _subjects(caption):
        for part in () if scene else parts:
            match = _NEGATED.match(part.norm)
            for other in parts if match else ():
                if other is not part and other.norm.endswith(match["what"]) and not _NEGATED.match(other.norm):
                    report(max(part, other, key=lambda p: p.start), other.norm, part.norm)


def _check_people(caption: Caption, report: Report) -> None:
    """An empty place with somebody in it, 单人 of two, a beard on a girl."""
    first, several = caption.anchors[0].norm, len(caption.subjects) > 1
    group = is_group(caption.subjects[0])
    female, male = FEMALE.search(caption.subjects[0]), MALE.search(caption.subjects[0])
    for part in caption.parts:
        for axis, value, _ in () if part.kind == "anchor" else _said(part.norm):
            if axis != "people":
                continue
            if value == "nobody":
                report(part, first, part.norm)
            elif value == "alone" and several:
                report(part, caption.anchors[1].norm, part.norm)
            elif part.kind in ("background", "style") or several or group or (female and male):
                continue
            elif (value == "male" and female) or (value == "female" and male):
                report(part, first, part.norm)


def _check_labels(caption: Caption, report: Report) -> None:
    """Two backgrounds or two styles with labels: one picture has one of each."""
    labelled = [part for part in caption.parts if part.label]
    if len({part.label for part in labelled}) == len(labelled):
        return
    for earlier, later in combinations(labelled, 2):
        same = earlier.label == later.label and earlier.kind in ("background", "style")
        if same and "empty" not in (earlier.kind, later.kind) and plain(earlier) != plain(later):
            report(later, f"{earlier.label}:{earlier.norm}", f"{later.label}:{later.norm}")
