"""Weights over TCP to a process that shares neither memory nor a folder with the learner."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from gloo_worker import taken, tensors
from kilter.cluster.inline import InlineBackend
from kilter.cluster.pool import Pool, Restarts
from kilter.cluster.weights import (
    ObjectTransport,
    Taken,
    WeightStream,
    checksums,
    difference,
    receive,
)
from kilter.errors import RunFailed
from kilter.launch.spec import ClusterSpec
from kilter.training.apart import gloo
from kilter.training.apart.gloo import GlooTransport
from kilter.training.apart.placed import TRANSPORTS, Cluster
from kilter.training.apart.rollouts import PooledSampler
from kilter.types import SamplerFacts, Weights


@pytest.fixture(scope="module")
def elsewhere():
    """Another process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def transport():
    made = GlooTransport("127.0.0.1", 10.0)
    yield made
    made.close()


def test_twenty_publications_arrive_and_a_changed_byte_is_named(elsewhere, transport, monkeypatch):
    monkeypatch.setattr(gloo, "BUCKET", 64)
    for version in range(20):
        stream = WeightStream(version, tensors(version + 1))
        package = transport.send(stream)
        found, ticks = elsewhere.submit(taken, package).result(60)
        assert ticks > 2
        assert difference(package, transport.checksums(stream), found) == ""
    # One byte of one tensor changes on its way.
    stream = WeightStream(20, tensors(21))
    package = transport.send(stream)
    (start,) = [at for name, _, _, at in package.place.parts if name == "b.bias"]
    transport._offers[-1].flat[start] ^= 1
    found, _ = elsewhere.submit(taken, package).result(60)
    assert "b.bias" in difference(package, transport.checksums(stream), found)


def test_the_learner_goes_on_while_others_fetch(elsewhere, transport):
    """Its tensors change in place, and a receiver one version behind still gets what it was told of."""
    live = tensors(1)
    sent = []
    for version in range(2):
        stream = WeightStream(version, live)
        sent.append((transport.send(stream), stream.checksums()))
        for t in live.values():
            t.zero_()
    for package, sums in sent:
        assert elsewhere.submit(taken, package).result(60)[0].checksums == sums


def test_several_fetch_at_once(transport):
    stream = WeightStream(1, tensors(1))
    package, found = transport.send(stream), []
    threads = [threading.Thread(target=lambda: found.append(taken(package)[0])) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert [f.checksums for f in found] == [stream.checksums()] * 3


def test_a_version_that_is_gone_and_a_learner_that_says_nothing_are_named_in_time(transport):
    transport = GlooTransport("127.0.0.1", 1.0, kept=1)
    gone = transport.send(WeightStream(1, tensors(1)))
    silent = transport.send(WeightStream(2, tensors(1)))
    # It listens, and never answers: as behind a link that was cut.
    transport._offers[-1].close()
    for package in (gone, silent):
        owned, begin = tensors(0), time.monotonic()
        with pytest.raises(RunFailed, match=r"0 of \d+ bytes came from 127.0.0.1, and nothing more for 1 s"):
            receive(package, owned)
        assert time.monotonic() - begin < 60  # and not the minutes that torch waits by itself
        assert checksums(owned) == checksums(tensors(0))


class Holder:
    """A worker that takes weights."""

    def __init__(self):
        self.owned = tensors(0)

    def ready(self):
        pass

    def pulse(self):
        return 0

    def facts(self):
        return SamplerFacts()

    def load(self, package):
        receive(package, self.owned)
        return Taken(package.version, checksums(self.owned) if package.verify else {})


def test_a_worker_that_takes_another_s_place_joins_by_its_greeting(transport):
    backend = InlineBackend()
    pool = Pool(backend, "rollout", 2, Holder, {}, restarts=Restarts(1))
    live = tensors(1)
    sampler = PooledSampler(pool, transport, lambda: live, verify=1)
    sampler.settle()
    pool.slots[1].handle.kill()
    live = tensors(2)
    sampler.sync(Weights(1))
    sampler.settle()
    assert len(backend.handles) == 3
    for slot in pool.slots:
        assert checksums(slot.handle.held.owned) == checksums(tensors(2))
    # What arrives wrong is never sampled with, and nobody is left to take its place.
    live, send = tensors(3), transport.send

    def bent(weights):
        package = send(weights)
        transport._offers[-1].flat[0] ^= 1
        return package

    transport.send = bent
    sampler.sync(Weights(2))
    with pytest.raises(RunFailed, match=r"publication of weights failed at rollout 0: .*\ba\b"):
        sampler.settle()


@pytest.mark.parametrize(("address", "kind"), [("127.0.0.1", ObjectTransport), ("10.0.0.2", GlooTransport)])
def test_auto_takes_gloo_where_a_worker_is_on_another_machine(address, kind, tmp_path):
    backend = InlineBackend()
    pool = Pool(backend, "rollout", 2, Holder, {})
    pool.slots[1].handle.address = address
    spec = ClusterSpec.model_validate({"rollout": {"place": "apart"}, "lookahead": 3})
    with Cluster(spec, backend, tmp_path, print, Restarts(0)) as cluster:
        made = TRANSPORTS["auto"](cluster, pool)
        assert type(made) is kind
        if kind is GlooTransport:
            assert (made.host, made.limit, made.kept) == ("127.0.0.1", spec.stall / 2, 5)
            made.send(WeightStream(0, tensors(0)))
    assert all(handle.dead for handle in backend.handles)
    assert not getattr(made, "_offers", [])
