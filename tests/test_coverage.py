"""Intervals cover the truth, more evidence never takes a pass back, and equal length means equal length."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from bench.coverage import measure, scenarios
from scipy import stats

from kilter.statistics import length_controlled_win_rate, paired_difference, proportion

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


def test_published_shares_above_97_per_cent_have_no_better_interval_but_the_one_that_the_page_names():
    """Coverage moves in steps: between 93 and 97 % there is none for these counts."""
    rows = re.findall(r"^\| (\d+)% of events \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    cells = [
        (int(share) / 100, n, float(cell.split()[0]))
        for share, row in rows
        for n, cell in zip((12, 50, 200), row.split(" | "), strict=True)
        if "refused" not in cell
    ]
    high = [(p, n) for p, n, coverage in cells if coverage > 0.9705]
    assert high == [(0.02, 12), (0.02, 50), (0.1, 12), (0.97, 12), (0.97, 50)]
    assert [cell for cell in high if attainable(*cell)] == [(0.97, 12)]
    assert all(attainable(p, n) for p, n, _ in cells if (p, n) not in high)
