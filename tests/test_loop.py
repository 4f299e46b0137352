"""The loop and what stands around it: hooks in their order, annotators and methods by name."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path

import pytest

import kilter
from kilter.batch import Needs
from kilter.data.dataset import DataSpec, load
from kilter.errors import RunFailed, UserError
from kilter.objectives import objectives
from kilter.seams import Hook, Step, Stop
from kilter.training import annotate, checks
from kilter.training import loop as loops
from kilter.training.config import TrainSpec
from kilter.training.loop import Hooks
from kilter.training.trainer import Trainer
from kilter.types import Weights

ROOT = Path(kilter.__file__).parent
MAY_NAME = {
    "objectives": "where methods are",
    "advice": "its subject is which method to take",
    "cli/advise.py": "asks what the plainest training would take of this machine",
    "study/study.py": "the default methods that train the start and the judge of a comparison",
}
"""Rooms and files that name methods as a book on them does, with the reason."""


def trees():
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        if name.parts[0] not in MAY_NAME and str(name) not in MAY_NAME:
            yield name, ast.parse(path.read_text())


def test_the_loop_fits_on_a_screen_and_asks_no_types():
    source = inspect.getsource(loops.loop)
    assert len(source.splitlines()) <= 50
    for word in ("isinstance", "getattr", "hasattr"):
        assert word not in inspect.getsource(loops)


def test_no_method_is_named_outside_objectives():
    """A method declares what it wants: no other file holds its name, as a text or an attribute, or its class."""
    names = set(objectives.names())
    assert len(names) > 50
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kilter.objectives."):
                if node.module.count(".") > 2:
                    found.append(f"{path}:{node.lineno} imports {node.module}")
            elif isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{path}:{node.lineno} names {node.value}")
            elif isinstance(node, ast.Attribute) and node.attr in names:
                found.append(f"{path}:{node.lineno} asks for .{node.attr}")
    assert found == []


def test_training_asks_no_types_of_its_own_parts():
    """Sources, learners, hooks and objectives are told apart by lookup or by what they declare."""
    own = {
        node.name
        for folder in ("training", "objectives", "models")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    found = []
    for path, tree in trees():
        if path.parts[0] != "training":
            continue
        asserted = {id(n) for a in ast.walk(tree) if isinstance(a, ast.Assert) for n in ast.walk(a)}
        for node in ast.walk(tree):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if called and node.func.id == "isinstance" and id(node) not in asserted:
                asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                found += [f"{path}:{node.lineno} asks for {name}" for name in asked & own]
    assert found == []


# Hooks


class Note(Hook):
    """Writes down what it is called for."""

    def __init__(self, name, seen, stop_at=None, fails=None):
        self.name, self.seen, self.stop_at, self.fails = name, seen, stop_at, fails

    def before_run(self, done):
        self.seen.append((self.name, "before_run", done))

    def after_step(self, step, batch, record):
        self.seen.append((self.name, "after_step", step.number))
        record[self.name] = step.number
        if self.fails == step.number:
            raise RunFailed("as asked", "do it again")
        return Stop("enough") if self.stop_at == step.number else None

    def state(self):
        return {"seen": len(self.seen)} if self.name == "a" else {}

    def close(self, error):
        self.seen.append((self.name, "close", type(error).__name__))


class Counting:
    """A source of empty steps."""

    position, total_steps = 0, 3

    def next(self):
        self.position += 1
        return Step(self.position, 0.0, 0.0, []) if self.position <= self.total_steps else None

    def __init__(self):
        self.given = []

    def after_update(self, weights):
        self.given.append(weights)


class Still:
    """A learner that learns nothing, and says so."""

    weights = Weights(0)

    def collect(self, groups):
        return None

    def annotate(self, batch, needs):
        return batch

    def prepare(self, batch, objective):
        return batch

    def update(self, batch, objective, number):
        self.weights = Weights(number)
        return {"loss": float(number)}


def walk(*hooks, done=None, source=None):
    class Nothing:
        needs = Needs("pairs", "group")

    return loops.loop(source or Counting(), Still(), Nothing(), Hooks(hooks), done)


def test_the_source_is_handed_the_weights_that_each_update_left():
    source = Counting()
    walk(source=source)
    assert [weights.version for weights in source.given] == [1, 2, 3]


def test_hooks_see_every_step_in_their_order_and_close_in_reverse():
    seen = []
    record, stop = walk(Note("a", seen), Note("b", seen), done=0)
    assert stop is None
    assert list(record) == ["step", "epoch", "loss", "a", "b"]
    steps = [(name, "after_step", n) for n in (1, 2, 3) for name in "ab"]
    begin = [("a", "before_run", 0), ("b", "before_run", 0)]
    assert seen == [*begin, *steps, ("b", "close", "NoneType"), ("a", "close", "NoneType")]


def test_a_stop_ends_the_run_before_later_hooks_see_the_step():
    seen = []
    record, stop = walk(Note("a", seen, stop_at=2), Note("b", seen))
    assert stop == Stop("enough")
    assert record["a"] == 2
    assert ("b", "after_step", 2) not in seen


def test_what_a_run_failed_with_reaches_every_hook():
    seen = []
    with pytest.raises(RunFailed, match="as asked"):
        walk(Note("a", seen), Note("b", seen, fails=1))
    assert seen[-2:] == [("b", "close", "RunFailed"), ("a", "close", "RunFailed")]


def test_the_state_of_hooks_goes_by_name():
    seen = []
    assert Hooks((Note("a", seen), Note("b", seen))).state() == {"a": {"seen": 0}}


# Annotators


METHOD = '''
from dataclasses import dataclass, replace

import torch

from kilter.objectives.pairs.dpo import DPO

def row_lengths(batch, learner):
    """Characters of this file's own arithmetic: the tokens of each row."""
    return batch.with_extra(row_lengths_B=batch.mask_BT.sum(-1))

