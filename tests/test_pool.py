"""Pools of workers on a clock of their own: shares, losses, stalls, replacements, and weights that arrive."""

from __future__ import annotations

import random

import pytest
import torch

from kilter.cluster.backend import LostError, run
from kilter.cluster.inline import InlineBackend
from kilter.cluster.pool import Pool, Restarts
from kilter.cluster.weights import (
    FileTransport,
    ObjectTransport,
    Taken,
    WeightStream,
    checksums,
    difference,
    receive,
)
from kilter.errors import RunFailed, UserError
from kilter.training.apart.rollouts import PooledSampler
from kilter.training.apart.worker import cut
from kilter.types import Completion, Prompt, Request, Sample, SamplerFacts, SamplingParams, Weights


class Echo:
    def __init__(self, log=None):
        self.weights, self.log = 0, [] if log is None else log

    def ready(self):
        pass

    def pulse(self):
        return 0

    def load(self, version):
        self.weights = version

    def double(self, x):
        self.log.append(x)
        return 2 * x, self.weights

    def wrong(self):
        raise UserError("a", [1, 2], "is wrong", "mend it")

    def broken(self):
        raise ZeroDivisionError("no")

    def once(self):
        self.log.append("asked")
        if len(self.log) == 1:
            raise LostError("its engine has died")
        return "answered"


def pool(size=3, latency=lambda *a: 1.0, stall=10.0, restarts=3, log=None, told=None):
    backend = InlineBackend(latency)
    tell = (lambda what, detail: told.append((what, detail))) if told is not None else lambda w, d: None
    return backend, Pool(backend, "echo", size, Echo, {"log": log}, stall, Restarts(restarts), tell)


def test_work_is_shared_out_and_goes_on_at_the_same_time():
    backend, workers = pool()
    start = backend.now()
    asked = [workers.submit("double", x) for x in range(6)]
    assert [workers.result(r)[0] for r in asked] == [0, 2, 4, 6, 8, 10]
    assert backend.now() - start == 2.0  # three at a time


def test_a_call_is_answered_by_the_weights_that_were_sent_before_it():
    _, workers = pool()
    before = [workers.submit("double", x) for x in range(3)]
    workers.greet("load", 7)
    workers.every("load", 7)
    after = [workers.submit("double", x) for x in range(3)]
    assert [workers.result(r)[1] for r in before] == [0, 0, 0]
    assert [workers.result(r)[1] for r in after] == [7, 7, 7]


def test_errors_cross_as_what_they_were():
    _, workers = pool()
    with pytest.raises(UserError, match=r"`a` = '\[1, 2\]' is wrong, says echo \d\."):
        workers.result(workers.submit("wrong"))
    with pytest.raises(RunFailed, match=r"echo \d failed \(ZeroDivisionError: no\)"):
        workers.result(workers.submit("broken"))


def test_one_that_fails_is_told_of_while_those_who_work_with_it_wait_for_it():
    """Without it the wait would end with the stall, and the cause would be lost."""
    backend = InlineBackend(lambda role, n, method, a: 1.0 if n or method == "ready" else 1e9)
    workers = Pool(backend, "critic", 3, Echo, {}, stall=300.0, restarts=Restarts(1), together=True)
    with pytest.raises(RunFailed, match="critic 1 failed.*ZeroDivisionError: no"):
        workers.ask_all("broken", lambda number: ())
    assert backend.now() < 20


def test_a_worker_that_cannot_go_on_is_replaced_and_its_call_runs_again():
    told, log = [], []
    _, workers = pool(told=told, log=log)
    assert workers.result(workers.submit("once")) == "answered"
    assert log == ["asked"] * 2
    assert told == [("lost worker", "echo 0 is lost: its engine has died")]
    assert workers.size == 3


def test_calls_of_a_worker_may_end_in_any_order():
    _, workers = pool(size=1, latency=lambda role, n, method, a: 0.0)
    first, second = workers.submit("double", 1), workers.submit("double", 2)
    late = workers.slots[0].running[0][0]
    late.end, late.done = None, lambda: False
    assert workers.result(second) == (4, 0)
    assert not first.done


