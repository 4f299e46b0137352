"""Ranks that share engines: every number is that of one process with engines of its own, whatever dies on the way."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.cluster.inline import InlineBackend
from kilter.cluster.pool import Pool
from kilter.cluster.weights import ObjectTransport, Taken
from kilter.errors import RunFailed, UserError
from kilter.launch.refusals import Facts, check_cluster
from kilter.launch.spec import ClusterSpec
from kilter.training.apart.placed import _devices
from kilter.training.apart.rollouts import PooledSampler
from kilter.training.apart.shared import SharedSampler
from kilter.training.apart.worker import Worker
from kilter.training.parallel.teams import Team, runs, team_of
from kilter.types import Completion, Prompt, Request, Sample, SamplerFacts, SamplingParams, Weights


@given(st.integers(1, 300), st.integers(1, 40))
def test_teams_are_runs_of_neighbours_of_nearly_one_size(world, count):
    found = runs(world, count)
    assert [rank for run in found for rank in run] == list(range(world))
    assert len(found) == min(world, count)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    teams = [team_of(rank, world, count, lambda own, value: [value]) for rank in range(world)]
    assert sum(team.leads for team in teams) == len(found)
    assert all(found[team.number][team.place] == rank for rank, team in enumerate(teams))
    assert {team.size for team in teams} == set(map(len, found))


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 8))
def test_no_team_lies_on_two_machines_where_engines_lie_evenly_on_them(nodes, each, engines):
    """As many ranks on each machine; the refusal asks for as many engines on each."""
    for run in runs(nodes * each, nodes * min(each, engines)):
        assert len({rank // each for rank in run}) == 1


class Echo(Worker):
    """Answers with what makes every answer another one: the prompt, its seed, the number of the sample, how often it was asked."""

    def facts(self):
        return SamplerFacts(context=99, continues=True, version=0)

    def load(self, package):
        return Taken(package.version)

    def generate(self, requests, version):
        seen, found = {}, []
        for r in requests:
            first = seen.get(r.prompt.text, 0)
            seen[r.prompt.text] = first + r.k
            found += [
                Sample(r, i, Completion(f"{r.prompt.text} {r.params.seed} {first + i} v{version}"))
                for i in range(r.k)
            ]
        return found


class Meeting:
    """Threads that give each other values, as ranks do."""

    def __init__(self, world):
        self.barrier, self.values = threading.Barrier(world, timeout=30), [None] * world

    def gather(self, rank, value):
        self.values[rank] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


def together(world, work):
    """What `work(rank, team)` returns in each of so many ranks of one team."""
    meeting, found = Meeting(world), [None] * world

    def one(rank):
        try:
            team = Team(0, 1, rank, world, lambda value: meeting.gather(rank, value))
            found[rank] = work(rank, team)
        except BaseException as error:
            found[rank] = error
            meeting.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in found:
        if isinstance(error, BaseException) and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return found


def shared(team, engines=1, backend=None):
    backend = backend or InlineBackend()
    pool = Pool(backend, "rollout", engines if team.leads else 0, Echo, {})
    return SharedSampler(PooledSampler(pool, ObjectTransport(backend), dict, verify=0), team)


def wanted(texts, seed=7):
    return [Request(str(n), Prompt(text=t), 2, SamplingParams(seed=seed)) for n, t in enumerate(texts)]


def texts(samples):
    return {(s.request.id, s.index): s.completion.text for s in samples}


@given(st.lists(st.sampled_from("abcdefgh"), max_size=9), st.integers(1, 4), st.integers(1, 3))
def test_each_rank_gets_what_one_process_would_have_got(prompts, world, engines):
    """Also where a prompt stands twice, and on ranks that ask for nothing. Requests are the rank's own."""

    def work(rank, team):
        sampler, own = shared(team, engines), wanted(prompts[rank::world])
        sampler.sync(Weights(3))
        assert sampler.facts == SamplerFacts(context=99, continues=True, version=3, begins=True)
        first = list(sampler.run(own))
        begun = [sampler.begin(own) for _ in range(3)]
        found = [list(sampler.finish(b)) for b in begun]
        assert all(texts(f) == texts(first) for f in found)
        assert all(any(s.request is r for r in own) for s in first)
        return texts(first)

    shares = [prompts[rank::world] for rank in range(world)]
    found = together(world, work)
    if world > 1 and all(share == shares[0] for share in shares):
        assert all(part == found[0] for part in found)
        return
    whole = texts(Echo().generate(wanted(prompts), 3))
    for rank, part in enumerate(found):
        assert part == {
            (str(n), i): whole[str(rank + n * world), i] for n in range(len(shares[rank])) for i in (0, 1)
        }


