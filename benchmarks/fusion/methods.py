"""Which way of merging a character with a style keeps both: `python -m benchmarks.fusion.methods`.

The six LoRAs of `lora_library`, three characters and three styles, in four studies. Every picture is read by the judge
of the library: the character, the style, and how many of action and place are as asked.

- blocks: each LoRA with one block only, and with one block left out.
- grid: every method, 3 x 3 weights, all nine pairs. The weights with the best score are chosen here, on prompts and
  noise that are used for nothing else. The score of a picture is half for character and style both right, half for
  action and place.
- best: every method at its chosen weights on fresh prompts, the same for all, and on half of them at 1 and 1;
  differences to the exact sum are paired picture by picture, with intervals by resampling pictures.
- six: all six LoRAs in one file, each pair asked for in turn.

Finished parts stay in --work, so that a broken benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.fusion.results import mean_score, pooled, study_table, versus
from qwenlab.files import REPOSITORY, atomic_write_json, sha256_json
from qwenlab.lab import world
from qwenlab.lab.judge.library import WEIGHTS as JUDGE
from qwenlab.lab.judge.library import load_library_judge
from qwenlab.lab.results import STAMP_KEY, stamp_result
from qwenlab.lab.world.library import CHARACTERS, LIBRARY_STYLES, NAMES, test_scenes
from qwenlab.lora.fusion import Source, fused
from qwenlab.lora.fusion.methods import cross_terms
from qwenlab.lora.fusion.sampling import composing, switching
from qwenlab.lora.io import load_lora, remove_lora
from qwenlab.model.generation import generate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

LIBRARY = REPOSITORY / "lora_library"
OUT = REPOSITORY / "benchmarks/fusion/methods.json"
STEPS, GUIDANCE = 12, 2.5
WEIGHT_GRID = (0.5, 0.8, 1.1)
SEEDS = {"blocks": 1, "grid": 2, "best": 3, "six": 4}  # of the prompts and the noise
PAIRS = list(product(CHARACTERS, LIBRARY_STYLES))
BLOCKS = 6
#: Method -> what `fuse` is asked for. Ranks are those of both LoRAs together, but for "svd to 8", as large as one.
FILES: dict[str, dict[str, Any]] = {
    "concat": {"method": "concat"},
    "svd to 8": {"method": "svd", "rank": 8},
    "average": {"method": "average"},
    "ties": {"method": "ties", "rank": 16},
    "dare": {"method": "dare", "rank": 16},
    "knots": {"method": "knots"},
    "core": {"method": "core"},
    "orthogonal": {"method": "orthogonal"},
    "by block": {"method": "concat"},
}
SAMPLING = {"switch": switching, "composite": composing}
METHODS = (*FILES, *SAMPLING)
Row = dict[str, int]  # of a picture: character, style 0 or 1; following 0 to 2


class Bench:
    """Pipeline and judge, and a folder of what is finished."""

    def __init__(self, work: Path, model: str = "micro") -> None:
        self.pipeline, self.judge, self.work = load_pipeline(model), load_library_judge(), work
        self.weights = [JUDGE, LIBRARY, MICRO_WEIGHTS if model == "micro" else Path(model)]
        self.hashes = stamp_result({}, weights=self.weights)[STAMP_KEY]["weights"]

    @contextmanager
    def ready(self, method: str, names: Sequence[str], weights: Sequence[float], blocks: Any = None) -> Iterator[None]:
        """The pipeline with the LoRAs `names`, merged by `method` with these weights."""
        if method in FILES:
            layer_weights = blocks if method == "by block" else {}
            sources = [
                Source(LIBRARY / f"{n}.safetensors", w, layer_weights.get(kind_of(n), {}))
                for n, w in zip(names, weights, strict=True)
            ]
            with fused(self.pipeline, sources, **FILES[method]):
                yield
            return
        for name in names:
            load_lora(self.pipeline, LIBRARY / f"{name}.safetensors", kind_of(name))
        try:
            with SAMPLING[method](self.pipeline, dict(zip(map(kind_of, names), weights, strict=True))):
                yield
        finally:
            remove_lora(self.pipeline)

    def rows(self, study: str, character: str, style: str, count: int) -> list[Row]:
        """What the judge reads in `count` pictures that the pipeline draws now; "" asks for no library character."""
        scenes = list(test_scenes(character, style, count, SEEDS[study]))
        noise = [10_000 * SEEDS[study] + k for k in range(count)]
        images = generate(self.pipeline, [world.caption(s) for s in scenes], noise, steps=STEPS, guidance=GUIDANCE)
        return [
            {
                "character": int(r.character == (character or "other")), "style": int(r.style == (style or "other")),
                "following": (r.action == s.action) + (r.background == s.background),
            }
            for r, s in zip(self.judge.read(images), scenes, strict=True)
        ]  # fmt: skip

    def part(self, key: Sequence[Any], make: Callable[[], Any]) -> Any:
        """The finished part `key`, or a new one."""
        path = self.work / f"{sha256_json([self.hashes, STEPS, GUIDANCE, list(key)])[:16]}.json"
        if not path.exists():
            atomic_write_json(path, {"key": list(key), "value": make()})
        return json.loads(path.read_text())["value"]

    def pairs(self, study: str, method: str, weights: Sequence[float], count: int, blocks: Any = None) -> list[Row]:
        """`count` pictures of each of the nine pairs, merged by `method`."""
        rows: list[Row] = []
        for pair in PAIRS:

            def make(pair: tuple[str, str] = pair) -> list[Row]:
                with self.ready(method, pair, weights, blocks):
                    return self.rows(study, *pair, count)

            key = [study, method, weights, pair, count] + ([blocks] if method == "by block" else [])
            rows += self.part(key, make)
        return rows


def kind_of(name: str) -> str:
    """What a LoRA of the library teaches."""
    return "character" if name in CHARACTERS else "style"


def only(block: int) -> dict[str, float]:
    """Layer weights that leave one block."""
    return {f"transformer_blocks.{block}.*": 1.0, "*": 0.0}


def without(block: int) -> dict[str, float]:
    """Layer weights that leave out one block."""
    return {f"transformer_blocks.{block}.*": 0.0}


def block_study(bench: Bench, count: int) -> dict[str, Any]:
    """Of each LoRA's own thing: shares right with all blocks, with each block alone, and without it."""
    variants = {"all": {}} | {f"only {b}": only(b) for b in range(BLOCKS)}
    variants |= {f"without {b}": without(b) for b in range(BLOCKS)}
    result: dict[str, Any] = {"character": {}, "style": {}}
    for variant, weights in variants.items():
        for kind, names in (("character", CHARACTERS), ("style", LIBRARY_STYLES)):
            rows: list[Row] = []
            for name in names:
                source = Source(LIBRARY / f"{name}.safetensors", 1.0, weights)

                def make(source: Source = source, name: str = name, kind: str = kind) -> list[Row]:
                    with fused(bench.pipeline, [source]):
                        return bench.rows("blocks", *((name, "") if kind == "character" else ("", name)), count)

                rows += bench.part(["blocks", variant, name, count], make)
            result[kind][variant] = pooled(rows, kind)
    return result


