"""What the base draws of what it is asked for: `python -m benchmarks.micro.base_rates`.

512 prompts of combinations that no training picture has, one fixed seed each, true guidance on. The judge reads every
attribute; beside each rate stands chance, the rate at which a picture fits the prompt of another picture. Hands: the
share of the visible open hands with five fingers, and of the full-body pictures with two well-formed feet, with 95%
intervals, as read and corrected by the judge's own errors. A smear that is no hand any more escapes that share, so
the number of hands found is set against the number found in true renderings of the same scenes.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab import world
from qwenlab.lab.judge import Judge, Reading, attribute_rates, foot_right_rate, hand_right_rate, load_judge
from qwenlab.lab.judge.reading import FILES as JUDGE
from qwenlab.lab.results import stamp_result
from qwenlab.model.generation import generate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

OPEN_HANDS = 0.5  # share of the prompts that ask for open fingers


def held_out_scenes(count: int, seed: int) -> list[world.Scene]:
    """`count` scenes of held-out combinations."""
    rng = np.random.default_rng(seed)
    return [world.sample_scene(rng, split="test", open_hands=OPEN_HANDS) for _ in range(count)]


def anatomy_rates(readings: list[Reading], judge: Judge) -> dict[str, Any]:
    """Hand-right and foot-right rates, as read and corrected, and how often each answer was given."""
    condition = "vae" if "vae" in judge.calibration else "renderings"
    full = [reading for reading in readings if reading.attributes["framing"] == "全身"]
    hands = Counter(hand.reading for reading in readings for hand in reading.hands)
    return {
        "hands": asdict(hand_right_rate(readings)),
        "hands_corrected": asdict(hand_right_rate(readings, judge, condition)),
        "hand_readings": dict(sorted(hands.items())),
        "feet": asdict(foot_right_rate(readings)),
        "feet_corrected": asdict(foot_right_rate(readings, judge, condition)),
        "feet_readings": dict(sorted(Counter(reading.feet for reading in full).items())),
        "corrected_by": condition,
    }


def drawing_parser(description: str, name: str, *, count: int, seed: int, guidance: float) -> argparse.ArgumentParser:
    """The options of benchmarks that draw `count` prompts, one picture each; their results carry `name`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=seed, help="of the scenes; picture i is drawn with seed + i")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=guidance)
    parser.add_argument("--out", type=Path, default=REPOSITORY / f"benchmarks/{name}.json")
    return parser


def write_rates(result: dict[str, Any], options: argparse.Namespace, **made_of: Any) -> None:
    """Store a result in `options.out`, stamped with judge, model, the options of `drawing_parser` and `made_of`."""
    config = {name: getattr(options, name) for name in ("model", "count", "seed", "steps", "guidance")} | made_of
    model = MICRO_WEIGHTS if options.model == "micro" else Path(options.model)
    atomic_write_json(options.out, stamp_result(result, weights=[*JUDGE, model], config=config))


def main() -> None:
    options = drawing_parser(__doc__, "micro/base_rates", count=512, seed=512_000, guidance=4.0).parse_args()
    judge, pipeline = load_judge(), load_pipeline(options.model)
    scenes = held_out_scenes(options.count, options.seed)
    start = time.monotonic()
    images = generate(
        pipeline, [world.caption(scene) for scene in scenes], [options.seed + i for i in range(options.count)],
        steps=options.steps, guidance=options.guidance,
    )  # fmt: skip
    seconds = time.monotonic() - start
    readings = judge.read(images)
    true = judge.read([world.render(scene).image for scene in scenes])
    result = {
        "seconds_a_picture": round(seconds / options.count, 3),
        "attributes": attribute_rates(readings, scenes),
        "anatomy": anatomy_rates(readings, judge),
        "hands_found": sum(len(reading.hands) for reading in readings),
        "hands_found_in_renderings": sum(len(reading.hands) for reading in true),
        "rendering_attributes": attribute_rates(true, scenes),
        "identity": sum(reading.is_character for reading in readings),
    }
    write_rates(result, options, open_hands=OPEN_HANDS)
    for name, row in result["attributes"].items():
        print(f"{name:12} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  chance {row['chance']:.3f}")
    for name in ("hands", "hands_corrected", "feet", "feet_corrected"):
        row = result["anatomy"][name]
        print(f"{name:16} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  {row['count']} of {row['total']}")
    print(f"hands found {result['hands_found']}, in renderings of the scenes {result['hands_found_in_renderings']}")


if __name__ == "__main__":
    main()
