"""Tokens of rollouts in blocks: they come back equal, and a block is whole or absent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench.store import groups_of, measure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter.artifacts import append_lines
from kilter.chain import files_of
from kilter.data import blocks, read, store
from kilter.data.dataset import DataSpec, load
from kilter.data.lineage import REACHED, row_mark
from kilter.data.source import SourceSpec
from kilter.errors import UserError
from kilter.manifest import Manifest
from kilter.release import trace
from kilter.training.sources.measure import staleness_metrics
from kilter.types import Completion, Feedback, Group, Prompt

singles = st.floats(width=32, allow_nan=False)
doubles = st.floats(allow_nan=False)


@st.composite
def completions(draw) -> Completion:
    """With all numbers, some of them, or ones that only JSON can hold."""
    count = draw(st.integers(0, 6))
    each = lambda values: tuple(draw(st.lists(values, min_size=count, max_size=count)))
    logps = draw(st.sampled_from([singles, doubles]))
    whole = Completion(
        draw(st.text(max_size=5)),
        token_ids=each(st.integers(0, draw(st.sampled_from([60_000, 200_000, 2**40])))),
        mask=each(st.integers(0, draw(st.sampled_from([1, 1, 1, 3])))),
        sampling_logps=each(logps),
        finish_reason=draw(st.sampled_from([None, "stop", "length"])),
        versions=((0, 1, 4), (1, count, 5)) if count > 1 and draw(st.booleans()) else (),
    )
    # JSON rows do not tell an empty answer from one without tokens; blocks do.
    missing = st.sets(st.sampled_from(sorted(blocks.COLUMNS)), max_size=2 * bool(count))
    return replace(whole, **dict.fromkeys(draw(missing)))


def group(step: int, *answers: Completion) -> Group:
    prompt = Prompt(messages=({"role": "user", "content": f"Say {step}"},), metadata={"step": step})
    return Group(prompt, answers, tuple(Feedback(float(i)) for i in range(len(answers))))


def answer(*tokens: int) -> Completion:
    mask = (0, *(1,) * (len(tokens) - 1))
    return Completion(f"{tokens}", tuple(tokens), mask, tuple(-float(t) / 4 for t in tokens), "stop", 3)


STEPS = [[group(step, answer(step, 1), answer(step, 2, 3)), group(step, answer(7))] for step in (1, 2, 3)]


def written(folder: Path, steps=STEPS) -> Path:
    for groups in steps:
        store.append_rollouts(folder / "groups.jsonl", groups)
    return folder / "groups.jsonl"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(st.lists(completions(), max_size=3), max_size=3), max_size=3))
def test_what_is_read_equals_what_was_written(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("run")
    groups = [[group(n, *answers) for answers in rows] for n, rows in enumerate(steps, 1)]
    path = written(folder, groups)
    flat = [g for rows in groups for g in rows]
    assert list(store.read(path)) == flat
    # Equal and of the same type: 1 is not True, 2.0 is not 2.
    plain = lambda found: json.dumps([store.to_json(g) for g in found])
    assert plain(store.read(path)) == plain(flat)


def test_a_block_is_plain_npy_and_rows_keep_no_numbers(tmp_path):
    path = written(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(not blocks.COLUMNS.keys() & c.keys() for row in rows for c in row["completions"])
    with (tmp_path / "groups.tokens").open("rb") as file:
        ids, logps, mask = (np.load(file, allow_pickle=False) for _ in range(3))
    assert (ids.tolist(), ids.dtype) == ([1, 1, 1, 2, 3, 7], np.uint16)
    assert (logps.tolist(), logps.dtype) == ([-x / 4 for x in ids.tolist()], np.float32)
    assert np.unpackbits(mask, count=6).tolist() == [0, 1, 0, 1, 1, 0]


def test_a_block_is_small_and_quick(tmp_path):
    """bench/store.py measures how much quicker it is; here the disk may be busy."""
    groups = groups_of(1 << 16, 512)
    new, old = (measure(way, groups, tmp_path, 3) for way in ("rows and block", "rows alone"))
    assert new["equal"] and old["equal"]
    assert new["bytes_per_token"] <= 10
    assert new["tokens_per_second"] > old["tokens_per_second"]


@pytest.mark.parametrize("torn", [b"", b"\x93NUMPY\x01", b"x" * 500], ids=["nothing", "a beginning", "a lot"])
def test_what_no_row_names_is_cut_when_the_run_goes_on(tmp_path, torn):
    """After a kill between block and rows, or in the midst of either; so are steps that will be done again."""
    whole = written(tmp_path / "whole")
    path = written(tmp_path / "broken", STEPS[:2])
    with (path.parent / "groups.tokens").open("ab") as file:
        file.write(torn)
    with path.open("a") as file:
        file.write('{"prompt": {"mess')
    assert list(store.read(path)) == [g for groups in STEPS[:2] for g in groups]

    store.cut(path, lambda row: row["prompt"]["metadata"]["step"] <= 1)
    for groups in STEPS[1:]:
        store.append_rollouts(path, groups)
    assert path.read_bytes() == whole.read_bytes()
    assert (path.parent / "groups.tokens").read_bytes() == (tmp_path / "whole" / "groups.tokens").read_bytes()


def test_a_run_that_begins_anew_leaves_no_tokens(tmp_path):
    path = written(tmp_path)
    store.cut(path, lambda row: False)
    assert (path.read_bytes(), (tmp_path / "groups.tokens").exists()) == (b"", False)


def test_a_block_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    from kilter import artifacts
    from kilter.errors import RunFailed

    path = written(tmp_path, STEPS[:1])
    before = [path.read_bytes(), (tmp_path / "groups.tokens").read_bytes()]

    def full(file, data):
        file.write(data[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts, "_put", full)
    with pytest.raises(RunFailed, match="No space left"):
        store.append_rollouts(path, STEPS[1])
    assert [path.read_bytes(), (tmp_path / "groups.tokens").read_bytes()] == before


def test_old_and_new_rows_are_one_file(tmp_path):
    path = tmp_path / "groups.jsonl"
    store.append(path, STEPS[0])
    store.append_rollouts(path, STEPS[1])
    store.append(path, STEPS[2])
    assert list(store.read(path)) == [g for groups in STEPS for g in groups]


def test_rows_as_data_bring_their_tokens(tmp_path):
    """As a file, as lines of it under another name, as a JSON array; their hash covers the tokens."""
    path = written(tmp_path)
    lines = path.read_text().splitlines()
    (tmp_path / "some.jsonl").write_text("\n".join(lines[2:]) + "\n")
    (tmp_path / "array.json").write_text(json.dumps([json.loads(line) for line in lines]))
    flat = [g for groups in STEPS for g in groups]
    for name, wanted in (("groups.jsonl", flat), ("some.jsonl", flat[2:]), ("array.json", flat)):
        found = load(DataSpec(path=str(tmp_path / name), heldout=0), "rollouts").train
        assert [g.completions for g in found] == [g.completions for g in wanted]
    assert [p.name for p in read.content_of(SourceSpec(path=str(path)))] == ["groups.jsonl", "groups.tokens"]


def _missing(path: Path) -> None:
    path.unlink()


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _huge(path: Path) -> None:
    """A header that promises more numbers than any memory holds."""
    path.write_bytes(path.read_bytes().replace(b"(6,)", b"(6000000000000,)")[:300])


@pytest.mark.parametrize("damage", [_missing, _short, _huge])
def test_lost_or_damaged_tokens_are_named(tmp_path, damage):
    path = written(tmp_path)
    damage(tmp_path / "groups.tokens")
    for reading in (store.read(path), read.rows(str(path))):
        with pytest.raises(UserError, match=r"groups.tokens' holds the tokens of these rollouts and cannot"):
            list(reading)


@pytest.mark.parametrize("damage", [_missing, _short])
def test_a_run_whose_tokens_are_lost_does_not_go_on_as_if_they_were_there(tmp_path, damage):
    path = written(tmp_path)
    damage(tmp_path / "groups.tokens")
    with pytest.raises(UserError, match="cannot be read"):
        store.cut(path, lambda row: True)


def test_a_row_names_no_file_of_another_folder(tmp_path):
    path = written(tmp_path / "run")
    (tmp_path / "run" / "groups.tokens").rename(tmp_path / "groups.tokens")
    path.write_text(path.read_text().replace('"groups.tokens"', '"../groups.tokens"'))
    with pytest.raises(UserError, match="another folder"):
        list(store.read(path))


def test_the_history_of_a_rollout_looks_at_its_tokens_too(tmp_path):
    """A train stage's rollouts are none of its results, and still files that it left."""
    written(tmp_path)
    left = Manifest("run", "train", "k" * 16, {}, status="done", outputs={"model": "m"}, inputs={})
    left.files = files_of(tmp_path)
    left.write(tmp_path)
    said = lambda: list(trace.lines(trace.find(tmp_path, "0")))[-1]
    assert "as it was written" in said()
    tokens = tmp_path / "groups.tokens"
    tokens.write_bytes(tokens.read_bytes() + b"x")
    assert "its tokens in groups.tokens have CHANGED since" in said()


