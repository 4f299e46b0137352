"""kilter results: export and import, in the formats of inspect_ai and lm-eval; kilter lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kilter.cli import complete
from kilter.cli.app import command, commands, err, out
from kilter.cli.evaluate import print_evaluation
from kilter.screen import styled

results_app = commands(
    "results",
    help="Take evaluations to inspect_ai and lm-eval, and theirs to Kilter.",
    examples=[
        "kilter results export runs/eval --to inspect --out logs",
        "kilter results import base=results_A.json dpo=results_B.json --out runs/imported",
    ],
)


@command(
    to=results_app,
    examples=[
        "kilter results export runs/eval --to inspect --out logs",
        "kilter results export runs/eval --to lm-eval --out results",
    ],
)
def export(
    evaluation: Annotated[Path, typer.Argument(help="folder of an evaluation", metavar="FOLDER")],
    to: Annotated[str, typer.Option(help="inspect or lm-eval", metavar="FORMAT")],
    out_: Annotated[Path, typer.Option("--out", help="folder of the files", metavar="FOLDER")],
) -> None:
    """Write an evaluation as inspect_ai's logs or as lm-eval's results, one per model."""
    from kilter.evaluation.exchange import exchanges
    from kilter.evaluation.exchange.kilter import outcomes_of

    found = exchanges.get(to, "--to")
    for path in found.write(outcomes_of(evaluation), out_):
        out.print(styled("written: [bold]{}[/]", path))


@command(
    "import",
    to=results_app,
    examples=[
        "kilter results import log.eval --out runs/imported",
        "kilter results import base=results_A.json dpo=results_B.json --out runs/imported",
    ],
)
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            help="logs of inspect_ai or results of lm-eval; NAME= gives the model a name",
            metavar="[NAME=]FILE",
        ),
    ],
    out_: Annotated[Path, typer.Option("--out", help="folder of evaluation.json", metavar="FOLDER")] = Path(
        "runs/imported"
    ),
) -> None:
    """Read results of inspect_ai or lm-eval. The first model is the baseline; differences are paired."""
    from kilter.evaluation.exchange.imported import Given, import_results

    parts = [given.rpartition("=") for given in files]
    result = import_results([Given(name, Path(rest)) for name, _, rest in parts], out_)
    print_evaluation(result)
    out.print(styled("\nwritten: [bold]{}[/]", out_ / "evaluation.json"))


@command(
    "lm-eval",
    examples=[
        "kilter lm-eval --model runs/my-dpo --tasks my_task.yaml --out runs/my-task",
        "kilter lm-eval --model runs/sft --model runs/my-dpo --tasks arc_easy --limit 100",
    ],
)
def lm_eval(
    model: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]MODEL",
            help="model to test, repeatable; the first is the baseline",
            autocompletion=complete.models,
        ),
    ],
    tasks: Annotated[
        list[str], typer.Option(help="task of lm-eval by name, or its YAML file; repeatable", metavar="TASK")
    ],
    out_: Annotated[
        Path,
        typer.Option("--out", help="folder of evaluation.json and lm-eval's own files", metavar="FOLDER"),
    ] = Path("runs/lm-eval"),
    limit: Annotated[int | None, typer.Option(min=1, help="only the first N prompts of each task")] = None,
    few_shot: Annotated[int | None, typer.Option(min=0, help="examples before each prompt")] = None,
    chat: Annotated[bool, typer.Option(help="ask in the model's chat template")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="prompts at once")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="of sampling and of the examples")] = 0,
) -> None:
    """Run tasks of lm-evaluation-harness on models of Kilter. Differences to the first are paired."""
    from kilter.api import names_of
    from kilter.evaluation.exchange.harness import Harness

    harness = Harness(tasks, limit, few_shot, chat, batch_size, seed)
    result = harness.run(names_of(model), out_, err)
    print_evaluation(result)
    out.print(styled("\nwritten: [bold]{}[/]", out_ / "evaluation.json"))
