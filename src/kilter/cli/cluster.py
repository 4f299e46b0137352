"""kilter cluster plan: what a training on a cluster takes, without a cluster."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kilter.cli.app import ClusterOption, SetOption, command, commands, out
from kilter.errors import UserError
from kilter.screen import many

if TYPE_CHECKING:
    from kilter.launch.plan import Machines, Plan
    from kilter.models.sizes import Sizes
    from kilter.recipe import Recipe
    from kilter.training.config import TrainSpec

cluster_app = commands(
    "cluster",
    help="Plan trainings whose roles run on a cluster.",
    examples=["kilter cluster plan recipes/cluster-7b.yaml"],
)


@command(
    "plan",
    to=cluster_app,
    examples=[
        "kilter cluster plan recipes/cluster-7b.yaml",
        "kilter cluster plan recipes/cluster-70b.yaml --gpus 256 --json",
        "kilter cluster plan my.yaml --cluster cluster.yaml",
        "kilter cluster plan my.yaml --parameters 13e9 --set stages.grpo.train.cluster.lookahead=2",
    ],
)
def plan(
    recipe: Annotated[Path, typer.Argument(help="a recipe (YAML) whose train stages have `cluster`")],
    set_: SetOption = None,
    cluster: ClusterOption = None,
    parameters: Annotated[
        float | None, typer.Option(help="parameters of the model, such as 70e9, where it is not on disk")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="the model's config.json, where it is not on disk", metavar="FILE")
    ] = None,
    answer_tokens: Annotated[
        float | None, typer.Option(help="mean tokens of an answer; default: half of the longest")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs of the cluster; default: as many as are wanted")
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of a node")] = 8,
    gpu_memory: Annotated[float, typer.Option(help="GB of a GPU")] = 80.0,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Print roles, memory, bytes and seconds of a step, and what would be refused. Starts nothing."""
    from kilter.launch.plan import Machines

    amounts = {"--parameters": parameters, "--answer-tokens": answer_tokens, "--gpu-memory": gpu_memory}
    for option, value in amounts.items():
        if value is not None and not 0 < value < math.inf:
            raise UserError(option, value, "is not a number above 0", "give one, or leave the option out")
    loaded = parsed(recipe, set_ or (), cluster, "recipes/cluster-7b.yaml")
    machines = Machines(gpus, gpus_per_node, gpu_memory * 1e9)
    planned = {n: s.spec for n, s in loaded.stages.items() if getattr(s.spec, "cluster", None) is not None}
    if not planned:
        problem = "has no train stage with `cluster`, and runs on this machine"
        fix = "give --cluster FILE, or use kilter run --dry-run"
        raise UserError("recipe", str(recipe), problem, fix)
    made = {}
    for name, spec in planned.items():
        sizes = _size(loaded, spec, parameters, config)
        made[name] = _plan(name, spec, sizes, _teacher(loaded, spec), machines, answer_tokens)
    if as_json:
        print(json.dumps({name: asdict(p) | {"notes": notes} for name, (p, notes) in made.items()}, indent=1))
    for name, (found, notes) in made.items():
        if not as_json:
            _print(name, found, notes)
        for field, problem, fix in found.refused:
            raise UserError(f"stages.{name}.train.cluster.{field}", "(as it is)", problem, fix)


def parsed(recipe: Path, sets: Sequence[str], cluster: Path | None, example: str) -> Recipe:
    """The recipe, with the keys of `--cluster FILE` in its train stages, not yet checked as a whole.

    Raises:
        UserError: one of the files cannot be read, or the roles in it move in no stage.
    """
    from pydantic import ValidationError

    from kilter.launch.spec import ClusterSpec
    from kilter.recipe import mapping, parse, read
    from kilter.stages.train import on_cluster
    from kilter.validation import as_user_error

    loaded = parse(read(recipe, example, "model:, data: and stages:"), sets)
    if cluster is None:
        return loaded
    raw = mapping(cluster, "--cluster", "cluster.yaml", "rollout: {place: apart}")
    try:
        wanted = ClusterSpec.model_validate(raw)
    except ValidationError as error:
        raise as_user_error(error, "cluster", ClusterSpec) from error
    return replace(loaded, stages=on_cluster(loaded.stages, wanted))


def _size(
    recipe: Recipe, spec: TrainSpec, parameters: float | None, config: Path | None
) -> tuple[Sizes, str]:
    """(sizes of the policy, where they are from)."""
    from kilter.models.sizes import counted, guessed, sizes_of

    if parameters is not None:
        return guessed(parameters), "--parameters"
    if config is not None:
        from kilter.recipe import mapping

        found = counted(mapping(config, "--config", "config.json", "what transformers wrote"))
        if found is None:
            raise UserError("--config", str(config), "is of a family that nobody counts", "give --parameters")
        return found, str(config)
    model = recipe.model if spec.start is None or spec.start in recipe.stages else spec.start
    known = sizes_of(model)
    if known is None:
        raise UserError("model", model, "has a size that nobody knows here", "give --parameters, such as 7e9")
    return known


