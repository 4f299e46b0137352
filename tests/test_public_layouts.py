"""Rows as public data sets have them are read without `--map`. The rows are made up, their layouts are real."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.data.dataset import DataSpec, load
from kilter.data.export import write
from kilter.data.formats import formats
from kilter.data.row import Row
from kilter.data.turns import asked as turns_of_text
from kilter.errors import UserError
from test_data_commands import kilter  # noqa: F401
from test_file_types import as_csv, as_lines, as_parquet
from test_reading import asked, read, said  # noqa: F401

HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Capital of France?\n\nAssistant:"
TURNS = [("user", "Hi"), ("assistant", "Hello."), ("user", "Capital of France?")]


def scores(group):
    return [f.score for f in group.feedback]


def steps(group):
    return [*zip(group.completions[0].text.split("\n"), group.feedback[0].steps, strict=True)]


# HH's text as a prompt.


@pytest.mark.parametrize(
    ("beside", "shape"),
    [
        ({"chosen": " Paris.", "rejected": " Lyon."}, "pairs"),
        ({"chosen": HH + " Paris.", "rejected": HH + " Lyon."}, "pairs"),
        ({"completion": " Paris."}, "demonstrations"),
        ({"completion": " Paris.", "label": True}, "unpaired"),
        ({"response": " Paris.", "score": 1}, "rollouts"),
        ({"response_0": " Paris.", "response_1": " Lyon.", "better_response_id": 0}, "pairs"),
        ({"completions": [{"response": " Paris.", "rating": 2}]}, "rollouts"),
        ({}, "prompts"),
    ],
)
@pytest.mark.parametrize("end", ["", " ", "\n"])
def test_a_prompt_of_hh_text_becomes_turns(read, beside, shape, end):
    data = read([{"prompt": HH + end, **beside}], shape)
    (group,) = data.train
    assert asked(group) == TURNS
    assert said(group) == ["Paris.", "Lyon."][: len(said(group))]
    if beside.get("chosen", "")[:2] != "\n\n":
        assert sum("HH's text" in note for note in data.notes()) == 1


@pytest.mark.parametrize("column", ["prompt", "question", "instruction", "query"])
@pytest.mark.parametrize("system", [{}, {"system": "Be brief."}])
def test_hh_text_under_any_name_of_a_prompt(read, column, system):
    (group,) = read([{column: HH, "response": "Paris.", **system}], "demonstrations").train
    assert asked(group) == [*((role, text) for role, text in system.items()), *TURNS]


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(
    lambda text: text.strip() and "Human:" not in text and "Assistant:" not in text
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(WORDS, min_size=1, max_size=5).filter(lambda said: len(said) % 2),
    st.sampled_from(["", " ", "\n"]),
)
def test_any_dialogue_of_hh_text_is_its_turns(words, end):
    who = ["Human", "Assistant"]
    text = "".join(f"\n\n{who[i % 2]}: {said}" for i, said in enumerate(words)) + "\n\nAssistant:" + end
    roles = ["user", "assistant"]
    wanted = [(roles[i % 2], said.strip()) for i, said in enumerate(words)]
    assert [(m["role"], m["content"]) for m in turns_of_text(text)] == wanted
    assert turns_of_text(f"Look: {text}")[0]["content"] == f"Look: {text}"


@pytest.mark.parametrize(
    "text",
    [
        "What does\n\nHuman: mean, and\n\nAssistant:?",
        "Human: a word\n\nfor people",
        "\n\nHuman: Hi\n\nAssistant: Hello, and go on:",
        "\n\nHuman: \n\nAssistant:",
        "Explain 'Human:' and 'Assistant:' to me.",
    ],
)
def test_text_that_mentions_the_marks_stays_text(read, text):
    data = read([{"prompt": text, "chosen": "a", "rejected": "b"}])
    assert asked(data.train[0]) == [("user", text)] and not data.said


def test_raw_text_stays_hh_text(read):
    (group,) = read([{"prompt": HH, "completion": " Paris."}], "demonstrations", text="raw").train
    assert (group.prompt.text, said(group)) == (HH, [" Paris."])


# Rankings, ratings, comparisons.


def test_nectar(read):
    answers = [
        {"answer": a, "model": m, "rank": r} for a, m, r in [("Rome.", "c", 3.0), ("Paris.", "a", 1.0)]
    ]
    row = {
        "prompt": "\n\nHuman: Capital of France? \n\nAssistant: ",
        "answers": answers,
        "good_natured": True,
    }
    (group,) = read([row | {"turns": 1, "num_responses": 7, "source": ["web"]}], "ranked").train
    assert asked(group) == [("user", "Capital of France?")]
    assert (said(group), scores(group)) == (["Paris.", "Rome."], [-1.0, -3.0])
    assert [f.source for f in group.feedback] == ["a", "c"]


def test_answers_of_stack_exchange(read):
    answers = [{"text": "Bad.", "pm_score": 1, "selected": False}, {"text": "Good.", "pm_score": 5}]
    (group,) = read([{"qid": 1, "question": "Why?", "answers": answers}]).train
    assert (said(group), scores(group)) == (["Good.", "Bad."], [5.0, 1.0])


def webgpt(first, second, text="Why is the sky blue?"):
    question = {"dataset": "eli5", "id": "q1", "full_text": text}
    more = {"quotes_0": {"title": ["t"], "extract": ["e"]}, "tokens_1": {"prefix": [1], "completion": [2]}}
    return {
        "question": question,
        "answer_0": "Sea.",
        "score_0": first,
        "answer_1": "Air.",
        "score_1": second,
    } | more


def test_webgpt(read):
    data = read([webgpt(-0.25, 0.25), webgpt(0.0, 0.0, "And the sea?")])
    (group,) = data.train
    assert (asked(group), said(group)) == ([("user", "Why is the sky blue?")], ["Air.", "Sea."])
    assert (scores(group), dict(data.skipped)) == ([0.25, -0.25], {"tie": 1})
    assert data.unread == ("quotes_0", "tokens_1", "question.dataset")


def comparison(**change):
    post = {"id": "t3", "subreddit": "r/pets", "title": "Shoe", "post": "The dog ate it.", "site": None}
    two = [{"text": " A dog ate a shoe.", "policy": "a", "note": None}, {"text": " Shoes!", "policy": "b"}]
    more = {"batch": "b0", "split": "train", "extra": {"confidence": None}}
    return {"info": post, "summaries": two, "choice": 0, "worker": "w1"} | more | change


def test_summaries_are_compared(read):
    (group,) = read([comparison(choice=1)]).train
    (turn,) = asked(group)
    assert turn[1] == "SUBREDDIT: r/pets\n\nTITLE: Shoe\n\nPOST: The dog ate it.\n\nTL;DR:"
    assert (said(group), scores(group)) == ([" Shoes!", " A dog ate a shoe."], [1.0, 0.0])
    assert group.prompt.metadata["annotator"] == "w1"
    noted = comparison(info={"post": "p", "site": "s"}, summaries=[{"text": "a", "note": "n"}, {"text": "b"}])
    assert read([noted]).unread == ("batch", "split", "extra", "summaries[].note", "info.site")
    article = {"id": "c", "post": None, "title": "Storm", "article": "A storm came."}
    (group,) = read([comparison(info=article)]).train
    assert asked(group) == [("user", "TITLE: Storm\n\nARTICLE: A storm came.\n\nTL;DR:")]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"choice": 2}, "choice"),
        ({"summaries": [{"text": "a"}]}, "summaries"),
        ({"summaries": [{"text": "a"}, {"policy": "b"}]}, r"summaries\[1\].text"),
        ({"info": {"id": "x"}}, "info.post"),
    ],
)
def test_a_comparison_that_lacks_a_part_is_named(read, change, field):
    with pytest.raises(UserError, match=f"rows.jsonl:1 field {field}"):
        read([comparison(**change)])


def test_rated_summaries_of_a_post_are_one_group(read):
    post = {"id": "t3", "subreddit": "r/pets", "title": "Shoe", "post": "The dog ate it."}
    rows = [
        {"info": post, "summary": {"text": f"s{n}", "policy": "p", "axes": {"overall": n, "accuracy": None}}}
        for n in (2, 7)
    ]
    (group,) = read(rows).train
    assert (said(group), scores(group)) == (["s7", "s2"], [7.0, 2.0])


# Judged steps.


@pytest.mark.parametrize(
    ("label", "judged"),
    [
        (-1, [("a", 1.0), ("b", 1.0), ("c", 1.0)]),
        (0, [("a", 0.0)]),
        (1, [("a", 1.0), ("b", 0.0)]),
        (2, [("a", 1.0), ("b", 1.0), ("c", 0.0)]),
    ],
)
def test_processbench(read, label, judged):
    row = {"id": "m-1", "problem": "2 + 2?", "steps": ["a", "b", "c"], "final_answer_correct": label < 0}
    data = read([row | {"label": label, "generator": "m"}], "rollouts")
    (group,) = data.train
    assert (asked(group), steps(group)) == ([("user", "2 + 2?")], judged)
    assert group.feedback[0].score == float(label < 0)
    assert bool(data.said) == (label in (0, 1))


@pytest.mark.parametrize("label", [3, -2, 0.5, None, "x"])
def test_a_step_that_is_not_there_is_refused(read, label):
    good = {"problem": "2 + 2?", "steps": ["a", "b", "c"], "label": 1}
    with pytest.raises(UserError, match="rows.jsonl:2 field label"):
        read([good, good | {"label": label}], "rollouts")


def rated(text, rating):
    return {"text": text, "rating": rating, "flagged": None}


def prm(*steps, **question):
    label = {"steps": [*steps], "total_time": 1, "finish_reason": "solution"}
    asks = {"problem": "2 + 2?", "ground_truth_answer": "4", "pre_generated_steps": ["a"]} | question
    return {"labeler": "l1", "generation": 9, "question": asks, "label": label}


def step(*completions, chosen=0, human=None):
    return {"completions": [*completions], "human_completion": human, "chosen_completion": chosen}


def test_prm800k(read):
    rows = [
        prm(
            step(rated("x", -1), rated("a", 0), chosen=1),
            step(rated("b", 1)),
            step(rated("c", -1), rated("d", 1), chosen=None),
            step(rated("e", 1)),
            problem="wrong",
        ),
        prm(step(rated("x", -1), chosen=None, human={"text": "h"}), step(rated("b", 1)), problem="mended"),
        prm(step(rated("a", 1)), step(rated("b", None)), problem="given up"),
        prm(problem="nothing"),
    ]
    data = read(rows, "rollouts")
    judged = {asked(g)[0][1]: steps(g) for g in data.train}
    assert judged == {
        "wrong": [("a", 1.0), ("b", 1.0), ("c", 0.0)],
        "mended": [("h", 1.0), ("b", 1.0)],
        "given up": [("a", 1.0)],
    }
    assert data.train[0].prompt.metadata == {"annotator": "l1", "answer": "4"}
    assert data.said == {
        "alternatives to the step that was chosen are left out": 2,
        "a neutral step (rating 0) counts as right": 1,
        "steps from the first unrated one on are left out": 1,
        "rows without a rated step are left out": 1,
    }
    # A key inside of a column does not travel to reward functions.
    assert "question.pre_generated_steps" in data.unread and data.carried == ("generation",)


def test_math_shepherd(read):
    row = {"input": "2 + 2? Step 1: a ки\nStep 2: b\nc ки", "label": "2 + 2? Step 1: a +\nStep 2: b\nc -"}
    (group,) = read([row | {"task": "GSM8K"}], "rollouts").train
    assert asked(group) == [("user", "2 + 2?")]
    assert (group.feedback[0].steps, said(group)) == ((1.0, 0.0), ["Step 1: a\nStep 2: b\nc"])


# Conversations and calls.


def test_rounds_are_turns(read):
    rounds = [{"input": "Hi", "output": "Hello."}, {"input": "Capital of France?", "output": "Paris."}]
    for value in (rounds, json.dumps(rounds)):
        data = read([{"source": "web", "conversation": value}], "demonstrations")
        (group,) = data.train
        turns = [*asked(group), *((t["role"], t["content"]) for t in group.completions[0].turns)]
        assert turns == [*TURNS, ("assistant", "Paris.")]
        assert data.unread == ("source",)


def test_a_list_of_texts_is_turns_by_turns(read):
    data = read([{"conversations": ["Hi", "Hello."], "source": "web"}], "demonstrations")
    assert (asked(data.train[0]), said(data.train[0])) == ([("user", "Hi")], ["Hello."])
    assert data.said == {"the texts of conversations are read as turns, the user's first": 1}


def test_the_last_round_may_wait_for_its_answer(read):
    rounds = [{"input": "Hi", "output": "Hello."}, {"input": "Capital of France?", "output": None}]
    row = {"conversation": rounds, "chosen": "Paris.", "rejected": "Lyon."}
    assert asked(read([row]).train[0]) == TURNS


def test_calls_are_learned(read):
    tool, call = {"name": "weather", "parameters": {}}, {"name": "weather", "arguments": {"city": "Rome"}}
    for hold in (json.dumps, list):
        row = {"id": 0, "query": "Warm?", "answers": hold([call]), "tools": hold([tool])}
        (group,) = read([row], "demonstrations").train
        assert [c["function"] for c in group.completions[0].turns[0]["tool_calls"]] == [call]
        assert [t["function"]["name"] for t in group.prompt.tools] == ["weather"]


LAYOUTS = ["answers", "rounds", "webgpt", "summary_comparisons", "summary_ratings"]
LAYOUTS += ["processbench", "prm800k", "math_shepherd", "function_calls", "glaive", "inputs_targets"]
LAYOUTS += ["worked_solution", "swift_preference"]

WRITERS = {"jsonl": as_lines, "parquet": as_parquet, "csv": as_csv}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_public_layout_is_found_in_its_file(tmp_path, name, suffix):
    """The same group, whatever the file type."""
    row, path = formats.get(name).example, tmp_path / f"rows.{suffix}"
    WRITERS[suffix]([row], path)
    data = load(DataSpec(path=str(path), heldout=0), "rollouts")
    assert (data.format, len(data.train)) == (name, 1)
    (wanted,) = formats.get(name).groups(Row(row))
    assert asked(data.train[0]) == [
        (m["role"], m["content"]) for m in wanted.prompt.messages or to_turns(wanted)
    ]
    assert data.train[0].completions == wanted.completions
    assert data.train[0].feedback == wanted.feedback


def to_turns(group):
    return turns_of_text(group.prompt.text)


@pytest.mark.parametrize("name", [*LAYOUTS, "oasst"])
def test_a_public_layout_becomes_rows_of_trl(tmp_path, name):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(formats.get(name).example) + "\n")
    groups = load(DataSpec(path=str(path), heldout=0), "prompts", learned=False).train
    write(tmp_path / "trl.jsonl", groups, "trl", "prompts")


# Ratings as labels.


def rating(score, n=0, **more):
    return {"prompt": f"Question {n}?", "response": f"Answer {n} {score}.", **more, "score": score}


RATED = {
    "score": [{"prompt": f"q{n}", "response": "a", "score": n} for n in range(1, 6)],
    "HelpSteer": [{"prompt": f"q{n}", "response": "a", "helpfulness": n} for n in range(5)],
    "conversation": [
        {
            "messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}],
            "rating": str(n),
        }
        for n in range(1, 6)
    ],
    "reward": [{"prompt": f"q{n}", "response": "a", "score": n / 10 - 0.2} for n in range(5)],
}


@pytest.mark.parametrize("name", RATED)
def test_ratings_are_labels_from_a_threshold_on(read, name):
    """Every rating of 1 to 5 is above 0, and none of them says that an answer is good."""
    rows = RATED[name]
    with pytest.raises(
        UserError, match=r"(?s)data.threshold.*--data.threshold \S+ \(in a recipe --set data.thr"
    ) as e:
        read(rows, "unpaired")
    first = float(str(e.value).split("--data.threshold ")[1].split()[0])
    data = read(rows, "unpaired", threshold=first)
    values = [float(r.get("score", r.get("rating", r.get("helpfulness")))) for r in rows]
    assert [scores(g)[0] for g in data.train] == [float(v >= first) for v in values]
    assert {scores(g)[0] for g in data.train} == {0.0, 1.0}


@pytest.mark.parametrize("pair", [(0, 1), (-1, 1), (1, 1)])
def test_ratings_of_two_values_are_labels(read, pair):
    data = read([rating(s, n) for n, s in enumerate(pair)], "unpaired")
    assert [scores(g)[0] > 0 for g in data.train] == [s > 0 for s in pair]


def test_a_threshold_judges_every_answer_of_a_prompt(read):
    """Without one the best and the worst are taken, and labels beside ratings stay what they are."""
    rows = [rating(s) for s in (1, 4, 5)]
    assert [scores(g)[0] for g in read(rows, "unpaired").train] == [1.0, 0.0]
    assert [scores(g)[0] for g in read(rows, "unpaired", threshold=4).train] == [0.0, 1.0, 1.0]
    sides = {"prompt": "a", "chosen": "b", "rejected": "c"}
    graded = sides | {"prompt": "d", "score_chosen": 8, "score_rejected": 6}
    assert [scores(g)[0] for g in read([graded], "unpaired", threshold=5).train] == [1.0, 1.0]
    assert [scores(g)[0] for g in read([sides, graded], "unpaired", threshold=7).train] == [1.0, 0.0] * 2
    # Nothing that it could judge: it is refused.
    for rows in ([{"prompt": "a", "completion": "b", "label": True}], [sides]):
        with pytest.raises(UserError, match="`data.threshold` = 4.0 has no effect: the data tells"):
            read(rows, "unpaired", threshold=4)


@pytest.mark.parametrize("shape", ["pairs", "unpaired"])
def test_a_margin_needs_ratings(read, shape):
    """One between sides without a rating would be 0 or 1 throughout."""
    sides = [{"prompt": f"q{n}", "chosen": "b", "rejected": "c"} for n in range(4)]
    with pytest.raises(UserError, match=r"`data.pairs.min_margin` = 0.5 has no effect: the data tells"):
        read(sides, shape, pairs={"min_margin": 0.5})
    graded = [row | {"score_chosen": 8, "score_rejected": 6 + n} for n, row in enumerate(sides)]
    assert len(read(graded, shape, pairs={"min_margin": 2}).train) == (1 if shape == "pairs" else 2)


def test_the_threshold_is_an_option_where_it_is_asked_for(kilter, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(rating(s, s)) + "\n" for s in range(1, 6)))
    code, text = kilter("data", "peek", path, "--shape", "unpaired")
    assert code == 2 and "--data.threshold 4" in text
    code, text = kilter("data", "peek", path, "--shape", "unpaired", "--data.threshold", "4", "-n", "5")
    assert code == 0 and (text.count("binary 1"), text.count("binary 0")) == (2, 3)
    code, text = kilter("data", "peek", path, "--shape", "pairs", "--threshold", "4")
    assert code == 2 and "--shape unpaired" in text
    out = tmp_path / "out.jsonl"
    code, _ = kilter("data", "convert", path, out, "--shape", "unpaired", "--threshold", "4", "--to", "trl")
    assert (
        code == 0
        and [json.loads(x)["label"] for x in out.read_text().splitlines()] == [False] * 3 + [True] * 2
    )


def test_advice_on_ratings_names_a_threshold(tmp_path):
    from kilter.advice.facts import measure
    from kilter.advice.rules import suggest

    path = tmp_path / "rows.jsonl"
    for values, first in (((1, 2, 3, 4, 5), 4.0), ((0, 1, 1), None)):
        path.write_text("".join(json.dumps(rating(s, n)) + "\n" for n, s in enumerate(values)))
        spec = DataSpec(path=str(path), heldout=0)
        kto = next(s for s in suggest(measure(spec)) if s.method == "kto")
        assert kto.data == ({} if first is None else {"threshold": first})
        labels = {scores(g)[0] for g in load(spec.model_copy(update=kto.data), "unpaired").train}
        assert labels == {0.0, 1.0}


# Columns by the names that public sets give them.

TOLD = {"role": "user", "content": "Capital of France?"}


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", "input": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."},
        {"question": "Capital of France?", "response_j": "Paris.", "response_k": "Lyon."},
        {"context": [TOLD], "original_response": "Lyon.", "edited_response": "Paris.", "feedback": ["no"]},
        {"trajectory": [TOLD], "chosen": "Paris.", "rejected": "Lyon."},
        {"messages": [TOLD, {"role": "assistant", "content": "Paris."}], "rejected_response": "Lyon."},
        {
            "messages": [TOLD, {"role": "assistant", "content": "Paris."}],
            "rejected_messages": [TOLD, {"role": "assistant", "content": "Lyon."}],
        },
        {"prompt": "Capital of France?", "response_1": "Paris.", "response_2": "Lyon.", "winner": "model_a"},
        {"question": "Capital of France?", "response_A": "Lyon.", "response_B": "Paris.", "label": "B>A"},
        {"question": "Capital of France?", "response_A": "Paris.", "response_B": "Lyon.", "label": "A>>B"},
        {"question": "Capital of France?", "response_A": "Paris.", "response_B": "Lyon.", "label": "B<A"},
    ],
)
def test_a_pair_by_other_names(read, row):
    (group,) = read([row]).train
    assert (asked(group)[-1], said(group)) == (("user", "Capital of France?"), ["Paris.", "Lyon."])


def test_reasoning_that_both_answers_go_on_from(read):
    row = {
        "prompt": "2 + 2?",
        "initial_reason_steps": "Let us see.\nStep 1:",
        "chosen": " 4",
        "rejected": " 5",
    }
    data = read([row])
    (group,) = data.train
    assert asked(group) == [("user", "2 + 2?"), ("assistant", "Let us see.\nStep 1:")]
    assert (group.prompt.begun, said(group), data.unread) == (True, [" 4", " 5"], ())


def test_a_prompt_that_is_not_that_of_its_conversations_names_a_way(read):
    turns = [[TOLD, {"role": "assistant", "content": city}] for city in ("Paris.", "Lyon.")]
    row = {"prompt": "a label of the row", "chosen": turns[0], "rejected": turns[1]}
    with pytest.raises(UserError, match="--format implicit_preference"):
        read([row])
    (group,) = read([row], format="implicit_preference").train
    assert (asked(group), said(group)) == ([("user", "Capital of France?")], ["Paris.", "Lyon."])


def test_a_definition_goes_before_the_inputs(read):
    row = {"definition": "Translate.", "inputs": "chat", "targets": "cat", "id": "t1"}
    assert asked(read([row], "demonstrations").train[0]) == [("user", "Translate.\n\nchat")]


def test_equal_answers_of_judgebench_are_a_tie(read):
    row = {"question": "q", "response_A": "a", "response_B": "b", "label": "A=B"}
    other = {"question": "p", "response_A": "a", "response_B": "b", "label": "A<B"}
    assert dict(read([row, other]).skipped) == {"tie": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"input": "Capital of France?", "output": "Paris."},
        {"input": [TOLD], "output": "Paris.", "reasoning": "on", "license": "x"},
        {"inputs": "Capital of France?", "targets": "Paris.", "language": "en"},
        {"context": [TOLD], "response": "Paris.", "feedback": ["yes"]},
        {"problem": "Capital of France?", "solution": "Paris.", "answer": "Paris", "level": 1},
        {"question": "Capital of France?", "solution": "Paris.", "answer": 4},
        {"chat": "USER: Capital of France?\n\n\nASSISTANT: Paris. <|endoftext|>"},
        {"messages": HH.partition("Hello.\n\n")[2] + " Paris."},
    ],
)
def test_a_demonstration_by_other_names(read, row):
    (group,) = read([row], "demonstrations").train
    assert (asked(group), said(group)) == ([("user", "Capital of France?")], ["Paris."])
    assert group.completions[0].turns == ()


def test_a_prompt_that_holds_its_own_answer_is_not_asked(read):
    """A template filled with all of an Alpaca row stands beside the row's own columns."""
    row = {"instruction": "Add.", "input": "2, 2", "output": "It is 4."}
    filled = f"### Instruction:\nAdd.\n\n### Input:\n2, 2\n\n### Output:\n{row['output']}"
    data = read([row | {"prompt": filled}], "demonstrations")
    assert (asked(data.train[0]), data.unread) == ([("user", "Add.\n\n2, 2")], ("prompt",))


