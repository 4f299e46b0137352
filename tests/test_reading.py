"""Every column and key of a row is learned from, carried along, or named; missing is one thing."""

from __future__ import annotations

import json

import pytest

from conftest import REAL
from kilter.data.dataset import DataSpec, load
from kilter.errors import UserError
from test_file_types import as_csv, as_lines


def written(path, rows):
    """The rows as JSON lines; a text stays the line that it is."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


@pytest.fixture
def read(tmp_path):
    """Rows to the groups of a shape, all of them for training."""

    def load_rows(rows, shape="pairs", **settings):
        path = written(tmp_path / "rows.jsonl", rows)
        return load(DataSpec(path=path, heldout=0, **settings), shape)

    return load_rows


def asked(group):
    return [(m["role"], m["content"]) for m in group.prompt.messages]


def said(group):
    return [c.text for c in group.completions]


CITIES = [("France", "Paris", "Lyon"), ("Spain", "Madrid", "Seville"), ("Peru", "Lima", "Cusco")]


XSTEST = {"prompt": "Kill it?", "type": "homonyms", "focus": "kill"}
ANSWERED = [
    (XSTEST, {"completion": "So."}, {"final_label": "1_full_compliance"}),
    ({"Behavior": "Pick it", "SemanticCategory": "illegal"}, {"generation": "So."}, {"label": 1}),
    ({"forbidden_prompt": "Pick it"}, {"response": "So."}, {"score": 0.5}),
    ({"question": "Pick it?", "risk_area": "Theft"}, {"GPT4_response": "So."}, {}),
    ({"goal": "Pick it"}, {"response": "So."}, {}),
    ({"prompt": "Pick it"}, {"generation": "So."}, {"label": 1}),
]


@pytest.mark.parametrize(("asks", "answer", "label"), ANSWERED)
def test_an_answer_beside_a_prompt_that_is_read_alone_is_told(read, asks, answer, label):
    """Once, with its label and, where one does, with the command that reads both."""
    wanted = f"prompts alone are read, without the answers ({', '.join(answer)})"
    wanted += f" and their labels ({', '.join(label)})" if label else ""
    wanted += "; kilter audit-classifier FILE --label final_label reads both" * ("final_label" in label)
    data = read([asks | answer | label] * 2, "prompts")
    assert data.said == {wanted: 2} and not data.train[0].completions
    assert not read([asks], "prompts").said


@pytest.mark.parametrize("column", ["completions", "responses", "generations"])
@pytest.mark.parametrize("ends", ["jsonl", "csv"])
def test_answers_that_nobody_judged_are_one_group(tmp_path, column, ends):
    """As `generate` writes them and `label` takes them."""
    rows = [{"prompt": f"Capital {n}?", column: ["Paris.", "Lyon.", None]} for n in range(2)]
    path = tmp_path / f"a.{ends}"
    as_csv(rows, path) if ends == "csv" else written(path, rows)
    data = load(DataSpec(path=str(path), heldout=0), "rollouts")
    assert (data.format, data.carried, data.unread, len(data.train)) == ("unjudged", (), (), 2)
    assert said(data.train[0]) == ["Paris.", "Lyon."]
    assert [f.score for f in data.train[0].feedback] == [None, None]


def test_answers_that_nobody_judged_may_be_conversations(read):
    turns = [[{"role": "assistant", "content": text}] for text in ("Paris.", "Lyon.")]
    (group,) = read([{"prompt": [{"role": "user", "content": "Hi"}], "completions": turns}], "rollouts").train
    assert (asked(group), said(group)) == ([("user", "Hi")], ["Paris.", "Lyon."])


def test_of_answers_that_nobody_judged_the_first_is_learned_which_is_said(read):
    data = read([{"prompt": "Capital?", "completions": ["Paris.", "Lyon."]}], "demonstrations")
    assert said(data.train[0]) == ["Paris."]
    assert data.notes() == ["left out: 1 unjudged, behind a first answer"]


def test_steps_without_labels_are_not_answers_that_nobody_judged(read):
    row = {"prompt": "2 + 2?", "completions": ["It is", "4."], "labels": [True, True]}
    with pytest.raises(UserError, match="labels.*is missing"):
        read([row, {k: v for k, v in row.items() if k != "labels"}], "rollouts")


def test_what_does_not_go_along_is_not_said_to(read):
    data = read([XSTEST | {"completion": "So."}], "prompts")
    assert (data.carried, data.unread) == (("focus",), ("completion",))
    assert "completion" not in data.train[0].prompt.columns


@pytest.mark.parametrize("name", ["prompt", "question", "instruction", "query", "problem"])
def test_a_prompt_by_any_name_is_the_prompt(read, name):
    rows = [
        {"system": "Be brief.", name: f"Capital of {c}?", "chosen": f"It is {a}.", "rejected": f"It is {b}."}
        for c, a, b in CITIES
    ]
    data = read(rows)
    assert asked(data.train[0]) == [("system", "Be brief."), ("user", "Capital of France?")]
    assert said(data.train[0]) == ["It is Paris.", "It is Lyon."]
    assert data.unread == ()


@pytest.mark.parametrize("nothing", ["", " ", "<noinput>", "<noInput>"])
def test_no_input_follows_an_instruction(read, nothing):
    row = {"instruction": "Name a capital.", "input": nothing, "output": "Paris."}
    (group,) = read([row], "demonstrations").train
    assert asked(group) == [("user", "Name a capital.")]


def test_an_input_follows_its_instruction(read):
    row = {"instruction": "Translate.", "input": "chat", "chosen": "cat", "rejected": "dog"}
    assert asked(read([row]).train[0]) == [("user", "Translate.\n\nchat")]


def test_a_column_that_may_hold_the_prompt_is_not_passed_over(read):
    rows = [
        {"request": f"Capital of {c}?", "chosen": f"It is {a}.", "rejected": f"It is {b}."}
        for c, a, b in CITIES
    ]
    with pytest.raises(UserError, match="--map prompt=request"):
        read(rows)
    assert asked(read(rows, map={"prompt": "request"}).train[0]) == [("user", "Capital of France?")]
    assert asked(read(rows, format="implicit_preference").train[0]) == [("user", "It is")]


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "Q", "chosen": "a", "rejected": "b", "x\\ud800": 1}',
        '{"prompt": "Q", "chosen": "a", "rejected": "b", "x": [{"\\udc00": 1}]}',
    ],
)
def test_a_key_that_is_no_text_is_located(read, row):
    good = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    with pytest.raises(UserError, match=r"rows.jsonl:2.*has a key that holds half a character \(\\ud"):
        read([good, row])
    assert len(read([good, row], on_bad_row="skip").train) == 1


def test_what_is_not_read_is_named_once(read):
    turns = [
        {"role": "user", "content": "Hi", "mood": "good"},
        {"role": "assistant", "content": "Hello", "mood": "bad"},
    ]
    data = read([{"messages": turns, "source": "web", "rating_model": "x"}] * 2, "demonstrations")
    assert data.unread == ("source", "rating_model", "messages[].mood")
    assert data.notes() == ["not read: source, rating_model, messages[].mood"]
    assert data.train[0].prompt.columns == {"source": "web", "rating_model": "x"}


def test_map_names_any_column(read):
    row = {"frage": "Hauptstadt?", "gut": "Paris", "schlecht": "Lyon"}
    data = read([row], map={"prompt": "frage", "chosen": "gut", "rejected": "schlecht"})
    assert (asked(data.train[0]), said(data.train[0])) == ([("user", "Hauptstadt?")], ["Paris", "Lyon"])
    with pytest.raises(UserError, match=r"(?s)data.map.prompt.*is not a column.*frage, gut, schlecht"):
        read([row], map={"prompt": "fragen"})
    with pytest.raises(ValueError, match="twice"):
        DataSpec(path="x.jsonl", map={"prompt": "a", "chosen": "a"})


WEATHER = {"name": "get_weather", "arguments": {"city": "Paris"}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": WEATHER}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": WEATHER}]},
        {"role": "assistant", "tool_calls": [WEATHER]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": WEATHER | {"arguments": '{"city": "Paris"}'}}],
        },
        {"role": "assistant", "content": None, "function_call": WEATHER},
        {"from": "function_call", "value": json.dumps(WEATHER)},
    ],
)
def test_calls_in_every_spelling(read, turn):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Weather in Paris?"},
                turn,
                {"from": "observation", "value": "sunny"},
                {"role": "assistant", "content": "It is sunny."},
            ],
            "tools": json.dumps([TOOL]),
        }
    ]
    (group,) = read(rows, "demonstrations").train
    call, answer, last = group.completions[0].turns
    assert call["content"] == ""
    assert call["tool_calls"] == [{"type": "function", "function": WEATHER}]
    assert (answer["role"], last["content"]) == ("tool", "It is sunny.")
    assert group.prompt.tools == (TOOL,)


def test_a_single_call_is_an_answer(read):
    turn = {"role": "assistant", "content": None, "tool_calls": [WEATHER]}
    row = {"prompt": "Weather?", "chosen": [turn], "rejected": "I do not know.", "tools": [TOOL]}
    (group,) = read([row]).train
    assert group.completions[0].turns[0]["tool_calls"][0]["function"] == WEATHER
    assert group.completions[1].turns == ()


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": False}, {"weight": 0.0}])
def test_a_turn_that_is_not_to_be_learned_is_context(read, mark):
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "bad", **mark},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "good"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "worse", **mark},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "better"},
    ]
    (group,) = read([{"messages": turns}], "demonstrations").train
    assert asked(group) == [("user", "a"), ("assistant", "bad"), ("user", "b")]
    assert [(t["content"], t.get("train", True)) for t in group.completions[0].turns] == [
        ("good", True),
        ("c", True),
        ("worse", False),
        ("d", True),
        ("better", True),
    ]
    with pytest.raises(UserError, match="no assistant turn that is to be learned"):
        read([{"messages": turns[:2]}], "demonstrations")
    with pytest.raises(UserError, match="should be 0 or 1"):
        read(
            [{"messages": [turns[0], {"role": "assistant", "content": "x", "weight": 0.5}]}], "demonstrations"
        )


def test_questions_alone_are_prompts_when_they_are_called_so(read):
    rows = [{"messages": [{"role": "user", "content": f"Capital of {c}?"}]} for c, _, _ in CITIES]
    with pytest.raises(UserError, match="no assistant turn to learn from") as error:
        read(rows, "prompts")
    assert "--map prompt=messages" in error.value.fix
    groups = read(rows, "prompts", map={"prompt": "messages"}).train
    assert sorted(asked(g) for g in groups) == sorted([("user", f"Capital of {c}?")] for c, _, _ in CITIES)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_apart_from_the_answer(read, key):
    turn = {"role": "assistant", "content": "Paris.", key: "I recall France."}
    (group,) = read([{"messages": [{"role": "user", "content": "Capital?"}, turn]}], "demonstrations").train
    assert group.completions[0].turns[0]["reasoning_content"] == "I recall France."
    (group,) = read([{"prompt": "Capital?", "completion": "Paris.", key: "Thought."}], "demonstrations").train
    assert group.completions[0].turns[0]["reasoning_content"] == "Thought."


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}, "image"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image_url"),
        ({"content": [{"type": "audio", "audio": "a.wav"}]}, "audio"),
        ({"content": [{"type": "file", "file": "x"}]}, "file"),
    ],
)
def test_pictures_and_sounds_are_refused(read, extra, field):
    turns = [{"role": "user", **extra}, {"role": "assistant", "content": "A cat."}]
    with pytest.raises(UserError, match=f"a part of type {field}"):
        read([{"messages": turns}], "demonstrations")


@pytest.mark.parametrize(
    "column",
    [
        "image",
        "images",
        "videos",
        "audio",
        "img",
        "image_path",
        "Image",
        "picture_url",
        "photos",
        "jpg",
        "pdf",
    ],
)
def test_columns_of_pictures_are_refused(read, column):
    row = {"prompt": "What?", "completion": "A cat.", column: ["a.png"]}
    with pytest.raises(UserError, match=f"holds {column}, which a text model cannot read"):
        read([row], "demonstrations")
    assert read([row | {column: []}], "demonstrations").train
    assert read([row, {"prompt": "Q", "completion": "A"}], "demonstrations", on_bad_row="skip").skipped


@pytest.mark.parametrize(
    "more",
    [
        {"goal": "win"},
        {"question_id": 1, "category": "x", "turns": ["a"]},
        {"risk_area": "x", "question": "P"},
    ],
)
def test_a_benchmark_s_column_takes_no_row_that_has_a_prompt(read, more):
    data = read([{"prompt": "Q", "chosen": "x", "rejected": "y"} | more])
    assert (data.format, asked(data.train[0]), said(data.train[0])) == (
        "preference",
        [("user", "Q")],
        ["x", "y"],
    )


SYSTEM, ASKED = {"role": "system", "content": "S"}, {"role": "user", "content": "Q"}


@pytest.mark.parametrize(
    ("prompt", "begin", "want"),
    [
        ([SYSTEM, ASKED], [ASKED], ["system", "user"]),
        ([ASKED], [SYSTEM, ASKED], ["system", "user"]),
        ([SYSTEM, ASKED], [SYSTEM, ASKED], ["system", "user"]),
        ([ASKED, {"role": "assistant", "content": "x"}], [ASKED], ["user"]),
        ("Q", [SYSTEM, ASKED], ["system", "user"]),
    ],
)
def test_sides_that_repeat_their_prompt_lose_it(read, prompt, begin, want):
    """A system message may stand on one side alone, and the prompt may be the chosen conversation."""
    sides = {
        side: [*begin, {"role": "assistant", "content": t}]
        for side, t in (("chosen", "x"), ("rejected", "y"))
    }
    (group,) = read([{"prompt": prompt, **sides}]).train
    assert ([role for role, _ in asked(group)], said(group)) == (want, ["x", "y"])
    assert all(c.turns == () for c in group.completions)


def test_sides_with_another_system_message_than_the_prompt_are_refused(read):
    sides = {
        side: [SYSTEM | {"content": "T"}, ASKED, {"role": "assistant", "content": t}]
        for side, t in (("chosen", "x"), ("rejected", "y"))
    }
    with pytest.raises(UserError, match="is not what the conversations beside it begin with"):
        read([{"prompt": [SYSTEM, ASKED], **sides}])


def test_parts_of_text_are_joined(read):
    parts = [{"type": "text", "text": "Capital of "}, {"type": "text", "text": "France?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Paris"}]
    assert asked(read([{"messages": turns}], "demonstrations").train[0]) == [("user", "Capital of France?")]


def test_ultrafeedback_as_it_is_published(read):
    answers = [
        {"response": a, "overall_score": s, "fine-grained_score": f, "model": m, "critique": "c"}
        for a, s, f, m in (("good", 8.0, 4.25, "one"), ("bad", 3.0, 2.0, "two"))
    ]
    row = {
        "source": "evol",
        "instruction": "Q",
        "models": ["one", "two"],
        "completions": answers,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }
    data = read([row])
    assert [said(g) for g in data.train] == [["good", "bad"]] and data.format == "ratings"


def test_a_solution_that_a_model_wrote_is_an_answer(read):
    row = {"problem": "2 + 3?", "generated_solution": "Five.", "expected_answer": "5"}
    data = read([row], "demonstrations")
    assert said(data.train[0]) == ["Five."] and data.unread == ("expected_answer",)


def test_helpsteer_attributes_are_scores(read):
    rows = [
        {"prompt": "Capital?", "response": answer, "helpfulness": score, "correctness": 4}
        for answer, score in (("Lyon", 1), ("Paris", 4))
    ]
    data = read(rows)
    assert said(data.train[0]) == ["Paris", "Lyon"]
    assert data.train[0].feedback[0].parts == {"helpfulness": 4.0, "correctness": 4.0}
    other = [r | {"correctness": 4 - r["helpfulness"]} for r in rows]
    assert said(read(other, map={"helpfulness": "correctness"}).train[0]) == ["Lyon", "Paris"]


@pytest.mark.parametrize(
    ("columns", "better"),
    [
        ({"better_response_id": 1, "safer_response_id": 0}, 1),
        ({"better_response_id": "0"}, 0),
        ({"better_response_id": 1.0}, 1),
    ],
)
def test_two_answers_with_a_choice(read, columns, better):
    row = {"prompt": "Capital?", "response_0": "zero", "response_1": "one", "is_response_0_safe": True}
    (group,) = read([row | columns]).train
    assert said(group)[0] == ["zero", "one"][better]
    assert {"safe": 1.0} in [{k: v for k, v in f.parts.items() if k == "safe"} for f in group.feedback]


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"answer_a": "x", "answer_b": "y", "winner": "b"}, ["y", "x"]),
        ({"response_a": "x", "response_b": "y", "winner": "model_a"}, ["x", "y"]),
        ({"response_1": "x", "response_2": "y", "preference_strength": -2}, ["x", "y"]),
        ({"response_1": "x", "response_2": "y", "preferred": "response_2"}, ["y", "x"]),
        ({"response_A": "x", "response_B": "y", "choice": "A"}, ["x", "y"]),
    ],
)
def test_two_answers_in_other_words(read, row, want):
    assert said(read([{"prompt": "Q", **row}]).train[0]) == want


@pytest.mark.parametrize(
    ("row", "want"),
    [
        # Kaggle's arena: lists written into text, one item per round
        (
            {"response_a": '["x"]', "response_b": '["y"]', "winner_model_a": 0, "winner_model_b": 1},
            ["y", "x"],
        ),
        ({"response_a": "x", "response_b": "y", "winner_model_a": 1, "winner_model_b": 0}, ["x", "y"]),
        ({"response_0": "x", "response_1": "y", "score_0": "1", "score_1": 3.5}, ["y", "x"]),
        ({"answer_a": "x", "answer_b": "y", "rating_a": 4, "rating_b": 2}, ["x", "y"]),
        ({"answer_a": "x", "answer_b": "y", "preference": "nan", "winner": "b"}, ["y", "x"]),
    ],
)
def test_two_answers_that_are_rated(read, row, want):
    prompt = '["Q"]' if str(row.get("response_a", "")).startswith("[") else "Q"
    data = read([{"prompt": prompt, "winner_tie": 0, **row}])
    assert said(data.train[0]) == want
    assert asked(data.train[0]) == [("user", "Q")] and "winner_tie" not in data.unread


def test_the_rounds_of_two_sides_are_conversations(read):
    row = {"prompt": ["Q", "And?"], "response_a": ["x", "xx"], "response_b": ["y", "yy"]}
    votes = {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}
    better = read([row | votes]).train[0].completions[0]
    assert [(m["role"], m["content"]) for m in better.turns] == [
        ("assistant", "y"),
        ("user", "And?"),
        ("assistant", "yy"),
    ]


@pytest.mark.parametrize("side", ["response_a", "response_b"])
def test_the_side_that_lacks_an_answer_is_named(read, side):
    """Kaggle's arena writes [null] where a model said nothing."""
    row = {"prompt": '["Q"]', "response_a": '["x"]', "response_b": '["y"]', side: "[null]"}
    with pytest.raises(UserError, match=f"field {side}` = .* is missing"):
        read([row | {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}], format="two_answers")


