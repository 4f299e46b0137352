"""Feedback sources by name, and the one way to build them from a recipe.

feedback: support_desk
feedback: {reward_model: rm}
feedback:
  - {math: {}, weight: 1.0}
  - {length: {limit: 200, buffer: 40}, weight: 0.5}
  - my_file.py:reward
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeGuard

from pydantic import BaseModel, ValidationError

from kilter.data.lineage import UNCERTIFIED
from kilter.data.worlds import registry as worlds
from kilter.errors import UserError, nearest
from kilter.feedback.context import Context, require_columns
from kilter.refs import Change, Found, walk
from kilter.registry import Registry
from kilter.roles.replies import Replies
from kilter.sampling.named import own_critic
from kilter.seams import FeedbackSource, Wants
from kilter.types import Feedback, Group
from kilter.validation import as_user_error, require_type

feedback_sources: Registry[Callable[..., Any]] = Registry("feedback")


class Part(NamedTuple):
    """One source of a feedback.

    Args:
        name: of the source.
        weight: of its scores in the sum.
        options: as a person wrote them; the first one may lack its name.
        at: the entry that names the source, as `--set` takes it: feedback, or feedback.0 in a list.
    """

    name: str
    weight: float
    options: dict[str, Any]
    at: str

    @property
    def field(self) -> str:
        """The setting that holds the options."""
        return f"{self.at}.{self.name}"


def parse(spec: Any, field: str = "feedback") -> list[Part]:
    """Every source. Raises UserError for a shape that is none of those above."""
    listed = isinstance(spec, list | tuple)
    items = list(spec) if listed else [spec]
    if not items:
        raise UserError(field, spec, "is empty", "name a source, such as math or {reward_model: rm}")
    parts: list[Part] = []
    for n, item in enumerate(items):
        at = f"{field}.{n}" if listed else field
        if isinstance(item, str):
            parts.append(Part(item, 1.0, {}, at))
            continue
        if not isinstance(item, Mapping):
            raise UserError(
                at,
                item,
                "is neither a name nor {name: options}",
                "write math, or {reward_model: rm, weight: 1.0}",
            )
        rest = dict(item)
        weight = rest.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise UserError(
                f"{at}.weight", weight, "is not a finite number", "give a number, below 0 to punish"
            )
        if len(rest) != 1:
            raise UserError(
                at,
                item,
                "needs exactly one source per entry",
                "write a list: [{math: {}}, {length: {limit: 200}}]",
            )
        name, options = next(iter(rest.items()))
        if options is None:
            options = {}
        if not isinstance(options, Mapping):
            options = {"": options}  # the short form {reward_model: rm}: the first parameter
        parts.append(Part(str(name), float(weight), dict(options), at))
    return parts


def check_names(spec: Any, field: str = "feedback") -> None:
    """Names alone: no source's file is read."""
    for part in parse(spec, field):
        feedback_sources.require(part.name, part.at)


def check(spec: Any, field: str = "feedback", policy: bool = True) -> None:
    """Names and options, without loading a model; called before any expensive work.

    policy: whether the caller will have a policy for sources that score with one.
    """
    for part in parse(spec, field):
        factory, bound = _bind(part)
        if not policy:
            _refuse_policy(factory, part.field)
        if is_source(factory):
            factory.vet(bound.get("spec"), part.field.lstrip("."))
        # What needs nothing of the run is built at once: its options must not fail behind another stage.
        if ":" not in part.name and "context" not in _parameters(factory):
            _made(part, factory, bound)


def _made(part: Part, factory: Callable[..., Any], bound: Mapping[str, Any]) -> Any:
    """The source. What it says of its own options bears their full names."""
    try:
        return factory(**bound)
    except UserError as error:
        own = f"feedback.{part.name.rpartition(':')[2]}"
        if error.field != own and not error.field.startswith(f"{own}."):
            raise
        full = part.field + error.field.removeprefix(own)
        raise UserError(full, error.value, error.problem, error.fix) from error


