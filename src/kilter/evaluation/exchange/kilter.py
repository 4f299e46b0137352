"""Evaluations of Kilter as outcomes, and outcomes as an evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from kilter.artifacts import read_json, write_json
from kilter.data import store
from kilter.errors import UserError
from kilter.evaluation.exchange.outcome import Asked, Number, Outcome, Values
from kilter.evaluation.independent import cluster_of, together
from kilter.evaluation.references import references
from kilter.evaluation.response.reading import question
from kilter.evaluation.result import SCHEMA
from kilter.statistics import Estimate, mean, paired_difference
from kilter.types import Completion, Feedback, Group, Prompt

FIX = "give the folder of an evaluation, which `kilter eval` writes"
Z = 1.959964
"""Standard errors from a mean to the end of its 95 % interval."""


def outcomes_of(folder: Path) -> list[Outcome]:
    """One outcome per model of an evaluation.

    A metric of other prompts than the evaluation's own has a number, and no values of single prompts.
    """
    made = read_json(folder / "evaluation.json", FIX, ("models", "data_hash"))
    values = read_json(folder / "per_prompt.json", FIX)
    groups = list(store.read(folder / "groups.jsonl"))
    known = together(g.prompt for g in groups)
    if not made["models"]:
        raise UserError(
            "evaluation", str(folder), "holds no answers of a model", "give an evaluation that does"
        )
    return [
        Outcome(
            name,
            f"kilter-{made['data_hash']}",
            {key: _number(e) for key, e in entry["metrics"].items()},
            [_asked(g, place, i, known) for i, g in enumerate(groups)],
            {key: v for key, v in values.get(name, {}).items() if len(v) == len(groups)},
            {"path": entry["path"], "model_hash": entry["model_hash"], "sampling": made["sampling"]},
        )
        for place, (name, entry) in enumerate(made["models"].items())
    ]


def _number(estimate: Mapping[str, Any]) -> Number:
    low, high = estimate["ci_low"], estimate["ci_high"]
    better = {True: "higher", False: "lower"}.get(estimate["higher_is_better"])
    return Number(
        estimate["value"],
        estimate["n"],
        estimate["n_unscored"],
        None,
        None if low is None or high is None else (low, high),
        better,
        estimate["method"],
    )


def _asked(group: Group, place: int, number: int, known: Mapping[str, str]) -> Asked:
    right = references(group.prompt)
    return Asked(
        group.prompt.id or str(number),
        question(group.prompt),
        group.completions[place].text,
        right[0] if right else "",
        cluster=cluster_of(group.prompt, known) or "",
    )


def write_evaluation(outcomes: Sequence[Outcome], folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """evaluation.json, per_prompt.json and groups.jsonl of what others measured; the first is the baseline.

    Where single values are known, estimates and differences are Kilter's own, and know which prompts belong
    together. Whether prompts were trained on is unknown, and so that field is left out.

    Raises:
        UserError: two models have one name and one task, or were asked other questions under one id.
    """
    by_model = _by_model(outcomes)
    tasks = list(dict.fromkeys(o.task for o in outcomes))
    baseline = next(iter(by_model))
    asked = {o.task: o.asked for o in reversed(outcomes)}
    for model, own in by_model.items():
        _refuse_unlike(model, own, asked)
    values = {m: _values(own, asked) for m, own in by_model.items()}
    prompts = [(task, a) for task in tasks for a in asked[task]]
    belong = _clusters(prompts)

    models = {}
    for model, own in by_model.items():
        about = next(iter(own.values())).about
        path = str(about.get("path", model))
        entry: dict[str, Any] = {"path": path, "model_hash": about.get("model_hash") or _hash(path)}
        if model != baseline:
            entry["difference"] = _differences(values[model], values[baseline], own, belong)
        entry["metrics"] = {
            f"{task}/{key}": _estimate(number, values[model].get(f"{task}/{key}"), belong.get(task))
            for task, o in own.items()
            for key, number in o.numbers.items()
        }
        models[model] = entry

    first = outcomes[0].about
    result = {
        "schema": SCHEMA,
        "n_probes": 0,
        "baseline": baseline,
        "n_prompts": len(prompts),
        "data_hash": _hash(json.dumps([(task, a.id, a.prompt, a.target) for task, a in prompts])),
        "sampling": {"temperature": None, "max_new_tokens": None, **dict(first.get("sampling") or {})},
        "imported": [{"file": str(f), **{k: v for k, v in first.items() if k == "made_by"}} for f in files],
        "models": models,
        "titles": {key: key for entry in models.values() for key in entry["metrics"]},
    }
    write_json(folder / "per_prompt.json", values)
    store.write(folder / "groups.jsonl", _groups(prompts, by_model))
    write_json(folder / "evaluation.json", result, indent=1)
    return result


def _by_model(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Outcome]]:
    found: dict[str, dict[str, Outcome]] = {}
    for outcome in outcomes:
        own = found.setdefault(outcome.model, {})
        if outcome.task in own:
            problem = f"has two results on {outcome.task}."
            raise UserError("results", outcome.model, problem, "Name the models: NAME=FILE for each file.")
        own[outcome.task] = outcome
    return found


def _refuse_unlike(model: str, own: Mapping[str, Outcome], asked: Mapping[str, Sequence[Asked]]) -> None:
    """Values of two questions are no pair, even where both files give them one id."""
    for task, outcome in own.items():
        known = {a.id: a.question for a in asked[task]}
        for a in outcome.asked:
            if a.question and known.get(a.id) and a.question != known[a.id]:
                problem = f"was asked another question of {task} under the id {a.id} than the first model."
                fix = "Give results of one version of the task, or import each by itself."
                raise UserError("results", model, problem, fix)


def _cluster(asked: Asked) -> dict[str, str]:
    return {"cluster": asked.cluster} if asked.cluster else {}


def _clusters(prompts: Sequence[tuple[str, Asked]]) -> dict[str, list[str] | None]:
    """Which prompts of each task belong together; None where each stands for itself."""
    found: dict[str, list[str] | None] = {}
    for task in dict.fromkeys(task for task, _ in prompts):
        own = [Prompt(text=a.prompt, metadata=_cluster(a)) for t, a in prompts if t == task]
        known = together(own)
        named = [cluster_of(p, known) or f"alone {i}" for i, p in enumerate(own)]
        found[task] = named if len(set(named)) < len(named) else None
    return found


def _values(own: Mapping[str, Outcome], asked: Mapping[str, Sequence[Asked]]) -> dict[str, Values]:
    """task/metric -> values in the order of the first model's prompts, None where another was asked."""
    found: dict[str, Values] = {}
    for task, outcome in own.items():
        places = {a.id: i for i, a in enumerate(outcome.asked)}
        for key, given in outcome.values.items():
            at = [places.get(a.id) for a in asked[task]]
            found[f"{task}/{key}"] = [None if i is None else given[i] for i in at]
    return found


