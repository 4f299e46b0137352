"""Metrics by name. What each measures is declared once; evaluation, gate, report and comparison read it here.

@metric("shouting", title="Capital letters", unit="share", better="lower")
class Shouting:
    def per_prompt(self, item: Answered) -> float | None: ...

A class in a file of the user's is named as `my_file.py:Shouting`; nothing else has to know it.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kilter.errors import UserError, nearest
from kilter.evaluation.instruments import Reader
from kilter.registry import USER_MODULE, Registry
from kilter.types import Answered, Prompt
from kilter.validation import require_type

metrics: Registry[Any] = Registry("metric")

STANDARD = (
    "twin_accuracy",
    "decision",
    "gold",
    "reward",
    "win_rate_gold",
    "win_rate_reward",
    "judge_win_rate",
    "judge_score",
    "length",
    "refusal",
    "compliance",
    "wrong_declines",
    "wrong_approvals",
    "over_refusal",
    "violation",
    "violation_unsafe",
    "tax_nll",
    "ordinary_refusal",
    "truncated",
    "distinct_1",
    "distinct_2",
    "kl",
    "kl_token_k3",
)
"""What `standard` stands for, in the order of evaluation.json and of the report.

A metric that lacks what it needs is left out.
"""

OF_PAIRS = (
    "reward_model.accuracy",
    "reward_model.accuracy_decision",
    "reward_model.ece",
    "reward_model.brier",
)
"""What is measured of a reward model on held-out pairs."""

OF_LISTS = ("reward_model.best_of", "reward_model.ties", "reward_model.best_of_n")
"""What is measured of a reward model on lists of answers, such as those of RewardBench 2."""

OF_CHANGES = ("reward_model.exploit", "reward_model.exploit_wins", "reward_model.null_wins")
"""What is measured of a reward model on answers that were changed without being made better."""

SOURCES = ("gold", "reward", "judge", "preferred")
"""Feedback that an evaluation may have. A metric that needs one is left out where it scored no answer."""

NEEDS: dict[str, Callable[[Answered], bool]] = {
    "answers": lambda item: bool(item.answers),
    "samples": lambda item: bool(item.answers),
    "logps": lambda item: item.logps is not None,
    "reference_logps": lambda item: item.reference_logps is not None,
    "twin": lambda item: item.twin is not None,
    "baseline": lambda item: item.baseline is not None,
    "pair_logps": lambda item: item.pair_logps is not None,
    "follow_ups": lambda item: bool(item.follow_ups),
    "gold": lambda item: item.scored("gold"),
    "reward": lambda item: item.scored("reward"),
    "judge": lambda item: item.scored("judge"),
    "preferred": lambda item: any(f.against for f in item.feedback.get("preferred", ())),
    "entropy": lambda item: item.entropy is not None,
    "grades": lambda item: any(f.score is not None and not f.against for f in item.feedback.get("judge", ())),
}
"""What a metric may need, and whether a prompt's record has it."""

Aggregate = Literal["mean", "rate", "proportion", "wins", "deviation", "corpus"]
Items = Literal["prompts", "probes", "tasks", "demonstrations", "pairs", "lists", "changes"]


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """What is declared of a metric.

    Args:
        name: its key in evaluation.json. Fields of the class may stand in it and in the title: pass_at_{k}.
        title: for people.
        unit: of a value, such as "share" or "nats / answer".
        better: which direction is better; None where neither is.
        aggregate: mean (BCa bootstrap), rate (the same of values in [0, 1]; Wilson if all are 0 or all 1),
            proportion (of 0 and 1; Wilson), wins (win rate, a tie is half), deviation (standard deviation),
            or corpus: one number of all answers, without values per prompt.
        needs: what of an Answered it reads; see NEEDS.
        over: whose prompts count.
        subset: only these prompts count, the same ones for every model.
        only: only these records count; unlike `subset`, it may look at what was answered and labelled.
        slices: the parts that a prompt belongs to; the metric is also reported for each, as NAME.PART.
        paired: its values stand in per_prompt.json, and are compared with the baseline's.
        on_policy: unbiased only where answers are drawn from the policy itself, at temperature 1. Elsewhere
            the method of the estimate says so.
        judge: who judged; default: the feedback that it needs.
        short: its title in a narrow table; default: the title.
        beside: metrics without which it misleads: whoever names it gets them too.
        reader: the instrument that reads the answers, whose errors the rate is corrected for.
        bounds: lowest and highest value of a mean; None: those of the aggregate, if it has any.
        guards: what a gain is often bought with that it would show: over-refusal, length or tax.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"] | None
    aggregate: Aggregate = "mean"
    needs: frozenset[str] = frozenset({"answers"})
    over: tuple[Items, ...] = ("prompts",)
    subset: Callable[[Prompt], bool] | None = None
    only: Callable[[Answered], bool] | None = None
    slices: Callable[[Prompt], Sequence[str]] | None = None
    paired: bool = True
    on_policy: bool = False
    judge: str = ""
    short: str = ""
    beside: tuple[str, ...] = ()
    reader: Reader | None = None
    bounds: tuple[float, float] | None = None
    guards: Literal["", "over-refusal", "length", "tax"] = ""

    @property
    def ends(self) -> tuple[float, float] | None:
        """Lowest and highest that a value can be; None where nobody knows."""
        return self.bounds or (None if self.aggregate in ("mean", "corpus", "deviation") else (0.0, 1.0))

    @property
    def higher_is_better(self) -> bool | None:
        """The direction as evaluation.json has it."""
        return None if self.better is None else self.better == "higher"

    @property
    def rank(self) -> int:
        """Order: of a model alone (0), beside the baseline's log-probs (1), against its answers (2)."""
        return ("reference_logps" in self.needs) + 2 * ("baseline" in self.needs)

    @property
    def aligned(self) -> bool:
        """Whether it has one value for each prompt of the evaluation, no more and no fewer."""
        return self.over == ("prompts",) and self.subset is None and self.only is None

    def counts(self, item: Answered) -> bool:
        """Whether a record belongs to what is measured."""
        return (self.subset is None or self.subset(item.prompt)) and (self.only is None or self.only(item))


