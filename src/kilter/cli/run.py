"""kilter run, schema: recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kilter.cli.app import ClusterOption, SetOption, command, out
from kilter.cli.cluster import parsed
from kilter.cli.plan import print_plan
from kilter.errors import UserError


@command(
    examples=[
        "kilter run recipes/quickstart.yaml",
        "kilter run recipes/hh-dpo.yaml --dry-run",
        "kilter run my.yaml --set stages.dpo.train.learning_rate=1e-5",
        "kilter run my.yaml --cluster cluster.yaml",
    ]
)
def run(
    recipe: Annotated[Path, typer.Argument(help="a recipe (YAML)")],
    set_: SetOption = None,
    cluster: ClusterOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan: rows, tokens, steps, memory, time")
    ] = False,
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="with --dry-run: print the recipe too, every setting spelled out"),
    ] = False,
    runs: Annotated[Path, typer.Option(help="folder that holds run folders")] = Path("runs"),
) -> None:
    """Run a recipe to its report and verdict. Run it again to resume; unchanged stages are not repeated."""
    from kilter import recipe as recipes

    loaded = parsed(recipe, set_ or (), cluster, "recipes/quickstart.yaml")
    recipes.check(loaded)
    if runs.exists() and not runs.is_dir():
        raise UserError("--runs", str(runs), "is a file, and holds no run folders", "choose a folder")
    if resolved and not dry_run:
        raise UserError("--resolved", "(alone)", "needs a recipe that is not run", "add --dry-run")
    if dry_run:
        from kilter.pipeline.plan import plan

        print_plan(plan(loaded, out))
        if resolved:
            out.print(recipes.dump(loaded))
        return
    from kilter.pipeline.runner import Run

    raise typer.Exit(int(Run(loaded, runs / loaded.name, out).execute()))


@command(
    examples=[
        "kilter schema > kilter.schema.json",
        "kilter schema --options > docs/train-options.md",
        "kilter schema --certificate > judge.schema.json",
        "kilter schema --gate > gate.schema.json",
    ]
)
def schema(
    options: Annotated[
        bool, typer.Option("--options", help="print all options of `kilter train` by group instead")
    ] = False,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="print the schema of judge.json instead")
    ] = False,
    gate: Annotated[bool, typer.Option("--gate", help="print the schema of gate.json instead")] = False,
) -> None:
    """Print the JSON schema of recipes, for editors."""
    from kilter.feedback.judge.certificate import Certificate
    from kilter.recipe import schema as make

    if gate:
        from kilter.release.gate import Verdict

        print(json.dumps(Verdict.model_json_schema(), indent=1))
        return
    if certificate:
        print(json.dumps(Certificate.model_json_schema(), indent=1))
        return
    if not options:
        print(json.dumps(make(), indent=1))
        return
    from kilter.cli.options_page import train_options
    from kilter.cli.train import OPTIONS

    print(train_options(OPTIONS), end="")