@pytest.mark.parametrize("absent", [None, "", "nan", "N/A", "None", "<NA>", float("nan")])
def test_a_rating_that_is_missing_gives_way_to_the_next(read, absent):
    entries = [
        {"response": "low", "overall_score": absent, "fine-grained_score": 1.5},
        {"response": "high", "overall_score": absent, "fine-grained_score": "4.5"},
    ]
    data = read([{"instruction": "Q", "completions": entries}])
    assert said(data.train[0]) == ["high", "low"] and data.unread == ()
    row = {"prompt": "Q", "chosen": "x", "rejected": "y", "score_chosen": absent, "score_rejected": 1}
    (group,) = read([row | {"chosen_rating": 2, "rejected_rating": 4}]).train
    assert said(group) == ["y", "x"]
    rows = [{"prompt": "Q", "completion": "x", "label": absent, "kto_tag": "true"}]
    (group,) = read(rows, "rollouts").train
    assert [f.score for f in group.feedback] == [1.0]


@pytest.mark.parametrize(
    ("empty", "filled"),
    [
        ("system", {"system_prompt": "Be brief."}),
        ("prompt", {"question": "Q"}),
        ("input", {"context": "About it."}),
        ("tools", {"functions": [{"name": "f", "parameters": {}}]}),
    ],
)
def test_a_column_that_is_empty_gives_way_to_the_next(read, empty, filled):
    row = {"question": "Q", "chosen": "x", "rejected": "y"} | filled
    (want,), (got,) = (read([r]).train for r in (row, row | {empty: ""}))
    assert (got.prompt.messages, got.prompt.text, got.prompt.tools) == (
        want.prompt.messages,
        want.prompt.text,
        want.prompt.tools,
    )


