"""The commands that read data: the same options everywhere, and files that other tools read."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.cli import main
from kilter.data.dataset import DataSpec, load
from kilter.data.export import EXPORTS, write
from kilter.data.formats import formats
from kilter.errors import UserError
from test_file_types import SHAPES

CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
HI = {"role": "user", "content": "Hi"}
TURNS = [
    {"role": "system", "content": "Be brief."},
    HI,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "seen"},
    {"role": "assistant", "content": "Yes.", "reasoning_content": "I saw it."},
    HI,
    {"role": "assistant", "content": "no", "train": False},
    HI,
    {"role": "assistant", "content": "Bye."},
]
ROWS = {
    "pairs": [
        {"prompt": "Q", "chosen": "a", "rejected": "b", "margin": 2.0, "topic": "x", "id": "7"},
        {"prompt": "P", "chosen": "a", "rejected": "b", "chosen_score": 4, "rejected_score": 1},
        {"prompt": TURNS[:2], "chosen": TURNS[2:5], "rejected": "b", "tools": [TOOL]},
    ],
    "demonstrations": [
        {"messages": TURNS, "tools": [TOOL], "topic": "x"},
        {"prompt": "Q", "completion": "A"},
    ],
    "unpaired": [{"prompt": f"Q{i}", "completion": "A", "label": bool(i)} for i in range(2)],
    "prompts": [{"prompt": "Q", "answer": "1"}, {"prompt": [HI], "answer": "2"}],
}


@pytest.fixture
def kilter(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out + shown.err

    return run


def written(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def same(groups):
    """What a format of other tools can hold of a group; a lone answer is its last turn there as well."""
    found = []
    for g in groups:
        turns = [list(c.turns) or [{"role": "assistant", "content": c.text}] for c in g.completions]
        columns = {k: v for k, v in g.prompt.columns.items() if k != "id"}
        found.append(
            (
                list(g.prompt.messages),
                g.prompt.tools,
                turns,
                [f.score for f in g.feedback],
                columns,
                g.prompt.id,
            )
        )
    return found


@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize("shape", ROWS)
def test_what_is_converted_is_read_as_it_was(kilter, tmp_path, shape, to):
    source = written(tmp_path / "rows.jsonl", ROWS[shape])
    code, text = kilter("data", "convert", source, "made.jsonl", "--shape", shape, "--to", to)
    if shape == "prompts" and to == "sharegpt":  # nothing there would say that it is a prompt
        assert code == 2 and "has no format for a prompt without an answer" in text
        assert not (tmp_path / "made.jsonl").exists()
        return
    assert code == 0, text
    before, after = (
        load(DataSpec(path=str(tmp_path / name), heldout=0), shape).train
        for name in ("rows.jsonl", "made.jsonl")
    )
    assert same(after) == same(before)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), form=st.sampled_from(sorted(SHAPES)), shape=st.sampled_from([*ROWS, "ranked"]))
def test_whatever_is_converted_is_read_as_it_was_or_refused(data, form, shape):
    rows = data.draw(SHAPES[form])
    with tempfile.TemporaryDirectory() as folder:
        source = written(Path(folder) / "rows.jsonl", rows)
        try:
            before = load(DataSpec(path=str(source), heldout=0), shape, learned=False).train
        except UserError:
            return
        for to in EXPORTS:
            path = Path(folder) / f"{to}.jsonl"
            with contextlib.suppress(UserError):
                write(path, before, to, shape)
                after = load(DataSpec(path=str(path), heldout=0), shape, learned=False).train
                assert [columns_of(g) for g in after] == [columns_of(g) for g in before]
                assert [texts_of(g) for g in after] == [texts_of(g) for g in before]
                # An answer to imitate is written without its score where answers to one prompt repeat.
                if shape != "demonstrations":
                    assert [[f.score for f in g.feedback] for g in after] == [
                        [f.score for f in g.feedback] for g in before
                    ]


def columns_of(group):
    return group.prompt.messages, group.prompt.columns, group.prompt.id


def texts_of(group):
    return [c.text for c in group.completions]


@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize("name", ["id", "prompt_id"])
def test_a_number_that_names_a_row_stays_one(kilter, tmp_path, name, to):
    source = written(tmp_path / "rows.jsonl", [{"prompt": "Q", "completion": "A", name: 7}])
    assert kilter("data", "convert", source, "made.jsonl", "--to", to)[0] == 0
    (group,) = load(DataSpec(path=str(tmp_path / "made.jsonl"), heldout=0), "prompts", learned=False).train
    assert (group.prompt.id, group.prompt.columns) == ("7", {name: 7})


def test_answers_to_imitate_stay_rows_of_their_own(kilter, tmp_path):
    rows = [{"prompt": "Q", "chosen": a, "rejected": "no"} for a in ("a", "b")]
    source = written(tmp_path / "rows.jsonl", rows)
    code, text = kilter("data", "convert", source, "made.jsonl", "--shape", "demonstrations", "--to", "trl")
    assert code == 0, text
    found = load(DataSpec(path=str(tmp_path / "made.jsonl"), heldout=0), "demonstrations").train
    assert [texts_of(g) for g in found] == [["a"], ["b"]]


def test_an_answer_to_check_against_is_converted(kilter, tmp_path):
    source = written(tmp_path / "rows.jsonl", [{"question": "2 + 3?", "answer": "Five.\n#### 5"}])
    assert kilter("data", "convert", source, "made.jsonl", "--to", "trl")[0] == 0
    row = json.loads((tmp_path / "made.jsonl").read_text())
    assert row["answer"] == "5" and row["completion"] == "Five.\n#### 5"


def test_one_answer_that_two_raters_judge_is_no_pair(tmp_path):
    rows = [{"prompt": "Q", "response": "A", "score": s} for s in (1, 5)]
    rows += [{"prompt": "P", "response": a, "score": s} for a, s in (("A", 1), ("B", 5))]
    source = written(tmp_path / "rows.jsonl", rows)
    for shape in ("pairs", "ranked"):
        data = load(DataSpec(path=str(source), heldout=0), shape)
        assert len(data.train) == 1 and data.skipped["identical answers"] == 1


@pytest.mark.parametrize("to", EXPORTS)
def test_a_judges_odds_are_converted_and_read_back(kilter, tmp_path, to):
    rows = [
        {"prompt": "Q", "chosen": "good", "rejected": "bad", "p": 0.8},
        {"prompt": "R", "chosen": "good", "rejected": "bad", "p": "0.25"},
        {"prompt": "S", "chosen": "good", "rejected": "bad", "p": 7},
        {"prompt": "T", "chosen": "good", "rejected": "bad", "p": "page"},
        {"prompt": "U", "chosen": "good", "rejected": "bad"},
    ]
    source = written(tmp_path / "rows.jsonl", rows)
    code, text = kilter("data", "convert", source, "made.jsonl", "--to", to)
    assert code == 0, text
    for name in ("rows.jsonl", "made.jsonl"):
        found = load(DataSpec(path=str(tmp_path / name), heldout=0), "pairs").train
        assert [g.feedback[0].over(1) for g in found] == [0.8, 0.25, None, None, None]
        assert found[0].feedback[1].over(0) == pytest.approx(0.2)
        # A number that is no probability, and a word, are columns of the user's own.
        assert [g.prompt.columns.get("p") for g in found] == [None, None, 7, "page", None]


def test_ranked_answers_have_no_format_elsewhere(kilter, tmp_path):
    rows = [{"prompt": "Q", "completions": [{"response": a, "score": i} for i, a in enumerate("abc")]}]
    source = written(tmp_path / "rows.jsonl", rows)
    code, text = kilter("data", "convert", source, "made.jsonl", "--to", "trl")
    assert code == 2
    assert "--shape pairs" in text
    assert not (tmp_path / "made.jsonl").exists()


@pytest.mark.parametrize("command", [["data", "peek"], ["audit"], ["advise"], ["data", "convert"]])
def test_reading_is_said_the_same_way_everywhere(kilter, tmp_path, tiny, command):
    rows = [{"q": f"Q{i}", "yes": f"good {i}", "no": f"bad {i}"} for i in range(6)]
    source = written(tmp_path / "rows.jsonl", [*rows, '{"q": "torn'])
    more = ["made.jsonl"] if command[-1] == "convert" else ["--model", tiny] if command == ["advise"] else []
    options = ["--format", "preference"]
    for name, column in (("prompt", "q"), ("chosen", "yes"), ("rejected", "no")):
        options += ["--map", f"{name}={column}"]
    code, text = kilter(*command, source, *more, *options, "--on-bad-row", "error")
    assert code == 2
    assert "rows.jsonl:7" in text
    assert "--on-bad-row skip" in text
    code, text = kilter(*command, source, *more, *options, "--on-bad-row", "skip")
    assert code == 0, text
    code, text = kilter(
        *command, source, *[m.replace("made", "other") for m in map(str, more)], "--map", "prompt"
    )
    assert code == 2
    assert "--map prompt=question" in text


def test_options_of_reading_stand_in_every_command(kilter):
    for command in (
        ["data", "peek"],
        ["data", "convert"],
        ["audit"],
        *(["advise"], ["train"], ["eval"], ["sample"], ["generate"], ["label"]),
    ):
        _, text = kilter(*command, "--help")
        assert all(option in text for option in ("--map", "--format", "--on-bad-row")), command


def test_formats_are_listed_with_an_example(kilter):
    code, text = kilter("data", "formats")
    assert code == 0
    for found in formats.in_order():
        assert f"{found.name}  " in text
        assert json.dumps(dict(found.example), ensure_ascii=False) in text
    assert kilter("data", "formats", "preferences")[1].count("preference") > 1


def test_a_peek_shows_calls_thoughts_and_what_is_not_learned(kilter, tmp_path):
    source = written(tmp_path / "rows.jsonl", ROWS["demonstrations"])
    code, text = kilter("data", "peek", source, "--shape", "demonstrations")
    assert code == 0
    for part in ('calls {"name": "look"', "(I saw it.)", "assistant (not learned): no", "tools: look"):
        assert part in text
    assert "not read: topic" in text


def test_text_from_outside_is_neither_markup_nor_a_control_sequence(kilter, tmp_path):
    row = {"prompt": "[/red] \x1b]0;title\x07", "completion": "[bold]a\x1b[2J", "id": "[/x]", "[/y]": 1}
    code, text = kilter("data", "peek", written(tmp_path / "rows.jsonl", [row]), "--shape", "demonstrations")
    assert code == 0
    assert "\x1b" not in text
    for shown in ("[/red] \\x1b]0;title\\x07", "[bold]a\\x1b[2J", "[/x]", "not read: [/y]"):
        assert shown in text


@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize(
    "row",
    [
        {"text": "Hello world."},
        {"prompt": "2 + 2 * 2?", "completions": ["2 * 2 = 4.", "2 + 4 = 6."], "labels": [True, False]},
    ],
)
def test_texts_and_steps_are_converted_or_refused(kilter, tmp_path, row, to):
    source = written(tmp_path / "rows.jsonl", [row])
    code, text = kilter("data", "convert", source, "made.jsonl", "--to", to)
    if to == "sharegpt":
        assert code == 2 and "`--to` = 'sharegpt' has no format for" in text
        return
    assert code == 0, text
    before, after = (
        load(DataSpec(path=str(tmp_path / name), heldout=0), "rollouts").train
        for name in ("rows.jsonl", "made.jsonl")
    )
    assert same(after) == same(before) and after[0].prompt.text == before[0].prompt.text
    assert [f.steps for f in after[0].feedback] == [f.steps for f in before[0].feedback]
