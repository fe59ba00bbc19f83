"""What is decided between a checked data set and training: sizes, the validation split, tag order, mirror images.

Nothing here is random between runs: every choice depends on a seed and on the picture or caption alone.
"""

import hashlib
import math
import random
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence

from PIL import Image, ImageOps

from qwenlab.errors import QwenlabError

STEP = 32  # pixels: 8 for the VAE, 2 for the patches, and 2 more so that half a side still divides

# Aspect buckets


def make_buckets(resolution: int, step: int = STEP, max_aspect: float = 2.0) -> list[tuple[int, int]]:
    """Sizes (width, height) in pixels that cost no more than a square of side `resolution`, narrow to wide.

    Both sides are multiples of `step`, width x height <= resolution^2 and as large as that allows, and the longer
    side is at most `max_aspect` times the shorter. The list holds each size and its transpose. After the aspect
    buckets of NovelAI ("Improvements on Stable Diffusion", 2022). Raises QwenlabError when no such size exists.
    """
    if step < 1 or max_aspect < 1 or resolution < step:
        raise QwenlabError(f"resolution {resolution}: no bucket with sides that are multiples of {step} pixels")
    area, sizes = resolution**2, set()
    for short in range(step, resolution + 1, step):
        long = area // short // step * step
        if short <= long <= max_aspect * short:
            sizes |= {(short, long), (long, short)}
    side = resolution // step * step
    return sorted(sizes | {(side, side)}, key=lambda size: (size[0] / size[1], size))


def nearest_bucket(size: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose width / height is nearest in ratio to that of `size`; of equals the larger one."""
    wanted = math.log(size[0] / size[1])
    return min(buckets, key=lambda bucket: (abs(math.log(bucket[0] / bucket[1]) - wanted), -bucket[0] * bucket[1]))


def assign_buckets(
    sizes: Sequence[tuple[int, int]], buckets: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], list[int]]:
    """bucket -> indices of the pictures that belong in it; a batch may only mix pictures of one bucket."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, size in enumerate(sizes):
        found[nearest_bucket(size, buckets)].append(index)
    return dict(found)


def fit_to_bucket(image: Image.Image, bucket: tuple[int, int]) -> Image.Image:
    """Scale to cover the bucket (Lanczos) and cut off what is over, equally on both sides."""
    return ImageOps.fit(image, bucket, method=Image.Resampling.LANCZOS)


def lost_share(size: tuple[int, int], bucket: tuple[int, int]) -> float:
    """The share of the picture that `fit_to_bucket` cuts off, 0 to 1; feet are lost first."""
    ratio = (size[0] / size[1]) / (bucket[0] / bucket[1])
    return 1 - min(ratio, 1 / ratio)


# Validation


def split_by_group(groups: Sequence[Hashable], share: float = 0.1, seed: int = 0) -> tuple[list[int], list[int]]:
    """Indices for training and validation, in order; pictures of one group stay on one side.

    groups: one group for each picture, as `qwenlab.data.check.near_duplicate_groups` gives. share: of the pictures
    for validation; groups are drawn until it is reached, skipping those that would exceed it while others fit.
    Both sides get at least one picture; raises QwenlabError when that cannot be.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    if not 0 < share < 1:
        raise QwenlabError(f"share {share}: must lie between 0 and 1")
    if len(members) < 2:
        raise QwenlabError(
            f"{len(groups)} pictures in {len(members)} group: nothing can be held out; add pictures that differ"
        )
    drawn = list(members)
    random.Random(seed).shuffle(drawn)
    wanted = max(1, round(share * len(groups)))
    validation: list[int] = []
    for group in drawn:
        if len(validation) + len(members[group]) <= wanted:
            validation += members[group]
    if not validation:  # every group is larger than the share
        validation = list(min((members[group] for group in drawn), key=len))
    held_out = set(validation)
    return [index for index in range(len(groups)) if index not in held_out], sorted(validation)


# Tag order


def shuffled_captions(text: str, count: int = 4, seed: int = 0, keep_first: int = 1) -> list[str]:
    """At most `count` versions of a caption with its tags in other orders, the original first, all different.

    The first `keep_first` tags, the anchor (1女孩), stay in front; 细节: and the tags behind it, which it governs, stay
    together at the end. A fixed number of versions, not a fresh order at each visit: text embeddings are cached.
    """
    tags = [tag.strip() for tag in re.split("[,，]", text) if tag.strip()]
    end = next((index for index, tag in enumerate(tags) if re.match("细节[:：]", tag)), len(tags))
    start = min(keep_first, end)
    head, middle, tail = tags[:start], tags[start:end], tags[end:]
    generator = random.Random(hashlib.sha256(f"{seed}\0{text}".encode()).digest())
    possible = math.factorial(len(middle)) // math.prod(math.factorial(middle.count(tag)) for tag in set(middle))
    orders = [middle]
    while len(orders) < min(count, possible):
        order = generator.sample(middle, len(middle))
        if order not in orders:
            orders.append(order)
    return [text, *(", ".join(head + order + tail) for order in orders[1:])]


# Mirror images

_SIDES = {"左": "右", "右": "左", "left": "right", "right": "left"}
_SIDE = re.compile(r"左右|右左|左|右|\b(?:left|right)\b", re.IGNORECASE)
_ONE_WAY = re.compile(
    r'文字|字样|字母|汉字|书法|题字|写[着有]|[印绣刻][着有][A-Za-z“"「]|招牌|标语|时钟|钟表|眼罩'
    r"|logo|\btext\b|\bletters?\b|\bsign\b|\beye ?patch\b",
    re.IGNORECASE,
)


def can_flip(text: str) -> bool:
    """Whether a mirror image would be right: false when the caption speaks of writing, a clock or an eye patch.

    A list of words: what the caption leaves out, or says in other words, is not refused.
    """
    return not _ONE_WAY.search(text)


def flip(image: Image.Image, text: str) -> tuple[Image.Image, str]:
    """The mirror image and its caption, `flip_text`. Ask `can_flip` first.

    Right only for a character that is itself symmetric: one with a patch over the left eye becomes another character.
    """
    return ImageOps.mirror(image), flip_text(text)


def flip_text(text: str) -> str:
    """The caption of the mirror image: 左 and 右, left and right exchanged; 左右 ("about") stays.

    "right" in the sense of "correct" is exchanged, too.
    """
    return _SIDE.sub(_other_side, text)


def _other_side(match: re.Match) -> str:
    word = match.group()
    if word in ("左右", "右左"):
        return word
    other = _SIDES[word.lower()]
    return other.upper() if word.isupper() and word.isascii() else other.capitalize() if word[0].isupper() else other
