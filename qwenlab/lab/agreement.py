"""How a judge and labels by eye agree, and shares corrected for the judge's errors.

A judge that reads pictures errs in both directions. `rogan_gladen` takes its errors out of a share, with their own
uncertainty; `kappa` says how far two labellings of the same things agree beyond chance.

Dimensions: R trainings, P prompts, D draws, K words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwenlab.lab.statistics import DRAWS, Estimate, Z, as_table, mean, paired


@dataclass(frozen=True)
class Corrected:
    """A share corrected for a judge's errors, or a difference of such; never clipped.

    alarm: a share that left [0, 1]: the errors of the judge are not those it makes on these pictures, or the sample is
    too small to say. It is to be reported as such, never as 0% or 100%.
    """

    value: float
    low: float
    high: float
    alarm: bool

    def __str__(self) -> str:
        text = f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"
        return text + " (alarm: outside 0..100%, the judge's errors do not fit)" if self.alarm else text


@dataclass(frozen=True)
class Errors:
    """How a judge read things whose truth is known: `right_read_right` of `right`, `wrong_read_wrong` of `wrong`."""

    right: int
    right_read_right: int
    wrong: int
    wrong_read_wrong: int

    def rates(self) -> tuple[float, float]:
        """Sensitivity and specificity. Raises ValueError unless the judge has seen both kinds and beats chance."""
        if min(self.right, self.wrong) < 1:
            raise ValueError(f"a judge's errors need right and wrong things of known truth, not {self}")
        sensitivity, specificity = self.right_read_right / self.right, self.wrong_read_wrong / self.wrong
        if sensitivity + specificity <= 1:
            raise ValueError(f"a judge no better than chance corrects nothing: {self}")
        return sensitivity, specificity

    def variances(self) -> tuple[float, float]:
        """Of sensitivity and specificity, with one success and one failure added, so that neither is 0."""
        pairs = (self.right_read_right, self.right), (self.wrong_read_wrong, self.wrong)
        shares = [((good + 1) / (total + 2), total + 2) for good, total in pairs]
        return tuple(share * (1 - share) / total for share, total in shares)


def rogan_gladen(values: np.ndarray, errors: Errors) -> Corrected:
    """The true share of right things from a table (R, P) of readings, right or not (or a `ratio_table`).

    (share + specificity - 1) / (sensitivity + specificity - 1): Rogan and Gladen, Am. J. Epidemiology 107, 1978. The
    interval holds the uncertainty of the judge's errors, too (delta method; Lang and Reiczigel, Prev. Vet. Med. 113,
    2014). Raises ValueError as `mean`, and for a judge that is no better than chance.
    """
    return _corrected([(1, as_table(values), errors)])


def corrected_difference(ours: np.ndarray, theirs: np.ndarray, our_errors: Errors, their_errors: Errors) -> Corrected:
    """The difference of two corrected shares, paired as in `difference`; a judge may err differently in each way.

    Equal errors are the same labels, whose uncertainty then partly cancels. alarm: when either share leaves [0, 1].
    """
    return _corrected([(1, as_table(ours), our_errors), (-1, as_table(theirs), their_errors)])


def _corrected(ways: Sequence[tuple[int, np.ndarray, Errors]]) -> Corrected:
    """The signed sum of the ways' corrected shares."""
    tables, alarm, slopes, gain = [], False, {}, 0.0
    for sign, table, errors in ways:
        sensitivity, specificity = errors.rates()
        youden = sensitivity + specificity - 1
        tables.append((table + specificity - 1) / youden)
        true = float(tables[-1].mean())
        alarm, gain, true = alarm or not 0 <= true <= 1, max(gain, 1 / youden), min(max(true, 0.0), 1.0)
        slopes.setdefault(errors, np.zeros(2))
        slopes[errors] += sign * np.array([-true, 1 - true]) / youden  # by sensitivity and specificity
    found = mean(paired(*tables) if len(tables) == 2 else tables[0], span=gain)
    of_judge = sum(float(slope**2 @ errors.variances()) for errors, slope in slopes.items())
    half = math.hypot(found.high - found.value, Z * math.sqrt(of_judge))
    return Corrected(found.value, found.value - half, found.value + half, alarm)


def kappa(
    first: Sequence[str], second: Sequence[str], groups: Sequence[int] | Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """Cohen's kappa (Educ. Psychol. Measurement 20, 1960) of two labellings of the same things, with its 95% interval.

    groups: what each thing belongs to, such as its picture; things of one group are not independent. The interval is
    the Bayesian bootstrap over groups (Rubin, Annals of Statistics 9, 1981) with two imagined things spread over
    all pairs of words, so that perfect agreement has an interval, too.
    Raises ValueError for labellings of different length, no labels, or a single word in both, which shows nothing.
    """
    words = sorted({*first, *second})
    if len(first) != len(second) or len(words) < 2:
        raise ValueError("kappa needs two labellings of the same things, with two different words at least")
    cells = [words.index(a) * len(words) + words.index(b) for a, b in zip(first, second, strict=True)]
    counts = np.bincount(cells, minlength=len(words) ** 2)
    rng, imagined = np.random.default_rng(seed), np.full(len(counts), 2 / len(counts))
    if groups is None:  # the weights of n things add up to a gamma variable of shape n
        draws = rng.gamma(counts + imagined, size=(DRAWS, len(counts)))
    else:
        names, owners = np.unique(groups, return_inverse=True)
        of_group = np.zeros((len(names), len(counts)))
        np.add.at(of_group, (owners, cells), 1)
        draws = rng.gamma(1.0, size=(DRAWS, len(names))) @ of_group
        draws += rng.gamma(imagined, size=(DRAWS, len(counts)))
    value = float(_kappa(counts[None])[0])
    low, high = np.quantile(_kappa(draws), (0.025, 0.975))
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _kappa(cells: np.ndarray) -> np.ndarray:
    """Of (D, K * K) confusion tables: (D,)."""
    side = math.isqrt(cells.shape[1])
    table = cells.reshape(-1, side, side) / cells.sum(1)[:, None, None]
    agreed = np.trace(table, axis1=1, axis2=2)
    chance = (table.sum(1) * table.sum(2)).sum(1)
    return (agreed - chance) / (1 - chance)
