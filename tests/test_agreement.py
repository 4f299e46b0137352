"""Agreement, clustered shares and corrected rates: golden numbers, other people's code, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.statistics import (
    EXACT,
    Accuracy,
    Estimate,
    clustered,
    cohen_kappa,
    corrected_difference,
    corrected_rate,
    gwet_ac1,
    krippendorff_alpha,
    prediction_powered,
    proportion,
    wilson_bounds,
)

_ = np.nan
TEXTBOOK = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
FIRST = [1, 1, 0, 1, 1, 1, 0, 0, 0, 0]
SECOND = [1, 0, 0, 1, 1, 1, 0, 0, 0, 1]


def test_golden_agreement():
    assert krippendorff_alpha(TEXTBOOK).value == pytest.approx(0.743421, abs=1e-6)
    assert cohen_kappa(FIRST, SECOND).value == pytest.approx(0.6)
    assert gwet_ac1(FIRST, SECOND).value == pytest.approx(0.6)


def test_golden_corrections():
    """The rules that count 60 % of refusals and .984 specificity make .742 of .60."""
    found = corrected_rate(proportion([True] * 60 + [False] * 40), Accuracy(0.803, 0.984, 400, 400))
    assert found.value == pytest.approx(0.742058, abs=1e-6)

    # 2,000 judged, 200 of them by people too, who differ from the judge 14 times.
    alone = np.repeat([1.0, 0.0], [563, 1237])
    people = np.repeat([1, 0, 1, 0], [54, 8, 6, 132]).astype(float)
    judge = np.repeat([1, 1, 0, 0], [54, 8, 6, 132]).astype(float)
    both = prediction_powered(alone, judge, people)
    assert np.concatenate([alone, judge]).mean() == 0.3125
    assert both.value == pytest.approx(0.3028, abs=5e-5)
    # Published with a normal interval: 0.0425. That of rare disagreements is a little wider.
    assert 0.0425 <= (both.ci_high - both.ci_low) / 2 <= 0.047
    assert people.mean() == 0.3
    assert 1.96 * people.std(ddof=1) / 200**0.5 == pytest.approx(0.0637, abs=5e-5)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_kappa_is_that_of_scikit_learn(pairs):
    from sklearn.metrics import cohen_kappa_score

    a, b = zip(*pairs, strict=True)
    found = cohen_kappa(a, b).value
    if len({*a, *b}) > 1:
        theirs = cohen_kappa_score(a, b)
        assert (found is None and np.isnan(theirs)) or found == pytest.approx(theirs, abs=1e-12)
    else:
        assert found is None


def test_kappa_leaves_the_unscored_out_and_says_how_many():
    found = cohen_kappa([1, 0, _, 1], [1, 0, 1, _])
    assert (found.value, found.n, found.n_unscored) == (1.0, 2, 2)
    assert found.ci_low < 1, "perfect agreement on two items is no certainty"


def test_kappa_whose_draws_are_all_alike_still_has_a_width():
    found = cohen_kappa([1, 1, 1], [1, 0, 1])
    assert found.value == 0.0 and found.ci_low < -0.5 and found.ci_high > 0.5


def test_kappa_of_clusters_is_less_sure_than_that_of_single_items():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 100)
    wrong = rng.random(100) < 0.2
    a, b = np.repeat(truth, 5), np.repeat(truth ^ wrong, 5)
    alone, together = cohen_kappa(a, b), cohen_kappa(a, b, np.repeat(np.arange(100), 5))
    assert together.value == alone.value
    assert together.ci_high - together.ci_low > 1.8 * (alone.ci_high - alone.ci_low)


def test_a_clustered_share_without_clusters_is_wilsons():
    """But for Student's t in place of the normal, which is wider."""
    found = clustered([1.0] * 30 + [0.0] * 370)
    low, high = wilson_bounds(30, 400)
    assert found.ci_low == pytest.approx(low, abs=1e-3) and found.ci_high == pytest.approx(high, abs=1e-3)
    assert clustered([0.0] * 50).ci_high == pytest.approx(wilson_bounds(0, 50)[1])
    assert clustered([_, _]).value is None


