"""How often the data set check is right where it must guess: `python -m benchmarks.data.check_rates`.

Drawn data sets of one character, 60 pictures of 512 x 512 each. Measured are: good pictures reported as outliers, and
strays that are found, one at a time, by kind; changed copies found as near duplicates, by change, and pairs of
different pictures taken for near duplicates; blurred pictures found, by style and strength.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from qwenlab.data.check.outliers import outlier_scores
from qwenlab.data.check.pictures import Limits, colour_and_edges, perceptual_hashes, sharpness
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.results import stamp_result
from qwenlab.lab.world.attributes import SAMPLE_STYLE, STYLES, Scene, as_character, sample_scene
from qwenlab.lab.world.render import render
from qwenlab.lab.world.sample import sample_scenes

SIZE = 512
LIMITS = Limits()


def draw(scene: Scene) -> Image.Image:
    return Image.fromarray(render(scene, SIZE).image)


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    edge = round(share * SIZE / 2)
    return lambda image: image.crop((edge, edge, SIZE - edge, SIZE - edge))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG at quality 40": recompressed,
    "half the size": lambda image: image.resize((SIZE // 2, SIZE // 2), Image.Resampling.LANCZOS),
    "10% brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "colours half as strong": lambda image: ImageEnhance.Color(image).enhance(0.5),
    "mirrored": ImageOps.mirror,
    "cropped by 4%": cropped(0.04),
    "cropped by 10%": cropped(0.10),
    "turned by 2 degrees": lambda image: image.rotate(2, fillcolor="white"),
}


def strays(seed: int, count: int) -> dict[str, list[Scene]]:
    """Scenes that do not belong into a data set of the character, by what is wrong with them."""
    rng = np.random.default_rng(seed)
    own = sample_scenes(60, seed=seed + 1000)[:count]
    found = {f"own character, style {style}": [replace(scene, style=style) for scene in own] for style in STYLES}
    others = [sample_scene(rng, split="all") for _ in range(count)]
    found["another character, own style"] = [replace(scene, style=SAMPLE_STYLE) for scene in others]
    found["another character and style"] = others
    found["own character and style (good)"] = [
        as_character(sample_scene(rng, split="all", open_hands=0.5)) for _ in range(count)
    ]
    return found


def outlier_rates(seeds: range, count: int) -> dict[str, Any]:
    """Shares reported at the limit: of all good pictures, and of strays that are put in one at a time."""
    reported: dict[str, list[bool]] = {"the 60 good pictures": []}
    for seed in seeds:
        features = np.stack([colour_and_edges(draw(scene)) for scene in sample_scenes(60, seed=seed)])
        reported["the 60 good pictures"] += (outlier_scores(features) > LIMITS.outlier_score).tolist()
        for kind, scenes in strays(seed, count).items():
            for scene in scenes:
                scores = outlier_scores(np.vstack([features, colour_and_edges(draw(scene))]))
                reported.setdefault(kind, []).append(bool(scores[-1] > LIMITS.outlier_score))
    return {kind: {"reported": sum(hits), "of": len(hits)} for kind, hits in reported.items()}


def duplicate_rates(seeds: range) -> dict[str, Any]:
    """Copies found, by change, and pairs of different pictures below the limit."""
    found: dict[str, list[bool]] = {kind: [] for kind in CHANGES}
    alike = pairs = 0
    for seed in seeds:
        pictures = [draw(scene) for scene in sample_scenes(60, seed=seed)]
        hashes = [perceptual_hashes(picture) for picture in pictures]
        for picture, own in zip(pictures[::3], hashes[::3], strict=True):
            for kind, change in CHANGES.items():
                straight, mirrored = perceptual_hashes(change(picture))
                bits = min((own[0] ^ straight).bit_count(), (own[0] ^ mirrored).bit_count())
                found[kind].append(bits <= LIMITS.near_bits)
        for a, b in combinations(hashes, 2):
            pairs += 1
            alike += min((a[0] ^ b[0]).bit_count(), (a[0] ^ b[1]).bit_count()) <= LIMITS.near_bits
    rates = {kind: {"found": sum(hits), "of": len(hits)} for kind, hits in found.items()}
    return rates | {"different pictures": {"found": alike, "of": pairs}}


def blur_rates(seed: int, count: int) -> dict[str, Any]:
    """By style: the lowest and usual sharpness, and the share below the limits after blurring."""
    rng = np.random.default_rng(seed)
    rates = {}
    for style in (*STYLES, SAMPLE_STYLE):
        pictures = [draw(replace(sample_scene(rng, split="all"), style=style)) for _ in range(count)]
        sharp = [sharpness(picture) for picture in pictures]
        limit = max(LIMITS.min_sharpness, LIMITS.sharpness_share * float(np.median(sharp)))
        rates[style] = {"lowest": round(min(sharp)), "usual": round(float(np.median(sharp))), "limit": round(limit)}
        rates[style]["sharp but reported"] = float(np.mean([value < limit for value in sharp]))
        for radius in (1, 2, 4):
            blurred = [sharpness(picture.filter(ImageFilter.GaussianBlur(radius))) for picture in pictures]
            rates[style][f"found at radius {radius}"] = float(np.mean([value < limit for value in blurred]))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--strays", type=int, default=20, help="of each kind and set")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/data/check_rates.json")
    options = parser.parse_args()
    seeds = range(100, 100 + options.sets)  # none of them was used to choose the limits
    result = {
        "outliers": outlier_rates(seeds, options.strays),
        "near_duplicates": duplicate_rates(seeds),
        "blur_at_512_pixels": blur_rates(100, options.strays),
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))
    described = {"sets": options.sets, "strays": options.strays, "limits": LIMITS}
    atomic_write_json(options.out, stamp_result(result, weights=[], config=described))


if __name__ == "__main__":
    main()
