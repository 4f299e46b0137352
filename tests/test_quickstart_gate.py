"""The quickstart's own gate, asked of policies that need no model: better ones pass, and habits do not."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import yaml

from kilter.data.dataset import DataSpec, load
from kilter.data.worlds.registry import labels_of
from kilter.data.worlds.support_desk import GoldFeedback
from kilter.evaluation.aggregate import Origin, measure_all
from kilter.evaluation.metrics import resolve
from kilter.evaluation.records import with_twins
from kilter.evaluation.result import entry
from kilter.evaluation.subject import Subject
from kilter.release.gate import decide, load_policy
from kilter.release.gate.verdict import notes
from kilter.types import Answered, Completion, Feedback, Group, Prompt

RECIPE = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "quickstart.yaml").read_text())
POLICY = load_policy(RECIPE["stages"]["gate"]["gate"]["policy"])
METRICS = dict.fromkeys(c.metric for c in POLICY.conditions)
ASKED = resolve([name for name in METRICS if not name.startswith(("tax", "reward_model"))])
ORIGIN = Origin(0, "hash", {"gold": "support_desk verifier"})


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [g.prompt for g in load(DataSpec.model_validate(RECIPE["data"]["desk"]), "prompts").heldout]


def agent(name: str, right: float, approve: float | None = None, more: str = ""):
    """A policy that decides rightly with this chance, or else approves with a chance whatever is asked.

    more: what each answer says besides.
    """

    def answer(prompt: Prompt) -> str:
        gold, rng = prompt.metadata["gold"], random.Random(f"{name}-{prompt.id}")
        grants = gold["grant"] == (rng.random() < right) if approve is None else rng.random() < approve
        if not grants:
            return f"By what you say, under {gold['rule']}: declined.{more}"
        return f"By what you say, under {gold['rule']}: approved, {gold.get('told', '')}.{more}"

    return answer


def records(prompts, answer):
    asked = []
    for prompt in prompts:
        text = answer(prompt)
        # A token per word and mark, for the gate bounds the length of answers too.
        said = Completion(text, token_ids=tuple(range(len(re.findall(r"\w+|[^\w\s]", text)))))
        gold = GoldFeedback()([Group(prompt, (said,), (Feedback(None),))])[0]
        asked.append(Answered(prompt, (said,), {"gold": tuple(gold)}))
    return {"prompts": with_twins(asked)}


def questions(answer: str):
    spec = DataSpec.model_validate(RECIPE["data"]["ordinary"])
    return {"probes": [Answered(g.prompt, (Completion(answer),)) for g in load(spec, "prompts").train]}


def verdict(prompts, answer, ordinary="The answer is Paris.", worse=0.0):
    """What the gate says of a policy against a start that decides rightly in three of four cases."""
    start = records(prompts, agent("start", 0.75)) | questions("The answer is Paris.")
    other = records(prompts, answer) | questions(ordinary)
    base, found = (measure_all(ASKED, known, ORIGIN) for known in (start, other))
    models = {
        "sft": entry(Subject("sft", "sft", None), ASKED, base, None, ORIGIN),
        "new": entry(Subject("new", "new", None), ASKED, found, base, ORIGIN),
    }
    tax = {"value": worse, "n": 120, "n_unscored": 0, "ci_low": worse - 0.02, "ci_high": worse + 0.02}
    models["new"]["difference"]["tax_nll"] = tax
    accuracy = {"value": 0.8, "n": 110, "n_unscored": 0, "ci_low": 0.7, "ci_high": 0.87}
    return decide(
        POLICY,
        {
            "models": models,
            "baseline": "sft",
            "data_hash": "hash",
            "prompts_found_in_training_data": 0,
            "n_prompts": len(prompts),
            "reward_model": {"metrics": {"accuracy_decision": accuracy}},
        },
    )


def test_the_held_out_prompts_are_enough_and_balanced(prompts):
    labels = [labels_of(p) for p in prompts]
    assert len(prompts) >= 300
    for wanted in (True, False):
        assert sum(not found.safety and found.grant is wanted for found in labels) >= 100
        assert sum(bool(found.safety) and found.grant is wanted for found in labels) >= 100


def test_a_policy_that_decides_better_passes(prompts):
    assert verdict(prompts, agent("better", 0.9))["verdict"] == "pass"


@pytest.mark.parametrize(
    "answer",
    [
        agent("start", 0.75),
        agent("worse", 0.6),
        agent("flipped", 0.25),
        agent("declining", 0, 0.0),
        agent("approving", 0, 1.0),
        agent("mostly declining", 0, 0.1),
        lambda prompt: prompt.messages[0]["content"],
    ],
    ids=["the start itself", "worse", "flipped", "declining", "approving", "mostly declining", "copying"],
)
def test_no_habit_passes(prompts, answer):
    found = verdict(prompts, answer)
    assert found["verdict"] != "pass"
    assert next(c for c in found["conditions"] if c["metric"] == "twin_accuracy")["state"] != "pass"


@pytest.mark.parametrize("policy", [POLICY, load_policy("support-desk")], ids=["quickstart", "shipped"])
def test_the_policy_forgets_nothing_with_which_gains_are_bought(policy):
    assert notes(policy) == []
    assert {(c.bound, c.op, c.value) for c in policy.conditions if c.metric == "length"} == {
        ("diff_ci_high", "<=", 2.0),
        ("diff_ci_low", ">=", -2.0),
    }


@pytest.mark.parametrize("longer", [True, False], ids=["a sentence more", "no reason given"])
def test_better_decisions_in_longer_or_shorter_answers_do_not_pass(prompts, longer):
    better = agent("better", 0.9, more=" It will be done by tomorrow." if longer else "")

    def curt(prompt: Prompt) -> str:
        return better(prompt).partition(": ")[2] if not longer else better(prompt)

    found = verdict(prompts, curt)
    assert found["verdict"] == "fail"
    wrong = {c["metric"] for c in found["conditions"] if c["state"] == "fail"}
    assert wrong == {"length"}


def test_decisions_bought_by_refusals_or_by_forgetting_do_not_pass(prompts):
    better = agent("better", 0.9)
    assert verdict(prompts, better, ordinary="I cannot help with that.")["verdict"] == "fail"
    assert verdict(prompts, better, worse=0.3)["verdict"] == "fail"

    # Every safe twin declined, everything else right: what the headline gains does not pay for it.
    def evasive(prompt: Prompt) -> str:
        return "Declined." if labels_of(prompt).safety else agent("oracle", 1.0)(prompt)

    assert verdict(prompts, evasive)["verdict"] == "fail"