def test_a_mapping_of_labels_is_no_label(read):
    turns = [TOLD, {"role": "assistant", "content": "Paris."}]
    for row in ({"conversations": turns}, {"prompt": "Capital of France?", "completion": "Paris."}):
        data = read([row | {"label": {"ability": ["geography"]}}], "demonstrations")
        assert (said(data.train[0]), data.unread) == (["Paris."], ("label",))


def test_ratings_of_both_sides_by_another_name(read):
    row = {"instruction": "Q", "chosen_response": "a", "rejected_response": "b"}
    (group,) = read([row | {"chosen_avg_rating": 4.5, "rejected_avg_rating": 2}]).train
    assert scores(group) == [4.5, 2.0]


def test_a_worked_solution_is_learned_and_its_answer_checked_against(read):
    row = {"problem": "2 + 2?", "solution": "Two and two make 4.", "answer": "4", "source": "web"}
    for shape in ("demonstrations", "prompts"):
        for learned in (True, False):
            group = read([row, row | {"problem": "none", "solution": ""}], shape).train[0]
            assert group.prompt.metadata["answer"] == "4", learned
            assert group.prompt.columns["solution"] == row["solution"]
    assert len(read([row, row | {"problem": "none", "solution": ""}], "prompts").train) == 2
    # GSM8K's answer works the problem out itself.
    gsm = {"question": "2 + 2?", "solution": "4", "answer": "Two and two.\n#### 4"}
    assert said(read([gsm], "demonstrations").train[0]) == [gsm["answer"]]


