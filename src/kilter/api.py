"""The Python doors: each is a recipe of one stage, and takes every field of that stage."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kilter import recipe as recipes
from kilter import stages
from kilter.data import memory
from kilter.data.dataset import DataSpec
from kilter.errors import Exit, UserError
from kilter.objectives import method_name
from kilter.pipeline.alone import run_alone, workspace
from kilter.pipeline.plan import plan_alone
from kilter.pipeline.runner import Run
from kilter.screen import screen_of
from kilter.training.result import TrainResult
from kilter.validation import as_user_error

if TYPE_CHECKING:
    from kilter.release.export import Exported

BASE = "builtin:smollm2-135m"
"""The model of a stage that names none."""


Data = str | Path | DataSpec | Mapping[str, Any] | Sequence[Any] | Any
"""What the doors take as data: see `make_data_spec`."""


def make_data_spec(data: Data, heldout: float | None = None) -> DataSpec:
    """A DataSpec from whatever a caller has.

    Args:
        data: a path, a Hub name, the fields of a DataSpec, a mixture (a list of those), or the rows
            themselves: mappings without `path`, a datasets.Dataset, the `train` split of a DatasetDict, a
            pandas.DataFrame. The `path` among the fields, or of a part, may be such an object as well.
        heldout: share of the prompts that is held out where the data does not say it itself.
    """
    from pydantic import ValidationError

    if isinstance(data, DataSpec):
        return data
    fields = {} if heldout is None else {"heldout": heldout}
    if isinstance(data, str | Path):
        given: Any = {"path": str(data)} | fields
    elif isinstance(data, Mapping) and not memory.is_object(data):
        given = _located(data)
    elif isinstance(data, list) and data and all(_is_source(item) for item in data):
        given = {"parts": [_located(item) if isinstance(item, Mapping) else item for item in data]} | fields
    else:
        given = {"path": memory.keep(data)} | fields
    if isinstance(given.get("path"), list):
        given = {"parts": given.pop("path")} | given
    try:
        return DataSpec.model_validate(given)
    except ValidationError as error:
        raise as_user_error(error, "data", DataSpec) from error


def _located(source: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a source whose `path`, or whose parts' path, may be rows."""
    path, parts = source.get("path"), source.get("parts")
    rows = isinstance(path, list | tuple) and path and not any(_is_source(item) for item in path)
    if memory.is_object(path) or rows:
        return {**source, "path": memory.keep(path, "data", source.get("split"))}
    for name, found in (("path", path), ("parts", parts)):
        if isinstance(found, list):
            return {**source, name: [_located(p) if isinstance(p, Mapping) else p for p in found]}
    return dict(source)


def _is_source(item: Any) -> bool:
    """Whether an item of a list names a source, and is not a row."""
    return isinstance(item, str | Path) or (isinstance(item, Mapping) and "path" in item)


def _named(feedback: Any) -> Any:
    """Feedback with every function of the caller's as a name."""
    from kilter.feedback.named import named

    return named(feedback)


def _model(model: Any, tokenizer: Any = None) -> str:
    """A model by its name or folder; one that is an object is written down first."""
    if isinstance(model, str | Path):
        return str(model)
    from kilter.models.object import as_folder

    return str(as_folder(model, tokenizer))


def train(
    model: Any,
    data: Data,
    method: str | dict[str, Any],
    out: str | Path | None = None,
    console: Console | None = None,
    tokenizer: Any = None,
    **options: Any,
) -> TrainResult:
    """Trains one stage: kilter.train(model="builtin:smollm2-135m", data="pairs.jsonl", method="dpo").

    Args:
        model: builtin:NAME, a folder, a .gguf file, a Hub id, or a transformers model.
        data: a file, a Hub name, rows, or whatever else `make_data_spec` takes. With feedback=, which may be
            a function, the policy answers its prompts.
        method: a name, or {"name": "dpo", "beta": 0.05}.
        out: folder of the result; default: runs/<method>. The same call resumes, or returns what is there.
        console: where progress goes; default: stderr.
        tokenizer: of a model that is an object; default: that of the name it was loaded from.
        options: any field of a train stage, such as learning_rate, epochs or adapter; reference and teacher
            may be models as well.

    Raises:
        UserError: on bad input, before any work.
    """
    work = training(model, data, method, out, console, tokenizer, **options)
    folder, facts = work.folder, run_alone(work)
    return TrainResult(
        folder / "model",
        facts["steps"],
        facts["metrics"],
        facts["heldout"],
        Counter(facts["cut"]),
        facts["seconds"],
        facts["stopped"],
        facts["best_step"],
        facts["tokens_per_second"],
        facts["step_seconds"],
        facts["peak_memory_gb"],
    )


