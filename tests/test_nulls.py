"""A null inside a user's own column is a value; one in a list that Kilter reads is nothing."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.api import make_data_spec
from kilter.data.dataset import load
from kilter.errors import UserError
from test_file_types import as_lines, as_parquet
from test_reading import asked, said


def groups(rows, shape="rollouts", **more):
    return load(make_data_spec({"path": rows, **more} if isinstance(rows, str) else rows, heldout=0), shape)


def dataset(rows, path):
    from datasets import Dataset

    return Dataset.from_list(rows)


def frame(rows, path):
    from pandas import DataFrame

    return DataFrame(rows)


def as_file(name, write):
    def make(rows, path):
        write(rows, path / name)
        return {"path": str(path / name), "heldout": 0}

    return make


SOURCES = {
    "jsonl": as_file("rows.jsonl", as_lines),
    "json": as_file("rows.json", lambda rows, path: path.write_text(json.dumps(rows))),
    "parquet": as_file("rows.parquet", as_parquet),
    "list": lambda rows, path: rows,
    "dataset": dataset,
    "frame": frame,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_null_inside_a_users_own_column_travels(tmp_path, kind):
    own = {
        "d": {"k": None, "n": 1},
        "e": [None, 2, None],
        "f": [{"deep": {"k": None}}],
        "parameters": {"a": None},
    }
    rows = [{"prompt": f"Q{i}", **own} for i in range(2)]
    data = load(make_data_spec(SOURCES[kind](rows, tmp_path), heldout=0), "prompts")
    assert [g.prompt.columns for g in data.train] == [own, own]


def test_a_null_reaches_the_reward_function_as_it_is(tmp_path):
    from datasets import load_dataset

    path = tmp_path / "rows.jsonl"
    as_lines([{"prompt": "Q", "d": {"k": None}}], path)
    (theirs,) = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    (ours,) = groups(str(path), "prompts").train
    assert ours.prompt.columns == {"d": theirs["d"]}


U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": None}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STEPS = {"prompt": "Q", "completions": ["one", "two"], "labels": [True, False]}
SEVERAL = {"prompt": "Q", "chosen": ["a", "b"], "rejected": ["c", "d"]}
TURNS = [{"role": "system", "content": "S"}, U, A, U, A]

ROWS = {
    "messages": ({"messages": TURNS}, [("messages",)]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        [("conversations",)],
    ),
    "pair of turns": (
        {"prompt": [U], "chosen": [A], "rejected": [A | {"content": "B"}]},
        [("chosen",), ("prompt",)],
    ),
    "several sides": (SEVERAL, [("chosen",), ("rejected",)]),
    "sides with scores": (
        SEVERAL | {"chosen_score": [4, 5], "rejected_score": [1, 2]},
        [("chosen", "chosen_score"), ("rejected", "rejected_score")],
    ),
    "entries": (
        {"prompt": "Q", "completions": [{"response": "a", "rating": 1}, {"response": "b", "rating": 2}]},
        [("completions",)],
    ),
    "answers beside scores": (
        {"prompt": "Q", "responses": ["a", "b"], "scores": [1, 2]},
        [("responses", "scores")],
    ),
    "answers beside ranks": (
        {"prompt": "Q", "completions": ["a", "b"], "ranks": [2, 1]},
        [("completions", "ranks")],
    ),
    "steps": (STEPS, [("completions", "labels")]),
    "calls": (
        {"messages": [U, {"role": "assistant", "tool_calls": [CALL]}]},
        [("messages", 1, "tool_calls")],
    ),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, A]},
        [("messages", 0, "content")],
    ),
    "tools": ({"messages": [U, A], "tools": [TOOL]}, [("tools",)]),
    "history": ({"instruction": "Q", "history": [["q", "a"]], "output": "A"}, [("history",)]),
    "truthful": (
        {"question": "Q", "correct_answers": ["a"], "incorrect_answers": ["b"], "best_answer": "a"},
        [("correct_answers",), ("incorrect_answers",)],
    ),
    "tree": (
        {
            "message_tree_id": "t",
            "prompt": {
                "text": "Q",
                "role": "prompter",
                "replies": [{"text": text, "role": "assistant", "rank": n} for n, text in enumerate("ab")],
            },
        },
        [("prompt", "replies")],
    ),
}


def listed(row, path):
    for key in path:
        row = row[key]
    return row


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(ROWS)))
def test_a_null_in_a_list_is_nothing_wherever_it_stands(data, name):
    row, paths = ROWS[name]
    padded = copy.deepcopy(row)
    for path in paths:
        # Lists that belong together are padded together, as where nobody answered and nobody judged.
        together = [(p,) for p in path] if all(isinstance(row.get(p), list) for p in path) else [path]
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(listed(padded, together[0]))))
            for one in together:
                listed(padded, one).insert(place, None)
    assert groups([padded]).train == groups([row]).train


def test_a_null_answer_does_not_shift_the_numbers_beside_it():
    row = {"prompt": "Q", "responses": ["a", None, "c"], "scores": [1, 9, 3]}
    (group,) = groups([row]).train
    assert [(c.text, f.score) for c, f in zip(group.completions, group.feedback, strict=True)] == [
        ("a", 1.0),
        ("c", 3.0),
    ]
    row = {"prompt": "Q", "chosen": "a", "rejected": [None, "c"], "chosen_score": 5, "rejected_score": [9, 3]}
    (group,) = groups([row]).train
    assert (said(group), [f.score for f in group.feedback]) == (["a", "c"], [5.0, 3.0])


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"messages": [U, A, None, A]}, r"messages\[2\].*null between two turns of role assistant"),
        ({"messages": [U, None, U, A]}, r"messages\[1\].*null between two turns of role user"),
        (STEPS | {"completions": ["one", None]}, r"completions\[1\].*null, and has a label"),
        (STEPS | {"labels": [True, None]}, r"labels\[1\].*is missing"),
        ({"prompt": "Q", "chosen": "a", "rejected": [None]}, "rejected.*is missing"),
        ({"question_id": 1, "category": "x", "turns": [None, "B"]}, r"turns\[0\].*is missing"),
        ({"messages": [None]}, "non-empty list of turns"),
    ],
)
def test_a_null_that_something_hangs_on_is_refused(row, field):
    with pytest.raises(UserError, match=field):
        groups([row])


def test_a_list_that_begins_with_a_null_is_told_by_what_follows():
    (group,) = groups([{"messages": [None, U, A]}], "demonstrations").train
    assert (asked(group), said(group)) == ([("user", "Q")], ["A"])


@pytest.mark.parametrize(
    "key",
    [
        "files",
        "file",
        "attachments",
        "media",
        "pixel_values",
        "video",
        "videos",
        "audio",
        "audios",
        "image_urls",
    ],
)
def test_media_inside_a_turn_is_refused_by_any_name(key):
    turns = [{**U, key: ["a.png"]}, A]
    with pytest.raises(UserError, match=rf"messages\[0\].{key}.*which a text model cannot read"):
        groups([{"messages": turns}], "demonstrations")
    for empty in (None, [], "", {}, [None], False):
        assert groups([{"messages": [{**U, key: empty}, A]}], "demonstrations").train
