"""Rollouts in workers of their own: in turn they change nothing; ahead of the weights they are never older than allowed."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from kilter.cluster.inline import InlineBackend
from kilter.cluster.pool import Pool, Restarts
from kilter.cluster.weights import ObjectTransport, Package, Taken
from kilter.data.dataset import DataSpec, load
from kilter.sampling.config import SamplerSpec
from kilter.seams import FeedbackSource
from kilter.training.apart.rollouts import PooledSampler
from kilter.training.config import TrainSpec
from kilter.training.sources.answers import PolicyAnswers
from kilter.training.sources.prompts import PromptOrder
from kilter.training.sources.rollouts import RolloutSource
from kilter.training.trainer import Trainer
from kilter.types import Completion, Encoded, Feedback, Prompt, Sample, SamplerFacts, Weights


class Fake:
    """Answers with two tokens, and with the version of the weights that it has."""

    def __init__(self):
        self.version = 0

    def ready(self):
        pass

    def pulse(self):
        return 0

    def facts(self):
        return SamplerFacts(exact=True, version=0)

    def load(self, package: Package):
        self.version = package.version
        return Taken(self.version)

    def generate(self, requests, version):
        assert self.version >= version
        answer = Completion("ab", (1, 2), (1, 1), (-0.5, -0.5), "stop", self.version)
        return [Sample(r, i, replace(answer, prompt_ids=(3,))) for r in requests for i in range(r.k)]


class Places(FeedbackSource):
    def __call__(self, groups):
        return [[Feedback(float(n)) for n in range(len(g.completions))] for g in groups]

    def spread(self):
        return None


class FakeEncoder:
    def tokens(self, group):
        ids = tuple(c.token_ids for c in group.completions)
        return Encoded(group, (3,), ids, tuple((1,) * len(i) for i in ids))


def source(backend, size=2, lookahead=0, steps=12, batch=3, restarts=50, prompts=7, stall=20.0, at_once=1):
    from kilter.objectives import build_objective

    pool = Pool(backend, "rollout", size, Fake, {}, stall, Restarts(restarts), at_once=at_once)
    sampler = PooledSampler(pool, ObjectTransport(backend), dict, verify=0, ahead=lookahead)
    return RolloutSource(
        PromptOrder([Prompt(text=str(n), id=str(n)) for n in range(prompts)], seed=3),
        PolicyAnswers(sampler, 2),
        Places(),
        FakeEncoder(),
        build_objective("grpo").needs,
        SamplerSpec(samples=2, max_new_tokens=4),
        None,
        batch,
        max_steps=steps,
        lookahead=lookahead,
    )


def trained(found, learner=lambda: None, upto=None):
    """(prompts in the order in which they trained, staleness of every answer) until the end or a step."""
    order, ages, version = [], [], found.position
    while (upto is None or found.position < upto) and (step := found.next()) is not None:
        order += [e.group.prompt.text for e in step.groups]
        ages += [version - c.policy_version for e in step.groups for c in e.group.completions]
        learner()
        version += 1
        found.after_update(Weights(version))
    return order, ages


IN_TURN = trained(source(InlineBackend()))[0]


@pytest.mark.parametrize("seed", range(1000))
def test_staleness_is_bounded_whatever_the_timing(seed):
    draw = random.Random(seed)
    lookahead = draw.randrange(9)
    slow = draw.choice((0.1, 1.0, 5.0))
    at_once = draw.choice((1, 8))

    # An engine that does several calls at once takes weights at once; others take them in their order.
    def latency(role, number, method, arguments):
        return 0.0 if at_once > 1 and method != "generate" else draw.expovariate(1 / slow)

    backend = InlineBackend(latency)
    for _ in range(draw.choice((0, 0, 1, 4))):
        backend.at(draw.uniform(0, 30), lambda: draw.choice(backend.handles).kill())
    found = source(backend, draw.randint(1, 4), lookahead, at_once=at_once)
    order, ages = trained(found, lambda: backend.pass_time(draw.expovariate(1.0)))
    assert order == IN_TURN
    assert all(0 <= age <= lookahead for age in ages), (lookahead, ages)


@pytest.mark.parametrize("seed", range(30))
def test_a_resumed_run_trains_the_same_prompts(seed):
    draw = random.Random(seed)
    lookahead, cut = draw.randrange(4), draw.randint(1, 11)
    first = source(InlineBackend(), lookahead=lookahead)
    done, _ = trained(first, upto=cut)
    kept = json.loads(json.dumps(first.ahead.state()))
    second = source(InlineBackend(), draw.randint(1, 3), lookahead)
    second.position, second._trained = cut, True
    second.ahead.restore(kept)
    second.after_update(Weights(cut))
    rest, ages = trained(second)
    assert done + rest == IN_TURN
    assert all(0 <= age <= lookahead for age in ages)


def test_a_step_that_asks_again_takes_prompts_behind_those_under_way():
    found = source(InlineBackend(), lookahead=2, steps=4)
    found.select, found.refill = "drop_constant", 1
    dropped = iter([True, False, False, False, False, False, False])
    usable = found._usable
    found._usable = lambda group: None if next(dropped, False) else usable(group)
    taken = []
    while found.next() is not None:
        taken += [g.prompt.text for g in found.last]
        found.after_update(Weights(found.position))
    every = source(InlineBackend()).prompts.take(15)
    plain = [p.text for p in every]
    # Three batches were under way when the first step asked again: it got the fourth's prompts.
    assert taken == plain[:3] + plain[9:12] + plain[3:9] + plain[12:15]


def test_lookahead_pays_when_sampling_and_learning_take_as_long():
    def seconds(lookahead):
        backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "generate" else 0.0)
        found = source(backend, 1, lookahead, steps=20)
        begin = backend.now()
        trained(found, lambda: backend.pass_time(1.0))
        return backend.now() - begin

    in_turn, ahead = seconds(0), seconds(1)
    assert in_turn == pytest.approx(40.0)
    assert ahead == pytest.approx(21.0)


def letters(folder):
    """File of a reward that needs no model."""
    rewards = folder / "rewards.py"
    rewards.write_text(
        "def letters(prompt, completion):\n"
        "    text = completion.text.lower()\n"
        "    return sum('a' <= c <= 'm' for c in text) / max(1, len(text))\n"
    )
    return rewards


def run(tiny, prompts, out, lookahead=None, method="grpo", connect=lambda spec: InlineBackend(), **cluster):
    rewards = letters(out.parent)
    spec = TrainSpec.model_validate(
        {
            "method": method,
            "prompts": "$data",
            "feedback": f"{rewards}:letters",
            "sampler": {"samples": 4, "max_new_tokens": 10},
            "monitors": {"allow_truncation": True, "gold_every": 1000},
            "batch_size": 4,
            "max_steps": 6,
            "learning_rate": 1e-3,
        }
        | ({} if lookahead is None else {"cluster": {"lookahead": lookahead} | cluster})
    )
    data = load(DataSpec(path=str(prompts), heldout=0.0), "prompts")
    Trainer(spec, tiny, data.train, [], out, connect=connect).run()
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


NUMBERS = ("loss", "grad_norm", "reward")


@pytest.mark.parametrize("method", ["grpo", "ppo", "online_dpo", "remax"])
def test_in_turn_workers_change_nothing(tiny, tmp_path, method):
    from kilter.data import store

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    here = run(tiny, prompts, tmp_path / "here", method=method)
    apart = {"rollout": {"place": "apart", "engines": 2}, "verify_weights": 1}
    there = run(tiny, prompts, tmp_path / "there", 0, method, **apart)
    for name in NUMBERS:
        assert [r[name] for r in there] == pytest.approx([r[name] for r in here], rel=1e-6, abs=1e-6)
    tokens = [
        [c.token_ids for g in store.read(tmp_path / at / "groups.jsonl") for c in g.completions]
        for at in ("here", "there")
    ]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 96
    # Nothing is ahead of anything, and no line says so.
    assert not any(name.startswith("async/") for row in there for name in row)


@pytest.mark.parametrize("correction", ["decoupled", "anchored"])
def test_ahead_of_the_weights_a_run_goes_to_its_end(tiny, tmp_path, correction):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    apart = {"rollout": {"place": "apart"}, "correction": correction}
    rows = run(tiny, prompts, tmp_path / "ahead", 2, **apart)
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
    # The first step's weights are those that drew it; from the third on every answer is two updates old.
    assert [r["async/staleness_mean"] for r in rows] == [0, 1, 2, 2, 2, 2]
    assert [r["async/staleness_max"] for r in rows] == [0, 1, 2, 2, 2, 2]


def test_the_bench_s_engine_gains_what_lookahead_promises():
    from bench.ahead import measure

    in_turn, one, two = measure([0, 1, 2], 25, ray=False)
    assert one["ratio"] >= 1.6
    assert two["ratio"] >= 2.1
    for row in (in_turn, one, two):
        assert 0 <= row["min"] <= row["max"] <= row["lookahead"]
