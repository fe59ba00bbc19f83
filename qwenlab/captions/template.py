"""The caption template: read a caption into its parts with their positions, and build one.

    [编号][性别], [发型], [服装], [动作], [道具], 背景:[场景], 风格:[艺术风格], 细节:[特殊要求]

The number is the character's own, not a count: 1女孩 and 2男孩 are two characters of one picture, 3家庭 is a group.
Tags between two of them belong to the first. Reading is tolerant (full-width marks, missing slots, any order), `build`
is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from qwenlab.captions.normal import normalise
from qwenlab.captions.words import CLOTHES, HAIR, LIVING, PROP, STYLE
from qwenlab.errors import QwenlabError

#: Label of a section in a caption -> kind of part.
LABELS = {
    "背景": "background", "场景": "background", "环境": "background", "地点": "background",
    "风格": "style", "画风": "style", "艺术风格": "style",
    "细节": "detail", "特写": "detail", "要求": "detail", "特殊要求": "detail",
    "人物": "who", "角色": "who", "主体": "who", "主角": "who",
    "光线": "detail", "光影": "detail", "镜头": "detail", "构图": "detail", "视角": "detail", "表情": "detail",
    "时间": "detail", "色调": "detail", "氛围": "detail", "文字": "detail", "画面": "detail", "质感": "detail",
    "发型": "hair", "头发": "hair", "服装": "clothes", "衣服": "clothes", "动作": "action", "姿势": "action",
    "道具": "prop",
}  # fmt: skip
_LABEL = re.compile(rf"\s*(?P<label>{'|'.join(sorted(LABELS, key=len, reverse=True))})\s*:\s*")
#: Kinds of part that belong to a character; the others belong to the scene.
OWN_KINDS = frozenset({"anchor", "hair", "clothes", "action", "prop"})
_SEPARATOR = re.compile(r"[,;\n]")

# What a number counts or measures, so that it is no character's; later tags may count things: 3朵玫瑰, 2层蛋糕, 85mm.
_NEVER = re.compile(
    r"岁|年级|年代|世纪|个月|月(?=[份初末底\d]|$)|点钟|天(?=$|后|前)|毫米|厘米|头身|分裤|寸(?!头)"
    r"|维(?=空间|动画|渲染|码)|代目|版(?=$|本)"
    r"|(?:[DdKkPpBbGTmsh]|mm|cm|km|fps|px|st|nd|rd|th)(?![A-Za-z])"
)
_UNIT = re.compile(
    r"[年月日点时分秒米克斤元块世代楼层号线格根朵本张片颗粒把支枝杯碗盘件双条级比种度倍圈排列行步指趾座栋间扇盏"
    r"束串滴瓶盒箱袋包台辆艘架幅页章]"
)
_ANCHOR = re.compile(
    r"(?P<number>\d{1,3})\s*(?P<counter>(?:[个名位只条匹头对群尊尾峰](?=[\u4e00-\u9fff])|号(?!码))?)"
    r"(?P<subject>[\u4e00-\u9fff].*|[A-Za-z].*)"
)
_FORBIDDEN = re.compile(r"[,，:：;；\n]")


class Part(NamedTuple):
    """One tag. `text[start:end]` is its content, `text[outer:end]` the same with its label (背景:).

    kind: "anchor", "hair", "clothes", "action", "prop", "background", "style", "detail" or "empty".
    character: index of the character it belongs to; None for the scene, and before the first anchor.
    label: the label as the caption has it, "" for a tag without one.
    norm: the content normalised (see `qwenlab.captions.normal`), as long as text[start:end].
    """

    kind: str
    text: str
    start: int
    end: int
    outer: int
    label: str
    norm: str
    character: int | None = None


@dataclass(frozen=True)
class Character:
    """One numbered subject and what is said of it; each slot holds its tags in the order of the caption."""

    number: int
    subject: str
    hair: tuple[str, ...] = ()
    clothes: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    prop: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The number and the subject: 1女孩."""
        return f"{self.number}{self.subject}"


@dataclass(frozen=True)
class Caption:
    """A caption in parts; subjects: the normalised noun of each anchor. The slots are read off the parts on demand."""

    text: str
    norm: str
    parts: tuple[Part, ...]
    subjects: tuple[str, ...] = ()

    @cached_property
    def anchors(self) -> tuple[Part, ...]:
        """The parts that open a character."""
        return tuple(part for part in self.parts if part.kind == "anchor")

    @cached_property
    def characters(self) -> tuple[Character, ...]:
        """The numbered subjects, in order."""
        slots: list[dict] = []
        for part in self.parts:
            if part.kind == "anchor":
                match = anchor_match(part.norm, first=part is self.parts[0])
                slots.append({"number": int(match["number"]), "subject": part.text[match.start("subject") :]})
            elif part.character is not None:
                own = slots[part.character]
                own[part.kind] = (*own.get(part.kind, ()), part.text)
        return tuple(Character(**own) for own in slots)

    @property
    def loose(self) -> tuple[str, ...]:
        """Tags of a character that has no number: all of them without any anchor, else those before the first."""
        return tuple(part.text for part in self.parts if part.kind in OWN_KINDS and part.character is None)

    @property
    def background(self) -> tuple[str, ...]:
        """What follows 背景:, and tags such as 花园背景."""
        return self._of("background")

    @property
    def style(self) -> tuple[str, ...]:
        """What follows 风格:, and tags such as 水彩画."""
        return self._of("style")

    @property
    def details(self) -> tuple[str, ...]:
        """What follows 细节:, up to the next label."""
        return self._of("detail")

    def _of(self, kind: str) -> tuple[str, ...]:
        return tuple(part.text for part in self.parts if part.kind == kind)