def _bind(part: Part) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes the source, and its options by name."""
    name, options = part.name, part.options
    factory = feedback_sources.get(name, part.at)
    if not callable(factory):
        raise UserError(
            part.at,
            name,
            f"is not a source of feedback, but {type(factory).__name__}.",
            "Name a function, or a class that derives from kilter.seams.FeedbackSource.",
        )
    settings = settings_of(factory)
    if settings is not None:
        return factory, {"spec": _validated(settings, options, part.field)}
    if ":" not in name or is_source(factory):
        return factory, _named(factory, options, part.field)

    # A plain function of a user's own becomes a source that runs it in a process of its own.
    from kilter.feedback.function import FunctionFeedback, check_form, check_timeout

    check_form(factory, name.rpartition(":")[2])
    bound = _named(FunctionFeedback, options, part.field, taken=("function", "name"))
    check_timeout(bound.get("timeout", 1.0), part.field)
    return FunctionFeedback, bound | {"function": factory, "name": name.rpartition(":")[2]}


def is_source(factory: Any) -> TypeGuard[type[FeedbackSource]]:
    """Whether an object is a class that derives from FeedbackSource."""
    return isinstance(factory, type) and FeedbackSource in factory.__mro__


def settings_of(factory: Any) -> type[BaseModel] | None:
    """The model of a source's options, where they are one."""
    return factory.Spec if is_source(factory) else None


def _validated(settings: type[BaseModel], options: dict[str, Any], field: str) -> BaseModel:
    """The options as the source's own model. Raises UserError."""
    first = next(iter(settings.model_fields))
    try:
        return settings.model_validate({key or first: value for key, value in options.items()})
    except ValidationError as error:
        raise as_user_error(error, field, settings) from error


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a source can be given by name.

    A class without an __init__ has *args and **kwargs of its protocol.
    """
    gathered = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {n: p for n, p in inspect.signature(factory).parameters.items() if p.kind not in gathered}


def _named(
    factory: Callable[..., Any], options: dict[str, Any], field: str, taken: Sequence[str] = ()
) -> dict[str, Any]:
    known = [p for p in _parameters(factory) if p != "context" and p not in taken]
    if "" in options:
        if not known:
            raise UserError(field, options[""], "takes no options", f"write {field.rpartition('.')[2]}: {{}}")
        options = {key or known[0]: value for key, value in options.items()}
    signature = getattr(factory, "__init__") if isinstance(factory, type) else factory  # noqa: B009
    hints = typing.get_type_hints(signature)
    for key, value in options.items():
        if key not in known:
            raise UserError(
                f"{field}.{key}",
                value,
                "is not an option of this source",
                nearest(key, known) if known else "leave it out: the source takes no options",
            )
        if key in hints:
            require_type(f"{field}.{key}", value, hints[key])
    required = [
        p.name
        for p in _parameters(factory).values()
        if p.default is p.empty and p.name not in ("context", *taken)
    ]
    for key in required:
        if key not in options:
            raise UserError(
                f"{field}.{key}",
                "(absent)",
                "is required",
                f"write {{{field.rpartition('.')[2]}: {{{key}: ...}}}}",
            )
    return options


def model_references(spec: Any, sources: Sequence[str] = ()) -> list[str]:
    """Stages or models that the sources read; of the named sources alone where some are named."""
    found: list[str] = []

    def note(item: Found) -> Any:
        if item.ref.to == "model" and (not sources or set(sources) & set(item.field.split("."))):
            found.append(item.value)
        return item.value

    with_references(spec, note)
    return found


def with_references(spec: Any, change: Change, field: str = "feedback") -> Any:
    """The same feedback with every reference as `change` says.

    A source's parameters declare which of them are references.
    """
    if isinstance(spec, list | tuple):
        return [with_references(item, change, f"{field}.{n}") for n, item in enumerate(spec)]
    if not isinstance(spec, Mapping):
        return spec
    return {
        name: options if name == "weight" else _options_with_references(name, options, change, field)
        for name, options in spec.items()
    }


def _options_with_references(name: str, options: Any, change: Change, field: str) -> Any:
    # A user's function takes no models, and an unknown name is for `check` to report.
    if name not in feedback_sources.names():
        return options
    hints = _hints(feedback_sources.get(name))
    where = f"{field}.{name}"
    first = next((p for p in hints if p != "context"), "")
    if isinstance(options, Mapping):
        named = {key or first: value for key, value in options.items()}
        # A world's own critic opens no model.
        scripted = {key for key, value in named.items() if key == "model" and own_critic(str(value))}
        return {
            key: value if key in scripted else walk(value, hints.get(key), f"{where}.{key}", change)
            for key, value in named.items()
        }
    return walk(options, hints.get(first), where, change)


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """The type of every option, with what it refers to."""
    settings = settings_of(factory)
    if settings is not None:
        fields = settings.model_fields.items()
        return {n: Annotated[f.annotation, *f.metadata] if f.metadata else f.annotation for n, f in fields}
    return typing.get_type_hints(
        getattr(factory, "__init__") if isinstance(factory, type) else factory,  # noqa: B009
        include_extras=True,
    )


def check_columns(spec: Any, groups: Sequence[Group], field: str = "feedback") -> None:
    """Raises UserError for a source that needs a column or a world which none of these prompts brings."""
    for part in parse(spec, field):
        factory, bound = _bind(part)
        world = worlds.by_source(part.name) if part.name in worlds.sources() else None
        if world is not None and groups and not any(world.owns(g.prompt) for g in groups):
            problem = "is the judge of another world than this data's"
            fix = f"use it with builtin:{world.name}, or name a source that fits this data"
            raise UserError(part.at, part.name, problem, fix)
        if is_source(factory):
            needed = factory.needs(bound)
            prompts = (g.prompt for g in groups) if needed else ()
            require_columns(needed, prompts, part.field)


def live(spec: Any, field: str = "feedback") -> list[str]:
    """Names of the sources that score with the weights in training."""
    found = [(part.name, _bind(part)[0]) for part in parse(spec, field)]
    return [
        n for n, factory in found if is_source(factory) and factory.wants.policy and factory.wants.weights
    ]


def forecast(spec: Any, groups: Sequence[Group], field: str = "feedback") -> str:
    """What scoring these groups would take, in words; no model is opened."""
    return _said(spec, field, lambda source, options: source.forecast(options, groups))


def check_replay(path: str | None, spec: Any, where: str, field: str = "feedback") -> None:
    """Raises UserError for kept replies that cannot be read, or that none of the sources would read.

    Args:
        path: the file of replies; None is always right.
        spec: the feedback as a recipe writes it.
        where: the setting that names the file, for messages.
        field: the setting that names the feedback.
    """
    if path is None:
        return
    sources = _factories(spec, field) if spec else []
    if not any(is_source(source) and source.replays for source in sources):
        raise UserError(where, path, "is read by no judge of this feedback", "leave it out")
    Replies(Path(path), where, reading=True).close()


def uncertified(spec: Any, context: Context, field: str = "feedback") -> dict[str, str]:
    """Why nobody vouches for judges behind these sources, by their names; none where all are certified."""
    found = dict(_learned(spec, context))
    for part in parse(spec, field):
        source, own = _bind(part)
        if is_source(source):
            found |= source.uncertified(own.get("spec"), context)
    return found


def _learned(spec: Any, context: Context) -> dict[str, str]:
    """Judges without a certificate whose labels a reward model has learned, and so passes on.

    A judge's own model is measured by the judge's audit, whatever it learned.
    """
    from kilter.models.noted import uncertified_judges

    found: dict[str, str] = {}
    for part in parse(spec):
        factory = feedback_sources.get(part.name, part.at)
        if is_source(factory) and factory.replays:
            continue
        for model in model_references({part.name: part.options}):
            why = f"{model} learned its labels, and it has no certificate"
            found |= dict.fromkeys(uncertified_judges(context.model(model)), why)
    return found


def _said(spec: Any, field: str, ask: Callable[[type[FeedbackSource], Any], str]) -> str:
    """What the sources' classes say of their options; a plain function says nothing."""
    bound = [_bind(part) for part in parse(spec, field)]
    said = [ask(source, own.get("spec")) for source, own in bound if is_source(source)]
    return "; ".join(filter(None, said))


