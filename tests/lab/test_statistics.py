"""Intervals that hold what they promise, by simulation, and tests that can be read off them."""

import math

import numpy as np
import pytest
from scipy import stats

from qwenlab.lab.statistics import Effect, compare, difference, holm, mean, rate, ratio_table, share

# Spread of trainings, of prompts, of single pictures: each dominates somewhere.
SPREADS = {
    "pictures": (0, 0, 1), "prompts": (0, 1, 0.5), "trainings": (0.3, 0.3, 1), "all": (0.1, 0.3, 1),
}  # fmt: skip


def simulate(rng, spread, trainings, prompts):
    """A table (R, P) whose true mean is 0."""
    of_training, of_prompt, of_picture = spread
    return (
        of_training * rng.normal(size=(trainings, 1))
        + of_prompt * rng.normal(size=prompts)
        + of_picture * rng.normal(size=(trainings, prompts))
    )


def covered(interval, spread, trainings, prompts, runs=400):
    rng = np.random.default_rng(0)
    found = [interval(simulate(rng, spread, trainings, prompts)) for _ in range(runs)]
    return np.mean([low <= 0 <= high for low, high in found])


def ours(table):
    found = mean(table)
    return found.low, found.high


def over(axis):
    """The t interval over trainings alone (axis 1 is averaged) or prompts alone (axis 0)."""

    def interval(table):
        values = table.mean(axis)
        return stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))

    return interval  # fmt: skip


def pigeonhole(table):
    rng, (trainings, prompts) = np.random.default_rng(1), table.shape
    rows = rng.multinomial(trainings, np.full(trainings, 1 / trainings), 300)
    columns = rng.multinomial(prompts, np.full(prompts, 1 / prompts), 300)
    return np.quantile(((rows @ table) * columns).sum(1) / table.size, (0.025, 0.975))


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize(("trainings", "prompts"), [(1, 64), (2, 32), (3, 64), (3, 256), (5, 64)])
def test_the_interval_covers_whatever_varies(spread, trainings, prompts):
    if trainings == 1:
        spread = (0, *spread[1:])  # of one training nobody can say how others would differ
    assert covered(ours, spread, trainings, prompts) > 0.925  # 95%, less two standard errors of 400 runs


def test_the_ways_that_were_not_chosen_fail():
    assert covered(over(axis=1), SPREADS["prompts"], 3, 64) < 0.8  # over trainings alone
    assert covered(over(axis=0), SPREADS["trainings"], 3, 64) < 0.7  # over prompts alone
    assert covered(pigeonhole, SPREADS["trainings"], 3, 64, runs=150) < 0.9


def test_three_trainings_take_four_standard_errors():
    table = np.array([[0.0], [0.1], [0.2]]) + np.array([-0.01, 0.01])  # trainings differ, prompts hardly
    found = mean(table)
    assert found.value == pytest.approx(0.1) and (found.trainings, found.prompts) == (3, 2)
    own = stats.t.ppf(0.975, 1) * 0.01
    expected = math.hypot(4.302653 * 0.1 / math.sqrt(3), own)
    assert found.high - found.value == pytest.approx(expected, rel=1e-6)


def test_one_training_is_a_t_interval_over_prompts():
    values = np.random.default_rng(2).normal(0.3, 1, 40)
    found = mean(values)
    low, high = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)


def test_the_p_value_fits_the_interval():
    rng = np.random.default_rng(3)
    for _ in range(20):
        table = simulate(rng, (0.1, 0.3, 1), 3, 64) + 0.3
        found = mean(table)
        edge = mean(table, alpha=found.p)
        assert min(abs(edge.low), abs(edge.high)) < 1e-6 * edge.high
        assert (found.p < 0.05) == (found.verdict != "not told apart")
    assert mean(table - table.mean()).p == 1.0 and mean(table + 1e6).p == 1e-12


@pytest.mark.parametrize("trainings", [1, 3])
def test_no_interval_has_zero_width(trainings):
    same = np.full((trainings, 64), 0.1)
    found = difference(same, same, span=1)
    assert found.value == 0 and found.high == -found.low == pytest.approx(1 - 0.025 ** (1 / 64))
    assert found.verdict == "not told apart" and found.p == 1
    with pytest.raises(ValueError, match="name a span"):
        mean(same)
    for value in (0.0, 1.0):
        found = share(np.full((trainings, 64), value))
        assert 0 <= found.low < found.high <= 1 and 0.04 < found.high - found.low < 0.08
    assert share(np.zeros(64)).high == pytest.approx(rate(0, 64).high)


def test_differences_are_paired_and_a_way_without_training_is_drawn_once():
    rng = np.random.default_rng(4)
    hard = rng.normal(size=64)  # prompts differ much, ways by 0.2
    once, thrice = hard + 0.05 * rng.normal(size=64), hard + 0.2 + 0.05 * rng.normal(size=(3, 64))
    found = difference(thrice, once)
    assert 0.15 < found.low < 0.2 < found.high < 0.25 and found.verdict == "more" and found.trainings == 3
    assert difference(once, thrice).verdict == "less"
    assert found.value == pytest.approx(-difference(once[None], thrice).value)
    for other in (hard[:32], np.stack([hard, hard])):
        with pytest.raises(ValueError, match="other trainings or prompts"):
            difference(thrice, other)
    for bad in (hard[:1], np.full(64, np.nan), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="trainings, prompts"):
            mean(bad)