def test_calls_and_their_answers_in_glaive(read):
    chat = "USER: Warm?\n\n\nASSISTANT: <functioncall> {}\n<|endoftext|>\n\n\nFUNCTION RESPONSE: 20\n\n\n"
    row = {"system": "SYSTEM: Be kind.", "chat": f"{chat}ASSISTANT: It is 20. <|endoftext|>\n\n\n"}
    (group,) = read([row], "demonstrations").train
    assert asked(group) == [("system", "Be kind."), ("user", "Warm?")]
    turns = [(t["role"], t["content"]) for t in group.completions[0].turns]
    assert turns == [("assistant", "<functioncall> {}"), ("tool", "20"), ("assistant", "It is 20.")]


@pytest.mark.parametrize("hold", [list, json.dumps])
def test_questions_in_turns_with_an_answer_to_check_against_are_prompts(read, hold):
    row = {"messages": hold([TOLD]), "ground_truth": "Paris", "dataset": "cities"}
    (group,) = read([row], "prompts").train
    assert asked(group) == [("user", "Capital of France?")]
    assert group.prompt.columns["ground_truth"] == "Paris" and group.prompt.columns["dataset"] == "cities"
    # A conversation with an answer is one to learn from.
    whole = row | {"messages": [TOLD, {"role": "assistant", "content": "Paris."}]}
    assert said(read([whole], "demonstrations").train[0]) == ["Paris."]