def wants_policy(spec: Any, field: str = "feedback") -> bool:
    """Whether a source scores with a policy, or with its tokenizer."""
    return any(is_source(factory) and factory.wants.policy for factory in _factories(spec, field))


def reads_length(spec: Any, field: str = "feedback") -> bool:
    """Whether a source cuts and renders answers as the run says; a judge has settings of its own."""
    return any(
        is_source(factory) and factory.fits and "context" in _parameters(factory)
        for factory in _factories(spec, field)
    )


def gives_odds(spec: Any, field: str = "feedback") -> bool:
    """Whether a source may say how sure it is of a pair; a sum of several says nothing of that."""
    from kilter.feedback.function import FunctionFeedback

    part, *others = parse(spec, field)
    factory = _factories(spec, field)[0]
    if others or not is_source(factory) or factory is FunctionFeedback:
        return False
    # Of a source of the user's own nobody knows.
    return ":" in part.name or factory.replays or factory.wants.siblings


def _factories(spec: Any, field: str) -> list[Callable[..., Any]]:
    return [_bind(part)[0] for part in parse(spec, field)]


def _refuse_policy(factory: Callable[..., Any], field: str) -> None:
    """Raises UserError for a source that scores with a policy, where there is none."""
    if is_source(factory) and factory.wants.policy:
        raise UserError(
            field,
            "(no policy)",
            "needs the policy in training",
            "use it as the feedback of a train stage with prompts, or of a label stage with judge",
        )


