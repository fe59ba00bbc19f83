"""Rules about who is in the picture: a number before each character (`missing-anchor`), and a name instead of 他 or
有人 (`ambiguous-subject`)."""

from __future__ import annotations

import re
from functools import lru_cache

from qwenlab.captions.finding import Edit, Finding
from qwenlab.captions.template import Caption, Part
from qwenlab.captions.words import CLOTHES, DEED, FEMALE, HAIR, LIVING, MALE, PERSON, PRODUCT, is_group

_NUMERALS = {"一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10}
_COUNTED = re.compile(
    r"(?:(?P<many>[一两二三四五六七八九十]|几|数|多)|(?<=有))(?P<counter>个|名|位|只|条|匹|头|对|群|尊|尾|峰|窝|队|家|双)(?!胞胎|手|脚|眼)\s*"
)
_COUNTED_AT = re.compile(rf"^(?:有|画面中有|图中有|图片中有)?{_COUNTED.pattern}")
_LEAD = re.compile(r"^(?:这是|有|画面中有|图中有|图片中有|画面中|图中|图片中|另)?(?:一张|一幅)?")

# Pronouns, less the words that contain the same characters: 吉他, 其他, 自我, 我的世界, 你好.
_PRONOUN = r"(?<![吉其维排利无及耳])[他她它](?!乡|山之|杀)们?|(?<![自忘本])我(?!的世界|国|行)们?|[你您](?!好)们?|咱们?"
# People without a name: unknown, or known only by not being another.
_SOMEBODY = "|".join(
    (
        r"(?<![没只所还持大])有(?:一?个|一些|几个|些|几位|两个|三个)?人(?![物类])",
        r"某(?:个|位|名)?(?:人|[男女][士孩人生子])",
        r"[那这](?:个|位|群|些)人(?!物)",
        r"另(?:外)?(?:一|两|几)?个?人(?!物)",
        r"一个[\u4e00-\u9fff]{1,6}另?一个|另一[个名位](?=在|正|$)",
        r"其中(?:一|两|几)?[个人位名只条](?:人)?",
        r"(?<![面相立])对方|(?<!个)别人|旁人|众人|人们|大家(?!闺秀|庭|族|风范)|谁|前者|(?<![先仙落])后者|此人",
        r"(?:不知名|不认识|不知道是谁)的?(?:人|家伙)|[这那]位(?=在|正|穿|站|坐|拿|戴)",
        r"[一许很好][些多]人(?![物种])",
        r"一[群帮伙]人(?![物偶])",
        r"几(?:个|位|名)?人(?!物)",
        r"(?<!第)一家(?:(?:子|人|[三四五六七]口)|(?=[在吃看去包围坐站出]))",
        r"全家人?(?=[在吃看去包围坐站一出])",
        r"[两二三四五六七八九十](?:个|位|名)?人(?=在|正|一起|一同|[坐站走跑跳打下牵围并]|$)",
    )
)
_CLEAR = r"迷你|你[\u4e00-\u9fff]我[\u4e00-\u9fff]|我行我素|敌我|唯我|犹他|巽他|卿卿我我|无人不"
_AMBIGUOUS = re.compile(rf"(?P<clear>{_CLEAR})|(?P<pronoun>{_PRONOUN})|(?P<somebody>{_SOMEBODY})")
_ALONE = re.compile(
    r"^(?:一个)?(?:人|人物|角色|主角|主人公|某角色)(?=$|在|正|坐|站|走|跑|穿|戴)|^一个人(?=[在站坐走跑穿戴看])"
    r"|^[多双两三四五六几数]人(?=合影|合照|$)"
)
_WHOLE_GROUP = re.compile(r"一家|全家|大家|众人|一[群帮伙]人")
_PRONOUN_ANCHOR = {"他": "1男孩", "她": "1女孩"}

_VERBS = r"[站坐走跑躺趴蹲跪牵拥击抱跳对握拿端推举看递追骑]|穿(?!搭)|戴|打(?!扮)|手[持拿握捧牵拉搭]|背[着对靠]"
# A second character without a number: it opens a tag, or is joined to the first.
_CORE = "女孩|男孩|女人|男人|女子|男子|女生|男生|少女|少年|老人|小女孩|小男孩|小孩|孩子|婴儿|女士|男士"
_SECOND = re.compile(
    rf"^(?P<lead>(?:旁边|身旁|身边|身后|对面)?(?:是|有|站着|坐着)?(?:和|与|跟|同|以及|还有|另)?)(?P<count>(?:另?一(?:个|名|位))?)"
    rf"(?:[\u4e00-\u9fff]{{1,4}}的)?(?P<noun>{_CORE})(?=$|在|正|{_VERBS}|一起|并|们(?=$|在))"
)
_SECOND_ROLE = re.compile(rf"(?P<lead>)(?P<count>)(?P<noun>{PERSON.pattern})(?=在|正|{_VERBS})")
_CROWD = re.compile(r"^(?:行人|路人|游人|人群|游客|人流|观众|香客)")


def check_subjects(caption: Caption) -> list[Finding]:
    """`missing-anchor` and `ambiguous-subject`, at most one of them for each subject."""
    parts = [part for part in caption.parts if part.kind != "empty"]
    if not parts:
        return []
    ambiguous = _ambiguous(parts, caption)
    anchors = caption.anchors
    if anchors:
        late = [] if parts[0] is anchors[0] or ambiguous else _not_first(caption, parts, anchors[0])
        return ambiguous + late + _unnumbered_seconds(parts, caption)
    if ambiguous and ambiguous[0].start < parts[0].end:
        return ambiguous
    return ambiguous + _no_anchor(parts)


def _ambiguous(parts: list[Part], caption: Caption) -> list[Finding]:
    findings, anchored = [], bool(caption.subjects)
    grouped = any(map(is_group, caption.subjects))
    for index, part in enumerate(parts):
        if part.kind in ("style", "background"):
            continue
        first_unanchored = index == 0 and not anchored
        match = _ALONE.match(part.norm) if first_unanchored else None
        kind = "somebody"
        if match is None:
            match = _ambiguous_word(part.norm)
            kind = match.lastgroup if match else kind
        if match is None:
            continue
        word = match.group()
        if anchored and word[0] in "两二三四五六七八九十" or grouped and _WHOLE_GROUP.match(word):
            continue  # 1情侣, 两人共撑一把伞: those two are known
        if kind == "pronoun" and match.start() and _only_one(word, caption):
            continue  # 1妈妈, 2男孩, 靠在她肩上: no subject, and one of them only is a woman
        if kind == "pronoun":
            reason = f"{word}: a pronoun names nobody; give the character's number and noun"
        else:
            reason = f"{word}: nobody can tell who that is; number each character, or name a group"
        suggestion = _named(word, part, index, anchored)
        start = part.start + match.start()
        findings.append(Finding(start, start + len(word), "ambiguous-subject", reason, suggestion))
    return findings


def _only_one(pronoun: str, caption: Caption) -> bool:
    gender = {"她": FEMALE, "他": MALE}.get(pronoun)
    if gender is None or len(caption.subjects) < 2:
        return False
    return sum(bool(gender.search(subject)) for subject in caption.subjects) == 1


@lru_cache(maxsize=65536)  # the captions of a set share most of their tags
def _ambiguous_word(tag: str) -> re.Match | None:
    return next((match for match in _AMBIGUOUS.finditer(tag) if match.lastgroup != "clear"), None)


def _named(word: str, part: Part, index: int, anchored: bool) -> str | None:
    if word in _PRONOUN_ANCHOR and index == 0 and not anchored and part.norm.startswith(word):
        rest = part.norm[len(word) :].removeprefix("正").removeprefix("在")
        return f"{_PRONOUN_ANCHOR[word]}, {rest}" if rest else _PRONOUN_ANCHOR[word]
    if word.startswith(("一家", "全家")):
        return "1家庭"
    return None


def _not_first(caption: Caption, parts: list[Part], anchor: Part) -> list[Finding]:
    """The number stands later; moved to the front in every caption of a set, it anchors the character."""
    reason = f"{anchor.text} does not open the caption: the number anchors the character only in front"
    edits: tuple[Edit, ...] = ()
    if len(caption.anchors) == 1 and caption.text[: parts[0].outer].strip() == "":
        before = max(caption.norm.rfind(mark, 0, anchor.start) for mark in ",;\n")
        edits = (Edit(parts[0].outer, parts[0].outer, f"{anchor.text}, "), Edit(before, anchor.end, ""))
    suggestion = f"{anchor.text}, {parts[0].text}, ..."
    return [Finding(anchor.start, anchor.end, "missing-anchor", reason, suggestion, set_edits=edits)]


def _unnumbered_seconds(parts: list[Part], caption: Caption) -> list[Finding]:
    if any(map(is_group, caption.subjects)):
        return []
    findings = []
    for part in parts:
        match = second_character(part)
        if match is None:
            continue
        start, end = part.start + match.start("count"), part.start + match.end("noun")
        reason = f"{match['noun']}: a second character without its own number"
        number = 1 + max(character.number for character in caption.characters)
        findings.append(Finding(start, end, "missing-anchor", reason, f"{number}{match['noun']}"))
    return findings


def second_character(part: Part) -> re.Match | None:
    """Match of a tag that brings in another character without a number (groups lead, count, noun)."""
    if part.kind not in ("action", "detail", "hair", "clothes"):
        return None
    match = _second(part.norm, part.kind == "action")
    return None if match is None or (part.kind == "detail" and not match["count"]) else match


@lru_cache(maxsize=65536)
def _second(tag: str, action: bool) -> re.Match | None:
    return _SECOND.match(tag) or (_SECOND_ROLE.match(tag) if action else None)


def _no_anchor(parts: list[Part]) -> list[Finding]:
    """No number anywhere. A landscape or an object needs none; a person or an animal does."""
    first = parts[0]
    if first.kind not in ("background", "style", "detail"):
        subject = _subject_of(first.norm)
        if subject is not None:
            return [_without_number(first, *subject)]
    if any(PRODUCT.search(part.norm) for part in parts):
        return []
    for part in parts:
        if part.kind in ("background", "style", "detail") or _CROWD.match(part.norm):
            continue
        counted = _COUNTED_AT.match(part.norm)
        person = PERSON.match(part.norm, counted.end() if counted else 0)
        cue = person and person.end() == len(part.norm)
        if cue or HAIR.search(part.norm) or CLOTHES.search(part.norm) or DEED.match(part.norm):
            reason = "describes a character that has no number; open the caption with one, as in 1女孩"
            suggestion = f"1{person.group()}, ..." if cue else None
            return [Finding(part.start, part.end, "missing-anchor", reason, suggestion)]
    return []


def _subject_of(tag: str) -> tuple[str, str, str, str] | None:
    """(count, modifiers, noun, rest) of a tag that is about a person or animal, None for any other."""
    couple = _COUPLE.match(tag)
    if couple:
        return couple.group(), "", "女孩", tag[couple.end() :]
    at = _LEAD.match(tag).end()
    counted = _COUNTED.match(tag, at)
    count = counted.group() if counted else ""
    if counted is None:
        inner = _COUNTED.search(tag)
        if inner and (match := LIVING.search(tag, inner.end())):
            return (
                inner.group(),
                tag[: inner.start()] + tag[inner.end() : match.start()],
                match["noun"],
                tag[match.end() :],
            )
    body = tag[counted.end() if counted else at :]
    for match in LIVING.finditer(body):
        rest = body[match.end() :]
        if rest.startswith("的") and LIVING.search(rest):
            continue
        if len(match["noun"]) == 1 and rest and not _VERB.match(rest):
            continue
        if not counted and _OBJECT_VERB.search(body[: match.start()]):
            continue
        return count, body[: match.start()], match["noun"], rest
    return None


_COUPLE = re.compile(
    r"[一两二三四五]男[一两二三四五]女|[一两二三四五]女[一两二三四五]男|[两二三四五]男(?=$|在)|[两二三四五]女(?=$|在)"
)
_VERB = re.compile(r"[在正趴坐站跑蹲躺睡飞游吃喝卧叼抱和与咬奔,们]|跳(?!峡)")
# A verb or a longer word before the noun that takes it as its object: 骑马, 烤鸡, 罗马.
_OBJECT_VERB = re.compile(
    r"(?:[骑喂遛钓抓画养煮烤炸炖煎卖斗驯赶牧]|旋转木|[宝罗巴拿荷伽利杜皇沙尼九乌卧安石卡]|[驾骑]着)$"
)


def _without_number(part: Part, count: str, modifiers: str, noun: str, rest: str) -> Finding:
    if _COUPLE.match(count):
        reason = f"{count}: no Arabic number; give each character its own"
        return Finding(part.start, part.end, "missing-anchor", reason, "1女孩, ..., 2男孩, ...")
    number = _NUMERALS.get(count[:1], 0)
    collective = len(count) > 1 and count[1] in "对群窝队家双" or count[:1] in ("几", "数", "多")
    look = modifiers.removesuffix("的").removeprefix("穿着").removeprefix("有着").removeprefix("留着")
    if modifiers and not modifiers.endswith("的") and not HAIR.search(look) and not CLOTHES.search(look):
        noun, look = modifiers + noun, ""  # 机甲少女: what she is, not how she looks
    new = ", ".join(filter(None, (f"1{noun}", look, rest.strip())))
    if number > 1 and not collective:
        reason = f"{count.strip()}{noun}: no Arabic number; give each its own, 1{noun}, 2{noun}, or number the group"
        return Finding(part.start, part.end, "missing-anchor", reason, f"1{noun}, ..., 2{noun}, ...")
    said = f"{count.strip()}{noun}" if count else noun
    reason = f"{said}: no number in front; the anchor 1{noun} names the same character in every caption"
    alone = not modifiers and not collective and not rest.strip()
    edits = (Edit(part.start, part.end, new),) if alone and number <= 1 else ()
    return Finding(part.start, part.end, "missing-anchor", reason, new, set_edits=edits)
