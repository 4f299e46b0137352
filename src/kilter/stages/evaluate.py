"""evaluate: models answer the same held-out prompts; metrics with intervals, paired with the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from kilter.data.dataset import Dataset, prompt_key
from kilter.errors import UserError, nearest
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.suites import TASK
from kilter.refs import Found
from kilter.release.section import Section
from kilter.sampling.config import greedy, idle_fields
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import Outcome, StagePlan
from kilter.stages.registry import stage
from kilter.types import Group, Prompt, Shape
from kilter.validation import refuse_idle

if TYPE_CHECKING:
    from kilter.evaluation.metrics import MetricFacts
    from kilter.training.estimate import Answered


@stage("evaluate")
class Evaluate(StageKind[EvaluateSpec]):
    """Hands folders and rows to an Evaluation."""

    Spec = EvaluateSpec
    makes = "evaluation"
    free = frozenset({"replay"})

    def shape(self, spec: EvaluateSpec, field: str) -> Shape | None:
        """The tax set is of demonstrations, everything else of prompts."""
        return "demonstrations" if field == "tax" else "prompts"

    def names(self, spec: EvaluateSpec) -> list[str]:
        """The models as they are named in the settings; reward models where they are tested alone."""
        return list(spec.models) or list(_named(spec.reward_model or []))

    def baseline(self, spec: EvaluateSpec) -> str | None:
        """The one that is named, else the first; None where a reward model stands alone."""
        names = self.names(spec)
        return spec.baseline or (names[0] if spec.models or len(names) > 1 else None)

    def reports(self, spec: EvaluateSpec) -> Mapping[str, MetricFacts] | None:
        """Those asked for whose needs the settings meet; what the data lacks, only the data can tell."""
        from kilter.evaluation import metrics

        asked = metrics.resolve(spec.metrics) if spec.models else []
        given = {
            "judge": spec.judge is not None,
            "reward": spec.reward_model is not None,
            "probes": bool(spec.probes),
            "demonstrations": spec.tax is not None,
        }
        found = {
            m.facts.name: m.facts
            for m in asked
            if all(given.get(need, True) for need in m.facts.needs)
            and any(given.get(suite, True) for suite in m.facts.over)
        }
        if spec.reward_model is not None:
            whole = metrics.resolve((*metrics.OF_PAIRS, *metrics.OF_LISTS, *metrics.OF_CHANGES))
            two = len(_named(spec.reward_model)) > 1
            paired = [replace(m.facts, paired=two and m.facts.aggregate != "corpus") for m in whole]
            found |= {facts.name: facts for facts in paired}
        return found

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

    def one_shape(self, spec: EvaluateSpec) -> bool:
        """A reward model is tested on pairs besides."""
        return spec.reward_model is None

    def check(self, spec: EvaluateSpec, work: Workspace) -> None:
        """Gold source and sampler can be built, and the baseline is among the models."""
        from kilter import feedback
        from kilter.evaluation import lacks
        from kilter.evaluation.instruments import measurements
        from kilter.evaluation.people import PeopleSource, read_people
        from kilter.sampling.build import check_sampler

        _check_reward_models(spec, work)
        if not spec.models:
            _check_alone(spec, work)
        else:
            _refuse_lacking(lacks.in_settings(spec), work)
        measurements(spec.instruments, work.where("instruments"))
        read_people(spec.people, work.where("people"))
        PeopleSource(spec.preferred, work.where("preferred"))
        _check_all_is_read(spec, work)
        refuse_idle(spec.sampler, f"{work.where('sampler')}.", idle_fields(spec.sampler))
        check_sampler(spec.sampler, work.where("sampler"))
        if spec.gold is not None:
            feedback.check(spec.gold, work.where("gold"), policy=False)
        if spec.judge is not None:
            feedback.check({"judge": spec.judge}, work.where().rstrip("."))
        feedback.check_replay(spec.replay, _asks(spec), work.where("replay"), work.where("gold"))
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
            if work.is_stage(name):
                work.require_scores(name, "reward_model")
        if spec.baseline and spec.baseline not in spec.models:
            raise UserError(
                work.where("baseline"),
                spec.baseline,
                "is not among models",
                nearest(spec.baseline, spec.models, none="name models, the baseline among them"),
            )

    def answers(self, spec: EvaluateSpec) -> tuple[str, int] | None:
        """Those to the held-out prompts."""
        local = spec.models and not spec.asks_endpoint
        return ("max_new_tokens", spec.max_new_tokens) if local else None

    def preflight(self, spec: EvaluateSpec, work: Workspace) -> None:
        """Refuses data that has no held-out prompts, or not the column that the gold score needs."""
        from kilter import feedback

        if not spec.models:
            _pairs_alone(spec, work)
            return
        held = _asked(spec, work).heldout if work.ready(spec.data) else []
        if spec.gold is not None:
            feedback.check_columns(spec.gold, held, work.where("gold"))
        if work.ready(spec.data) and not held:
            field = work.data_field(spec.data, "heldout")
            raise UserError(
                field,
                work.data(spec.data).heldout,
                "leaves no prompts to evaluate on",
                f"set {field} above 0 or give more data",
            )
        self._refuse_lacking_data(spec, work, held)

    def _refuse_lacking_data(self, spec: EvaluateSpec, work: Workspace, held: Sequence[Group]) -> None:
        """Raises UserError for a metric that no row can give; what a stage makes is not there yet."""
        from kilter.evaluation import lacks

        if not lacks.named(spec) or not all(map(work.ready, (spec.data, *spec.probes, *spec.tasks))):
            return
        # All rows, not those within the limits: a look at the first few may count nothing.
        prompts = list({prompt_key(g.prompt): g.prompt for g in held}.values())
        probes = [g.prompt for name in spec.probes for g in _once(work, name)]
        found = lacks.in_data(spec, prompts, probes, _tasks(spec, work), _pairs(spec, work))
        _refuse_lacking(found, work)

    def asks(self, spec: EvaluateSpec, work: Workspace) -> Mapping[str, Sequence[Prompt]]:
        """Prompts, probes, tasks, demonstrations and pairs, of the data that is there already."""
        if not work.ready(spec.data):
            return {}
        if not spec.models:
            return {"pairs": [g.prompt for g in _pairs_alone(spec, work)]}
        held = _asked(spec, work).heldout
        prompts = list({prompt_key(g.prompt): g.prompt for g in held}.values())[: spec.limit]
        found = {"prompts": prompts, "pairs": [g.prompt for g in _pairs(spec, work)]}
        if all(map(work.ready, spec.tasks)):
            found["tasks"] = _tasks(spec, work) or prompts
        if all(map(work.ready, spec.probes)):
            found["probes"] = [g.prompt for n in spec.probes for g in _once(work, n)[: spec.probe_limit]]
        if spec.tax and work.ready(spec.tax):
            tax = _once(work, spec.tax, "demonstrations")[: spec.tax_limit]
            found["demonstrations"] = [g.prompt for g in tax]
        return found

    def plan(self, spec: EvaluateSpec, work: Workspace) -> StagePlan:
        """How many prompts each model answers."""
        from kilter.sampling.build import refuse_unready

        what = ", ".join(spec.models)
        refuse_unready(spec.sampler, work.where("sampler"), _named(spec.models).values())
        if not spec.models:
            pairs = len(_pairs_alone(spec, work)) if work.ready(spec.data) else None
            return StagePlan(", ".join(_named(spec.reward_model or [])), pairs)
        if not work.ready(spec.data):
            return StagePlan(what)
        held = _asked(spec, work).heldout
        count = len({prompt_key(g.prompt) for g in held})
        count = min(count, spec.limit or count)
        if spec.asks_endpoint:
            return StagePlan(what, count)

        from kilter.training.estimate import answering_seconds

        tokens = _tokens(spec, work, held)
        seconds = answering_seconds(work.model(None), tokens, spec.dtype)
        return StagePlan(what, count, round(tokens.written), seconds=round(seconds))

    def run(self, spec: EvaluateSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes evaluation.json and groups.jsonl."""
        from kilter.evaluation.lacks import uncounted
        from kilter.evaluation.runner import Evaluation
        from kilter.evaluation.subject import Subject
        from kilter.models.noted import lineage_known, trained_prompts

        if not spec.models:
            return _run_alone(spec, work, folder)

        # The baseline first: every difference is to it.
        named = _named(spec.models)
        baseline = spec.baseline or next(iter(named))
        order = [baseline, *(name for name in named if name != baseline)]
        folders = {n: None if spec.asks_endpoint else work.model(named[n], "models") for n in order}
        models = [Subject(name, named[name], folders[name]) for name in order]
        trained = frozenset().union(*(trained_prompts(f) for f in folders.values() if f is not None))
        unknown = [n for n, f in folders.items() if not lineage_known(f)]

        reward = None
        if spec.reward_model is not None:
            name, reference = next(iter(_named(spec.reward_model).items()))
            reward = (name, work.model(reference, "reward_model"))

        probes = [g.prompt for name in spec.probes for g in _once(work, name)[: spec.probe_limit]]
        if idle := uncounted(spec, probes):
            fix = (
                ""
                if all("safety" in p.metadata for p in probes)
                else "; data.safety calls them safe or unsafe"
            )
            line = f"{idle} of {len(probes)} probes are counted by no metric{fix}"
            work.console.print(f"  {line}", soft_wrap=True)
        tasks = _tasks(spec, work)
        tax = _once(work, spec.tax, "demonstrations")[: spec.tax_limit] if spec.tax else []
        result = Evaluation(
            spec,
            models,
            reward,
            _asked(spec, work),
            _pairs(spec, work),
            None if len(unknown) == len(folders) else trained,
            folder,
            work.console,
            work.name,
            probes,
            tax,
            lambda name: work.model(name, "gold"),
            work.certificates(),
            tasks,
            unknown,
        ).run()
        return _outcome(result, folders)

    def section(self, folder: Path) -> Section | None:
        """The metrics of every model."""
        from kilter.release.metrics_section import metrics_section

        return metrics_section(folder)