@pytest.mark.parametrize("fault", ["killed", "hangs"])
def test_a_lost_worker_s_calls_go_to_the_others_and_its_successor_is_greeted(fault):
    told: list[tuple[str, str]] = []
    backend, workers = pool(told=told)
    workers.greet("load", 3)
    workers.every("load", 3)
    asked = [workers.submit("double", x) for x in range(9)]
    victim = backend.handles[1]
    if fault == "killed":
        backend.at(backend.now() + 1.5, victim.kill)
    else:
        victim.hangs = True
    assert [workers.result(r)[0] for r in asked] == [2 * x for x in range(9)]
    assert [what for what, _ in told] == ["lost worker"]
    assert "echo 1 is lost" in told[0][1]
    # The successor has the weights.
    assert workers.size == 3
    assert {workers.result(r)[1] for r in [workers.submit("double", 1) for _ in range(3)]} == {3}


def test_without_restarts_the_others_go_on_and_the_last_one_names_the_cause():
    backend, workers = pool(restarts=0)
    backend.handles[0].kill()
    backend.handles[2].kill()
    asked_all = [workers.submit("double", x) for x in range(4)]
    assert [workers.result(r)[0] for r in asked_all] == [0, 2, 4, 6]
    assert workers.size == 1
    backend.handles[1].hangs = True
    asked = workers.submit("double", 1)
    with pytest.raises(RunFailed, match=r"No echo worker is left \(echo 1 is lost: it made no progress"):
        workers.result(asked)


def test_a_slow_worker_that_makes_progress_is_not_lost():
    class Slow(Echo):
        ticks = 0

        def pulse(self):
            Slow.ticks += 1
            return Slow.ticks

    backend = InlineBackend(lambda *a: 100.0)
    told: list[str] = []
    workers = Pool(backend, "slow", 1, Slow, {}, 10.0, Restarts(0), lambda w, d: told.append(d))
    assert workers.result(workers.submit("double", 4)) == (8, 0)
    assert told == [f"slow 0: {seconds} s" for seconds in range(10, 100, 10)]


def test_who_waits_for_a_worker_says_what_it_does_and_what_it_did_when_it_stalls():
    """As a worker tells that starts an engine: the stage, and seconds of computing, which then cease to grow."""

    class Starts(Echo):
        def pulse(self):
            now = backend.now()
            return ("the weights" if now < 15 else "the start of vLLM's engine"), min(now, 50)

    backend, told = InlineBackend(lambda *a: 1000.0), []
    with pytest.raises(RunFailed, match=r"no progress for 20 s, the start of vLLM's engine"):
        Pool(backend, "rollout", 1, Starts, {}, 20.0, Restarts(0), lambda *said: told.append(": ".join(said)))
    stages = ["the weights", *["the start of vLLM's engine"] * 6]
    assert told[:-1] == [f"loading: rollout 0, {s}: {10 * n} s" for n, s in enumerate(stages, 1)]


def test_who_waits_for_a_replacement_is_told_what_it_does():
    class Loads(Echo):
        def pulse(self):
            return "the weights", backend.now()

    backend, told = InlineBackend(lambda role, n, method, a: 25.0 if method == "ready" else 1.0), []
    workers = Pool(
        backend, "rollout", 1, Loads, {}, 20.0, Restarts(1), lambda *said: told.append(": ".join(said))
    )
    assert told == [f"loading: rollout 0, the weights: {seconds} s" for seconds in (10, 20)]
    asked = workers.submit("double", 4)
    backend.handles[-1].kill()
    assert workers.result(asked)[0] == 8
    lost, *loading = told[2:]
    assert lost.startswith("lost worker: rollout 0")
    assert loading == [f"loading: rollout 0, the weights: {seconds} s" for seconds in (10, 20)]


def test_that_somebody_loads_is_said_and_is_no_event(tmp_path):
    """Of a large model it is said for minutes, which are no warnings of the run."""
    from kilter.launch.spec import ClusterSpec
    from kilter.training.apart.placed import Cluster

    backend, said, events = InlineBackend(lambda role, n, method, a: 25.0), [], []
    spec = ClusterSpec.model_validate({"rollout": {"place": "apart"}, "stall": 50.0})
    with Cluster(spec, backend, tmp_path, said.append, Restarts(1)) as cluster:
        cluster.tell = lambda *event: events.append(event)
        workers = cluster.pool("rollout", Echo, {})
        backend.handles[-1].kill()
        assert workers.result(workers.submit("double", 4))[0] == 8
    loading = [f"loading: rollout 0: {seconds} s" for seconds in (10, 20)]
    assert [line for line in said if "loading: " in line][:2] == loading
    assert [what for what, _ in events] == ["lost worker"]


