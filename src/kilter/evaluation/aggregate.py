"""From values per prompt to one estimate: the ways that a metric may declare, by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kilter.errors import RunFailed
from kilter.evaluation.independent import cluster_of
from kilter.evaluation.instruments import Correction, Measurement, plain, shipped
from kilter.evaluation.metrics.registry import NEEDS, Measure, MetricFacts
from kilter.evaluation.people import Key, labels, powered
from kilter.registry import user_file, user_line
from kilter.statistics import Estimate, deviation, mean, proportion, win_rate
from kilter.types import Answered

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an estimate comes from.

    Args:
        seed: of the bootstrap.
        data_hash: of the data set that the prompts come from.
        judges: name of each feedback source, for people.
        certified: what is known of the judges behind each feedback source, and what vouches for them.
        people: what people said of some answers.
        instruments: how well those read the answers that do so with errors, by name.
        clusters: which prompts belong together, by their keys; one that is not named stands for itself.
        bias: added to the method of an estimate that holds for the policy's own samples alone; "" where the
            samples are such.
    """

    seed: int
    data_hash: str
    judges: Mapping[str, str]
    bias: str = ""
    certified: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    people: Mapping[Key, float] = field(default_factory=dict)
    instruments: Mapping[str, Measurement] = field(default_factory=shipped)
    clusters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one model.

    Args:
        values: one per prompt that counts, none of a corpus.
        estimate: None where no prompt counts.
        correction: of a rate that an instrument with errors reads.
        corrected: the rate without them.
        judges: those that it rests on, as their sources describe them.
        people: what people said of each prompt's answer; empty where they said too little.
        clusters: which of the prompts belong together; None: each stands for itself.
        ends: lowest and highest that a value can be; None: unknown.
    """

    values: list[float | None]
    estimate: Estimate | None
    correction: Correction | None = None
    corrected: Estimate | None = None
    judges: Sequence[Mapping[str, Any]] = ()
    people: Sequence[float | None] = ()
    clusters: Sequence[str] | None = None
    ends: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The estimate for evaluation.json, with the corrected one beside it."""
        assert self.estimate is not None, "a metric of no prompts is left out"
        return self.estimate.to_json() | self.beside(self.corrected)

    def beside(self, corrected: Estimate | None) -> dict[str, Any]:
        """What a reader of the number has to know: how it is corrected, and which judges it rests on."""
        found: dict[str, Any] = {}
        if self.correction is not None:
            found = {"instrument": self.correction.reader.instrument, "corrected": None}
        if self.people and corrected is not None:
            said = sum(label is not None for label in self.people)
            found["corrected"] = {**plain(corrected), "people": said}
        elif self.correction is not None and corrected is not None:
            found["corrected"] = self.correction.to_json(corrected)
        return found | ({"judged_by": list(self.judges)} if self.judges else {})


def _proportion(values: Values, seed: int, clusters: Sequence[str] | None = None, **extra: Any) -> Estimate:
    return proportion([None if v is None else bool(v) for v in values], clusters, **extra)


AGGREGATES: dict[str, Callable[..., Estimate]] = {
    "mean": mean,
    "rate": functools.partial(mean, binary=True),
    "proportion": _proportion,
    "wins": win_rate,
    "deviation": deviation,
}


def measure(asked: Measure, items: Sequence[Answered], origin: Origin) -> Measured | None:
    """One metric of one model's answers; None where no prompt has what it needs."""
    facts = asked.facts
    if not all(any(NEEDS[need](item) for item in items) for need in facts.needs):
        return None
    counted = [item for item in items if facts.counts(item)]
    if facts.aggregate == "corpus":
        answered = [item for item in counted if item.answers]
        return Measured([], _of_corpus(asked, answered, len(counted) - len(answered), origin))
    values = [_value(asked, item) for item in counted]
    if not values:
        return Measured([], None)
    judge = _own_readings(facts, counted) or facts.judge or _judges(facts, origin)
    noted = {"judge": judge, "data_hash": origin.data_hash, **_direction(facts)}
    clusters = clusters_of(counted, origin)
    estimate = estimated(facts, values, origin.seed, clusters, **noted)
    if facts.on_policy:
        estimate = replace(estimate, method=estimate.method + origin.bias)
    made = _corrected(facts, counted, values, estimate, origin, clusters)
    return replace(made, clusters=clusters, ends=facts.ends)


def _of_corpus(asked: Measure, answered: Sequence[Answered], lost: int, origin: Origin) -> Estimate:
    """One number of all answers; a metric that knows its interval gives a whole Estimate."""
    named = clusters_of(answered, origin) or [""] * len(answered)
    items = [replace(item, cluster=cluster) for item, cluster in zip(answered, named, strict=True)]
    found = _call(asked, lambda: asked.metric.over_corpus(items))
    facts = asked.facts
    judge = facts.judge or _judges(facts, origin)
    about = {"judge": judge, "data_hash": origin.data_hash, **_direction(facts)}
    return _AS_ESTIMATE[type(found)](found, len(answered), lost, about)


_AS_ESTIMATE: Mapping[type, Callable[[Any, int, int, dict[str, Any]], Estimate]] = {
    Estimate: lambda found, n, lost, about: replace(found, n_unscored=found.n_unscored + lost, **about),
    tuple: lambda found, n, lost, about: Estimate(found[0], n, lost, method=found[1], **about),
}
"""By what `over_corpus` returns: an Estimate, or a value and a note on its method."""


