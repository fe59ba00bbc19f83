"""What rank buys, and what LoRA's relatives buy: `python -m benchmarks.rank.ranks`.

Same 60 pictures, same steps, same noise. Each row is scored by the held-out flow loss on pictures of the character
whose (action, background) pairs no training picture has. Learning rates are chosen per method among `RATES` on other
pictures and another seed than those reported. Finished runs are kept in --work, so that a broken run goes on.

- full: every weight of attention and MLP trained; its update cut to rank r by SVD
- lora: a LoRA of rank r on the same layers, trained
- LoRA's relatives at rank 8, see `qwenlab.lab.adapters`

`share` is the part of the full update's gain in held-out loss, seed by seed; `trained_minus_cut` compares a LoRA of
rank r with the full update cut to r, `minus_lora` a relative with LoRA of rank 8. Intervals are those of a t test over
seeds. Few steps: it says what is reached early, not in the end.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data.size import paired_difference
from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import read_dataset
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.adapters import METHODS, spare_transformer, train_adapter
from qwenlab.lab.results import stamp_result
from qwenlab.lab.world.sample import character_test_scenes, write_scenes
from qwenlab.lora.rank import energy_by_rank, truncate
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import TrainingSet, encode_dataset, held_out_loss
from qwenlab.training.full import add_updates, train_full

RANKS = (1, 4, 8, 16, 64)
SLOW, FAST = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2)
RATES = {"full": SLOW, "lora": FAST, "dora": FAST, "rslora": SLOW, "pissa": SLOW, "lora+": SLOW}
TUNING_SEED, TUNING_PICTURES, TEST_PICTURES = 900, 4001, 4002
HELD_OUT = 32  # pictures


class Bench:
    """The data of all rows, and the rows that are finished."""

    def __init__(self, model: str, config: TrainConfig, work: Path) -> None:
        self.pipeline, self.config, self.work = load_pipeline(model), config, work
        self.data = encode_dataset(self.pipeline, read_dataset(REPOSITORY / "data_sample"), config, work / "cache")
        self.held_out = {seed: self.pictures(seed) for seed in (TUNING_PICTURES, TEST_PICTURES)}

    def pictures(self, seed: int) -> TrainingSet:
        folder = self.work / f"held_out_{seed}"
        if not folder.exists():
            write_scenes(folder, character_test_scenes(HELD_OUT, seed), self.config.resolution)
        return encode_dataset(self.pipeline, read_dataset(folder), self.config)

    def loss(self, pictures: int) -> float:
        return float(np.mean(list(held_out_loss(self.pipeline, self.held_out[pictures]).values())))

    def adapter(self, method: str, config: TrainConfig, pictures: int) -> dict[str, float]:
        """Train one adapter; returns its held-out loss, seconds a step and parameters."""
        with spare_transformer(self.pipeline):
            run = train_adapter(self.pipeline, self.data, config, method)
            return {
                "loss": self.loss(pictures),
                "seconds_a_step": run.seconds / config.max_train_steps,
                "parameters": run.parameters,
            }

    def full(self, config: TrainConfig, pictures: int) -> dict[str, Any]:
        """Train the weights; returns held-out losses of the whole update and of its best part of each rank."""
        updates, seconds = train_full(self.pipeline, self.data, config)
        losses = {}
        for rank in (*RANKS, None):
            cut = {name: truncate(update, rank) if rank else update for name, update in updates.items()}
            with spare_transformer(self.pipeline):
                add_updates(self.pipeline, cut)
                losses[str(rank or "all")] = self.loss(pictures)
        used = [update for name, update in updates.items() if update.abs().max() > 0]
        energy = torch.stack([energy_by_rank(update)[: max(RANKS)] for update in used]).mean(0)
        return {
            "loss": losses["all"],
            "cut": {str(rank): losses[str(rank)] for rank in RANKS},
            "energy": {str(rank): energy[rank - 1].item() for rank in RANKS},
            "seconds_a_step": seconds / config.max_train_steps,
            "parameters": sum(update.numel() for update in updates.values()),
        }

    def row(self, method: str, rank: int, rate: float, seed: int, pictures: int) -> dict[str, Any]:
        """A finished row from `work`, or a new one."""
        path = self.work / f"{method}-{rank}-{rate:g}-{seed}-{pictures}-{self.config.max_train_steps}.json"
        if not path.exists():
            config = replace(self.config, learning_rate=rate, seed=seed, rank=max(rank, 1))
            row = self.full(config, pictures) if method == "full" else self.adapter(method, config, pictures)
            print(f"{method:7} rank {rank:2} rate {rate:g} seed {seed}: {row['loss']:.5f}", flush=True)
            atomic_write_json(path, row)
        return json.loads(path.read_text())


def over_seeds(values: list[float]) -> dict[str, float]:
    """Mean of one number a seed with the 95% interval of a t test."""
    return paired_difference(values, np.zeros(len(values)))


def summary(base: float, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Rows of the table from the runs of each method, "full" and "lora RANK" among them, one run a seed.

    base: held-out loss without any training.
    """
    gain = [base - run["loss"] for run in runs["full"]]

    def share(losses: list[float]) -> list[float]:
        return [(base - loss) / whole for loss, whole in zip(losses, gain, strict=True)]

    shares = {name: share([run["loss"] for run in own]) for name, own in runs.items()}
    shares |= {f"full, cut to {r}": share([run["cut"][str(r)] for run in runs["full"]]) for r in RANKS}
    return {
        "share": {name: over_seeds(values) for name, values in shares.items()},
        "trained_minus_cut": {
            str(r): paired_difference(shares[f"lora {r}"], shares[f"full, cut to {r}"]) for r in RANKS
        },
        "minus_lora": {name: paired_difference(shares[name], shares["lora 8"]) for name in METHODS if name in shares},
        "loss": {name: [run["loss"] for run in own] for name, own in runs.items()},
        "seconds_a_step": {
            name: float(np.median([run["seconds_a_step"] for run in own])) for name, own in runs.items()
        },
        "parameters": {name: own[0]["parameters"] for name, own in runs.items()},
        "energy": {str(r): float(np.mean([run["energy"][str(r)] for run in runs["full"]])) for r in RANKS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="micro")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "lora_ranks")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/rank/ranks.json")
    options = parser.parse_args()
    config = replace(
        read_config(REPOSITORY / "configs" / "micro_lora.yaml"),
        max_train_steps=options.steps,
        warmup_steps=options.steps // 10,
        preview_every_n_steps=0,
        apply_to=["attention+mlp"],
    )
    bench = Bench(options.model, config, options.work)
    tried = {
        method: {rate: bench.row(method, 8, rate, TUNING_SEED, TUNING_PICTURES)["loss"] for rate in choices}
        for method, choices in RATES.items()
    }
    rates = {method: min(losses, key=losses.__getitem__) for method, losses in tried.items()}
    rows = [("full", 0), *(("lora", rank) for rank in RANKS), *((name, 8) for name in METHODS if name != "lora")]
    runs = {
        f"lora {rank}" if method == "lora" else method: [
            bench.row(method, rank, rates[method], seed, TEST_PICTURES) for seed in options.seeds
        ]
        for method, rank in rows
    }
    base = bench.loss(TEST_PICTURES)
    result = {"base_loss": base, "rates": rates, "rates_tried": tried} | summary(base, runs)
    described = {"steps": options.steps, "seeds": options.seeds, "model": options.model, "config": config.hash()}
    model = MICRO_WEIGHTS if options.model == "micro" else Path(options.model)
    atomic_write_json(options.out, stamp_result(result, weights=[model], config=described))
    for name, share in result["share"].items():
        print(f"{name:16} {share['value']:5.0%} [{share['low']:.0%}, {share['high']:.0%}] of the full gain")


if __name__ == "__main__":
    main()
