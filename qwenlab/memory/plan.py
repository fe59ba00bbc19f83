"""Which settings fit a card, in which order to try them, and how long a step then takes. Everything is predicted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from qwenlab.errors import QwenlabError, check_range
from qwenlab.memory.cards import USABLE, Card
from qwenlab.memory.flops import predict_operations
from qwenlab.memory.formula import GIB, Prediction, predict_step
from qwenlab.memory.phases import encoding_gib
from qwenlab.memory.settings import CHECKPOINTING, WEIGHTS, StepSettings
from qwenlab.model.limits import MAX_SIDE, MAX_TOKENS

# The share of a card's peak that such a step reaches: an assumption, between what eager programs (a third) and tuned
# ones (a half) show. Quantised weights are made anew for each product, which costs a tenth.
UTILISATION = {"fp32": 0.4, "bf16": 0.4, "int8": 0.36, "nf4": 0.36}
# What the one step of the full size that ran on a card reached: H100, bf16 (benchmarks/memory/full_scale_*.json).
MEASURED_UTILISATION = 0.155
# Room for what the formula misses: at Qwen-Image's width it is up to 1.4% under the executed step (5% for tiny models).
MARGIN = 1.05
TRAINED_PIXELS = 1328 * 1328  # the largest of Qwen-Image's list of sizes
RESOLUTIONS = (1328, 1024, 896, 768, 640, 512, 384, 256)
RANKS = (64, 32, 16, 8, 4)


@dataclass(frozen=True)
class Option:
    """One setting on one card."""

    settings: StepSettings
    card: Card
    prediction: Prediction
    seconds: float  # of an optimizer step

    @property
    def gib(self) -> float:
        """GiB at the peak of the step, workspace and context included."""
        return self.prediction.total / GIB

    @property
    def encoding_gib(self) -> float:
        """GiB while pictures and captions are encoded."""
        return encoding_gib(self.settings.weights, self.settings.height, self.settings.width)

    @property
    def needed_gib(self) -> float:
        """GiB that a card must have for both phases, with `MARGIN`."""
        return MARGIN * max(self.gib, self.encoding_gib) / USABLE

    @property
    def fits(self) -> bool:
        """Whether both phases fit the card."""
        return self.needed_gib <= self.card.gib


def seconds_per_step(settings: StepSettings, card: Card) -> float:
    """Operations over the card's peak times `UTILISATION`."""
    operations = predict_operations(settings).total
    return operations / (card.tflops * 1e12 * UTILISATION[settings.weights])


def make_option(settings: StepSettings, card: Card) -> Option:
    """Predict one setting on one card."""
    return Option(settings, card, predict_step(settings), seconds_per_step(settings, card))


def all_options(base: StepSettings, card: Card) -> list[Option]:
    """Weights x table x checkpointing x optimizer, best first: what fits, then precision, time, simplicity."""
    tables = (False,) if "modulation" in base.apply_to or base.control_blocks else (False, True)
    variants = [
        dataclasses.replace(
            base, weights=weights, modulation_table=table, checkpointing=checkpointing, optimizer=optimizer
        )
        for weights in WEIGHTS[1:]  # float32 weights gain nothing
        for table in tables
        for checkpointing in CHECKPOINTING
        for optimizer in ("adamw", "adamw_8bit")
    ]
    return sorted((make_option(settings, card) for settings in variants), key=_rank)


def _rank(option: Option) -> tuple:
    """What fits comes first: by precision, by arithmetic, then with as few rungs as will do; the rest by its size."""
    if not option.fits:
        return 1, option.gib
    settings = option.settings
    slowness = ("none", "selective", "blocks").index(settings.checkpointing)
    return (
        0, WEIGHTS.index(settings.weights), slowness, settings.modulation_table, settings.optimizer == "adamw_8bit",
    )  # fmt: skip


def best_of_each_precision(options: list[Option]) -> list[Option]:
    """The first of each precision; of one that does not fit, the smallest."""
    first: dict[str, Option] = {}
    for option in options:
        first.setdefault(option.settings.weights, option)
    return list(first.values())


def smaller(base: StepSettings, card: Card) -> list[Option]:
    """What would fit a card on which `base` does not: a lower resolution, a lower rank, both; the best of each."""
    pixels = max(base.height, base.width)
    sides = [side for side in RESOLUTIONS if side < pixels]
    ranks = [rank for rank in RANKS if rank < base.rank and not base.control_blocks]
    ways = (
        [{"height": side, "width": side} for side in sides],
        [{"rank": rank} for rank in ranks],
        [{"height": side, "width": side, "rank": rank} for rank in ranks for side in sides],
    )
    found = []
    for way in ways:
        for change in way:
            best = all_options(dataclasses.replace(base, **change), card)[0]
            if best.fits:
                if not any(best.settings.height == option.settings.height for option in found):
                    found.append(best)
                break
    return found


def least(base: StepSettings, card: Card) -> Option:
    """The setting with the fewest bytes of all, at 256 pixels and rank 4."""
    tiny = dataclasses.replace(base, height=256, width=256, rank=4, batch=1, accumulation=1)
    return min(all_options(tiny, card), key=lambda option: max(option.gib, option.encoding_gib))


def step_settings(
    resolution: int,
    rank: int,
    batch: int,
    accumulation: int,
    text_tokens: int,
    apply_to: tuple[str, ...],
    references: int = 0,
    control_blocks: int = 0,
) -> StepSettings:
    """The question, for squares of `resolution` pixels; QwenlabError in the words of the command for a bad one."""
    check_range("--references", references, 0, 16)
    check_range("--control-blocks", control_blocks, 0, 60)
    check_range("--resolution", resolution, 16, MAX_SIDE)
    check_range("--rank", rank, 1, 4096)
    check_range("--batch", batch, 1, 4096)
    check_range("--accumulation", accumulation, 1, 4096)
    check_range("--text-tokens", text_tokens, 1, MAX_TOKENS)
    try:
        return StepSettings(
            height=resolution, width=resolution, rank=rank, batch=batch, accumulation=accumulation,
            text_tokens=text_tokens, apply_to=apply_to, references=references, control_blocks=control_blocks,
        )  # fmt: skip
    except QwenlabError as error:
        raise QwenlabError(str(error).replace("height", "--resolution", 1)) from error
