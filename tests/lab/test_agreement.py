"""Shares corrected for a judge's errors, and agreement beyond chance: coverage by simulation, and alarms."""

import numpy as np
import pytest

from qwenlab.lab.agreement import Errors, corrected_difference, kappa, rogan_gladen
from qwenlab.lab.statistics import difference, share


def read(rng, truth, sensitivity, specificity):
    """What a judge reads of things that are right where `truth` is."""
    return np.where(truth, rng.random(truth.shape) < sensitivity, rng.random(truth.shape) > specificity)


def judged(rng, sensitivity, specificity, each=120):
    """The errors found by labelling `each` right and wrong things."""
    return Errors(each, int(rng.binomial(each, sensitivity)), each, int(rng.binomial(each, specificity)))


@pytest.mark.parametrize("truth", [0.05, 0.5, 0.97])
def test_the_correction_is_covered_and_its_interval_holds_the_judges_errors(truth):
    rng, covers, raw = np.random.default_rng(10), [], []
    for _ in range(300):
        drawn = rng.random((3, 100)) < truth
        readings = read(rng, drawn, 0.93, 0.88)
        found = rogan_gladen(readings, judged(rng, 0.93, 0.88))
        covers.append(found.low <= truth <= found.high)
        raw.append(share(readings).low <= truth <= share(readings).high)
    assert np.mean(covers) > 0.925
    if truth != 0.5:
        assert np.mean(raw) < 0.9  # what is read is not what is there


def test_a_judge_may_err_differently_in_each_way():
    """Both ways are right in 60%, but the judge is lenient to one of them."""
    rng, corrected, naive = np.random.default_rng(11), [], []
    for _ in range(300):
        drawn = rng.random((2, 3, 100)) < 0.6
        ours, theirs = read(rng, drawn[0], 0.95, 0.7), read(rng, drawn[1], 0.8, 0.95)
        found = corrected_difference(ours, theirs, judged(rng, 0.95, 0.7), judged(rng, 0.8, 0.95))
        corrected.append(found.low <= 0 <= found.high)
        naive.append(difference(ours, theirs, span=1).verdict == "not told apart")
    assert np.mean(corrected) > 0.925 and np.mean(naive) < 0.5


def test_the_same_labels_cancel_in_a_difference():
    rng = np.random.default_rng(12)
    ours, theirs = rng.random((2, 3, 400)) < 0.5
    few = Errors(20, 18, 20, 18)
    found, other = (corrected_difference(ours, theirs, few, e) for e in (few, Errors(20, 18, 21, 19)))
    assert found.high - found.low < 0.7 * (other.high - other.low)


def test_a_correction_that_leaves_the_range_is_an_alarm_and_not_clipped():
    errors = Errors(100, 95, 100, 90)
    found = rogan_gladen(np.ones((3, 64)), errors)
    assert found.value == pytest.approx((1 + 0.9 - 1) / 0.85) and found.value > 1 and found.alarm
    assert "alarm" in str(found) and found.low < 1 < found.high
    low = rogan_gladen(np.zeros(64), errors)
    assert low.value < 0 and low.alarm and low.high > low.low
    fine = rogan_gladen(np.arange(64) % 2, errors)
    assert not fine.alarm and "alarm" not in str(fine)
    assert corrected_difference(np.ones(64), np.arange(64) % 2, errors, errors).alarm
    for bad in (Errors(10, 5, 10, 5), Errors(0, 0, 10, 9)):
        with pytest.raises(ValueError, match="judge"):
            rogan_gladen(np.ones(64), bad)


def test_kappa_is_cohens():
    # Cohen's coefficient by hand: 20 + 15 of 50 agree, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = kappa(first, second)
    assert found.value == pytest.approx(0.4) and 0.1 < found.low < 0.2 and 0.55 < found.high < 0.65
    assert kappa(first, first).value == 1 and 0.8 < kappa(first, first).low < 1
    assert kappa(first, first[::-1]).value == -1
    for bad in ((first, second[:3]), ([], []), (["yes"] * 5, ["yes"] * 5)):
        with pytest.raises(ValueError, match="two different words"):
            kappa(*bad)


@pytest.mark.parametrize(("things", "care"), [(60, 0.95), (150, 0.99), (100, 0.7)])
def test_kappa_is_covered(things, care):
    rng, covers = np.random.default_rng(13), []
    agreed, seen = care**2 + (1 - care) ** 2, 0.6 * care + 0.4 * (1 - care)
    chance = seen**2 + (1 - seen) ** 2
    for _ in range(100):
        truth = rng.random(things) < 0.6
        first, second = (np.where(rng.random(things) < care, truth, ~truth).astype(str).tolist() for _ in range(2))
        found = kappa(first, second)
        covers.append(found.low <= (agreed - chance) / (1 - chance) <= found.high)
    assert np.mean(covers) >= 0.9  # 95%, less two standard errors of 100 runs


def test_things_of_one_group_are_not_independent():
    first = ["yes", "no"] * 20
    second = ["yes", "no"] * 15 + ["no", "yes"] * 5
    single, grouped = kappa(first, second), kappa(first * 4, second * 4, list(range(40)) * 4)
    alone = kappa(first * 4, second * 4)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert single.value == pytest.approx(grouped.value)
