"""The numbers of docs/scale.md come from bench/scale.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.scale import CASES, POLICIES, WORLDS, case, predicted, rollouts, together

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text()


def test_the_page_shows_what_the_formulas_give():
    columns = [case(*given) for given in CASES.values()]
    rows = [list(column.values()) for column in columns]
    for cells in zip(*rows, strict=True):
        assert "| " + " | ".join(cells) + " |" in PAGE
    small, large = rollouts(512 * 16 * 2048), rollouts(512 * 16 * 8192)
    for what, cell in small.items():
        assert f"| {what} | {cell} | {large[what]} |" in PAGE


@pytest.mark.parametrize(
    ("policy", "speed"),
    [
        ("in turn, apart", 0.86),
        ("lookahead 1, finish", 1.20),
        ("lookahead 1, keep", 1.59),
        ("lookahead 2", 2.22),
        ("lookahead 4", 2.82),
        ("ready first, budget 1", 1.60),
    ],
)
def test_a_slice_of_the_simulation(policy, speed):
    """The page's speeds, from a few steps; in order, no answer is older than the lookahead."""
    world = WORLDS["lighter (sigma 0.5, cap 4096)"]
    base, share = together(world, 16, 0)
    assert share == pytest.approx(0.17, abs=0.01)
    run = POLICIES[policy](world, 0).run(16)
    assert base / run.step(5) == pytest.approx(speed, rel=0.05)
    assert f"| {policy} |" in PAGE
    if run.ordered:
        assert max(run.ages) <= run.ahead
        assert len(run.ages) == 16 * world.prompts * world.answers
        # The plan's formula knows of no queue before the slots: it may promise a little more, never less.
        assert 0.8 < predicted(world, run) / run.step(5) < 1.02


def test_a_budget_is_no_bound():
    world = WORLDS["lighter (sigma 0.5, cap 4096)"]
    assert max(POLICIES["ready first, budget 1"](world, 0).run(16).ages) > 1
