"""A run's state comes back from its file as it was: types, order and every bit. The file holds no code."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from kilter.errors import UserError
from kilter.training.state_file import HEADER, read_values, write_values

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool, torch.complex64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


@st.composite
def tensors(draw) -> torch.Tensor:
    """Any bits, of any type and shape, whole or a part of another tensor."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
    size = torch.empty((), dtype=dtype).element_size()
    count = math.prod(shape)
    highest = 1 if dtype is torch.bool else 255
    numbers = draw(st.lists(st.integers(0, highest), min_size=2 * count * size, max_size=2 * count * size))
    whole = torch.tensor(numbers, dtype=torch.uint8).view(dtype).reshape(2, *shape)
    views = {"part": whole[1], "turned": whole[0].permute(tuple(reversed(range(len(shape))))), "whole": whole}
    return views[draw(st.sampled_from(sorted(views)))]


KEYS = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("$") | st.just("a.b")
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    PLAIN | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS | st.tuples(st.integers(), st.text(max_size=2)), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b) -> bool:
    """Equal in type, order and bits: True is not 1, -0.0 is not 0.0, and a tuple is no list."""
    if isinstance(a, torch.Tensor):
        alike = type(b) is torch.Tensor and a.dtype == b.dtype and a.shape == b.shape
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)] if alike else []
        return alike and torch.equal(*bits)
    if isinstance(a, dict):
        return type(b) is dict and same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_any_state_comes_back_the_same(tmp_path, value):
    write_values(tmp_path / "x", value)
    assert same(read_values(tmp_path / "x"), value)


def test_names_that_meet_are_kept_apart(tmp_path):
    state = {"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1), "__metadata__": torch.ones(2)}
    write_values(tmp_path / "x", state)
    assert same(read_values(tmp_path / "x"), state)
    with safe_open(tmp_path / "x", "pt") as file:
        assert set(file.keys()) == {"a.b", "a.b_", "__metadata___"}


def test_tensors_that_share_memory_are_stored_one_by_one(tmp_path):
    both = torch.arange(4.0)
    write_values(tmp_path / "x", {"all": both, "again": both, "half": both[2:]})
    found = read_values(tmp_path / "x")
    found["all"] += 1
    assert found["again"].tolist() == [0, 1, 2, 3]
    assert found["half"].tolist() == [2, 3]


def test_what_is_read_outlives_its_file(tmp_path):
    write_values(tmp_path / "x", torch.ones(1000))
    found = read_values(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"")
    assert found.sum() == 1000


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), {"a": [b"bytes"]}, torch.ones(1, dtype=torch.complex128)]
)
def test_what_would_come_back_as_something_else_is_not_written(tmp_path, value):
    with pytest.raises((TypeError, ValueError, KeyError)):
        write_values(tmp_path / "x", value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), length=st.integers(0, 40), data=st.binary(max_size=40))
def test_a_damaged_file_is_named_or_reads_as_values(tmp_path, at, length, data):
    path, said = tmp_path / "x", str(tmp_path / "x")
    write_values(path, {"a": torch.arange(8.0), "b": (1, {2: None})})
    content = path.read_bytes()
    at %= len(content)
    path.write_bytes(content[:at] + data + content[at + length :])
    try:
        read_values(path)
    except UserError as error:
        said = str(error)
    # Anything but UserError has failed the test by now.
    assert str(path) in said


@pytest.mark.parametrize(
    "tree", ['{"$": "tensor", "name": "b"}', '{"$": "exec"}', '{"$": ["tuple"]}', "[" * 200_000, "{", "[[[1]"]
)
def test_a_header_of_another_kind_is_refused(tmp_path, tree):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "x", metadata={HEADER: tree})
    with pytest.raises(UserError, match="cannot be read as tensors"):
        read_values(tmp_path / "x")
    save_file({"a": torch.ones(1)}, tmp_path / "y", metadata={"another": json.dumps([])})
    with pytest.raises(UserError, match="cannot be read as tensors"):
        read_values(tmp_path / "y")