def test_answers_that_nobody_judged_are_no_ranking(read):
    for answers in (["Paris", "paris"], [{"text": "Paris", "answer_start": 3}]):
        (group,) = read([{"prompt": "Capital of France?", "answers": answers}], "prompts").train
        assert group.completions == ()


def test_messages_of_openassistant_become_their_trees(read):
    def message(name, parent, role, text, rank=None, **more):
        noted = {"message_tree_id": "m", "lang": "en", "deleted": False} | more
        return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank} | noted

    rows = [
        message("m", None, "prompter", "Capital of France?"),
        message("a", "m", "assistant", "Lyon.", 1),
        message("b", "m", "assistant", "Paris.", 0.0),
        message("gone", "m", "assistant", "Rome.", 2, deleted=True),
        message("c", "b", "prompter", "Sure?"),
        message("e", "c", "assistant", "Yes.", 0),
        message("d", "c", "assistant", "No.", 1),
        message("x", "nobody", "assistant", "Alone.", 0),
    ]
    tree = {
        "message_tree_id": "m",
        "prompt": {
            **rows[0],
            "replies": [
                {**rows[1]},
                {**rows[2], "replies": [{**rows[4], "replies": [rows[5], rows[6]]}]},
                rows[3],
            ],
        },
    }
    data = read(rows, "ranked")
    assert data.format == "oasst_messages" and data.unread == ("lang",)
    assert [said(g) for g in data.train] == [["Paris.", "Lyon."], ["Yes.", "No."]]
    assert asked(data.train[1])[-2:] == [("assistant", "Paris."), ("user", "Sure?")]
    for before, after in zip(read([tree], "ranked").train, data.train, strict=True):
        assert (before.prompt, before.completions, before.feedback) == (
            after.prompt,
            after.completions,
            after.feedback,
        )
    with pytest.raises(UserError, match="rows.jsonl:2 field role.*unknown role"):
        read([rows[0], rows[1] | {"role": "nobody"}], "ranked")


