"""How fast a training step is, rung by rung: `python -m benchmarks.training.speed`.

The plain loop is what one writes with peft: `add_adapter`, AdamW over the factors, the stock forward pass, cached
latents and text embeddings. Each rung changes one thing and keeps those before it; the last is qwenlab's own loop. All
rungs train on the same batches from the same start, in turns of --block steps, so that whatever else the machine does
falls on all of them alike. Ratios are taken within a turn: their median, with the lowest and the highest in brackets.
Where the processor has bfloat16 arithmetic both loops are also run in bfloat16, and the faster plain one is what the
others are compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import read_dataset
from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.results import stamp_result
from qwenlab.lora.layers import inject_lora, lora_state
from qwenlab.lora.targets import target_modules
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline
from qwenlab.training import TrainingSet, draw_batches, encode_dataset, flow_loss, optimize
from qwenlab.training.fast import fast_forward
from qwenlab.training.runtime import make_accelerator, make_optimizer, training_mode, usable_precision

Losses = Iterator[float]


@dataclass
class Setting:
    """What all rungs share."""

    pipeline: object
    training_set: TrainingSet
    config: TrainConfig

    def twin(self) -> object:
        """The pipeline with a transformer of its own."""
        components = dict(self.pipeline.components) | {"transformer": copy.deepcopy(self.pipeline.transformer)}
        return type(self.pipeline)(**components)


def plain(setting: Setting, precision: str = "fp32") -> Losses:
    """peft, AdamW, the stock forward pass."""
    from peft import LoraConfig

    pipeline, config = setting.twin(), setting.config
    transformer = pipeline.transformer
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=target_modules(config.apply_to))
    transformer.requires_grad_(False)
    transformer.add_adapter(lora)
    _same_start(transformer, config)
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    yield from _loop(setting, pipeline, parameters, optimizer, precision)


def own_layers(setting: Setting, fused: bool = False, fast: bool = False) -> Losses:
    """qwenlab's LoRA layers in the plain loop; with the fused optimizer; with the fast forward pass."""
    pipeline, config = setting.twin(), setting.config
    parameters = list(_inject(pipeline.transformer, config).values())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused or None
    )
    with fast_forward(pipeline.transformer) if fast else contextlib.nullcontext():
        yield from _loop(setting, pipeline, parameters, optimizer)


def whole(setting: Setting, precision: str = "fp32") -> Losses:
    """The loop that `train_lora` runs, with accelerate, schedule and checks."""
    pipeline, config = setting.twin(), setting.config
    parameters = list(_inject(pipeline.transformer, config).values())
    accelerator = make_accelerator(pipeline, config, precision)
    with training_mode(pipeline, accelerator, config) as transformer:
        optimizer = make_optimizer(parameters, config)
        for _, loss in optimize(transformer, optimizer, pipeline, setting.training_set, config, accelerator):
            yield loss


def compiled(setting: Setting) -> Losses:
    """The plain loop with every block compiled by torch.compile."""
    pipeline, config = setting.twin(), setting.config
    parameters = list(_inject(pipeline.transformer, config).values())
    pipeline.transformer.compile_repeated_blocks(dynamic=True)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    yield from _loop(setting, pipeline, parameters, optimizer)


def _inject(transformer: torch.nn.Module, config: TrainConfig) -> dict[str, torch.nn.Parameter]:
    targets = target_modules(config.apply_to)
    return inject_lora(transformer, targets, rank=config.rank, alpha=config.alpha, seed=config.seed)


def _same_start(transformer: torch.nn.Module, config: TrainConfig) -> None:
    """Give peft's factors the values that `inject_lora` draws."""
    own = copy.deepcopy(transformer)
    own.delete_adapters("default")
    _inject(own, config)
    state = lora_state(own)
    for name, parameter in transformer.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(state[name.replace(".default", "")])


