"""Intervals and tests for what is drawn by trained models and read by judges.

A way of training or drawing is measured by a table (R, P): one value for each of R trainings, which differ in their
seed, and each of P prompts, the same in every training. The unit of repetition is the training: pictures of one
training share its luck, pictures of one prompt share its difficulty, so neither are independent. `mean`, `difference`
and `compare` add both spreads in quadrature, each with its own Student quantile:

    half width^2 = (t[R-1] * error over trainings)^2 + t[P-1]^2 * (variance of the prompts' own part of the mean)

The prompts' own part is what is left of the spread of their means once the noise of single pictures, which the first
term holds already, is taken out (two-way analysis of variance without repetition; quantiles kept apart as in Howe,
"Approximate confidence limits on the mean of X + Y", JASA 69, 1974). `tests/lab/test_statistics.py` simulates the
coverage: this holds its 95% whether trainings, prompts or single pictures vary most. It also simulates the ways that
were not chosen: a t interval over trainings alone forgets the prompts, one over prompts alone the trainings, and a
bootstrap of both (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007) is too narrow with three
trainings, as resampling three numbers cannot show how little is known of their spread.

No interval has zero width: when all values are equal, `span`, the most that a value can be off, sets the floor: P equal
prompts do not exclude that a share 1 - 0.025^(1/P) of prompts differs (the rule of three).

Dimensions: R trainings, P prompts, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

Z = 1.959963984540054  # 97.5% point of the normal distribution
DRAWS = 4000
ALPHA = 0.05


@dataclass(frozen=True)
class Rate:
    """A share with its 95% confidence interval; `count` of `total` is what was read, whatever was corrected."""

    value: float
    low: float
    high: float
    count: int
    total: int

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] ({self.count} of {self.total})"


@dataclass(frozen=True)
class Estimate:
    """A mean over scenes with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True)
class Effect:
    """A mean or a difference with its interval, over trainings and prompts together.

    p: two-sided, against 0; adjusted for the number of comparisons when it comes from `compare`. trainings: 1 when
    nothing was trained, or once; the interval then holds for this one training.
    """

    value: float
    low: float
    high: float
    p: float
    trainings: int
    prompts: int

    @property
    def verdict(self) -> str:
        """ "more" or "less" when the interval excludes 0, else "not told apart", which is not the same as equal."""
        return "more" if self.low > 0 else "less" if self.high < 0 else "not told apart"

    def not_worse_by(self, margin: float) -> bool:
        """Whether the interval excludes a loss of `margin` or more (non-inferiority, one-sided 2.5%)."""
        if not margin > 0:
            raise ValueError(f"a margin is more than 0, not {margin}")
        return self.low > -margin


def rate(count: int, total: int) -> Rate:
    """`count / total` with Wilson's 95% score interval (JASA 22, 1927), for independent things.

    Raises ValueError unless 0 <= count <= total, total > 0.
    """
    if not 0 <= count <= total or total == 0:
        raise ValueError(f"a rate needs 0 <= count <= total and total > 0, not {count} of {total}")
    share = count / total
    low, high = _wilson(share, total)
    return Rate(share, low, high, count, total)


