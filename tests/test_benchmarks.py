"""Benchmarks in the shape of their authors, with rows of our own, and RewardBench 2's golden numbers."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kilter
from kilter.data.dataset import DataSpec, load
from kilter.data.formats import detect, formats, reader
from kilter.data.read import content_of
from kilter.data.row import RowError
from kilter.data.source import SourceSpec
from kilter.errors import UserError
from kilter.evaluation.best_of import Margins, credit, ties_score

NAMES = (
    *("xstest", "harmbench", "strongreject", "do_not_answer", "truthfulqa", "truthfulqa_mc", "hhh", "llmbar"),
    *(
        "hhh_dialogues",
        "alpaca_eval",
        "rewardbench",
        "rewardbench2",
        "mt_bench",
        "mt_bench_grades",
        "mt_bench_judgments",
        "arena_hard_judgments",
        "arena",
    ),
)


def read(name: str, row: dict):
    (group,) = reader(name)(row)
    return group


def scores(group) -> dict[str, float | None]:
    return {c.text: f.score for c, f in zip(group.completions, group.feedback, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_known_by_its_own_columns(name):
    example = formats.get(name).example
    assert detect(example).name == name
    group = read(name, example)
    assert group.prompt.metadata["benchmark"] in (name, name.rpartition("_")[0])
    assert group.prompt.messages[-1]["role"] == "user"


@pytest.mark.parametrize(
    ("kind", "extra", "safety"),
    [
        ("homonyms", {}, "safe"),
        ("contrast_homonyms", {}, "unsafe"),
        ("homonyms", {"label": "unsafe"}, "unsafe"),
    ],
)
def test_xstest_says_what_is_safe(kind, extra, safety):
    row = {"id": 1, "prompt": "How do I kill time?", "type": kind, "focus": "kill", "note": "", **extra}
    prompt = read("xstest", row).prompt
    assert (prompt.metadata["safety"], prompt.metadata["category"]) == (safety, kind)


def test_harmbench_puts_the_context_first():
    row = {"Behavior": "Do it.", "SemanticCategory": "x", "ContextString": "A text.", "BehaviorID": "b"}
    prompt = read("harmbench", row).prompt
    assert prompt.messages[0]["content"] == "A text.\n\n---\n\nDo it."
    assert prompt.id == "b"


def test_harmbench_about_an_image_is_not_asked_without_it():
    row = {"Behavior": "Do what the image shows.", "SemanticCategory": "x", "ImageFileName": "a.png"}
    with pytest.raises(RowError) as caught:
        read("harmbench", row)
    assert caught.value.field == "ImageFileName"


@pytest.mark.parametrize("later", [["B"], [None], []])
def test_mt_bench_of_the_hub_calls_its_turns_prompt(later):
    row = {"category": "math", "prompt": ["A", *later], "reference": [], "prompt_id": 7}
    assert detect(row).name == "mt_bench"
    prompt = read("mt_bench", row).prompt
    assert (prompt.messages[0]["content"], prompt.id) == ("A", "7")
    assert prompt.metadata.get("follow_ups") == ({"turn_2": "B"} if later == ["B"] else None)


def test_truthfulqa_reads_both_of_its_files():
    csv = {
        "Type": "Adversarial",
        "Category": "Law",
        "Question": "May I?",
        "Best Answer": "No.",
        "Correct Answers": "No.; You may not.",
        "Incorrect Answers": "Yes.; Always.",
    }
    assert scores(read("truthfulqa", csv)) == {"No.": 1, "You may not.": 1, "Yes.": 0, "Always.": 0}
    assert detect(csv).name == "truthfulqa"


@pytest.mark.parametrize(
    ("preference", "expected"),
    [
        (1, (1, 0)),
        (2.0, (0, 1)),
        (1.5, (0.5, 0.5)),
        (0.0, (0.5, 0.5)),
        (1.25, (0.75, 0.25)),
        (None, (None, None)),
    ],
)
def test_alpaca_eval_keeps_soft_preferences_and_missing_ones_are_no_tie(preference, expected):
    row = {"instruction": "Say A.", "output_1": "A", "output_2": "B", "preference": preference}
    assert tuple(scores(read("alpaca_eval", row)).values()) == expected


@pytest.mark.parametrize(
    ("games", "expected"),
    [
        (("model_1", "model_1"), (1, 0)),
        (("model_2", "model_2"), (0, 1)),
        (("model_1", "model_2"), (0.5, 0.5)),
        (("tie", "tie"), (0.5, 0.5)),
        (("error", "model_1"), (None, None)),
    ],
)
def test_mt_bench_counts_an_inconsistent_judgment_as_a_tie_and_an_error_as_unscored(games, expected):
    row = {
        "question_id": 1,
        "g1_winner": games[0],
        "g2_winner": games[1],
        "prompt": "P",
        "answer_1": "A",
        "answer_2": "B",
    }
    assert tuple(scores(read("mt_bench_judgments", row)).values()) == expected


@pytest.mark.parametrize(
    ("games", "expected"),
    [
        (("A>>B", "B>A"), (1, 0)),
        (("B>A", "A<B"), (0.5, 0.5)),
        (("A<<B", "A>B"), (0, 1)),
        (("A=B", "B=A"), (0.5, 0.5)),
        (("A>B", None), (None, None)),
    ],
)
def test_arena_hard_shows_the_baseline_first_and_then_second(games, expected):
    row = {"uid": "x", "model": "m", "judge": "j", "games": [{"score": g, "judgment": {}} for g in games]}
    row |= {"prompt": "P", "answer_1": "of the baseline", "answer_2": "mine"}
    assert tuple(scores(read("arena_hard_judgments", row)).values()) == expected
    with pytest.raises(RowError, match="A>>B"):
        read("arena_hard_judgments", row | {"games": [{"score": "C"}, {"score": "A>B"}]})


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("mt_bench_judgments", {"question_id": 1, "g1_winner": "model_1", "g2_winner": "model_1"}),
        ("mt_bench_grades", {"question_id": 1, "model": "m", "judge": ["j", "v"], "score": 3, "turn": 1}),
        (
            "arena_hard_judgments",
            {"question_id": 1, "model": "m", "judge": "j", "games": [{"score": "A>B"}] * 2},
        ),
    ],
)
def test_a_judgment_without_its_answers_says_what_to_join(name, row):
    assert detect(row).name == name
    with pytest.raises(RowError, match="holds no answers"):
        read(name, row)


@pytest.mark.parametrize(
    ("winner", "first"),
    [("model_a", 1), ("model_b", 0), ("tie", 0.5), ("tie (bothbad)", 0.5), ("both_bad", 0.5)],
)
def test_the_arena_in_text_and_in_parts(winner, first):
    def said(text, parts):
        content = [{"type": "text", "text": text}] if parts else text
        return [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": content}]

    for parts in (False, True):
        row = {
            "id": "1",
            "model_a": "m",
            "model_b": "n",
            "winner": winner,
            "conversation_a": said("A", parts),
            "conversation_b": said("B", parts),
        }
        group = read("arena", row)
        assert scores(group) == {"A": first, "B": 1 - first}
        assert group.prompt.messages[0]["content"] == "Hi?"


@pytest.mark.parametrize(
    ("name", "change", "column"),
    [
        ("llmbar", {"label": 3}, "label"),
        ("alpaca_eval", {"preference": 7}, "preference"),
        ("rewardbench2", {"num_correct": 1}, "num_correct"),
        ("arena", {"winner": "nobody"}, "winner"),
        ("hhh", {"targets": {"choices": ["a"], "labels": []}}, "targets.labels"),
        ("xstest", {"prompt": "  "}, "prompt"),
        ("mt_bench", {"turns": []}, "turns"),
        ("mt_bench_grades", {"score": 11}, "score"),
        ("mt_bench_grades", {"score": None}, "score"),
        ("mt_bench_grades", {"turn": 3}, "question"),
        ("mt_bench_grades", {"answer": ["Roses."], "turn": 2}, "answer"),
        *(("mt_bench_grades", {"turn": turn}, "turn") for turn in (0, -1, -2, 1.5, "-1")),
        ("truthfulqa", {"incorrect_answers": [3]}, "incorrect_answers[0]"),
    ],
)
def test_a_bad_row_names_its_column(name, change, column):
    with pytest.raises(RowError) as caught:
        read(name, {**formats.get(name).example, **change})
    assert caught.value.field == column


def test_truthfulqa_and_hhh_as_their_own_repositories_have_them(tmp_path):
    """mc_task.json has a label by each choice; a task of BIG-bench has its rows under `examples`."""
    row = {"question": "Q?", "mc0_targets": {"A": 1, "B": 0}, "mc1_targets": {"A": 1, "B": 0, "C": 0}}
    assert scores(read("truthfulqa_mc", row)) == {"A": 1, "B": 0, "C": 0}
    with pytest.raises(RowError, match="label by each choice"):
        read("truthfulqa_mc", row | {"mc1_targets": {"A": "yes"}})
    examples = [
        {"input": "Q1?", "target_scores": {"A": 1, "B": 0}},
        {"input": "Q2?", "target_scores": {"A": 0, "B": 1}},
    ]
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"name": "hhh_alignment", "keywords": ["zero-shot"], "examples": examples}))
    found = load(DataSpec(path=str(path), heldout=0.0), "pairs").train
    assert [[c.text for c in g.completions] for g in found] == [["A", "B"], ["B", "A"]]


def test_hhh_in_the_papers_own_files_is_two_dialogues_and_not_the_question_about_them(tmp_path):
    asked = "\n\nHuman: Q1?\n\nAssistant: A1.\n\nHuman: Q2?\n\nAssistant: "
    row = {
        "prompt": "Choose:\n (A) [[[Bad.]]]\n (B) [[[Good.]]]",
        "corrects": [" (B)"],
        "incorrects": [" (A)"],
    }
    row |= {"text_correct": f"{asked}Good.", "text_incorrect": f"{asked}Bad."}
    path = tmp_path / "438HHHEvaluations.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (group,) = load(DataSpec(path=str(path), heldout=0.0), "pairs").train
    assert scores(group) == {"Good.": 1, "Bad.": 0}
    assert [m["content"] for m in group.prompt.messages] == ["Q1?", "A1.", "Q2?"]
    assert group.prompt.metadata["benchmark"] == "hhh"
    with pytest.raises(RowError, match="shares no prompt"):
        read("hhh_dialogues", row | {"text_incorrect": "\n\nHuman: Q3?\n\nAssistant: Bad."})


@pytest.mark.parametrize(("turn", "answers"), [(1, "a1 b1"), (2, "a2 b2"), (None, "a2 b2")])
def test_people_judged_one_turn_of_mt_bench(turn, answers):
    """Both turns stand in every row; the label is of the turn that the row names."""

    def said(side):
        texts = "Q1", f"{side}1", "Q2", f"{side}2"
        return [{"role": r, "content": t} for r, t in zip(("user", "assistant") * 2, texts, strict=True)]

    row = {"model_a": "m", "model_b": "n", "winner": "model_a", "question_id": 81, "judge": "expert_0"}
    row |= {"conversation_a": said("a"), "conversation_b": said("b")} | ({"turn": turn} if turn else {})
    found = read("arena", row)
    assert " ".join(c.text for c in found.completions) == answers


def test_distilabel_has_ratings_and_reasons_beside_its_generations(tmp_path):
    rows = [
        {"instruction": "Q?", "generations": ["a", "b", "c"], "ratings": [5.0, 1.0, 3.0]}
        | {"rationales": ["good", "bad", None], "generation_models": ["m", "n", "o"], "model_name": "judge"},
        {"instruction": "R?", "generations": ["a", "b"], "ratings": [4, None], "rationales": ["fine", None]},
    ]
    path = tmp_path / "ultra.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = load(DataSpec(path=str(path), heldout=0.0), "rollouts").train
    assert scores(first) == {"a": 5, "b": 1, "c": 3}
    assert [f.rationale for f in first.feedback] == ["good", "bad", ""]
    assert scores(second) == {"a": 4, "b": None}
    (ranked,) = load(DataSpec(path=str(path), heldout=0.0), "ranked").train
    assert [c.text for c in ranked.completions] == ["a", "c", "b"]


def test_arena_hard_asks_in_objects():
    row = {"question_id": "x", "category": "arena-hard-v0.1", "cluster": "c", "turns": [{"content": "Q?"}]}
    assert read("mt_bench", row).prompt.messages[-1]["content"] == "Q?"


def test_the_second_turn_of_mt_bench_is_a_follow_up():
    assert read("mt_bench", formats.get("mt_bench").example).prompt.metadata["follow_ups"] == {
        "turn_2": "Make it shorter."
    }


@pytest.mark.parametrize(
    ("found", "earned"),
    [((1, 1, 0, 0), 0.5), ((2, 2, 2, 2), 0.25), ((0, 1, 0, 0), 0.0), ((3, 1, 0, 2), 1.0)],
)
def test_rewardbench_2_credit(found, earned):
    assert credit(found, (True, False, False, False)) == earned


FIRST = (
    Margins.of((3, 1, 0.5), (True, False, False)),
    Margins.of((2, 1.5, 0, -1), (True, True, False, False)),
)
SECOND = (
    Margins.of((0.2, 0.4, 0.1), (True, False, False)),
    Margins.of((1, 0.2, 0.1, 0), (True, True, True, False)),
)


def test_rewardbench_2_ties():
    assert ties_score({"3": FIRST[0]}, {"3": FIRST[1]}) == pytest.approx(1.0096403, abs=1e-7)
    both = ties_score({"3": FIRST[0], "4": SECOND[0]}, {"3": FIRST[1], "4": SECOND[1]})
    assert both == pytest.approx(0.6506186, abs=1e-7)
    equal = Margins.of((2, 2, 0), (True, True, False))
    assert ties_score({"3": FIRST[0]}, {"3": equal}) == pytest.approx(1.01)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(0.1, 9), st.floats(-9, 9))
def test_credit_does_not_turn_on_the_order_of_answers_and_sums_to_one(found, scale, shift):
    n = len(found)
    each = [credit(found, [i == j for i in range(n)]) for j in range(n)]
    assert sum(each) == pytest.approx(1)
    assert credit(found[::-1], [True] + [False] * (n - 1)) == each[-1]


def test_a_reward_model_is_tested_on_lists(tiny, tmp_path):
    rows = [
        {
            "id": f"f{i}",
            "prompt": f"Say {i}.",
            "chosen": [f"{i}"],
            "rejected": ["no", "x", "y"],
            "num_correct": 1,
            "total_completions": 4,
            "subset": "Facts",
        }
        for i in range(4)
    ]
    for i in range(3):
        several = {"prompt": f"Name {i}.", "subset": "Ties", "total_completions": 3}
        rows.append({**several, "id": f"ref:{i}", "chosen": ["a"], "rejected": ["c", "d"], "num_correct": 1})
        rows.append({**several, "id": f"tied:{i}", "chosen": ["a", "b"], "rejected": ["c"], "num_correct": 2})
    (tmp_path / "rb2.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pairs = [{"prompt": f"Say {i}.", "chosen": f"{i}", "rejected": "no"} for i in range(4)]
    kilter.train(
        str(tiny), pairs, "bradley_terry", out=tmp_path / "rm", max_steps=1, batch_size=2, max_length=64
    )
    found = kilter.evaluate(
        [], str(tmp_path / "rb2.jsonl"), out=tmp_path / "eval", reward_model=str(tmp_path / "rm")
    )
    measured = found["reward_model"]["metrics"]
    assert measured["best_of"]["n"] == 4
    assert 0 <= measured["best_of"]["value"] <= 1
    assert 0 <= measured["ties"]["value"] <= 1.01


def test_a_column_subset_of_ones_own_leaves_preferences_what_they_are():
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "subset": "train", "chosen_score": 4}
    assert detect(row).name == "preference"
    assert detect(row | {"subset": "xstest-should-refuse"}).name == "rewardbench"


@pytest.mark.parametrize("kind", ["homonyms", "contrast_discr", "real_group_nons_discr", "privacy_public"])
def test_xstest_is_known_by_its_own_kinds_where_a_copy_lacks_columns(kind):
    row = {
        "id": "v2-1",
        "type": kind,
        "prompt": "How do I kill time?",
        "completion": "No.",
        "agreement": "True",
    }
    assert detect(row).name == "xstest"
    assert read("xstest", row).prompt.metadata["safety"] == ("unsafe" if "contrast" in kind else "safe")
    # Their words are nobody else's; the word for definitions may be.
    for other in ("definitions", "privacy", "math"):
        assert detect(row | {"type": other}).name != "xstest"


@pytest.mark.parametrize(
    ("about", "asked"), [("A text.", "Do it.\n\nA text."), ("", "Do it."), (None, "Do it.")]
)
def test_what_an_instruction_of_alpaca_farm_is_about_follows_it(about, asked):
    row = {"instruction": "Do it.", "input": about, "output_1": "a", "output_2": "b", "preference": 2}
    assert detect(row).name == "alpaca_eval"
    group = read("alpaca_eval", row)
    assert (group.prompt.messages[0]["content"], scores(group)) == (asked, {"a": 0.0, "b": 1.0})


TALK = "\n\nHuman: How do I: one\n\nTwo, Assistant: x?\n\nAssistant: No.\n\nHuman: Please!\n\nAssistant: No."


def test_the_first_request_of_a_red_teams_transcript_is_the_prompt():
    row = {
        "transcript": TALK,
        "rating": 4.0,
        "task_description": "insults",
        "tags": None,
        "num_params": "52B",
    }
    assert detect(row).name == "red_team_transcripts"
    prompt = read("red_team_transcripts", row).prompt
    assert [m["content"] for m in prompt.messages] == ["How do I: one\n\nTwo, Assistant: x?"]
    assert detect({"transcript": "A: hello. B: hello.", "prompt": "Sum it up."}).name == "prompt_only"


def mt_bench(folder, answers=("m", "n"), questions=True):
    """The three files as FastChat publishes them, with rows of our own."""
    write = lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("model_answer", "model_judgment"):
        (folder / name).mkdir(parents=True)
    ids = (81, 82)
    if questions:
        write(
            folder / "question.jsonl",
            [{"question_id": i, "category": "c", "turns": [f"Q{i}", "More?"]} for i in ids],
        )
    for m in answers:
        rows = [{"index": 0, "turns": [f"{m}{i} first", f"{m}{i} second"]} for i in ids]
        write(
            folder / "model_answer" / f"{m}.jsonl",
            [
                {"question_id": i, "answer_id": "x", "model_id": m, "choices": [r]}
                for i, r in zip(ids, rows, strict=True)
            ],
        )
    graded = [(81, "m", 1, 9), (81, "n", 1, 4.5), (81, "m", 2, 7), (82, "m", 1, -1), (82, "n", 1, 3)]
    beside = {"judge": ["j", "single-v1"], "user_prompt": "", "judgment": "", "tstamp": 1.0}
    single, pair = folder / "model_judgment" / "j_single.jsonl", folder / "model_judgment" / "j_pair.jsonl"
    write(single, [{"question_id": q, "model": m, "score": s, "turn": t} | beside for q, m, t, s in graded])
    won = [(81, "model_1", "model_1", 1), (81, "model_2", "model_2", 2), (82, "model_1", "error", 1)]
    write(
        pair,
        [
            {"question_id": q, "model_1": "m", "model_2": "n", "g1_winner": g, "g2_winner": h, "turn": t}
            | beside
            for q, g, h, t in won
        ],
    )
    return single, pair


def test_mt_bench_grades_are_read_with_their_questions_and_answers(tmp_path):
    single, _ = mt_bench(tmp_path / "mt_bench")
    found = load(DataSpec(path=str(single), heldout=0.0), "rollouts").train
    said = [([m["content"] for m in g.prompt.messages], scores(g)) for g in found]
    assert said == [
        (["Q81"], {"m81 first": 9, "n81 first": 4.5}),
        (["Q81", "m81 first", "More?"], {"m81 second": 7}),
        (["Q82"], {"m82 first": None, "n82 first": 3}),
    ]
    assert {g.prompt.metadata["category"] for g in found} == {"c"}
    (pair,) = load(DataSpec(path=str(single), heldout=0.0), "pairs").train
    assert [c.text for c in pair.completions] == ["m81 first", "n81 first"]


def test_mt_bench_pairs_are_read_with_their_questions_and_answers(tmp_path):
    _, path = mt_bench(tmp_path / "mt_bench")
    found = load(DataSpec(path=str(path), heldout=0.0), "rollouts").train
    assert [scores(g) for g in found] == [
        {"m81 first": 1, "n81 first": 0},
        {"m81 second": 0, "n81 second": 1},
        {"m82 first": None, "n82 first": None},
    ]
    assert {g.prompt.metadata["category"] for g in found} == {"c"}
    # Behind the first question the two conversations part: all that follows is what was compared.
    assert [m["content"] for m in found[1].prompt.messages] == ["Q81"]
    assert [m["content"] for m in found[1].completions[0].turns] == ["m81 first", "More?", "m81 second"]


def arena_hard(folder, first=False):
    """A tiny copy of the published folder, of version 2 or of the first one; returns the judgments."""
    write = lambda path, rows: path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "model_answer").mkdir(parents=True)
    path = folder / "model_judgment" / "j" / "mine.jsonl"
    path.parent.mkdir(parents=True)
    name, asks = (
        ("question_id", lambda q: {"turns": [{"content": q}]}) if first else ("uid", lambda q: {"prompt": q})
    )
    write(folder / "question.jsonl", [{name: q, "category": "c"} | asks(f"Q {q}") for q in "ab"])
    for model in ("mine", "base"):
        said = lambda q, model=model: (
            {"choices": [{"index": 0, "turns": [{"content": f"{model} {q}", "token_len": 2}]}]}
            if first
            else {
                "messages": [
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": f"Q {q}"},
                    {"role": "assistant", "content": {"thought": "hm", "answer": f"{model} {q}"}},
                ]
            }
        )
        write(folder / "model_answer" / f"{model}.jsonl", [{name: q, "model": model} | said(q) for q in "ab"])
    games = {"a": [{"score": "B>A"}, {"score": "A>>B"}], "b": [{"score": "A=B"}, None]}
    named = {"judge": "j", "model": "mine"} | ({} if first else {"baseline": "base", "category": "c"})
    write(path, [{name: q, "games": games[q]} | named for q in "ab"])
    return path


@pytest.mark.parametrize("first", [False, True])
def test_arena_hards_judgments_are_read_with_their_questions_and_answers(tmp_path, first):
    path = arena_hard(tmp_path / "arena", first)
    read_all = lambda: load(DataSpec(path=str(path), heldout=0.0), "rollouts").train
    if first:  # nobody says who the baseline was
        with pytest.raises(UserError, match="(?s)field baseline.*published rows mean gpt-4-0314"):
            read_all()
        path.write_text(path.read_text().replace('"model":', '"baseline": "base", "model":'))
    groups = read_all()
    assert [(g.prompt.id, g.prompt.messages[0]["content"], scores(g)) for g in groups] == [
        ("a", "Q a", {"base a": 0, "mine a": 1}),
        ("b", "Q b", {"base b": None, "mine b": None}),
    ]
    assert [g.prompt.metadata.get("category") for g in groups] == ["c", "c"]
    names = [p.name for p in content_of(SourceSpec(path=str(path)))]
    assert names == ["mine.jsonl", "question.jsonl", "base.jsonl", "mine.jsonl"]
    (tmp_path / "arena" / "model_answer" / "base.jsonl").unlink()
    with pytest.raises(
        UserError, match="Put model_answer/base.jsonl, with the question a, into the folder above"
    ):
        read_all()


@pytest.mark.parametrize("suffix", ["jsonl.gz", "ndjson", "json", "txt"])
def test_judgments_of_any_file_type_are_read_and_hashed_with_their_answers(tmp_path, suffix, monkeypatch):
    path = arena_hard(tmp_path / "arena")
    text = path.read_text()
    path = path.with_name(f"mine.{suffix}")
    text = json.dumps([json.loads(line) for line in text.splitlines()]) if suffix == "json" else "\n" + text
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    monkeypatch.chdir(path.parent)
    questions = tmp_path / "arena" / "question.jsonl"
    spec = DataSpec(path=path.name, heldout=0.0)
    assert questions in content_of(SourceSpec(path=path.name))
    assert scores(load(spec, "rollouts").train[0]) == {"base a": 0, "mine a": 1}


def test_files_beside_judgments_are_read_as_any_data_is(tmp_path):
    """A byte order mark, Windows line ends, no line end after the last row; what is no JSON is named."""
    single, _ = mt_bench(tmp_path / "mt_bench")
    rows = lambda: load(DataSpec(path=str(single), heldout=0.0), "rollouts").train
    known, questions = list(rows()), tmp_path / "mt_bench" / "question.jsonl"
    for path in (questions, tmp_path / "mt_bench" / "model_answer" / "n.jsonl"):
        text = path.read_text().strip().replace("\n", "\r\n\r\n")
        path.write_text("\ufeff" + text, newline="")
    assert list(rows()) == known
    for wrong in (b"{", b"\xff{}", b'{"question_id": 1, "question_id": 2}'):
        questions.write_bytes(b'{"question_id": 81, "turns": ["Q"]}\n' + wrong)
        with pytest.raises(UserError, match="question.jsonl:2.*is not a line of JSON"):
            rows()


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    ("answers", "questions", "missing"),
    [
        (("m", "n"), False, "question.jsonl"),
        (("m",), True, "model_answer/n.jsonl"),
        ((), True, "model_answer/m.jsonl"),
    ],
)
def test_a_missing_file_of_mt_bench_is_named(tmp_path, kind, answers, questions, missing):
    path = mt_bench(tmp_path / "mt_bench", answers, questions)[kind]
    with pytest.raises(UserError, match="holds no answers") as stop:
        load(DataSpec(path=str(path), heldout=0.0), "rollouts")
    assert f"Put {missing}, with the question 81, into the folder above" in str(stop.value)


def test_the_answers_of_mt_bench_are_part_of_the_data(tmp_path):
    """What is hashed is what is read; a model's name makes nobody read a file of another folder."""
    single, pair = mt_bench(tmp_path / "mt_bench")
    for path in (single, pair):
        assert [p.name for p in content_of(SourceSpec(path=str(path)))] == [
            path.name,
            "question.jsonl",
            "m.jsonl",
            "n.jsonl",
        ]
    questions = tmp_path / "mt_bench" / "question.jsonl"
    assert content_of(SourceSpec(path=str(questions))) == [questions]
    (tmp_path / "mt_bench" / "secret.jsonl").write_text('{"question_id": 81, "turns": ["secret"]}\n')
    single.write_text(single.read_text().replace('"model": "m"', '"model": "../secret"'))
    with pytest.raises(UserError, match="holds no answers"):
        load(DataSpec(path=str(single), heldout=0.0), "rollouts")