def test_an_empty_key_of_a_turn_gives_way_to_its_twin(read):
    asked_ = {"role": "", "from": "human", "content": "", "value": "Q"}
    answer = {"role": "assistant", "content": None, "value": "A"}
    (group,) = read([{"messages": [asked_, answer]}], "demonstrations").train
    assert (asked(group), said(group)) == ([("user", "Q")], ["A"])


def test_an_empty_thought_gives_way_to_the_next(read):
    turn = {"role": "assistant", "content": "A", "reasoning_content": "", "thinking": "Hm."}
    (group,) = read([{"messages": [{"role": "user", "content": "Q"}, turn]}], "demonstrations").train
    assert group.completions[0].turns[0]["reasoning_content"] == "Hm."


@pytest.mark.parametrize("key", ["images", "image_url", "audio", "videos"])
def test_a_picture_inside_a_turn_is_refused(read, key):
    turns = [{"role": "user", "content": "Where?", key: ["a.png"]}, {"role": "assistant", "content": "Here."}]
    with pytest.raises(UserError, match=f"messages\\[0\\].{key}.*which a text model cannot read"):
        read([{"messages": turns}], "demonstrations")
    turns[0][key] = [None]
    assert len(read([{"messages": turns, "images": [None]}], "demonstrations").train) == 1


