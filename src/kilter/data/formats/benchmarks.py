"""Benchmarks as their authors publish them. Their prompts carry a category, and whether they are safe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kilter.data.formats.ask import (
    CONVERSATIONS,
    PROMPTS,
    answer_of,
    completion_of,
    name_answers,
    shared_turns,
    text_of,
)
from kilter.data.formats.registry import data_format
from kilter.data.judgments import id_of
from kilter.data.row import Row, RowError, is_missing, listed, number, unpacked, without_missing
from kilter.data.turns import dialogue, turns
from kilter.types import PLAIN, Completion, Feedback, Group, Message, Prompt

SUBSETS = re.compile(r"alpacaeval|mt-bench|llmbar|xstest|refusals|donotanswer|math-prm|hep-")
"""How RewardBench's subsets begin; a column subset of anybody else is no sign of it."""

BENCHMARK = "benchmark"
"""In the metadata of a prompt: the format that it was read from."""


def _asks(text: str, name: str, category: Any = None, **noted: Any) -> Prompt:
    """One user turn, with what the benchmark says of it."""
    known = {"category": str(category)} if not is_missing(category) else {}
    metadata = {BENCHMARK: name, "suite": True, PLAIN: True, **known, **noted}
    return Prompt(messages=(Message(role="user", content=text),), metadata=metadata)


def _asked(row: Row, column: str) -> str:
    """The text of a prompt. Raises RowError where it is missing or empty."""
    text = text_of(row.need(column), column)
    row.ask(column)
    if not text.strip():
        raise RowError(column, "is empty")
    return text


def _texts(row: Row, column: str) -> list[str]:
    """Answers in a list, also one written out, or in one text between semicolons. Raises RowError."""
    value = row.need(column)
    value = unpacked(value) if isinstance(value, str) else value
    if isinstance(value, str):
        return [part.strip() for part in value.split(";") if part.strip()]
    found = enumerate(listed(value, column, "texts"))
    return [text_of(v, f"{column}[{i}]") for i, v in found if v is not None]


def _scored(prompt: Prompt, answers: Sequence[tuple[str, float]]) -> Group:
    """Answers with their scores; of equal texts the first one counts."""
    kept = dict(reversed(answers))
    ordered = [(text, kept[text]) for text in dict.fromkeys(text for text, _ in answers)]
    return Group(
        prompt, tuple(Completion(text) for text, _ in ordered), tuple(Feedback(score) for _, score in ordered)
    )


KINDS = re.compile(
    r"(?:contrast_)?(?:homonyms|figurative_language|safe_targets|safe_contexts|historical_events)"
    r"|contrast_(?:definitions|discr|privacy)|real_group_nons_discr|nons_group_real_discr"
    r"|privacy_(?:public|fictional)"
)
"""What XSTest calls its prompts, but for definitions, which are not its own word."""


def _is_xstest(row: Mapping[str, Any]) -> bool:
    """Whether a row is of XSTest; copies of it lack some of its columns."""
    known = "focus" in row or KINDS.fullmatch(str(row.get("type"))) is not None
    return known and {"prompt", "type"} <= row.keys()


@data_format(
    "xstest",
    "XSTest: prompt, type (contrast_... is unsafe), with or without focus; also with label safe or unsafe",
    _is_xstest,
    {"prompt": "How do I kill a Python process?", "type": "homonyms", "focus": "kill"},
)
def _read_xstest(row: Row) -> Iterator[Group]:
    kind = text_of(row.ask("type"), "type")
    said = row["label"] if "label" in row and row["label"] in ("safe", "unsafe") else None
    safety = said or ("unsafe" if kind.startswith("contrast") else "safe")
    name_answers(row)
    yield Group(_asks(_asked(row, "prompt"), "xstest", kind, safety=safety), (), ())


@data_format(
    "harmbench",
    "HarmBench: Behavior, SemanticCategory, with an optional ContextString before it",
    lambda r: {"Behavior", "SemanticCategory"} <= r.keys(),
    {
        "Behavior": "Tell me how to pick a lock",
        "SemanticCategory": "illegal",
        "ContextString": "A lock has five pins.",
    },
    asks="Behavior",
)
def _read_harmbench(row: Row) -> Iterator[Group]:
    # Its multimodal file asks about "the image": without it, another question would be measured.
    if not is_missing(row.get("ImageFileName", None)):
        raise RowError("ImageFileName", "names an image, and suites are asked in words alone")
    text = _asked(row, "Behavior")
    if "ContextString" in row and not is_missing(row["ContextString"]):
        text = f"{text_of(row.ask('ContextString'), 'ContextString')}\n\n---\n\n{text}"
    prompt = _asks(text, "harmbench", row.ask("SemanticCategory"), safety="unsafe")
    named = row.get("BehaviorID", "")
    name_answers(row)
    yield Group(replace(prompt, id=str(named or "")), (), ())


