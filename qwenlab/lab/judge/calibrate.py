"""Measure the judge: `python -m qwenlab.lab.judge.calibrate [--model micro]`.

On pictures of held-out combinations, right and wrong anatomy and look-alikes of the character included, under three
conditions: as drawn; after a round trip through a VAE; after noise was added to the latents and removed again by the
model (both with `--model`). The result goes to `benchmarks/micro/judge_<condition>.json`, what `Judge`
needs of it (threshold of identity, error counts) to `weights/calibration.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab import world
from qwenlab.lab.judge.examples import IGNORE, NONE, Examples, draw_examples, draw_scene
from qwenlab.lab.judge.networks import CLASSES, FEET_CLASSES, HAND_CLASSES
from qwenlab.lab.judge.reading import CALIBRATION, WEIGHTS, Judge, Reading, load_judge
from qwenlab.lab.micro.round_trip import load_vae, renoise, round_trip
from qwenlab.lab.results import stamp_result
from qwenlab.model.micro_weights import MICRO_WEIGHTS

HELD_OUT_SEED, THRESHOLD_SEED = 2015, 3003
RENOISED = 512  # pictures
_MATCH = 6.0  # pixels within which a found hand is taken for a drawn one
_KINDS = ("base", "look-alike", "character")
_RESULTS = REPOSITORY / "benchmarks" / "micro"


def identity_threshold(scores: np.ndarray, is_character: np.ndarray) -> float:
    """The middle, in log odds, of the thresholds with the best balanced accuracy. scores (N,) in 0..1, labels (N,)."""
    odds = np.log(np.clip(scores, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(scores, 1e-6, 1 - 1e-6))
    edges = np.sort(odds)
    candidates = (edges[1:] + edges[:-1]) / 2
    balanced = [(np.mean(odds[is_character] >= c) + np.mean(odds[~is_character] < c)) / 2 for c in candidates]
    best = np.flatnonzero(balanced >= np.max(balanced) - 1e-12)
    middle = (edges[best[0]] + edges[best[-1] + 1]) / 2
    return float(1 / (1 + np.exp(-middle)))


def measure(readings: list[Reading], truth: Examples) -> dict[str, Any]:
    """Accuracies and confusion matrices (rows: truth, columns: reading) of readings of the pictures of `truth`."""
    return {
        "pictures": len(truth),
        "attributes": _attributes(readings, truth),
        "fingers": _fingers(readings, truth),
        "feet": _feet(readings, truth),
        "identity": _identity(readings, truth),
    }


def _attributes(readings: list[Reading], truth: Examples) -> dict[str, Any]:
    result = {}
    for column, (name, values) in enumerate(CLASSES.items()):
        table = np.zeros((len(values), len(values)), int)
        absent = 0
        for reading, label in zip(readings, truth.attributes[:, column], strict=True):
            if label == IGNORE:
                continue
            if name in reading.attributes:
                table[label, values.index(reading.attributes[name])] += 1
            else:
                absent += 1  # framing or action was misread, and hid it: counts as wrong
        shown = int(table.sum()) + absent
        right = float(np.trace(table)) / shown
        result[name] = {"right": round(right, 4), "shown": shown, "values": list(values), "confusion": table.tolist()}
    return result


def match_hands(reading: Reading, drawn: np.ndarray) -> tuple[list[int | None], int]:
    """For each drawn hand (2, 3) the number of the found hand that lies on it, or None; and how many lie on none."""
    free = set(range(len(reading.hands)))
    matches: list[int | None] = []
    for x, y, _ in drawn:
        near = {i: np.hypot(reading.hands[i].x - x, reading.hands[i].y - y) for i in free}
        best = min(near, key=near.get, default=None)
        matches.append(best if best is not None and near[best] <= _MATCH else None)
        free.discard(matches[-1])
    return matches, len(free)


def _fingers(readings: list[Reading], truth: Examples) -> dict[str, Any]:
    """ "missed" is a hand that was not found or read as none; "invented" a reading where no whole open hand is."""
    names = HAND_CLASSES[:NONE]
    table = np.zeros((len(names), len(names) + 1), int)
    invented = 0
    for reading, drawn in zip(readings, truth.hands, strict=True):
        matches, extra = match_hands(reading, drawn)
        invented += extra
        for match, label in zip(matches, drawn[:, 2].astype(int), strict=True):
            if label == NONE:
                invented += match is not None
            elif label != IGNORE:
                table[label, len(names) if match is None else names.index(reading.hands[match].reading)] += 1
    five = names.index("5")
    wrong = np.delete(table, five, 0)
    return {
        "right": round(float(np.trace(table)) / table.sum(), 4),
        "five_or_not_right": round((table[five, five] + np.delete(wrong[:, :-1], five, 1).sum()) / table.sum(), 4),
        "hands": int(table.sum()),
        "invented": invented,
        "truth": list(names),
        "read": [*names, "missed"],
        "confusion": table.tolist(),
        "errors": {
            "right": int(table[five, :-1].sum()), "right_read_right": int(table[five, five]),
            "wrong": int(wrong[:, :-1].sum()), "wrong_read_wrong": int(np.delete(wrong[:, :-1], five, 1).sum()),
        },
    }  # fmt: skip


def _feet(readings: list[Reading], truth: Examples) -> dict[str, Any]:
    table = np.zeros((len(FEET_CLASSES),) * 2, int)
    for reading, label in zip(readings, truth.feet, strict=True):
        if label == IGNORE:
            continue
        table[label, FEET_CLASSES.index(reading.feet)] += 1
    two = FEET_CLASSES.index("2")
    wrong = np.delete(table[1:], two - 1, 0)  # full-body pictures only
    return {
        "right": round(float(np.trace(table)) / table.sum(), 4),
        "right_full_body": round(float(np.trace(table[1:, 1:])) / table[1:].sum(), 4),
        "values": list(FEET_CLASSES),
        "confusion": table.tolist(),
        "errors": {
            "right": int(table[two].sum()), "right_read_right": int(table[two, two]),
            "wrong": int(wrong.sum()), "wrong_read_wrong": int(np.delete(wrong, two, 1).sum()),
        },
    }  # fmt: skip


def _identity(readings: list[Reading], truth: Examples) -> dict[str, Any]:
    found = np.array([reading.is_character for reading in readings])
    return {
        f"{kind} read as the character": {
            "count": int(found[truth.kind == i].sum()),
            "of": int((truth.kind == i).sum()),
        }
        for i, kind in enumerate(_KINDS)
    }


def freeze_threshold(judge: Judge, count: int, workers: int) -> float:
    """The identity threshold from renderings of combinations that training pictures may have, drawn for this alone."""
    examples = draw_examples(count, THRESHOLD_SEED, "train", workers)
    scores = np.array([reading.identity for reading in judge.read(examples.images)])
    return identity_threshold(scores, examples.identity == 1)


def calibrate(
    count: int, vae: Path | None, model: str | None, workers: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Measure the conditions that `vae` and `model` allow; the results by condition, and what `Judge` keeps of them."""
    judge = load_judge()
    judge.calibration = calibration = {"identity_threshold": freeze_threshold(judge, count, workers)}
    truth = draw_examples(count, HELD_OUT_SEED, "test", workers)
    cases = {"renderings": (truth.images, truth)}
    if vae:
        cases["vae"] = round_trip(truth.images, load_vae(vae)), truth
    if model:
        from qwenlab.model.pipeline import load_pipeline

        # The model has never seen the character: only ordinary pictures can be denoised by it.
        rows = np.flatnonzero(truth.kind == 0)[:RENOISED]
        base = Examples(**{name: values[rows] for name, values in vars(truth).items()})
        prompts = [world.caption(draw_scene(HELD_OUT_SEED, int(i), "test")[0]) for i in rows]
        cases["renoised"] = renoise(load_pipeline(model), base.images, prompts, HELD_OUT_SEED), base
    results = {condition: measure(judge.read(images), labels) for condition, (images, labels) in cases.items()}
    for condition, result in results.items():
        calibration[condition] = {"hands": result["fingers"]["errors"], "feet": result["feet"]["errors"]}
    return results, calibration


