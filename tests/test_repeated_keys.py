"""A key that stands twice in one object is a fault with a place: which of its two values counts is a guess."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter.artifacts import read_json
from kilter.constitution.read import load as load_constitution
from kilter.data import shelf
from kilter.data.dataset import DataSpec, load
from kilter.data.read import rows
from kilter.data.row import RowError
from kilter.errors import UserError
from kilter.evaluation.people import read_people
from kilter.feedback.judge.build import load_spec
from kilter.recipe import load as load_recipe
from kilter.release.gate.policy import load_policy
from kilter.sampling.scripted import read_script
from kilter.validation import load_yaml, yaml

GOOD = '{"prompt": "Peru?", "chosen": "Lima", "rejected": "Cusco"}'
TWICE = '{"prompt": "Chile?", "chosen": "Santiago", "rejected": "Lima", "prompt": "Cuba?"}'
TURNS = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "content": "c"}]'
INNER = f'{{"messages": {TURNS}}}'

FILES = {
    "rows.jsonl": (f"{GOOD}\n{TWICE}\n{GOOD}\n", "rows.jsonl:2"),
    "first.jsonl": (f"{TWICE}\n{GOOD}\n{GOOD}\n", "first.jsonl:1"),
    "rows.json": (f"[{GOOD},\n {TWICE} , {GOOD}]\n", r"rows.json:\[2\]"),
    "line.jsonl": (f"[{GOOD}, {TWICE}, {GOOD}]", r"line.jsonl:\[2\]"),
    "lines.json": (f"{GOOD}\n{TWICE}\n{GOOD}\n", "lines.json:2"),
    "odd.name": (f"{TWICE}\n{GOOD}\n{GOOD}\n", "odd.name:1"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_row_that_names_a_key_twice_is_a_bad_row(tmp_path, monkeypatch, name, streamed):
    monkeypatch.setattr(shelf, "IN_MEMORY", 0 if streamed else 1000)
    content, place = FILES[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as failed:
        load(DataSpec(path=str(tmp_path / name), heldout=0), "pairs")
    assert failed.match(f"{place} field prompt.*'Chile.*Cuba.*stands twice in one object")
    assert failed.match("Keep one of the two, or leave such rows out with --on-bad-row skip")
    data = load(DataSpec(path=str(tmp_path / name), heldout=0, on_bad_row="skip"), "pairs")
    assert len(data.train) == 2
    assert "prompt stands twice" in next(iter(data.skipped))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("turn.jsonl", INNER),
        ("turn.json", f"[{INNER}]"),
        ("cell.csv", 'messages\n"' + TURNS.replace('"', '""') + '"\n'),
        ("packed.jsonl", json.dumps({"messages": TURNS})),
    ],
)
def test_a_turn_that_names_a_key_twice_is_a_bad_row(tmp_path, name, content):
    (tmp_path / name).write_text(content + "\n")
    with pytest.raises(UserError, match=r"field content.*\['b', 'c'\] stands twice"):
        load(DataSpec(path=str(tmp_path / name), heldout=0), "demonstrations")


def test_arguments_of_a_call_that_name_a_key_twice_are_a_bad_row(tmp_path):
    call = {"function": {"name": "find", "arguments": '{"city": "Lima", "city": "Cusco"}'}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    (tmp_path / "calls.jsonl").write_text(json.dumps({"messages": turns}))
    with pytest.raises(UserError, match="field city.*stands twice"):
        load(DataSpec(path=str(tmp_path / "calls.jsonl"), heldout=0), "demonstrations")


keys = st.sampled_from(["a", "b", 'q"]', "\u00e9 {", "", "a\n,"])
plain = st.none() | st.booleans() | st.integers(-99, 99) | keys
nested = st.dictionaries(keys, plain | st.lists(plain, max_size=2), max_size=2)
objects = st.dictionaries(keys, plain | nested | st.lists(nested, max_size=2), min_size=1, max_size=3)


def pairs_of(value) -> str:
    """A JSON text; a mapping that holds a list of pairs under "pairs!" is written as those pairs."""
    if isinstance(value, dict):
        items = value.get("pairs!", list(value.items()))
        return "{" + ", ".join(f"{json.dumps(k)} : {pairs_of(v)}" for k, v in items) + "}"
    return f"[{', '.join(map(pairs_of, value))}]" if isinstance(value, list) else json.dumps(value)


def doubled(value: dict, deep: bool) -> dict:
    """The mapping, or the first mapping within it, with its first key written twice."""
    inner = next((k for k, v in value.items() if isinstance(v, dict) and v), None)
    if deep and inner is not None:
        return value | {inner: doubled(value[inner], deep)}
    key = next(iter(value))
    return {"pairs!": [*value.items(), (key, 0)]}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(objects, st.sampled_from(["", "flat", "deep"])), min_size=1, max_size=4))
def test_rows_are_read_as_json_reads_them_unless_a_key_stands_twice(tmp_path, drawn):
    texts = [pairs_of(doubled(row, how == "deep") if how else row) for row, how in drawn]
    (tmp_path / "r.jsonl").write_text("\n".join(texts) + "\n")
    (tmp_path / "r.json").write_text("[" + " ,\n".join(texts) + "]")
    for name in ("r.jsonl", "r.json"):
        found = [row for _, row in rows(str(tmp_path / name))]
        assert len(found) == len(drawn)
        for (row, how), read in zip(drawn, found, strict=True):
            assert isinstance(read, RowError) if how else read == row


def test_a_packed_file_is_read_alike(tmp_path):
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.write(f"{GOOD}\n{TWICE}\n")
    with pytest.raises(UserError, match=r"rows.jsonl.gz:2 field prompt"):
        load(DataSpec(path=str(tmp_path / "rows.jsonl.gz"), heldout=0), "pairs")


RECIPE = "model: m\nmodel: n\ndata: {path: d}\nstages: {s: {train: {method: sft}}}\n"
DEEPER = "model: m\ndata: {path: d}\nstages: {s: {train: {method: sft, method: dpo}}}\n"
SETTINGS = {
    "a recipe": (load_recipe, "r.yaml", RECIPE),
    "a nested key of a recipe": (load_recipe, "r.yaml", DEEPER),
    "a judge": (load_spec, "j.yaml", "model: m\nmode: pairwise\nmode: pointwise\n"),
    "a policy": (load_policy, "p.yaml", "conditions: []\nconditions: []\n"),
    "a policy in JSON": (load_policy, "p.json", '{"conditions": [], "conditions": []}'),
    "a constitution": (load_constitution, "c.yaml", "name: a\nname: b\nprinciples: []\n"),
    "a constitution in JSON": (load_constitution, "c.json", '{"name": "a", "name": "b", "principles": []}'),
    "a script": (read_script, "s.jsonl", '{"prompt": "a", "answer": "b", "answer": "c"}\n'),
    "a file of votes": (
        lambda path: read_people([path], "labels"),
        "v.jsonl",
        '{"metric": "refusal", "prompt": "p", "answer": "a", "value": 1, "value": 0}\n',
    ),
    "a file of Kilter's": (read_json, "gate.json", '{"verdict": "fail", "verdict": "pass"}'),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_key_that_stands_twice_in_a_file_of_settings_is_named(tmp_path, name):
    reader, file, content = SETTINGS[name]
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=r"key '\w+' stands (there )?twice") as failed:
        reader(tmp_path / file)
    assert file in str(failed.value)


@pytest.mark.parametrize("text", ["yes: 1\ntrue: 2", "0x10: 1\n16: 2", "~: 1\nnull: 2", "{a: 1, 'a': 2}"])
def test_one_key_in_two_spellings_stands_twice(text):
    with pytest.raises(yaml.YAMLError, match="stands there twice"):
        load_yaml(text)


def test_a_merged_key_may_be_overridden():
    assert load_yaml("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}")["b"] == {"k": 3, "l": 2}
