"""What rank buys, and what LoRA's relatives buy: `python -m benchmarks.rank.ranks`.

Same 60 pictures, same steps, same noise. Each row is scored by the held-out flow loss on pictures of the character
whose (action, background) pairs no training picture has. Learning rates are chosen per method among `RATES` on other
pictures and another seed than those reported. Finished runs are kept in --work, so that a broken run goes on.

- full: every weight of attention and MLP trained; its update cut to rank r by SVD
- lora: a LoRA of rank r on the same layers, trained
- rank 8 through peft: LoRA, rsLoRA (Kalajdzievski, arXiv 2312.03732), DoRA (Liu et al., arXiv 2402.09353), PiSSA (Meng
  et al., arXiv 2404.02948), LoRA+ with B learning 16 times faster than A (Hayou et al., arXiv 2402.12354)
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from peft import LoraConfig

from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import read_dataset
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.results import stamp_result
from qwenlab.lab.world.sample import character_test_scenes, write_scenes
from qwenlab.lora.layers import trainable_parameters
from qwenlab.lora.rank import energy_by_rank, truncate
from qwenlab.lora.targets import target_modules
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import TrainingSet, draw_batch, encode_dataset, flow_loss, held_out_loss
from qwenlab.training.full import add_updates, train_full
from qwenlab.training.runtime import make_accelerator

RANKS = (1, 2, 4, 8, 16, 32, 64)
RATES = {"full": (3e-4, 1e-3), "lora": (1e-3, 3e-3), "dora": (1e-3, 3e-3), "rslora": (3e-4, 1e-3),
         "pissa": (3e-4, 1e-3), "lora+": (3e-4, 1e-3)}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"}, "lora+": {},
}  # fmt: skip
LORA_PLUS_RATIO = 16
TUNING_SEED, TUNING_PICTURES, TEST_PICTURES = 900, 4001, 4002


class Bench:
    """The data of all rows; pipelines are loaded anew for each row, since PiSSA changes the base."""

    def __init__(self, model: str, config: TrainConfig, work: Path) -> None:
        self.model, self.config, self.work = model, config, work
        pipeline = load_pipeline(model)
        self.data = encode_dataset(pipeline, read_dataset(config.dataset), config, work / "cache")
        self.held_out = {seed: self.pictures(pipeline, seed) for seed in (TUNING_PICTURES, TEST_PICTURES)}
        self.base = {seed: mean(held_out_loss(pipeline, data)) for seed, data in self.held_out.items()}

    def pictures(self, pipeline: Any, seed: int) -> TrainingSet:
        folder = self.work / f"held_out_{seed}"
        if not folder.exists():
            write_scenes(folder, character_test_scenes(64, seed), self.config.resolution)
        return encode_dataset(pipeline, read_dataset(folder), self.config)

    def lora(self, method: str, rank: int, rate: float, seed: int, pictures: int) -> dict[str, float]:
        """Train one adapter; returns its held-out loss, seconds a step and parameters."""
        pipeline = load_pipeline(self.model)
        transformer, config = pipeline.transformer, replace(self.config, learning_rate=rate, seed=seed, rank=rank)
        transformer.requires_grad_(False)
        torch.manual_seed(seed)
        settings = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=target_modules(config.apply_to), **VARIANTS[method]
        )
        transformer.add_adapter(settings)
        named = trainable_parameters(transformer)
        groups = [
            {
                "params": [p for name, p in named.items() if ("lora_B" in name) == is_b],
                "lr": rate * (LORA_PLUS_RATIO if is_b and method == "lora+" else 1),
            }
            for is_b in (False, True)
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        schedule = get_scheduler(
            config.lr_scheduler, optimizer, num_warmup_steps=config.warmup_steps,
            num_training_steps=config.max_train_steps,
        )  # fmt: skip
        accelerator = make_accelerator(pipeline, config, "fp32")
        transformer.train()
        started = time.perf_counter()
        for step in range(1, config.max_train_steps + 1):
            flow_loss(transformer, draw_batch(pipeline, self.data, config, step, 0, accelerator)).backward()
            torch.nn.utils.clip_grad_norm_(named.values(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        seconds = time.perf_counter() - started
        return {
            "loss": mean(held_out_loss(pipeline, self.held_out[pictures])),
            "seconds_a_step": seconds / config.max_train_steps,
            "parameters": sum(p.numel() for p in named.values()),
        }

    def full(self, rate: float, seed: int, pictures: int) -> dict[str, Any]:
        """Train the weights; returns held-out losses of the whole update and of its best part of each rank."""
        pipeline = load_pipeline(self.model)
        config = replace(self.config, learning_rate=rate, seed=seed)
        updates, seconds = train_full(pipeline, self.data, config)
        losses = {}
        for rank in (*RANKS, None):
            cut = {name: truncate(update, rank) if rank else update for name, update in updates.items()}
            add_updates(pipeline, cut)
            losses[str(rank or "all")] = mean(held_out_loss(pipeline, self.held_out[pictures]))
            add_updates(pipeline, cut, -1.0)
        used = [update for name, update in updates.items() if update.abs().max() > 0]
        energy = torch.stack([energy_by_rank(update)[:64] for update in used]).mean(0)
        return {
            "loss": losses["all"],
            "losses": losses,
            "energy": {str(rank): energy[rank - 1].item() for rank in RANKS},
            "seconds_a_step": seconds / config.max_train_steps,
            "parameters": sum(update.numel() for update in updates.values()),
        }

    def row(self, method: str, rank: int, rate: float, seed: int, pictures: int) -> dict[str, Any]:
        """A finished row from `work`, or a new one."""
        path = self.work / f"{method}-{rank}-{rate:g}-{seed}-{pictures}-{self.config.max_train_steps}.json"
        if not path.exists():
            row = self.full(rate, seed, pictures) if method == "full" else self.lora(method, rank, rate, seed, pictures)
            print(f"{method:7} rank {rank:2} rate {rate:g} seed {seed}: {row['loss']:.5f}", flush=True)
            atomic_write_json(path, row)
        return json.loads(path.read_text())


def mean(losses: dict[float, float]) -> float:
    return float(np.mean(list(losses.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="micro")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "lora_ranks")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/rank/ranks.json")
    options = parser.parse_args()
    config = replace(
        read_config(REPOSITORY / "configs" / "micro_lora.yaml"),
        max_train_steps=options.steps,
        preview_every_n_steps=0,
        apply_to=["attention+mlp"],
    )
    bench = Bench(options.model, config, options.work)
    rates = {}
    for method, choices in RATES.items():
        tried = {rate: bench.row(method, 8, rate, TUNING_SEED, TUNING_PICTURES)["loss"] for rate in choices}
        rates[method] = min(tried, key=tried.__getitem__)
    rows = [("full", 0)] + [("lora", rank) for rank in RANKS] + [(name, 8) for name in VARIANTS if name != "lora"]
    result = {"base_loss": bench.base[TEST_PICTURES], "rates": rates, "rows": {}}
    for method, rank in rows:
        runs = [bench.row(method, rank, rates[method], seed, TEST_PICTURES) for seed in options.seeds]
        result["rows"][f"{method} {rank}" if rank else method] = {
            "loss": float(np.mean([run["loss"] for run in runs])),
            "runs": runs,
        }
    described = {"steps": options.steps, "seeds": options.seeds, "model": options.model, "config": config.hash()}
    model = MICRO_WEIGHTS if options.model == "micro" else Path(options.model)
    atomic_write_json(options.out, stamp_result(result, weights=[model], config=described))
    full_gain = result["base_loss"] - result["rows"]["full"]["loss"]
    print(f"base {result['base_loss']:.5f}")
    for name, row in result["rows"].items():
        share = (result["base_loss"] - row["loss"]) / full_gain
        print(f"{name:10} loss {row['loss']:.5f}  {share:5.0%} of the full gain")


if __name__ == "__main__":
    main()
