"""MT-Bench judgments with their questions and answers, which FastChat publishes in files of their own.

    mt_bench/question.jsonl               {question_id, category, turns}
    mt_bench/model_answer/MODEL.jsonl     {question_id, choices: [{turns}]}
    mt_bench/model_judgment/JUDGE.jsonl   {question_id, model, score, turn}, or two models and who wins

A judgment gets `question` and, of each model that it names, `answer`, `answer_1` or `answer_2`: texts by
turn. What cannot be found is left out, for the row's format to say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kilter.data.row import OBJECT
from kilter.errors import UserError

QUESTIONS, ANSWERS = "question.jsonl", "model_answer"

SIDES: Mapping[str, Mapping[str, str]] = {
    "score": {"model": "answer"},
    "g1_winner": {"model_1": "answer_1", "model_2": "answer_2"},
}
"""By a column that only one kind of judgment has: who answered, and what their answers are called."""


def sides_of(row: Any) -> Mapping[str, str]:
    """The columns with the models of a judgment, and those of their answers; none of any other row."""
    if not isinstance(row, dict) or "question_id" not in row or "judge" not in row:
        return {}
    found = next((sides for column, sides in SIDES.items() if column in row), {})
    return found if all(model in row for model in found) else {}


def beside(path: Path) -> list[Path]:
    """The files that the judgments of a file are read with; none of any other file."""
    if path.suffix != ".jsonl" or not any(sides_of(row) for row in _first(path)):
        return []
    folders = [path.parent, path.parent.parent]
    found = [
        f for folder in folders for f in (folder / QUESTIONS, *sorted((folder / ANSWERS).glob("*.jsonl")))
    ]
    return [file for file in found if file.is_file()]


def _first(path: Path) -> list[Any]:
    """The first row of a file, if it can be read as one."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 26)
        return [OBJECT.decode(line.decode("utf-8-sig").strip())]
    except (OSError, ValueError):
        return []


class Joiner:
    """Puts questions and answers into judgments. They lie in the folder of the file, or in the one above.

    `path`: the file of judgments.
    """

    def __init__(self, path: Path) -> None:
        self.folders = (path.parent, path.parent.parent)
        self._known: dict[str, Mapping[str, Any]] = {}

    def filled(self, row: Any) -> Any:
        """A judgment with what was judged; any other row as it is."""
        sides, found = sides_of(row), dict[str, Any]()
        if not sides or "prompt" in row or not row.keys().isdisjoint(sides.values()):
            return row
        for model, column in sides.items():
            name, asked = str(row[model]), str(row["question_id"])
            found["question"] = self._file(QUESTIONS).get(asked)
            # Rows may come from anywhere: they make nobody read a file of another folder.
            known = self._file(f"{ANSWERS}/{name}.jsonl") if Path(name).name == name else {}
            found[column] = known.get(asked)
        return row | {column: texts for column, texts in found.items() if texts is not None}

    def _file(self, name: str) -> Mapping[str, Any]:
        """The texts of a file by the question's id; nothing where there is no such file."""
        if name not in self._known:
            path = next((f / name for f in self.folders if (f / name).is_file()), None)
            rows = _rows(path) if path is not None else ()
            known = (row for row in rows if isinstance(row, dict) and "question_id" in row)
            self._known[name] = {str(row["question_id"]): _texts(row) for row in known}
        return self._known[name]


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


def _texts(row: Mapping[str, Any]) -> Any:
    """What was asked, or answered first, turn by turn."""
    choices = row.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0].get("turns")
    return row.get("turns")
