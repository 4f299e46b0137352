"""The model card: how a model was made and measured, whether it may ship, and what nobody knows of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kilter.artifacts import read_json
from kilter.evaluation.metrics import titles
from kilter.models.builtin import BUILTIN
from kilter.objectives import method_name
from kilter.release import words
from kilter.release.evidence import Evidence, StageFacts
from kilter.release.report import fill, interval
from kilter.release.source import HUB_ID, Source
from kilter.release.words import number
from kilter.screen import many
from kilter.version import __version__

CLASSES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
}
"""Ends of transformers' class names, and what such a model does in the Hub's words."""

PEFT = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
"""Tasks of adapters, and the class of the base beneath; all others answer."""


def card(source: Source, folder: Path) -> Any:
    """The card as huggingface_hub reads it: front matter with the results, and the text below.

    Args:
        source: the model and what is known of it.
        folder: where its files already are.
    """
    from huggingface_hub import ModelCard, ModelCardData

    run, stage = source.run, source.stage
    chain = [] if run is None or stage is None else lineage(run, stage)
    base = _base(source, chain)
    adapter = (folder / "adapter_config.json").is_file()
    data = ModelCardData(
        model_name=source.name,
        base_model=_hub_name(base),
        license=_license(base),
        library_name="peft" if adapter else "transformers",
        pipeline_tag=CLASSES[_class(folder)],
        tags=["kilter", *dict.fromkeys(_method(s) for s in chain if s.kind == "train")],
        datasets=list(dict.fromkeys(d for s in chain for d in _data(run, s) if HUB_ID.fullmatch(d))) or None,
        eval_results=_results(source) or None,
    )
    values = _values(source, chain, base, adapter) | {"ends": _class(folder)}
    text = fill("card.md.j2", **values)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def lineage(run: Evidence, stage: StageFacts) -> list[StageFacts]:
    """The stages that the weights went through, the first one first."""
    known = {s.name: s for s in run.stages}
    found = [stage]
    while (parent := known.get(str(_parent(found[0])))) is not None and parent not in found:
        found.insert(0, parent)
    return found


def _parent(stage: StageFacts) -> object:
    return stage.entry.config.get("from") or stage.entry.config.get("model")


def _base(source: Source, chain: Sequence[StageFacts]) -> str:
    """The model that the first stage began with, as the user wrote it."""
    if source.run is None or not chain:
        return source.reference
    first = chain[0]
    named = _parent(first) or source.run.settings.get("model")
    inputs = [key.removeprefix("model:") for key in first.entry.inputs if key.startswith("model:")]
    return str(named or (inputs[0] if inputs else ""))


def _builtin(base: str) -> Any:
    return BUILTIN.get(base.removeprefix("builtin:")) if base.startswith("builtin:") else None


def _hub_name(base: str) -> str | None:
    """Its name on the Hub. A folder of somebody's machine is of no use to a reader."""
    if (known := _builtin(base)) is not None:
        return str(known.upstream)
    return base if HUB_ID.fullmatch(base) and not Path(base).exists() else None


def _license(base: str) -> str | None:
    """Of the base, where Kilter knows it."""
    known = _builtin(base)
    return None if known is None else str(known.license)


def _class(folder: Path) -> str:
    """End of the name of transformers' class, such as ForCausalLM."""
    if (folder / "adapter_config.json").is_file():
        return PEFT.get(str(read_json(folder / "adapter_config.json").get("task_type")), "ForCausalLM")
    path = folder / "config.json"
    architecture = str(((read_json(path) if path.is_file() else {}).get("architectures") or [""])[0])
    return next((end for end in CLASSES if architecture.endswith(end)), "ForCausalLM")


def _method(stage: StageFacts) -> str:
    """'dpo', or 'dpo+sft:0.1' of a mixture."""
    method = stage.entry.config.get("method", stage.kind)
    return method_name(method) if isinstance(method, str | Mapping) else str(method)


def _data(run: Evidence | None, stage: StageFacts) -> list[str]:
    """Where a stage's rows came from, as the recipe says; names of files alone, never their folders."""
    config = stage.entry.config
    refs = [str(config[k]).removeprefix("$") for k in ("data", "prompts") if config.get(k)]
    known = {} if run is None else run.settings.get("data") or {}
    found: list[str] = []
    for ref in refs:
        spec = known.get(ref)
        parts = (spec.get("parts") or [spec]) if isinstance(spec, Mapping) else [{"path": ref}]
        found += [_public(str(part.get("path", ref))) for part in parts]
    return list(dict.fromkeys(found))


