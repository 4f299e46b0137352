"""A comparison as a recipe: what is compared, on what, and the plain recipe of stages that it stands for.

model: builtin:smollm2-135m
data:
  demos: {path: builtin:support-desk, ...}      # the start learns from these
  pairs: {path: builtin:support-desk, ...}      # every method learns from these
start: {method: sft, data: $demos}              # trained once; the baseline of every difference
methods: {dpo: dpo, ipo: {method: ipo, learning_rate: 1.0e-5}}
train: {epochs: 1, batch_size: 8}               # the same for every method
seeds: [0, 1, 2]
vary: {pairs.limit: [100, 400], pairs.world.label_noise: [0.0, 0.3]}  # optional; limit: of training rows
evaluate: {data: $pairs, limit: 60, max_new_tokens: 64}
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kilter import recipe as recipes
from kilter.data.worlds import registry as worlds
from kilter.errors import UserError, nearest
from kilter.objectives.registry import build_objective, method_name
from kilter.recipe import Recipe
from kilter.validation import as_user_error


class Study(BaseModel):
    """What `kilter compare` reads."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: str = Field("compare", description="folder under runs/; default: the recipe's file name")
    model: str = Field("builtin:smollm2-135m", description="base model")
    data: dict[str, dict[str, Any]] = Field(description="data sets by name, used as $name")
    start: dict[str, Any] = Field(
        description="the train stage that every method begins from, and is compared with"
    )
    methods: dict[str, Any] = Field(
        min_length=1,
        description="names, or label to a method, or to fields of a train stage with `method`",
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="fields of a train stage, the same for every method"
    )
    judge: dict[str, Any] | None = Field(
        None, description="a reward model's train stage; it scores the answers where no gold score exists"
    )
    seeds: list[int] = Field(
        default_factory=lambda: [0, 1, 2], min_length=1, description="each method is trained once per seed"
    )
    vary: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="fields of a data set to vary, such as pairs.limit: [100, 400]; every combination",
    )
    evaluate: dict[str, Any] = Field(
        default_factory=dict,
        description="fields of an evaluate stage; tax: $name measures what was unlearned",
    )

    @field_validator("methods", mode="before")
    @classmethod
    def _names_are_their_labels(cls, value: Any) -> Any:
        names = isinstance(value, list) and all(isinstance(name, str) for name in value)
        return {name: name for name in value} if names else value


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run: a method, a setting of what varies, a seed. `stage` is its name in the recipe."""

    stage: str
    method: str
    setting: tuple[tuple[str, Any], ...]
    seed: int


START, JUDGE, EVAL = "start", "judge", "eval"


def load(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Reads and checks a comparison. Raises UserError with field, value and fix."""
    raw = recipes.read(path, "recipes/compare-noise.yaml", "model:, data:, start:, methods:")
    for item in overrides:
        recipes.override(raw, item)
    for key in raw:
        if key not in Study.model_fields:
            fix = (
                "run it with `kilter run`: it is a recipe of stages"
                if key == "stages"
                else nearest(key, Study.model_fields)
            )
            raise UserError(key, "..." if key == "stages" else raw[key], "is not a known key", fix)
    if isinstance(raw.get("data"), dict) and "path" in raw["data"]:
        raw["data"] = {"data": raw["data"]}
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise as_user_error(error, "", Study) from error
    expand(study)  # everything that a recipe's own checks find
    return study


def cells(study: Study) -> list[Cell]:
    """Every run of the comparison, seeds innermost."""
    settings = [
        tuple(zip(study.vary, values, strict=True)) for values in itertools.product(*study.vary.values())
    ]
    out = []
    for setting, (method, seed) in itertools.product(settings, itertools.product(study.methods, study.seeds)):
        parts = [method, *(f"{k.rpartition('.')[2]}-{v}" for k, v in setting), f"s{seed}"]
        out.append(Cell(re.sub(r"[^\w-]", "_", "__".join(parts)), method, setting, seed))
    for key, values in study.vary.items():
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            problem = "has no value" if not values else "names a value twice"
            raise UserError(f"vary.{key}", values, problem, "give each value once, such as [100, 400]")
    names = [c.stage for c in out]
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise UserError(
            "methods",
            twice,
            "would be the name of two runs",
            "give methods labels that differ in letters and digits",
        )
    return out


def expand(study: Study) -> Recipe:
    """The recipe of stages: start, judge, every cell, one evaluation of all of them."""
    data: dict[str, Any] = dict(study.data)
    stages: dict[str, Any] = {START: {"train": {"method": "sft"} | study.start}}
    if study.judge is not None:
        stages[JUDGE] = {"train": {"from": START, "method": "bradley_terry"} | study.judge}
    if len(set(study.seeds)) < len(study.seeds):
        raise UserError("seeds", study.seeds, "names a seed twice", "name each seed once")
    for label, own in study.methods.items():
        _check_method(study, label, own)
    found = cells(study)
    for cell in found:
        own = study.methods[cell.method]
        fields = dict(own) if isinstance(own, dict) and "method" in own else {"method": own}
        train = {"from": START} | study.train | fields | {"seed": cell.seed}
        reads = "prompts" if train.get("prompts") else "data"
        base = str(train.get(reads, "$data")).removeprefix("$")
        for key, value in cell.setting:
            source, _, field = key.partition(".")
            if source not in study.data or not field:
                raise UserError(
                    f"vary.{key}",
                    value,
                    "names no field of a data set",
                    f"write NAME.FIELD; data sets: {', '.join(study.data) or 'none yet'}",
                )
            if source != base:
                raise UserError(
                    f"vary.{key}",
                    value,
                    f"would change nothing: {cell.method} trains on ${base}",
                    f"vary a field of {base}",
                )
            if field in SPLITTING:
                raise UserError(
                    f"vary.{key}",
                    value,
                    "moves rows between training and held-out prompts, on which all are compared",
                    f"vary {base}.limit, which cuts the training side alone",
                )
        limits = [value for key, value in cell.setting if key == f"{base}.limit"]
        if limits:  # of the training side alone: the held-out prompts stay the same ones, and stay held out
            train["limit"] = limits[0]
        others = tuple((k, v) for k, v in cell.setting if k != f"{base}.limit")
        if others:
            train[reads] = _varied(study, data, f"${base}", others)
        stages[cell.stage] = {"train": train}
    stages[EVAL] = {"evaluate": _evaluation(study, found)}
    with naming(study):
        return recipes.build({"name": study.name, "model": study.model, "data": data, "stages": stages})


