"""Weights are chosen by prompts of their own: nothing learns from them, and no evaluation asks them unseen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import pair_rows
from kilter import recipe
from kilter.data.dataset import Dataset, DataSpec, load, prompt_key
from kilter.errors import Exit
from kilter.pipeline.runner import Run
from kilter.screen import Screen
from kilter.types import Group, Prompt


def asked(number: int, **metadata: object) -> Group:
    return Group(
        Prompt(messages=({"role": "user", "content": f"Question {number}"},), metadata=metadata), (), ()
    )


ROWS = st.lists(
    st.builds(
        lambda n, twins, cluster: asked(
            n, **({"twins": f"t{n // 2}"} if twins else {}), **({"cluster": cluster} if cluster else {})
        ),
        st.integers(0, 60),
        st.booleans(),
        st.sampled_from(["", "", "a", "b", 7]),
    ),
    min_size=1,
    max_size=60,
)


def keys(groups) -> set[str]:
    return {prompt_key(g.prompt) for g in groups}


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, wanted=st.integers(0, 40), seed=st.integers(0, 3), order=st.randoms())
def test_whole_prompts_twins_and_clusters_are_set_aside(rows, wanted, seed, order):
    # A prompt has one set of columns, as in a file.
    known = {prompt_key(g.prompt): g for g in rows}
    rows = [known[prompt_key(g.prompt)] for g in rows]
    data = Dataset(DataSpec(path="x", seed=seed), rows, [asked(99)])
    found = data.set_aside(wanted)
    assert Counter(map(repr, (*found.train, *found.select))) == Counter(map(repr, rows))
    assert found.heldout == data.heldout
    assert not keys(found.train) & keys(found.select)
    for column in ("twins", "cluster"):
        sides = [
            {g.prompt.metadata.get(column) for g in part} - {None} for part in (found.train, found.select)
        ]
        # A cluster is wider than its twins.
        if column == "cluster" or not any("cluster" in g.prompt.metadata for g in rows):
            assert not sides[0] & sides[1]
    assert len(keys(found.select)) <= min(wanted, len(keys(rows)) // 4)
    # Where every prompt stands alone, as many are taken as may be.
    if not any(g.prompt.metadata for g in rows):
        assert len(keys(found.select)) == min(wanted, len(keys(rows)) // 4)
    order.shuffle(rows)
    assert keys(replace(data, train=rows).set_aside(wanted).select) == keys(found.select)


def test_near_duplicates_stay_together_where_the_split_keeps_them(tmp_path):
    path = tmp_path / "p.jsonl"
    long = "Please tell me, in a few words, how a steam engine turns heat into motion, part {} of it"
    words = [long.format(chr(97 + i)) for i in range(6)] + [
        f"Something else entirely {i * 7919}" for i in range(40)
    ]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in words))
    sides = set()
    for seed in range(12):
        data = load(DataSpec(path=str(path), heldout=0.1, split_by="near_duplicates", seed=seed), "prompts")
        found = data.set_aside(12)
        alike = [
            ["steam engine" in g.prompt.messages[0]["content"] for g in part]
            for part in (found.train, found.select)
        ]
        assert sum(map(any, alike)) <= 1
        sides.add(any(alike[1]))
    assert sides == {True, False}


POLICY = {"conditions": [{"metric": "length", "bound": "value", "op": ">=", "value": 0}]}


def pipeline(home: Path, model: Path, train: dict, **evaluate: object) -> tuple[int, Path]:
    """A run that chooses its weights, evaluates them and gates on it."""
    (home / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(32)))
    raw = {
        "model": str(model),
        "data": {"data": {"path": str(home / "pairs.jsonl"), "heldout": 0.25}},
        "stages": {
            "tuned": {"train": {"batch_size": 2, "max_length": 64, "learning_rate": 1e-2} | train},
            "eval": {
                "evaluate": {"models": ["tuned"], "max_new_tokens": 4, "metrics": ["length"], "data": "$data"}
                | evaluate
            },
            "gate": {"gate": {"policy": POLICY, "allow_means": True, "candidate": "tuned"}},
        },
    }
    (home / "r.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return Run(recipe.build(raw), home / "run", Screen(quiet=True)).execute(), home / "run"


ONLINE = {
    "method": "grpo",
    "prompts": "$data",
    "feedback": {"regex": "[a-m]"},
    "sampler": {"samples": 2, "max_new_tokens": 4},
    "monitors": {"gold": {"regex": "[n-z]"}, "gold_every": 1, "gold_prompts": 4, "allow_truncation": True},
    "max_steps": 2,
}
EARLY = {"method": "sft", "eval_every": 1, "max_steps": 3, "early_stopping": {"patience": 1}}


@pytest.fixture
def asked_by_gold(monkeypatch) -> list[set[str]]:
    """Prompts of every gold evaluation."""
    from kilter.training.monitors import GoldEvaluator

    seen: list[set[str]] = []
    original = GoldEvaluator.__call__

    def call(self, *rest):
        seen.append({prompt_key(p) for p in self.prompts})
        return original(self, *rest)

    monkeypatch.setattr(GoldEvaluator, "__call__", call)
    return seen


def test_keep_best_asks_prompts_that_no_evaluation_and_no_step_reads(tiny, tmp_path, asked_by_gold):
    code, run = pipeline(tmp_path, tiny, ONLINE)
    assert code == Exit.OK
    data = load(DataSpec(path=str(tmp_path / "pairs.jsonl"), heldout=0.25), "prompts")
    assert asked_by_gold
    chosen = set().union(*asked_by_gold)
    assert len(chosen) == 4
    assert not chosen & keys(data.heldout)
    from kilter.data import store

    assert not chosen & keys(store.read(run / "tuned" / "groups.jsonl"))
    # A later evaluation has to know them.
    noted = set((run / "tuned" / "trained_prompts.txt").read_text().split())
    assert {key[:16] for key in chosen} <= noted


@pytest.mark.parametrize("train", [ONLINE, EARLY], ids=["keep_best", "early stopping"])
def test_an_evaluation_that_asks_what_chose_the_weights_fails(tiny, tmp_path, train, monkeypatch):
    """The only prompts that it asks beside held-out ones are those that chose: nothing learned from them."""
    original = Dataset.set_aside

    def all_but_chosen(self, prompts):
        found = original(self, prompts)
        assert found.select
        (tmp_path / "chosen.jsonl").write_text(
            "".join(json.dumps({"prompt": g.prompt.messages[0]["content"]}) + "\n" for g in found.select)
        )
        return found

    monkeypatch.setattr(Dataset, "set_aside", all_but_chosen)
    code, run = pipeline(tmp_path, tiny, train)
    assert code == Exit.OK
    from kilter import evaluate

    made = evaluate(
        [str(run / "tuned" / "model")],
        str(tmp_path / "chosen.jsonl"),
        tmp_path / "again",
        split="all",
        max_new_tokens=4,
        metrics=["length"],
    )
    del made
    found = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert found["prompts_found_in_training_data"] == found["n_prompts"] > 0
    from kilter.release.gate import decide
    from kilter.release.gate.policy import Policy

    verdict = decide(
        Policy.model_validate({"name": "p"} | POLICY), found, next(iter(found["models"])), allow_means=True
    )
    assert verdict["verdict"] == "fail"
    assert "or chose the weights that were kept" in verdict["conditions"][-1]["why"]