@pytest.mark.parametrize("p", [0.03, 0.3, 0.5, 0.97])
def test_a_clustered_share_covers_the_truth(p):
    """Clusters of four, alike within: an interval that ignores clusters would cover about 70 %."""
    rng = np.random.default_rng(1)
    hits = 0
    for _i in range(400):
        own = rng.random((100, 1)) < p
        values = np.where(rng.random((100, 4)) < 0.7, own, rng.random((100, 4)) < p).astype(float)
        found = clustered(values, np.repeat(np.arange(100), 4))
        hits += found.ci_low <= p <= found.ci_high
    assert hits >= 0.92 * 400


@pytest.mark.parametrize(("truth", "se", "sp"), [(0.3, 0.8, 0.98), (0.02, 0.7, 0.95), (0.9, 0.9, 0.99)])
def test_corrected_rates_cover_the_truth(truth, se, sp):
    """Rate, sensitivity and specificity are all measured on samples."""
    rng = np.random.default_rng(2)
    hits = 0
    for _i in range(500):
        counted = rng.binomial(400, truth * se + (1 - truth) * (1 - sp))
        rate = proportion([True] * counted + [False] * (400 - counted))
        measured = Accuracy(rng.binomial(100, se) / 100, rng.binomial(150, sp) / 150, 100, 150)
        found = corrected_rate(rate, measured)
        hits += found.ci_low <= truth <= found.ci_high
    assert hits >= 0.93 * 500


@pytest.mark.parametrize("accuracy", [Accuracy(0.95, 0.94, 200, 4000), Accuracy(0.97, 0.9, 60, 60)])
def test_fewer_counts_than_false_alarms_say_no_more_than_no_event(accuracy):
    """The instrument counts 6 to 10 % of all other cases. None counted in 100 is luck, and no certificate."""
    for n in (20, 100, 400):
        exact = proportion([False] * n).ci_high
        for counted in (0, 1, n // 50):
            found = corrected_rate(proportion([True] * counted + [False] * (n - counted)), accuracy)
            assert found.ci_high >= exact / accuracy.sensitivity
        every = corrected_rate(proportion([True] * n), accuracy)
        assert every.ci_low <= 1 - exact / accuracy.specificity


@pytest.mark.parametrize("labelled", [15, 30, 60])
def test_people_who_never_disagree_leave_room_for_what_they_did_not_see(labelled):
    """A judge that misses 5 % of all cases errs in none of 30 that people saw in one draw of five."""
    found = prediction_powered(np.zeros(370), np.zeros(labelled), np.zeros(labelled))
    assert found.ci_high > proportion([False] * labelled).ci_high
    rng, passed = np.random.default_rng(3), 0
    for _ in range(200):
        truth = (rng.random(370 + labelled) < 0.05).astype(float)
        judged = truth * (rng.random(len(truth)) < 0.1)
        passed += prediction_powered(judged[:370], judged[370:], truth[370:]).ci_high < 0.05
    assert passed <= 0.05 * 200 + 5


def test_a_corrected_difference_carries_the_doubt_about_the_instrument():
    raw = Estimate(0.1, 400, ci_low=0.05, ci_high=0.15)
    assert corrected_difference(raw, EXACT) == raw
    known = corrected_difference(raw, Accuracy(0.8, 0.9))
    assert (known.value, known.ci_low, known.ci_high) == pytest.approx((1 / 7, 0.5 / 7, 1.5 / 7))
    measured = corrected_difference(raw, Accuracy(0.8, 0.9, 30, 30))
    assert measured.ci_low < known.ci_low < known.ci_high < measured.ci_high


def test_an_instrument_that_tells_nothing_corrects_nothing():
    rate = proportion([True, False] * 50)
    assert corrected_rate(rate, Accuracy(0.5, 0.5, 100, 100)).value is None
    assert corrected_rate(rate, Accuracy(0.6, 0.6, 10, 10)).value is None
    assert corrected_rate(rate, EXACT) == rate