def build(spec: Any, context: Context, field: str = "feedback") -> Weighted:
    """The sources with their weights."""
    parts = []
    for part in parse(spec, field):
        factory, bound = _bind(part)
        if context.policy is None:
            _refuse_policy(factory, part.field)
        if "context" in _parameters(factory):
            bound = bound | {"context": context}
        parts.append((part.name.rpartition(":")[2], part.weight, _made(part, factory, bound)))
    return Weighted(parts, sorted(_learned(spec, context)))


class Weighted(FeedbackSource):
    """The weighted sum of its parts.

    A completion that any part leaves unscored is unscored; every part is on record.
    """

    def __init__(
        self, parts: Sequence[tuple[str, float, FeedbackSource]], learned: Sequence[str] = ()
    ) -> None:
        seen: dict[str, int] = {}
        self._learned = {UNCERTIFIED: list(learned)} if learned else {}
        self.parts: list[tuple[str, float, FeedbackSource]] = []
        for name, weight, source in parts:  # two reward models are two parts, in the log and in a checkpoint
            seen[name] = seen.get(name, 0) + 1
            self.parts.append((name if seen[name] == 1 else f"{name}#{seen[name]}", weight, source))
        wants = [source.wants for _, _, source in self.parts]
        self.wants = Wants(any(w.siblings for w in wants), any(w.policy for w in wants))

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        # What is scored elsewhere goes on while others are asked.
        self.begin(groups)
        found = [(name, weight, source(groups)) for name, weight, source in self.parts]
        return [
            [self._sum([(n, w, f[g][i]) for n, w, f in found]) for i in range(len(group.completions))]
            for g, group in enumerate(groups)
        ]

    def begin(self, groups: Sequence[Group]) -> None:
        """Every part may begin."""
        for _, _, source in self.parts:
            source.begin(groups)

    def _sum(self, parts: Sequence[tuple[str, float, Feedback]]) -> Feedback:
        values = {name: f.score for name, _, f in parts}
        missing = [f"{name}: {f.rationale}" for name, _, f in parts if f.score is None]
        total = None if missing else sum(weight * (f.score or 0.0) for _, weight, f in parts)
        steps = next((f.steps for _, _, f in parts if f.steps), ())
        rationale = "; ".join(missing) or "; ".join(f.rationale for _, _, f in parts if f.rationale)
        kind = parts[0][2].kind if len(parts) == 1 else "sum"
        source = parts[0][2].source if len(parts) == 1 else "+".join(values)
        # A sum of several sources says nothing of the odds between two answers, and a punished one reverses.
        against = parts[0][2].against if len(parts) == 1 and parts[0][1] > 0 else ()
        known = {k: v for k, v in values.items() if v is not None}
        return Feedback(total, kind, steps, rationale, source, known, against)

    def note(self) -> str:
        """What the parts have to say of their work."""
        return "  ".join(filter(None, (source.note() for _, _, source in self.parts)))

    def canaries(self) -> list[dict[str, Any]]:
        """Those of all parts."""
        return [line for _, _, source in self.parts for line in source.canaries()]

    def history(self) -> Mapping[str, Any]:
        """What the parts say of themselves; of several judges, all are on record.

        So are judges without a certificate whose labels a reward model learned.
        """
        found = [h for _, _, source in self.parts if (h := source.history())]
        own = {} if not found else found[0] if len(found) == 1 else {"judges": found}
        return {**own, **self._learned}

    def state(self) -> dict[str, Any]:
        """The states of the parts that have one, by name."""
        return {name: state for name, _, source in self.parts if (state := source.state())}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        for name, _, source in self.parts:
            if name in state:
                source.restore(state[name])

    def scale_of(self, name: str) -> tuple[float, float] | None:
        """The (mean, deviation) by which a part contributes (raw - mean) / deviation, its weight included.

        None until it is known.
        """
        for own, weight, source in self.parts:
            if own == name and weight > 0:
                scale = source.scale()
                return None if scale is None else (scale[0], scale[1] / weight)
        return None

    def spread(self) -> float | None:
        """Mean disagreement of the parts that are ensembles, None without one."""
        found = [d for _, _, source in self.parts if (d := source.disagreement) is not None]
        return sum(found) / len(found) if found else None
