"""Which captions speak of hands or feet, and what a close-up's caption says.

The article's rule takes any caption that contains one of eight words. 手 alone is also in 歌手 (singer), 手机 (phone)
and 水手服 (sailor suit), 举 in 举重, and 站立 says nothing of feet that a half-body picture cuts off; of a mittened or
hidden hand there is nothing to learn either. `shows_hands` reads the tags; where keypoints are known, ask them instead.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qwenlab.captions.words import any_of
from qwenlab.data.dataset import Dataset

#: The keywords of the article's rule, and what it appends to the captions of the copies.
ARTICLE_KEYWORDS = ("手", "手指", "握", "拿", "举", "脚", "站立", "行走")
ARTICLE_DETAILS = ", 高清手部特写, 结构正确, 五指分明"

# Words with 手 that name no hand in the picture.
_NO_HAND = re.compile(any_of(
    "歌手 水手 选手 助手 对手 高手 新手 老手 凶手 杀手 猎手 鼓手 骑手 舵手 射手 投手 国手 能手 旗手 吹鼓手 二手 分手 "
    "手机 手表 手册 手稿 手帕 手绢 手杖 手枪 手雷 手冢 手工 手绘 手写 手法 手段 手续 手艺 手办 手账 手游 手电 手电筒 "
    "手风琴 手推车 手提包 手提箱 手袋 扶手 把手 着手 动手 上手 下手".split()
))  # fmt: skip
# Tags in which hands are there but not to be seen, or not their fingers.
_HIDDEN = re.compile(any_of("手套 遮手 插口袋 插兜 插袋 背着手 背手 背在身后 藏在 袖中 握拳 拳头".split()))
_SHOWN = re.compile(any_of(
    "五指 手指 手掌 手心 手背 指尖 手势 挥手 招手 举手 双手 右手 左手 手部 张开双臂 比心 鼓掌 合十 敬礼".split()
))  # fmt: skip
_BARE_FEET = re.compile(any_of("光脚 光着脚 赤脚 赤足 裸足".split()))


def article_rule(caption: str) -> bool:
    """Whether the article's rule would copy the picture."""
    return any(word in caption for word in ARTICLE_KEYWORDS)


def article_augmentation(dataset: Dataset, factor: int = 2) -> Dataset:
    """The article's augmentation: `factor` more entries of each picture that its rule takes, captions extended.

    No pixel is new: the same pictures are seen more often, under a caption that promises a close-up they do not show.
    """
    copies = [
        replace(sample, text=sample.text + ARTICLE_DETAILS)
        for sample in dataset.samples if article_rule(sample.text) for _ in range(factor)
    ]  # fmt: skip
    return replace(dataset, samples=dataset.samples + tuple(copies))


def shows_hands(caption: str) -> bool:
    """Whether the tags of a caption say that fingers can be seen: one that does, and none that hides them."""
    tags = [_NO_HAND.sub("", tag) for tag in re.split("[,，;；。]", caption)]
    return any(_SHOWN.search(tag) for tag in tags) and not any(_HIDDEN.search(tag) for tag in tags)


def shows_bare_feet(caption: str) -> bool:
    """Whether a tag of the caption says that feet are bare."""
    return bool(_BARE_FEET.search(caption))


def close_up_caption(caption: str, kind: str) -> str:
    """The caption of a close-up cut from a picture: who, what is seen of them, and the tags of background and style.

    kind: "hand" or "feet". What a close-up cannot show is left out, which makes training faster, too.
    """
    tags = [tag.strip() for tag in re.split("[,，]", caption) if tag.strip()]
    around = [tag for tag in tags[1:] if tag.startswith(("背景", "风格"))]
    if kind == "hand":
        seen = ["手部特写", "五指张开"]
    else:
        seen = ["足部特写", "光脚" if shows_bare_feet(caption) else "穿鞋"]
    return ", ".join(tags[:1] + seen + around)
