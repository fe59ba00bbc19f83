"""Tables of `benchmarks.editing.frontier`: means with intervals over trainings and scenes, and corrected shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from qwenlab.lab.agreement import Corrected, Errors, rogan_gladen
from qwenlab.lab.editing.pairs import ATTRIBUTES
from qwenlab.lab.statistics import mean, share

KINDS = ATTRIBUTES
FIELDS = ("success", "outside", "truth", "others_kept", "shift")
MOST = {"outside": 100.0, "truth": 100.0, "shift": 128.0}  # dB, dB, pixels: for intervals where all values are equal
Rows = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]  # way -> kind -> field -> a number a scene


def errors_of(counts: Mapping[str, int]) -> Errors:
    """The judge's errors of one kind, from its stored counts."""
    return Errors(**counts)


def by_way(rows: Rows) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Way -> kind -> field -> a table (R trainings, P scenes); "edit LoRA 0", "edit LoRA 1" are one way."""
    ways: dict[str, list[str]] = {}
    for name in rows:
        ways.setdefault("edit LoRA" if name.startswith("edit LoRA") else name, []).append(name)
    return {
        way: {
            kind: {field: np.array([rows[name][kind][field] for name in names], float) for field in FIELDS}
            for kind in KINDS
        }
        for way, names in ways.items()
    }


def over_kinds(parts: Sequence[Corrected]) -> Corrected:
    """The mean of independent corrected shares, its interval from theirs."""
    value = float(np.mean([part.value for part in parts]))
    below, above = (
        math.sqrt(sum((getattr(part, side) - part.value) ** 2 for part in parts)) / len(parts)
        for side in ("low", "high")
    )
    return Corrected(value, value - below, value + above, any(part.alarm for part in parts))


def summary(
    of_way: Mapping[str, Mapping[str, np.ndarray]], errors: Mapping[str, Errors]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Of one way: for each kind, and over "all", each field with its interval, and `corrected` success."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    corrected = {kind: rogan_gladen(of_way[kind]["success"], errors[kind]) for kind in of_way}
    for kind in (*of_way, "all"):
        own = of_way if kind == "all" else {kind: of_way[kind]}
        joined = {field: np.concatenate([part[field] for part in own.values()], axis=1) for field in FIELDS}
        result[kind] = {
            field: asdict(mean(table, span=None if np.ptp(table) else MOST[field]) if field in MOST else share(table))
            for field, table in joined.items()
        }
        fixed = over_kinds(list(corrected.values())) if kind == "all" else corrected[kind]
        result[kind]["corrected"] = asdict(fixed)
    return result


def by_style(
    of_way: Mapping[str, Mapping[str, np.ndarray]],
    ceilings: Mapping[str, Sequence[float]],
    styles: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """Of one way, all kinds together: success and `outside` in each style, and the round trip's `outside` there."""
    names = np.concatenate([styles[kind] for kind in of_way])
    ceiling = np.concatenate([ceilings[kind] for kind in of_way])
    result = {}
    for style in sorted(set(names)):
        chosen = names == style
        if chosen.sum() < 2:
            continue  # one edit has no interval
        success, outside = (
            np.concatenate([part[field] for part in of_way.values()], axis=1)[:, chosen]
            for field in ("success", "outside")
        )
        result[style] = {
            "edits": int(chosen.sum()), "success": asdict(share(success)), "outside": float(outside.mean()),
            "ceiling": float(ceiling[chosen].mean()),
        }  # fmt: skip
    return result


def table(
    rows: Rows,
    of_kind: Mapping[str, Any],
    errors: Mapping[str, Errors],
    seconds: Mapping[str, float],
    styles: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What is stored: all ways, also by style, the round trip's `outside`, the judge's errors, seconds a picture.

    styles: for each kind that of each scene.
    """
    ways, ceilings = by_way(rows), {kind: part["ceiling"] for kind, part in of_kind.items()}
    return {
        "ways": {way: summary(of_way, errors) for way, of_way in ways.items()},
        "styles": {way: by_style(of_way, ceilings, styles) for way, of_way in ways.items()},
        "ceiling": {kind: float(np.mean(part["ceiling"])) for kind, part in of_kind.items()},
        "judge": {kind: dict(part["judge"]) for kind, part in of_kind.items()},
        "seconds": dict(seconds),
    }
