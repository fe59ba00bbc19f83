"""Sizes, the validation split, tag order, and mirror images that know left from right."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw

from qwenlab.data.buckets import (
    assign_buckets,
    can_flip,
    fit_to_bucket,
    flip,
    lost_share,
    make_buckets,
    nearest_bucket,
    shuffled_captions,
    split_by_group,
)
from qwenlab.errors import QwenlabError

CAPTION = "1女孩, 橙色狐耳卷发, 星星斗篷, 跳跃, 背景:雪地, 风格:剪纸画, 细节:全身正面, 连指手套, 光脚"


@pytest.mark.parametrize("resolution", [128, 512, 1000, 1024, 1328])
@pytest.mark.parametrize("max_aspect", [1, 2, 4])
def test_buckets_cost_no_more_than_the_square(resolution, max_aspect):
    buckets = make_buckets(resolution, max_aspect=max_aspect)
    side = resolution // 32 * 32
    assert (side, side) in buckets and len(set(buckets)) == len(buckets)
    for width, height in buckets:
        assert width % 32 == height % 32 == 0 and width * height <= resolution**2
        assert max(width, height) <= max(max_aspect * min(width, height), side)
        assert (height, width) in buckets
        # as large as it can be: one more step on the longer side would cost more
        assert max(width, height) == side or (max(width, height) + 32) * min(width, height) > resolution**2
    ratios = [width / height for width, height in buckets]
    assert ratios == sorted(ratios)


def test_buckets_of_1024():
    assert len(make_buckets(1024)) == 19 and (832, 1248) in make_buckets(1024)
    with pytest.raises(QwenlabError, match="no bucket"):
        make_buckets(16)


def test_pictures_go_to_the_nearest_shape():
    buckets = make_buckets(1024)
    assert nearest_bucket((3000, 3000), buckets) == (1024, 1024)
    assert nearest_bucket((2000, 3000), buckets) == (832, 1248)
    assert nearest_bucket((100, 9000), buckets) == buckets[0]
    sizes = [(100, 100), (200, 300), (50, 50), (300, 200)]
    assert assign_buckets(sizes, buckets) == {(1024, 1024): [0, 2], (832, 1248): [1], (1248, 832): [3]}


def test_fitting_covers_the_bucket_without_stretching():
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).ellipse((100, 50, 200, 150), fill="black")
    fitted = np.asarray(fit_to_bucket(image, (160, 128)))[..., 0] < 128
    assert fitted.shape == (128, 160)
    rows, columns = np.flatnonzero(fitted.any(1)), np.flatnonzero(fitted.any(0))
    assert abs(len(rows) - len(columns)) <= 1, "the circle is still one"
    assert lost_share((300, 200), (160, 128)) == pytest.approx(1 - 160 / 128 / 1.5)
    assert lost_share((320, 256), (160, 128)) == 0


def test_groups_are_never_split():
    groups = [0, 1, 2, 0, 4, 5, 2, 7, 8, 2, 10, 11]
    seen = set()
    for seed in range(30):
        train, validation = split_by_group(groups, 0.25, seed)
        assert sorted(train + validation) == list(range(12)) and len(validation) == 3
        assert not {groups[i] for i in train} & {groups[i] for i in validation}
        assert (train, validation) == split_by_group(groups, 0.25, seed)
        seen |= set(validation)
    assert seen == set(range(12))


def test_splits_that_cannot_be():
    with pytest.raises(QwenlabError, match="nothing can be held out"):
        split_by_group([3, 3, 3])
    with pytest.raises(QwenlabError, match="between 0 and 1"):
        split_by_group([1, 2], share=1)
    assert split_by_group([0, 0, 0, 1, 1], 0.2) == ([0, 1, 2], [3, 4]), "the smallest group, when all are too large"


def test_shuffling_keeps_the_anchor_and_the_details():
    versions = shuffled_captions(CAPTION, 6, seed=1)
    assert versions[0] == CAPTION and len(set(versions)) == 6
    for version in versions:
        assert version.startswith("1女孩, ") and version.endswith(", 细节:全身正面, 连指手套, 光脚")
        assert Counter(version.split(", ")) == Counter(CAPTION.split(", "))
    assert versions == shuffled_captions(CAPTION, 6, seed=1) != shuffled_captions(CAPTION, 6, seed=2)
    assert versions[:3] == shuffled_captions(CAPTION, 3, seed=1), "more versions leave the cached ones valid"


def test_short_captions_have_fewer_orders():
    assert shuffled_captions("1女孩") == ["1女孩"]
    assert shuffled_captions("1女孩, 挥手") == ["1女孩, 挥手"]
    assert sorted(shuffled_captions("1女孩，挥手，海边", 9)) == sorted(["1女孩，挥手，海边", "1女孩, 海边, 挥手"])
    assert len(shuffled_captions("1, a, a, b", 9)) == 3
    assert all(text.startswith("1女孩, 长发") for text in shuffled_captions("1女孩, 长发, a, b, c", 6, keep_first=2))


@pytest.mark.parametrize(
    "text, mirrored",
    [
        ("1女孩, 左手举起, 右手叉腰", "1女孩, 右手举起, 左手叉腰"),
        ("三十岁左右, 左侧面", "三十岁左右, 右侧面"),
        ("waves her left hand, RIGHT foot, Left ear", "waves her right hand, LEFT foot, Right ear"),
        ("a bright leftover", "a bright leftover"),
        ("1女孩, 正面", "1女孩, 正面"),
    ],
)
def test_mirroring_exchanges_left_and_right(text, mirrored):
    image = Image.new("RGB", (2, 1), "white")
    image.putpixel((0, 0), (255, 0, 0))
    turned, caption = flip(image, text)
    assert caption == mirrored and turned.getpixel((1, 0)) == (255, 0, 0)
    again, back = flip(turned, caption)
    assert back == text and again.tobytes() == image.tobytes()


def test_writing_is_not_mirrored():
    assert can_flip(CAPTION) and can_flip("1女孩, 左手, a design")
    assert not any(can_flip(text) for text in ("1女孩, 招牌上的文字", "a T-shirt with a Logo", "holds a sign"))
    assert not any(can_flip(text) for text in ("1男孩, T恤上写着HELLO", "帽子上绣有LOVE", "石碑上刻着“福”"))
    assert can_flip("1女孩, 围裙上绣着樱花, 衣服印有条纹")  # a pattern, no writing


def test_an_eye_patch_is_not_mirrored():
    assert can_flip("1女孩, 戴眼镜, 闭着眼睛, 站着")
    assert not any(can_flip(text) for text in ("1女孩, 戴眼罩", "a pirate with an eye patch", "an eyepatch"))