def test_a_user_turn_that_asks_to_be_learned_is_named(read):
    turns = [{"role": "user", "content": "Q", "train": True}, {"role": "assistant", "content": "A"}]
    data = read([{"messages": turns}], "demonstrations")
    assert any("user turn marked to be learned" in line for line in data.said)
    turns[0]["train"] = False
    assert not read([{"messages": turns}], "demonstrations").said


def test_a_question_is_answered_in_its_own_words(read):
    rows = [{"question": "Capital?", "answer": "Paris is it."}, {"question": "2 + 3?", "answer": "5.0"}]
    data = read(rows, "demonstrations")
    assert [said(g) for g in data.train] == [["Paris is it."], ["5.0"]]
    assert [g.prompt.metadata["answer"] for g in data.train] == ["Paris is it.", "5"]


def test_a_rejected_answer_that_is_missing_is_none(read):
    (group,) = read([{"prompt": "Q", "chosen": "x", "rejected": ["y", None, "z"]}], "rollouts").train
    assert said(group) == ["x", "y", "z"]


def test_the_cells_of_a_table_hold_what_the_lines_of_a_file_hold(tmp_path):
    turn = {"content": "Paris", "role": "assistant"}
    late = [{"id": "1", "role": "user", "content": "Q"}, {"id": "2", "role": "assistant", "content": "A"}]
    tree = [
        {"text": "Paris.", "role": "assistant", "rank": 0, "replies": []},
        {"text": "Lyon.", "role": "assistant", "rank": 1, "replies": []},
    ]
    cases = [
        ({"prompt": "Q", "chosen": turn, "rejected": "Lyon"}, "rollouts"),
        ({"prompt": "Q", "chosen": "Paris", "rejected": ["Lyon", "Nice"]}, "rollouts"),
        (
            {
                "prompt": "Q",
                "chosen": "a",
                "rejected": ["b", "c"],
                "score_chosen": 3,
                "score_rejected": [1, 2],
            },
            "rollouts",
        ),
        ({"messages": late}, "demonstrations"),
        ({"prompt": "Q", "completion": late[1:]}, "demonstrations"),
        ({"prompt": "Q", "completion": "A", "chat_template_kwargs": {"x": 1}}, "demonstrations"),
        (
            {"input": {"messages": late[:1]}, "preferred_output": late[1:], "non_preferred_output": [turn]},
            "rollouts",
        ),
        ({"message_tree_id": "t", "prompt": {"text": "Q", "role": "prompter", "replies": tree}}, "rollouts"),
        ({"prompt": "Q", "chosen": "a", "rejected": ["b", None]}, "rollouts"),
        (
            {"prompt": "Q", "chosen": "a", "rejected": "b", "system": [], "images": [], "tools": [None]},
            "rollouts",
        ),
        (
            {"question": "Q", "best_answer": "a", "correct_answers": ["a"], "incorrect_answers": ["b"]},
            "rollouts",
        ),
        # What a model is to write may be JSON.
        ({"prompt": "Q", "chosen": '["Paris"]', "rejected": '["Lyon", "Nice"]'}, "rollouts"),
        ({"prompt": "Q", "completion": '{"city": "Paris"}'}, "demonstrations"),
        ({"prompt": "Q", "completion": '["Lyon", "Nice"]'}, "demonstrations"),
    ]
    for i, (row, shape) in enumerate(cases):
        found = []
        for name, write in (("rows.jsonl", as_lines), ("rows.csv", as_csv)):
            (tmp_path / str(i)).mkdir(exist_ok=True)
            path = tmp_path / str(i) / name
            write([row], path)
            found.append(load(DataSpec(path=str(path), heldout=0), shape).train)
        lines, cells = ([(g.prompt, g.completions, g.feedback) for g in groups] for groups in found)
        assert lines == cells, row


