"""The Python door: `kilter.train(...)`, the same as `kilter train`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter import manifest as manifests
from kilter import recipe as recipes
from kilter.artifacts import lock, write_text
from kilter.data.dataset import DataSpec, load, prompt_key, trained_prompts
from kilter.errors import Exit, UserError
from kilter.objectives import method_name
from kilter.objectives.index import check as check_method
from kilter.pipeline.runner import Run
from kilter.training.config import TrainSpec
from kilter.training.result import TrainResult
from kilter.types import Shape
from kilter.validation import as_user_error


def make_data_spec(data: str | DataSpec | dict[str, Any]) -> DataSpec:
    """A DataSpec from a path, a Hub name or the fields of one."""
    from pydantic import ValidationError

    if isinstance(data, DataSpec):
        return data
    try:
        return DataSpec.model_validate({"path": data} if isinstance(data, str) else data)
    except ValidationError as error:
        raise as_user_error(error, "data", DataSpec) from error


def make_train_spec(method: str | dict[str, Any], options: dict[str, Any]) -> TrainSpec:
    """A TrainSpec from a method and the fields of a train stage."""
    from pydantic import ValidationError

    try:
        return TrainSpec.model_validate({"method": method} | options)
    except ValidationError as error:
        raise as_user_error(error, "", TrainSpec) from error


def train(
    model: str,
    data: str | DataSpec | dict[str, Any],
    method: str | dict[str, Any],
    out: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> TrainResult:
    """Trains one stage: kilter.train(model="builtin:smollm2-135m", data="pairs.jsonl", method="dpo").

    model: builtin:NAME, folder, .gguf or Hub id. data: file, Hub name, or fields of DataSpec. method: name or
    {"name": "dpo", "beta": 0.05}; with feedback= the data's prompts are answered by the policy and scored. out: folder of the result (default runs/<method>); run again to resume. options: any
    field of a train stage (learning_rate, epochs, adapter, ...). Raises UserError on bad input before any work.
    """
    spec, source = make_train_spec(method, options), make_data_spec(data)
    if spec.feedback is not None and spec.prompts is None:
        spec = spec.model_copy(update={"prompts": "$data"})
    check_method(spec.method)
    from kilter.training.checks import check_train  # reads torch

    check_train(spec)

    name = method_name(spec.method)
    folder = Path(out) if out is not None else Path("runs") / re.sub(r"[^\w+.-]", "-", name)
    with lock(folder):
        return _train(spec, source, model, name, folder, console)


def _train(
    spec: TrainSpec, source: DataSpec, model: str, name: str, folder: Path, console: Console | None
) -> TrainResult:
    """One stage in a folder that is this process's own."""
    # torch is read only now: what is wrong so far was said at once
    from kilter.models.load import model_hash, resolve
    from kilter.objectives import build_objective
    from kilter.training.parallel import launch
    from kilter.training.trainer import Trainer

    if (folder / "model" / "config.json").exists() or (folder / "model" / "adapter_config.json").exists():
        raise UserError("out", str(folder), "holds a finished model", "choose another folder, or remove it")
    start = resolve(model)
    reference = resolve(spec.reference, "reference") if spec.reference else None
    shape: Shape = "prompts" if spec.prompts is not None else build_objective(spec.method).needs.shape
    loaded = load(source, shape)
    seen = {prompt_key(g.prompt)[:16] for g in loaded.train} | trained_prompts(start)
    entry = manifests.new(
        name,
        "train",
        spec.model_dump(mode="json", by_alias=True),
        {"model": model_hash(start), "data": loaded.content_hash()},
    )
    is_main = int(os.environ.get("RANK", "0")) == 0
    with manifests.life(folder, entry) if is_main else contextlib.nullcontext(entry):
        if is_main:
            if loaded.skipped and console is not None:
                console.print(f"  data: left out: {loaded.left_out()}", highlight=False)
            write_text(folder / "trained_prompts.txt", "\n".join(sorted(seen)) + "\n")
        trainer = Trainer(spec, start, loaded.train, loaded.heldout, folder, reference, console, name)
        result = launch.train(trainer)
        entry.outputs = {"model": model_hash(result.model)} if is_main else {}
        entry.facts = {
            "metrics": result.metrics,
            "heldout": result.heldout,
            "steps": result.steps,
            "stopped": result.stopped,
            "best_step": result.best_step,
        }
    return result


def run(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    runs: str | Path = "runs",
    console: Console | None = None,
) -> Exit:
    """kilter.run("recipes/quickstart.yaml"): all stages into runs/<name>/. Returns the exit code, the gate's included."""
    loaded = recipes.load(recipe, overrides)
    return Run(loaded, Path(runs) / loaded.name, console or Console()).execute()
