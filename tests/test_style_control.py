"""Win rates at equal length and style, against independent fits, and what peers get wrong there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from kilter.evaluation.aggregate import Origin, measure
from kilter.evaluation.metrics import resolve
from kilter.evaluation.style import MARKS, normalised
from kilter.statistics import length_controlled_win_rate, style_controlled_win_rate
from kilter.types import Answered, Completion, Feedback, Prompt

N = 3000
ORIGIN = Origin(0, "data", {})


def planted(weights, seed=0, shift=0.4):
    """Features, and wins whose log-odds are 0.4 at equality."""
    draw = np.random.default_rng(seed)
    x = draw.normal(0.3, 1.0, (N, len(weights)))
    return x, (draw.random(N) < expit(shift + x @ np.array(weights))).astype(float)


def independent(y, x, groups=None):
    """statsmodels' own Logit: (share of wins at 0, half of its interval on the log-odds, weights)."""
    more = {} if groups is None else {"cov_type": "cluster", "cov_kwds": {"groups": groups}}
    fit = sm.Logit(y, sm.add_constant(x)).fit(disp=0, **more)
    return expit(fit.params[0]), 1.96 * fit.bse[0], fit.params[1:]


def told(estimate):
    """The weights that the method tells."""
    pairs = (part.rsplit(" ", 1) for part in estimate.method.partition("log-odds: ")[2].split(", "))
    return {name: float(weight) for name, weight in pairs}


def half_width(estimate):
    low, high = (math.log(v / (1 - v)) for v in (estimate.ci_low, estimate.ci_high))
    return (high - low) / 2


def test_alpaca_eval_length_control_is_a_logit_on_tanh_of_standard_deviations():
    x, y = planted([0.0])
    lengths = 50 * x[:, 0]
    y = (np.random.default_rng(1).random(N) < expit(0.4 + 1.2 * np.tanh(lengths / lengths.std()))).astype(
        float
    )
    found = length_controlled_win_rate(list(y), list(lengths))
    value, half, weights = independent(y, np.tanh(lengths / lengths.std()))
    assert found.value == pytest.approx(value, abs=1e-3)
    assert half_width(found) == pytest.approx(half, rel=0.01)
    assert told(found)["length"] == pytest.approx(weights[0], abs=0.02)
    assert found.ci_low < expit(0.4) < found.ci_high


def test_alpaca_eval_needs_a_file_of_difficulties_and_here_they_are_a_feature_of_the_prompts():
    """Read from its mean on: the rate is that of a prompt of middling difficulty, however it is counted."""
    x, y = planted([0.9, -0.8])
    lengths, difficulty = 30 * x[:, 0], 7 + 2 * x[:, 1]
    found = style_controlled_win_rate(
        list(y), {"length": list(lengths)}, prompts={"difficulty": list(difficulty)}
    )
    centred = (difficulty - difficulty.mean()) / difficulty.std()
    value, half, weights = independent(y, np.column_stack([np.tanh(lengths / lengths.std()), centred]))
    assert found.value == pytest.approx(value, abs=2e-3)
    assert half_width(found) == pytest.approx(half, rel=0.01)
    assert list(told(found).values()) == pytest.approx(weights, abs=0.02)
    moved = style_controlled_win_rate(
        list(y), {"length": list(lengths)}, prompts={"difficulty": list(100 - 3 * difficulty)}
    )
    assert moved.value == pytest.approx(found.value, abs=1e-6)


def test_alpaca_eval_takes_the_spread_of_predictions_for_a_standard_error():
    """Predictions at equal length are all alike; how sure the rate is follows from the fit."""
    x, y = planted([1.5])
    few = length_controlled_win_rate(list(y[:300]), list(x[:300, 0]))
    many = length_controlled_win_rate(list(y), list(x[:, 0]))
    predictions = expit(0.4 + 1.5 * x[:, 0])
    assert half_width(few) / half_width(many) == pytest.approx(math.sqrt(10), rel=0.15)
    assert many.ci_high - many.ci_low > 1.3 * 2 * 1.96 * predictions.std() / math.sqrt(N)


def test_alpaca_eval_only_warns_where_control_changes_the_rate_by_more_than_ten_points():
    """Where the lengths do not overlap, there is no number to be warned of."""
    draw = np.random.default_rng(0)
    found = length_controlled_win_rate(
        list((draw.random(400) < 0.9).astype(float)), list(draw.random(400) + 0.1)
    )
    assert (found.value, found.ci_low) == (None, None)
    assert found.method.startswith("not_identified")


def test_arena_hard_style_features_are_normalised_differences():
    """Counted by hand: 10 and 30 tokens; 1 header, 2 list items and 1 bold word against 1 bold word."""
    a = Completion("# Title\n- one\n- two **bold**\n```\n# no header\n- no item\n```", (0,) * 10)
    b = Completion("plain and **bold** words", (0,) * 30)
    found = normalised(a, b)
    density = {"headers": (1 / 11, 0), "lists": (2 / 11, 0), "bold": (1 / 11, 1 / 31)}
    wanted = {"length": (10 - 30) / 40} | {k: (p - q) / (p + q + 1) for k, (p, q) in density.items()}
    assert found == pytest.approx(wanted)