@pytest.mark.parametrize(
    "columns",
    [
        {"completions": [{"response": "low", "rank": 2}, {"response": "high", "rank": 1}]},
        {"responses": ["low", "none", "high"], "scores": [1, None, "5"]},
        {"completions": ["low", "high"], "ratings": [2, 4]},
        {"responses": ["low", "high"], "rewards": [-0.5, 1.5]},
        {"completions": ["low", "high"], "ranks": [2, 1]},
    ],
)
def test_numbers_beside_several_answers(read, columns):
    data = read([{"prompt": "Q", **columns}])
    assert said(data.train[0]) == ["high", "low"]
    assert data.unread == ()


def test_a_tie_between_two_answers_is_counted(read):
    rows = [
        {"prompt": f"Q{w}", "answer_a": "x", "answer_b": "y", "winner": w} for w in ("a", "tie (bothbad)")
    ]
    data = read(rows)
    assert (len(data.train), dict(data.skipped)) == (1, {"tie": 1})


def test_every_rejected_answer_stands_against_the_chosen_one(read):
    several = read([{"prompt": "Q", "chosen": "a", "rejected": ["b", "c"]}])
    columns = read([{"prompt": "Q", "chosen": "a", "rejected": "b", "rejected_2": "c"}])
    for data in (several, columns):
        assert [said(g) for g in data.train] == [["a", "b"], ["a", "c"]]
        assert (dict(data.skipped), data.unread) == ({}, ())


@pytest.mark.parametrize("names", [("chosen_score", "rejected_score"), ("score_chosen", "score_rejected")])
def test_scores_beside_the_sides_decide(read, names):
    rows = [
        {"prompt": f"Q{i}", "chosen": "a", "rejected": "b", names[0]: x, names[1]: y}
        for i, (x, y) in enumerate([(8, 2), ("7.5", 7.5), (None, 1), ("nan", "")])
    ]
    data = read(rows)
    assert [[f.score for f in g.feedback] for g in data.train] == [[8.0, 2.0], [1.0, 0.0], [1.0, 0.0]]
    assert dict(data.skipped) == {"tie": 1}


def test_a_response_without_a_score_is_a_demonstration(read):
    for row in (
        {"prompt": "Q", "response": "A"},
        {"question": "Q", "response": "A"},
        {"instruction": "Q", "response": "A"},
    ):
        group = read([row], "demonstrations").train[0]
        assert (asked(group), said(group)) == ([("user", "Q")], ["A"])


def test_an_answer_column_that_is_not_known_is_named_with_its_fix(read):
    with pytest.raises(UserError, match=r"(?s)not read: reply.*--map completion=reply"):
        read([{"prompt": "Q", "reply": "A"}], "demonstrations")


MISSING = [None, float("nan"), "nan", "NaN", "", " ", "None", "null", "N/A"]


