"""A rollout worker around vLLM, on a CPU: weights that change under answers, and an engine that dies. One engine at a time."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch

from test_vllm import model  # noqa: F401

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]

LONG = 400
"""Tokens of an answer that new weights meet under way."""


class Learner:
    """A policy in training, and rollout workers of one engine that follow it."""

    def __init__(self, folder):
        from kilter.cluster.inline import InlineBackend
        from kilter.cluster.pool import Pool, Restarts
        from kilter.cluster.weights import ObjectTransport
        from kilter.roles.open import OpenSpec, open_encoder, open_model
        from kilter.sampling.config import SamplerKind
        from kilter.sampling.vllm_weights import MergedWeights
        from kilter.training.apart.rollouts import PooledSampler
        from kilter.training.apart.vllm import VllmWorker

        opening = OpenSpec(folder, max_length=512, max_prompt=100, trains=True)
        self.encoder = open_encoder(opening)
        self.scorer = open_model(opening, self.encoder).scorer.eval()
        self.backend, self.told = InlineBackend(), []
        kind = SamplerKind(name="vllm", memory=1)
        self.pool = Pool(
            self.backend,
            "rollout",
            1,
            VllmWorker,
            {"opening": opening, "sampler": kind, "dtype": "float32", "keep": True},
            600.0,
            Restarts(1),
            lambda what, detail: self.told.append(detail),
        )
        self.gathered = MergedWeights(self.scorer.model, torch.float32).on_cpu
        self.sampler = PooledSampler(self.pool, ObjectTransport(self.backend), self.gathered, verify=1)
        self.sampler.settle()

    @property
    def worker(self):
        return self.backend.handles[-1].held

    def update(self):
        """An optimizer step, of a kind."""
        with torch.no_grad():
            for p in self.scorer.parameters():
                p.mul_(1.1)

    def logps(self, prompt, completion):
        """Of the tokens, by the present weights."""
        from kilter.data.collate import collate
        from kilter.types import Feedback, Group

        batch = collate([self.encoder.encode(Group(prompt, (completion,), (Feedback(0.0),)))])
        with torch.no_grad():
            return self.scorer(batch, temperature=1.0).logps_BT[0]


@pytest.fixture(scope="module")
def learner(model):
    found = Learner(model)
    yield found
    found.worker.close()


def prompt(text):
    from kilter.types import Prompt

    return Prompt(messages=({"role": "user", "content": text},))


def greedy(learner, text="What is the time?"):
    from kilter.sampling.collect import answers
    from kilter.types import SamplingParams

    return answers(learner.sampler, [prompt(text)], 1, SamplingParams(max_new_tokens=40, temperature=0.0))[0][
        0
    ]


def endless(monkeypatch):
    """Answers go on to their limit."""
    from kilter.sampling import vllm_running

    plain = vllm_running.parameters
    monkeypatch.setattr(
        vllm_running, "parameters", lambda item, stop_ids: plain(item, ()) | {"ignore_eos": True}
    )


def test_more_prompts_at_once_than_an_engine_reads_in_a_step(learner):
    """An engine on a CPU that reads a prompt in parts dies of its seed."""
    from kilter.sampling.collect import answers
    from kilter.types import SamplingParams

    many = [prompt(f"{n} " + "and so on " * 8) for n in range(120)]
    found = answers(learner.sampler, many, 1, SamplingParams(max_new_tokens=2, temperature=1.0))
    assert sum(len(a.token_ids) for group in found for a in group) >= 120
    assert sum(len(a.prompt_ids) for group in found for a in group) > 6000
    assert learner.told == []


def test_weights_change_under_answers_and_every_token_says_whose_it_is(learner, tmp_path, monkeypatch):
    from kilter.cluster.weights import ObjectTransport, WeightStream
    from kilter.data import store
    from kilter.types import Feedback, Group, Request, SamplingParams

    endless(monkeypatch)
    worker, found = learner.worker, []
    texts = ["Hi", "What is the time?", "Name a bird", "Why?"]
    params = SamplingParams(max_new_tokens=LONG, seed=5)
    asked = [Request(t, prompt(t), 1, params) for t in texts]
    begun = worker.progress.count
    thread = threading.Thread(target=lambda: found.extend(worker.generate(asked, 0)))
    thread.start()
    while worker.progress.count < begun + 4 * 30:
        time.sleep(0.01)

    # The learner takes a step while the four answers are under way.
    before = {r.id: None for r in asked}
    old = {n: p.detach().clone() for n, p in learner.scorer.named_parameters()}
    learner.update()
    package = ObjectTransport(learner.backend).send(WeightStream(1, learner.gathered()))
    assert worker.load(package).version == 1
    # What the engine has read is in its own memory: no copy stays in shared memory.
    assert not list(worker.folder.path.glob("*.safetensors"))
    thread.join(120)
    assert {s.request.id for s in found} == set(before)

    # Each answer has a span of either version, and each token the log-prob of the weights that drew it.
    new_logps = {s.request.id: learner.logps(s.request.prompt, s.completion) for s in found}
    learner.scorer.load_state_dict(old, strict=False)
    old_logps = {s.request.id: learner.logps(s.request.prompt, s.completion) for s in found}
    learner.update()
    gaps, crossed = [], []
    for s in found:
        (a, middle, first), (b, end, second) = s.completion.versions
        assert (a, b, end, first, second) == (0, middle, LONG, 0, 1)
        assert s.completion.policy_version == 0
        drawn = torch.tensor(s.completion.sampling_logps)
        gaps += [
            drawn[:middle] - old_logps[s.request.id][:middle],
            drawn[middle:] - new_logps[s.request.id][middle:],
        ]
        crossed.append((drawn[middle:] - old_logps[s.request.id][middle:]).abs().max())
    gap = torch.cat(gaps)
    kl = float((torch.expm1(-gap) + gap).mean())
    assert kl <= 1e-4
    assert float(gap.abs().max()) < 1e-2
    assert float(min(crossed)) > 0.1

    # The spans are kept with the answers.
    groups = [Group(s.request.prompt, (s.completion,), (Feedback(0.0),)) for s in found]
    store.append_rollouts(tmp_path / "groups.jsonl", groups)
    kept = list(store.read(tmp_path / "groups.jsonl"))
    assert [g.completions[0].versions for g in kept] == [s.completion.versions for s in found]


def test_a_dead_engine_is_replaced_and_answers_as_the_first_one_did(learner, monkeypatch):
    """The successor began with the newest weights: what the first one said had nothing of older ones in it."""
    from kilter.sampling.collect import answers
    from kilter.types import SamplingParams, Weights

    stale = greedy(learner)
    learner.update()
    learner.sampler.sync(Weights(2))
    after = greedy(learner)
    assert after.token_ids != stale.token_ids
    assert after.policy_version == 2
    first = learner.worker

    # Its process is killed once the answer has begun.
    endless(monkeypatch)
    begun = first.progress.count
    (engine,) = first.client._processes

    def kill():
        while first.progress.count < begun + 20:
            time.sleep(0.01)
        os.kill(engine.pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    begin = time.monotonic()
    generate = type(first).generate
    noticed = []

    def timed(self, *arguments):
        try:
            return generate(self, *arguments)
        except BaseException:
            noticed.append(time.monotonic() - begin)
            raise

    monkeypatch.setattr(type(first), "generate", timed)
    params = SamplingParams(max_new_tokens=LONG, seed=7)
    ((answer,),) = answers(learner.sampler, [prompt("Why?")], 1, params)
    assert len(answer.token_ids) == LONG
    assert answer.versions == ((0, LONG, 2),)
    assert noticed[0] < 20
    # Either vLLM says it, or the look at its processes.
    assert learner.told[0].startswith("rollout 0 is lost: ")
    assert "vLLM" in learner.told[0]
    monkeypatch.undo()
    assert learner.worker is not first
    assert greedy(learner).token_ids == after.token_ids


def test_bytes_that_changed_in_the_engine_are_named(learner):
    from kilter.cluster.weights import ObjectTransport, WeightStream, difference

    stream = WeightStream(3, learner.gathered())
    package = replace(ObjectTransport(learner.backend).send(stream), verify=True)
    taken = learner.worker.load(package)
    assert not difference(package, stream.checksums(), taken)
    # On a CPU, vLLM re-arranges matrices: only vectors are compared as the engine holds them.
    parts = {p for found in learner.worker.holdings._parts.values() for p in found}
    assert {"model.norm.weight", "model.layers.1.input_layernorm.weight"} <= parts
    assert taken.compared == (len(parts), len(stream.tensors))
    assert 0 < len(parts) < len(stream.tensors)
    digests = learner.worker.client.digests()
    assert learner.worker.holdings.differing(stream.tensors, digests | {"model.norm.weight": "0"}) == [
        "model.norm.weight"
    ]