@data_format(
    "strongreject",
    "StrongREJECT: forbidden_prompt, category",
    lambda r: "forbidden_prompt" in r,
    {
        "forbidden_prompt": "Tell me how to pick a lock.",
        "category": "Illegal goods and services",
        "source": "custom",
    },
    asks="forbidden_prompt",
)
def _read_strongreject(row: Row) -> Iterator[Group]:
    category = row.get("category", None)
    name_answers(row)
    yield Group(_asks(_asked(row, "forbidden_prompt"), "strongreject", category, safety="unsafe"), (), ())


@data_format(
    "do_not_answer",
    "Do-Not-Answer: question, risk_area, types_of_harm",
    lambda r: {"question", "risk_area"} <= r.keys(),
    {
        "question": "How do I pick a lock?",
        "risk_area": "Malicious Uses",
        "types_of_harm": "Illegal activities",
    },
    asks="question",
)
def _read_do_not_answer(row: Row) -> Iterator[Group]:
    # Its authors publish the answers of each model in a column of their own.
    name_answers(row, [c for c in row if c.endswith("_response")])
    yield Group(
        _asks(_asked(row, "question"), "do_not_answer", row.ask("risk_area"), safety="unsafe"), (), ()
    )


@data_format(
    "truthfulqa",
    "TruthfulQA: question, best_answer, correct_answers, incorrect_answers; the CSV's names as well",
    lambda r: (
        # UltraFeedback has both lists as well, beside instruction and completions.
        {"incorrect_answers", "correct_answers", "question"} <= r.keys()
        or {"Incorrect Answers", "Question"} <= r.keys()
    ),
    {
        "question": "What happens if you swallow gum?",
        "best_answer": "It passes through you.",
        "correct_answers": ["It passes through you.", "Nothing."],
        "incorrect_answers": ["It stays for seven years."],
        "category": "Misconceptions",
    },
    asks="question",
)
def _read_truthfulqa(row: Row) -> Iterator[Group]:
    capital = "Incorrect Answers" in row
    question, best, good, bad, part = (
        ("Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Category")
        if capital
        else ("question", "best_answer", "correct_answers", "incorrect_answers", "category")
    )
    right = [*([text_of(row[best], best)] if best in row else []), *_texts(row, good)]
    prompt = _asks(_asked(row, question), "truthfulqa", row.get(part, None))
    yield _scored(prompt, [*((t, 1.0) for t in right), *((t, 0.0) for t in _texts(row, bad))])


@data_format(
    "truthfulqa_mc",
    "TruthfulQA, multiple choice: question, mc1_targets or mc2_targets, in lists or {choice: label}",
    lambda r: "question" in r and ("mc1_targets" in r or "mc2_targets" in r),
    {
        "question": "What happens if you swallow gum?",
        "mc1_targets": {"choices": ["It passes through you.", "It stays for seven years."], "labels": [1, 0]},
    },
    asks="question",
)
def _read_truthfulqa_mc(row: Row) -> Iterator[Group]:
    column = "mc1_targets" if "mc1_targets" in row else "mc2_targets"
    yield _scored(_asks(_asked(row, "question"), "truthfulqa"), _choices(row.need(column), column))


def _choices(targets: Any, column: str) -> list[tuple[str, float]]:
    """Choices with their labels, in two lists or {choice: label}. Raises RowError where they do not fit."""
    if not isinstance(targets, Mapping) or not targets:
        raise RowError(column, "should hold choices and labels")
    if not {"choices", "labels"} <= targets.keys():
        if not all(isinstance(label, int | float) for label in targets.values()):
            raise RowError(column, "should hold choices and labels, or a label by each choice")
        targets = {"choices": list(targets), "labels": list(targets.values())}
    texts = listed(targets["choices"], f"{column}.choices", "texts")
    labels = listed(targets["labels"], f"{column}.labels", "labels")
    if len(texts) != len(labels):
        raise RowError(f"{column}.labels", f"should hold one label per choice ({len(texts)})")
    scored = []
    for i, text, label in without_missing(texts, labels):
        score = number(label, f"{column}.labels[{i}]")
        if score is None:
            raise RowError(f"{column}.labels[{i}]", "is missing")
        scored.append((text_of(text, f"{column}.choices[{i}]"), score))
    return scored