@pytest.mark.parametrize("missing", MISSING)
def test_a_missing_score_is_unscored(read, missing):
    orders = [("high", "low", "none"), ("low", "none", "high"), ("none", "low", "high")]
    scores = {"high": 5.0, "low": "1", "none": missing}
    rows = [
        {"prompt": f"Q{i}", "completions": [{"response": a, "score": scores[a]} for a in order]}
        for i, order in enumerate(orders)
    ]
    assert [said(g) for g in read(rows).train] == [["high", "low"]] * 3
    assert [said(g) for g in read(rows, "demonstrations").train] == [["high"]] * 3
    assert [said(g) for g in read(rows, "ranked").train] == [["high", "low"]] * 3
    rows = [{"prompt": "Q", "response": a, "rating": s} for a, s in scores.items()]
    assert said(read(rows).train[0]) == ["high", "low"]


@pytest.mark.parametrize(
    ("label", "score"),
    [
        (0.0, 0),
        (1.0, 1),
        ("1.0", 1),
        ("False", 0),
        ("yes", 1),
        (True, 1),
        (0, 0),
        *((m, None) for m in MISSING),
    ],
)
def test_a_label_by_any_name(read, label, score):
    rows = [
        {"prompt": "Q", "completion": "A", "label": label},
        {"prompt": "P", "completion": "B", "label": 1},
    ]
    groups = read(rows, "rollouts").train
    assert groups[0].feedback[0].score == score


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "label": None,
        },
        {
            "messages": None,
            "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        },
        {
            "messages": [
                {"role": None, "content": None, "from": "human", "value": "a"},
                {"role": None, "content": None, "from": "gpt", "value": "b", "tool_calls": None},
            ]
        },
        {"prompt": None, "instruction": "a", "input": None, "output": "b", "system": None, "history": None},
    ],
)
def test_a_null_key_is_an_absent_key(read, row):
    group = read([row], "demonstrations").train[0]
    assert (asked(group), said(group)) == ([("user", "a")], ["b"])
    assert group.feedback[0].score is None


def test_a_null_prompt_is_an_implicit_one(read):
    sides = {
        side: [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]
        for side, text in (("chosen", "b"), ("rejected", "c"))
    }
    group = read([{"prompt": None, **sides}]).train[0]
    assert (asked(group), said(group)) == ([("user", "a")], ["b", "c"])


def test_turns_in_text_cells_are_turns(read, tmp_path):
    turns = lambda city: [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": city}]
    for write in (json.dumps, str):
        row = {"prompt": "Capital?", "chosen": write(turns("Paris")), "rejected": write(turns("Lyon"))}
        group = read([row]).train[0]
        assert (asked(group), said(group)) == ([("user", "Capital?")], ["Paris", "Lyon"])
    torn = json.dumps(turns("Paris"))[:-4]
    with pytest.raises(UserError, match="turns that cannot be read"):
        read([{"prompt": "Capital?", "chosen": torn, "rejected": "Lyon"}])


def test_json_that_is_an_answer_stays_one(read):
    row = {"prompt": "As JSON?", "completion": '[{"city": "Paris"}]'}
    assert said(read([row], "demonstrations").train[0]) == ['[{"city": "Paris"}]']


GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    "bad",
    [
        {"messages": []},
        {"messages": None},
        {"foo": 1},
        {},
        '{"messages": [{"role": "user", "con',
        "[1, 2]",
        '"text"',
        {"messages": [{"role": "user", "content": "half \ud83d"}, {"role": "assistant", "content": "b"}]},
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_row_is_located_and_can_be_skipped(read, bad, place):
    rows = [GOOD, GOOD]
    rows.insert(place, bad)
    with pytest.raises(UserError, match=f"rows.jsonl:{place + 1}"):
        read(rows, "demonstrations")
    data = read(rows, "demonstrations", on_bad_row="skip")
    assert (len(data.train), sum(data.skipped.values())) == (2, 1)


def test_half_a_character_is_named_with_its_field(read):
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "Peru? \ud83d", "chosen": "b", "rejected": "c"},
    ]
    with pytest.raises(UserError, match=r"rows.jsonl:2 field prompt.*half a character \(\\ud83d"):
        read(rows)


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9", "completion": "b"}\n')
    with pytest.raises(UserError, match=r"latin.jsonl:2 field prompt.*byte 0xe9"):
        load(DataSpec(path=str(path), heldout=0), "demonstrations")


def test_rows_of_one_file_may_lack_what_others_have(read):
    """A row without a side is a bad row, not a prompt; a row without a label is unlabelled."""
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(UserError, match="rows.jsonl:2 field rejected.*is missing"):
        read([pair, pair | {"rejected": None}])
    with pytest.raises(UserError, match="rows.jsonl:2 field chosen.*is missing"):
        read([pair, {"prompt": "x"}])
    labelled = {"prompt": "a", "completion": "b", "label": True}
    data = read([{"prompt": "a", "completion": "b"}, labelled], "unpaired")
    assert (len(data.train), dict(data.skipped)) == (1, {"no label": 1})


def test_a_system_message_stands_once(read):
    turns = [{"role": "system", "content": "Be brief."}, *GOOD["messages"]]
    assert asked(read([{"messages": turns, "system": "Be brief."}], "demonstrations").train[0])[0] == (
        "system",
        "Be brief.",
    )
    with pytest.raises(UserError, match="has a system message of its own"):
        read([{"messages": turns, "system": "Be long."}], "demonstrations")


@pytest.mark.parametrize("prompt", ["Capital?", [{"role": "user", "content": "Capital?"}]])
def test_sides_that_repeat_the_prompt(read, prompt):
    """UltraFeedback: a prompt beside two whole conversations."""
    turns = lambda city: [{"role": "user", "content": "Capital?"}, {"role": "assistant", "content": city}]
    group = read([{"prompt": prompt, "chosen": turns("Paris"), "rejected": turns("Lyon")}]).train[0]
    assert (asked(group), said(group)) == ([("user", "Capital?")], ["Paris", "Lyon"])
    assert [c.turns for c in group.completions] == [(), ()]
    with pytest.raises(UserError, match="is not what the conversations beside it begin with"):
        read([{"prompt": "Other?", "chosen": turns("Paris"), "rejected": turns("Lyon")}])