@dataclass(frozen=True)
class Longer(DPO):
    """DPO that knows how long its rows are.

        L = DPO's

    Paper: none.
    """

    @property
    def needs(self):
        base = super().needs
        return replace(base, annotations=base.annotations | {__file__ + ":row_lengths"})

    def loss(self, out, batch):
        assert batch.extra["row_lengths_B"].tolist() == batch.mask_BT.sum(-1).tolist()
        return super().loss(out, batch)
'''


def test_an_annotator_of_ones_own_is_a_function_in_a_file(tiny, tmp_path, pairs_file):
    path = tmp_path / "longer.py"
    path.write_text(METHOD)
    data = load(DataSpec(path=str(pairs_file), heldout=0.2), "pairs")
    records = []
    for method in (f"{path}:Longer", "dpo"):
        out = tmp_path / method.rpartition(":")[2]
        spec = TrainSpec(method=method, max_steps=2, batch_size=4, tokens_per_microbatch=64)
        Trainer(spec, tiny, data.train, data.heldout, out).run()
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        records.append([line["loss"] for line in lines])
    assert records[0] == records[1]


def test_an_unknown_annotation_is_named():
    with pytest.raises(UserError, match="Did you mean 'ref_logps'"):
        annotate.chosen(Needs("pairs", "group", annotations=frozenset({"ref_logp"})))


def test_annotators_run_in_the_order_of_their_file():
    asked = {"mismatched_kl", "mask_truncated", "ref_logps"}
    names = [f.__name__ for f in annotate.chosen(Needs("unpaired", "row", annotations=frozenset(asked)))]
    assert names == ["reference_logps", "mask_truncated", "mismatched_kl"]
    together = Needs("rollouts", "row", annotations=frozenset({"old_logps", "old_values"}))
    assert annotate.chosen(together) == [annotate.rollout_logps]


def test_old_rollouts_are_replayed_with_the_kl_in_the_reward(tiny, tmp_path):
    """Without a ratio the KL is that of the present policy, and the weights are those of the sampler."""
    rows = [
        {
            "prompt": {"text": f"Say {i}"},
            "completions": [
                {
                    "text": t,
                    "token_ids": [70 + i, 80, 1],
                    "mask": [1, 1, 1],
                    "sampling_logps": [-5.0, -5.0, -5.0],
                }
                for t in "ab"
            ],
            "feedback": [{"score": float(i % 2)}, {"score": 0.5}],
        }
        for i in range(8)
    ]
    path = tmp_path / "groups.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = load(DataSpec(path=str(path), heldout=0), "rollouts")
    spec = TrainSpec(method={"name": "reinforce", "beta": 0.1}, max_steps=2, batch_size=4, replay=True)
    Trainer(spec, tiny, data.train, [], tmp_path / "run").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("kl" in line and "sampling/importance_sampling_ratio/mean" in line for line in lines)


# Rules


def test_every_rule_says_what_it_is_about():
    rules = (*checks.ALWAYS, *checks.ON_DATA, *checks.ON_ROLLOUTS)
    assert len(set(rules)) == len(rules)
    assert all(rule.__doc__ for rule in rules)
