"""Feedback on the answers of an evaluation: groups, further samples, missing answers, and what a kill leaves behind."""

from __future__ import annotations

import pytest

from kilter.evaluation.scoring import Scoring, combined
from kilter.types import Completion, Feedback, Prompt


class ByLength:
    """Scores an answer by its length; remembers the groups that it was asked about."""

    judge = stamp = "length"

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[list[str]] = []
        self.fails = fails

    def score(self, groups, title):
        if self.fails:
            raise MemoryError("killed")
        self.asked += [[c.text for c in g.completions] for g in groups]
        return [[Feedback(float(len(c.text)), parts={"n": 1.0}) for c in g.completions] for g in groups]


def said(*rows: str) -> list[tuple[Completion, ...]]:
    return [tuple(Completion(text) for text in row.split()) for row in rows]


PROMPTS = [Prompt(text=str(i)) for i in range(3)]
ANSWERS = {"old": said("a b", "cc", "ddd e"), "new": said("aaaa", "", "f gg")}


def test_first_answers_of_all_models_are_one_group_and_a_missing_one_is_no_score(tmp_path):
    source = ByLength()
    found = Scoring({"gold": source}, tmp_path, "eval")(PROMPTS, ANSWERS, set())
    assert source.asked == [["a", "aaaa"], ["cc"], ["ddd", "f"]]
    assert [[f.score for f in row] for row in found["old"]["gold"]] == [[1.0], [2.0], [3.0]]
    assert [[f.score for f in row] for row in found["new"]["gold"]] == [[4.0], [], [1.0]]
    assert combined("new", {"gold": found["new"]["gold"][1]}).score is None


def test_further_samples_are_scored_apart_so_that_first_scores_stay(tmp_path):
    source = ByLength()
    found = Scoring({"gold": source}, tmp_path, "eval")(PROMPTS, ANSWERS, {"gold"})
    assert source.asked == [["a", "aaaa"], ["cc"], ["ddd", "f"], ["b"], ["e"], ["gg"]]
    assert [[f.score for f in row] for row in found["old"]["gold"]] == [[1.0, 1.0], [2.0], [3.0, 1.0]]
    assert [[f.score for f in row] for row in found["new"]["gold"]] == [[4.0], [], [1.0, 2.0]]


def test_finished_scores_outlive_a_kill_and_not_the_evaluation(tmp_path):
    first, second = ByLength(), ByLength(fails=True)
    folder = tmp_path / ".scores"
    with pytest.raises(MemoryError):
        Scoring({"gold": first, "reward": second}, folder, "eval")(PROMPTS, ANSWERS, set())
    again, whole = ByLength(), Scoring({}, folder, "eval")
    found = Scoring({"gold": again, "reward": first}, folder, "eval")(PROMPTS, ANSWERS, set())
    assert again.asked == []  # taken from disk
    assert found["old"]["gold"] == found["old"]["reward"]
    changed = {"old": said("a b", "cc", "other"), "new": ANSWERS["new"]}
    Scoring({"gold": again}, folder, "eval")(PROMPTS, changed, set())
    assert again.asked[-1] == ["other", "f"]  # other answers have no scores yet
    whole.forget()
    assert not folder.exists()