def estimate(values: Sequence[float] | np.ndarray, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The mean of one value a scene (S,) and its percentile bootstrap interval over scenes (Efron, 1979).

    For stored results. It has zero width when all values are equal and knows nothing of trainings: `mean` is better.
    Raises ValueError without values.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"one value a scene, not an array of shape {values.shape}")
    picks = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def as_table(values: np.ndarray) -> np.ndarray:
    """Values (R, P), or (P,) for one training, as a table (R, P) of floats.

    Raises ValueError for other shapes, fewer than two prompts and numbers that are not finite.
    """
    table = np.asarray(values, float)
    table = table[None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise ValueError(f"a table (trainings, prompts) of finite numbers, two prompts at least, not {table.shape}")
    return table


def paired(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The differences of two tables by training and prompt, (R, P). Raises ValueError when they cannot be paired."""
    ours, theirs = as_table(ours), as_table(theirs)
    if ours.shape[1] != theirs.shape[1] or (len(ours) != len(theirs) and 1 not in (len(ours), len(theirs))):
        raise ValueError(f"tables of shapes {ours.shape} and {theirs.shape} have other trainings or prompts")
    return ours - theirs


def ratio_table(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Shares of things that are more or fewer a picture, such as hands: a table (R, P) for the functions below.

    right, total: (R, P), right ones and all of each picture. The table's mean is sum(right) / sum(total), and its
    spread that of this ratio (Taylor linearisation; Cochran, Sampling Techniques, 1977, chapter 6).
    Raises ValueError when nothing was counted.
    """
    right, total = np.asarray(right, float), np.asarray(total, float)
    if right.shape != total.shape or not total.sum() > 0 or (right > total).any() or (right < 0).any():
        raise ValueError("right and total: two tables of one shape, 0 <= right <= total, and something counted")
    share = right.sum() / total.sum()
    return share + (right - share * total) / total.mean()


def mean(values: np.ndarray, *, span: float | None = None, alpha: float = ALPHA) -> Effect:
    """The mean of a table (R, P), or (P,) for one training, with its interval of level 1 - alpha.

    span: the most a value can be off, 1 for shares; None for a measure without bounds.
    Raises ValueError for fewer than two prompts, values that are not finite, and equal values without a span.
    """
    table = as_table(values)
    width, value = _half_width(table, span), float(table.mean())
    half = width(alpha)
    if half <= 1e-9 * np.abs(table).max():  # equal but for rounding
        raise ValueError(f"all {table.size} values are {value:g}: name a span, the most that a value can be off")
    tiny = 1e-12
    p = 1.0 if abs(value) <= width(1 - tiny) else tiny
    if p == 1.0 or abs(value) >= width(tiny):
        return Effect(value, value - half, value + half, p, *table.shape)
    p = brentq(lambda a: width(a) - abs(value), tiny, 1 - tiny, xtol=1e-12)
    return Effect(value, value - half, value + half, float(p), *table.shape)


def difference(ours: np.ndarray, theirs: np.ndarray, *, span: float | None = None, alpha: float = ALPHA) -> Effect:
    """`ours` minus `theirs`, paired by training and prompt: tables (R, P); a way drawn once may have R = 1 or (P,).

    Raises ValueError for tables that cannot be paired, and as `mean`.
    """
    return mean(paired(ours, theirs), span=span, alpha=alpha)


def compare(ways: Mapping[str, np.ndarray], baseline: np.ndarray, *, span: float | None = None) -> dict[str, Effect]:
    """Each way minus the baseline, corrected for the number of ways (Holm, Scand. J. Statistics 6, 1979).

    `p` is Holm's adjusted one. Each interval has the level of its own step in Holm's procedure (ways that come after
    the first that is not told apart: that one's), so that it excludes 0 exactly where the adjusted p is below 0.05.
    """
    found = {name: difference(table, baseline, span=span) for name, table in ways.items()}
    order = sorted(found, key=lambda name: found[name].p)
    adjusted = dict(zip(found, holm([effect.p for effect in found.values()]), strict=True))
    alpha = ALPHA
    for step, name in enumerate(order):
        if step == 0 or adjusted[order[step - 1]] < ALPHA:
            alpha = ALPHA / (len(order) - step)
        found[name] = replace(difference(ways[name], baseline, span=span, alpha=alpha), p=adjusted[name])
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number by Holm's step-down procedure, in the order given."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def share(values: np.ndarray) -> Effect:
    """The mean of a table (R, P) of zeros and ones, or shares, with an interval that stays within [0, 1].

    Wilson's interval for as many independent pictures as would have the interval of `mean` (the effective number); when
    all values are 0 or all are 1, as many as there are prompts, for the spread of trainings then cannot be seen.
    """
    table = as_table(values)
    if table.min() < 0 or table.max() > 1:
        raise ValueError("shares lie between 0 and 1")
    found = mean(table, span=1)
    half = _half_width(table, None)(ALPHA)
    spread = found.value * (1 - found.value)
    number = spread * (Z / half) ** 2 if half > 0 and spread > 0 else table.shape[1]
    low, high = _wilson(found.value, max(1.0, min(number, table.size)))
    return replace(found, low=low, high=high)


def _half_width(table: np.ndarray, span: float | None) -> Callable[[float], float]:
    """Half the width of the interval of the table's mean, as a function of alpha."""
    trainings, prompts = table.shape
    of_training, of_prompt = table.mean(1), table.mean(0)
    seeds = noise = 0.0
    if trainings > 1:
        seeds = of_training.var(ddof=1) / trainings
        rest = table - of_training[:, None] - of_prompt + table.mean()
        noise = (rest**2).sum() / ((trainings - 1) * (prompts - 1)) / table.size
    own = max(of_prompt.var(ddof=1) / prompts - noise, 0.0)

    def half(alpha: float) -> float:
        squares = stdtrit(prompts - 1, 1 - alpha / 2) ** 2 * own
        if trainings > 1:
            squares += stdtrit(trainings - 1, 1 - alpha / 2) ** 2 * seeds
        return max(math.sqrt(squares), (span or 0.0) * (1 - (alpha / 2) ** (1 / prompts)))

    return half


def _wilson(share: float, total: float) -> tuple[float, float]:
    spread = 1 + Z**2 / total
    middle = (share + Z**2 / (2 * total)) / spread
    half = Z / spread * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
