"""Comparisons, judged steps and calls in the layouts in which their authors publish them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kilter.data.formats.ask import answer_of, completion_of, prompt_of, stepped, text_of
from kilter.data.formats.registry import data_format
from kilter.data.row import Row, RowError, is_missing, label, listed, name, number
from kilter.data.turns import tool_calls
from kilter.types import Completion, Feedback, Group, Message, Prompt

DEMONSTRATION = Feedback(None, "demonstration")


def _part(row: Row, column: str, key: str, *more: str) -> Any:
    """A key of a column that holds a mapping. Raises RowError where it is missing.

    more: further keys that are read; the others are named.
    """
    held = row.ask(column)
    _name_others(row, column, held, key, *more)
    if key not in held:
        raise RowError(f"{column}.{key}", "is missing")
    return held[key]


def _name_others(row: Row, where: str, held: Mapping[str, Any], *known: str) -> None:
    """Names the keys of a mapping that are not read."""
    row.unread |= {f"{where}.{key}": None for key in held if key not in known}


def _id_of(held: Mapping[str, Any]) -> str:
    return "" if is_missing(held.get("id")) else name(held["id"])


@data_format(
    "webgpt",
    "WebGPT comparisons: question with full_text, answer_0 and answer_1 with score_0 and score_1",
    lambda r: isinstance(r.get("question"), Mapping) and {"answer_0", "answer_1"} <= r.keys(),
    {
        "question": {"dataset": "eli5", "id": "a1", "full_text": "Why is the sky blue?"},
        "answer_0": "Air scatters blue light most [1].",
        "score_0": 0.5,
        "answer_1": "It mirrors the sea.",
        "score_1": -0.5,
    },
)
def _read_webgpt(row: Row) -> Iterator[Group]:
    text = text_of(_part(row, "question", "full_text", "id"), "question.full_text")
    answers, feedback = [], []
    for place in ("0", "1"):
        answers.append(completion_of(answer_of(row.need(f"answer_{place}"), f"answer_{place}", row)))
        score = f"score_{place}"
        feedback.append(Feedback(number(row[score], score) if score in row else None, "rating"))
    yield Group(Prompt(text=text, id=_id_of(row["question"])), tuple(answers), tuple(feedback))


INFO = {
    "info": {"id": "t3_1", "subreddit": "r/pets", "title": "My shoe", "post": "The dog ate my shoe."},
    "worker": "w1",
}


@data_format(
    "summary_comparisons",
    "OpenAI's summarize_from_feedback: info with a post or an article, two summaries, choice",
    lambda r: isinstance(r.get("info"), Mapping) and {"summaries", "choice"} <= r.keys(),
    {
        **INFO,
        "summaries": [
            {"text": "A dog ate a shoe.", "policy": "a"},
            {"text": "I like shoes.", "policy": "b"},
        ],
        "choice": 0,
    },
)
def _read_summary_comparison(row: Row) -> Iterator[Group]:
    summaries = [s for s in listed(row.need("summaries"), "summaries", "summaries") if s is not None]
    if len(summaries) != 2:
        raise RowError("summaries", f"should hold two summaries, found {len(summaries)}")
    choice = number(row.need("choice"), "choice")
    if choice not in (None, 0, 1):
        raise RowError("choice", f"should be 0 or 1, found {row['choice']!r}")
    scores = [None, None] if choice is None else [1 - choice, choice]
    answers = [_summary(s, f"summaries[{i}]", row) for i, s in enumerate(summaries)]
    for summary in summaries:
        _name_others(row, "summaries[]", summary, "text", "policy")
    feedback = [
        Feedback(score, source=str(s.get("policy") or "")) for s, score in zip(summaries, scores, strict=True)
    ]
    yield Group(_to_summarise(row), tuple(answers), tuple(feedback))


@data_format(
    "summary_ratings",
    "OpenAI's summarize_from_feedback, axis: info, and a summary with axes; its score is overall",
    lambda r: isinstance(r.get("info"), Mapping) and isinstance(r.get("summary"), Mapping),
    {
        **INFO,
        "summary": {"text": "A dog ate a shoe.", "policy": "a", "axes": {"overall": 7, "accuracy": 6}},
    },
)
def _read_summary_rating(row: Row) -> Iterator[Group]:
    held = row["summary"]
    _name_others(row, "summary", held, "text", "policy", "axes")
    axes = held.get("axes")
    if not isinstance(axes, Mapping):
        raise RowError("summary.axes", "should be ratings by their names, overall among them")
    parts = {axis: number(value, f"summary.axes.{axis}") for axis, value in axes.items()}
    known = {axis: value for axis, value in parts.items() if value is not None}
    feedback = Feedback(known.get("overall"), "rating", source=str(held.get("policy") or ""), parts=known)
    yield Group(_to_summarise(row), (_summary(held, "summary", row),), (feedback,))


def _summary(held: Any, where: str, row: Row) -> Completion:
    if not isinstance(held, Mapping) or "text" not in held:
        raise RowError(f"{where}.text", "is missing")
    return completion_of(answer_of(held["text"], f"{where}.text", row))


def _to_summarise(row: Row) -> Prompt:
    """What is to be summarised, in the words of the paper; the worker who judged is the annotator."""
    info = row.ask("info")
    _name_others(row, "info", info, "id", "subreddit", "title", "post", "article")
    lines = {"SUBREDDIT": info.get("subreddit"), "TITLE": info.get("title")}
    lines |= {"POST": info.get("post"), "ARTICLE": info.get("article")}
    if not any(isinstance(lines[k], str) and lines[k].strip() for k in ("POST", "ARTICLE")):
        raise RowError("info.post", "is missing, and so is an article")
    text = "".join(f"{k}: {str(v).strip()}\n\n" for k, v in lines.items() if not is_missing(v))
    noted = {"annotator": row["worker"]} if "worker" in row else {}
    return Prompt(text=f"{text}TL;DR:", id=_id_of(info), metadata=noted)


UNJUDGED = "steps behind the first wrong one are left out: nobody judged them"


@data_format(
    "processbench",
    "ProcessBench: problem, steps, label (the first wrong step from 0 on, -1: all are right)",
    lambda r: {"problem", "steps", "label"} <= r.keys(),
    {
        "id": "math-1",
        "problem": "2 + 2 * 2?",
        "steps": ["2 * 2 = 4.", "2 + 4 = 7.", "So it is 7."],
        "label": 1,
        "final_answer_correct": False,
    },
)
def _read_processbench(row: Row) -> Iterator[Group]:
    steps = listed(row.need("steps"), "steps", "texts")
    texts = [text_of(step, f"steps[{i}]") for i, step in enumerate(steps)]
    wrong = number(row.need("label"), "label")
    if wrong is None or wrong not in range(-1, len(texts)) or not texts:
        raise RowError("label", f"should be -1 or the place of one of {len(texts)} steps")
    if 0 <= wrong < len(texts) - 1:
        row.said.add(UNJUDGED)
    right = len(texts) if wrong < 0 else int(wrong)
    final = (
        label(row["final_answer_correct"], "final_answer_correct") if "final_answer_correct" in row else None
    )
    parts = {} if final is None else {"final_answer_correct": final}
    yield stepped(prompt_of(row), texts[: right + 1], [1.0] * right + [0.0] * (wrong >= 0), parts)


@data_format(
    "prm800k",
    "PRM800K: question with a problem, label with steps, each with rated completions and the chosen one",
    lambda r: isinstance(r.get("label"), Mapping) and "steps" in r["label"] and "question" in r,
    {
        "labeler": "l1",
        "question": {"problem": "2 + 2 * 2?", "ground_truth_answer": "6"},
        "label": {
            "steps": [
                {"completions": [{"text": "2 * 2 = 4.", "rating": 1}], "chosen_completion": 0},
                {"completions": [{"text": "2 + 4 = 7.", "rating": -1}], "chosen_completion": None},
            ],
            "finish_reason": "found_error",
        },
    },
)
def _read_prm800k(row: Row) -> Iterator[Group]:
    problem = text_of(_part(row, "question", "problem", "ground_truth_answer"), "question.problem")
    steps = listed(_part(row, "label", "steps"), "label.steps", "steps")
    gold = row["question"].get("ground_truth_answer")
    noted = {"annotator": row["labeler"]} if "labeler" in row else {}
    noted |= {} if gold is None else {"answer": str(gold)}
    texts, ratings = [], []
    for i, step in enumerate(s for s in steps if s is not None):
        text, rating = _taken(step, f"label.steps[{i}]", row)
        # Behind a step that nobody rated, or that is wrong, there is no path to go on.
        if rating is None:
            row.said.add("steps from the first unrated one on are left out")
            break
        if rating == 0:
            row.said.add("a neutral step (rating 0) counts as right")
        texts.append(text)
        ratings.append(float(rating >= 0))
        if rating < 0:
            break
    if not texts:
        row.said.add("rows without a rated step are left out")
        return
    yield stepped(Prompt(text=problem, metadata=noted), texts, ratings, {})


def _taken(step: Any, where: str, row: Row) -> tuple[str, float | None]:
    """(text, rating) of the step that the solution went on with, or ended in."""
    if not isinstance(step, Mapping):
        raise RowError(where, f"should be a step with completions, found {type(step).__name__}")
    rated = [c for c in step.get("completions") or () if isinstance(c, Mapping)]
    _name_others(row, "label.steps[]", step, "completions", "chosen_completion", "human_completion")
    for completion in rated:
        _name_others(row, "label.steps[].completions[]", completion, "text", "rating")
    chosen, human = step.get("chosen_completion"), step.get("human_completion")
    if len(rated) - (human is None) > 0:
        row.said.add("alternatives to the step that was chosen are left out")
    if chosen is None and human is not None:
        text = human.get("text") if isinstance(human, Mapping) else human
        return text_of(text, f"{where}.human_completion"), 1.0
    place = 0 if chosen is None else number(chosen, f"{where}.chosen_completion")
    if place not in range(len(rated)):
        raise RowError(
            f"{where}.chosen_completion", f"should be the place of one of {len(rated)} completions"
        )
    taken = rated[int(place or 0)]
    text = text_of(taken.get("text"), f"{where}.completions[{place:g}].text")
    return text, number(taken.get("rating"), f"{where}.completions[{place:g}].rating")


_TAGGED = re.compile(r"\s*([+-])\s*(?:\n|\Z)")


@data_format(
    "math_shepherd",
    "Math-Shepherd: input with its steps, and label, the same text with + or - behind each step",
    lambda r: isinstance(r.get("input"), str) and isinstance(r.get("label"), str) and "Step 1:" in r["label"],
    {
        "input": "2 + 2 * 2? Step 1: 2 * 2 = 4. \u043a\u0438\nStep 2: 2 + 4 = 7. \u043a\u0438",
        "label": "2 + 2 * 2? Step 1: 2 * 2 = 4. +\nStep 2: 2 + 4 = 7. -",
        "task": "GSM8K",
    },
)
def _read_math_shepherd(row: Row) -> Iterator[Group]:
    row.ask("input")  # the same text, without what is known of its steps
    problem, _, solution = text_of(row.need("label"), "label").partition("Step 1:")
    pieces = _TAGGED.split(f"Step 1:{solution}")
    texts, signs = pieces[0:-1:2], pieces[1::2]
    if not problem.strip() or not texts or pieces[-1].strip():
        raise RowError("label", "should be a problem and its steps, each with + or - at its end")
    yield stepped(Prompt(text=problem.strip()), texts, [float(s == "+") for s in signs], {})


@data_format(
    "function_calls",
    "xLAM function calling: query, tools, and answers, which are the calls to make",
    lambda r: {"query", "tools", "answers"} <= r.keys(),
    {
        "query": "How warm is it in Rome?",
        "tools": [{"name": "weather", "parameters": {"city": {"type": "str"}}}],
        "answers": [{"name": "weather", "arguments": {"city": "Rome"}}],
    },
)
def _read_function_calls(row: Row) -> Iterator[Group]:
    calls: Sequence[Any] = tool_calls(row.need("answers"), "answers")
    if not calls:
        raise RowError("answers", "is empty")
    turn = Message(role="assistant", content="", tool_calls=list(calls))
    yield Group(prompt_of(row), (completion_of((turn,)),), (DEMONSTRATION,))