def _refuse_lacking(found: Iterable[tuple[str, tuple[str, str]]], work: Workspace) -> None:
    """Raises UserError for the first metric that lacks something."""
    for name, (field, what) in found:
        value = getattr(work.here.spec, field)
        absent = not value or isinstance(value, BaseModel)
        shown, fix = "(absent)" if absent else value, f"give {what}, or leave {name} out of metrics"
        raise UserError(work.where(field), shown, f"does not bring what the metric {name} needs: {what}", fix)


def _tokens(spec: EvaluateSpec, work: Workspace, held: Sequence[Group]) -> Answered:
    """What all models read and write: prompts and probes, and whatever the metrics read once more."""
    from kilter.evaluation import metrics
    from kilter.roles.open import OpenSpec, open_encoder
    from kilter.training.estimate import Answered, lengths

    measures = metrics.resolve(spec.metrics)
    needs = frozenset().union(*(m.facts.needs for m in measures))
    encoder = open_encoder(OpenSpec(work.model(None), template=spec.template, max_length=spec.max_length))
    models = len(spec.models)

    # Answers to one prompt share it.
    prompts = list({prompt_key(g.prompt): g.prompt for g in held}.values())[: spec.limit]
    prompt, answer = lengths(encoder, prompts, work.answered(spec.data), spec.max_new_tokens)
    read = len(prompts) * prompt * models
    written = len(prompts) * answer * models * max(m.samples for m in measures)
    probes = [g for n in spec.probes if work.ready(n) for g in _once(work, n)[: spec.probe_limit]]
    asked, said = lengths(encoder, [g.prompt for g in probes], [], spec.max_new_tokens)
    read, written = read + len(probes) * asked * models, written + len(probes) * said * models
    tasks = _tasks(spec, work)
    asked, said = lengths(encoder, tasks, [], spec.max_new_tokens)
    read, written = read + len(tasks) * asked * models, written + len(tasks) * said * models

    # A sampler knows the log-probs of its own answers at temperature 1.
    own = "logps" in needs and (spec.temperature != 1 or spec.dtype != "float32")
    others = ("reference_logps" in needs) * (models - 1) + ("reward" in needs) * models
    read += len(prompts) * (prompt + answer) * (own * models + others)
    if spec.tax and work.ready(spec.tax):
        tax = _once(work, spec.tax, "demonstrations")[: spec.tax_limit]
        read += len(tax) * sum(lengths(encoder, [g.prompt for g in tax], tax, spec.max_length)) * models
    readers = (spec.reward_model is not None) + ("pair_logps" in needs) * models
    if readers:
        read += len(_pairs(spec, work)) * (prompt + 2 * answer) * readers
    return Answered(read, written, models + (spec.reward_model is not None))