def test_a_row_that_lacks_its_instruction_does_not_ask_by_its_input(read):
    good = {"instruction": "Translate.", "input": "chat", "output": "cat"}
    with pytest.raises(UserError, match="rows.jsonl:2 field instruction"):
        read([good, {"input": "chien", "output": "dog"}], "demonstrations")


@pytest.mark.parametrize("context", [[{"title": "a"}], '[{"a": 1, "a": 2}]', "text", {"a": 1}])
def test_a_context_that_is_no_conversation_does_not_ask(read, context):
    with pytest.raises(UserError, match="known format"):
        read([{"context": context, "response": "x"}], "demonstrations")


@pytest.mark.parametrize("column", ["messages", "answers", "conversation"])
def test_a_text_that_names_a_key_twice_is_a_bad_row_and_no_crash(read, column):
    twice = '[{"role": "user", "content": "a", "content": "b", "rank": 1}]'
    with pytest.raises(UserError, match="rows.jsonl:1"):
        read([{column: twice, "answer": "x"}], "demonstrations")


# Hints.


def hint(read, rows, shape):
    with pytest.raises(UserError) as error:
        read(rows, shape)
    return str(error.value)


@pytest.mark.parametrize(
    ("row", "shape", "names"),
    [
        (
            {"problem": "2 + 2?", "level": "Level 1", "type": "Algebra", "solution": "Two and two make 4."},
            "demonstrations",
            {"completion": "solution"},
        ),
        (
            {"question": "2 + 2?", "final_answer": "4", "topic": "sums", "r1_solution_1": "Two and two, 4."},
            "demonstrations",
            {"completion": "r1_solution_1"},
        ),
        (
            {"prompt": "How?", "response": "So.", "category": {"hate": False}, "is_safe": True},
            "unpaired",
            {"label": "is_safe"},
        ),
        ({"prompt": "Hi?", "response": "So.", "model": "x", "stars": 4}, "ranked", None),
        (
            {"items": [TOLD, {"role": "assistant", "content": "Paris."}]},
            "demonstrations",
            {"messages": "items"},
        ),
        ({"asks": [TOLD]}, "prompts", {"prompt": "asks"}),
    ],
)
def test_a_hint_that_is_printed_works(read, row, shape, names):
    rows = [row, {k: f"{v} Again" if isinstance(v, str) and " " in v else v for k, v in row.items()}]
    text = hint(read, rows, shape)
    if names is None:
        assert "--map" not in text
        return
    (column,) = names.items()
    assert f"--map {column[0]}={column[1]} (in a recipe map: {{{column[0]}: {column[1]}}})" in text
    assert read(rows, shape, map=names).train


