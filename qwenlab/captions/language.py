"""The rule `mixed-language`: one language a caption, the template's Chinese."""

from __future__ import annotations

import re

from qwenlab.captions.finding import Finding
from qwenlab.captions.normal import HIDDEN
from qwenlab.captions.template import Caption

_FOREIGN = re.compile(
    r"[A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff][A-Za-z\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff0-9'’_\-]*"
    r"(?:[ ]+[A-Za-z\u00c0-\u024f\u0400-\u04ff0-9][A-Za-z\u00c0-\u024f\u0400-\u04ff0-9'’_\-]*)*"
    r"|[\u3041-\u3096\u30a1-\u30fa][\u3041-\u3096\u30a1-\u30fa\u30fc]*"
    r"|[\uac00-\ud7af\u1100-\u11ff]+(?: [\uac00-\ud7af]+)*"
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Latin words that Chinese captions use as their own, in any case; names of tools and makers for styles and products.
_OWN = frozenset(
    """
cosplay cos coser lolita loli logo vlog ins jk jc oc ok wifi app led pvc bjd hiphop rap kpop pop dj mv ktv cg ui
vr ar ai ip pc tv cd dvd nba cba iphone ipad macbook switch lego nike adidas gucci canon nikon sony leica kodak
fuji fujifilm polaroid tesla blender octane zbrush unity maya vray unreal engine ue midjourney gopro lofter
livehouse f1 sks ohwx lora q t v a k x y e s u o
""".split()
)
_CAPITALS = re.compile(r"[A-Z]{1,4}\d{0,4}")
_SHORT_WORDS_IN_CAPITALS = frozenset(
    "GIRL BOY BOYS CAT DOG RED BLUE HAIR EYES HAND FACE LONG SOLO CUTE MAN MEN THE AND WITH SKY SEA SUN".split()
)
_MEASURE = re.compile(r"(?i)(?:mm|cm|km|m|k|p|d|fps|iso\d*|f|px|s|h|b|th|st|nd|rd|x)")
_MADE_UP = re.compile(r"(?=.*[_\d])[A-Za-z_\d\-]{3,}|[^aeiouyAEIOUY\W]{3,}")

_TRANSLATIONS = {
    "girl": "女孩", "boy": "男孩", "woman": "女人", "man": "男人", "cat": "猫", "dog": "狗", "long hair": "长发",
    "short hair": "短发", "black hair": "黑发", "blonde hair": "金发", "twin tails": "双马尾", "twintails": "双马尾",
    "ponytail": "马尾", "blue eyes": "蓝色眼睛", "red eyes": "红色眼睛", "dress": "连衣裙",
    "white dress": "白色连衣裙", "school uniform": "校服", "hat": "帽子", "glasses": "眼镜", "smile": "微笑",
    "smiling": "微笑", "standing": "站立", "sitting": "坐着", "walking": "走路", "running": "奔跑", "jumping": "跳跃",
    "looking at viewer": "看向镜头", "solo": "单人", "classroom": "教室", "beach": "海滩", "forest": "森林",
    "garden": "花园", "city": "城市", "street": "街道", "night": "夜晚", "outdoors": "室外", "indoors": "室内",
    "anime": "动漫", "watercolor": "水彩画", "oil painting": "油画", "sketch": "素描", "photo": "摄影",
    "full body": "全身", "upper body": "半身", "close-up": "特写", "living room": "客厅",
    "basketball court": "篮球场", "simple background": "纯色背景", "white background": "白色背景",
}  # fmt: skip


def check_language(caption: Caption) -> list[Finding]:
    """`mixed-language`: English, kana or Hangul outside quotations; T恤, Q版, 3D and names of brands are free."""
    if _CHINESE.search(caption.norm.replace(HIDDEN, "")) is None and re.search(r"[A-Za-z]{3}", caption.norm):
        text = caption.norm.rstrip()
        start = len(text) - len(text.lstrip())
        return [Finding(start, len(text), "mixed-language", "not in Chinese, the language of the template")]
    findings = []
    for match in _FOREIGN.finditer(caption.norm):
        text = match.group()
        if _accepted(caption.norm, match):
            continue
        start, end = match.span()
        suggestion = _TRANSLATIONS.get(text.lower())
        while suggestion and start and caption.norm[start - 1].isdigit():
            start -= 1  # 1girl: show the anchor whole
            suggestion = caption.norm[start] + suggestion
        findings.append(Finding(start, end, "mixed-language", f"{text} in a Chinese caption", suggestion))
    return findings


def _accepted(norm: str, match: re.Match) -> bool:
    text = match.group()
    if not text[0].isascii():
        return False
    digit_before = match.start() > 0 and norm[match.start() - 1] in "0123456789."
    return all(
        word.lower() in _OWN
        or (_CAPITALS.fullmatch(word) and word not in _SHORT_WORDS_IN_CAPITALS)
        or _MADE_UP.fullmatch(word)
        or word.isdigit()
        or (index == 0 and digit_before and _MEASURE.fullmatch(word))
        or (index == 0 and re.fullmatch(r"(?i)iso\d*|f\d*", word))
        for index, word in enumerate(re.split(r"[ \-]+", text))
        if word
    )
