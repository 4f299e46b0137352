"""kilter eval and gate."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kilter import chain
from kilter import manifest as manifests
from kilter.cli import complete
from kilter.cli.app import command, err, out
from kilter.cli.doors import READING, out_option, source_options
from kilter.cli.options import collect, options_of, parameter, parameters, takes
from kilter.errors import UserError
from kilter.evaluation.config import EvaluateSpec
from kilter.hashes import file_hash
from kilter.manifest import Manifest
from kilter.recipe import scalar
from kilter.refs import POLICIES
from kilter.screen import styled

OPTIONS = [
    *options_of(EvaluateSpec, skip=("models", "data", "split")),
    *source_options("heldout"),
]
"""Every field of an evaluate stage and its data; `--model` and `--heldout` replace those left out."""

OFTEN = (
    *("model", "baseline", "reward_model", "data", "heldout", "limit", "metric", "metrics", "gold", "judge"),
    "out_",
    *("max_new_tokens", "temperature", "seed"),
)
"""What people set most: it comes first under its heading."""

OWN = [
    parameter(
        "model",
        list[str] | None,
        typer.Option(
            metavar="[NAME=]MODEL",
            help="model to evaluate, repeatable; NAME= gives it a name, otherwise its folder does; "
            "none: --reward-model alone, on the data's pairs",
            rich_help_panel="model",
            autocompletion=complete.models,
        ),
    ),
    parameter(
        "heldout",
        float,
        typer.Option(
            metavar="NUMBER",
            help="share of prompts asked; 1 asks every prompt of the file",
            rich_help_panel="data",
        ),
        default=1.0,
    ),
    parameter(
        "metric",
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="metric beside the standard ones, such as my_file.py:MyMetric or {pass_at_k: {k: 1}}",
            rich_help_panel="method",
        ),
    ),
    out_option(Path("runs/eval"), "folder of evaluation.json and groups.jsonl"),
]


@command(
    "eval",
    examples=[
        "kilter eval --model runs/my-dpo --baseline builtin:smollm2-135m --data pairs.jsonl",
        "kilter eval --model A --model B --reward-model RM --data pairs.jsonl --out runs/eval",
        "kilter eval --reward-model runs/rm --data pairs.jsonl",
        "kilter eval --model A --baseline B --data pairs.jsonl --metric my_file.py:MyMetric",
    ],
)
@takes(*parameters(OPTIONS, own=OWN, first=OFTEN, aliases=READING, defaults={"max_new_tokens": 128}))
def evaluate(**values: Any) -> None:
    """Evaluate models on the same prompts. Metrics have confidence intervals, and differences are paired.

    Writes evaluation.json, which `kilter gate` reads, and the answers.
    """
    share, limit = values["heldout"], values["limit"]
    if not 0 < share <= 1:
        raise UserError("--heldout", share, "is not a share", "use a value in (0, 1]")
    fields = collect(OPTIONS, values)
    source = {"limit": limit} | fields.pop("data") | {"heldout": 0.0 if share == 1 else share}
    if values["metric"]:
        fields["metrics"] = [*fields.get("metrics", ["standard"]), *map(scalar, values["metric"])]
    from kilter.api import evaluate as evaluate_

    result = evaluate_(values["model"] or [], source, values["out_"], err, **fields)
    print_evaluation(result)
    out.print(styled("\nwritten: [bold]{}[/]", values["out_"] / "evaluation.json"))


def print_evaluation(result: dict[str, Any]) -> None:
    """Every metric of every model, paired differences to the baseline, the reward model's accuracy."""
    from kilter.evaluation.metrics import titles

    named, models = titles(result), result["models"]
    if models:
        _print_table("metric", named, {name: entry["metrics"] for name, entry in models.items()}, "")
    differences = {name: entry["difference"] for name, entry in models.items() if entry.get("difference")}
    if differences:
        base = result["baseline"]
        out.print(f"\nDifferences to {base}, paired on the same prompts, with 95 % intervals:")
        _print_table("difference", named, differences, "+")
    _print_corrected(result, named)
    if (judge := result.get("reward_model")) is not None:
        for one in (judge.get("baseline"), judge):
            if one is not None:
                _print_reward_model(one, named)
        if differences := judge.get("difference"):
            base = judge["baseline"]["name"]
            out.print(f"\nDifferences of {judge['name']} to {base}, paired by problem, with 95 % intervals:")
            titled = {key: named.get(f"reward_model.{key}", key) for key in differences}
            _print_table("difference", titled, {judge["name"]: differences}, "+")
    found, unknown = result.get("prompts_found_in_training_data"), result.get("training_data_unknown")
    if unknown:
        names = ", ".join(unknown)
        out.print(f"\nNot counted: whether {names} learned from these prompts, for Kilter did not train it.")
    elif found is None:
        out.print("\nNobody looked whether these prompts were trained on: a gate calls that inconclusive.")
    if found:
        out.print(f"\nBeware: {found} of these prompts were trained on, or chose the weights.")