@given(st.text(max_size=60), st.text(max_size=60))
def test_style_features_change_their_sign_with_the_order_and_are_bounded(first, second):
    one, other = (
        normalised(Completion(first), Completion(second)),
        normalised(Completion(second), Completion(first)),
    )
    assert one == pytest.approx({name: -value for name, value in other.items()})
    assert all(-1 <= value <= 1 for value in one.values())
    assert set(one) == {"length", *MARKS}


def test_arena_hard_control_for_length_keeps_the_column_of_a_model():
    """There the first column is kept, whatever it holds; here a feature is known by its name."""
    x, y = planted([0.9, -0.7, 0.5, 0.0])
    names = ("length", "headers", "lists", "bold")
    ratios = {name: list(np.tanh(x[:, k])) for k, name in enumerate(names)}
    whole = style_controlled_win_rate(list(y), {}, ratios=ratios)
    value, half, weights = independent(
        y, np.column_stack([np.array(ratios[n]) / np.std(ratios[n]) for n in names])
    )
    assert whole.value == pytest.approx(value, abs=2e-3)
    assert half_width(whole) == pytest.approx(half, rel=0.01)
    assert list(told(whole).values()) == pytest.approx(weights, abs=0.02)
    turned = style_controlled_win_rate(list(y), {}, ratios={n: ratios[n] for n in reversed(names)})
    assert told(turned) == pytest.approx(told(whole), abs=0.011)
    alone = style_controlled_win_rate(list(y), {}, ratios={"length": ratios["length"]})
    value, _, weights = independent(y, np.array(ratios["length"]) / np.std(ratios["length"]))
    assert (alone.value, told(alone)["length"]) == (
        pytest.approx(value, abs=2e-3),
        pytest.approx(weights[0], abs=0.02),
    )


def test_arena_hard_resamples_rows_a_hundred_times_and_calls_90_percent_an_interval():
    """Both orders and a verdict that counts three times are one observation; bounds are 95 % and no draw."""
    x, y = planted([0.8], seed=2)
    x, y = x[:250, 0], y[:250]
    six, which = np.repeat(x, 6), np.repeat(np.arange(250), 6)
    once = length_controlled_win_rate(list(y), list(x))
    often = [length_controlled_win_rate(list(np.repeat(y, 6)), list(six), which) for _ in range(2)]
    assert often[0] == often[1]
    assert (often[0].n, often[0].n_clusters) == (1500, 250)
    assert half_width(often[0]) == pytest.approx(half_width(once), rel=0.05)
    _, half, _ = independent(np.repeat(y, 6), np.tanh(six / six.std()), which)
    assert half_width(often[0]) == pytest.approx(half, rel=0.05)


def looks(n, wins, style):
    """An item of an evaluation: the candidate writes plainly or with marks."""
    text = "# Head\n- **one**\n- two" if style else "words that are plain and few"
    base = Answered(
        Prompt(text=str(n)), (Completion("a plain answer in some words"),), {"gold": (Feedback(0.5),)}
    )
    return Answered(
        Prompt(text=str(n)), (Completion(text),), {"gold": (Feedback(float(wins)),)}, baseline=base
    )


def test_the_win_rate_at_equal_style_undoes_a_taste_for_markdown_and_tells_it():
    draw = np.random.default_rng(0)
    items = [looks(n, draw.random() < (0.9 if n % 2 else 0.5), n % 2) for n in range(400)]
    (plain, controlled) = resolve(["win_rate_gold", "win_rate_gold_sc"])
    found = measure(controlled, items, ORIGIN).estimate
    assert measure(plain, items, ORIGIN).estimate.ci_low > 0.6
    assert found.ci_low < 0.5 < found.ci_high
    assert sum(told(found).values()) > 0.5


def test_arena_hard_overwrites_the_first_of_two_categories():
    """Each set is its own call on its own rows: what one holds says nothing of the other."""
    (controlled,) = resolve(["win_rate_gold_sc"])
    draw = np.random.default_rng(1)
    sets = [[looks(n, draw.random() < p, n % 2) for n in range(300)] for p in (0.8, 0.3)]
    first, second, again = (measure(controlled, sets[k], ORIGIN).estimate for k in (0, 1, 0))
    assert first.ci_low > 0.5 > second.ci_high
    assert again == first


def test_features_in_which_nearly_all_answers_are_equal_identify_the_rate_and_others_do_not():
    x, y = planted([0.5], seed=4)
    rare = np.where(np.arange(N) % 50 == 0, 0.4, 0.0)
    found = style_controlled_win_rate(list(y), {}, ratios={"headers": list(rare)})
    assert found.value is not None
    always = style_controlled_win_rate(list(y), {}, ratios={"headers": [0.4] * N})
    assert always.method.startswith("not_identified")