def test_while_a_successor_loads_the_others_get_all_calls():
    """Who is asked while it loads, minutes for a large model, would hold up the whole step."""
    backend = InlineBackend(lambda role, n, method, a: 100.0 if method == "ready" else 1.0)
    workers = Pool(backend, "rollout", 2, Echo, {}, 300.0, Restarts(1))
    backend.handles[1].kill()
    for _ in range(3):
        begin = backend.now()
        asked = [workers.submit("double", x) for x in range(4)]
        assert [workers.result(r)[0] for r in asked] == [0, 2, 4, 6]
        assert backend.now() - begin <= 4.0
    while any(slot.running for slot in workers.slots):
        workers.poll(50.0)
    begin = backend.now()
    assert [workers.result(r)[0] for r in [workers.submit("double", 1) for _ in range(4)]] == [2] * 4
    assert backend.now() - begin <= 2.0


def test_a_worker_is_not_lost_for_the_time_in_which_nobody_looked():
    backend = InlineBackend(lambda *a: 30.0 if a[2] == "double" else 0.0)
    told: list[str] = []
    workers = Pool(backend, "echo", 1, Echo, {}, 31.0, Restarts(0), lambda w, d: told.append(d))
    asked = [workers.submit("double", x) for x in range(3)]
    backend.pass_time(80.0)
    assert [workers.result(r)[0] for r in asked] == [0, 2, 4]
    assert not told


def test_workers_start_together_and_load_one_by_one():
    said = []

    class Backend(InlineBackend):
        def start(self, role, numbers, *arguments, **settings):
            said.append(f"start {list(numbers)}")
            return super().start(role, numbers, *arguments, **settings)

    def latency(role, number, method, arguments):
        said.append(f"{method} {number} at {backend.now():g}")
        return 5.0

    backend = Backend(latency)
    Pool(backend, "echo", 3, Echo, {})
    assert said == ["start [0, 1, 2]", *(f"ready {n} at {5 * n}" for n in range(3))]


def test_what_cannot_be_loaded_ends_the_start():
    class Wrong(Echo):
        def ready(self):
            raise UserError("start", "x", "names no model", "give one")

    with pytest.raises(UserError, match="names no model"):
        Pool(InlineBackend(), "echo", 2, Wrong, {}, 10.0, Restarts(2))


def test_weights_that_cannot_be_taken_cost_the_worker():
    class Refuses(Echo):
        def load(self, version):
            raise RunFailed("The weights do not fit", "mend it")

    backend = InlineBackend()
    workers = Pool(backend, "echo", 2, Refuses, {}, 10.0, Restarts(2))
    workers.greet("load", 1)
    workers.every("load", 1)
    with pytest.raises(RunFailed, match="No echo worker is left .*load failed .*do not fit"):
        workers.result(workers.submit("double", 1))


@pytest.mark.parametrize("seed", range(100))
def test_whatever_dies_every_answer_comes_once(seed):
    draw = random.Random(seed)
    log: list[int] = []
    backend, workers = pool(draw.randint(1, 4), lambda *a: draw.choice((0.0, 0.1, 2.0)), restarts=20, log=log)
    for _ in range(draw.randint(0, 6)):
        when = draw.uniform(0, 12)
        backend.at(when, lambda: draw.choice(backend.handles).kill())
    asked = []
    for x in range(draw.randint(1, 20)):
        asked.append((x, workers.submit("double", x)))
        if draw.random() < 0.3:
            backend.pass_time(draw.uniform(0, 3))
        if draw.random() < 0.2:
            workers.poll(0.5)
    assert [workers.result(r)[0] for _, r in asked] == [2 * x for x, _ in asked]
    assert set(log) == {x for x, _ in asked}