def test_a_row_was_learned_from_where_a_step_of_the_kept_model_held_it(tmp_path):
    """Two rows of one prompt differ in their answers; a step after the kept one taught the model nothing."""
    rows = [
        Group(
            Prompt(text=f"q{n // 2}"), (Completion(f"a{n}"), Completion("b")), (Feedback(1.0), Feedback(0.0))
        )
        for n in range(6)
    ]
    store.write(tmp_path / "pairs" / "groups.jsonl", rows)
    for name, kind in (("pairs", "label"), ("early", "train"), ("online", "train")):
        Manifest(
            name,
            kind,
            "k",
            {},
            {"data:pairs": "h"},
            status="done",
            facts={"best_step": 1} if name == "early" else {},
        ).write(tmp_path / name)
    taken = [row_mark(replace(g, completions=g.completions[:1], feedback=g.feedback[:1])) for g in rows]
    append_lines(tmp_path / "early" / REACHED, [{"step": n + 1, "rows": [taken[n]]} for n in range(2)])
    append_lines(tmp_path / "early" / "metrics.jsonl", [{"step": 1}, {"step": 2}])
    asked = Group(Prompt(text="q2", metadata={"step": 7}), (Completion("z"),), (Feedback(1.0),))
    store.write(tmp_path / "online" / "groups.jsonl", [asked])

    def said(name):
        found = ["\n".join(trace.lines(trace.find(tmp_path, str(n), "pairs"))) for n in range(6)]
        return [text.partition(f"  {name}: ")[2].partition(";")[0] for text in found]

    missed = "not reached in its 2 steps"
    later = "reached it at step 2, and kept the model of step 1"
    assert said("early") == ["learned from it, first at step 1", later, *[missed] * 4]
    online = "learned from answers to its prompt, first at step 7"
    assert said("online") == [*["not reached in its 0 steps"] * 4, online, online]


