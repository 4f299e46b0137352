"""The desk's reader of verdicts over what agents say, and over statements composed from a grammar."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data.worlds.support_desk import read_verdict
from verdict_grammar import statements
from verdict_natural import NEITHER, NO, YES

SIGNS = {"yes": 1, "no": -1, "": 0}
MISSED = 0.05
"""The share of statements with a verdict that may be read as none."""


def tally(said):
    """How many statements are read right, inverted, missed, or given a verdict that they have not."""
    found = Counter()
    for text, sign in said:
        read = SIGNS[read_verdict(text)]
        kind = "right" if read == sign else "missed" if read == 0 else "inverted" if sign else "invented"
        found[kind] += 1
    return found


def test_what_agents_say_is_read_or_missed_and_never_turned():
    found = tally([(t, 1) for t in YES] + [(t, -1) for t in NO] + [(t, 0) for t in NEITHER])
    assert sum(found.values()) >= 1000
    assert (found["inverted"], found["invented"]) == (0, 0)
    assert found["missed"] <= MISSED * sum(found.values())


def test_no_statement_of_the_grammar_is_turned():
    found = tally(statements(3000))
    assert (found["inverted"], found["invented"]) == (0, 0)
    assert found["missed"] <= MISSED * sum(found.values())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_statement_of_any_other_draw_is_turned(seed):
    turned = [
        (text, sign) for text, sign in statements(25, seed) if SIGNS[read_verdict(text)] == -sign and sign
    ]
    assert turned == []