def _estimate(number: Number, values: Values | None, clusters: Sequence[str] | None) -> dict[str, Any]:
    """Kilter's own from single values; without them what the file says, which it then is marked as."""
    higher = {"higher": True, "lower": False}.get(number.better or "")
    if values is not None and any(v is not None for v in values):
        binary = all(0 <= v <= 1 for v in values if v is not None)
        return asdict(mean(values, binary=binary, clusters=clusters, higher_is_better=higher))
    low, high = number.interval or (None, None)
    if number.stderr is not None and number.value is not None:
        low, high = number.value - Z * number.stderr, number.value + Z * number.stderr
    method = f"as reported: {number.method}"
    estimate = Estimate(
        number.value, number.n, number.unscored, number.n, low, high, method, higher_is_better=higher
    )
    return {**asdict(estimate), "reported": True}


def _differences(
    values: Mapping[str, Values],
    base: Mapping[str, Values],
    own: Mapping[str, Outcome],
    belong: Mapping[str, Sequence[str] | None],
) -> dict[str, Any]:
    higher = {"higher": True, "lower": False}
    found = {}
    for task, outcome in own.items():
        for name in outcome.values:
            key, number = f"{task}/{name}", outcome.numbers.get(name)
            if key in base:
                better = higher.get((number.better if number else None) or "")
                made = paired_difference(
                    values[key], base[key], clusters=belong[task], higher_is_better=better
                )
                found[key] = asdict(made)
    return found


def _groups(
    prompts: Sequence[tuple[str, Asked]], by_model: Mapping[str, Mapping[str, Outcome]]
) -> list[Group]:
    said = {
        model: {(task, a.id): a.answer for task, o in own.items() for a in o.asked}
        for model, own in by_model.items()
    }
    return [
        Group(
            Prompt(text=a.prompt, id=a.id, metadata={"answer": a.target, "task": task, **_cluster(a)}),
            tuple(Completion(said[m].get((task, a.id), "")) for m in by_model),
            tuple(Feedback(None, source=m) for m in by_model),
        )
        for task, a in prompts
    ]


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
