"""The words in which the drawn world is captioned, with their English glosses.

Tables and widgets show `with_english(captions)`, so that nobody needs Chinese to follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

#: attribute -> {word of the caption: English}. What the base model has seen.
WORDS: dict[str, dict[str, str]] = {
    "gender": {"女孩": "girl", "男孩": "boy"},
    "hair_style": {
        "短发": "short hair", "长发": "long hair", "双马尾": "pigtails", "丸子头": "bun", "高马尾": "high ponytail",
        "刺猬头": "spiky hair",
    },
    "hair_color": {"黑色": "black", "金色": "blond", "红色": "red", "蓝色": "blue", "绿色": "green", "粉色": "pink"},
    "clothes": {
        "白色连衣裙": "white dress", "蓝色水手服": "blue sailor suit", "黄色雨衣": "yellow raincoat",
        "红色毛衣": "red jumper", "绿色背带裤": "green dungarees", "紫色汉服": "purple hanfu",
    },
    "action": {
        "站立": "standing", "挥手": "waving", "举起双手": "raising both hands", "坐着": "sitting", "走路": "walking",
        "看书": "reading", "叉腰": "hands on hips", "跳跃": "jumping", "背着手": "hands behind the back",
        "张开双臂": "arms spread",
    },
    "prop": {"": "nothing", "气球": "balloon", "花束": "bunch of flowers", "灯笼": "lantern", "风车": "pinwheel"},
    "background": {
        "花园": "garden", "海边": "seaside", "教室": "classroom", "夜空": "night sky", "雪地": "snow",
        "城市街道": "city street", "森林": "forest", "彩虹草地": "meadow with a rainbow",
    },
    "style": {
        "日系插画": "Japanese illustration", "扁平插画": "flat illustration", "水彩画": "watercolour",
        "水墨画": "ink painting",
    },
    "view": {"正面": "front", "侧面": "side"},
    "framing": {"全身": "full body", "半身": "half body"},
    "hands": {
        "五指张开": "fingers spread", "连指手套": "mittens", "长袖遮手": "hands in long sleeves",
        "手插口袋": "hands in pockets",
    },
    "feet": {"穿鞋": "shoes", "光脚": "bare feet"},
}  # fmt: skip

#: What only LoRAs bring: the characters and styles of `data_sample` and of the library.
LIBRARY_WORDS: dict[str, dict[str, str]] = {
    "hair_style": {"狐耳卷发": "curls with fox ears", "兔耳短发": "short hair with rabbit ears",
                   "鹿角长发": "long hair with antlers"},
    "hair_color": {"橙色": "orange", "银白色": "silver", "青色": "teal"},
    "clothes": {"星星斗篷": "star cape", "条纹睡衣": "striped pyjamas", "樱花围裙": "cherry blossom apron"},
    "style": {"剪纸画": "paper cut", "霓虹画": "neon", "波普画": "pop art"},
}  # fmt: skip

LABELS = {"背景": "background", "风格": "style", "细节": "details"}

_ENGLISH = {
    word: gloss for words in (*WORDS.values(), *LIBRARY_WORDS.values()) for word, gloss in words.items() if word
}
_ENGLISH |= {"手持": "holding"}
_KNOWN = re.compile("|".join(sorted(map(re.escape, _ENGLISH), key=len, reverse=True)))
_LABEL = re.compile(rf"({'|'.join(LABELS)})\s*[:：]\s*")


def english(caption: str) -> str:
    """A caption of the world, word for word in English; what is not in the vocabulary stays as it is.

    "1女孩, 橙色狐耳卷发, 背景:花园" -> "1 girl, orange curls with fox ears, background: garden"
    """
    return ", ".join(_tag(tag) for tag in re.split(r"\s*[,，]\s*", caption.strip()) if tag)


def with_english(captions: Iterable[str]) -> list[str]:
    """Each caption with its English behind it, for the list below a table of pictures."""
    return [f"{caption} = {english(caption)}" for caption in captions]


def unknown_words(text: str, known: Iterable[str] = ()) -> list[str]:
    """What of a text is neither a word of the vocabulary nor among `known`, in order; numbers and signs are neither.

    "红色短发, 戴眼镜" -> ["戴眼镜"]
    """
    for word in sorted(known, key=len, reverse=True):
        text = text.replace(word, ",")
    left = _KNOWN.sub(",", _LABEL.sub(",", text))
    return [part.strip() for part in re.findall(r"[^\W\d_][^,，、;；:：\n]*", left)]


def _tag(tag: str) -> str:
    label = _LABEL.match(tag)
    words = _KNOWN.sub(lambda found: f" {_ENGLISH[found.group()]} ", tag[label.end() :] if label else tag)
    words = " ".join(words.split())
    return f"{LABELS[label.group(1)]}: {words}" if label else words