def _print_reward_model(judge: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """What was measured of one reward model."""
    accuracy = judge["metrics"]["accuracy"]
    out.print(
        f"\nreward model {judge['name']}: right on {_cell(accuracy, '')} of {accuracy['n']} pairs "
        "(share, 95 % interval); chance is 0.5",
    )
    for key, estimate in judge["metrics"].items():
        if key != "accuracy" and (cell := _cell(estimate, "")):
            title = named.get(f"reward_model.{key}", key)
            out.print(f"  {title}: {cell}, n = {estimate['n']}")


def _print_corrected(result: dict[str, Any], named: Mapping[str, str]) -> None:
    """Rates that an instrument with errors counted, without those errors; and how well it reads."""
    for instrument, found in result.get("instruments", {}).items():
        if found is None:
            out.print(f"\n{instrument}: its errors were not measured, so a gate cannot decide on its rates")
            continue
        read = ", ".join(
            f"{what} {found[what]:.3g} [{low:.3g}, {high:.3g}]"
            for what, (low, high) in found["bounds"].items()
        )
        out.print(f"\nRates corrected for {instrument}: {read}", soft_wrap=True)
        columns = {
            model: {
                key: m["corrected"]
                for key, m in entry["metrics"].items()
                if m.get("instrument") == instrument and m["corrected"]
            }
            for model, entry in result["models"].items()
        }
        _print_table("corrected", named, columns, "")


def _print_table(first: str, named: Mapping[str, str], columns: Mapping[str, Any], sign: str) -> None:
    """A row per metric that any model has, a column per model, and the least number of prompts behind it."""
    table = Table(first, *columns, "n", box=None, pad_edge=False)
    keys = dict.fromkeys(key for metrics in columns.values() for key in metrics)
    for key in keys:
        cells = [_cell(metrics.get(key), sign, "not scored") for metrics in columns.values()]
        measured = [metrics[key] for metrics in columns.values() if metrics.get(key)]
        counts = [estimate["n"] for estimate in measured if estimate.get("n") is not None]
        table.add_row(named.get(key, key), *cells, str(min(counts, default="")))
    out.print(table)


def _cell(estimate: Mapping[str, Any] | None, sign: str, unscored: str = "") -> str:
    """A value with its interval; empty where nothing was measured, `unscored` where no answer has a value."""
    if estimate is None or estimate["value"] is None:
        return "" if estimate is None else unscored
    value = f"{estimate['value']:{sign}.3g}"
    if estimate["ci_low"] is None:
        return value
    return f"{value} [{estimate['ci_low']:{sign}.3g}, {estimate['ci_high']:{sign}.3g}]"


@command(
    examples=[
        "kilter gate runs/quickstart/eval --policy gate.yaml",
        "kilter gate runs/quickstart/eval --policy harmless",
        "kilter gate runs/eval/evaluation.json --policy gate.yaml --candidate dpo",
    ]
)
def gate(
    evaluation: Annotated[Path, typer.Argument(help="evaluation.json, or the folder that holds it")],
    policy: Annotated[str, typer.Option(help=f"YAML file with conditions, or one of {', '.join(POLICIES)}")],
    candidate: Annotated[
        str | None, typer.Option(help="model under test; default: the only one that is not the baseline")
    ] = None,
    out_: Annotated[
        Path | None,
        typer.Option(
            "--out", help="folder for gate.json and gate.xml (JUnit); default: beside the evaluation"
        ),
    ] = None,
    allow_means: Annotated[
        bool,
        typer.Option(
            "--allow-means", help="let conditions read means, which say nothing of how sure they are"
        ),
    ] = False,
) -> None:
    """Decide whether a model may ship: 0 pass, 1 fail, 3 inconclusive.

    Input that cannot be read ends with 2, and a machine that fails with 4.
    """
    from kilter.release import gate as gates

    path = evaluation / "evaluation.json" if evaluation.is_dir() else evaluation
    if not path.is_file():
        raise UserError(
            "evaluation", str(path), "names no file", "run `kilter eval` first, or give its folder"
        )
    loaded = gates.read(path)
    links = [*_broken(path), *_broken_exports(loaded)]
    if not links:
        _check_fresh(loaded, path)
    asked = gates.load_policy(policy, "--policy")
    gates.refuse_means(asked, "--policy", allow_means)
    before = _before(path)
    own = manifests.read(path.parent)
    result = gates.decide(
        asked,
        loaded,
        candidate,
        broken=links,
        uncertified=gates.uncertified(before),
        refused=gates.refused(before),
        evaded=gates.evaded(before),
        allow_means=allow_means,
        sources={} if own is None else own.sources,
    )
    folder = out_ or path.parent
    run = chain.root_of(folder)
    written = (folder / "gate.json", folder / "gate.xml")
    with contextlib.nullcontext() if run is None else chain.noting(run, *written):
        gates.write(result, folder)
    for c in result["conditions"]:
        out.print(f"{c['state']:<12} {c['condition']}   {c['why']}")
    for note in result["notes"]:
        out.print(f"note: {note}")
    out.print(styled("verdict: [bold]{}[/] for {}", result["verdict"].upper(), result["candidate"]))
    raise typer.Exit(int(gates.exit_code(result["verdict"])))


def _broken(evaluation: Path) -> list[str]:
    """Links of the evaluation's run that do not hold; the evaluation itself where it lies in no run."""
    from kilter.release import signature

    run = chain.root_of(evaluation.parent)
    if run is not None:
        _, problems = signature.check(run, None)
        return [str(link) for link in [*chain.breaks(run, file_hash), *problems]]
    fix = "evaluate again with `kilter eval`, or import its results with `kilter results import`"
    problem = f"lies in no run with a {chain.CHAIN}, so that nothing says that it was measured"
    return [f"{evaluation} {problem}; {fix}"]


def _broken_exports(evaluation: Mapping[str, Any]) -> list[str]:
    """Files of evaluated models that are not what `kilter export` wrote."""
    from kilter.release import exported
    from kilter.release.subjects import subjects

    folders = {Path(entry["path"]) for entry in subjects(evaluation).values()}
    return [
        str(link)
        for folder in sorted(folders)
        if exported.is_export(folder)
        for link in exported.breaks(folder)
    ]


def _before(evaluation: Path) -> dict[str, Manifest]:
    """Finished stages of the evaluation's run that had begun when it began, itself among them."""
    run = chain.root_of(evaluation.parent)
    own = manifests.read(evaluation.parent)
    if run is None or own is None:
        return {}
    entries = {name: manifests.read(run / name) for name in chain.stages_below(run)}
    known = {name: entry for name, entry in entries.items() if entry is not None and entry.status == "done"}
    return {name: entry for name, entry in known.items() if entry.started <= own.started}


def _check_fresh(evaluation: dict[str, Any], path: Path) -> None:
    """A model that has changed since it was evaluated has not been evaluated."""
    from kilter.models.fingerprint import model_hash
    from kilter.release.subjects import subjects

    # A reward model that scored the answers is behind their numbers too.
    scored = evaluation.get("reward_model") or {}
    read = [*subjects(evaluation).items(), *([(scored["name"], scored)] if "model_hash" in scored else [])]
    for name, entry in read:
        folder = Path(entry["path"])
        if folder.is_dir() and model_hash(folder)[:16] != entry["model_hash"]:
            raise UserError(
                "evaluation",
                str(path),
                f"is stale: {name} ({folder}) has changed since",
                "run `kilter eval` again",
            )