def test_the_fix_names_the_data_set_of_a_recipe(tmp_path):
    path = written(tmp_path / "rows.jsonl", ["{torn"])
    with pytest.raises(UserError, match=r"--set data.mine.on_bad_row=skip"):
        load(DataSpec(path=path), "pairs", "data.mine")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "shape", "format_", "count"),
    [
        ("llama_factory/dpo_en_demo.jsonl.gz", "pairs", "sharegpt_preference", 300),
        ("llama_factory/kto_en_demo.jsonl.gz", "unpaired", "conversations", 300),
        ("llama_factory/alpaca_en_demo.jsonl.gz", "demonstrations", "alpaca", 999),
        ("hh_harmless/pairs.jsonl.gz", "pairs", "hh", 1700),
        ("coconot/preference.jsonl.gz", "pairs", "preference", 927),
        ("gsm8k/train.jsonl.gz", "prompts", "question_answer", 7473),
        ("oasst/en_100_tree.jsonl.gz", "ranked", "oasst", 200),
        ("ifbench/test.jsonl.gz", "prompts", "prompt_only", 300),
    ],
)
def test_real_data_is_read_whole(name, shape, format_, count):
    path = REAL / name
    if not path.is_file():
        pytest.skip("the real data is not here")
    data = load(DataSpec(path=str(path), heldout=0, on_bad_row="skip"), shape)
    assert data.format == format_
    assert len(data.train) >= count


@pytest.mark.realdata
def test_real_chats_about_pictures_are_refused():
    path = REAL / "llama_factory" / "mllm_demo.json"
    if not path.is_file():
        pytest.skip("the real data is not here")
    with pytest.raises(UserError, match="holds images"):
        load(DataSpec(path=str(path), heldout=0), "demonstrations")


@pytest.mark.parametrize(
    ("row", "settings", "field"),
    [
        ({"prompt": "Once", "completion": " upon", "system": "Be brief."}, {}, "text"),
        ({"instruction": "Name it.", "output": "Paris."}, {}, "text"),
        ({"question": "2 + 3?", "history": [["Hi", "Hello"]], "response": "5"}, {}, "text"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, {}, "text"),
        ({"prompt": "Once", "completion": " upon"}, {"system": "Be brief."}, "system"),
    ],
)
def test_what_asks_in_turns_is_not_called_raw(read, row, settings, field):
    """`text: raw` says that no template is used; nothing is rendered by one in silence."""
    with pytest.raises(UserError, match="text: chat") as refused:
        read([row], "demonstrations", text="raw", **settings)
    assert refused.value.field == f"data.{field}"
    plain = [{"prompt": "Once", "completion": " upon", "system": ""}, {"text": "All of it."}]
    assert [g.prompt.text for g in read(plain, "demonstrations", text="raw").train] == ["Once", ""]


HELLO = [{"role": "user", "content": "Hi?"}]
YES, NO = ({"role": "assistant", "content": text} for text in ("Yes.", "No."))


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Hi?", "chosen_response": "Yes.", "rejected_response": "No."},
        {"prompt": "Hi?", "better": "Yes.", "worse": "No."},
        {"question": "Hi?", "preferred": "Yes.", "dispreferred": "No."},
        {"prompt": HELLO, "preferred_output": [YES], "non_preferred_output": [NO]},
        {"input": {"messages": HELLO, "tools": []}, "preferred_output": [YES], "non_preferred_output": [NO]},
        {"preferred": [*HELLO, YES], "dispreferred": [*HELLO, NO]},
        {"context": HELLO, "response1": "No.", "response2": "Yes.", "overall_preference": 2},
        {"context": HELLO, "response1": "Yes.", "response2": "No.", "overall_preference": "-1"},
        {"messages": HELLO, "response_a": "No.", "response_b": "Yes.", "winner": "model_b"},
        {"prompt": "Hi?", "completions": ["No.", "Yes."], "ranks": ["2", "1"]},
    ],
)
def test_the_better_and_the_worse_answer_by_any_name(read, row):
    data = read([row])
    (group,) = data.train
    best = max(range(2), key=lambda i: group.feedback[i].score)
    assert asked(group) == [("user", "Hi?")]
    assert (said(group)[best], sorted(said(group))) == ("Yes.", ["No.", "Yes."])
    assert data.unread == ()


@pytest.mark.parametrize("role", ["tool", "ipython", "tool_response", "tool_result", "observation"])
def test_what_a_tool_says_by_any_name_is_context(read, role):
    turns = [*HELLO, NO, {"role": role, "content": "42"}, YES]
    (group,) = read([{"messages": turns}], "demonstrations").train
    assert [t["role"] for t in group.completions[0].turns] == ["assistant", "tool", "assistant"]


@pytest.mark.parametrize("key", ["weight", "train", "training", "trainable", "loss", "loss_mask"])
@pytest.mark.parametrize("no", [0, "0", False, "false"])
def test_a_turn_that_is_not_to_be_learned_by_any_name(read, key, no):
    if key == "weight" and no in (False, "false"):
        return
    turns = [*HELLO, NO | {key: no}, *HELLO, YES]
    (group,) = read([{"messages": turns}], "demonstrations").train
    assert (said(group), group.prompt.messages[1].get("train")) == (["Yes."], False)


def test_a_refusal_in_its_own_key_is_an_answer(read):
    turns = [*HELLO, {"role": "assistant", "content": None, "refusal": "I cannot."}]
    assert said(read([{"messages": turns}], "demonstrations").train[0]) == ["I cannot."]


