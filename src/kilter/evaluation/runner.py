"""Evaluates several models on the same prompts: ask, score, measure, compare, write evaluation.json."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter.artifacts import write_json
from kilter.data import store
from kilter.data.dataset import Dataset
from kilter.evaluation import metrics
from kilter.evaluation.aggregate import Measured, Origin, measure_all, paired
from kilter.evaluation.asking import Asking, ModelAnswers
from kilter.evaluation.changes import changed, of_changes
from kilter.evaluation.config import EvaluateSpec
from kilter.evaluation.independent import together
from kilter.evaluation.instruments import measurements
from kilter.evaluation.metrics import OF_CHANGES, OF_LISTS, OF_PAIRS, SOURCES, STANDARD, Measure
from kilter.evaluation.metrics.registry import Items
from kilter.evaluation.people import PeopleSource, read_people
from kilter.evaluation.records import beside, of_pairs, records
from kilter.evaluation.result import difference, entry, head, read_by, titles_beyond
from kilter.evaluation.scoring import GoldSource, JudgeSource, RewardSource, Scores, Scoring, Source, combined
from kilter.evaluation.subject import Subject
from kilter.evaluation.suites import Suite, unique_prompts
from kilter.feedback.context import Context
from kilter.feedback.judge.itself import judging_itself
from kilter.models.fingerprint import model_hash
from kilter.types import Answered, Completion, Feedback, Group, Prompt

PARTS: tuple[Items, Items] = ("prompts", "probes")
"""What may be answered several times."""

UNANSWERED = Completion("")
"""What stands in groups.jsonl where a sampler gave no answer."""

TRIED = 60
"""Pairs whose chosen answers a reward model also scores under changes of form, each a dozen times."""


@dataclass
class Evaluation:
    """One evaluate stage.

    Args:
        models: the baseline first.
        reward_model: name and folder.
        prompts: the data set whose held-out prompts are asked.
        pairs: held-out pairs, on which the reward model is tested.
        trained_prompts: keys of prompts that any of the models was trained on; None: nobody knows of any.
        out: folder of evaluation.json.
        probes: prompts that count for refusals and violations alone.
        tax: demonstrations of other skills.
        tasks: prompts with a known right answer; none: the prompts themselves.
        unknown: names of models of which nobody knows what they were trained on.
        resolve: folder of a model that the gold source names, a stage or any other.
        certificates: judge.json files of the run.
    """

    spec: EvaluateSpec
    models: Sequence[Subject]
    reward_model: tuple[str, Path] | None
    prompts: Dataset
    pairs: Sequence[Group]
    trained_prompts: frozenset[str] | None
    out: Path
    console: Console
    name: str = "eval"
    probes: Sequence[Prompt] = ()
    tax: Sequence[Group] = ()
    resolve: Callable[[str], Path] = Path
    certificates: Sequence[Path] = ()
    tasks: Sequence[Prompt] = ()
    unknown: Sequence[str] = ()

    def run(self) -> dict[str, Any]:
        """Returns and writes evaluation.json. Answers are on disk as soon as they are made."""
        measures = metrics.resolve(self.spec.metrics)
        prompts = unique_prompts(self.prompts, self.spec.limit)
        suite = Suite(prompts, self.probes, self.tax, self.pairs, self.tasks)
        needs = frozenset().union(*(m.facts.needs for m in measures))

        # Ask: everything that needs a policy's weights, one model after the other, the baseline first.
        k, probe_k = (_samples(measures, part) for part in PARTS)
        asking = Asking(self.spec, suite, needs, k, self.out, self.console, self.name, probe_k)
        said = {model.name: asking.ask(model) for model in self.models}

        # Score: what was said, once by each source; further samples only where a metric looks at them.
        # A reward model that no metric asks for is tested on pairs alone.
        reward = None
        if self.reward_model is not None:
            reward = RewardSource(*self.reward_model, self.spec, self.console)
        sources = self._sources(suite, needs, reward)
        scoring = Scoring(sources, self.out / ".scores", self.name)
        sampled = {s for m in measures if m.samples > 1 for s in m.facts.needs if s in SOURCES}
        scores = scoring(suite.prompts, {n: a.prompts for n, a in said.items()}, sampled)

        # Measure: the same metrics for every model, each beside the baseline's record of the same prompt.
        known = {name: records(suite, said[name], scores[name]) for name in said}
        held = known[self.baseline]["pairs"]
        for of_model in known.values():  # the baseline too: it stands for no change
            of_model["pairs"] = beside(of_model["pairs"], held)
        for name in known.keys() - {self.baseline}:
            known[name]["prompts"] = beside(known[name]["prompts"], known[self.baseline]["prompts"])
        everyone = (*suite.prompts, *suite.probes, *(g.prompt for g in (*suite.tax, *suite.pairs)))
        origin = self._origin(sources | ({"reward": reward} if reward else {}), together(everyone))
        measured = {name: measure_all(measures, known[name], origin) for name in known}
        self._note_absent(measures, measured)

        # Write: evaluation.json last, for it vouches for what lies beside it.
        result = head(self.spec, suite, origin, self.baseline, self.trained_prompts)
        if self.unknown:
            result["training_data_unknown"] = list(self.unknown)
        base = measured[self.baseline]
        result["models"] = {
            model.name: entry(
                model,
                measures,
                measured[model.name],
                None if model.name == self.baseline else base,
                origin,
            )
            for model in self.models
        }
        if reward is not None and suite.pairs:
            result |= self._reward_accuracy(suite, reward, origin)
        result |= read_by(measured.values(), origin)
        result |= titles_beyond(measures, measured[self.baseline])
        self._write(
            result, suite, said, scores, {n: paired(measures, found) for n, found in measured.items()}
        )
        scoring.forget()
        return result

    def _sources(self, suite: Suite, needs: frozenset[str], reward: RewardSource | None) -> dict[str, Source]:
        """Who scores the answers: the gold source, and of reward model and judge those that a metric asks."""
        context = Context(
            self.resolve,
            folder=self.out,
            certificates=self.certificates,
            replay=None if self.spec.replay is None else Path(self.spec.replay),
        )
        gold = GoldSource(self.spec.gold, suite.prompts, context)
        sources: dict[str, Source] = {"gold": gold}
        if reward is not None and "reward" in needs:
            sources["reward"] = reward
        if self.spec.judge is not None and "judge" in needs:
            sources["judge"] = JudgeSource(self.spec.judge, context, self.console)
        for history in itertools.chain(*(source.judges() for source in sources.values())):
            for words in judging_itself(history, [digest for m in self.models for digest in m.descent]):
                self.console.print(f"  {words}", soft_wrap=True)
        if self.spec.preferred and "preferred" in needs:
            sources["preferred"] = PeopleSource(self.spec.preferred)
        return sources

    @property
    def baseline(self) -> str:
        """Name of the model that the others are compared with: the first one."""
        return self.models[0].name

    def _origin(self, sources: Mapping[str, Source], clusters: Mapping[str, str]) -> Origin:
        """Where the estimates come from, who judged, and how far each instrument can be trusted."""
        return Origin(
            self.spec.seed,
            self.prompts.content_hash()[:16],
            {key: source.judge for key, source in sources.items()},
            self._bias(),
            {key: judges for key, source in sources.items() if (judges := source.judges())},
            read_people(self.spec.people),
            measurements(self.spec.instruments),
            clusters,
        )

    def _note_absent(
        self, measures: Sequence[Measure], measured: Mapping[str, Mapping[str, Measured]]
    ) -> None:
        """Says which metrics could not be had, of those that were asked for by name."""
        known = [(name, m.estimate is not None) for of in measured.values() for name, m in of.items()]
        found, counted = {name for name, _ in known}, {name for name, has in known if has}
        for m in measures:
            # The standard set takes what there is; a name of its own is a wish.
            if m.facts.name in STANDARD and m.facts.name not in self.spec.metrics:
                continue
            if m.facts.name not in found:
                needs = ", ".join(sorted(m.facts.needs))
                over = " or ".join(m.facts.over).replace("prompts", "prompt")
                over = "no prompt has all of" if over == "prompt" else f"there are no {over} with"
                self.console.print(f"  no {m.facts.name}: {over} {needs}")
            elif m.facts.name not in counted:
                self.console.print(f"  no {m.facts.name}: none of the prompts is one that it counts")

    def _bias(self) -> str:
        """Sampled otherwise than from the policy itself, an estimate of its own KL is biased, and says so."""
        s = self.spec
        if s.temperature == 1.0 and s.top_p == 1.0 and s.top_k == 0:
            return ""
        return f"; biased: answers sampled at temperature {s.temperature}, top_p {s.top_p}, top_k {s.top_k}"

    def _reward_accuracy(self, suite: Suite, source: RewardSource, origin: Origin) -> dict[str, Any]:
        """How well the reward model knows the held-out pairs: a metric of the judge, not of any model."""
        feedback = source.pairs(suite.pairs, f"{self.name}: reward model on held-out pairs")
        tried = _tried(source, suite.pairs[: self.spec.probe_limit][:TRIED], self.name)
        found = _measured(suite.pairs, feedback, origin, changes=tried)
        return _accuracy(source.judge, source.folder, found)

    def _write(
        self,
        result: dict[str, Any],
        suite: Suite,
        said: Mapping[str, ModelAnswers],
        scores: Mapping[str, Scores],
        values: Mapping[str, Mapping[str, Sequence[float | None]]],
    ) -> None:
        """per_prompt.json, groups.jsonl and evaluation.json."""
        write_json(self.out / "per_prompt.json", values)
        rows = []
        for i, prompt in enumerate(suite.prompts):
            answers = tuple(next(iter(said[n].prompts[i]), UNANSWERED) for n in said)
            feedback = tuple(combined(n, {s: of[i] for s, of in scores[n].items()}) for n in said)
            rows.append(Group(prompt, answers, feedback))
        store.write(self.out / "groups.jsonl", rows)
        write_json(self.out / "evaluation.json", result, indent=1)


def _samples(measures: Sequence[Measure], part: Items) -> int:
    """Answers that the metrics of one part of the suite want to each of its prompts."""
    return max((m.samples for m in measures if part in m.facts.over), default=1)


def _tried(source: RewardSource, pairs: Sequence[Group], name: str) -> list[Answered]:
    """The chosen answers of some pairs under changes of form, as the reward model scores them."""
    groups = changed(pairs)
    return of_changes(groups, source.pairs(groups, f"{name}: {source.judge} on changed answers", "answers"))


def _measured(
    pairs: Sequence[Group],
    feedback: Sequence[Sequence[Feedback]],
    origin: Origin,
    lists: Sequence[Answered] = (),
    changes: Sequence[Answered] = (),
) -> dict[str, Measured]:
    """What is measured of a reward model, by name; what no record allows is left out."""
    known = {"pairs": of_pairs(pairs, feedback), "lists": lists, "changes": changes}
    found = measure_all(metrics.resolve((*OF_PAIRS, *OF_LISTS, *OF_CHANGES)), known, origin)
    return {name: made for name, made in found.items() if made.estimate is not None}


def _accuracy(judge: str, folder: Path, found: Mapping[str, Measured]) -> dict[str, Any]:
    """The reward model's part of evaluation.json; empty where it scored no pair."""
    estimates = {name.partition(".")[2]: made.to_json() for name, made in found.items()}
    about = {"name": judge, "path": str(folder), "model_hash": model_hash(folder)[:16]}
    return {"reward_model": about | {"metrics": estimates}} if estimates else {}


