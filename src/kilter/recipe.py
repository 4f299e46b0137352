"""A recipe: model, data, stages. Strict: an unknown key is an error that names the nearest valid one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.json_schema import models_json_schema
from rich.console import Console

from kilter import stages
from kilter.data.dataset import DataSpec
from kilter.errors import UserError, nearest
from kilter.redaction import redacted
from kilter.refs import Found, looks_like_stage
from kilter.stages import Stage, Workspace, rounds
from kilter.stages.idle import refuse_idle_data
from kilter.stages.refs import replaced
from kilter.validation import as_user_error, load_yaml, require_name


class Head(BaseModel):
    """What a recipe holds beside its stages."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: str = Field("run", description="folder under runs/; default: the recipe's file name")
    model: str = Field(
        "builtin:smollm2-135m", description="base model: builtin:NAME, a folder, a .gguf file, or a Hub id"
    )
    data: dict[str, DataSpec] = Field(
        description="one data set (path: ...), or several by name, used as $name"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_data_set(cls, value: Any) -> Any:
        if (
            isinstance(value, dict)
            and isinstance(value.get("data"), dict | list)
            and _is_one_data_set(value["data"])
        ):
            value = value | {"data": {"data": value["data"]}}
        return value


def _is_one_data_set(data: Any) -> bool:
    """Whether `data` is one data set, a mixture included, and not several by name."""
    if isinstance(data, list) or "path" in data or "parts" in data:
        return True
    return not all(isinstance(v, dict | list) for k, v in data.items() if k != "world")


@dataclass(frozen=True)
class Recipe:
    """The whole run: stages by name, run in this order."""

    name: str
    model: str
    data: Mapping[str, DataSpec]
    stages: Mapping[str, Stage]

    def workspace(self, folder: Path, console: Console, **options: Any) -> Workspace:
        """The run's folder, data sets and stages, as a stage needs them."""
        return Workspace(folder, console, self.model, self.data, self.stages, **options)


KEYS = (*Head.model_fields, "stages")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and checks a recipe. Raises UserError with field, value and fix."""
    return build(read(Path(path), "recipes/quickstart.yaml", "model:, data: and stages:"), overrides)


def read(path: Path, example: str, keys: str) -> dict[str, Any]:
    """The mapping in a YAML file, named after the file where it has no name. Raises UserError."""
    raw = mapping(path, "recipe", example, keys)
    raw.setdefault("name", path.stem)
    return raw


def mapping(path: Path, field: str, example: str, keys: str) -> dict[str, Any]:
    """The mapping in a YAML file that `field` names. Raises UserError."""
    if not path.is_file():
        raise UserError(field, str(path), "names no file", f"give a YAML file, such as {example}")
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            field,
            str(path),
            f"is not YAML ({' '.join(str(error).split())[:160]})",
            "check indentation, colons and repeated keys",
        ) from error
    if not isinstance(raw, dict):
        raise UserError(field, str(path), "is not a mapping", f"write {keys}")
    return raw


def build(raw: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe from plain data."""
    recipe = parse(raw, overrides)
    check(recipe)
    return recipe


def parse(raw: dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from plain data, every value of the right kind; whether they go together is not looked at."""
    for item in overrides:
        override(raw, item)
    _check_top(raw)
    try:
        head = Head.model_validate({k: v for k, v in raw.items() if k != "stages"})
    except ValidationError as error:
        raise _head_error(error, raw) from error
    require_name("name", head.name)
    if not raw["stages"]:
        raise UserError("stages", raw["stages"], "is empty", "add stages: {sft: {train: {method: sft}}}")
    found, names = _stages(raw["stages"], head.model)
    data = {n: _led(spec, names) for n, spec in head.data.items()}
    return Recipe(head.name, head.model, data, found)


def _stages(raw: Mapping[Any, Any], base: str) -> tuple[dict[str, Stage], dict[str, str]]:
    """Every stage by name, and what the names of blocks of rounds mean; the blocks are written out."""
    found: dict[str, Stage] = {}
    names: dict[str, str] = {}
    for name, value in raw.items():
        # YAML reads the bare words yes, no, on and off as truth values, and ~ as nothing.
        if name is None or isinstance(name, bool):
            raise UserError("stages", name, "is not a name but a value of YAML's own", "put it in quotes")
        require_name("stages", str(name))
        if isinstance(value, dict) and rounds.KEY in value:
            made, ends = rounds.expand(str(name), _block(value, names), base)
            names |= ends
        else:
            made = {str(name): _stage(str(name), value, names)}
        if twice := found.keys() & made.keys():
            raise UserError("stages", min(twice), "names two stages", "choose another name")
        found |= made
    return found, names


def _stage(name: str, raw: Any, names: Mapping[str, str]) -> Stage:
    if not isinstance(raw, dict) or len(raw) != 1:
        raise UserError(
            f"stages.{name}",
            raw,
            "needs exactly one kind",
            f"write {name}: {{train: {{...}}}}; kinds: {', '.join(stages.kinds.names())}",
        )
    kind, settings = next(iter(raw.items()))
    stage = stages.make(str(kind), settings, f"stages.{name}")
    return replace(stage, spec=replaced(stage.spec, lambda item: _meant(item.value, names)))


def _meant(value: Any, names: Mapping[str, str]) -> Any:
    """A name of a block of rounds as the stage that it means."""
    if not isinstance(value, str):
        return value
    dollar, name = ("$", value[1:]) if value.startswith("$") else ("", value)
    return dollar + names[name] if name in names else value


def _led(spec: DataSpec, names: Mapping[str, str]) -> DataSpec:
    """A data set whose sources may be what the last round of a block made."""
    parts = [p.model_copy(update={"path": _meant(p.path, names)}) for p in spec.parts]
    return spec.model_copy(update={"path": _meant(spec.path, names), "parts": parts})


def _block(raw: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A block that may start from the end of an earlier one."""
    return raw | ({"start": _meant(raw["start"], names)} if "start" in raw else {})


def _stage_with(key: Any, raw: Any) -> str:
    """Where a key belongs that stands beside the stages, as one that `--set` names without its stage."""
    for name, stage in raw.items() if isinstance(raw, dict) else ():
        for kind in stage if isinstance(stage, dict) else ():
            fields = stages.kind_of(kind).Spec.model_fields if kind in stages.kinds.names() else {}
            if any(key in (field, of.alias) for field, of in fields.items()):
                return f"stages.{name}.{kind}.{key}"
    return ""


def _check_top(raw: dict[str, Any]) -> None:
    if "methods" in raw and "stages" not in raw:
        raise UserError(
            "recipe",
            sorted(raw),
            "is a comparison of methods, not a recipe of stages",
            "run it with: kilter compare FILE",
        )
    for key in raw:
        if key not in KEYS:
            owner = _stage_with(key, raw.get("stages"))
            fix = f"write {owner}: it is a key of a stage" if owner else nearest(key, KEYS)
            raise UserError(key, raw[key], "is not a known key", fix)
    for key, kinds in (("data", dict | list), ("stages", dict)):
        if not isinstance(raw.get(key), kinds):
            raise UserError(
                key,
                raw.get(key, "(absent)"),
                "is not a mapping" if key in raw else "is required",
                {"data": "add data: {path: FILE}", "stages": "add stages: {sft: {train: {method: sft}}}"}[
                    key
                ],
            )


def _head_error(error: ValidationError, raw: dict[str, Any]) -> UserError:
    location = error.errors()[0]["loc"]

    # The short form: the data set has a name, which the user did not give and the message leaves out.
    if location and location[0] == "data" and _is_one_data_set(raw.get("data", {})):
        return as_user_error(error, "data", DataSpec, skip=2)
    return as_user_error(error, "", Head)


def override(raw: dict[str, Any], item: str) -> None:
    """--set a.b=c; the value is read as YAML. The path is that of a message; 0 is the first of a list."""
    path, sign, text = item.partition("=")
    if not sign or not path:
        raise UserError("--set", item, "is not KEY=VALUE", "write --set stages.dpo.train.learning_rate=1e-5")
    if path.startswith("data."):
        raw["data"], path = _spread(raw.get("data", {}), path)
    node: Any = raw
    keys = _keys(raw, path)
    for number, key in enumerate(keys[:-1]):
        if isinstance(node, dict) and key not in node and node is raw.get("stages"):
            raise UserError(
                "--set",
                item,
                f"names {key!r}, which is not a stage",
                nearest(
                    key,
                    [str(k) for k in raw["stages"]],
                    none=f"set the stage as a whole first: --set 'stages.{key}={{train: {{method: sft}}}}'",
                ),
            )
        place = _place(node, key, item)
        if isinstance(node, dict):
            node.setdefault(key, {})
        if isinstance(node[place], str):
            node[place] = _spelt_out(node[place], keys[: number + 1], keys[number + 1])
        # An option that is off, as a resolved recipe writes it.
        node[place] = {} if node[place] is None else node[place]
        node = node[place]
    node[_place(node, keys[-1], item)] = scalar(text)


SHORT = {"method": "name", "algorithm": "name", "adapter": "kind"}
"""Settings that may be one word, and the key that the word stands for."""


def _spelt_out(word: str, keys: Sequence[str], below: str) -> Any:
    """A setting that is one word as the mapping that the word stands for, where it stands for one.

    Args:
        word: what the setting is.
        keys: the path to it.
        below: the key that is asked for in it.
    """
    if keys[-1] in SHORT:
        return {SHORT[keys[-1]]: word}
    # A source of feedback without options, or with its first one alone: math, {reward_model: rm}.
    sources = [n for n, key in enumerate(keys) if key in ("feedback", "gold")]
    if not sources:
        return word
    return {word: {}} if word == below else {"": word} if sources[0] < len(keys) - 1 else word


def _place(node: Any, key: str, item: str) -> Any:
    """Where a key stands in a mapping, or a number in a list. Raises UserError."""
    if isinstance(node, dict):
        return key
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return int(key)
    what = (
        "a place that the list has not"
        if isinstance(node, list)
        else "a key of a value that is not a mapping"
    )
    raise UserError("--set", item, f"sets {what}", "check the path")


def _spread(data: Any, path: str) -> tuple[Any, str]:
    """The data of a recipe with every mixture as its parts, and the path of a setting in it."""
    if not isinstance(data, dict | list):
        return data, path
    if isinstance(data, list) or _is_one_data_set(data):
        return _parts(data), path
    # One of several that is called `data` has the names of one that stands alone.
    inner = path.removeprefix("data.").partition(".")[0]
    if inner in DataSpec.model_fields and inner not in data and "data" in data:
        path = f"data.{path}"
    return {name: _parts(one) for name, one in data.items()}, path


def _parts(data: Any) -> Any:
    """A data set that lists its sources, with the list under `parts` and each source as a mapping."""
    if isinstance(data, list):
        data = {"parts": data}
    if isinstance(data, dict) and isinstance(data.get("path"), list):
        data = {"parts": data["path"]} | {k: v for k, v in data.items() if k != "path"}
    if isinstance(data, dict) and isinstance(data.get("parts"), list):
        data = data | {"parts": [{"path": p} if isinstance(p, str) else p for p in data["parts"]]}
    return data


def _keys(node: Any, path: str) -> list[str]:
    """The path cut at its dots. A key that holds dots, such as my_file.py:MyStage, stays whole."""
    found = []
    while path:
        inner = node if isinstance(node, dict) else [node] if isinstance(node, str) else []
        known = [str(k) for k in inner if f"{path}.".startswith(f"{k}.")]
        key = max(known, key=len, default=path.partition(".")[0])
        if isinstance(node, list):
            node = node[int(key)] if key.isdecimal() and int(key) < len(node) else None
        else:
            node = node.get(key) if isinstance(node, dict) else None
        found.append(key)
        path = path[len(key) + 1 :]
    return found


def scalar(text: str, field: str = "--set") -> Any:
    """A YAML value that was typed; 1e-5 is a number here (YAML 1.1 reads it as text).

    Args:
        text: what was typed.
        field: the option that it was typed behind, for messages.
    """
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None)
        raise UserError(
            field,
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


def check(recipe: Recipe) -> None:
    """Every data set and stage that is named must exist, and earlier. A stage's settings must go together."""
    run = recipe.workspace(Path("runs") / recipe.name, Console(quiet=True))

    # What is misspelt is said before anything heavy is read: names first, then references.
    for name, stage in recipe.stages.items():
        with run.at(name).naming():
            stage.maker.check_names(stage.spec, run.at(name))
    for name, stage in recipe.stages.items():
        work = run.at(name)
        for item in stage.maker.reads(stage.spec):
            _CHECKS[item.ref.to](item, work)
    for name, stage in recipe.stages.items():
        with run.at(name).naming():
            stage.maker.check(stage.spec, run.at(name))
    refuse_idle_data(run)


def _check_data(item: Found, work: Workspace) -> None:
    if item.value is None:
        return
    spec = work.data_sets.get(item.value.removeprefix("$"))
    if spec is not None:
        # A data set may be what stages make, with a split or a rule for pairs of its own.
        for name in work.made_by(item.value):
            if name in work.data_sets:
                fix = f"give the path of {name} there, or name a stage that makes data"
                raise UserError(work.data_field(item.value), f"${name}", "is a data set itself", fix)
            _check_stage(replace(item, value=f"${name}"), work, "data", "no such stage")
        return
    _check_stage(item, work, "data", "names no data set", tuple(work.data_sets))


def _check_model(item: Found, work: Workspace) -> None:
    if item.value is None or not (looks_like_stage(item.value) or item.value in work.stages):
        return
    _check_stage(item, work, "model", "is not an earlier stage")


def _check_named_stage(item: Found, work: Workspace) -> None:
    if item.value is not None:
        _check_stage(
            item, work, item.ref.makes, f"is not an earlier {item.ref.makes} stage".replace("  ", " ")
        )
    elif item.ref.default == "last" and not work.earlier(item.ref.makes):
        raise UserError(
            work.where(item.field),
            None,
            f"stands for the last stage that makes the {item.ref.makes}, and none is above",
            "add one above this stage",
        )


def _check_stage(item: Found, work: Workspace, makes: str, problem: str, others: Sequence[str] = ()) -> None:
    """The name must be that of an earlier stage that makes such a thing."""
    name = item.value.removeprefix("$")
    known = [*others, *work.earlier(makes)]
    if name in known:
        return
    if name in work.earlier():
        problem = f"makes no {makes}: it is a stage of kind {work.stages[name].kind}"
    elif name in work.stages:
        problem = "comes later in the recipe"
    fix = nearest(name, known) if known else f"add a stage above that makes the {makes or 'input'}"
    raise UserError(work.where(item.field), item.value, problem, fix)


_CHECKS: dict[str, Callable[[Found, Workspace], None]] = {
    "data": _check_data,
    "model": _check_model,
    "stage": _check_named_stage,
    "file": lambda item, work: None,
}
"""By what is named. Files are looked at before a run, not when a recipe is read."""


def schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors. `data` may be one data set or several by name."""
    kinds: dict[str, type[BaseModel]] = {name: kind.Spec for name, kind in stages.kinds}
    models: list[type[BaseModel]] = [Head, rounds.Rounds, *kinds.values()]
    references, shared = models_json_schema([(model, "validation") for model in models], by_alias=True)
    full: dict[str, Any] = shared["$defs"].pop("Head")
    full["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    full["title"] = "Kilter recipe"
    full["properties"]["data"] = {
        "description": Head.model_fields["data"].description,
        "anyOf": [
            {"$ref": "#/$defs/DataSpec"},
            {"type": "array", "items": {"$ref": "#/$defs/Part"}},
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/DataSpec"}},
        ],
    }
    full["properties"]["stages"] = {
        "description": "stages by name, run in this order",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {"$ref": "#/$defs/Stage"},
    }
    full["required"] = ["data", "stages"]

    # Inside rounds a setting may hold {round} instead of its value, so the kinds stand there once more.
    defs = shared["$defs"]
    block = defs.pop("Rounds")
    inside = {}
    for name, spec in kinds.items():
        own = defs[references[spec, "validation"]["$ref"].rpartition("/")[2]]
        inside[name] = own | {"properties": {k: _numbered(v) for k, v in own["properties"].items()}}
    block["properties"]["stages"]["additionalProperties"] = _one_kind(inside)
    outside = {name: references[spec, "validation"] for name, spec in kinds.items()}
    full["$defs"] = {**defs, "Stage": {"anyOf": [_one_kind(outside), block]}}
    return full


def _one_kind(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage has one key, its kind. The settings of file.py:Name are known to that file alone."""
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {name: {"anyOf": [value, {"type": "null"}]} for name, value in settings.items()},
        "patternProperties": {":": {"type": ["object", "null"]}},
        "additionalProperties": False,
    }


def _numbered(value: dict[str, Any]) -> dict[str, Any]:
    """The schema of a setting, or a text with the number of the round."""
    return {"anyOf": [value, {"type": "string", "pattern": r"\{rounds?\}"}]}


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, every setting spelled out."""
    return {
        "name": recipe.name,
        "model": recipe.model,
        "data": {name: spec.model_dump(mode="json", by_alias=True) for name, spec in recipe.data.items()},
        "stages": {
            name: {stage.kind: stage.spec.model_dump(mode="json", by_alias=True)}
            for name, stage in recipe.stages.items()
        },
    }


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, without the secrets in it."""
    return yaml.safe_dump(redacted(plain(recipe)), sort_keys=False, allow_unicode=True)
