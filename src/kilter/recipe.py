"""A recipe: model, data, stages. Strict: an unknown key is an error that names the nearest valid one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kilter import feedback as feedbacks
from kilter.data.dataset import DataSpec
from kilter.errors import UserError, nearest
from kilter.evaluation import metrics
from kilter.evaluation.config import EvaluateSpec
from kilter.models.config import check_adapter
from kilter.objectives.index import check as check_method
from kilter.training.config import TrainSpec, check_zero
from kilter.types import Shape
from kilter.validation import as_user_error, load_yaml, refuse_idle


class AuditSpec(BaseModel):
    """Checks a data set before anything is trained on it."""

    model_config = ConfigDict(extra="forbid")
    data: str = Field("$data", description="$name of a data set")
    max_length: int = Field(1024, ge=8, description="length at which the truncation check cuts, in tokens")
    fail_on_error: bool = Field(False, description="end the run with code 2 when a finding has level error")


class GateSpec(BaseModel):
    """Decides whether the candidate may ship."""

    model_config = ConfigDict(extra="forbid")
    policy: str | dict[str, Any] = Field(description="a YAML file, or the policy itself: {conditions: [...]}")
    candidate: str | None = Field(
        None, description="model under test; default: the only one that is not the baseline"
    )
    baseline: str | None = Field(None, description="must be the evaluation's baseline")
    evaluation: str | None = Field(None, description="evaluate stage to read; default: the last one")


class Stage(BaseModel):
    """One step of the run: exactly one of audit, train, evaluate, gate."""

    model_config = ConfigDict(extra="forbid")
    audit: AuditSpec | None = None
    train: TrainSpec | None = None
    evaluate: EvaluateSpec | None = None
    gate: GateSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Stage:
        if sum(v is not None for v in (self.audit, self.train, self.evaluate, self.gate)) != 1:
            raise ValueError("needs exactly one of audit, train, evaluate, gate")
        return self

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(k for k in ("audit", "train", "evaluate", "gate") if getattr(self, k) is not None)

    def data_names(self) -> list[tuple[str, str]]:
        """(field, name without the $) of every data set it reads."""
        spec = self.audit or self.train or self.evaluate
        named = [] if spec is None else [("data", spec.data)]
        if self.train is not None and self.train.prompts is not None:
            named = [("prompts", self.train.prompts)]
        elif self.evaluate is not None:
            named += [("probes", name) for name in self.evaluate.probes] + (
                [("tax", self.evaluate.tax)] if self.evaluate.tax else []
            )
        return [(field, name.removeprefix("$")) for field, name in named]

    def model_names(self) -> list[tuple[str, str]]:
        """(field, stage or model) for every model it reads."""
        if self.train is not None:
            named = [
                ("from", self.train.start),
                ("reference", self.train.reference),
                ("teacher", self.train.teacher),
                ("critic.from", self.train.critic.start),
            ]
            for field, spec in (
                ("feedback", self.train.feedback),
                ("monitors.gold", self.train.monitors.gold),
            ):
                named += [(field, m) for m in feedbacks.model_references(spec)] if spec is not None else []
        elif self.evaluate is not None:
            named = [("models", m) for m in self.evaluate.models]
            named += [("baseline", self.evaluate.baseline), ("reward_model", self.evaluate.reward_model)]
        else:
            named = []
        return [(field, name) for field, name in named if name]


class Recipe(BaseModel):
    """The whole run."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(
        "run", pattern=r"^[\w.-]+$", description="folder under runs/; default: the recipe's file name"
    )
    model: str = Field(
        "builtin:smollm2-135m", description="base model: builtin:NAME, a folder, a .gguf file, or a Hub id"
    )
    data: dict[str, DataSpec] = Field(
        description="one data set (path: ...), or several by name, used as $name"
    )
    stages: dict[str, Stage] = Field(min_length=1, description="stages by name, run in this order")

    @model_validator(mode="before")
    @classmethod
    def _one_data_set(cls, value: Any) -> Any:
        if (
            isinstance(value, dict)
            and isinstance(value.get("data"), dict)
            and not all(isinstance(v, dict) for k, v in value["data"].items() if k != "world")
        ):
            value = value | {"data": {"data": value["data"]}}
        return value


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and checks a recipe. Raises UserError with field, value and fix."""
    return build(read(Path(path), "recipes/quickstart.yaml", "model:, data: and stages:"), overrides)


def read(path: Path, example: str, keys: str) -> dict[str, Any]:
    """The mapping in a YAML file, with the file's stem as its name where it has none. Raises UserError with field, value and fix."""
    if not path.is_file():
        raise UserError("recipe", str(path), "no such file", f"give a YAML file, such as {example}")
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            "recipe",
            str(path),
            f"is not YAML ({' '.join(str(error).split())[:160]})",
            "check indentation, colons and repeated keys",
        ) from error
    if not isinstance(raw, dict):
        raise UserError("recipe", str(path), "is not a mapping", f"write {keys}")
    raw.setdefault("name", path.stem)
    return raw