@pytest.mark.parametrize(("yes", "no"), [("good", "bad"), ("T", "F"), ("Yes", "No"), ("chosen", "rejected")])
def test_labels_in_words(read, yes, no):
    rows = [{"prompt": f"q{i}", "completion": "a", "label": label} for i, label in enumerate((yes, no))]
    assert [g.feedback[0].score for g in read(rows, "unpaired").train] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", json.dumps({"text": "x"}).encode("utf-16"), "UTF-16.*save it as UTF-8"),
        ("a.csv", "text\nx\n".encode("utf-16"), "UTF-16.*save it as UTF-8"),
        ("a.jsonl", '{"text": "caf\xe9"}\n'.encode("latin-1"), "not UTF-8: byte 0xe9 at character 4"),
        (
            "a.json",
            b'{"prompt": {"0": "q", "1": "r"}, "completion": {"0": "a", "1": "b"}}',
            "rows, not columns",
        ),
        ("a.json", b'{"prompt": ["q", "r"], "completion": ["a", "b"]}', "rows, not columns"),
        ("a.jsonl", b'{"prompt": 5, "completion": "a"}\n', "field prompt.*text or turns, found int"),
    ],
)
def test_a_file_that_is_no_data_says_what_it_is(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"(?is){problem}"):
        load(DataSpec(path=str(tmp_path / name), heldout=0), "demonstrations")


ASK, BEST, WORSE, WORST = (
    {"role": role, "content": text}
    for role, text in (("user", "p"), ("assistant", "a"), ("assistant", "b"), ("assistant", "c"))
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "a", "rejected_1": "b", "rejected_2": "c"},
        {"chosen": [ASK, BEST], "rejected_1": [ASK, WORSE], "rejected_2": [ASK, WORST]},
        {"chosen": [ASK, BEST], "rejected": [ASK, WORSE], "rejected_2": [ASK, WORST]},
        {"chosen": [ASK, BEST], "rejected": [[ASK, WORSE], [ASK, WORST]]},
        {"prompt": [ASK], "chosen": [BEST], "rejected": [[WORSE], [WORST]]},
        {"messages": [ASK], "chosen": BEST, "rejected-1": WORSE, "rejected-2": WORST},
    ],
)
def test_several_rejected_answers_in_every_form_of_a_pair(read, row):
    data = read([row])
    assert [asked(g) for g in data.train] == [[("user", "p")]] * 2
    assert [said(g) for g in data.train] == [["a", "b"], ["a", "c"]]
    assert data.unread == ()


def test_a_pair_that_its_scores_turn_round_is_named(read):
    rows = [
        {"prompt": f"p{i}", "chosen": "a", "rejected": "b", "score_chosen": i, "score_rejected": 3}
        for i in (1, 2, 5)
    ]
    data = read(rows)
    assert [said(g) for g in data.train] == [["b", "a"], ["b", "a"], ["a", "b"]]
    assert data.notes() == ["turned round because score_chosen is below score_rejected: 2 rows"]


def test_turns_after_the_last_answer_are_named(read):
    rows = [{"messages": [ASK, BEST, ASK]}, {"messages": [ASK, WORSE]}]
    assert read(rows, "demonstrations").notes() == [
        "turns after the last answer that is learned are left out: 1 row"
    ]


def test_an_empty_answer_within_a_conversation_is_not_taught(read):
    empty = {"role": "assistant", "content": " "}
    rows = [{"messages": [ASK, empty, ASK, BEST]}]
    with pytest.raises(UserError, match="teach to answer nothing"):
        read(rows, "demonstrations")
    marked = read([{"messages": [ASK, empty | {"weight": 0}, ASK, BEST]}], "demonstrations")
    assert said(marked.train[0]) == ["a"]


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        ({"id": 1, "prompt": "p", "chosen": "a", "bad": "b"}, "--map rejected=bad"),
        ({"message_id": "1", "prompt": "p", "good": "a", "bad": "b"}, r"--map chosen=\.\.\. .*: good, bad"),
    ],
)
def test_the_fix_names_what_is_lacking_and_a_column_that_may_hold_it(read, row, fix):
    with pytest.raises(UserError, match=fix):
        read([row])


@pytest.mark.parametrize("path", ["rows.jsonl", "no-such-owner/no-such-data"])
@pytest.mark.parametrize(("name", "key"), [("data", "data.path"), ("data.mine", "data.mine.path")])
def test_the_fix_of_a_missing_file_names_the_setting_of_a_recipe(monkeypatch, path, name, key):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=rf"--set {key}=FILE"):
        load(DataSpec(path=path), "pairs", name)


def test_the_fix_of_a_part_of_a_mixture_names_its_place(tmp_path):
    with pytest.raises(UserError, match=r"--set data\.parts\.0\.path=FILE"):
        load(DataSpec.model_validate([{"path": str(tmp_path / "rows.jsonl")}]), "pairs")


def test_scored_rows_with_columns_of_their_own_stay_prompts_of_their_own(read):
    rows = [
        {"prompt": "Q", "completion": c, "score": i, "tag": t} for i, (c, t) in enumerate(("ax", "by", "cx"))
    ]
    prompts = read(rows, "prompts").train
    assert [g.prompt.columns["tag"] for g in prompts] == ["x", "y", "x"]
    (group,) = read(rows, "rollouts").train
    assert said(group) == ["a", "b", "c"]


@pytest.mark.parametrize("names", [["bad", "good"], ["good", "bad"], ["True", "False"]])
def test_a_class_is_read_by_its_name(names):
    from datasets import ClassLabel, Dataset, Features, Value

    from kilter.api import make_data_spec

    features = Features(prompt=Value("string"), completion=Value("string"), label=ClassLabel(names=names))
    rows = {"prompt": ["P", "Q"], "completion": ["x", "y"], "label": names[:2]}
    data = Dataset.from_dict(rows, features=features)
    found = load(make_data_spec(data).model_copy(update={"heldout": 0.0}), "rollouts").train
    want = [float(n.lower() in ("good", "true")) for n in names]
    assert [g.feedback[0].score for g in found] == want