def _tasks(spec: EvaluateSpec, work: Workspace) -> list[Prompt]:
    """Prompts of the task suites, each with the name of its suite, by which it is reported."""
    return [
        replace(g.prompt, metadata={**g.prompt.metadata, TASK: _suite_name(name)})
        for name in spec.tasks
        if work.ready(name)
        for g in _once(work, name)[: spec.task_limit]
    ]


def _suite_name(reference: str) -> str:
    """A suite as its part of a metric is called: neither a folder nor an ending, and no dot."""
    return Path(reference.removeprefix("$").rpartition(":")[2]).stem.replace(".", "_")


def _asks(spec: EvaluateSpec) -> list[Any]:
    """Every source of feedback of an evaluation, among which may be judges."""
    gold = spec.gold if isinstance(spec.gold, list) else [spec.gold] * (spec.gold is not None)
    return [*gold, *([{"judge": spec.judge}] if spec.judge is not None else [])]


def _named(models: str | list[str] | dict[str, str]) -> dict[str, str]:
    """Models by the names under which they are reported; without a name, a model bears its reference."""
    listed = [models] if isinstance(models, str) else models
    return dict(listed) if isinstance(listed, dict) else {m: m for m in listed}


def _outcome(result: dict[str, Any], folders: Mapping[str, Path | None]) -> Outcome:
    """What the manifest says of an evaluation.

    A gate has to know of judges that nobody vouches for, wherever the models were trained. What the baseline
    learned is no claim of a candidate, unless that descends from it.
    """
    from kilter.models.noted import uncertified_judges

    first, *others = folders.values()
    tried = [folder for folder in others or [first] if folder is not None]
    judges = sorted(set[str]().union(*map(uncertified_judges, tried)))
    own = {"uncertified": judges} if judges else {}
    return Outcome({"prompts": result["n_prompts"], "baseline": result["baseline"], **own})