def training(
    model: Any,
    data: Data,
    method: str | dict[str, Any],
    out: str | Path | None = None,
    console: Console | None = None,
    tokenizer: Any = None,
    **options: Any,
) -> stages.Workspace:
    """The stage that `train` runs, before anything of it is checked or begun; it takes the same."""
    if options.get("feedback") is not None:
        options = {"prompts": "$data"} | options | {"feedback": _named(options["feedback"])}
    for role in ("reference", "teacher"):
        if options.get(role) is not None:
            options |= {role: _model(options[role], tokenizer)}
    stage = stages.make("train", {"method": method} | options)
    name = method_name(stage.spec.method)
    folder = Path(out) if out is not None else Path("runs") / re.sub(r"[^\w+.-]", "-", name)
    return workspace(stage, folder, name, _model(model, tokenizer), make_data_spec(data), console)


def evaluate(
    models: Any,
    data: Data,
    out: str | Path = "runs/eval",
    console: Console | None = None,
    tokenizer: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates models on the same prompts: kilter.evaluate("runs/dpo", "pairs.jsonl", baseline="runs/sft").

    Args:
        models: one model, several, or {name: model}; NAME=MODEL gives a name as well. A folder bears its own
            name, a transformers model that of the place where it was loaded from. Without any model,
            `reward_model` is tested alone on the data's pairs.
        data: a file, a Hub name, or fields of DataSpec. All its prompts are asked, unless it holds some out.
        out: folder of evaluation.json and groups.jsonl.
        console: where progress goes; default: stderr.
        tokenizer: of models that are objects; default: that of the name they were loaded from.
        options: any field of an evaluate stage, such as baseline, reward_model, metrics or limit. Further
            data sets, such as probes, are given by their paths.

    Returns:
        What evaluation.json holds.

    Raises:
        UserError: on bad input, before any work.
    """
    source = make_data_spec(data, heldout=0.0)
    listed = [] if models is None else models
    if listed and (baseline := options.get("baseline")) is not None and not isinstance(listed, Mapping):
        others = listed if isinstance(listed, list | tuple) else [listed]
        known = names_of(others, tokenizer)
        # A folder of that name would be another model: it is taken, and refused if the names are alike.
        if isinstance(baseline, str) and baseline in known and not Path(baseline).exists():
            listed = {baseline: known[baseline]} | known
        else:
            listed = [baseline, *(m for m in others if m is not baseline and m != baseline)]
            options |= {"baseline": next(iter(names_of(baseline, tokenizer)))}
    named = names_of(listed, tokenizer)
    if (judge := options.get("reward_model")) is not None:
        options |= {"reward_model": names_of(judge, tokenizer)}
    settings = {"models": named, "split": "heldout" if source.heldout else "all"} | options
    work = workspace(stages.make("evaluate", settings), Path(out), "eval", BASE, source, console)
    run_alone(work)
    found: dict[str, Any] = json.loads((Path(out) / "evaluation.json").read_text())
    return found


@dataclass(frozen=True, slots=True)
class Made:
    """Data that a stage made: groups.jsonl, and the counts and numbers of its manifest."""

    path: Path
    facts: Mapping[str, Any]


def generate(
    model: Any,
    data: Data,
    out: str | Path = "runs/generate",
    console: Console | None = None,
    **options: Any,
) -> Made:
    """A model answers prompts: kilter.generate("runs/sft", "prompts.jsonl", k=4, seed=1).

    Args:
        model: builtin:NAME, a folder, a .gguf file or a Hub id.
        data: a file, a Hub name, or fields of DataSpec. All its prompts are asked, unless it holds some out.
        out: folder of groups.jsonl. The same call again goes on where it was, or returns what is there.
        console: where progress goes; default: stderr.
        options: any field of a generate stage, such as k, sampler, seed or limit.

    Raises:
        UserError: on bad input, before any work.
    """
    return made("generate", options, _model(model), data, out, console)


def label(
    data: Data,
    feedback: Any,
    out: str | Path = "runs/label",
    console: Console | None = None,
    **options: Any,
) -> Made:
    """Scores answers and writes what methods learn from: kilter.label("runs/generate/groups.jsonl", "math").

    Args:
        data: a groups.jsonl with answers, any other preference data, or fields of DataSpec.
        feedback: who scores: a name, {"reward_model": "runs/rm"}, my_file.py:reward, or a weighted list.
        out: folder of groups.jsonl. The same call again goes on where it was, or returns what is there.
        console: where progress goes; default: stderr.
        options: any field of a label stage, such as write, pairs or threshold.

    Raises:
        UserError: on bad input, before any work.
    """
    return made("label", {"feedback": _named(feedback)} | options, BASE, data, out, console)


def made(
    kind: str,
    settings: dict[str, Any],
    model: str,
    data: Data,
    out: str | Path,
    console: Console | None = None,
    name: str = "",
) -> Made:
    """What `generate` and `label` share: a stage of this kind, which makes data from `$data`.

    name: what the stage is called; default: its kind.
    """
    source = make_data_spec(data, heldout=0.0)
    folder = Path(out)
    stage = stages.make(kind, settings)
    facts = run_alone(workspace(stage, folder, name or kind, model, source, console))
    return Made(folder / "groups.jsonl", facts)


def planned(kind: str, settings: dict[str, Any], model: str, data: Data, out: str | Path) -> stages.StagePlan:
    """What `made` would take; checks the settings and opens what they name, and runs nothing."""
    stage = stages.make(kind, settings)
    (found,) = plan_alone(workspace(stage, Path(out), kind, model, make_data_spec(data, heldout=0.0)))
    return found


def export(
    model: str | Path,
    to: str | Path,
    stage: str = "",
    merge: bool = False,
    untie: bool = False,
    dtype: str | None = None,
    push: str | None = None,
    public: bool = False,
) -> Exported:
    """A folder for transformers, vLLM and TRL: kilter.export("runs/my-dpo", "served", merge=True).

    Args:
        model: a run's folder, an adapter's, or any model.
        to: folder that becomes an ordinary Hugging Face model with card and gate verdict; must not exist.
        stage: of the run; default: the gate's candidate, else the last stage that made a model.
        merge: folds an adapter into its base.
        untie: gives the output head weights of its own.
        dtype: float32, bfloat16 or float16; default: as the weights are.
        push: OWNER/NAME on the Hub.
        public: whether a new repository on the Hub can be read by everybody.

    Raises:
        UserError: on bad input, before any work.
    """
    from kilter.release import export as exports
    from kilter.release.source import find

    options = exports.Options(merge, untie, exports.known_dtype(dtype), push)
    source, target = find(str(model), stage), Path(to)
    exports.check(source, target, options)
    exports.write(source, target, options)
    address = exports.push(target, push, public) if push is not None else ""
    return exports.Exported(target, source, options, address)


def names_of(models: Any, tokenizer: Any = None) -> dict[str, str]:
    """Models by name. NAME=MODEL names one; a folder, or the stage's folder around it, bears its own name.

    tokenizer: of models that are objects.
    """
    if isinstance(models, Mapping):
        return {name: _model(model, tokenizer) for name, model in models.items()}
    found: dict[str, str] = {}
    for item in models if isinstance(models, list | tuple) else [models]:
        name, model = _name_and_model(item, tokenizer)
        if not name or not model:
            raise UserError(
                "models", str(item), "lacks a name or a model", "write NAME=MODEL, or a folder alone"
            )
        if name in found:
            fix = "write NAME=MODEL, or give {name: model}"
            raise UserError("models", name, "names two models alike", fix)
        found[name] = model
    return found


def _name_and_model(item: Any, tokenizer: Any) -> tuple[str, str]:
    """What a model is called, and its folder or name."""
    model = _model(item, tokenizer)
    if isinstance(item, str):
        name, sign, rest = item.partition("=")
        if sign:
            return name, rest
    # An object is called after the place where it was loaded from.
    path = Path(item if isinstance(item, str | Path) else item.name_or_path)
    return (path.parent.name if path.name == "model" else path.name) or model, model


def run(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    runs: str | Path = "runs",
    console: Console | None = None,
) -> Exit:
    """Runs a recipe into runs/<name>/ and returns the exit code: kilter.run("recipes/quickstart.yaml")."""
    loaded = recipes.load(recipe, overrides)
    return Run(loaded, Path(runs) / loaded.name, screen_of(console, stderr=False)).execute()
