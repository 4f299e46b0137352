"""Data that is a Python object is read, or refused in one message."""

from __future__ import annotations

import pandas
import pyarrow
import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

from kilter.api import make_data_spec
from kilter.data.dataset import DataSpec, load
from kilter.errors import UserError

ROWS = [{"prompt": "Q", "chosen": "a", "rejected": "b"}, {"prompt": "P", "chosen": "c", "rejected": "d"}]
OTHER = [{"prompt": "O", "chosen": "e", "rejected": "f"}]


def answers(data):
    return [g.completions[0].text for g in load(make_data_spec(data, heldout=0), "pairs").train]


def streamed(rows):
    return Dataset.from_list(rows).to_iterable_dataset()


@pytest.mark.parametrize(
    "data",
    [
        lambda: ROWS,
        lambda: (row for row in ROWS),
        lambda: map(dict, ROWS),
        lambda: Dataset.from_list(ROWS),
        lambda: streamed(ROWS),
        lambda: streamed(ROWS).map(lambda row: row),
        lambda: pandas.DataFrame(ROWS),
        lambda: pyarrow.Table.from_pylist(ROWS),
        lambda: DatasetDict(train=Dataset.from_list(ROWS)),
        lambda: DatasetDict(all=Dataset.from_list(ROWS)),
        lambda: DatasetDict(test=Dataset.from_list(OTHER), train=Dataset.from_list(ROWS)),
        lambda: IterableDatasetDict(train=streamed(ROWS)),
        lambda: {"path": Dataset.from_list(ROWS), "heldout": 0},
        lambda: {
            "path": DatasetDict(a=Dataset.from_list(OTHER), b=Dataset.from_list(ROWS)),
            "split": "b",
            "heldout": 0,
        },
    ],
)
def test_rows_in_any_object_are_read(data):
    assert answers(data()) == ["a", "c"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            lambda: DatasetDict(a=Dataset.from_list(ROWS), b=Dataset.from_list(ROWS)),
            'a, b, and no train.*"split": "a"',
        ),
        (
            lambda: {"path": DatasetDict(train=Dataset.from_list(ROWS)), "split": "test"},
            "splits train, and no test",
        ),
        (DatasetDict, "has no split"),
        (lambda: iter([1, 2]), "is not a row"),
        (lambda: 3, "is not data that can be read"),
        (lambda: {"prompt": ["Q"]}, "is not a known key|is required"),
    ],
)
def test_an_object_without_rows_is_refused_in_one_message(data, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        answers(data())


@pytest.mark.parametrize("dials", [{"level": 1}, {"n": 400}, {"level": 3}])
def test_dials_of_no_world_are_refused_whatever_their_values(dials):
    with pytest.raises(UserError, match="are dials of a world, and s.jsonl is none"):
        make_data_spec({"path": "s.jsonl", "world": dials})
    # Settings that were written out hold all of them.
    whole = make_data_spec({"path": "s.jsonl"})
    assert make_data_spec(whole.model_dump()) == whole


@pytest.mark.parametrize("path", ["s.jsonl", "builtin:support-desk"])
def test_dials_are_a_mapping(path):
    with pytest.raises(
        UserError, match=r"(?s)data.world.*should be a mapping of dials.*such as {n: 100}.*level"
    ):
        make_data_spec({"path": path, "world": 40})


def test_a_reader_that_asks_the_terminal_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("def read(row):\n    return input('?')\n")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    spec = DataSpec(path=str(tmp_path / "rows.jsonl"), format=f"{tmp_path}/mine.py:read", on_bad_row="skip")
    with pytest.raises(UserError, match=r"data.format.*reads the terminal.*in line 2 of its file"):
        load(spec, "pairs")


def test_a_column_without_a_name_is_named_as_pandas_names_it(tmp_path):
    pandas.DataFrame(ROWS).to_csv(tmp_path / "rows.csv")
    data = load(DataSpec(path=str(tmp_path / "rows.csv"), heldout=0), "pairs")
    assert data.notes() == ["not read: Unnamed: 0"]


def test_a_setting_of_a_named_data_set_is_called_by_its_name(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"prompt": "Q{i}", "completion": "A", "score": 1}}\n' for i in range(3)))
    spec = DataSpec(path=str(path), heldout=0, condition={"levels": 2})
    for where, field in (("data", "data.condition"), ("data.desk", "data.desk.condition")):
        with pytest.raises(UserError, match=f"`{field}`"):
            load(spec, "demonstrations", where)
