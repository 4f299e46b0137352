"""evaluate: models answer the same held-out prompts; metrics with intervals, paired with the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kilter.data.dataset import Dataset
from kilter.errors import UserError, nearest
from kilter.evaluation.config import EvaluateSpec
from kilter.refs import Found
from kilter.release.section import Section
from kilter.sampling.config import idle_fields
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import Outcome, StagePlan
from kilter.stages.registry import stage
from kilter.types import Group, Shape
from kilter.validation import refuse_idle


@stage("evaluate")
class Evaluate(StageKind[EvaluateSpec]):
    """Hands folders and rows to an Evaluation."""

    Spec = EvaluateSpec
    makes = "evaluation"

    def shape(self, spec: EvaluateSpec, field: str) -> Shape | None:
        """The tax set is of demonstrations, everything else of prompts."""
        return "demonstrations" if field == "tax" else "prompts"

    def names(self, spec: EvaluateSpec) -> list[str]:
        """The models as they are named in the settings."""
        return list(spec.models)

    def baseline(self, spec: EvaluateSpec) -> str:
        """The one that is named, else the first."""
        return spec.baseline or next(iter(spec.models))

    def reads(self, spec: EvaluateSpec) -> list[Found]:
        """An endpoint's models are names, not folders."""
        found = super().reads(spec)
        return [f for f in found if not (spec.asks_endpoint and f.field.partition(".")[0] == "models")]

    def check_names(self, spec: EvaluateSpec, work: Workspace) -> None:
        """The metrics and the gold source are known."""
        from kilter.evaluation import metrics
        from kilter.feedback import check_names

        metrics.resolve(spec.metrics, work.where("metrics"))
        if spec.gold is not None:
            check_names(spec.gold, work.where("gold"))

    def check(self, spec: EvaluateSpec, work: Workspace) -> None:
        """Gold source and sampler can be built, and the baseline is among the models."""
        from kilter import feedback
        from kilter.sampling.build import check_sampler

        refuse_idle(spec.sampler, f"{work.where('sampler')}.", idle_fields(spec.sampler))
        check_sampler(spec.sampler, work.where("sampler"))
        if spec.gold is not None:
            feedback.check(spec.gold, work.where("gold"))
        if len(set(spec.models)) < len(spec.models):
            raise UserError(
                work.where("models"),
                spec.models,
                "names a model twice",
                "name it once, or give {name: model}",
            )
        for name in _named(spec.models).values():
            if work.is_stage(name):
                work.require_policy(name, "models")
        for name in _named(spec.reward_model).values() if spec.reward_model is not None else ():
            if work.is_stage(name) and not work.stages[name].maker.scores(work.stages[name].spec):
                raise UserError(
                    work.where("reward_model"),
                    name,
                    "is a policy: it has no score head",
                    "name a stage that trains a reward model, with method bradley_terry",
                )
        if spec.baseline and spec.baseline not in spec.models:
            raise UserError(
                work.where("baseline"),
                spec.baseline,
                "is not among models",
                nearest(spec.baseline, spec.models),
            )

    def preflight(self, spec: EvaluateSpec, work: Workspace) -> None:
        """Refuses data that has no held-out prompts."""
        if work.ready(spec.data) and not _asked(spec, work).heldout:
            raise UserError(
                "data.heldout",
                work.data(spec.data).heldout,
                "leaves no prompts to evaluate on",
                "set data.heldout above 0 or give more data",
            )

    def plan(self, spec: EvaluateSpec, work: Workspace) -> StagePlan:
        """How many prompts each model answers."""
        what = ", ".join(spec.models)
        if not work.ready(spec.data):
            return StagePlan(what)
        held = _asked(spec, work).heldout
        count = len({g.prompt.id or i for i, g in enumerate(held)})
        count = min(count, spec.limit or count)
        if spec.asks_endpoint:
            return StagePlan(what, count)

        # Every model answers all prompts and probes, and reads its answers, and the tax set, once more.
        from kilter.training.estimate import answering_seconds

        probes = sum(len(_once(work, name)[: spec.probe_limit]) for name in spec.probes if work.ready(name))
        answers = (count + probes) * len(spec.models)
        read = answers + (spec.tax_limit if spec.tax else 0) * len(spec.models)
        seconds = answering_seconds(work.model(None), answers, spec.max_new_tokens, read, spec.dtype)
        return StagePlan(what, count, answers * spec.max_new_tokens, seconds=round(seconds))

    def run(self, spec: EvaluateSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes evaluation.json and groups.jsonl."""
        from kilter.data.dataset import heldout_pairs, trained_prompts
        from kilter.evaluation.runner import Evaluation
        from kilter.evaluation.subject import Subject

        # The baseline first: every difference is to it.
        named = _named(spec.models)
        baseline = spec.baseline or next(iter(named))
        order = [baseline, *(name for name in named if name != baseline)]
        folders = {n: None if spec.asks_endpoint else work.model(named[n], "models") for n in order}
        models = [Subject(name, named[name], folders[name]) for name in order]
        trained = frozenset().union(*(trained_prompts(f) for f in folders.values() if f is not None))

        # Held-out pairs say how far the reward model can be trusted.
        reward = None
        pairs: Sequence[Group] = ()
        if spec.reward_model is not None:
            name, reference = next(iter(_named(spec.reward_model).items()))
            reward = (name, work.model(reference, "reward_model"))
            source = work.data(spec.data)
            source = source.model_copy(update={"heldout": 0.0}) if spec.split == "all" else source
            pairs = heldout_pairs(source, spec.data.removeprefix("$"))

        probes = [g.prompt for name in spec.probes for g in _once(work, name)[: spec.probe_limit]]
        tax = _once(work, spec.tax, "demonstrations")[: spec.tax_limit] if spec.tax else []
        result = Evaluation(
            spec,
            models,
            reward,
            _asked(spec, work),
            pairs,
            trained,
            folder,
            work.console,
            work.name,
            probes,
            tax,
            lambda name: work.model(name, "gold"),
        ).run()
        return Outcome({"prompts": result["n_prompts"], "baseline": result["baseline"]})

    def section(self, folder: Path) -> Section | None:
        """The metrics of every model."""
        from kilter.release.metrics_section import metrics_section

        return metrics_section(folder)


def _named(models: str | list[str] | dict[str, str]) -> dict[str, str]:
    """Models by the names under which they are reported; without a name, a model bears its reference."""
    listed = [models] if isinstance(models, str) else models
    return dict(listed) if isinstance(listed, dict) else {m: m for m in listed}


def _asked(spec: EvaluateSpec, work: Workspace) -> Dataset:
    """The data set with the prompts that are asked on its held-out side."""
    found = work.load(spec.data, "prompts")
    work.announce(spec.data, found)
    if spec.split == "heldout":
        return found
    return replace(found, train=[], heldout=[*found.train, *found.heldout])


def _once(work: Workspace, name: str, shape: Shape = "prompts") -> list[Group]:
    """All rows of a probe set, each prompt once. Nothing trains on them, so no row is held out."""
    from kilter.data.dataset import prompt_key

    data = work.load(name, shape)
    return list({prompt_key(g.prompt): g for g in (*data.heldout, *data.train)}.values())