@pytest.mark.parametrize("column", ["is_safe", "correct"])
def test_answers_that_a_column_calls_bad_are_told_where_they_are_learned(read, column):
    """The column may speak of the prompt as well, so that a person decides."""
    rows = [{"prompt": f"How {n}?", "response": "So.", column: n > 1, "long": False} for n in range(6)]
    (told,) = [note for note in read(rows, "demonstrations").notes() if "although" in note]
    assert told.startswith(f"learned although {column} is false (--map label={column} ")
    assert told.endswith(": 2 rows")
    mapped = read(rows, "demonstrations", map={"label": column})
    assert len(mapped.train) == 4
    assert mapped.notes() == ["left out: 2 rejected by its label", "not read: long"]
    for shape in ("prompts", "unpaired"):
        names = {"label": column} if shape == "unpaired" else {}
        assert not any("although" in note for note in read(rows, shape, map=names).notes())


def test_a_score_is_hinted_at_where_it_ranks(read):
    rows = [{"prompt": "Hi?", "response": f"So {n}.", "stars": n} for n in (1, 3)]
    assert "--map score=stars" in hint(read, rows, "ranked")
    assert scores(read(rows, "ranked", map={"score": "stars"}).train[0]) == [3.0, 1.0]


def test_a_score_of_single_answers_is_hinted_at_where_it_makes_pairs(read):
    rows = [{"prompt": "Hi?", "response": f"So {n}.", "reward": n} for n in (1, 3)]
    assert "--map score=reward" in hint(read, rows, "pairs")
    assert said(read(rows, map={"score": "reward"}).train[0]) == ["So 3.", "So 1."]