def _own_readings(facts: MetricFacts, items: Sequence[Answered]) -> str:
    """The worlds that read all these answers themselves; "" where an instrument read one of them."""
    if facts.reader is None or not all(facts.reader.exact(item.prompt) for item in items):
        return ""
    worlds = {str(item.prompt.metadata.get("world", "")) for item in items} - {""}
    return " and ".join(f"{name} reads its own answers" for name in sorted(worlds))


def _judges(facts: MetricFacts, origin: Origin) -> str:
    return " and ".join(v for k, v in origin.judges.items() if k in facts.needs)


def _corrected(
    facts: MetricFacts,
    items: Sequence[Answered],
    values: list[float | None],
    counted: Estimate,
    origin: Origin,
    clusters: Sequence[str] | None,
) -> Measured:
    """The number without the errors of its instrument or its judge, as far as they are known."""
    judges = [judge for source in sorted(facts.needs) for judge in origin.certified.get(source, ())]
    correction = None
    if facts.reader is not None:
        exact = [facts.reader.exact(item.prompt) for item in items]
        correction = Correction(facts.reader, origin.instruments.get(facts.reader.instrument), exact)
    correction = correction if correction is not None and correction.needed else None
    if correction is None and not judges:
        return Measured(values, counted)

    # What people said of these very answers is better evidence than a measurement made elsewhere.
    people = labels(facts.name, items, origin.people)
    if people:
        return Measured(values, counted, correction, powered(values, people, clusters), judges, people)

    def of(places: Sequence[int]) -> Estimate:
        together = None if clusters is None else [clusters[i] for i in places]
        return estimated(facts, [values[i] for i in places], origin.seed, together)

    corrected = None if correction is None else correction.rate(counted, of)
    return Measured(values, counted, correction, corrected, judges)


def estimated(
    facts: MetricFacts, values: Values, seed: int, clusters: Sequence[str] | None, **noted: Any
) -> Estimate:
    """The estimate that a metric declares, of some of its values."""
    if facts.bounds is not None:
        return mean(values, seed, clusters=clusters, ends=facts.bounds, **noted)
    return AGGREGATES[facts.aggregate](values, seed, clusters=clusters, **noted)


def clusters_of(items: Sequence[Answered], origin: Origin) -> list[str] | None:
    """Which records belong together; None where each stands for itself."""
    named = [cluster_of(item.prompt, origin.clusters) or f"alone {i}" for i, item in enumerate(items)]
    return named if len(set(named)) < len(named) else None


def _value(asked: Measure, item: Answered) -> float | None:
    """One prompt's value. Unscored: a prompt without an answer, and whatever is not a finite number."""
    value = _call(asked, lambda: asked.metric.per_prompt(item)) if item.answers else None
    return value if value is not None and math.isfinite(value) else None


def _call(asked: Measure, compute: Callable[[], Any]) -> Any:
    """The result. What a metric raises names the metric; answers and scores stay on disk."""
    try:
        return compute()
    except Exception as error:
        line = user_line(error)
        where = f" in line {line} of {user_file(error)}" if line else ""
        raise RunFailed(
            f"The metric {asked.facts.name} failed{where} ({type(error).__name__}: {error})",
            "mend it and run the same command again. No answer is sampled twice",
        ) from error


def _direction(facts: MetricFacts) -> dict[str, Any]:
    return {"unit": facts.unit, "higher_is_better": facts.higher_is_better}


def measure_all(
    measures: Sequence[Measure], records: Mapping[str, Sequence[Answered]], origin: Origin
) -> dict[str, Measured]:
    """Every metric that the records of one model allow, by name, in the order of evaluation.json."""
    found = {}
    for asked in sorted(measures, key=lambda m: m.facts.rank):
        items = [item for suite in asked.facts.over for item in records.get(suite, ())]
        result = measure(asked, items, origin)
        if result is None:
            continue
        found[asked.facts.name] = result
        for part, own in _sliced(asked.facts, items).items():
            sliced = measure(asked, own, origin)
            if sliced is not None:
                found[f"{asked.facts.name}.{part}"] = sliced
    return found


def _sliced(facts: MetricFacts, items: Sequence[Answered]) -> dict[str, list[Answered]]:
    """The items of each part that a metric is also reported for; a part that has all of them is not one."""
    parts: dict[str, list[Answered]] = {}
    if facts.slices is None:
        return parts
    counted = [item for item in items if facts.counts(item)]
    for item in counted:
        for part in facts.slices(item.prompt):
            parts.setdefault(part, []).append(item)
    return {part: parts[part] for part in sorted(parts) if len(parts[part]) < len(counted)}


def paired(measures: Sequence[Measure], found: Mapping[str, Measured]) -> dict[str, Sequence[float | None]]:
    """Values that stand in per_prompt.json, metrics of exactly the prompts before those of others."""
    kept = [m.facts for m in measures if m.facts.paired and m.facts.name in found]
    kept.sort(key=lambda facts: (facts.rank, not facts.aligned))
    whole: dict[str, Values] = {facts.name: found[facts.name].values for facts in kept}
    parts: dict[str, Values] = {
        name: found[name].values for name in found if name.rpartition(".")[0] in whole
    }
    return whole | parts