def _pairs(spec: EvaluateSpec, work: Workspace) -> Sequence[Group]:
    """Held-out pairs: they say how far the reward model can be trusted, and where a policy moved."""
    from kilter.data.dataset import heldout_pairs
    from kilter.evaluation import metrics

    wanted = any("pairs" in m.facts.over for m in metrics.resolve(spec.metrics))
    if spec.reward_model is None and not wanted:
        return []
    source = work.data(spec.data)
    source = source.model_copy(update={"heldout": 0.0}) if spec.split == "all" else source
    return heldout_pairs(source, work.data_field(spec.data))


POLICY_ONLY = (
    *(
        "baseline",
        "gold",
        "judge",
        "metrics",
        "instruments",
        "people",
        "preferred",
        "probes",
        "replay",
        "tasks",
        "tax",
        "sampler",
    ),
    "temperature",
)
"""Fields that are about the answers of a policy."""


def _check_alone(spec: EvaluateSpec, work: Workspace) -> None:
    """A reward model alone is tested on pairs, and nobody answers a prompt."""
    if spec.reward_model is None:
        fix = "name a model to evaluate, or a reward_model to test it alone on pairs"
        raise UserError(work.where("models"), [], "is empty", fix)
    why, fix = "no model answers prompts here", "leave it out, or name models"
    refuse_idle(spec, f"{work.where()}", [(field, why, fix) for field in POLICY_ONLY])


READ_BY = {
    "gold": ("gold", "gold"),
    "judge": ("judge", "judge_win_rate"),
    "preferred": ("preferred", "human_win_rate"),
    "follow_ups": ("follow_ups", "sycophancy"),
    "probes": ("probes", "over_refusal"),
    "tasks": ("tasks", "exact_match"),
    "tax": ("demonstrations", "tax_nll"),
}
"""Inputs: what a metric that reads each declares, and one such metric."""

