"""Forty workers and learners killed at random moments: a run ends with the right counts, or names who was lost."""

from __future__ import annotations

import copy
import functools
import io
import random
from types import SimpleNamespace

import pytest

from kilter.cluster.inline import InlineBackend
from kilter.data import store
from kilter.errors import RunFailed
from test_apart import folder, run, same  # noqa: F401  (a fixture)

VICTIMS = ("rollout", "reward", "reference", "critic", "learner")
BUSY = ("generate", "scores", "logps", "values", "step")
SMALL = {"batch_size": 2, "sampler": {"samples": 2, "max_new_tokens": 4}, "steps": 3, "save_every": 1}


class Killed(BaseException):
    """The learner's process ends wherever it is."""


@pytest.fixture(autouse=True)
def _models_are_read_once(monkeypatch, folder):
    """Half of such a run is the opening of its models: each is opened once, and copied."""
    from kilter.feedback import classifier
    from kilter.training import scorers
    from kilter.training.apart import critic, reference, rollouts

    opened = _opener(str(folder))
    for module in (classifier, scorers, critic, reference, rollouts):
        monkeypatch.setattr(module, "open_model", opened)


@functools.cache
def _opener(made):
    from kilter.roles.open import open_model

    kept = {}

    def opened(spec, encoder=None):
        if repr(spec) not in kept:
            kept[repr(spec)] = open_model(spec, encoder)
        return copy.deepcopy(kept[repr(spec)])

    return opened


@pytest.fixture(scope="module")
def whole(tiny, folder, tmp_path_factory):
    """The run that nobody kills, by its method."""

    def made(name):
        out = tmp_path_factory.mktemp("whole") / "run"
        return run(tiny, folder, out, {"name": name, "beta": 0.1}, **SMALL), prompts(out)

    return functools.cache(made)


def prompts(out):
    return [g.prompt.text for g in store.read(out / "groups.jsonl")]


@pytest.mark.parametrize("seed", range(40))
def test_whoever_is_killed_the_run_ends_in_time_with_the_right_counts(
    seed,
    tiny,
    folder,
    whole,
    tmp_path,
):
    draw, role, ahead = random.Random(seed), VICTIMS[seed % 5], 2 * (seed // 5 % 2)
    name = "ppo" if role == "critic" else "grpo"
    cluster = {"rollout": {"place": "apart", "engines": 2}, "reward": {"place": "apart", "copies": 2}}
    cluster |= {r: {"place": "apart"} for r in ("reference", "critic") if r != "critic" or name == "ppo"}
    cluster |= {"lookahead": ahead, "restarts": draw.choice((0, 3)), "stall": 20.0}
    backend = InlineBackend(lambda r, n, method, a: draw.uniform(0.5, 1.0) if method in BUSY else 0.0)
    times = []

    def kill():
        times.append(backend.now())
        if role == "learner":
            raise Killed
        victim = draw.choice([h for h in backend.handles if h.role == role])
        # One in four is stopped, and says nothing any more.
        if draw.random() < 0.25:
            victim.hangs = True
        else:
            victim.kill()

    # A run that ends names who was lost; the same command then resumes it.
    backend.at(draw.uniform(0.1, 3.4), kill)
    settings = SMALL | {"method": {"name": name, "beta": 0.1}, "cluster": cluster}
    ended = ""
    try:
        found = run(tiny, folder, tmp_path / "run", backend=backend, **settings)
    except (RunFailed, Killed) as error:
        ended = str(error)
        found = run(tiny, folder, tmp_path / "run", **settings)
    assert times
    assert not ended or f"No {role} worker is left ({role} 0 is lost: " in ended
    assert backend.now() - times[0] <= 90

    # In turn every number is that of the run which nobody killed.
    assert [r["step"] for r in found[0]] == [1, 2, 3]
    assert len(found[1]) == 12
    numbers, order = whole(name)
    assert prompts(tmp_path / "run") == order
    if not ahead:
        same(numbers, found)


class TwoRanks:
    """An engine whose other rank has lost a worker of its own."""

    is_main, world = True, 2

    def gather(self, value):
        return [value, [(3, "lost worker", "rollout 1 is lost")]]


def test_what_another_rank_lost_stands_in_the_log_and_a_restart_stays_there(tmp_path):
    from kilter.screen import Screen
    from kilter.training.hooks.watch import Announce
    from kilter.training.monitors import EventLog
    from kilter.training.monitors.events import RESTART, Event

    log = EventLog(tmp_path / "events.jsonl")
    announce = Announce(log, Screen(stderr=True, quiet=True), TwoRanks())
    announce.after_step(None, None, {})
    assert not log.events
    announce.apart = True
    announce.tell_own(2, "lost worker", "rollout 0 is lost")
    announce.after_step(None, None, {})
    assert [(e.step, e.message) for e in log.events] == [
        (2, "lost worker: rollout 0 is lost"),
        (3, "lost worker: rollout 1 is lost"),
    ]

    # A learner that begins anew, twice: from step 2, then from before its first checkpoint.
    log.load(2)
    log.add(Event(2, 1, "warn", RESTART, "rank 1 got SIGKILL", 2, "certain", "resumed after step 2"))
    log.load(2)
    assert [e.monitor for e in log.events] == ["lost worker", RESTART]
    first = EventLog(tmp_path / "first.jsonl")
    first.add(Event(0, 1, "warn", RESTART, "rank 1 got SIGKILL", 0, "certain", "begun anew"))
    first.load(None)
    assert [e.monitor for e in first.events] == [RESTART]


def test_in_a_file_a_line_of_a_run_is_one_line(tmp_path):
    """It names a log by its path: who searches the file for it must find it whole."""
    from kilter.screen import Screen
    from kilter.training.hooks.watch import Announce
    from kilter.training.job import Job
    from kilter.training.monitors import EventLog

    file = io.StringIO()
    screen, log = Screen(file=file, width=40), EventLog(tmp_path / "events.jsonl")
    detail = "rollout 1 (node 10.0.0.1, process 17) is lost (its log: /tmp/" + "logs/" * 20 + ")"
    announce = Announce(log, screen, TwoRanks())
    announce.tell(2, "lost worker", detail)
    Job.say(SimpleNamespace(engine=TwoRanks(), console=screen), detail)
    assert file.getvalue() == f"  lost worker: {detail}\n  {detail}\n"
