"""The same rows give the same groups, whatever they are written in."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kilter.api import make_data_spec
from kilter.data.dataset import load
from kilter.types import Group

words = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"), min_size=1, max_size=12
).filter(
    lambda text: text.strip() == text and text.lower() not in ("nan", "none", "null", "na", "n/a", "<na>")
)
sentences = words.map("It is {}".format)
numbers = st.one_of(st.integers(-9, 9), st.floats(-9, 9, allow_nan=False).map(lambda x: round(x, 3)))
missing = st.just(None)


def turns(answer: str) -> list[dict]:
    return [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": answer}]


conversations = sentences.map(turns)


def maybe(strategy):
    return st.one_of(missing, strategy)


def rows_of(**columns):
    return st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=4)


SHAPES = {
    "preference": rows_of(
        prompt=sentences,
        chosen=words.map("good {}".format),
        rejected=words.map("bad {}".format),
        system=maybe(sentences),
        chosen_score=maybe(numbers),
        rejected_score=maybe(numbers),
        margin=maybe(numbers),
        source=maybe(words),
    ),
    "implicit_preference": rows_of(
        chosen=words.map("good {}".format).map(turns), rejected=words.map("bad {}".format).map(turns)
    ),
    "scored": rows_of(prompt=sentences, completion=sentences, score=maybe(numbers), model=maybe(words)),
    "attributes": rows_of(
        question=sentences, response=sentences, helpfulness=maybe(numbers), correctness=maybe(numbers)
    ),
    "unpaired": rows_of(prompt=sentences, completion=sentences, label=maybe(st.booleans())),
    "ratings": rows_of(
        instruction=sentences,
        completions=st.lists(
            st.fixed_dictionaries({"response": sentences, "rating": maybe(numbers)}),
            min_size=1,
            max_size=3,
            unique_by=lambda entry: entry["response"],
        ),
    ),
    "alpaca": rows_of(
        instruction=sentences, input=maybe(sentences), output=sentences, id=maybe(st.integers(0, 9))
    ),
    "conversations": rows_of(messages=conversations, label=maybe(st.booleans()), system=maybe(sentences)),
    "prompts": rows_of(prompt=sentences, solution=maybe(words), topic=maybe(words)),
    "two_answers": rows_of(
        prompt=sentences,
        response_0=words.map("a {}".format),
        response_1=words.map("b {}".format),
        better_response_id=maybe(st.sampled_from([0, 1])),
        is_response_0_safe=maybe(st.booleans()),
    ),
}


def as_csv(rows, path):
    """Lists as JSON text; what is missing is an empty cell."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, [*rows[0]])
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                k: "" if v is None else json.dumps(v, ensure_ascii=False) if isinstance(v, list | dict) else v
                for k, v in row.items()
            }
        )
    path.write_text(out.getvalue(), encoding="utf-8", newline="")


def as_parquet(rows, path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def as_lines(rows, path, change=lambda row: row):
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


def as_nan(value):
    """As pandas writes a table that lacks a number."""
    return {k: math.nan if v is None else v for k, v in value.items()}


WRITERS = {
    "jsonl": as_lines,
    "json": lambda rows, path: path.write_text(json.dumps(rows)),
    "csv": as_csv,
    "parquet": as_parquet,
    "absent.jsonl": lambda rows, path: as_lines(
        rows, path, lambda row: {k: v for k, v in row.items() if v is not None}
    ),
    "nan.jsonl": lambda rows, path: as_lines(rows, path, as_nan),
}


def plain(value):
    """A user's own value as a table knows it: text, and the same for 1, 1.0 and "1"."""
    try:
        return str(value) if isinstance(value, bool) else str(float(value))
    except ValueError:
        return str(value)


def groups_of(data, shape) -> list[Group]:
    fields = {"heldout": 0.0}
    spec = make_data_spec(data) if not isinstance(data, str) else make_data_spec({"path": data} | fields)
    found = load(spec.model_copy(update=fields), shape).train
    # A table knows text alone, so a user's own number comes out of it as text.
    return [
        replace(g, prompt=replace(g.prompt, columns={k: plain(v) for k, v in g.prompt.columns.items()}))
        for g in found
    ]


@pytest.mark.parametrize("form", SHAPES)
@settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_the_file_type_changes_nothing(form, data):
    from datasets import Dataset

    rows = data.draw(SHAPES[form])
    shape = "prompts" if form == "prompts" else "rollouts"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for ending, write in WRITERS.items():
            path = Path(folder) / f"rows.{ending}"
            write(rows, path)
            found[ending] = groups_of(str(path), shape)
    found["list"] = groups_of(rows, shape)
    found["datasets"] = groups_of(Dataset.from_list(rows), shape)
    for ending, groups in found.items():
        assert groups == found["jsonl"], ending