def test_what_all_ranks_ask_is_answered_once():
    """Held-out answers are judged by every rank, which all see the same."""
    asked = []
    backend = InlineBackend(
        lambda role, n, method, a: asked.extend(a[0] if method == "generate" else ()) or 0.0
    )
    found = together(3, lambda rank, team: texts(shared(team, 1, backend).run(wanted("abc"))))
    assert found[0] == found[1] == found[2] == texts(Echo().generate(wanted("abc"), 0))
    assert len(asked) == 3


def test_whom_no_engine_of_a_team_can_answer_ends_every_rank():
    """The rank that leads says why; the others end with it, as a group of processes does."""

    def work(rank, team):
        sampler = shared(team)
        for slot in sampler.inner.pool.slots:
            slot.handle.kill()
        return list(sampler.run(wanted("abc")))

    with pytest.raises(RunFailed, match="No rollout worker is left"):
        together(2, work)


class Twice(Echo):
    """A sampler of the user's own that is wrong."""

    def generate(self, requests, version):
        return [*super().generate(requests, version)] * 2


def test_a_sample_that_nobody_asked_for_is_named(monkeypatch):
    monkeypatch.setattr(f"{__name__}.Echo", Twice)
    with pytest.raises(RunFailed, match="gave sample 0 of request 0 twice"):
        together(2, lambda rank, team: list(shared(team).run(wanted("ab"[rank]))))


@pytest.mark.parametrize(
    ("own", "count", "devices"),
    [
        (["0", "1", "2", "3"], 4, "0,1,2,3"),
        (["4", "5", "6", "7"], 2, "4,5"),
        (["2"], 1, "2"),
        (["0,1,2,3"], 1, "0"),
        (["0,1", "2,3"], 2, "0,2"),
        (["GPU-6d", "GPU-7e"], 2, "GPU-6d,GPU-7e"),
        (["", ""], 1, ""),
    ],
)
def test_an_engine_beside_sees_the_gpus_of_its_team_alone(own, count, devices, monkeypatch):
    """Ray lets it see all of the machine: two engines would take the first one."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    mine = own[0].split(",")
    others = [part.split(",")[:1] for part in own[1:]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", own[0])
    assert _devices(Team(size=len(own), gather=lambda value: [value, *others]), count) == devices
    monkeypatch.setenv("LOCAL_RANK", str(len(mine) - 1))
    expected = devices if len(own) == 1 else ",".join([mine[-1], *(p[0] for p in others)][:count])
    assert _devices(Team(size=len(own), gather=lambda value: [value, *others]), count) == expected


@pytest.mark.parametrize(
    ("engines", "nodes", "ends"), [(32, 32, False), (64, 32, False), (48, 32, True), (1, 1, False)]
)
def test_an_engine_beside_lies_on_one_machine(engines, nodes, ends):
    cluster = ClusterSpec.model_validate(
        {
            "address": "auto",
            "learner": {"processes": 8 * nodes, "nodes": nodes},
            "rollout": {"place": "beside", "engines": engines},
        }
    )
    if not ends:
        check_cluster(cluster, Facts(sampler="vllm", gpus=8 * nodes))
        return
    with pytest.raises(UserError, match="cannot lie evenly on the 32 machines"):
        check_cluster(cluster, Facts(sampler="vllm"))