def test_a_hint_that_would_be_a_guess_names_the_columns(read):
    text = hint(read, [{"user_input": "Say hi to me", "model_output": "Hi to you", "lang": "en"}], "prompts")
    assert "--map prompt=... --map completion=... (in a recipe map: {...})" in text
    assert "from the columns of text: user_input, model_output." in text
    text = hint(
        read, [{"problem": "2 + 2?", "answer": "4", "positive": "It is 4.", "negative": "It is 5."}], "pairs"
    )
    assert "--map chosen=... --map rejected=..." in text and "positive, negative" in text


@pytest.mark.parametrize("end", ["", "\n<extra_id_1>Assistant\n", "\n<extra_id_1>Assistant"])
@pytest.mark.parametrize("begin", ["", "<extra_id_1>User\n"])
@pytest.mark.parametrize(
    "beside",
    [{"response": "Paris."}, {"response_1": "Paris.", "response_2": "Lyon.", "preference_strength": -2}],
)
def test_several_turns_of_helpsteer_are_turns(read, begin, beside, end):
    prompt = f"{begin}Hi\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\nCapital of France?{end}"
    found = read([{"prompt": prompt, "helpfulness": 4, **beside}], "rollouts")
    assert asked(found.train[0]) == TURNS
    assert any("HelpSteer" in note for note in found.notes())