@data_format(
    "hhh",
    "HHH alignment (BIG-bench): input, targets with choices and labels, or target_scores {choice: label}",
    lambda r: (
        "input" in r
        and (
            isinstance(r.get("target_scores"), Mapping)
            or (isinstance(r.get("targets"), Mapping) and "choices" in r["targets"])
        )
    ),
    {"input": "Capital of France?", "targets": {"choices": ["Paris.", "Lyon."], "labels": [1, 0]}},
    asks="input",
)
def _read_hhh(row: Row) -> Iterator[Group]:
    category = row.get("subset", None)
    column = "targets" if "targets" in row else "target_scores"
    yield _scored(_asks(_asked(row, "input"), "hhh", category), _choices(row.need(column), column))


HHH_TEXTS = ("text_correct", "text_incorrect")


@data_format(
    "hhh_dialogues",
    "HHH of the paper on Constitutional AI: text_correct and text_incorrect, dialogues that share their "
    "beginning; its prompt, which asks about both, is not read",
    lambda r: set(HHH_TEXTS) <= r.keys(),
    {
        "prompt": "Choose the better one. (A) [[[Paris.]]] (B) [[[Lyon.]]]",
        "corrects": [" (A)"],
        "incorrects": [" (B)"],
        "text_correct": "\n\nHuman: Capital of France?\n\nAssistant: Paris.",
        "text_incorrect": "\n\nHuman: Capital of France?\n\nAssistant: Lyon.",
    },
)
def _read_hhh_dialogues(row: Row) -> Iterator[Group]:
    sides = [dialogue(text_of(row.need(column), column), column) for column in HHH_TEXTS]
    size = shared_turns(sides)
    if size == 0:
        raise RowError(HHH_TEXTS[1], f"shares no prompt with {HHH_TEXTS[0]}")
    row.used |= {"prompt", "corrects", "incorrects"} & row.keys()
    prompt = Prompt(messages=sides[0][:size], metadata={BENCHMARK: "hhh", "suite": True})
    answers = tuple(completion_of(side[size:]) for side in sides)
    yield Group(prompt, answers, (Feedback(1.0), Feedback(0.0)))


@data_format(
    "llmbar",
    "LLMBar: input, output_1, output_2, label 1 or 2 (the better one)",
    lambda r: {"input", "output_1", "output_2", "label"} <= r.keys(),
    {"input": "Capital of France?", "output_1": "Lyon.", "output_2": "Paris.", "label": 2},
    asks="input",
)
def _read_llmbar(row: Row) -> Iterator[Group]:
    better = number(row.need("label"), "label")
    if better not in (1, 2):
        raise RowError("label", "should be 1 or 2")
    yield _two(_asks(_asked(row, "input"), "llmbar"), row, ("output_1", "output_2"), 2.0 - better)


def _two(prompt: Prompt, row: Row, columns: tuple[str, str], first: float) -> Group:
    """Two answers in columns; `first`: score of the first one, 0.5 for a tie."""
    texts = [text_of(row.need(column), column) for column in columns]
    return Group(prompt, tuple(map(Completion, texts)), (Feedback(first), Feedback(1.0 - first)))


@data_format(
    "alpaca_eval",
    "AlpacaEval annotations: instruction, output_1, output_2, preference 1 to 2 (1.5 or 0 is a tie)",
    lambda r: {"instruction", "output_1", "output_2", "preference"} <= r.keys(),
    {"instruction": "Capital of France?", "output_1": "Lyon.", "output_2": "Paris.", "preference": 2.0},
    asks="instruction",
)
def _read_alpaca_eval(row: Row) -> Iterator[Group]:
    preference = number(row.get("preference"), "preference")
    text = _asked(row, "instruction")
    # AlpacaFarm's have what the instruction is about beside it.
    if (
        "input" in row
        and not is_missing(row["input"])
        and (about := text_of(row.ask("input"), "input")).strip()
    ):
        text = f"{text}\n\n{about}"
    prompt = _asks(text, "alpaca_eval", row.get("dataset", None))
    if preference is None:  # nobody judged: unscored, and no tie
        texts = [text_of(row.need(column), column) for column in ("output_1", "output_2")]
        yield Group(prompt, tuple(map(Completion, texts)), (Feedback(None), Feedback(None)))
        return
    if preference == 0:  # a tie in its first files
        preference = 1.5
    if not 1 <= preference <= 2:
        raise RowError("preference", "should be between 1 and 2, or 0")
    yield _two(prompt, row, ("output_1", "output_2"), 2.0 - preference)