def summary(condition: str, result: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    attributes = " ".join(f"{name} {row['right']:.3f}" for name, row in result["attributes"].items())
    fingers, feet = result["fingers"], result["feet"]
    identity = "; ".join(f"{kind} {row['count']}/{row['of']}" for kind, row in result["identity"].items())
    return (
        f"{condition}: {attributes}\n  fingers {fingers['right']:.3f} (five or not {fingers['five_or_not_right']:.3f}) "
        f"of {fingers['hands']} hands, {fingers['invented']} invented; "
        f"feet {feet['right']:.3f}, full body {feet['right_full_body']:.3f}\n  {identity}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qwenlab.lab.judge.calibrate", description=__doc__)
    parser.add_argument("--model", help='"micro" or a pipeline folder: measure after its VAE and its denoising too')
    parser.add_argument("--vae", type=Path, help="folder of a VAE, where there is no whole pipeline yet")
    parser.add_argument("--count", type=int, default=2000, help="pictures")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder of the results")
    options = parser.parse_args()
    folder = MICRO_WEIGHTS if options.model == "micro" else Path(options.model) if options.model else None
    vae = options.vae or (folder and folder / "vae")
    results, calibration = calibrate(options.count, vae, options.model, options.workers)
    atomic_write_json(CALIBRATION, calibration)
    used = {"renderings": [WEIGHTS], "vae": [WEIGHTS, vae], "renoised": [WEIGHTS, folder]}
    config = {"count": options.count, "held_out_seed": HELD_OUT_SEED, "threshold_seed": THRESHOLD_SEED}
    for condition, result in results.items():
        stamped = stamp_result(result, weights=used[condition], config=config | {"condition": condition})
        atomic_write_json(options.out / f"judge_{condition}.json", stamped)
        print(summary(condition, result))


if __name__ == "__main__":
    main()
