"""Several processes take the steps of one, whichever of them has no work: threads stand in for the processes."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kilter.cluster.inline import InlineBackend
from kilter.errors import RunFailed
from kilter.objectives import build_objective, objectives
from kilter.training import scorers
from kilter.training.apart import rollouts
from kilter.training.config import TrainSpec
from kilter.training.parallel.engine import Engine
from kilter.training.parallel.teams import team_of
from kilter.training.trainer import Trainer
from kilter.types import Completion, Feedback, Group, Prompt

CLOCKS = ("time", "seconds", "per_second", "memory")

SPARSE = '''
from kilter.seams import FeedbackSource
from kilter.types import Feedback

class Sparse(FeedbackSource):
    """The length of an answer counts for some prompts; all answers to the others score 0, or have no score."""

    def __init__(self, solvable: list, broken: list = ()):
        self.solvable, self.broken = solvable, broken

    def score(self, prompt, text):
        name = prompt.messages[-1]["content"]
        if name in self.broken:
            return Feedback(None, rationale="no score")
        return Feedback(float(len(text) % 3) if name in self.solvable else 0.0)

    def __call__(self, groups):
        return [[self.score(g.prompt, c.text) for c in g.completions] for g in groups]
'''


@dataclass
class Table:
    """Where the threads meet: every collective of one must be every other's, in the same order."""

    world: int
    values: dict[int, Any] = field(default_factory=dict)
    teams: dict[tuple[range, int], Table] = field(default_factory=dict)

    def __post_init__(self):
        self.barrier = threading.Barrier(self.world)

    def meet(self, rank, kind, value):
        self.values[rank] = (kind, value)
        self.barrier.wait(30)
        kinds = {kind for kind, _ in self.values.values()}
        assert len(kinds) == 1, f"collectives differ: {kinds}"
        found = [self.values[r][1] for r in range(self.world)]
        self.barrier.wait(30)
        return found


class ThreadEngine(Engine):
    """One of several threads; gradients are summed as DDP would, and each forward is a collective."""

    def __init__(self, rank, table):
        super().__init__()
        self.rank, self.world, self.table = rank, table.world, table

    def wrap(self, module):
        for p, first in zip(module.parameters(), self.gather([p.data for p in module.parameters()])[0]):
            p.data = first.clone()
        module.register_forward_pre_hook(lambda *_: self.table.meet(self.rank, "forward", None) and None)
        return module

    def gather(self, value):
        return self.table.meet(self.rank, "gather", value)

    def team(self, count):
        # Those of one team meet without the others.
        mine = lambda own: self.table.teams.setdefault((own, count), Table(len(own)))
        gather = lambda own, value: mine(own).meet(self.rank - own.start, "team", value)
        return team_of(self.rank, self.world, count, gather)

    def sum(self, value):
        assert value.ndim <= 1
        return torch.stack(self.table.meet(self.rank, f"sum {tuple(value.shape)}", value)).sum(0)

    def max(self, value):
        return max(self.table.meet(self.rank, "max", value))

    def update(self, modules, optimizer, *arguments):
        for module in modules:
            for p in module.parameters():
                grads = self.table.meet(self.rank, "gradient", p.grad)
                # DDP fails on a weight that took part in some forwards alone.
                assert len({g is None for g in grads}) == 1
                if grads[0] is not None:
                    p.grad = torch.stack(grads).sum(0)
        return super().update(modules, optimizer, *arguments)

    def barrier(self):
        self.table.meet(self.rank, "barrier", None)


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """Trains one spec in as many threads as asked for; gives metrics, rollouts and weights."""
    local = threading.local()
    monkeypatch.setattr("kilter.training.trainer.make_engine", lambda *_: local.engine)
    # transformers opens one model at a time; fresh heads are drawn, so that each begins with the same seed.
    lock, open_model = threading.Lock(), scorers.open_model

    def open_alone(*arguments):
        with lock:
            torch.manual_seed(0)
            return open_model(*arguments)

    monkeypatch.setattr(scorers, "open_model", open_alone)
    monkeypatch.setattr(rollouts, "open_model", open_alone)

    def work(spec, groups, heldout, out, rank, table, failures, make):
        local.engine = ThreadEngine(rank, table) if table.world > 1 else Engine()
        try:
            backend = make(rank)
            Trainer(spec, tiny, groups, heldout, out, name="run", connect=lambda _: backend).run()
        except BaseException as error:
            failures[rank] = error
            table.barrier.abort()

    def run(spec, groups, world, heldout=(), make=lambda rank: InlineBackend()):
        out = tmp_path / f"{world}-{len(list(tmp_path.iterdir()))}"
        table, failures = Table(world), {}
        arguments = [(spec, groups, heldout, out, rank, table, failures, make) for rank in range(world)]
        threads = [threading.Thread(target=work, args=a) for a in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in failures.values():
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return out

    return run


def read(out, name="metrics.jsonl"):
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def same(one, several):
    """Metrics of both, and the final weights."""
    want, got = read(one), read(several)
    assert len(want) == len(got)
    for a, b in zip(want, got):
        assert a.keys() == b.keys()
        for key in a:
            if not any(key.endswith(clock) or key.startswith(clock) for clock in CLOCKS):
                assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-4), (a["step"], key)
    weights = [load_file(next((folder / "model").glob("*model.safetensors"))) for folder in (one, several)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-3, rtol=1e-2)