def _loop(setting: Setting, pipeline, parameters, optimizer, precision: str = "fp32") -> Losses:
    """Draw, forward, backward, clip, step: what every plain loop does."""
    config, transformer = setting.config, pipeline.transformer.train()
    one = make_accelerator(pipeline, config, "fp32")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / max(1, config.warmup_steps)))
    for step in range(1, config.max_train_steps + 1):
        (batch,) = draw_batches(pipeline, setting.training_set, config, step, 0, one)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = flow_loss(transformer, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield loss.item()


RUNGS: dict[str, Callable[[Setting], Losses]] = {
    "plain loop with peft": plain,
    "own LoRA layers": own_layers,
    "+ fused AdamW": lambda setting: own_layers(setting, fused=True),
    "+ fast forward pass": lambda setting: own_layers(setting, fused=True, fast=True),
    "qwenlab's loop": whole,
}


def measure(setting: Setting, rungs: dict[str, Callable[[Setting], Losses]], block: int, turns: int) -> dict:
    """Seconds a step of each rung in every turn, after a warm-up turn, and all losses."""
    running = {name: rung(setting) for name, rung in rungs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in rungs}
    losses: dict[str, list[float]] = {name: [] for name in rungs}
    for turn in range(turns + 1):
        for name, steps in running.items():
            started = time.perf_counter()
            losses[name] += [next(steps) for _ in range(block)]
            if turn:
                seconds[name].append((time.perf_counter() - started) / block)
    return {"seconds": seconds, "losses": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("--model", default="micro")
    parser.add_argument("--block", type=int, default=10, help="steps of a rung in a turn")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, where there is a compiler")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "training_speed")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/training/speed.json")
    options = parser.parse_args()
    config = replace(read_config(REPOSITORY / "configs" / "micro_lora.yaml"), preview_every_n_steps=0)
    pipeline = load_pipeline(options.model)
    training_set = encode_dataset(pipeline, read_dataset(REPOSITORY / "data_sample"), config, options.work / "cache")
    rungs = dict(RUNGS)
    if usable_precision("bf16", "cpu") == "bf16":
        rungs = {"plain loop with peft, bf16": lambda setting: plain(setting, "bf16")} | rungs
        rungs["qwenlab's loop, bf16"] = lambda setting: whole(setting, "bf16")
    if options.compile:
        rungs["plain loop, torch.compile"] = compiled
    found = measure(Setting(pipeline, training_set, config), rungs, options.block, options.turns)
    baseline = min((n for n in rungs if "peft" in n), key=lambda name: np.median(found["seconds"][name]))
    result = {"baseline": baseline, "threads": torch.get_num_threads(), "rungs": {}}
    first = np.array(found["seconds"][baseline])
    print(f"{'':28} {'s a step':>9} {'steps per second against the plain loop':>42}  loss of the last {options.block}")
    for name in rungs:
        ratio = first / np.array(found["seconds"][name])
        difference = np.abs(np.subtract(found["losses"][name], found["losses"][baseline]))
        row = {
            "seconds": float(np.median(found["seconds"][name])), "ratio": float(np.median(ratio)),
            "ratio_low": float(ratio.min()), "ratio_high": float(ratio.max()),
            "last_loss": float(np.mean(found["losses"][name][-options.block :])),
            "first_loss_difference": float(difference[0]), "mean_loss_difference": float(difference.mean()),
        }  # fmt: skip
        result["rungs"][name] = row
        print(
            f"{name:28} {row['seconds']:9.3f} {row['ratio']:18.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
            f"{'':12} {row['last_loss']:.4f}, differs by {row['mean_loss_difference']:.1e}"
        )
    weights = [MICRO_WEIGHTS if options.model == "micro" else Path(options.model)]
    settings = {"config": config.hash(), "block": options.block, "turns": options.turns}
    atomic_write_json(options.out, stamp_result(result, weights=weights, config=settings))


if __name__ == "__main__":
    main()