def _public(path: str) -> str:
    if path.startswith("builtin:") or (HUB_ID.fullmatch(path) and not Path(path).exists()):
        return path
    return Path(path).name


def _measured(source: Source) -> Mapping[str, Any]:
    """The model's part of the evaluation; empty where these weights were not evaluated."""
    run, stage = source.run, source.stage
    models = (run.evaluation or {}).get("models", {}) if run is not None else {}
    found: Mapping[str, Any] = models.get(stage.name, {}) if stage is not None else {}
    same = stage is not None and stage.entry.outputs.get("model", "")[:16] == found.get("model_hash")
    return found if same else {}


def _results(source: Source) -> list[Any]:
    """Every metric with a value as an EvalResult, its interval among the arguments."""
    from huggingface_hub import EvalResult

    measured, run = _measured(source), source.run
    if not measured or run is None or run.evaluation is None:
        return []
    named = titles(run.evaluation)
    asked = [s for s in run.stages if s.folder == run.evaluated]
    data = ", ".join(_data(run, asked[0])) if asked else "held-out prompts"
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=re.sub(r"[^\w.-]+", "-", data).strip("-") or "prompts",
            dataset_name=f"{data}, held-out prompts",
            dataset_revision=run.evaluation["data_hash"],
            metric_type=key,
            metric_name=named.get(key, key),
            metric_value=metric["value"],
            metric_args={k: metric[k] for k in ("ci_low", "ci_high", "n", "n_unscored", "unit", "method")},
        )
        for key, metric in measured["metrics"].items()
        if metric["value"] is not None
    ]


def _values(source: Source, chain: Sequence[StageFacts], base: str, adapter: bool) -> dict[str, Any]:
    """What the template shows."""
    run, gate = source.run, source.verdict
    evaluation = (run.evaluation if run is not None else None) or {}
    named, measured = titles(evaluation or None), _measured(source)
    return {
        "name": source.name,
        "base": _hub_name(base) or _public(base),
        "adapter": adapter,
        "headline": words.headline(gate) if gate else "Not judged",
        "summary": words.summary(gate, named) if gate else "No release gate has judged these weights.",
        "reasons": words.reasons(gate, evaluation, named) if gate else [],
        "gate": gate,
        "limits": words.limits(evaluation, gate) if measured else ["These weights were not evaluated."],
        "results": _rows(measured, evaluation, named),
        "baseline": evaluation.get("baseline"),
        "steps": [_step(run, s) for s in chain],
        "audits": [] if run is None else _audits(run),
        "hashes": [(s.name, s.entry.key[:16], s.entry.outputs.get("model", "")[:16]) for s in chain],
        "versions": chain[-1].entry.versions if chain else {},
        "kilter": __version__,
    }


def _rows(
    measured: Mapping[str, Any], evaluation: Mapping[str, Any], named: Mapping[str, str]
) -> list[list[str]]:
    """Metric, value, interval, the paired change to the baseline, and n."""
    rows = []
    for key, metric in measured.get("metrics", {}).items():
        change = measured.get("difference", {}).get(key)
        said = "" if change is None else f"{number(change['value'])} ({interval(change)})"
        value = number(metric["value"])
        rows.append([named.get(key, key), value, metric["unit"], interval(metric), said, str(metric["n"])])
    return rows


def _step(run: Evidence | None, stage: StageFacts) -> list[str]:
    """A stage of the lineage: what was done, on what, and how."""
    entry = stage.entry
    shown = ("learning_rate", "batch_size", "epochs", "max_steps", "max_length", "seed", "dtype")
    settings = [f"{k} {entry.config[k]}" for k in shown if entry.config.get(k) is not None]
    rows = entry.facts.get("groups")
    data = ", ".join(_data(run, stage)) + (f" ({many(rows, 'rows')})" if rows else "")
    steps = entry.facts.get("steps")
    return [stage.name, _method(stage), data, "" if steps is None else str(steps), ", ".join(settings)]


def _audits(run: Evidence) -> list[str]:
    """What the audits of the run said, in a sentence each."""
    kinds = {"audit": "data audit", "audit_judge": "audit of the judge"}
    return [
        f"The {kinds[s.kind]} in stage {s.name} ended with: {s.entry.facts['verdict']}."
        for s in run.stages
        if s.kind in kinds and s.entry.facts.get("verdict")
    ]
