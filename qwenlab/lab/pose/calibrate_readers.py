"""Measure the readers of poses: `python -m qwenlab.lab.pose.calibrate_readers`.

On other drawings than those of their training: plain, after the VAE, and by style after the VAE. The result goes to
`benchmarks/pose/readers.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.pose.reader_examples import SEED, STYLES, UNKNOWN, Examples, examples
from qwenlab.lab.pose.readers import (
    JOINT_WEIGHTS,
    LIMB_WEIGHTS,
    MOST,
    JointNet,
    LimbNet,
    load_joint_net,
    load_limb_net,
    read_joints,
    read_limbs,
)
from qwenlab.lab.results import stamp_result
from qwenlab.lab.statistics import rate
from qwenlab.model.micro_weights import MICRO_WEIGHTS

HELD_OUT = 2  # seed of the drawings
NEAR = 5.0  # pixels within which a joint counts as found (PCK)
GROUPS = {
    "all": range(18), "wrists": (4, 7), "elbows": (3, 6), "knees": (9, 12), "ankles": (10, 13),
    "trunk": (1, 2, 5, 8, 11), "head": (0, 14, 15, 16, 17),
}  # fmt: skip


def measure_joints(network: JointNet, data: Examples) -> dict[str, dict[str, float]]:
    """By group of joints: mean and median distance in pixels, share within NEAR pixels, and how many were seen."""
    found = read_joints(network, data.images)
    distance = np.linalg.norm(found[..., :2] - data.joints[..., :2], axis=-1)  # (N, 18)
    seen = data.joints[..., 2] == 1
    result = {}
    for name, rows in GROUPS.items():
        values = distance[:, list(rows)][seen[:, list(rows)]]
        result[name] = {
            "mean": float(values.mean()),
            "median": float(np.median(values)),
            "near": float((values <= NEAR).mean()),
            "of": int(values.size),
        }
    return result


def measure_limbs(network: LimbNet, data: Examples) -> dict[str, Any]:
    """Arms and legs counted right, with a table of read by true count, and arms whose order was read right."""
    read, result = read_limbs(network, data.images), {}
    for name, true, got in (("arms", data.arms, read.arms), ("legs", data.legs, read.legs)):
        known = true != UNKNOWN
        table = np.zeros((MOST + 1, MOST + 1), int)
        np.add.at(table, (true[known], got[known]), 1)
        result[name] = _share(int(np.trace(table)), int(known.sum())) | {"read": table.tolist()}
    for name, value in (("before", 1), ("behind", 0)):
        told = data.before == value
        result[name] = _share(int((read.before[told] == bool(value)).sum()), int(told.sum()))
    return result


def _share(right: int, total: int) -> dict[str, Any]:
    found = rate(right, total)
    return {"right": found.value, "low": found.low, "high": found.high, "of": total}


def after_vae(data: Examples, vae: Any) -> Examples:
    """The same answers to what the autoencoder makes of the pictures."""
    return Examples(**vars(data) | {"images": round_trip(data.images, vae)})


def calibrate(joints: JointNet, limbs: LimbNet, vae: Any, count: int, of_style: int) -> dict[str, Any]:
    """Both readers on `count` drawings, on these after the VAE, and on `of_style` drawings of each style after it."""

    def measure(data: Examples) -> dict[str, Any]:
        return {"joints": measure_joints(joints, data), "limbs": measure_limbs(limbs, data)}

    drawn = examples(HELD_OUT, count)
    result = {"renderings": measure(drawn), "vae": measure(after_vae(drawn, vae))}
    for number, style in enumerate(STYLES):
        result[f"vae, {style}"] = measure(after_vae(examples(HELD_OUT + 1 + number, of_style, style=style), vae))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="drawings")
    parser.add_argument("--of-style", type=int, default=150, help="drawings of each style")
    parser.add_argument("--joints", type=Path, default=JOINT_WEIGHTS)
    parser.add_argument("--limbs", type=Path, default=LIMB_WEIGHTS)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "pose" / "readers.json")
    options = parser.parse_args()
    readers = load_joint_net(options.joints), load_limb_net(options.limbs)
    result = calibrate(*readers, load_vae(MICRO_WEIGHTS), options.count, options.of_style)
    for name, row in result.items():
        found, limbs = row["joints"], row["limbs"]
        places = ", ".join(f"{group} {found[group]['mean']:.2f} px ({found[group]['near']:.1%})" for group in GROUPS)
        counts = ", ".join(f"{what} {limbs[what]['right']:.1%} of {limbs[what]['of']}" for what in limbs)
        print(f"{name}: joints {places}; {counts}")
    config = {"count": options.count, "of_style": options.of_style, "seed": [SEED, HELD_OUT]}
    weights = [options.joints, options.limbs, MICRO_WEIGHTS / "vae"]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(options.out, stamp_result(result, weights=weights, config=config))


if __name__ == "__main__":
    main()