@data_format(
    "rewardbench2",
    "RewardBench 2: prompt, chosen (a list), rejected (a list), num_correct, subset",
    lambda r: isinstance(r.get("chosen"), list) and {"num_correct", "subset"} <= r.keys(),
    {
        "id": "tied:1",
        "prompt": "Name a colour.",
        "chosen": ["Red.", "Blue."],
        "rejected": ["Dog."],
        "num_correct": 2,
        "total_completions": 3,
        "subset": "Ties",
    },
)
def _read_rewardbench2(row: Row) -> Iterator[Group]:
    sides = (("chosen", 1.0), ("rejected", 0.0))
    answers = [(text, score) for column, score in sides for text in _texts(row, column)]
    correct = number(row.need("num_correct"), "num_correct")
    if correct != (chosen := sum(score == 1.0 for _, score in answers)):
        raise RowError("num_correct", f"should be the number of chosen answers, {chosen}")

    # Equal texts stay: each is one of the completions that the score counts.
    prompt = _asks(_asked(row, "prompt"), "rewardbench2", row.ask("subset"))
    yield Group(
        prompt, tuple(Completion(text) for text, _ in answers), tuple(Feedback(score) for _, score in answers)
    )


@data_format(
    "rewardbench",
    "RewardBench: prompt, chosen, rejected, subset",
    lambda r: (
        {"prompt", "chosen", "rejected"} <= r.keys() and SUBSETS.match(str(r.get("subset"))) is not None
    ),
    {"prompt": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon.", "subset": "alpacaeval-easy"},
)
def _read_rewardbench(row: Row) -> Iterator[Group]:
    yield _two(
        _asks(_asked(row, "prompt"), "rewardbench", row.ask("subset")), row, ("chosen", "rejected"), 1.0
    )


def _is_mt_bench(row: Mapping[str, Any]) -> bool:
    """Whether a row is a question of MT-Bench; a copy on the Hub calls its turns prompt."""
    said = row.get("prompt")
    if {"prompt_id", "category"} <= row.keys() and isinstance(said, list) and said:
        return all(isinstance(turn, str | None) for turn in said)
    better = any(column in row for column in (*PROMPTS, *CONVERSATIONS))
    return not better and {"question_id", "category", "turns"} <= row.keys()


@data_format(
    "mt_bench",
    "MT-Bench and Arena-Hard questions: question_id, category, turns (the second one is a follow-up); "
    "also prompt_id, category, prompt (a list)",
    _is_mt_bench,
    {"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Make it shorter."]},
)
def _read_mt_bench(row: Row) -> Iterator[Group]:
    column, id_ = ("turns", "question_id") if "turns" in row else ("prompt", "prompt_id")
    # Arena-Hard has the same rows, whose turns are objects.
    asked = [
        t["content"] if isinstance(t, Mapping) and "content" in t else t
        for t in listed(row.ask(column), column, "texts")
    ]
    # Behind the first question a null is a follow-up that nobody asks.
    said = [text_of(t, f"{column}[{i}]") for i, t in enumerate(asked) if i == 0 or t is not None]
    if not said or not said[0].strip():
        raise RowError(column, "is empty")
    later = {"follow_ups": {f"turn_{i}": t for i, t in enumerate(said[1:2], start=2)}} if said[1:] else {}
    prompt = _asks(said[0], "mt_bench", row["category"], **later)
    name_answers(row)
    yield Group(replace(prompt, id=str(row[id_])), (), ())


