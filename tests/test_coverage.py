"""Intervals cover the truth, more evidence never takes a pass back, and equal length means equal length."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from bench.coverage import measure, scenarios
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kilter.statistics import length_controlled_win_rate, mean, paired_difference, proportion
from kilter.statistics.discordant import discordant_bounds

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
KINDS = {s.name: s for s in scenarios()}
SLICE = (
    "10% of events",
    "wins, ties and losses",
    "skewed: exponential",
    "0/1, 30% gained, 10% lost",
    "scores in 0..1",
    "0/1, clusters of 4, ICC 0.6",
)


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("name", SLICE)
def test_a_slice_of_the_published_coverage(name, n):
    """200 draws have a standard error of .015; the whole table has 1,000 of each."""
    found = measure(KINDS[name], n, 200, seed=5)
    if found.taken >= 0.5:
        assert found.coverage >= 0.95 - 3 * 0.0155, found
        assert found.false_pass <= 0.05 + 2 * 0.0155, found


@pytest.mark.parametrize("n", range(10, 400, 13))
def test_more_of_the_same_evidence_narrows_both_bounds(n):
    """500 of 500 must not know less than 460 of 460 did."""
    few, more = proportion([True] * n), proportion([True] * (n + 40))
    assert few.ci_low < more.ci_low <= more.ci_high == 1
    none = proportion([False] * n)
    assert none.ci_low == 0
    assert none.ci_high == pytest.approx(1 - few.ci_low)


@pytest.mark.parametrize("planted", [0.35, 0.5, 0.65])
def test_a_planted_preference_is_found_under_a_length_confound(planted):
    """Longer answers win more; what is asked is who would win at equal length."""
    rng = np.random.default_rng(3)
    held, plain = 0, []
    for _ in range(40):
        longer = rng.normal(0.6, 1, 200)
        chance = 1 / (1 + np.exp(-(np.log(planted / (1 - planted)) + 1.5 * np.tanh(longer / longer.std()))))
        wins = (rng.random(200) < chance).astype(float)
        found = length_controlled_win_rate(list(wins), list(50 * longer))
        held += found.ci_low <= planted <= found.ci_high
        plain.append(wins.mean())
    assert held >= 34  # 38 of 40 are due; fewer than 34 has a chance below 0.5 %
    assert np.mean(plain) > planted + 0.03


@pytest.mark.parametrize("longer", [np.full(60, 7.0), np.linspace(1, 9, 60)])
def test_lengths_that_do_not_overlap_identify_nothing(longer):
    found = length_controlled_win_rate([1.0, 0.0] * 30, list(longer))
    assert found.value is None
    assert found.method.startswith("not_identified")


@pytest.mark.parametrize("n", [20, 60, 200])
def test_no_difference_at_all_decides_nothing_at_small_n(n):
    same = [0.0, 1.0] * (n // 2)
    found = paired_difference(same, same)
    assert found.value == 0
    assert found.ci_low < 0 < found.ci_high


def attainable(p: float, n: int) -> list[tuple[float, float]]:
    """(coverage, false passes) of every run of counts that an interval could hold, as far as a gate takes it."""
    below = np.concatenate([[0.0], stats.binom.cdf(range(n + 1), n, p)])
    return [
        (below[last + 1] - below[first], max(below[first], 1 - below[last + 1]))
        for first in range(n + 1)
        for last in range(first, n + 1)
        if 0.93 <= below[last + 1] - below[first] <= 0.97 and max(below[first], 1 - below[last + 1]) <= 0.05
    ]


def test_published_shares_above_97_per_cent_have_no_better_interval():
    """Coverage moves in steps: between 93 and 97 % there is none for these counts."""
    rows = re.findall(r"^\| (\d+)% of events \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    cells = [
        (int(share) / 100, n, float(cell.split()[0]))
        for share, row in rows
        for n, cell in zip((12, 50, 200), row.split(" | "), strict=True)
        if "refused" not in cell
    ]
    high = [(p, n) for p, n, coverage in cells if coverage > 0.9705]
    assert high == [(0.02, 12), (0.02, 50), (0.1, 12), (0.97, 50)]
    assert not any(attainable(*cell) for cell in high)
    assert all(attainable(p, n) for p, n, _ in cells if (p, n) not in high)


def test_a_bound_of_a_share_lies_beyond_the_truth_in_at_most_five_per_cent():
    """Whatever the share is, and at every n: Wilson's alone does so in up to 16 %."""
    for n in (10, 13, 20, 37, 90, 300):
        found = [proportion([True] * k + [False] * (n - k)) for k in range(n + 1)]
        low, high = (np.array([getattr(e, end) for e in found]) for end in ("ci_low", "ci_high"))
        for p in np.linspace(0.001, 0.999, 200):
            chances = stats.binom.pmf(np.arange(n + 1), n, p)
            assert max(chances[low > p + 1e-12].sum(), chances[high < p - 1e-12].sum()) <= 0.0501, (n, p)


@pytest.mark.parametrize("n", [15, 30])
def test_a_bound_of_a_paired_difference_lies_beyond_the_truth_in_at_most_five_per_cent(n):
    """Over every outcome of n prompts, at rates of gains and losses from none to nearly all."""
    table = {(g, k): discordant_bounds(g, k, n) for g in range(n + 1) for k in range(n + 1 - g)}
    low, high = np.array(list(table.values())).T
    counts = np.array([(g, k, n - g - k) for g, k in table])
    some = (0.0, 0.005, 0.02, 0.05, 0.1, 0.3, 0.6, 0.9, 0.98)
    for up, down in ((u, d) for u in some for d in some if u + d <= 1):
        chances = stats.multinomial.pmf(counts, n, [up, down, max(0.0, 1 - up - down)])
        truth = up - down
        below, above = chances[high < truth - 1e-12].sum(), chances[low > truth + 1e-12].sum()
        assert max(below, above) <= 0.0501 and below + above <= 0.075, (up, down)


@given(st.integers(15, 80), st.data())
def test_more_evidence_for_a_candidate_never_takes_its_pass_back(n, data):
    """A gain more raises the lower bound. A tie more takes nothing from what is no worse than a margin."""
    gains = data.draw(st.integers(0, n))
    losses = data.draw(st.integers(0, n - gains))
    low, high = discordant_bounds(gains, losses, n)
    assert -1 <= low <= (gains - losses) / n <= high <= 1
    assert discordant_bounds(gains + 1, losses, n + 1)[0] >= low - 1e-9
    assert min(0.0, discordant_bounds(gains, losses, n + 1)[0]) >= min(0.0, low) - 1e-9
    assert discordant_bounds(losses, gains, n) == pytest.approx((-high, -low))


@given(st.integers(15, 60), st.sampled_from(["thirds", "skewed", "nearly all"]), st.integers(0, 10_000))
def test_one_more_perfect_score_never_takes_a_pass_back(n, kind, seed):
    """Nor do all scores a second time, where one method ends and another begins."""
    rng = np.random.default_rng(seed)
    values = np.ones(n)
    if kind == "thirds":
        values = rng.choice([0, 0.5, 1], n, p=rng.dirichlet([0.5, 0.5, 2]))
    elif kind == "skewed":
        values = np.round(rng.beta(8, 1, n), 2)
    else:
        values[: rng.integers(0, 6)] = round(float(rng.random()), 2)
    before = mean(values, ends=(0.0, 1.0))
    for more in ([*values, 1.0], [*values, *values]):
        after = mean(more, ends=(0.0, 1.0))
        assert after.n_clusters >= after.fewest
        assert after.ci_low >= before.ci_low - 1e-3, (before, after)
