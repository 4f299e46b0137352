"""Judgments with their questions and answers, which MT-Bench and Arena-Hard publish in files of their own.

    question.jsonl                    MT-Bench {question_id, turns}, Arena-Hard 2 {uid, prompt}
    model_answer/MODEL.jsonl          {question_id, choices: [{turns}]} or {uid, messages}
    model_judgment/JUDGE.jsonl        MT-Bench {question_id, model, score, turn}, or two models and who wins
    model_judgment/JUDGE/MODEL.jsonl  Arena-Hard {uid or question_id, model, baseline, games}

A judgment gets `question`, its `category` and, of each model that it names, `answer`, `answer_1` or
`answer_2`: texts by turn. What cannot be found is left out, for the row's format to say so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kilter.data.row import OBJECT
from kilter.errors import UserError

QUESTIONS, ANSWERS = "question.jsonl", "model_answer"

IDS = ("question_id", "uid")
"""What a question is known by in all three files."""

SIDES: Mapping[str, Mapping[str, str]] = {
    "score": {"model": "answer"},
    "g1_winner": {"model_1": "answer_1", "model_2": "answer_2"},
    "games": {"baseline": "answer_1", "model": "answer_2"},
}
"""By a column that only one kind of judgment has: who answered, and what their answers are called."""


def sides_of(row: Any) -> Mapping[str, str]:
    """The columns with the models of a judgment, and those of their answers; none of any other row."""
    if not isinstance(row, dict) or not id_of(row) or "judge" not in row:
        return {}
    found = next((sides for column, sides in SIDES.items() if column in row), {})
    return found if all(model in row for model in found) else {}


def beside(path: Path) -> list[Path]:
    """The files that judgments would be read with, if a file holds such."""
    found = [
        f
        for folder in _folders(path)
        for f in (folder / QUESTIONS, *sorted((folder / ANSWERS).glob("*.jsonl")))
    ]
    return [file for file in found if file.is_file() and file != path.absolute()]


def _folders(path: Path) -> list[Path]:
    """Where the files of a judgment may lie: in its own folder, or in the two above."""
    return list(path.absolute().parents[:3])


def id_of(row: Mapping[str, Any]) -> str:
    """What a judgment calls its question; "" where it does not say."""
    return next((str(row[name]) for name in IDS if name in row), "")


class Joiner:
    """Puts questions and answers into judgments.

    `path`: the file of judgments.
    """

    def __init__(self, path: Path) -> None:
        self.folders = _folders(path)
        self._known: dict[tuple[str, Callable[..., Any]], Mapping[str, Any]] = {}

    def filled(self, row: Any) -> Any:
        """A judgment with what was judged; anything else as it is."""
        sides, found = sides_of(row), dict[str, Any]()
        if not sides or "prompt" in row or not row.keys().isdisjoint(sides.values()):
            return row
        asked = id_of(row)
        found["question"] = self._file(QUESTIONS).get(asked)
        if "category" not in row:
            found["category"] = self._file(QUESTIONS, _category).get(asked)
        for model, column in sides.items():
            name = str(row[model])
            # Rows may come from anywhere: they make nobody read a file of another folder.
            known = self._file(f"{ANSWERS}/{name}.jsonl") if Path(name).name == name else {}
            found[column] = known.get(asked)
        joined = copy.copy(row)
        joined.update({column: texts for column, texts in found.items() if texts is not None})
        return joined

    def _file(self, name: str, read: Callable[..., Any] | None = None) -> Mapping[str, Any]:
        """What is read of each row of a file, its texts if not said, by the question's id."""
        read = read or _texts
        if (name, read) not in self._known:
            path = next((f / name for f in self.folders if (f / name).is_file()), None)
            rows = _rows(path) if path is not None else ()
            known = ((row, i) for row in rows if isinstance(row, dict) for i in IDS if i in row)
            self._known[name, read] = {str(row[i]): read(row) for row, i in known}
        return self._known[name, read]


def _rows(path: Path) -> Iterator[Any]:
    """All rows of a file of other programs. Its last line may lack its end, its first bytes may be a mark.

    Raises:
        UserError: a line is no JSON.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig").strip()
                if text:
                    yield OBJECT.decode(text)
            except (ValueError, RecursionError) as error:
                place, problem = f"{path}:{number}", f"is not a line of JSON ({error})"
                raise UserError("file", place, problem, "correct this line") from error


def _category(row: Mapping[str, Any]) -> Any:
    """Of a question."""
    return row.get("category")


def _texts(row: Mapping[str, Any]) -> Any:
    """What was asked, or answered first, turn by turn."""
    choices, said = row.get("choices"), row.get("messages")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        turns = choices[0].get("turns")
    elif isinstance(said, list):
        turns = [turn for turn in said if isinstance(turn, dict) and turn.get("role") == "assistant"]
    else:
        turns = row.get("turns", [row["prompt"]] if "prompt" in row else None)
    return [_text(turn) for turn in turns] if isinstance(turns, list) else turns


def _text(turn: Any) -> Any:
    """The text of a turn; Arena-Hard's are objects, and its answers may stand beside the thoughts."""
    for key in ("content", "answer"):
        turn = turn[key] if isinstance(turn, dict) and key in turn else turn
    return turn