def parse(text: str) -> Caption:
    """Read a caption; nothing is an error. Positions count characters of `text` from 0."""
    return parse_normalised(text, normalise(text)[0])


def parse_normalised(text: str, norm: str) -> Caption:
    """`parse` for a caller that has the normalised text already."""
    parts: list[Part] = []
    subjects: list[str] = []
    section, at = "", 0
    for piece in _SEPARATOR.split(norm) if norm.strip() else ():
        kind, outer, label, start, content, subject, section = _read(piece, section, not parts)
        if subject:
            subjects.append(subject)
        owner = len(subjects) - 1 if subjects and kind in OWN_KINDS else None
        start, outer, end = at + start, at + outer, at + start + len(content)
        parts.append(Part(kind, text[start:end], start, end, outer, text[outer : outer + label], content, owner))
        at += len(piece) + 1
    return Caption(text, norm, tuple(parts), tuple(subjects))


@lru_cache(maxsize=65536)  # the captions of a set share most of their tags
def _read(piece: str, section: str, first: bool) -> tuple[str, int, int, int, str, str, str]:
    """A piece between separators: kind, where it starts, length of its label, where its content starts, the content,
    the noun if it is an anchor, and the section in which the next piece stands (details go on until a label)."""
    labelled = _LABEL.match(piece)
    start, label = 0, 0
    if labelled:
        start, label, section = labelled.end(), len(labelled["label"]), LABELS[labelled["label"]]
    content = piece[start:].strip()
    start += len(piece) - start - len(piece[start:].lstrip()) if content else 0
    outer = labelled.start("label") if labelled else start
    subject = ""
    if not content:
        kind = "empty"
    elif labelled and section != "who":
        kind = section
    elif match := anchor_match(content, first=first):
        kind, section, subject = "anchor", "", match["subject"]
    else:
        kind = "detail" if section == "detail" else kind_of(content)
    return kind, outer, label, start, content, subject, section


@lru_cache(maxsize=65536)
def anchor_match(tag: str, *, first: bool = False) -> re.Match | None:
    """Match of a tag that opens with a character's number (groups number, counter, subject), not with a measure.

    first: the tag opens the caption, where a number before an unknown noun is an anchor and not a count.
    """
    match = _ANCHOR.match(tag)
    if match is None or _NEVER.match(tag, match.end("number")):
        return None
    if first and not match["counter"] or LIVING.search(match["subject"]):
        return match
    return None if match["counter"] or _UNIT.match(match["subject"]) else match


@lru_cache(maxsize=65536)
def kind_of(tag: str) -> str:
    """The slot of a tag without label: "hair", "clothes", "prop", "style", "background", else "action"."""
    if HAIR.search(tag):
        return "hair"
    if PROP.match(tag):
        return "prop"
    if CLOTHES.search(tag):
        return "clothes"
    if STYLE.search(tag):
        return "style"
    return "background" if tag.endswith(("背景", "场景")) else "action"


def build(characters: Sequence[Character], background: str = "", style: str = "", details: Sequence[str] = ()) -> str:
    """Write a caption in the template; empty slots are left out.

    Raises QwenlabError when there is no character, a number is below 1, a subject is empty or starts with a digit, or a
    text contains a separator of the template.
    """
    if not characters:
        raise QwenlabError("a caption needs a character; start with Character(1, '女孩')")
    tags = []
    for character in characters:
        if character.number < 1 or not character.subject.strip() or character.subject[0].isdigit():
            raise QwenlabError(f"{character.anchor!r} is no anchor; give a number from 1 and a subject, as in 1女孩")
        tags += [character.anchor, *character.hair, *character.clothes, *character.action, *character.prop]
    for tag in (*tags, background, style, *details):
        if _FORBIDDEN.search(tag):
            raise QwenlabError(f"{tag!r} contains a separator of the template; give one tag at a time")
    tags += [f"背景:{background}"] * bool(background) + [f"风格:{style}"] * bool(style)
    if details:
        tags += [f"细节:{details[0]}", *details[1:]]
    return ", ".join(tag for tag in tags if tag)
