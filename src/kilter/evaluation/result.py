"""evaluation.json: what was asked and how, each model's estimates, and its differences to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kilter.evaluation.aggregate import Measured, Origin, paired
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.independent import counted
from kilter.evaluation.instruments import described
from kilter.evaluation.metrics import Measure, facts_of
from kilter.evaluation.people import powered
from kilter.evaluation.subject import Subject
from kilter.evaluation.suites import Suite
from kilter.statistics import Estimate, paired_difference

SCHEMA = 1


def head(
    spec: EvaluateSpec, suite: Suite, origin: Origin, baseline: str, trained: frozenset[str] | None
) -> dict[str, Any]:
    """What stands before the models: which prompts, how sampled, how many of them were trained on.

    trained: None: nobody knows of any of the models what it was trained on, and so nothing is counted.
    """
    return {
        "schema": SCHEMA,
        "n_probes": len(suite.probes),
        "baseline": baseline,
        "n_prompts": len(suite.prompts),
        "n_clusters": counted(suite.prompts, origin.clusters),
        "data_hash": origin.data_hash,
        "prompts_found_in_training_data": None if trained is None else suite.found_in(trained),
        "sampling": {
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "top_k": spec.top_k,
            "max_new_tokens": spec.max_new_tokens,
            "seed": spec.seed,
        },
    }


def entry(
    subject: Subject,
    measures: Sequence[Measure],
    found: Mapping[str, Measured],
    baseline: Mapping[str, Measured] | None,
    origin: Origin,
) -> dict[str, Any]:
    """One model: its estimates and its paired differences. baseline: None for the baseline itself."""
    made: dict[str, Any] = {"path": subject.path, "model_hash": subject.hash[:16]}
    if baseline is not None:
        base = paired(measures, baseline)
        made["difference"] = {
            key: difference(values, base[key], found[key], baseline[key], origin)
            for key, values in paired(measures, found).items()
            if key in base and found[key].estimate is not None
        }
    made["metrics"] = {k: m.to_json() for k, m in found.items() if m.estimate is not None}
    return made


def difference(
    values: Sequence[float | None],
    base: Sequence[float | None],
    found: Measured,
    compared: Measured,
    origin: Origin,
) -> dict[str, Any]:
    """The paired difference of one metric; where an instrument reads the answers, without its errors too."""
    assert found.estimate is not None
    about = {"unit": found.estimate.unit, "higher_is_better": found.estimate.higher_is_better}

    def of(places: Sequence[int]) -> Estimate:
        mine, theirs = [values[i] for i in places], [base[i] for i in places]
        together = None if found.clusters is None else [found.clusters[i] for i in places]
        noted = {"data_hash": origin.data_hash, **about}
        return paired_difference(mine, theirs, origin.seed, clusters=together, ends=found.ends, **noted)

    counted = of(range(len(values)))
    corrected = None if found.correction is None else found.correction.difference(counted, of)
    if found.people and compared.people:
        said = _minus(found.people, compared.people)
        corrected = powered(_minus(values, base), said, found.clusters)
        return counted.to_json() | replace(found, people=said).beside(corrected)
    return counted.to_json() | replace(found, people=()).beside(corrected)


def _minus(values: Sequence[float | None], base: Sequence[float | None]) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(values, base, strict=True)]


def read_by(measured: Iterable[Mapping[str, Measured]], origin: Origin) -> dict[str, Any]:
    """The instruments that read any of the answers, each with how well it reads; None was not measured."""
    corrections = [m.correction for found in measured for m in found.values() if m.correction is not None]
    names = [c.reader.instrument for c in corrections]
    return {"instruments": described(origin.instruments, names)} if names else {}


def titles_beyond(measures: Sequence[Measure], names: Iterable[str] = ()) -> dict[str, Any]:
    """Titles of metrics from outside, whose files a later reader may lack, and of the parts of metrics.

    Args:
        measures: what was measured.
        names: everything that a model has a value of, such as decision.refund.
    """
    titles = {m.facts.name: m.facts.title for m in measures}
    own = {name: title for name, title in titles.items() if facts_of(name) is None}
    parts = {
        name: f"{titles[whole]}: {part}"
        for name in names
        for whole, _, part in [name.partition(".")]
        if name not in titles and whole in titles
    }
    return {"titles": own | parts} if own or parts else {}