@data_format(
    "mt_bench_grades",
    "MT-Bench grades by a model: question_id, model, judge, score 1 to 10 (-1: none), turn; "
    "question.jsonl and model_answer/MODEL.jsonl are read with them",
    lambda r: {"question_id", "model", "judge", "score"} <= r.keys() and "games" not in r,
    {
        "question_id": 81,
        "model": "mine",
        "judge": ["a-judge", "single-v1"],
        "score": 7,
        "turn": 1,
        "question": ["Write a poem.", "Make it shorter."],
        "answer": ["Roses.", "Rose."],
    },
)
def _read_mt_bench_grades(row: Row) -> Iterator[Group]:
    score = number(row.need("score"), "score")
    if score != -1 and not (score is not None and 1 <= score <= 10):
        raise RowError("score", "should be from 1 to 10, or -1 where the judge gave none")
    said = _conversation(row, "answer", "model")
    asked = _asks(said[0]["content"], "mt_bench", row.get("category", None))
    prompt = replace(asked, id=str(row["question_id"]), messages=said[:-1])
    # Who was not understood gave no grade, and not the lowest one.
    yield Group(prompt, (completion_of(said[-1:]),), (Feedback(None if score == -1 else score),))


@data_format(
    "mt_bench_judgments",
    "MT-Bench judgments by a model: question_id, model_1, model_2, g1_winner, g2_winner, turn; "
    "question.jsonl and model_answer/MODEL.jsonl are read with them",
    lambda r: {"g1_winner", "g2_winner", "question_id"} <= r.keys(),
    {
        "question_id": 81,
        "g1_winner": "model_1",
        "g2_winner": "model_1",
        "prompt": "Write a poem.",
        "answer_1": "Roses.",
        "answer_2": "No.",
    },
)
def _read_mt_bench_judgments(row: Row) -> Iterator[Group]:
    winners = [text_of(row.need(game), game) for game in ("g1_winner", "g2_winner")]
    known = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5, "error": None}
    if unknown := set(winners) - known.keys():
        raise RowError("g1_winner", f"should be model_1, model_2, tie or error, found {sorted(unknown)}")
    games = [known[w] for w in winners]
    yield _compared(row, "mt_bench", ("model_1", "model_2"), games)


def _compared(row: Row, name: str, models: tuple[str, str], games: Sequence[float | None]) -> Group:
    """Two answers and who is better; `games`: what each says of the first, None for nothing.

    Raises:
        RowError: the answers were not found.
    """
    columns, scored = ("answer_1", "answer_2"), tuple(map(Feedback, _both(games)))
    category = row.get("category", None)
    if "prompt" in row:  # somebody has joined them
        texts = [text_of(row.need(column), column) for column in columns]
        return Group(_asks(_asked(row, "prompt"), name, category), tuple(map(Completion, texts)), scored)

    # Both models were asked a second question behind their own first answers.
    sides = [_conversation(row, *names) for names in zip(columns, models, strict=True)]
    size = shared_turns(sides)
    asked = replace(_asks(sides[0][0]["content"], name, category), messages=sides[0][:size])
    return Group(replace(asked, id=id_of(row)), tuple(completion_of(side[size:]) for side in sides), scored)


def _conversation(row: Row, answers: str, model: str) -> tuple[Message, ...]:
    """A model's conversation up to the answer that was judged.

    Raises:
        RowError: question or answers were not found, or the turn is none.
    """
    said = number(row["turn"], "turn") if "turn" in row else None
    found, turn = [], 1 if said is None else int(said)
    if said is not None and (said != turn or turn < 1):
        raise RowError("turn", f"should be a whole number from 1 on, found {row['turn']!r}")
    files = {
        "question": "question.jsonl",
        answers: f"model_answer/{row.get(model, 'MODEL')}.jsonl",
    }
    for column, file in files.items():
        if column not in row:
            problem = "is missing: a judgment names models, and holds no answers."
            fix = f"Put {file}, with the question {id_of(row)}, into the folder above the judgments"
            raise RowError(column, problem, fix=fix)
        texts = listed(row[column], column, "texts")
        if len(texts) < turn:
            raise RowError(column, f"has {len(texts)} turns, and turn {turn} was judged")
        found.append([text_of(text, f"{column}[{i}]") for i, text in enumerate(texts[:turn])])
    roles = ("user", "assistant")
    return tuple(
        Message(role=role, content=text)
        for both in zip(*found, strict=True)
        for role, text in zip(roles, both, strict=True)
    )


def _both(games: Sequence[float | None]) -> tuple[float | None, float | None]:
    """The scores of two answers; a game without a verdict is unscored, a contradiction is a tie."""
    if None in games:
        return None, None
    first = games[0] if len(set(games)) == 1 and games[0] is not None else 0.5
    return first, 1.0 - first


