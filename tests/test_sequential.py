"""Monitors look at every step: the chance of any false alarm in a whole run stays below the level that they say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kilter.statistics import Rise, Shift
from kilter.training.config import MonitorSpec
from kilter.training.monitors import EventLog, GoldHistory, Monitors
from kilter.training.monitors.gold import ERROR, Evidence
from kilter.training.monitors.phrase import RunPhrase
from kilter.training.monitors.signals import shares
from kilter.types import Completion, Feedback, Group, Prompt

RUNS = 1000
MOST = ERROR + 2.33 * (ERROR * (1 - ERROR) / RUNS) ** 0.5
"""What at most one in a hundred such tests would exceed if the level were just kept."""


def draws(kind: str, limit: float, shape, rng) -> np.ndarray:
    """Shares whose mean is the limit itself: the hardest null."""
    if kind == "all or nothing":
        return (rng.random(shape) < limit).astype(float)
    if kind == "spread":
        return rng.beta(limit * 4, (1 - limit) * 4, shape)
    return np.full(shape, limit)


@pytest.mark.parametrize("limit", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["all or nothing", "spread", "constant"])
def test_a_share_at_its_limit_rarely_counts_as_risen(kind, limit):
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(RUNS // 3):
        rise = Rise(limit, every=3)
        values = draws(kind, limit, (20, 4), rng)
        found += any(rise.look(step) <= ERROR for step in values)
    assert found / (RUNS // 3) <= MOST


def test_a_share_that_moves_below_its_limit_is_no_rise_either():
    """The mean of each observation depends on what came before: after a high one comes a low one."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(RUNS // 3):
        rise, last = Rise(0.5, every=3), 0.5
        for _ in range(30):
            last = float(rng.random() < (0.5 if last < 0.5 else 0.3))
            rise.look([last])
        found += rise.p <= ERROR
    assert found / (RUNS // 3) <= MOST


@pytest.mark.parametrize("good", [0, 10, 60, 200])
def test_a_rise_is_found_within_a_few_steps_however_late_it_comes(good):
    rng = np.random.default_rng(3)
    rise = Rise(0.5, every=3)
    for _ in range(good):
        rise.look((rng.random(8) < 0.1).astype(float))
    assert rise.p > ERROR
    steps = next(n for n in range(1, 20) if rise.look((rng.random(8) < 0.95).astype(float)) <= ERROR)
    assert steps <= 7


def stream(kind: str, shape: int, rng) -> np.ndarray:
    """Values of a run in which nothing changes; those of "one run" share a level, so that they are alike."""
    if kind == "tails":
        return rng.standard_t(2, shape)
    if kind == "shares":
        return rng.binomial(4, 0.1, shape) / 4
    if kind == "one run":
        return rng.normal() + rng.normal(0, 0.3, shape)
    return np.zeros(shape)


@pytest.mark.parametrize("kind", ["tails", "shares", "one run", "constant"])
def test_a_stream_that_stays_what_it_was_is_rarely_called_another(kind):
    """The negative control of the drifts, KL, refusals and entropy: whatever is drawn, in whatever unit."""
    rng, runs = np.random.default_rng(7), RUNS // 2
    found = 0
    for _ in range(runs):
        shift = Shift(5, every=3)
        found += any(shift.look(value) <= ERROR for value in stream(kind, 40, rng))
    assert found / runs <= ERROR + 2.33 * (ERROR * (1 - ERROR) / runs) ** 0.5


@pytest.mark.parametrize("good", [5, 20, 100])
@pytest.mark.parametrize("to", [-8.0, 8.0])
def test_a_stream_that_moves_away_is_found_within_a_few_steps_however_late(good, to):
    rng = np.random.default_rng(4)
    shift = Shift(5, every=3)
    for value in rng.normal(size=good):
        shift.look(value)
    assert shift.p > ERROR
    half = Shift(5, every=3)
    half.restore(shift.state())
    steps = next(n for n in range(1, 20) if shift.look(to + rng.normal()) <= ERROR)
    assert steps <= 6
    # A checkpoint forgets nothing.
    rng = np.random.default_rng(4)
    rng.normal(size=good)
    assert next(n for n in range(1, 20) if half.look(to + rng.normal()) <= ERROR) == steps


@pytest.mark.parametrize("signal", ["kl/sequence", "refusal", "entropy", "energy_loss"])
def test_a_drift_says_its_error_level_and_a_quiet_run_says_nothing(signal):
    """Three steps in a row beyond the robust z, or under 30 % of the start: shown to be no chance, or silent."""
    rng = np.random.default_rng(9)
    down = 0.05 if signal == "entropy" else 20.0
    for moved in (False, True):
        monitors = Monitors(MonitorSpec(), EventLog(None), GoldHistory(), 60)
        for step in range(1, 61):
            level = down if moved and step > 30 else 1.0
            monitors.update(step, {signal: level * (1 + 0.1 * rng.normal())}, [])
        events = [e for e in monitors.log.events if e.monitor.partition(":")[0] == signal]
        assert bool(events) is moved
        for event in events:
            assert event.step <= 37
            assert "error level 5% over the whole run, p = " in event.confidence


def test_three_wild_steps_after_a_short_start_are_no_drift_yet():
    """A robust z of five steps is beyond 4 by chance: that alone was an event."""
    monitors = Monitors(MonitorSpec(), EventLog(None), GoldHistory(), 20)
    for step, value in enumerate([1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0], 1):
        monitors.update(step, {"kl/sequence": value}, [])
    assert not monitors.log.events


def test_what_was_seen_goes_through_a_checkpoint():
    rng = np.random.default_rng(4)
    values = rng.random((12, 5))
    whole, first = Rise(0.3, every=2), Rise(0.3, every=2)
    for step in values:
        whole.look(step)
    for step in values[:7]:
        first.look(step)
    again = Rise(0.3, every=2)
    again.restore(first.state())
    for step in values[7:]:
        again.look(step)
    assert again.state() == whole.state()


def group(number: int, cut: list[bool], scored: list[bool]) -> Group:
    return Group(
        Prompt(text=f"Question {number}"),
        tuple(
            Completion(
                f"answer {number} {i}", token_ids=(number, i, 7), finish_reason="length" if c else "stop"
            )
            for i, c in enumerate(cut)
        ),
        tuple(Feedback(float(i) if s else None) for i, s in enumerate(scored)),
    )


def says(step, texts):
    """A step in which each prompt has one answer."""
    return [
        Group(Prompt(text=f"q {step} {n}"), (Completion(t),), (Feedback(None),)) for n, t in enumerate(texts)
    ]


def test_a_phrase_that_is_rare_in_each_step_is_the_runs_phrase_and_its_event_names_it():
    """One answer to each prompt, and two prompts to a step: no step by itself repeats anything."""
    monitors, phrase = Monitors(MonitorSpec(), EventLog(None), GoldHistory(), 60), "你是有价值的值得被"
    record = {}
    for step in range(1, 61):
        other = " ".join(f"w{step}x{i}" for i in range(9))
        record = monitors.update(
            step, {}, says(step, [f"{other} {phrase if step > 30 else step}", other[::-1]])
        )
    found = [e for e in monitors.log.events if e.monitor == "boilerplate"]
    assert found and "你是有价值的值得" in found[0].message and found[0].step <= 38
    assert record["monitor/boilerplate"] == 0.5 and record["monitor/boilerplate_phrase"] in phrase


def test_a_new_habit_outgrows_an_old_one():
    run, old, new = RunPhrase(5), "a b c d e f g h", "i j k l m n o p"
    for step in range(40):
        run.look([(f"{step} {n}", old if step < 25 else new) for n in range(4)])
    assert run.phrase == new


@pytest.mark.parametrize("cut", [1, 7])
def test_the_runs_phrase_goes_through_a_checkpoint_and_its_memory_is_bounded(cut, monkeypatch):
    monkeypatch.setattr("kilter.training.monitors.phrase.ROOM", 50)
    rng = np.random.default_rng(cut)
    steps = [
        [
            (f"{n}", " ".join(rng.choice(list("abc"), 30)) + " and so we all say today: be well")
            for n in range(3)
        ]
        for _ in range(15)
    ]
    whole, first, again = RunPhrase(5), RunPhrase(5), RunPhrase(5)
    expected = [whole.look(step) for step in steps]
    assert [first.look(step) for step in steps[:cut]] == expected[:cut]
    again.restore(json.loads(json.dumps(first.state())))
    assert [again.look(step) for step in steps[cut:]] == expected[cut:]
    assert again.state() == whole.state() and len(whole.counts) <= 50
    assert expected[0] == (None, "") and expected[-1] == (1.0, "and so we all say today be well")


def test_the_boilerplate_of_an_older_kilter_is_no_reference():
    """It was the share of each step's own phrase: compared with it, the first steps here would be a drift."""
    answers = lambda step: says(step, [f"{step} {n} {' '.join('abcdefgh')}" for n in range(4)])
    older = Monitors(MonitorSpec(), EventLog(None), GoldHistory(), 60)
    for step in range(1, 21):
        older.update(step, {}, answers(step))
    state = older.state()
    del state["phrase"]
    state["reference"]["boilerplate"] = [0.01] * older.window
    for _ in range(20):
        older.shifts["boilerplate"].look(0.01)
    state["shifts"]["boilerplate"] = older.shifts["boilerplate"].state()
    resumed = Monitors(MonitorSpec(), EventLog(None), GoldHistory(), 60)
    resumed.restore(state)
    for step in range(21, 61):
        resumed.update(step, {}, answers(step))
    assert resumed.phrase.looks == 40 and resumed.reference["boilerplate"] == [1.0] * resumed.window
    assert not [e for e in resumed.log.events if e.monitor == "boilerplate"]


def test_a_phrase_of_one_prompt_alone_is_not_the_runs():
    run = RunPhrase(5)
    for _ in range(3):
        assert run.look([("q", "one two three four five six seven eight")] * 4)[1] == ""


def watched(steps: list[list[Group]]) -> list[str]:
    """The monitors that fired in a run of these steps."""
    spec = MonitorSpec(stop=True)
    monitors = Monitors(spec, EventLog(None), GoldHistory(), len(steps))
    for number, groups in enumerate(steps, 1):
        record = {
            "completions/clipped_ratio": np.mean(
                [c.finish_reason == "length" for g in groups for c in g.completions]
            ),
            "feedback/unscored": np.mean([f.score is None for g in groups for f in g.feedback]),
        }
        monitors.update(number, record, groups)
    return [e.monitor for e in monitors.log.events if e.tier == 0]


def test_a_run_at_the_limit_is_rarely_stopped():
    """Half of the answers cut, as the limit allows: three steps in a row above it come by chance, and stop nothing."""
    rng = np.random.default_rng(5)
    runs, found, streaks = 40, 0, 0
    for _ in range(runs):
        shares = rng.beta(1, 1, (24, 4))
        cut = rng.random((24, 4, 4)) < shares[..., None]
        means = cut.mean((1, 2)) > 0.5
        streaks += bool((means[:-2] & means[1:-1] & means[2:]).any())
        steps = [[group(n, list(c), [True] * 4) for n, c in enumerate(step)] for step in cut]
        found += "fatal:completions/clipped_ratio" in watched(steps)
    assert streaks / runs > 0.5
    assert found / runs <= 0.1


def test_a_run_whose_answers_are_all_cut_stops_at_the_third_step_and_says_how_sure_it_is():
    spec = MonitorSpec(stop=True)
    monitors = Monitors(spec, EventLog(None), GoldHistory(), 50)
    groups = [group(n, [True] * 4, [True] * 4) for n in range(4)]
    for step in (1, 2, 3):
        monitors.update(step, {"completions/clipped_ratio": 1.0}, groups)
        assert (monitors.stop is not None) is (step == 3)
    (event,) = [e for e in monitors.log.events if e.tier == 0]
    assert "error level 5% over the whole run, p = " in event.confidence


def gold_run(rng, fall: float, looks: int = 4, prompts: int = 48) -> list[bool]:
    """Whether each evaluation says that gold has fallen."""
    history = GoldHistory()
    history.add(0, Evidence({"gold": list(map(float, rng.random(prompts) < 0.6))}))
    told = []
    for look in range(1, looks + 1):
        entry = history.add(look, Evidence({"gold": list(map(float, rng.random(prompts) < 0.6 - fall))}))
        told.append(entry["gold_error"] is not None and entry["gold_error"] <= ERROR)
    return told


def test_gold_that_has_not_fallen_is_rarely_said_to_however_often_one_looks():
    rng = np.random.default_rng(6)
    runs = [gold_run(rng, 0.0) for _ in range(RUNS)]
    assert sum(map(any, runs)) / RUNS <= MOST


def test_gold_that_falls_is_found():
    rng = np.random.default_rng(7)
    assert sum(any(gold_run(rng, 0.4)) for _ in range(50)) >= 48


def called_out(rng, answers: int, pays: float) -> bool:
    """Whether a run of 12 steps shows that length pays; answers to one prompt are alike in length and score."""
    monitors = Monitors(MonitorSpec(), EventLog(None), GoldHistory(), 40)
    for _ in range(12):
        groups = []
        for _ in range(16 // answers + 4):
            lengths = 5 + rng.poisson(4, answers) + rng.poisson(8)
            scores = rng.normal(size=answers) + rng.normal() + pays * lengths
            made = tuple(Completion("", (1,) * int(n)) for n in lengths)
            groups.append(Group(Prompt(text="q"), made, tuple(Feedback(float(s)) for s in scores)))
        monitors._look(shares(groups, (0.0, 1.0)), {})
    return monitors._shown("reward_length_correlation")


@pytest.mark.parametrize("answers", [1, 4])
def test_length_that_says_nothing_is_rarely_said_to_pay_and_length_that_pays_is(answers):
    rng = np.random.default_rng(11)
    assert sum(called_out(rng, answers, 0.0) for _ in range(100)) <= 10
    assert all(called_out(rng, answers, 8.0) for _ in range(10))