def _teacher(recipe: Recipe, spec: TrainSpec) -> tuple[Sizes, str] | None:
    """(sizes of the teacher, where they are from); None where nobody knows them here."""
    from kilter.models.sizes import sizes_of

    return None if spec.teacher is None or spec.teacher in recipe.stages else sizes_of(spec.teacher)


def _plan(
    name: str,
    spec: TrainSpec,
    sizes: tuple[Sizes, str],
    teacher: tuple[Sizes, str] | None,
    machines: Machines,
    answer: float | None,
) -> tuple[Plan, list[str]]:
    """The plan of a stage, and what its numbers rest on. Raises UserError."""
    from kilter.launch.plan import make
    from kilter.launch.refusals import check_cluster
    from kilter.objectives import index
    from kilter.training.placing import facts, work

    needs = index.brief(spec.method)
    assert spec.cluster is not None
    known = facts(spec, needs, f"stages.{name}.train.", machines.gpus)
    check_cluster(spec.cluster, replace(known, heads=sizes[0].heads))
    (size, source), tutor = sizes, None if teacher is None else teacher[0]
    step = work(spec, needs, size, answer, tutor)
    if answer is not None and step.longest and answer > step.longest:
        problem = f"is more than the longest answer has, which is sampler.max_new_tokens = {step.longest:g}"
        raise UserError("--answer-tokens", answer, problem, "give the mean over all answers")
    made = make(spec.cluster, step, machines)
    notes = [
        f"cluster: {sum(n * gpus for _, n, gpus in made.roles.values())} GPUs of "
        f"{machines.memory / 1e9:.0f} GB, {machines.per_node} a node",
        f"model: {size.parameters / 1e9:.3g}e9 parameters, by {source}",
        f"a step: {many(step.prompts, 'prompts')}, {step.tokens / 1e6:.3g} million tokens, "
        f"prompts of {step.prompt:.0f} and answers of {step.answer:.0f} on average",
    ]
    if step.shard > 1 and step.opened < step.trained:
        notes.append("taken to be plain weights, which one rank opens for all: the policy")
    if teacher is not None:
        notes.append(f"teacher: {teacher[0].parameters / 1e9:.3g}e9 parameters, by {teacher[1]}")
    # Nobody has opened them: what a stage makes may be of any size.
    if others := sorted(step.frozen.keys() - {"teacher" if teacher is not None else ""}):
        notes.append(f"taken to be of the policy's size: {', '.join(others)}")
    return made, notes


def _print(name: str, plan: Plan, notes: list[str]) -> None:
    """The plan as tables."""
    out.print(f"{name}\n" + "\n".join(f"  {note}" for note in notes) + "\n", soft_wrap=True)
    rows = [
        [role, place, str(workers), f"{workers} x {{GPU: {gpus}}}" if gpus else "the learner's GPUs"]
        for role, (place, workers, gpus) in plan.roles.items()
    ]
    _table(["role", "place", "workers", "bundles"], rows)
    peaks = [
        [
            peak,
            f"{sum(parts.values()) / 1e9:.1f}",
            ", ".join(f"{k} {v / 1e9:.1f}" for k, v in parts.items() if v),
        ]
        for peak, parts in plan.memory.items()
    ]
    _table(["peak", "GB of a GPU", "of which"], peaks)
    traffic = [[kind, _bytes(moved), f"{seconds:.2f}"] for kind, (moved, seconds) in plan.traffic.items()]
    _table(["bytes of a step", "bytes", "seconds"], traffic)
    parts = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in plan.seconds.items())
    out.print(f"a step: {parts}\n", soft_wrap=True)
    _table(["lookahead", "seconds of a step"], [[str(k), f"{s:.1f}"] for k, s in plan.steps.items()])
    if "sampling" in plan.seconds and len(plan.steps) == 1:
        fix = "rollout: {place: apart} gives them GPUs of their own"
        out.print(f"no batch runs ahead: the engines share the learner's GPUs. {fix}", soft_wrap=True)
    if plan.advice:
        out.print(f"use lookahead {plan.advice}: {plan.why}", soft_wrap=True)


def _table(head: list[str], rows: list[list[str]]) -> None:
    """Prints a table and an empty line."""
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    out.print()


def _bytes(count: float) -> str:
    """In the unit that leaves one to three digits before the point."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
