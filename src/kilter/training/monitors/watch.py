"""The monitors: which signal means what, when it becomes an event, and what follows from it.

Tier 0 stops: parse failures, truncation, KL far beyond its budget. Tier 1 warns and asks for a gold
evaluation: cheap signals never stop a run. Tier 2 is that evidence, and may stop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kilter.evaluation.metrics import titles
from kilter.evaluation.metrics.boilerplate import shown
from kilter.statistics import Rise, Shift
from kilter.training.config import MonitorSpec
from kilter.training.monitors.events import Event, EventLog
from kilter.training.monitors.gold import ERROR, Evidence, GoldHistory, diverges
from kilter.training.monitors.phrase import RunPhrase
from kilter.training.monitors.signals import BY_PROMPT, answers, shares, signals
from kilter.types import Group

PHRASE = "boilerplate_phrase"
"""What the record calls the phrase that `boilerplate` is the share of."""

HITS = 3
"""Steps in a row before a signal becomes an event."""
Z_LIMIT = 4.0
"""Robust z (median and MAD of the first tenth of the run) beyond which a drifting signal counts as a hit."""
MIN_REFERENCE = 5
"""Steps that the reference window has at least."""

GROWTH = 1.1
"""Factor by which the KL of stale tokens has to rise from step to step; less is noise."""

MISSING = 0.2
"""Share of unscored held-out answers above which gold evidence is called thin."""

SLOPE_STEPS = 5
"""Steps over which the slope of the KL is taken (nats per step)."""


@dataclass(frozen=True)
class Limit:
    """A tier-1 rule on a value: `above` or `below` a number, or a multiple of the signal's start."""

    signal: str
    message: str
    above: float | None = None
    below: float | None = None
    relative: bool = False


LIMITS = (
    Limit(
        "entropy", "entropy fell below 30 % of its start: the policy is collapsing", below=0.3, relative=True
    ),
    Limit(
        "entropy", "entropy rose above 200 % of its start: the policy is dissolving", above=2.0, relative=True
    ),
    Limit(
        "reward_length_correlation",
        "longer answers score higher: the reward may be paying for length",
        above=0.5,
    ),
    Limit(
        "frac_reward_zero_std",
        "most groups have one score for all answers: nothing to learn from them",
        above=0.5,
    ),
    Limit("reward/at_maximum", "most answers have the maximal reward: the reward is saturated", above=0.9),
    Limit(
        "async/effective_sample_size",
        "answers of older weights count for little: lower cluster.lookahead, or set correction: anchored",
        below=0.7,
    ),
    Limit("duplicates", "most answers to a prompt are copies of each other", above=0.5),
    Limit("repetition", "answers repeat themselves", above=0.3),
)
DRIFT = {
    "kl/sequence": "KL to the reference drifts",
    "kl/slope": "KL grows at another pace",
    "length/p50": "the usual length drifts",
    "length/p95": "the longest answers drift",
    "refusal": f"the {titles()['refusal'].lower()} drifts",
    "markdown": "the use of markdown drifts",
    "boilerplate": "the share of answers that hold {phrase} drifts",
    "rewards/disagreement": "the reward models disagree more",
    "energy_loss": "the last layer's energy loss drifts",
}
FATAL = (
    (
        "feedback/unscored",
        0.2,
        "more than 20 % of the answers cannot be scored",
        "mend the feedback, or lower what it demands",
    ),
    (
        "completions/clipped_ratio",
        0.5,
        "more than half of the answers hit the length limit",
        "raise sampler.max_new_tokens, or start from a model that ends its answers",
    ),
)

LOST = 0.1
"""Share of a sample that staleness may cost in the mean; a run that keeps to it is rarely called out."""

