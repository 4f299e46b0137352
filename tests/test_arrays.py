"""Numbers of an answer's tokens: who reads them cannot tell them from a tuple, but by the room they take."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kilter.arrays import IDS, LOGPS, MASK, Numbers, packed
from kilter.data.store import from_json, to_json
from kilter.types import Completion, Feedback, Group, Prompt

WHOLE = st.lists(st.one_of(st.integers(0, 70_000), st.integers(-(2**62), 2**62))).map(tuple)
REAL = st.lists(st.one_of(st.floats(allow_nan=False, width=32), st.floats(allow_nan=False))).map(tuple)
PLACE = st.one_of(st.none(), st.integers(-5, 5))


@given(WHOLE, REAL, PLACE, PLACE)
def test_they_are_the_tuple_to_whoever_reads_them(ids, logps, start, end):
    for values, types in ((ids, IDS), (logps, LOGPS)):
        held = packed(values, types)
        assert isinstance(held, Numbers)
        assert held == values
        assert values == held
        assert (held != values) is False
        assert held != list(values)
        assert held != (*values, 0)
        assert {values: 1}[held] == 1
        assert repr(held) == repr(values)
        assert list(held) == list(values)
        assert list(reversed(held)) == list(reversed(values))
        assert held[start:end] == values[start:end]
        assert (1, 2) + held + (3,) == (1, 2) + values + (3,)  # noqa: RUF005
        assert held + held == values + values
        assert pickle.loads(pickle.dumps(held)) == copy.deepcopy(held) == values
        assert torch.tensor(held).tolist() == torch.tensor(values).tolist()
        assert np.asarray(held).tolist() == list(values)
        assert np.asarray(held).dtype == (np.float64 if types is LOGPS else np.int64)
        assert bool(held) is bool(values)
        assert [type(v) for v in held] == [type(v) for v in values]
        with pytest.raises(TypeError):
            held + [1]  # noqa: RUF005
        with pytest.raises(TypeError):
            [1] + held  # noqa: RUF005


@pytest.mark.parametrize(
    ("types", "values"),
    [
        (IDS, (2**70,)),
        (IDS, ("a",)),
        (IDS, (1.0,)),
        (LOGPS, (1.5, None)),
        (LOGPS, (math.nan,)),
        (MASK, (2**63,)),
    ],
)
def test_what_no_array_gives_back_stays_as_it_is(types, values):
    assert packed(values, types) is values


@pytest.mark.parametrize(
    ("types", "values", "size"),
    [
        (IDS, (0, 65_535), 2),
        (IDS, (65_536,), 4),
        (IDS, (2**40,), 8),
        (MASK, (0, 1), 1),
        (LOGPS, (-0.5, 0.0, -math.inf), 4),
        (LOGPS, (-0.1,), 8),
        (LOGPS, (-1e300,), 8),
    ],
)
def test_they_take_the_smallest_type_that_is_exact(types, values, size):
    held = packed(values, types)
    assert (held, held.held.itemsize) == (values, size)


def test_an_answer_is_small_in_memory_between_processes_and_plain_on_disk():
    n = 1000
    logps = tuple(np.random.default_rng(0).normal(-1, 1, n).astype(np.float32).tolist())
    ids, mask = tuple(range(300, 300 + n)), (1,) * n
    answer = Completion("x", ids, mask, logps, "stop", 3)
    assert sum(v.held.itemsize for v in (answer.token_ids, answer.mask, answer.sampling_logps)) == 7
    assert len(pickle.dumps(answer)) < 7.5 * n
    assert (answer.token_ids, answer.mask, answer.sampling_logps) == (ids, mask, logps)
    assert replace(answer, text="y").token_ids is answer.token_ids

    group = Group(Prompt(text="a"), (answer,), (Feedback(1.0),))
    assert from_json(json.loads(json.dumps(to_json(group)))) == group
    assert hash(answer) == hash(Completion("x", ids, mask, logps, "stop", 3))


def test_what_can_be_read_once_is_read_whole():
    """The first type may be too small for the last of them."""
    ids = (1, 2, 100_000, 3)
    assert Completion("", iter(ids), map(int, "1111"), map(float, ids)) == Completion("", ids, (1,) * 4, ids)