@pytest.mark.parametrize(
    "text",
    ["What is <extra_id_1>User\n?", "Hi\n<extra_id_1>Assistant\nHello.", "A\n<extra_id_1>User\nB"],
)
def test_text_that_mentions_the_marks_of_helpsteer_stays_text(read, text):
    (group,) = read([{"prompt": text, "response": "Paris.", "helpfulness": 4}], "rollouts").train
    assert asked(group) == [("user", text)]


def test_rounds_of_xtuner_have_a_system_message_and_answers_that_are_not_learned(read):
    rounds = [
        {"system": "Be brief.", "input": "Hi", "output": "Hello.", "output_with_loss": False},
        {"input": "Capital of France?", "output": "Paris.", "output_with_loss": True},
    ]
    found = read([{"conversation": rounds}], "demonstrations")
    (group,) = found.train
    assert asked(group) == [("system", "Be brief."), *TURNS]
    assert group.prompt.messages[2]["train"] is False
    assert said(group) == ["Paris."]
    assert found.unread == ()


@pytest.mark.parametrize("key", ["train_detail", "training_detail"])
def test_a_turn_of_which_a_part_is_learned_is_refused(read, key):
    detail = [{"begin_offset": 0, "end_offset": 3, "train": False}]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No. Hello.", key: detail}]
    with pytest.raises(UserError, match=rf"messages\[1\].{key}.*learned as a whole"):
        read([{"messages": turns}], "demonstrations")
    turns[1][key] = []
    assert said(read([{"messages": turns}], "demonstrations").train[0]) == ["No. Hello."]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Capital of France?", "solutions": '["print(1)"]', "input_output": "{}", "url": "u"},
        {"question": "Capital of France?", "tests": ["assert f() == 1"]},
        {"text": "Capital of France?", "code": "print(1)", "test_list": ["assert f() == 1"]},
        {"messages": [{"role": "user", "content": "Capital of France?"}], "reference_answer": "Paris"},
        {"context_messages": [{"role": "user", "content": "Capital of France?"}], "answer": "Paris"},
    ],
)
def test_questions_with_tests_or_a_reference_are_prompts(read, row):
    (group,) = read([row], "prompts").train
    assert asked(group) == TURNS[-1:]
    assert group.prompt.columns.keys() >= row.keys() - {"question", "text", "messages", "context_messages"}


def test_the_context_of_a_pair_by_openrlhf_s_name_is_its_prompt(read):
    chosen, rejected = ([{"role": "assistant", "content": city}] for city in ("Paris.", "Lyon."))
    row = {"context_messages": [{"role": "user", "content": "Capital of France?"}]}
    (group,) = read([{**row, "chosen": chosen, "rejected": rejected}]).train
    assert (asked(group), said(group)) == (TURNS[-1:], ["Paris.", "Lyon."])


def test_a_text_alone_asks_a_model_nothing(tmp_path):
    """Who samples answers needs prompts: text without one is counted, and refused where nothing else is left."""
    path = tmp_path / "rows.jsonl"
    texts = [{"text": f"Paris is the capital of France, no. {i}."} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    with pytest.raises(UserError, match=r"(?s)4 without a prompt.*Fix: Give prompts"):
        load(DataSpec(path=str(path), heldout=0), "prompts")
    assert len(load(DataSpec(path=str(path), heldout=0), "prompts", learned=False).train) == 4
    assert len(load(DataSpec(path=str(path), heldout=0), "demonstrations").train) == 4


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"Prompt": "Hi there?", "Chosen": "Hi to you.", "Rejected": "Go away."}, "pairs"),
        ({"INSTRUCTION": "Say hi.", "Input": "to me", "Output": "Hi to you."}, "demonstrations"),
        ({"Messages": [TOLD, {"role": "assistant", "content": "Paris."}]}, "demonstrations"),
        ({" prompt": "Hi there?", "completion ": "Hi to you."}, "demonstrations"),
    ],
)
def test_known_names_in_other_spellings_are_hinted_at(read, row, shape):
    text = hint(read, [row], shape)
    names = {column.strip().lower(): column for column in row}
    assert [ours for ours, theirs in names.items() if f"--map {ours}={theirs}" not in text] == [], text
    assert read([row], shape, map=names).train