def block_weights(study: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each block to the kind of LoRA that misses it more: the other kind gets half of its weight there."""
    loss = {
        kind: [rows["all"]["value"] - rows[f"without {b}"]["value"] for b in range(BLOCKS)]
        for kind, rows in study.items()
    }
    share = {kind: np.array(values) / max(sum(values), 1e-9) for kind, values in loss.items()}
    weights: dict[str, dict[str, float]] = {"character": {}, "style": {}}
    for block in range(BLOCKS):
        weaker = "style" if share["character"][block] >= share["style"][block] else "character"
        weights[weaker][f"transformer_blocks.{block}.*"] = 0.5
    return weights


def overlap() -> dict[str, float]:
    """How far averaging the factors is from the sum of the updates, for each pair; mean over trained layers."""
    factors = {name: load_file(LIBRARY / f"{name}.safetensors") for name in NAMES}
    result = {}
    for pair in PAIRS:
        layers = [key.removesuffix(".lora_A.weight") for key in factors[pair[0]] if ".lora_A." in key]
        errors = [
            cross_terms([
                tuple(factors[name][f"{layer}.lora_{side}.weight"].float() for side in "AB") for name in pair
            ])
            for layer in layers
        ]  # fmt: skip
        result[" + ".join(pair)] = float(np.nanmean(errors))  # the last block's text stream feeds nothing: 0 / 0
    return result


def six_in_one(bench: Bench, count: int) -> dict[str, list[Row]]:
    """All six LoRAs in one file of rank 48 (or 16), each pair asked for."""
    result = {}
    for name, how in (FILES | {"svd to 16": {"method": "svd", "rank": 16}}).items():
        if name in ("by block", "svd to 8"):
            continue
        how = how | ({"rank": 48} if name in ("ties", "dare") else {})
        for weight in (1.0, 0.5):

            def make(how: dict = how, weight: float = weight) -> list[Row]:
                with fused(bench.pipeline, [Source(LIBRARY / f"{n}.safetensors", weight) for n in NAMES], **how):
                    return [row for pair in PAIRS for row in bench.rows("six", *pair, count)]

            result[f"{name}, weight {weight:g}"] = bench.part(["six", name, weight, count], make)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=int, default=2, help="pictures of a pair at each point of the grid")
    parser.add_argument("--count", type=int, default=12, help="fresh pictures of a pair")
    parser.add_argument("--blocks", type=int, default=12, help="pictures of a LoRA with each choice of blocks")
    parser.add_argument("--six", type=int, default=4, help="pictures of a pair with six LoRAs in one file")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "fusion_methods")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    bench = Bench(options.work)
    blocks = block_study(bench, options.blocks)
    by_block = block_weights(blocks)
    result: dict[str, Any] = {"blocks": blocks, "block weights": by_block, "cross terms": overlap(), "methods": {}}
    rows: dict[str, list[Row]] = {}
    for method in METHODS:
        grid = {
            weights: bench.pairs("grid", method, weights, options.grid, by_block)
            for weights in product(WEIGHT_GRID, WEIGHT_GRID)
        }
        chosen = max(grid, key=lambda weights: mean_score(grid[weights]))
        rows[method] = bench.pairs("best", method, chosen, options.count, by_block)
        plain = bench.pairs("best", method, (1.0, 1.0), options.count // 2, by_block)
        result["methods"][method] = {
            "grid": [{"weights": list(weights)} | study_table(found) for weights, found in grid.items()],
            "chosen": list(chosen), "best": study_table(rows[method]), "at 1 and 1": study_table(plain),
        }  # fmt: skip
        print(method, chosen, study_table(rows[method])["score"], flush=True)
    for method in METHODS[1:]:
        result["methods"][method]["against concat"] = versus(rows[method], rows["concat"])
    result["six"] = {name: study_table(found) for name, found in six_in_one(bench, options.six).items()}
    config = {k: v for k, v in vars(options).items() if k not in ("out", "work")}
    config |= {"steps": STEPS, "guidance": GUIDANCE, "weights": WEIGHT_GRID, "seeds": SEEDS, "files": FILES}
    command = "python -m benchmarks.fusion.methods"
    atomic_write_json(options.out, stamp_result(result, weights=bench.weights, config=config, command=command))


if __name__ == "__main__":
    main()
