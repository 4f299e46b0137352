"""Answers of an evaluation: by any sampler, on disk as they are made, and unscored where there is none."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from rich.console import Console

from kilter.data.dataset import DataSpec, load
from kilter.errors import RunFailed
from kilter.evaluation.answers import Answering
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.subject import Subject
from kilter.pipeline.runner import Run
from kilter.recipe import build
from kilter.types import Completion, Prompt, Sample, SamplerFacts

PROMPTS = [Prompt(text=f"question {i}") for i in range(6)]


class Sampled:
    """Answers in an order of its own; fails where it is told to, and dies after `lives` samples."""

    facts = SamplerFacts(skips=True)

    def __init__(self, fails: str = "", lives: int = 99) -> None:
        self.fails, self.lives, self.asked = fails, lives, []

    def run(self, requests, listener):
        wanted = [(r, i) for r in reversed(requests) for i in reversed(r.wanted)]
        for request, index in wanted:
            if self.lives == 0:
                raise MemoryError("killed")
            self.lives -= 1
            self.asked.append((request.prompt.text, index))
            if self.fails and self.fails in f"{request.prompt.text}: {index}":
                yield Sample(request, index, None, "the server is on fire")
            else:
                yield Sample(request, index, Completion(f"{request.prompt.text}: {index}"))


def answering(sampler, folder, console=None) -> Answering:
    spec = EvaluateSpec(models=["m"])
    quiet = console or Console(quiet=True)
    return Answering(spec, Subject("m", "m", None), sampler, "", folder, quiet, "eval")


def texts(answers) -> list[list[str]]:
    return [[c.text for c in row] for row in answers]


def test_answers_are_in_order_whatever_order_they_come_in(tmp_path):
    found = answering(Sampled(), tmp_path)(PROMPTS, 2)
    assert texts(found) == [[f"question {i}: 0", f"question {i}: 1"] for i in range(6)]


def test_a_killed_attempt_keeps_every_finished_prompt(tmp_path):
    with pytest.raises(MemoryError):
        answering(Sampled(lives=5), tmp_path)(PROMPTS, 2)
    again = Sampled()
    assert texts(answering(again, tmp_path)(PROMPTS, 2)) == texts(
        answering(Sampled(), tmp_path / "x")(PROMPTS, 2)
    )
    assert {text for text, _ in again.asked} == {f"question {i}" for i in range(4)}


@pytest.mark.parametrize("seed", range(20))
def test_wherever_it_is_killed_no_sample_of_several_is_asked_twice(seed, tmp_path):
    draw, asked = random.Random(seed), []
    for lives in (draw.randrange(9), draw.randrange(9), 99):
        sampler = Sampled(lives=lives)
        with contextlib.suppress(MemoryError):
            found = answering(sampler, tmp_path)(PROMPTS, 3)
        asked += sampler.asked
    assert texts(found) == [[f"question {i}: {n}" for n in range(3)] for i in range(6)]
    assert sorted(asked) == [(p.text, n) for p in PROMPTS for n in range(3)]
    assert len(list((tmp_path / "answers").iterdir())) == 1, "nothing is left beside the answers"


def test_of_several_samples_only_the_failed_one_is_asked_again(tmp_path):
    assert texts(answering(Sampled(fails="question 3: 1"), tmp_path)(PROMPTS, 3))[3] == [
        "question 3: 0",
        "question 3: 2",
    ]
    again = Sampled()
    assert len(answering(again, tmp_path)(PROMPTS, 3)[3]) == 3
    assert again.asked == [("question 3", 1)]


def test_a_failed_answer_is_none_and_is_asked_for_again(tmp_path, capsys):
    console = Console(width=200)
    found = answering(Sampled(fails="question 3"), tmp_path, console)(PROMPTS)
    assert texts(found) == [[f"question {i}: 0"] if i != 3 else [] for i in range(6)]
    assert "1 of 6 answers of m failed: the server is on fire" in capsys.readouterr().out
    again = Sampled()
    assert texts(answering(again, tmp_path)(PROMPTS))[3] == ["question 3: 0"]
    assert again.asked == [("question 3", 0)]


def test_no_answer_at_all_ends_the_run(tmp_path):
    with pytest.raises(RunFailed, match=r"(?s)6 of 6 answers of m failed: the server is on fire.*Fix:"):
        answering(Sampled(fails="question"), tmp_path)(PROMPTS)


def test_an_endpoint_is_evaluated_by_its_answers_alone(tiny, pairs_file, tmp_path):
    """A scripted sampler has no weights: what needs none is measured, KL and length in tokens are not."""
    data = {"path": str(pairs_file), "heldout": 0.5}
    held = [g.prompt for g in load(DataSpec(**data), "prompts").heldout]
    lines = [{"prompt": p.messages[-1]["content"], "answer": "I cannot help"} for p in held[1:]]
    (tmp_path / "script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sampler = {"name": "scripted", "script": str(tmp_path / "script.jsonl")}
    stages = {"eval": {"evaluate": {"models": ["anyone"], "sampler": sampler}}}
    recipe = build({"model": str(tiny), "data": data, "stages": stages})
    assert Run(recipe, tmp_path / "run", Console(quiet=True)).execute() == 0
    found = json.loads((tmp_path / "run" / "eval" / "evaluation.json").read_text())
    model = found["models"]["anyone"]
    assert model["path"] == "anyone"
    assert model["metrics"]["refusal"]["value"] == 1.0
    assert (model["metrics"]["refusal"]["n"], model["metrics"]["refusal"]["n_unscored"]) == (len(held) - 1, 1)
    assert model["metrics"]["length"]["n"] == 0
    assert "kl" not in model["metrics"]


def test_further_samples_change_no_other_metric(tiny, pairs_file, tmp_path):
    """pass@k asks for three answers; everything else is of the first, which is the one that k = 1 gives."""
    common = {"models": [str(tiny)], "gold": {"regex": "a"}, "max_new_tokens": 8}
    more = ["standard", {"pass_at_k": {"k": 2, "samples": 3}}]
    stages = {"one": {"evaluate": common}, "three": {"evaluate": common | {"metrics": more}}}
    recipe = build({"model": str(tiny), "data": {"path": str(pairs_file), "heldout": 0.5}, "stages": stages})
    assert Run(recipe, tmp_path / "run", Console(quiet=True)).execute() == 0
    one, three = (
        json.loads((tmp_path / "run" / name / "evaluation.json").read_text())["models"][str(tiny)]["metrics"]
        for name in stages
    )
    solved = three.pop("pass_at_2")
    assert one == three
    assert solved["n"] == one["gold"]["n"]
    assert 0 < solved["value"] < 1
    assert solved["judge"] == one["gold"]["judge"]


@pytest.mark.parametrize("lines", [1, 4, 11])
def test_a_model_in_memory_says_the_same_after_a_kill_to_the_last_bit(tmp_path, scorer, encoder, lines):
    """Its log-probs depend, in their last bits, on who else is in the batch: a round is asked again as a whole."""
    from kilter.sampling.local import LocalSampler

    prompts = [Prompt(text="q " + "x" * (i % 5) + str(i)) for i in range(12)]
    spec = EvaluateSpec(models=["m"], max_new_tokens=8, temperature=1.0)

    def said(folder):
        sampler = LocalSampler(scorer, encoder)
        found = Answering(spec, Subject("m", "m", None), sampler, "", folder, Console(quiet=True), "eval")
        return found(prompts), found.path

    whole, path = said(tmp_path / "whole" / "eval")
    cut = tmp_path / "cut" / "eval" / "answers" / path.name
    cut.parent.mkdir(parents=True)
    cut.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    again, _ = said(tmp_path / "cut" / "eval")
    assert again == whole
    assert len(cut.read_text().splitlines()) == 12