def build(raw: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe from plain data."""
    for item in overrides:
        override(raw, item)
    _check_top(raw)
    for name, stage in (raw.get("stages") or {}).items():
        _check_stage(name, stage)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise _recipe_error(error, raw) from error
    _check_references(recipe)
    return recipe


def _check_top(raw: dict[str, Any]) -> None:
    if "methods" in raw and "stages" not in raw:
        raise UserError(
            "recipe",
            sorted(raw),
            "is a comparison of methods, not a recipe of stages",
            "run it with: kilter compare FILE",
        )
    for key in raw:
        if key not in Recipe.model_fields:
            raise UserError(key, raw[key], "unknown key", nearest(key, Recipe.model_fields))
    for key in ("data", "stages"):
        if not isinstance(raw.get(key), dict):
            raise UserError(
                key,
                raw.get(key, "(absent)"),
                "is required",
                {"data": "add data: {path: FILE}", "stages": "add stages: {sft: {train: {method: sft}}}"}[
                    key
                ],
            )


def _check_stage(name: str, stage: Any) -> None:
    kinds = ("audit", "train", "evaluate", "gate")
    if not isinstance(stage, dict) or len(stage) != 1:
        raise UserError(
            f"stages.{name}",
            stage,
            "needs exactly one kind",
            f"write {name}: {{train: {{...}}}}; kinds: {', '.join(kinds)}",
        )
    kind = next(iter(stage))
    if kind not in kinds:
        raise UserError(f"stages.{name}.{kind}", stage[kind], "unknown kind of stage", nearest(kind, kinds))
    if stage[kind] is None:
        stage[kind] = {}


def _recipe_error(error: ValidationError, raw: dict[str, Any]) -> UserError:
    first = error.errors()[0]
    location = first["loc"]
    if (
        location and location[0] == "data" and "path" in raw.get("data", {})
    ):  # the short form: no name in the message
        trimmed = ValidationError.from_exception_data("data", [{**first, "loc": ("data", *location[2:])}])  # type: ignore[typeddict-unknown-key]
        found = trimmed.errors()[0]
        if found["type"] == "extra_forbidden":
            known = DataSpec if len(location) == 3 else None
            world = DataSpec.model_fields["world"].annotation
            names = list((known or world).model_fields)  # type: ignore[union-attr]
            return UserError(
                ".".join(map(str, found["loc"])),
                found["input"],
                "unknown key",
                nearest(str(location[-1]), names),
            )
        return as_user_error(trimmed, "", DataSpec)
    return as_user_error(error, "", Recipe)


def override(raw: dict[str, Any], item: str) -> None:
    """--set a.b=c; the value is read as YAML."""
    path, sign, text = item.partition("=")
    if not sign or not path:
        raise UserError("--set", item, "is not KEY=VALUE", "write --set stages.dpo.train.learning_rate=1e-5")
    node: Any = raw
    keys = path.split(".")
    for key in keys[:-1]:
        if not isinstance(node, dict):
            raise UserError(
                "--set", item, f"{key!r} lies under a value that is not a mapping", "check the path"
            )
        if key not in node and node is raw.get("stages"):
            raise UserError(
                "--set", item, f"there is no stage {key!r}", nearest(key, [str(k) for k in raw["stages"]])
            )
        if key in ("method", "algorithm") and isinstance(node.get(key), str):
            node[key] = {"name": node[key]}  # method: dpo and method: {name: dpo} say the same
        node = node.setdefault(key, {})
    if not isinstance(node, dict):
        raise UserError("--set", item, "its parent is not a mapping", "check the path")
    node[keys[-1]] = scalar(text)


def scalar(text: str) -> Any:
    """A YAML value; 1e-5 is a number here (YAML 1.1 reads it as text)."""
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None)
        raise UserError(
            "--set",
            text,
            f"is not a YAML value{f' ({problem})' if problem else ''}",
            "quote it, close its brackets, name each key once",
        ) from error
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_references(recipe: Recipe) -> None:
    """Every $data set and every stage that is named must exist, and earlier; methods must build."""
    for _, train in train_stages(recipe):  # a misspelt method is said before torch is read
        check_method(train.method)
    earlier: dict[str, Stage] = {}
    for name, stage in recipe.stages.items():
        where = f"stages.{name}.{stage.kind}"
        for field, data in stage.data_names():
            if data not in recipe.data:
                raise UserError(
                    f"{where}.{field}", f"${data}", "no such data set", nearest(data, recipe.data)
                )
        for field, ref in stage.model_names():
            if looks_like_stage(ref) and ref not in earlier:
                problem = "comes later in the recipe" if ref in recipe.stages else "is no earlier stage"
                raise UserError(
                    f"{where}.{field}",
                    ref,
                    problem,
                    nearest(ref, [n for n, s in earlier.items() if s.train])
                    if earlier
                    else "train it in a stage above",
                )
            if ref in earlier and earlier[ref].train is None:
                raise UserError(
                    f"{where}.{field}",
                    ref,
                    "is no train stage",
                    nearest(ref, [n for n, s in earlier.items() if s.train]),
                )
        if stage.train is not None:
            check_train(stage.train, f"{where}.")
        if stage.evaluate is not None and stage.evaluate.gold is not None:
            feedbacks.check(stage.evaluate.gold, f"{where}.gold")
        if stage.evaluate is not None:
            metrics.resolve(stage.evaluate.metrics, f"{where}.metrics")
        if (
            stage.evaluate is not None
            and stage.evaluate.baseline
            and stage.evaluate.baseline not in stage.evaluate.models
        ):
            raise UserError(
                f"{where}.baseline",
                stage.evaluate.baseline,
                "is not among models",
                nearest(stage.evaluate.baseline, stage.evaluate.models),
            )
        if stage.gate is not None:
            _check_gate(where, stage.gate, earlier)
        earlier[name] = stage


def check_train(spec: TrainSpec, where: str = "") -> None:
    """The method builds, and what it needs online is there. Raises UserError before any expensive work."""
    check_method(spec.method)
    import torch

    from kilter.objectives import build_objective
    from kilter.training.checks import check_online

    needs = build_objective(spec.method).needs
    if spec.adapter is not None:
        check_adapter(spec.adapter, f"{where}adapter")
    if spec.activation_offloading and not torch.cuda.is_available():
        raise UserError(
            f"{where}activation_offloading",
            True,
            "moves activations off a GPU, and there is none",
            "leave it out; gradient_checkpointing saves memory here",
        )
    if "embeddings" in needs.outputs and (spec.gradient_checkpointing or spec.fsdp):
        field = "gradient_checkpointing" if spec.gradient_checkpointing else "fsdp"
        raise UserError(
            f"{where}{field}",
            True,
            "does not go with wdpo, whose backward is differentiated again",
            "leave it out",
        )
    if spec.zero is not None:
        check_zero(spec.zero, where)
        if spec.fsdp:
            raise UserError(f"{where}zero", spec.zero, "and fsdp both divide the training", "choose one")
        if spec.prompts is not None:
            raise UserError(
                f"{where}zero",
                spec.zero,
                "is for training on fixed data",
                "leave it out: several processes then train online with DDP",
            )
    if spec.engine == "local" and spec.processes > 1:
        raise UserError(
            f"{where}engine",
            "local",
            f"is one process, and processes is {spec.processes}",
            "leave engine out",
        )
    if needs.teacher is not None and spec.teacher is None:
        raise UserError(
            f"{where}teacher", None, "is required by this method", "name a stage or a model to learn from"
        )
    if spec.teacher is not None and needs.teacher is None:
        raise UserError(
            f"{where}teacher",
            spec.teacher,
            "is not used by this method",
            "leave it out, or use method distill",
        )
    for field, source in (("feedback", spec.feedback), ("monitors.gold", spec.monitors.gold)):
        if source is not None:
            feedbacks.check(source, f"{where}{field}")
    if spec.prompts is not None:
        check_online(spec, needs, where)
        return
    if spec.feedback is not None:
        raise UserError(
            f"{where}feedback", spec.feedback, "is given, but no prompts to sample", "add prompts: $data"
        )
    idle = ["select", "refill", "kl_control", "monitors", "refresh_reference_every"]
    idle += [] if needs.shape == "rollouts" else ["sampler", "minibatches", "inner_epochs"]
    idle += [] if "critic" in needs.models else ["critic"]
    refuse_idle(
        spec,
        where,
        [
            (n, "the data is fixed", "leave it out, or add prompts: $data to train on fresh answers")
            for n in idle
        ],
    )


def _check_gate(where: str, gate: GateSpec, earlier: dict[str, Stage]) -> None:
    from kilter.release.gate import load_policy

    evaluations = [n for n, s in earlier.items() if s.evaluate]
    if not evaluations:
        raise UserError(where, "gate", "has no evaluate stage before it", "add an evaluate stage above")
    if gate.evaluation is not None and gate.evaluation not in evaluations:
        raise UserError(
            f"{where}.evaluation",
            gate.evaluation,
            "is no earlier evaluate stage",
            nearest(gate.evaluation, evaluations),
        )
    models = earlier[gate.evaluation or evaluations[-1]].evaluate
    assert models is not None
    if gate.candidate is not None and gate.candidate not in models.models:
        raise UserError(
            f"{where}.candidate", gate.candidate, "is not evaluated", nearest(gate.candidate, models.models)
        )
    load_policy(gate.policy, f"{where}.policy")


def looks_like_stage(name: str) -> bool:
    """A bare word is a stage; anything with a colon, slash or dot is a model."""
    return not any(c in name for c in ":/.~")


def shape_of(spec: TrainSpec) -> Shape:
    """What a train stage reads of its data: prompts when it samples the answers itself."""
    from kilter.objectives import build_objective

    return "prompts" if spec.prompts is not None else build_objective(spec.method).needs.shape


def data_of(recipe: Recipe, name: str) -> DataSpec:
    """The data set that $name stands for."""
    return recipe.data[name.removeprefix("$")]


def schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors. `data` may be one data set or several by name."""
    full = Recipe.model_json_schema(by_alias=True)
    full["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    full["title"] = "Kilter recipe"
    full["properties"]["data"] = {
        "description": Recipe.model_fields["data"].description,
        "anyOf": [
            {"$ref": "#/$defs/DataSpec"},
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/DataSpec"}},
        ],
    }
    train = full["$defs"]["TrainSpec"]
    train["properties"]["algorithm"] = {
        **train["properties"]["method"],
        "description": "another name for method",
    }
    train["anyOf"] = [{"required": ["method"]}, {"required": ["algorithm"]}]
    train["required"] = [r for r in train.get("required", []) if r != "method"]
    return full


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(
        json.loads(recipe.model_dump_json(by_alias=True)), sort_keys=False, allow_unicode=True
    )


def train_stages(recipe: Recipe) -> Iterator[tuple[str, TrainSpec]]:
    """All train stages in order."""
    for name, stage in recipe.stages.items():
        if stage.train is not None:
            yield name, stage.train