def metric(
    name: str,
    *,
    title: str,
    unit: str,
    better: Literal["higher", "lower"] | None,
    key: str = "",
    needs: frozenset[str] | set[str] = frozenset(),
    aggregate: Aggregate = "mean",
    **declared: Any,
) -> Callable[[type[Any]], type[Any]]:
    """Declares a class as a metric, and registers it unless it stands in a user's file.

    The class has `per_prompt(item)`, or `over_corpus(items)` with aggregate="corpus". If it is a dataclass,
    its fields are options.

    Args:
        name: what a recipe calls it.
        key: its key in evaluation.json; default: the name.
        declared: further fields of MetricFacts.

    Raises:
        ValueError: the declaration does not fit the class, or the name is taken.
    """
    facts = MetricFacts(
        key or name, title, unit, better, aggregate, frozenset({"answers", *needs}), **declared
    )
    unknown = facts.needs - NEEDS.keys()
    if unknown:
        raise ValueError(f"metric {name!r} needs {sorted(unknown)}; known: {', '.join(NEEDS)}")

    def add(cls: type[Any]) -> type[Any]:
        method = "over_corpus" if aggregate == "corpus" else "per_prompt"
        if not callable(getattr(cls, method, None)):
            raise ValueError(f"metric {name!r}: {cls.__name__} has no method {method}")
        if "samples" in facts.needs and not hasattr(cls, "samples"):
            raise ValueError(f"metric {name!r} needs samples, and {cls.__name__} does not say how many")

        # A number of all answers at once has nothing to pair; a user's class is found through its file alone.
        cls.facts = dataclasses.replace(facts, paired=facts.paired and aggregate != "corpus")
        if not cls.__module__.startswith(USER_MODULE):
            metrics.register(name)(cls)
        return cls

    return add


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as one evaluation uses it: the object with its options, and what is declared of it."""

    facts: MetricFacts
    metric: Any

    @property
    def samples(self) -> int:
        """Answers per prompt that it asks for."""
        return int(self.metric.samples) if "samples" in self.facts.needs else 1


def resolve(wanted: Sequence[Any], field: str = "metrics") -> list[Measure]:
    """The metrics of `metrics: [standard, my_file.py:Name, {pass_at_k: {k: 1}}]`, in this order, each once.

    Raises UserError for an unknown name, an unknown option, or two metrics of one name.
    """
    entries = [e for item in wanted for e in (STANDARD if item == "standard" else (item,))]
    found = [_build(entry, field) for entry in entries]
    asked = [m.facts.name for m in found]
    missing = dict.fromkeys(name for m in found for name in m.facts.beside if name not in asked)
    found += [_build(name, field) for name in missing]
    names = [m.facts.name for m in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                field,
                list(wanted),
                f"names the metric {name!r} twice",
                "give each metric once. A metric of your own needs a name that is not taken",
            )
    return found


def _build(entry: Any, field: str) -> Measure:
    """One entry: a name, or {name: options}."""
    name, options = (entry, {}) if isinstance(entry, str) else _single(entry, field)
    cls = metrics.get(name)
    if not isinstance(getattr(cls, "facts", None), MetricFacts):
        raise UserError(
            field,
            name,
            "does not declare its title, unit and direction",
            'Write @metric("name", title=..., unit=..., better=...) above the class.',
        )

    # Only fields are options, so that a misspelt one is refused here and not passed on.
    fields = {f.name: f for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    hints = typing.get_type_hints(cls)
    for key, value in options.items():
        if key not in fields:
            raise UserError(
                f"{field}.{name}.{key}",
                value,
                "is not an option of this metric",
                nearest(key, fields) if fields else "leave it out: the metric takes no options",
            )
        require_type(f"{field}.{name}.{key}", value, hints[key])

    # Two metrics of one class differ in their options, and so do their names and titles.
    built = cls(**options)
    shown = {key: getattr(built, key) for key in fields}
    facts = dataclasses.replace(
        cls.facts, name=cls.facts.name.format(**shown), title=cls.facts.title.format(**shown)
    )
    # What reads one answer of a prompt errs more often on several.
    if facts.reader is not None and "samples" in facts.needs:
        facts = dataclasses.replace(facts, reader=dataclasses.replace(facts.reader, any_of=built.k))
    return Measure(facts, built)


def _single(entry: Any, field: str) -> tuple[str, dict[str, Any]]:
    """(name, options) of {name: options}."""
    if (
        not isinstance(entry, Mapping)
        or len(entry) != 1
        or not isinstance(next(iter(entry.values())), Mapping)
    ):
        raise UserError(
            field,
            entry,
            "is neither a name nor {name: options}",
            "Write length, my_file.py:MyMetric, or {pass_at_k: {k: 4}}.",
        )
    name, options = next(iter(entry.items()))
    return str(name), dict(options)


def facts_of(name: str) -> MetricFacts | None:
    """What is declared of a registered metric; None where no file of Kilter's declares it."""
    return next((cls.facts for _, cls in metrics if cls.facts.name == name), None)


def titles(evaluation: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Titles by metric, the standard set first. An evaluation brings the titles of metrics from outside."""
    known = {cls.facts.name: cls.facts.title for _, cls in metrics}
    first = {name: known[name] for name in STANDARD}
    return first | known | dict((evaluation or {}).get("titles", {}))