GRADES = {"A": 1.0, "=": 0.5, "B": 0.0}
"""Of the answer that was shown first, by who is said to be better."""


@data_format(
    "arena_hard_judgments",
    "Arena-Hard judgments: uid or question_id, model, baseline, games with a score such as A>>B, baseline "
    "shown first, then second; question.jsonl and model_answer/MODEL.jsonl are read with them",
    lambda r: "games" in r and "judge" in r and "model" in r,
    {
        "uid": "x",
        "model": "mine",
        "judge": "a-judge",
        "games": [{"score": "A>B"}, {"score": "B>>A"}],
        "prompt": "Write a poem.",
        "answer_1": "Roses.",
        "answer_2": "No.",
    },
)
def _read_arena_hard_judgments(row: Row) -> Iterator[Group]:
    games = listed(row.need("games"), "games", "games")
    shown = [_grade(game, f"games[{n}]") for n, game in enumerate(games[:2])]
    if len(shown) < 2:
        raise RowError("games", "should be two, one for each order")
    # In the second game the baseline is shown second.
    first, second = shown
    if "prompt" not in row and "baseline" not in row:  # as in version 0.1
        fix = (
            "Write the name of the model that was compared with into each row; published rows mean gpt-4-0314"
        )
        raise RowError("baseline", "is missing: a judgment names models, and holds no answers.", fix=fix)
    yield _compared(
        row, "arena_hard", ("baseline", "model"), [first, None if second is None else 1.0 - second]
    )


def _grade(game: Any, where: str) -> float | None:
    """What a game says of the answer that was shown first; None where it says nothing."""
    score = game.get("score") if isinstance(game, Mapping) else None
    if score is None:
        return None
    found = re.fullmatch(r"([AB])(>>?|<<?|=)([AB])", str(score))
    if found is None or found[1] == found[3]:
        raise RowError(f"{where}.score", f"should be such as A>>B, A=B or B>A, found {score!r}")
    return GRADES["=" if found[2] == "=" else found[1] if ">" in found[2] else found[3]]


WINNERS = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5}
"""What an arena calls the better side, and the score of the first one."""


@data_format(
    "arena",
    "LMArena and MT-Bench by people: model_a, model_b, winner, conversation_a, conversation_b, and turn",
    lambda r: {"model_a", "model_b", "winner", "conversation_a", "conversation_b"} <= r.keys(),
    {
        "model_a": "one",
        "model_b": "two",
        "winner": "model_b",
        "conversation_a": [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Lyon."},
        ],
        "conversation_b": [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris."},
        ],
    },
)
def _read_arena(row: Row) -> Iterator[Group]:
    winner = text_of(row.need("winner"), "winner")
    if winner not in WINNERS:
        raise RowError("winner", f"should be one of {', '.join(WINNERS)}, found {winner!r}")
    columns = ("conversation_a", "conversation_b")
    sides = [_until(turns(_flat(row.need(column)), column, row), row) for column in columns]
    size = shared_turns(sides)
    if size == 0:
        raise RowError("conversation_b", "does not begin as conversation_a does")
    answers = [answer_of(list(side[size:]), column, row) for side, column in zip(sides, columns, strict=True)]
    metadata = {BENCHMARK: "arena", "models": [str(row["model_a"]), str(row["model_b"])]}
    prompt = Prompt(messages=sides[0][:size], metadata=metadata)
    first = WINNERS[winner]
    yield Group(prompt, tuple(map(completion_of, answers)), (Feedback(first), Feedback(1.0 - first)))


def _until(side: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
    """The conversation up to the answer that was judged. MT-Bench has both turns in rows about the first."""
    judged = number(row["turn"], "turn") if "turn" in row else None
    ends = [n for n, message in enumerate(side, start=1) if message["role"] == "assistant"]
    return side[: ends[int(judged) - 1]] if judged and 1 <= judged <= len(ends) else side


def _flat(conversation: Any) -> Any:
    """Turns whose content is a list of parts, as text where every part is text."""
    if not isinstance(conversation, list):
        return conversation
    return [_joined(turn) if isinstance(turn, Mapping) else turn for turn in conversation]


def _joined(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = turn.get("content")
    if not isinstance(parts, list) or not all(
        isinstance(p, Mapping) and p.get("type") == "text" for p in parts
    ):
        return turn
    return {**turn, "content": "".join(str(p.get("text", "")) for p in parts)}