def test_shares_are_runs_of_nearly_equal_length():
    assert cut([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
    assert cut([1], 4) == [[1]]
    assert cut([], 3) == []


def tensors(seed):
    torch.manual_seed(seed)
    return {
        "a": torch.randn(3, 4),
        "b.bias": torch.randn(5).to(torch.bfloat16),
        "scalar": torch.tensor(2.5),
        "ids": torch.arange(4),
    }


@pytest.mark.parametrize("way", ["object", "file"])
def test_weights_arrive_as_they_were_sent(way, tmp_path):
    send = ObjectTransport(InlineBackend()) if way == "object" else FileTransport(tmp_path)
    owned = tensors(0)
    for version in range(20):
        stream = WeightStream(version, tensors(version + 1))
        package = send.send(stream)
        receive(package, owned)
        assert not difference(package, stream.checksums(), Taken(version, checksums(owned)))
    assert len(list(tmp_path.iterdir())) == (2 if way == "file" else 0)
    # One changed bit is named.
    owned["a"].view(torch.int32)[1, 2] ^= 1
    named = difference(package, stream.checksums(), Taken(version, checksums(owned)))
    assert "1 tensors, the first is a), after" in named
    assert f"{stream.bytes()} bytes of version 19 were sent by {way}" in named
    assert difference(package, {}, Taken(18)) == "it has the weights of version 18, not 19"


def test_weights_that_do_not_fit_change_nothing():
    owned, before = tensors(0), tensors(0)
    other = tensors(1) | {"a": torch.zeros(2, 2)}
    package = ObjectTransport(InlineBackend()).send(WeightStream(1, other))
    with pytest.raises(RunFailed, match=r"version 1 do not fit .*the first is a"):
        receive(package, owned)
    assert all(torch.equal(owned[n], before[n]) for n in owned)


def test_a_report_is_plain():
    import pickle

    report = run(Echo(), "wrong", (), "echo 0")
    assert pickle.loads(pickle.dumps(report)) == report


class Weighing:
    """Holds weights, and answers with the version that it has. `bad`: workers to be made that change a byte."""

    def __init__(self, owned, bad, at):
        self.owned, self.version, self.at = owned(), 0, at
        self.bad = bool(bad) and bad.pop()

    def ready(self):
        pass

    def pulse(self):
        return 0

    def facts(self):
        return SamplerFacts(version=0)

    def load(self, package):
        receive(package, self.owned)
        if self.bad and package.version == self.at:
            self.owned["a"].view(torch.uint8)[0, 5] ^= 1
        self.version = package.version
        return Taken(self.version, checksums(self.owned) if package.verify else {})

    def generate(self, requests, version):
        assert self.version >= version
        right = torch.equal(self.owned["a"], tensors(self.version + 1)["a"])
        return [Sample(r, 0, Completion(f"{self.version} {right}", (1,))) for r in requests]


@pytest.mark.parametrize("way", ["object", "file"])
@pytest.mark.parametrize("at", [0, 3])
def test_who_holds_other_weights_is_replaced_before_it_answers(way, at, tmp_path):
    told, versions = [], iter(range(1, 99))
    backend = InlineBackend()
    # The list is read from its end: the second worker is the bad one.
    arguments = {"owned": lambda: tensors(0), "bad": [True, False], "at": at}
    tell = lambda what, detail: told.append(detail)
    workers = Pool(backend, "rollout", 2, Weighing, arguments, 10.0, Restarts(3), tell)
    send = ObjectTransport(backend) if way == "object" else FileTransport(tmp_path)
    sampler = PooledSampler(workers, send, lambda: tensors(next(versions)), verify=1)
    asked = [Request(str(n), Prompt(text=str(n)), 1, SamplingParams()) for n in range(4)]
    for version in range(6):
        if version:
            sampler.sync(Weights(version))
        assert {s.completion.text for s in sampler.run(asked)} == {f"{version} True"}
    assert len(told) == 1
    assert "rollout 1 is lost: it holds other weights than the learner (1 tensors, the first is a)" in told[0]
    assert f"bytes of version {at} were sent by {way}" in told[0]


@pytest.mark.parametrize(("bad", "restarts"), [([True, True, True, False], 3), ([True, False], 0)])
def test_weights_that_do_not_arrive_twice_end_the_run(bad, restarts):
    backend, versions = InlineBackend(), iter(range(1, 99))
    arguments = {"owned": lambda: tensors(0), "bad": bad, "at": 0}
    workers = Pool(backend, "rollout", 2, Weighing, arguments, 10.0, Restarts(restarts))
    sampler = PooledSampler(workers, ObjectTransport(backend), lambda: tensors(next(versions)), verify=1)
    asked = [Request(str(n), Prompt(text=str(n)), 1, SamplingParams()) for n in range(4)]
    with pytest.raises(RunFailed, match="failed at rollout 1: it holds other weights than the learner"):
        list(sampler.run(asked))


def test_workers_that_began_end_with_the_backend_where_another_one_fails():
    """Nobody else has heard of them."""
    backend, made = InlineBackend(), []

    def make():
        made.append(Echo())
        if len(made) == 2:
            raise MemoryError
        return made[-1]

    with pytest.raises(MemoryError):
        backend.start("reward", range(3), make, {})
    assert [handle.dead for handle in backend.handles] == [False]
    backend.close()
    assert [handle.dead for handle in backend.handles] == [True]