SHARES = (
    {name: limit for name, limit, *_ in FATAL}
    | {limit.signal: limit.above for limit in LIMITS if limit.above is not None and limit.signal in BY_PROMPT}
    | {"reward_length_correlation": 0.5, "async/effective_sample_size": LOST}
)
"""Signals that are tested as the run goes on, with the limits of what is bet on.

Of a correlation that is how often the longer answer wins, and of a sample's size the share that is lost.
"""

SHIFTS = {"entropy": 1, **dict.fromkeys(DRIFT, 1), "kl/slope": SLOPE_STEPS, "async/stale_kl": 1}
"""Signals that are tested for a change since the first tenth of the run, and steps from one look to the next.

Slopes over the same steps are not independent, so that only every fifth one counts.
"""


@dataclass
class Monitors:
    """State: reference values, streaks, gold history. `stop` and `fix` are set when the run should end."""

    spec: MonitorSpec
    log: EventLog
    gold: GoldHistory
    total_steps: int
    allow_truncation: bool = False
    reference: dict[str, list[float]] = field(default_factory=dict)
    streak: dict[str, int] = field(default_factory=dict)
    raised: set[str] = field(default_factory=set)
    stop: str | None = None
    fix: str = ""
    wants_gold: bool = False
    recent_kl: list[float] = field(default_factory=list)
    stale_kl: float = math.inf
    """KL of the last step's stale tokens."""
    rises: dict[str, Rise] = field(default_factory=dict)
    """Signals that are shares of the answers to a prompt: how sure it is that each is beyond its limit."""
    shifts: dict[str, Shift] = field(default_factory=dict)
    """Signals of a whole step: how sure it is that each is no longer what it was."""
    scores: tuple[float, float] = (math.inf, -math.inf)
    """Lowest and highest score so far."""
    phrase: RunPhrase = field(init=False)
    """The phrase that most of the run's answers hold."""

    def __post_init__(self) -> None:
        self.phrase = RunPhrase(self.window)

    @property
    def window(self) -> int:
        """Steps of the reference window: the first tenth of the run."""
        return max(MIN_REFERENCE, self.total_steps // 10)

    def update(self, step: int, record: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
        """Looks at one step. Returns its signals, for the metrics file.

        `groups`: of all processes, so that each of them comes to the same verdict.
        """
        if not self.spec.enabled:
            return {}
        scores = [f.score for g in groups for f in g.feedback if f.score is not None]
        # Saturation is judged by the highest score that was ever seen.
        if scores:
            self.scores = (min(self.scores[0], *scores), max(self.scores[1], *scores))
        found: dict[str, Any] = signals(groups, self.scores)
        share, phrase = self.phrase.look(answers(groups))
        if share is not None:
            found |= {"boilerplate": share} | ({PHRASE: shown(phrase)} if phrase else {})
        # A monitor compares numbers: what is text or not finite has another guard.
        values = {
            k: float(v)
            for k, v in {**record, **found}.items()
            if isinstance(v, int | float) and math.isfinite(v)
        }
        if "kl/sequence" in values:
            self.recent_kl = [*self.recent_kl, values["kl/sequence"]][-SLOPE_STEPS:]
            # A slope over fewer steps would be noise.
            if len(self.recent_kl) == SLOPE_STEPS:
                values["kl/slope"] = found["kl/slope"] = float(
                    np.polyfit(range(SLOPE_STEPS), self.recent_kl, 1)[0]
                )
        self._look(shares(groups, self.scores), values)
        self._compare(step, values)
        # The strictest tier first: what stops a run is the first thing to be read.
        self._fatal(step, values)
        for limit in LIMITS:
            self._limit(step, limit, values)
        named = repr(found[PHRASE]) if PHRASE in found else "one phrase"
        for name, message in DRIFT.items():
            if name in values:
                self._drift(step, name, message.format(phrase=named), values[name])
        self._stale(step, values)
        # After the checks, so that no step is measured against itself.
        for name, value in values.items():
            if len(self.reference.setdefault(name, [])) < self.window:
                self.reference[name].append(value)
        return {f"monitor/{k}": v for k, v in found.items()}

    def _stale(self, step: int, values: Mapping[str, float]) -> None:
        """Warns when the policy runs away from the weights that sample for it."""
        if "async/stale_kl" not in values:
            return
        value, before = values["async/stale_kl"], self.stale_kl
        self.stale_kl = value
        grew = self._hit("async/stale_kl", value > GROWTH * before) >= HITS
        if grew and self._shown("async/stale_kl"):
            message = (
                "the policy moves away from the older weights that sample for it: "
                "lower cluster.lookahead, or set correction: anchored"
            )
            how = f"their KL grew in {self.streak['async/stale_kl']} steps in a row"
            how += self._level("async/stale_kl")
            self._warn("async/stale_kl", step, message, how, value, before)

    def _look(self, found: Mapping[str, Sequence[float]], values: Mapping[str, float]) -> None:
        """Bets on the shares of one step's prompts, and on the share of its sample that is lost."""
        size = values.get("async/effective_sample_size")
        found = {**found, "async/effective_sample_size": [] if size is None else [1 - size]}
        for name, limit in SHARES.items():
            rise = self.rises.setdefault(name, self._rise(limit))
            rise.look(found.get(name, ()))

    def _compare(self, step: int, values: Mapping[str, float]) -> None:
        """Bets on a change of one step's signals."""
        for name in SHIFTS.keys() & values.keys():
            if step % SHIFTS[name] == 0:
                self.shifts.setdefault(name, self._shift(name)).look(values[name])

    def _shift(self, name: str) -> Shift:
        return Shift(max(1, self.window // SHIFTS[name]), max(HITS, self.total_steps // 100))

    def _rise(self, limit: float) -> Rise:
        # A hundred bets at most, so that a long run's checkpoint stays small.
        return Rise(limit, max(HITS, self.total_steps // 100))

    def _shown(self, name: str) -> bool:
        """Whether a signal is beyond its limit by more than chance. Signals without a test always are."""
        p = self._p(name)
        return p is None or p <= ERROR

    def _p(self, name: str) -> float | None:
        """p-value of a signal's test, valid at any time; None for signals without one."""
        test = self.rises.get(name) or self.shifts.get(name)
        return None if test is None else test.p

    def _level(self, name: str) -> str:
        """The error level of a signal's test, in words."""
        p = self._p(name)
        return "" if p is None else f"; error level {ERROR:.0%} over the whole run, p = {p:.1g}"

    def _hit(self, key: str, hit: bool) -> int:
        """Length of the streak, 0 when it breaks; a broken streak may be raised again."""
        self.streak[key] = self.streak.get(key, 0) + 1 if hit else 0
        if not hit:
            self.raised.discard(key)
        return self.streak[key]

    def _raise(
        self,
        key: str,
        step: int,
        tier: int,
        level: Literal["info", "warn", "stop"],
        message: str,
        confidence: str,
        action: str,
        value: float | None = None,
        reference: float | None = None,
    ) -> None:
        if key in self.raised:
            return
        self.raised.add(key)
        since = step - max(0, self.streak.get(key, 1) - 1)
        self.log.add(Event(step, tier, level, key, message, since, confidence, action, value, reference))

    def _fatal(self, step: int, values: Mapping[str, float]) -> None:
        for name, limit, message, fix in FATAL:
            # Some tasks fill every answer to its limit, and their users said so.
            if name == "completions/clipped_ratio" and self.allow_truncation:
                continue
            value = values.get(name, 0.0)
            if self._hit(f"fatal:{name}", value > limit) >= HITS and self._shown(name):
                if self.spec.stop:
                    self.stop, self.fix = message, fix
                self._raise(
                    f"fatal:{name}",
                    step,
                    0,
                    "stop" if self.spec.stop else "warn",
                    message,
                    f"{value:.0%} in {HITS} steps in a row or more{self._level(name)}",
                    "run stopped" if self.spec.stop else "noted; stopping is switched off",
                    value,
                    limit,
                )
        # One step far beyond the budget is enough: the distance does not come back by itself.
        budget, kl = self.spec.kl_budget, values.get("kl/sequence")
        if budget is not None and kl is not None and self._hit("fatal:kl", kl > 3 * budget) >= 1:
            if self.spec.stop:
                self.stop, self.fix = (
                    "KL is more than three times its budget",
                    "lower the learning rate or raise beta",
                )
            self._raise(
                "fatal:kl",
                step,
                0,
                "stop" if self.spec.stop else "warn",
                f"KL of {kl:.1f} nats is more than three times the budget of {budget:g}",
                "certain",
                "run stopped" if self.spec.stop else "noted; stopping is switched off",
                kl,
                budget,
            )

    def _limit(self, step: int, limit: Limit, values: Mapping[str, float]) -> None:
        start = self.reference.get(limit.signal, [])
        if limit.signal not in values or (limit.relative and len(start) < MIN_REFERENCE):
            return
        # A relative limit waits until the start is known.
        scale = float(np.median(start)) if limit.relative else 1.0
        value, key = values[limit.signal], f"{limit.signal}:{'above' if limit.above is not None else 'below'}"
        hit = value > limit.above * scale if limit.above is not None else value < (limit.below or 0.0) * scale
        if self._hit(key, hit) >= HITS and self._shown(limit.signal):
            bound = (limit.above if limit.above is not None else limit.below or 0.0) * scale
            how = f"{self.streak[key]} steps in a row beyond {bound:.3g}{self._level(limit.signal)}"
            self._warn(key, step, limit.message, how, value, bound)

    def _drift(self, step: int, name: str, message: str, value: float) -> None:
        start = self.reference.get(name, [])
        if len(start) < self.window:
            return
        # Median and MAD: a single wild step at the start moves neither.
        middle = float(np.median(start))
        spread = max(1.4826 * float(np.median(np.abs(np.array(start) - middle))), 0.02 * abs(middle), 1e-3)
        z = (value - middle) / spread
        if self._hit(name, abs(z) > Z_LIMIT) >= HITS and self._shown(name):
            self._warn(
                name,
                step,
                f"{message}: {value:.3g} against {middle:.3g} at the start",
                f"robust z {z:+.1f}, {HITS} steps in a row{self._level(name)}",
                value,
                middle,
            )

    def _warn(
        self, key: str, step: int, message: str, confidence: str, value: float, reference: float
    ) -> None:
        # Evidence costs samples, so that a streak asks for it once.
        if key not in self.raised:
            self.wants_gold = True
        self._raise(
            key,
            step,
            1,
            "warn",
            message,
            confidence,
            "gold evaluation asked for, unless one was just made"
            if self.gold.entries
            else "noted; no gold source to ask",
            value,
            reference,
        )

    def due(self, step: int) -> bool:
        """Whether a gold evaluation follows this step: on schedule, or because a signal asked for one.

        A signal's request is used up by this call.
        """
        asked, self.wants_gold = self.wants_gold, False
        # Evidence that is only just behind answers the question already.
        recent = bool(self.gold.entries) and step - self.gold.entries[-1]["step"] < max(
            1, self.spec.gold_every // 4
        )
        return step % self.spec.gold_every == 0 or (asked and not recent)

    def _thin(self, step: int, found: Evidence) -> None:
        """An event when too many of the held-out answers have no score."""
        for name in ("gold", "proxy"):
            share = sum(v is None for v in found.values[name]) / max(1, len(found.values[name]))
            cause = f" ({found.problems[name]})" if found.problems.get(name) else ""
            if self._hit(f"{name}:unscored", share > MISSING):
                self._raise(
                    f"{name}:unscored",
                    step,
                    2,
                    "warn",
                    f"{share:.0%} of the held-out answers have no {name} score{cause}: the evidence is thin",
                    "certain",
                    "noted",
                    share,
                    MISSING,
                )

    def evidence(self, step: int, found: Evidence) -> dict[str, float]:
        """Takes a gold evaluation; may set `stop`. Returns metrics."""
        entry = self.gold.add(step, found)
        self._thin(step, found)
        change = entry.get("gold_change") or {}
        if diverges(entry):
            bounds = f"[{change['ci_low']:.3f}, {change['ci_high']:.3f}]"
            level = f"error level {ERROR:.0%} over all evaluations, p = {entry['gold_error']:.1g}"
            interval = f"gold change {change['value']:+.3f} {bounds} on {change['n']} prompts; {level}"
            message = "reward hacking: the reward rises while the gold score falls"
            # Twice in a row: a single evaluation may be unlucky.
            if self.gold.hacked() and self.spec.stop:
                self.stop, self.fix = (
                    message,
                    "mend the reward (length bias?), raise beta, or train for fewer steps",
                )
                self._raise(
                    "gold:stop",
                    step,
                    2,
                    "stop",
                    message,
                    f"{interval}, twice",
                    "run stopped; the best-gold model is kept"
                    if self.spec.keep_best is not False
                    else "run stopped; keep_best is switched off",
                    entry["gold"],
                    self.gold.entries[0]["gold"],
                )
            else:
                self.streak["gold:diverges"] = 1
                twice = self.gold.hacked()
                self._raise(
                    "gold:twice" if twice else "gold:diverges",
                    step,
                    2,
                    "warn",
                    message,
                    interval + (", twice" if twice else ""),
                    "noted; stopping is switched off" if twice else "watched: the next evaluation decides",
                    entry["gold"],
                    self.gold.entries[0]["gold"],
                )
        elif not self.gold.hacked():
            self.raised.discard("gold:diverges")  # gold has recovered: the next divergence is news
        # Unscored stays out of the record.
        metrics = {"gold/score": entry["gold"], "gold/proxy": entry["proxy"], "gold/length": entry["length"]}
        if change:
            metrics |= {
                "gold/change": change["value"],
                "gold/change_low": change["ci_low"],
                "gold/change_high": change["ci_high"],
            }
        return {k: v for k, v in metrics.items() if v is not None}

    def state(self) -> dict[str, Any]:
        """For the checkpoint; events and gold evaluations are on disk beside it."""
        return {
            "reference": self.reference,
            "streak": self.streak,
            "raised": sorted(self.raised),
            "wants_gold": self.wants_gold,
            "recent_kl": self.recent_kl,
            "stale_kl": self.stale_kl,
            "scores": self.scores,
            "phrase": self.phrase.state(),
            "rises": {name: rise.state() for name, rise in self.rises.items()},
            "shifts": {name: shift.state() for name, shift in self.shifts.items()},
            "stop": self.stop,
            "fix": self.fix,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.reference, self.streak = state["reference"], state["streak"]
        self.raised, self.wants_gold = set(state["raised"]), state["wants_gold"]
        self.recent_kl, self.scores = list(state["recent_kl"]), tuple(state["scores"])
        self.stale_kl = state["stale_kl"]
        # An older Kilter measured another boilerplate, and knows no phrase: both begin anew.
        if "phrase" in state:
            self.phrase.restore(state["phrase"])
        else:
            for held in (self.reference, self.streak, state["shifts"]):
                held.pop("boilerplate", None)
        for name, seen in state["rises"].items():
            self.rises[name] = self._rise(SHARES[name])
            self.rises[name].restore(seen)
        for name, seen in state["shifts"].items():
            self.shifts[name] = self._shift(name)
            self.shifts[name].restore(seen)
        if (
            "gold:stop" in self.raised
        ):  # the verdict of the gold source stands; what tier 0 stopped may have been mended
            self.stop, self.fix = state["stop"], state["fix"]
        for key in [k for k in self.raised if k.startswith("fatal:")]:
            self.raised.discard(key)
            self.streak[key] = 0
