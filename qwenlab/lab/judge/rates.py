"""Rates from readings: confidence intervals, and corrections for the judge's own errors.

Source: Rogan and Gladen (1978), "Estimating prevalence from the results of a screening test", Am. J. Epidemiology 107;
the interval of the corrected rate resamples whole pictures (two hands of one picture are not independent) and draws
sensitivity and specificity from their Jeffreys posteriors, as both were estimated from samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from qwenlab.lab import world
from qwenlab.lab.judge.reading import Judge, Reading
from qwenlab.lab.statistics import DRAWS, Rate, rate


def corrected_rate(counts: Sequence[tuple[int, int]], errors: dict[str, int], seed: int = 0) -> Rate:
    """The true share of right things, from what an imperfect judge read (Rogan and Gladen), within 0..1.

    Clipped, as the results stored with it are. `qwenlab.lab.agreement.rogan_gladen` is for new ones: it sounds an alarm
    where a correction leaves 0..1, and knows of several trainings.

    Args:
        counts: for each picture, (read as right, read at all).
        errors: the judge's record on things whose truth is known: "right" and "wrong" are how many it was shown,
            "right_read_right" and "wrong_read_wrong" how many of them it read so.
        seed: of the bootstrap.

    Returns: (share + specificity - 1) / (sensitivity + specificity - 1), within 0..1, and its 95% interval.
    Raises ValueError when nothing was read or the judge does no better than chance.
    """
    table = np.asarray(counts, float).reshape(-1, 2)
    right, total = table.sum(0)
    sensitivity = errors["right_read_right"] / errors["right"]
    specificity = errors["wrong_read_wrong"] / errors["wrong"]
    if total == 0 or sensitivity + specificity <= 1:
        raise ValueError("nothing to correct: no reading at all, or a judge no better than chance")
    rng = np.random.default_rng(seed)
    picks = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), DRAWS) @ table  # (draws, 2)
    shares = picks[:, 0] / np.maximum(picks[:, 1], 1)
    miss = (errors[kind] - errors[f"{kind}_read_{kind}"] for kind in ("right", "wrong"))
    se, sp = (
        rng.beta(errors[f"{kind}_read_{kind}"] + 0.5, wrong + 0.5, DRAWS)
        for kind, wrong in zip(("right", "wrong"), miss, strict=True)
    )
    draws = np.clip((shares + sp - 1) / (se + sp - 1), 0, 1)
    value = float(np.clip((right / total + specificity - 1) / (sensitivity + specificity - 1), 0, 1))
    low, high = np.quantile(draws, (0.025, 0.975))
    return Rate(value, min(value, float(low)), max(value, float(high)), int(right), int(total))


def hand_right_rate(readings: Sequence[Reading], judge: Judge | None = None, condition: str = "renderings") -> Rate:
    """Share of the visible open hands that have five fingers.

    With `judge`, corrected by its record under `condition` ("renderings", "vae" or "renoised").
    """
    counts = [(sum(hand.reading == "5" for hand in r.hands), len(r.hands)) for r in readings]
    return _right_rate(counts, judge, condition, "hands")


def foot_right_rate(readings: Sequence[Reading], judge: Judge | None = None, condition: str = "renderings") -> Rate:
    """Share of the full-body pictures that show two well-formed feet; `judge` and `condition` as above.

    A full-body picture without any foot counts as wrong.
    """
    full = [r for r in readings if r.attributes["framing"] == "全身"]
    return _right_rate([(int(r.feet == "2"), 1) for r in full], judge, condition, "feet")


def _right_rate(counts: list[tuple[int, int]], judge: Judge | None, condition: str, part: str) -> Rate:
    if judge is None:
        return rate(sum(right for right, _ in counts), sum(total for _, total in counts))
    return corrected_rate(counts, judge.calibration[condition][part])


def identity_rate(readings: Sequence[Reading]) -> Rate:
    """Share of the pictures that show the character of `data_sample` in its style."""
    return rate(sum(r.is_character for r in readings), len(readings))


def attribute_rate(readings: Sequence[Reading], wanted: Sequence[str], name: str) -> Rate:
    """Share of the pictures in which attribute `name` is read as `wanted`; pictures that do not show it are left out.

    A picture whose own framing or action hides an attribute that was wanted says nothing of it.
    """
    pairs = [(r.attributes[name], value) for r, value in zip(readings, wanted, strict=True) if name in r.attributes]
    return rate(sum(read == value for read, value in pairs), len(pairs))


def wanted(scene: world.Scene) -> dict[str, str]:
    """The attributes that a picture of the scene shows: no feet in a half figure, no hands behind the back."""
    hidden = {"feet"} if scene.framing != "全身" else set()
    hidden |= {"hands"} if scene.action == "背着手" else set()
    return {name: getattr(scene, name) for name in world.ATTRIBUTES if name not in hidden}


def attribute_rates(readings: Sequence[Reading], scenes: Sequence[world.Scene]) -> dict[str, dict[str, Any]]:
    """Rate and chance of every attribute that is wanted somewhere and shown: the fields of `Rate`, and "chance".

    chance: the rate at which a picture fits the prompt of another picture, were they paired at random.
    """
    result = {}
    for name in world.ATTRIBUTES:
        pairs = [
            (reading.attributes[name], wanted(scene)[name])
            for reading, scene in zip(readings, scenes, strict=True)
            if name in reading.attributes and name in wanted(scene)
        ]
        if not pairs:
            continue
        read, asked = (Counter(values) for values in zip(*pairs, strict=True))
        chance = sum(read[value] * asked[value] for value in asked) / len(pairs) ** 2
        result[name] = asdict(rate(sum(a == b for a, b in pairs), len(pairs))) | {"chance": round(chance, 4)}
    return result