@pytest.fixture
def sparse(tmp_path):
    """A feedback by the names of the prompts that can be solved, and of those that cannot be scored."""
    path = tmp_path / "rewards.py"
    path.write_text(SPARSE)
    return lambda solvable, broken=(): {f"{path}:Sparse": {"solvable": solvable, "broken": list(broken)}}


PROMPTS = [Group(Prompt(messages=({"role": "user", "content": f"Say {c}"},)), (), ()) for c in "abcdefgh"]


def online(method, feedback, **changes):
    return TrainSpec.model_validate(
        {
            "method": method,
            "prompts": "$data",
            "feedback": feedback,
            "sampler": {"samples": 4, "max_new_tokens": 5},
            "batch_size": 4,
            "max_steps": 3,
            "shuffle": False,
            "learning_rate": 1e-3,
            "warmup_ratio": 0.0,
            "save_every": 100,
            "tokens_per_microbatch": 60,
            "monitors": {"stop": False, "allow_truncation": True, "pin": False},
        }
        | changes
    )


ONLINE = [
    name
    for name in objectives.names()
    if (needs := build_objective(name).needs).shape != "unpaired"
    and needs.rows != "joint"
    and not needs.teacher
    and needs.models <= {"policy", "critic"}
]
FAMILIES = {"grpo", "ppo", "remax", "online_dpo", "nash_md", "dpo", "aot", "pro", "sft"}
"""One of each kind of source, unit and stand-in; the others run with the slow tests."""


def patterns(name):
    """Prompts that can be solved and that cannot be scored, in three steps; one rank is idle most of the time."""
    draw = random.Random(name)
    solvable = [g.prompt.messages[0]["content"] for g in draw.sample(PROMPTS, 3)]
    broken = [g.prompt.messages[0]["content"] for g in draw.sample(PROMPTS, 2)]
    return solvable, broken, draw.choice((2, 2, 3))


@pytest.mark.parametrize(
    "name", [n if n in FAMILIES else pytest.param(n, marks=pytest.mark.slow) for n in ONLINE]
)
def test_every_online_method_takes_the_steps_of_one_process(train, sparse, name):
    solvable, broken, world = patterns(name)
    spec = online(name, sparse(solvable, broken))
    same(train(spec, PROMPTS, 1), train(spec, PROMPTS, world))


def sharing(world, engines, **settings):
    """A learner of so many ranks and fewer engines."""
    rollout = {"place": "apart", "engines": engines}
    return {"learner": {"processes": world}, "rollout": rollout} | settings


@pytest.mark.parametrize(
    ("name", "world", "engines", "lookahead", "changes"),
    [
        ("grpo", 3, 2, 2, {}),
        ("remax", 3, 2, 1, {}),
        ("online_dpo", 3, 2, 0, {}),
        ("dapo", 3, 1, 2, {"select": "drop_constant", "refill": 2}),
        ("ppo", 4, 3, 1, {}),
    ],
)
def test_ranks_that_share_engines_take_the_steps_of_one_process(
    train, sparse, name, world, engines, lookahead, changes
):
    feedback = sparse(["Say a", "Say b", "Say d", "Say f"], ["Say c"])
    spec = lambda ranks, of: online(
        name, feedback, batch_size=6, max_steps=4, cluster=sharing(ranks, of, lookahead=lookahead), **changes
    )
    one, several = train(spec(1, 2), PROMPTS, 1), train(spec(world, engines), PROMPTS, world)
    same(one, several)


def test_gold_answers_are_made_once_for_ranks_that_share_an_engine(train, sparse):
    """Each rank sees them, and all decide alike. Workers answer what nobody else has asked them."""
    make = lambda rank: InlineBackend(lambda *call: asked.append(call) or 0.0)
    feedback, asked = sparse(["Say a", "Say b", "Say d", "Say f"]), []
    monitors = {"stop": False, "allow_truncation": True, "gold": feedback, "gold_every": 2}
    spec = lambda ranks: online("grpo", feedback, monitors=monitors, cluster=sharing(ranks, 1))
    one = train(spec(1), PROMPTS, 1, heldout=PROMPTS[:3], make=make)
    made = lambda: sum(r.k for _, _, method, a in asked if method == "generate" for r in a[0])
    alone, asked = made(), []
    several = train(spec(3), PROMPTS, 3, heldout=PROMPTS[:3], make=make)
    same(one, several)
    assert [e["values"] for e in read(one, "gold.jsonl")] == [
        e["values"] for e in read(several, "gold.jsonl")
    ]
    assert made() == alone


