"""What the captions' words tell: number anchors, captions used twice, and what the pictures hardly show.

The template: 编号+性别, 发型, 服装, 动作, 道具, 背景:场景, 风格:艺术风格, 细节:特殊要求.
Words are looked up, so a caption in other words counts as silent; the coverage table says how many captions speak of
each thing at all.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from qwenlab.data.findings import Finding, shown
from qwenlab.data.reader import Record

ANCHOR = re.compile(r"^\d+")
#: group -> value -> words that stand for it.
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "view": {
        "front": ("正面", "正脸", "front view", "facing viewer"),
        "side": ("侧面", "侧脸", "侧身", "side view", "profile"),
        "back": ("背面", "背影", "背对", "back view", "from behind"),
    },
    "framing": {
        "full body": ("全身", "full body"),
        "half body": ("半身", "上半身", "half body", "upper body"),
        "close-up": ("特写", "头像", "大头", "close-up", "portrait"),
    },
    "hands": {
        "open": ("五指", "手指", "张开的手", "手掌", "fingers", "open hand"),
        "covered": ("手套", "遮手", "口袋", "背着手", "gloves", "mittens", "pockets"),
    },
    "feet": {
        "bare": ("光脚", "赤脚", "脚趾", "barefoot", "bare feet", "toes"),
        "shod": ("鞋", "靴", "shoes", "boots", "sandals"),
    },
}
MIN_CAPTIONS = 10
MIN_SHARE = 0.05  # a view or framing in fewer captions counts as hardly shown
MIN_NAMED = 0.2  # open hands, feet
MAX_ACTION = 0.4  # share of the most frequent action
MIN_ACTIONS = 5


def caption_findings(records: Sequence[Record]) -> list[Finding]:
    """Captions without a number at the start, and captions that several pictures share."""
    findings, lines = [], defaultdict(list)
    for record in records:
        if not ANCHOR.match(record.text):
            findings.append(
                Finding("no-anchor", record.where, f"starts with {shown(record.text, 24)!r}", (record.name,))
            )
        lines[" ".join(record.text.split())].append(record)
    for text, same in lines.items():
        if len({record.path or record.guess for record in same}) > 1:
            others = ", ".join(record.where.rpartition(", ")[2] for record in same[1:])
            names = tuple(record.name for record in same)
            findings.append(Finding("same-caption", same[0].where, f"{shown(text, 40)!r} also on {others}", names))
    return findings


def coverage(texts: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many captions speak of each thing: group -> value -> count; actions by the tag that states them."""
    lower = [text.lower() for text in texts]
    table = {
        group: {value: sum(any(word in text for word in words) for text in lower) for value, words in values.items()}
        for group, values in WORDS.items()
    }
    actions = Counter(action for text in texts if (action := action_of(text)))
    return table | {"action": dict(actions.most_common())}


def action_of(text: str) -> str | None:
    """The fourth tag of a caption in the template (number and kind, hair, clothes, action); else None."""
    tags = [tag.strip() for tag in re.split("[,，]", text)]
    plain = [tag for tag in tags if not re.search("[:：]", tag)]
    in_template = ANCHOR.match(text) and len(plain) >= 4 and len(plain) < len(tags) and plain[3] == tags[3]
    return tags[3] if in_template else None


def coverage_findings(table: dict[str, dict[str, int]], captions: int, captions_name: str) -> list[Finding]:
    """Notes on what fewer captions than `MIN_SHARE` and the like speak of; none for a handful of captions."""
    if captions < MIN_CAPTIONS:
        return []
    notes = []
    for group in ("view", "framing"):
        rare = [f"{value} ({count})" for value, count in table[group].items() if count < MIN_SHARE * captions]
        if rare:
            notes.append(f"{group}: {', '.join(rare)} of {captions} captions")
    if (count := table["hands"]["open"]) < MIN_NAMED * captions:
        notes.append(f"open hands: {count} of {captions} captions name fingers")
    if (count := sum(table["feet"].values())) < MIN_NAMED * captions:
        notes.append(f"feet: {count} of {captions} captions name feet or shoes")
    actions = table["action"]
    if not actions:
        notes.append("actions: no caption follows the template, whose fourth tag is the action; they were not counted")
    else:
        action, count = next(iter(actions.items()))
        if len(actions) < MIN_ACTIONS or count > MAX_ACTION * sum(actions.values()):
            notes.append(f"actions: {len(actions)} different ones, {shown(action, 20)} in {count} of {captions}")
    return [Finding("coverage", captions_name, note) for note in notes]
