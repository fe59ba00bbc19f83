"""Pictures that are the same, or nearly: equal pixels, and perceptual hashes that differ in a few bits.

A pHash keeps the signs of a picture's 8 x 8 slowest cosine waves, so scaling, compression and small changes of colour
leave it as it is. Measured on drawn pictures (`benchmarks/data/check_rates.py`): such copies and mirror images are
found, crops by 4% in five of six cases, crops by 10% or a turn by 2 degrees mostly not; one pair in 5,000 of different
pictures of one character comes as close.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qwenlab.data.check.pictures import SIDE, Limits, Picture, perceptual_hashes, reduced
from qwenlab.data.findings import Finding
from qwenlab.data.images import open_image


def duplicate_findings(pictures: Sequence[Picture], captioned: set[str], limits: Limits) -> list[Finding]:
    """Exact and near duplicates among pictures that are not blank; one finding a group.

    captioned: names with a caption; of equal pictures the first of these is the one to keep.
    """
    groups: dict[bytes, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if not picture.blank:
            groups[picture.digest].append(picture)
    findings, kept = [], []
    for same in groups.values():
        keep = next((picture for picture in same if picture.name in captioned), same[0])
        kept.append(keep)
        others = tuple(picture.name for picture in same if picture is not keep)
        if others:
            findings.append(Finding("duplicate", keep.name, _same_as(others), (keep.name, *others), drops=others))
    pairs = near_pairs([picture.hashes for picture in kept], limits.near_bits)
    numbers = group_numbers(len(kept), [pair[:2] for pair in pairs])
    members: dict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(numbers):
        members[number].append(index)
    for group in members.values():
        if len(group) > 1:
            names = tuple(kept[index].name for index in group)
            inside = [pair for pair in pairs if pair[0] in group]
            mirrored = ", one the mirror image of another" if any(pair[3] for pair in inside) else ""
            detail = f"{min(pair[2] for pair in inside)} of 64 bits differ{mirrored}: {', '.join(names[1:])}"
            findings.append(Finding("near-duplicate", names[0], detail, names))
    return findings


def _same_as(names: Sequence[str]) -> str:
    return f"same pixels in {', '.join(names)}"


def near_pairs(hashes: Sequence[tuple[int, int]], bits: int) -> list[tuple[int, int, int, bool]]:
    """All pairs (i, j, differing bits, whether one is mirrored) with i < j and at most `bits` differing.

    hashes: those of each picture and of its mirror image (`perceptual_hashes`). N pictures take N^2 / 2 comparisons,
    in rows of numpy: a quarter of a second for 10,000.
    """
    straight = np.array([pair[0] for pair in hashes], dtype=np.uint64)
    mirrored = np.array([pair[1] for pair in hashes], dtype=np.uint64)
    found = []
    for i in range(len(hashes) - 1):
        plain = np.bitwise_count(straight[i] ^ straight[i + 1 :])
        turned = np.bitwise_count(straight[i] ^ mirrored[i + 1 :])
        for j in np.flatnonzero(np.minimum(plain, turned) <= bits):
            is_turned = bool(turned[j] < plain[j])
            found.append((i, i + 1 + int(j), int(turned[j] if is_turned else plain[j]), is_turned))
    return found


def group_numbers(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """A number for each of `count` things, the same for two that a chain of pairs joins: its first member's index."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for i, j in pairs:
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    return [root(index) for index in range(count)]


def near_duplicate_groups(paths: Sequence[str | Path], bits: int = Limits.near_bits) -> list[int]:
    """A group number for each picture file; equal, nearly equal and mirrored pictures share one.

    Made for `qwenlab.data.buckets.split_by_group`. Raises QwenlabError for an unreadable picture.
    """
    hashes = [perceptual_hashes(reduced(open_image(path), SIDE)) for path in paths]
    return group_numbers(len(hashes), [pair[:2] for pair in near_pairs(hashes, bits)])