def test_a_row_was_learned_from_by_way_of_what_later_stages_made_of_it(tmp_path):
    """Answers are judged, and the pairs trained on: the answers' history says so; of a pair left out, nothing."""
    answers = [
        Group(Prompt(text=f"q{n}"), (Completion("a"), Completion("b")), (Feedback(None),) * 2)
        for n in range(3)
    ]
    pairs = [replace(g, feedback=(Feedback(1.0), Feedback(0.0))) for g in answers[:2]]
    inputs = {"answers": {}, "pairs": {"data:answers": "h"}, "rl": {"data:mixed": "h"}}
    for second, (name, kind) in enumerate((("answers", "generate"), ("pairs", "label"), ("rl", "train"))):
        Manifest(name, kind, "k", {}, inputs[name], status="done", started=f"{second}").write(tmp_path / name)
    store.write(tmp_path / "answers" / "groups.jsonl", answers)
    store.write(tmp_path / "pairs" / "groups.jsonl", pairs)
    (tmp_path / "recipe.yaml").write_text("data: {mixed: {parts: [{path: $pairs}]}}")
    append_lines(tmp_path / "rl" / REACHED, [{"step": 1, "rows": [row_mark(pairs[1])]}])
    append_lines(tmp_path / "rl" / "metrics.jsonl", [{"step": 1}])
    said = [list(trace.lines(trace.find(tmp_path, str(n), "answers")))[-1] for n in range(3)]
    assert "rl: by way of pairs: not reached in its 1 step;" in said[0]
    assert "rl: by way of pairs: learned from it, first at step 1;" in said[1]
    assert "answers: " in said[2]
    told = [trace.record(trace.find(tmp_path, str(n), "answers"))["learners"] for n in range(3)]
    assert [[(w["stage"], w["by_way_of"], w["learned"], w["step"]) for w in who] for who in told] == [
        [("rl", "pairs", False, None)],
        [("rl", "pairs", True, 1)],
        [],
    ]


def test_a_users_own_column_named_tokens_is_left_alone():
    row = {"prompt": "a", "completions": ["b"], "tokens": 5}
    assert blocks.Reader(Path("x.jsonl")).filled(row) is row


spans_of = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4)


@given(st.lists(st.lists(spans_of, max_size=3), max_size=3))
def test_staleness_counts_every_token_once(steps):
    """As a loop over single tokens has it; spans may be empty, and answers may have none."""

    def drawn(lengths):
        starts = [sum(n for n, _ in lengths[:i]) for i in range(len(lengths))]
        return tuple((s, s + n, v) for s, (n, v) in zip(starts, lengths, strict=True))

    groups = [group(1, *(Completion("a", versions=drawn(answer)) for answer in rows)) for rows in steps]
    gaps = [9 - v for rows in steps for answer in rows for n, v in answer for _ in range(n)]
    found = staleness_metrics(groups, 9)
    if not gaps:
        assert found == {}
        return
    assert found["async/staleness_mean"] == pytest.approx(sum(gaps) / len(gaps))
    assert found["async/staleness_max"] == max(gaps)


def test_answers_of_one_version_count_where_batches_are_sampled_ahead():
    old, new = (Completion("a", token_ids=(1,) * n, policy_version=v) for n, v in ((3, 4), (1, 6)))
    groups = [group(1, old, new, Completion("b"))]
    assert staleness_metrics(groups, 6) == {}
    assert staleness_metrics(groups, 6, ahead=True) == {
        "async/staleness_mean": 1.5,
        "async/staleness_max": 2.0,
    }
