"""How fast captions are linted: `python -m benchmarks.captions.speed`; the goal is 10,000 in under 2 seconds.

Three sets of 10,000: captions of the world, which share their tags as real data sets do; the labelled captions in turn,
good and bad; and the same with a number in every tag, so that no tag is met twice and every cache is useless. Processor
time is what the linter needs, the clock also counts what else the machine was doing.
"""

from __future__ import annotations

import argparse
import re
import time
from itertools import cycle, islice

import numpy as np

from qwenlab.captions import lint, lint_set
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab import world
from qwenlab.lab.caption_scores import read_labelled
from qwenlab.lab.results import stamp_result

LABELLED = REPOSITORY / "tests" / "captions" / "captions_labelled.jsonl"


def caption_sets(count: int, seed: int) -> dict[str, list[str]]:
    """The three sets, `count` captions each; captions too long for the encoder are left out."""
    rng = np.random.default_rng(seed)
    labelled = [caption.text for caption in read_labelled(LABELLED) if len(caption.text) < 1000]
    turns = list(islice(cycle(labelled), count))
    unlike = [re.sub(r"(?<=[,，] )", f"甲{i}", text) for i, text in enumerate(turns)]
    return {
        "world": [world.caption(world.sample_scene(rng, split="all")) for _ in range(count)],
        "labelled": turns,
        "no tag twice": unlike,
    }


def seconds(texts: list[str]) -> dict[str, float]:
    """Processor and clock time of linting `texts` as one set."""
    processor, clock = time.process_time(), time.perf_counter()
    report = lint_set(texts)
    return {
        "processor_seconds": round(time.process_time() - processor, 2),
        "clock_seconds": round(time.perf_counter() - clock, 2),
        "findings": len(report.findings),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lint("1女孩, 長髮")  # loads OpenCC's dictionaries, once a process
    result = {name: seconds(texts) for name, texts in caption_sets(options.count, options.seed).items()}
    for name, figures in result.items():
        print(f"{name}: {options.count:,} captions, {figures}")
    out = REPOSITORY / "benchmarks/captions/speed.json"
    atomic_write_json(out, stamp_result(result, config=vars(options)))
    print(f"{out.relative_to(REPOSITORY)}: written")


if __name__ == "__main__":
    main()
