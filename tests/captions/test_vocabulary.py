"""Every word that the world says has an English gloss."""

import re

import numpy as np
import pytest

from qwenlab.captions.vocabulary import LIBRARY_WORDS, WORDS, english, unknown_words, with_english
from qwenlab.lab import world
from qwenlab.lab.world.attributes import SAMPLE_CLOTHES, SAMPLE_HAIR_COLOR, SAMPLE_HAIR_STYLE, SAMPLE_STYLE
from qwenlab.lab.world.library import CHARACTERS, LIBRARY_STYLES, library_scene

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_the_words_are_those_of_scenes():
    assert {attribute: tuple(words) for attribute, words in WORDS.items()} == world.ATTRIBUTES
    assert set(world.ATTRIBUTES) < set(world.Scene.__dataclass_fields__)


@pytest.mark.parametrize("name", ["base", "sample", *CHARACTERS, *LIBRARY_STYLES])
def test_no_chinese_is_left_in_the_gloss_of_any_caption(name):
    rng = np.random.default_rng(0)
    for _ in range(300):
        if name == "base":
            scene = world.sample_scene(rng, split="all")
        elif name == "sample":
            scene = world.sample_character_scene(rng)
        else:
            scene = library_scene(rng, **{"character" if name in CHARACTERS else "style": name})
        caption = world.caption(scene)
        assert CHINESE.search(caption) and not CHINESE.search(english(caption)), english(caption)


def test_a_gloss_keeps_the_order_of_the_caption():
    caption = "1女孩, 橙色狐耳卷发, 星星斗篷, 走路, 手持气球, 背景:雪地, 风格:剪纸画, 细节:全身正面, 连指手套, 穿鞋"
    assert english(caption) == (
        "1 girl, orange curls with fox ears, star cape, walking, holding balloon, background: snow, style: paper cut, "
        "details: full body front, mittens, shoes"
    )
    assert english("1女孩, 潜水服, hat") == "1 girl, 潜水服, hat"
    assert with_english(["夜空", "1女孩, 走路"]) == ["夜空 = night sky", "1女孩, 走路 = 1 girl, walking"]


def test_words_of_loras_are_not_words_of_the_base():
    for attribute, words in LIBRARY_WORDS.items():
        assert not set(words) & set(WORDS[attribute])
        assert len(set(words.values()) | set(WORDS[attribute].values())) == len(words) + len(WORDS[attribute])
    sample = (SAMPLE_HAIR_STYLE, SAMPLE_HAIR_COLOR, SAMPLE_CLOTHES, SAMPLE_STYLE)
    assert all(any(word in words for words in LIBRARY_WORDS.values()) for word in sample)


@pytest.mark.parametrize(
    ("text", "known", "unknown"),
    [
        ("1女孩, 橙色狐耳卷发, 背景:花园, 手持气球", (), []),
        ("红色短发, 戴眼镜, 2", (), ["戴眼镜"]),
        ("红色短发, 戴眼镜", ("戴眼镜",), []),
        ("背景:火星", (), ["火星"]),
        ("make her hair red", (), ["make her hair red"]),
        (" ,，", (), []),
    ],
)
def test_unknown_words_are_what_the_list_lacks(text, known, unknown):
    assert unknown_words(text, known) == unknown
