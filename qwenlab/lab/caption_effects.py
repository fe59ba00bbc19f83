"""What the form of a caption does to the picture: the same scenes and seeds, drawn from captions of several forms.

`FORMS` writes a scene of the world in each form, `effects` compares what a judge read in the pictures. Pictures of one
scene differ in their seed only, so that scenes, not pictures, are the independent units: intervals resample scenes, and
differences between forms are paired by scene (bootstrap, Efron, Annals of Statistics 7, 1979).

Dimensions: S scenes, K pictures a scene, N = S * K pictures in scene order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np

from qwenlab.lab import world
from qwenlab.lab.judge.rates import attribute_rates, wanted
from qwenlab.lab.judge.reading import Reading
from qwenlab.lab.statistics import Estimate as Estimate  # lesson 08 shows stored ones
from qwenlab.lab.statistics import estimate

#: What makes a drawn child the same child in another picture.
IDENTITY = ("gender", "hair_style", "hair_color", "clothes")
VAGUE_HAIR = "好看的发型"


def without_number(scene: world.Scene) -> str:
    """The template's caption less the number: 女孩, ..."""
    return world.caption(scene).removeprefix("1")


def prose(scene: world.Scene) -> str:
    """The same facts in a sentence, outside the template."""
    who = (
        f"一个{scene.hair_color}{scene.hair_style}的{scene.gender}穿着{scene.clothes}在{scene.background}{scene.action}"
    )
    held = f", 手里拿着{scene.prop}" if scene.prop else ""
    feet = f", {scene.feet}" if scene.framing == "全身" else ""
    return f"{who}{held}, 画成{scene.style}, {scene.framing}{scene.view}, {scene.hands}{feet}"


def vague_hair(scene: world.Scene) -> str:
    """The template with a judgement in the slot of the hair."""
    return world.caption(scene).replace(scene.hair_color + scene.hair_style, VAGUE_HAIR)


def vague(scene: world.Scene) -> str:
    """The template with a judgement in every slot but the first."""
    return f"1{scene.gender}, {VAGUE_HAIR}, 漂亮的衣服, 正常姿势, 背景:好看的地方, 风格:好看的风格, 细节:漂亮的手"


#: Name of a form -> the caption of a scene in it. The first is what the others are compared with.
FORMS: dict[str, Callable[[world.Scene], str]] = {
    "template": world.caption,
    "no number": without_number,
    "number 2": lambda scene: f"2{without_number(scene)}",
    "prose": prose,
    "vague hair": vague_hair,
    "vague": vague,
}


def effects(
    readings: Mapping[str, Sequence[Reading]], scenes: Sequence[world.Scene], *, identity: Sequence[str] = IDENTITY
) -> dict[str, dict]:
    """Compare forms of caption by what was read in their pictures.

    Args:
        readings: for each form N readings, K for the first scene, then K for the second, ...; the same seeds in
            every form. The first form is the one that others are compared with.
        scenes: the S scenes, what was wanted.
        identity: the attributes that make a character.

    Returns for each form
        "right": share of the wanted attributes that a picture shows, mean over scenes, with "chance", the share when
            pictures and wishes are paired at random;
        "identity": share of pictures with all identity attributes as wanted;
        "stability": share of pairs of pictures of one scene that agree in all identity attributes, with
            "stability_chance", the share among pairs of different scenes;
        "attributes": rate, Wilson interval and chance of each attribute;
        "minus_first" (all forms but the first): paired differences of right, identity and stability.
    Raises ValueError when the numbers of readings do not fit.
    """
    result, per_scene = {}, {}
    for form, read in readings.items():
        if not scenes or not len(read) or len(read) % len(scenes):
            raise ValueError(f"{form}: {len(read)} readings are no multiple of {len(scenes)} scenes")
        each = len(read) // len(scenes)
        owners = [scene for scene in scenes for _ in range(each)]
        right = [_right(reading, scene) for reading, scene in zip(read, owners, strict=True)]
        attributes = attribute_rates(read, owners)
        who = [tuple(reading.attributes[name] for name in identity) for reading in read]
        asked = [tuple(getattr(scene, name) for name in identity) for scene in owners]
        same = np.array([a == b for a, b in zip(who, asked, strict=True)], float)
        groups = [who[i : i + each] for i in range(0, len(who), each)]
        per_scene[form] = values = {
            "right": np.reshape(right, (-1, each)).mean(axis=1),  # (S,)
            "identity": same.reshape(-1, each).mean(axis=1),  # (S,)
        }
        if each > 1:
            values["stability"] = np.array([_agreement(group) for group in groups])  # (S,)
        result[form] = {name: asdict(estimate(value)) for name, value in values.items()}
        result[form]["chance"] = float(np.mean([row["chance"] for row in attributes.values()]))
        if each > 1:
            result[form]["stability_chance"] = _chance_agreement(groups)
        result[form]["attributes"] = attributes
    first = next(iter(per_scene))
    for form, values in per_scene.items():
        if form != first:
            paired = {name: asdict(estimate(values[name] - per_scene[first][name])) for name in values}
            result[form]["minus_first"] = paired
    return result


def _right(reading: Reading, scene: world.Scene) -> float:
    shown = {name: value for name, value in wanted(scene).items() if name in reading.attributes}
    return float(np.mean([reading.attributes[name] == value for name, value in shown.items()]))


def _agreement(group: Sequence[tuple[str, ...]]) -> float:
    return float(np.mean([a == b for a, b in combinations(group, 2)]))


def _chance_agreement(groups: Sequence[Sequence[tuple[str, ...]]]) -> float | None:
    """Share of pairs from different scenes that agree; None for a single scene."""
    if len(groups) < 2:
        return None
    counts = [Counter(group) for group in groups]
    together = Counter(who for group in groups for who in group)
    agreeing = sum(n * n for n in together.values()) - sum(n * n for own in counts for n in own.values())
    total = sum(together.values()) ** 2 - sum(sum(own.values()) ** 2 for own in counts)
    return agreeing / total