def evaluate_reward_models(
    spec: EvaluateSpec,
    reward_models: Mapping[str, Path],
    pairs: Sequence[Group],
    data_hash: str,
    trained: frozenset[str] | None,
    out: Path,
    console: Console,
    name: str,
    lists: Sequence[Group] = (),
) -> dict[str, Any]:
    """Tests reward models alone, on pairs; no policy answers anything.

    Args:
        reward_models: folder by name, one or two: the second is compared with the first.
        trained: keys of prompts that any of them was trained on; None: nobody knows.
        out: folder of evaluation.json, and of groups.jsonl with the pairs and lists as the last one scored.
        lists: prompts with several answers, of which some are right.

    Returns:
        What evaluation.json holds: no prompts, no models, and the accuracy of the last reward model.
    """
    clusters = together(g.prompt for g in (*pairs, *lists))
    origin = Origin(spec.seed, data_hash, {}, clusters=clusters)
    found: dict[str, Mapping[str, Measured]] = {}
    for judge, folder in reward_models.items():
        source = RewardSource(judge, folder, spec, console)
        feedback = source.pairs(pairs, f"{name}: {judge} on pairs")
        of_lists = source.pairs(lists, f"{name}: {judge} on lists", "lists") if lists else []
        tried = _tried(source, pairs[: spec.probe_limit], name)
        own = replace(origin, judges={"reward": judge})
        found[judge] = _measured(pairs, feedback, own, of_pairs(lists, of_lists), tried)

    result = head(spec, Suite([], pairs=pairs), origin, "", None)
    if trained is not None:
        result["prompts_found_in_training_data"] = Suite([g.prompt for g in pairs]).found_in(trained)
    first, last = next(iter(found)), next(reversed(found))
    result |= {"baseline": None, "models": {}, **_accuracy(last, reward_models[last], found[last])}
    if last != first and "reward_model" in result:
        against = _accuracy(first, reward_models[first], found[first])["reward_model"]
        result["reward_model"] |= {
            "baseline": against,
            "difference": _compared(found[first], found[last], origin),
        }

    # evaluation.json last, for it vouches for what lies beside it.
    scored = zip((*pairs, *lists), (*feedback, *of_lists), strict=True)
    rows = [replace(g, feedback=tuple(f)) for g, f in scored]
    store.write(out / "groups.jsonl", rows)
    write_json(out / "evaluation.json", result, indent=1)
    return result


def _compared(base: Mapping[str, Measured], found: Mapping[str, Measured], origin: Origin) -> dict[str, Any]:
    """One reward model against another: ONE paired difference a metric, over the problems that both read."""
    known = {
        name: (found[name], base[name])
        for name in found.keys() & base.keys()
        # A number of all lists at once has nothing to pair.
        if found[name].values and len(found[name].values) == len(base[name].values)
    }
    return {
        name.partition(".")[2]: difference(mine.values, theirs.values, mine, theirs, origin)
        for name, (mine, theirs) in sorted(known.items())
    }