@contextlib.contextmanager
def naming(study: Study) -> Iterator[None]:
    """Gives errors of the recipe that a comparison stands for the names of the comparison's own fields."""
    try:
        yield
    except UserError as error:
        field = _own_name(study, error.field)
        if field == error.field:
            raise
        raise UserError(field, error.value, error.problem, error.fix) from error


def _own_name(study: Study, field: str) -> str:
    """The field of a comparison that a field of its recipe came from."""
    for stage, kind, name in (
        (START, "train", "start"),
        (JUDGE, "train", "judge"),
        (EVAL, "evaluate", "evaluate"),
    ):
        if field.startswith(f"stages.{stage}.{kind}."):
            return f"{name}.{field.removeprefix(f'stages.{stage}.{kind}.')}"
    for cell in cells(study):
        if field.startswith(f"stages.{cell.stage}.train."):
            return _of_cell(study, cell, field.removeprefix(f"stages.{cell.stage}.train."))
    # A data set of one setting bears its values in its name.
    name, _, rest = field.removeprefix("data.").partition(".")
    base = name.partition("__")[0]
    if not field.startswith("data.") or name in study.data or base not in study.data:
        return field
    return f"vary.{base}.{rest}" if f"{base}.{rest}" in study.vary else f"data.{base}.{rest}"


def _of_cell(study: Study, cell: Cell, rest: str) -> str:
    """Where a setting of a run stands: at its method, at all methods, or among what varies."""
    head, own = rest.partition(".")[0], study.methods[cell.method]
    if isinstance(own, dict) and "method" in own:
        if head in own:
            return f"methods.{cell.method}.{rest}"
    elif head == "method":
        return f"methods.{cell.method}{rest.removeprefix('method')}"
    varied = next((key for key, _ in cell.setting if key.endswith(f".{rest}")), None)
    return f"vary.{varied}" if varied is not None else f"train.{rest}"


def _evaluation(study: Study, found: Sequence[Cell]) -> dict[str, Any]:
    """One evaluation of all cells; without a judge, on the held-out pairs as well."""
    evaluate: dict[str, Any] = {"models": [START, *(c.stage for c in found)], "baseline": START}
    if not has_judge(study):
        evaluate["metrics"] = ["standard", IMPLICIT]
    evaluate |= study.evaluate
    if study.judge is not None:
        evaluate["reward_model"] = JUDGE
    return evaluate


IMPLICIT = "implicit_accuracy"
"""The metric that scores policies on held-out pairs where nobody scores their answers."""


def has_judge(study: Study) -> bool:
    """Whether somebody scores the answers: a gold source, a reward model, or the world of the prompts."""
    name = str(study.evaluate.get("data", "$data")).removeprefix("$")
    path = str(study.data.get(name, {}).get("path", ""))
    return study.judge is not None or study.evaluate.get("gold") is not None or worlds.is_world(path)


SPLITTING = ("path", "heldout", "seed", "world.n", "world.seed")
"""Fields of a data set that decide which prompts are held out."""


def _check_method(study: Study, label: str, own: Any) -> None:
    """A comparison is of policies, all from one start, seeds apart."""
    fields = study.train | (own if isinstance(own, dict) and "method" in own else {"method": own})
    where = f"methods.{label}"
    if "seed" in fields:
        raise UserError(
            f"{where}.seed" if isinstance(own, dict) and "seed" in own else "train.seed",
            fields["seed"],
            "is set by `seeds`",
            "leave it out",
        )
    try:
        needs = build_objective(fields["method"]).needs
    except UserError as error:
        # A setting of a method bears the method's name, which a label may replace.
        head, _, rest = error.field.partition(".")
        if rest and head == method_name(fields["method"]):
            own = f"{where}.method" if isinstance(own, dict) and "method" in own else where
            raise UserError(f"{own}.{rest}", error.value, error.problem, error.fix) from error
        raise
    if "reward" in needs.models:
        raise UserError(
            where,
            fields["method"],
            "trains a reward model, which answers nothing",
            "compare policies. `judge` names a reward model that scores them",
        )

    # A method of rollouts samples them, or is told to learn from those of an earlier run.
    if needs.shape == "rollouts" and fields.get("prompts") is None and not fields.get("replay"):
        raise UserError(
            where,
            fields["method"],
            "learns from answers of its own",
            f"write {label}: {{method: {method_name(fields['method'])}, prompts: $NAME, feedback: ...}}",
        )


def _varied(study: Study, data: dict[str, Any], source: str, setting: tuple[tuple[str, Any], ...]) -> str:
    """The name of the data set with these fields; made once."""
    base = source.removeprefix("$")
    spec: dict[str, Any] = yaml.safe_load(yaml.safe_dump(study.data.get(base, {})))
    for key, value in setting:
        field = key.partition(".")[2]
        node = spec
        *parents, leaf = field.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    name = "__".join([base, *(f"{k.rpartition('.')[2]}-{v}" for k, v in setting)])
    data[name] = spec
    return f"${name}"