def test_a_lost_engine_that_ranks_share_is_replaced_and_no_number_changes(train, sparse):
    def make(rank):
        backend, left = InlineBackend(), [3]

        def latency(role, number, method, arguments):
            left[0] -= method == "generate"
            if method == "generate" and left[0] == 0:
                backend.handles[-1].kill()
            return 0.0

        backend.latency = latency
        return backend

    feedback = sparse(["Say a", "Say b", "Say d", "Say f"])
    spec = lambda ranks: online("grpo", feedback, cluster=sharing(ranks, 1, restarts=1))
    one, several = train(spec(1), PROMPTS, 1), train(spec(2), PROMPTS, 2, make=make)
    same(one, several)
    assert any("lost worker" in e["message"] for e in read(several, "events.jsonl"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("grpo", {"minibatches": 3, "inner_epochs": 2}),
        ("dapo", {"select": "drop_constant", "refill": 2}),
        ("ppo", {"kl_control": {"mode": "adaptive", "target": 1.0}, "batch_size": 3}),
        ({"name": "grpo", "loss_aggregation": "token", "beta": 0.1}, {"adapter": {"r": 2, "dropout": 0.0}}),
    ],
    ids=str,
)
def test_ranks_without_a_spread_change_no_number(train, sparse, name, changes):
    """Mini-batches, refills, the KL controller, token-level denominators, adapters."""
    spec = online(name, sparse(["Say b", "Say d", "Say f"], ["Say c"]), **changes)
    one, two = train(spec, PROMPTS, 1), train(spec, PROMPTS, 2)
    same(one, two)
    # The files of all ranks are one, in the order of the prompts.
    clean = lambda out: [
        (r["prompt"], [c["text"] for c in r["completions"]]) for r in read(out, "groups.jsonl")
    ]
    assert clean(one) == clean(two)
    events = lambda out: [(e["step"], e["monitor"]) for e in read(out, "events.jsonl")]
    assert events(one) == events(two) != []
    assert not list(two.glob("groups.*.jsonl"))


def test_a_step_without_a_spread_is_skipped_and_counted(train, sparse):
    """Four steps of pairs: only the last prompts differ in score; three in a row without are no failure."""
    spec = online("dpo", sparse(["Say h"]), batch_size=2, max_steps=4)
    for world in (1, 2):
        lines = read(train(spec, PROMPTS, world))
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert [line.get("skipped_steps") for line in lines] == [1, 2, 3, 3]
        assert [line["loss"] > 0 for line in lines] == [False, False, False, True]


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_in_which_nothing_ever_differs_fails_with_the_cause(train, sparse, world):
    with pytest.raises(RunFailed, match=r"Not one step[\s\S]*scored alike"):
        train(online("dpo", sparse([]), max_steps=2), PROMPTS, world)


@pytest.mark.parametrize("method", ["dpo", "kto", "bradley_terry", "dr_dpo", "plackett_luce"])
def test_uneven_rows_and_a_rank_without_heldout_groups(train, method):
    """Five groups in steps of two, one held out: the last step and the evaluation leave a rank without work."""
    labelled = build_objective(method).needs.shape == "unpaired"
    groups = load_rows(6, "unpaired" if labelled else "pairs")
    spec = TrainSpec(method=method, batch_size=2, max_steps=3, learning_rate=1e-3, eval_every=2, save_every=9)
    same(train(spec, groups[:5], 1, groups[5:]), train(spec, groups[:5], 2, groups[5:]))


def test_processes_that_share_no_disk_find_every_reference_row(train, tmp_path, monkeypatch):
    groups = load_rows(6, "pairs")
    spec = TrainSpec(method="dpo", batch_size=3, max_steps=3, learning_rate=1e-3, save_every=9)
    one = train(spec, groups, 1)
    monkeypatch.setattr(scorers, "cache_root", lambda: tmp_path / f"cache-{threading.get_ident()}")
    same(one, train(spec, groups, 2))


def load_rows(n, shape):
    """Groups of growing length, as the data set gives them."""
    answers = [(Completion("good " + "y" * i), Completion("bad" + " z" * (i % 3))) for i in range(n)]
    prompts = [Prompt(messages=({"role": "user", "content": f"Question {i}"},)) for i in range(n)]
    if shape == "pairs":
        return [Group(p, a, (Feedback(1.0), Feedback(0.0))) for p, a in zip(prompts, answers)]
    return [Group(p, a[:1], (Feedback(float(i % 3 > 0)),)) for i, (p, a) in enumerate(zip(prompts, answers))]