def test_not_worse_needs_the_interval():
    assert Effect(-0.01, -0.03, 0.01, 0.3, 10, 64).not_worse_by(0.05)
    assert not Effect(-0.01, -0.06, 0.04, 0.6, 3, 64).not_worse_by(0.05)
    assert not Effect(0.0, -0.05, 0.05, 1.0, 3, 64).not_worse_by(0.05)
    with pytest.raises(ValueError, match="more than 0"):
        Effect(0, -1, 1, 1, 3, 64).not_worse_by(-0.05)


def test_not_worse_errs_in_at_most_one_of_forty():
    """The truth is worse by exactly the margin: the test says "not worse" in 2.5% of runs, and no more."""
    rng = np.random.default_rng(5)
    tables = [simulate(rng, (0.05, 0.2, 0.5), 3, 64) - 0.1 for _ in range(600)]
    assert np.mean([mean(table).not_worse_by(0.1) for table in tables]) < 0.04


def test_holm_is_the_textbook():
    # Holm (1979) by hand: 0.01 * 4, then 0.02 * 3 = 0.06, then max(0.06, 0.03 * 2), then max(0.06, 0.04).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.03]) == [0.03]


def test_comparisons_are_corrected_for_their_number():
    rng, wrong, runs = np.random.default_rng(6), 0, 100
    single = 0
    for _ in range(runs):  # eight ways, none of which differs from the baseline
        base = rng.normal(size=(3, 64))
        ways = {str(k): base + 0.5 * simulate(rng, (0.1, 0.1, 1), 3, 64) for k in range(8)}
        found = compare(ways, base)
        wrong += any(effect.verdict != "not told apart" for effect in found.values())
        single += any(difference(table, base).verdict != "not told apart" for table in ways.values())
        for effect in found.values():
            assert (effect.p < 0.05) == (effect.verdict != "not told apart")
    assert wrong / runs < 0.09 and single / runs > 0.12, (wrong / runs, single / runs)


def test_a_real_difference_survives_the_correction():
    rng = np.random.default_rng(7)
    base = rng.normal(size=(3, 64))
    ways = {name: base + shift + 0.1 * rng.normal(size=(3, 64)) for name, shift in (("a", 0), ("b", 0.5), ("c", -0.5))}
    found = compare(ways, base)
    assert list(found) == list(ways)
    assert [effect.verdict for effect in found.values()] == ["not told apart", "more", "less"]
    assert all(found[name].low < difference(ways[name], base).low for name in "bc")


@pytest.mark.parametrize("truth", [0.02, 0.3, 0.95])
@pytest.mark.parametrize(("trainings", "prompts", "spread"), [(1, 64, (0, 0.7)), (3, 64, (0.5, 1)), (3, 200, (0.2, 1))])
def test_shares_of_clustered_pictures_are_covered(truth, trainings, prompts, spread):
    rng = np.random.default_rng(8)
    logit = math.log(truth / (1 - truth))
    real = (1 / (1 + np.exp(-logit - rng.normal(size=200_000) * math.hypot(*spread)))).mean()
    covers = []
    for _ in range(250):
        easy = logit + spread[0] * rng.normal(size=(trainings, 1)) + spread[1] * rng.normal(size=prompts)
        found = share(rng.random((trainings, prompts)) < 1 / (1 + np.exp(-easy)))
        assert 0 <= found.low <= found.value <= found.high <= 1
        covers.append(found.low <= real <= found.high)
    assert np.mean(covers) > 0.915  # 95%, less two and a half standard errors of 250 runs


def test_a_share_of_few_clusters_is_wider_than_wilsons():
    alike = np.repeat(np.arange(64) % 2, 3).reshape(64, 3).T  # three trainings that draw the same
    assert share(alike).high - share(alike).low == pytest.approx(rate(32, 64).high - rate(32, 64).low, rel=0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        share(alike * 2)


def test_hands_are_counted_by_picture():
    rng = np.random.default_rng(9)
    total = rng.integers(0, 3, (3, 200))
    right = rng.binomial(total, 0.7)
    table = ratio_table(right, total)
    assert table.mean() == pytest.approx(right.sum() / total.sum())
    covers = []
    for _ in range(300):
        total = rng.integers(0, 3, 120)
        found = mean(ratio_table(rng.binomial(total, 0.7), total), span=1)
        covers.append(found.low <= 0.7 <= found.high)
    assert np.mean(covers) > 0.92
    for bad in ((right[:2], total), (right * 0, right * 0), (np.array([[2, 0]]), np.array([[1, 1]]))):
        with pytest.raises(ValueError, match="something counted"):
            ratio_table(*bad)