LIMITS = {"probe_limit": "probes", "task_limit": "tasks", "tax_limit": "tax"}
"""Numbers of rows, and what each is taken of."""


def _check_all_is_read(spec: EvaluateSpec, work: Workspace) -> None:
    """What is handed over and no metric looks at would be left out in silence."""
    from kilter.evaluation import metrics

    read = {name for m in metrics.resolve(spec.metrics) for name in (*m.facts.needs, *m.facts.over)}
    why = "no metric that is asked for reads it"
    idle = [(f, why, f"add one that does, such as {m}") for f, (n, m) in READ_BY.items() if n not in read]
    none = [(limit, field) for limit, field in LIMITS.items() if not getattr(spec, field)]
    idle += [(limit, f"{field} is not given", f"leave it out, or give {field}") for limit, field in none]
    idle += greedy(spec.temperature)
    refuse_idle(spec, work.where(), idle)


def _check_reward_models(spec: EvaluateSpec, work: Workspace) -> None:
    """One reward model scores the answers of policies; two are compared alone, on pairs."""
    count, most = len(_named(spec.reward_model or [])), 1 if spec.models else 2
    if count > most:
        problem = f"names {count} reward models"
        fix = "name one: it scores the answers. Compare two of them without models"
        fix = fix if spec.models else "name two at most: the second is compared with the first"
        raise UserError(work.where("reward_model"), spec.reward_model, problem, fix)


def _pairs_alone(spec: EvaluateSpec, work: Workspace) -> Sequence[Group]:
    """The pairs on which a reward model is tested alone. Raises UserError where there are none."""
    if not work.ready(spec.data):
        return []
    found = work.load(spec.data, "pairs")
    pairs = [*found.train, *found.heldout] if spec.split == "all" else found.heldout
    if not pairs:
        field = work.data_field(spec.data, "heldout")
        problem, fix = "leaves no pairs to test on", f"set {field} above 0 or give more data"
        raise UserError(field, work.data(spec.data).heldout, problem, fix)
    return pairs[: spec.limit]


def _run_alone(spec: EvaluateSpec, work: Workspace, folder: Path) -> Outcome:
    """Tests a reward model on pairs."""
    from kilter.evaluation.runner import evaluate_reward_models
    from kilter.models.noted import lineage_known, trained_prompts

    assert spec.reward_model is not None, "check refuses an evaluation of nothing"
    named = _named(spec.reward_model)
    folders = {name: work.model(reference, "reward_model") for name, reference in named.items()}
    pairs, data = _pairs_alone(spec, work), work.load(spec.data, "pairs")
    digest = data.content_hash()[:16]

    # Of one model that Kilter did not train nobody knows, and so of both.
    known = all(map(lineage_known, folders.values()))
    trained = frozenset().union(*map(trained_prompts, folders.values())) if known else None
    lists = _lists(spec, work, pairs)
    result = evaluate_reward_models(
        spec, folders, pairs, digest, trained, folder, work.console, work.name, lists
    )
    return _outcome(result, folders)


def _lists(spec: EvaluateSpec, work: Workspace, pairs: Sequence[Group]) -> Sequence[Group]:
    """Whole lists of answers, right and wrong ones; a pair is only the ends of one."""
    if not pairs:
        return []
    found = work.load(spec.data, "rollouts")
    rows = [*found.train, *found.heldout] if spec.split == "all" else found.heldout
    return [g for g in rows if len(g.completions) > 2 and {f.score for f in g.feedback} == {0, 1}][
        : spec.limit
    ]


def _asked(spec: EvaluateSpec, work: Workspace) -> Dataset:
    """The data set with the prompts that are asked on its held-out side."""
    found = work.load(spec.data, "prompts")
    work.announce(spec.data, found)
    if spec.split == "heldout":
        return found
    return replace(found, train=[], heldout=[*found.train, *found.heldout])


def _once(work: Workspace, name: str, shape: Shape = "prompts") -> list[Group]:
    """All rows of a probe set, each prompt once. Nothing trains on them, so no row is held out."""
    data = work.load(name, shape)
    return list({prompt_key(g.prompt): g for g in (*data.heldout, *data.train)}.values())
