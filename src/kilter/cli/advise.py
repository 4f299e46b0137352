"""kilter advise: which methods fit this data and this machine, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kilter.artifacts import require_file, write_text
from kilter.cli import complete
from kilter.cli.app import BadRowOption, DataArg, FormatOption, MapOption, command, out, reading
from kilter.errors import UserError
from kilter.screen import styled

if TYPE_CHECKING:
    from kilter.advice.facts import Facts
    from kilter.advice.rules import Machine, Reason, Suggestion
    from kilter.models.sizes import Sizes


@command(
    examples=[
        "kilter advise pairs.jsonl",
        "kilter advise builtin:support-desk --out advice.yaml",
        "kilter advise thumbs.jsonl --json",
    ]
)
def advise(
    data: DataArg,
    model: Annotated[
        str, typer.Option(help="the model that would be trained", autocompletion=complete.models)
    ] = "builtin:smollm2-135m",
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="GB that training may use; default: what this machine has free"),
    ] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="write the recipe here")] = None,
    format_: FormatOption = "auto",
    map_: MapOption = None,
    on_bad_row: BadRowOption = "skip",
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Measure a data set, and name two or three methods worth trying. Each sentence has its evidence.

    --out writes the recipe that tries them side by side.
    """
    from kilter.advice.facts import measure
    from kilter.advice.machine import here
    from kilter.advice.recipe import fitting, make
    from kilter.advice.rules import Machine, cautions, suggest
    from kilter.api import make_data_spec
    from kilter.models.resolve import resolve
    from kilter.training.estimate import sizes

    if out_ is not None:
        _refuse_taken(out_)
    read = reading(format_, map_, on_bad_row)
    facts = measure(make_data_spec({"path": data} | read))
    machine = here() if memory is None else Machine(memory, "as given")
    suggestions, warned, size = suggest(facts), cautions(facts), sizes(resolve(model))
    fields = fitting(size, machine)
    said = {k: v for k, v in read.items() if v and k != "on_bad_row" and v != "auto"}
    recipe = make(model, facts, suggestions, fields, str(out_ or "advice.yaml"), said)
    if out_ is not None:
        write_text(out_, recipe)
    if as_json:
        found = {
            "facts": facts.to_json(),
            "memory_gb": round(machine.memory_gb, 1),
            "train": fields,
            "recipe": recipe,
            "cautions": [asdict(r) for r in warned],
            "suggestions": [
                {"method": s.method, "settings": s.settings, "reasons": [asdict(r) for r in s.reasons]}
                for s in suggestions
            ],
        }
        out.print(json.dumps(found, indent=1), soft_wrap=True)
        return
    _print_facts(data, facts)
    weights = f"{size.parameters / 1e6:.0f} M weights, {machine.memory_gb:.1f} GB ({machine.name})"
    out.print(styled("\n{}: {}", weights, _room(fields, size, machine)))
    _print_advice(suggestions, warned)
    if out_ is not None:
        out.print(f"\nrecipe written to {out_}; run it with: kilter run {out_}")
    else:
        out.print("\n--out advice.yaml writes the recipe that tries them side by side")


def _refuse_taken(target: Path) -> None:
    """Raises UserError for a file that is there already, or that cannot be written."""
    if target.exists():
        raise UserError("--out", str(target), "exists already", "choose another name, or remove it")
    require_file(target, "--out")


def _print_facts(data: str, facts: Facts) -> None:
    """What was measured, a line each."""
    out.print(styled("[bold]{}[/]: {}, format {}", data, facts.kind, facts.format))
    table = Table.grid(padding=(0, 2))
    for key, value in facts.to_json().items():
        if value is not None and key not in ("path", "format", "kind"):
            table.add_row(key.replace("_", " "), f"{value:.3g}" if isinstance(value, float) else str(value))
    out.print(table)


def _print_advice(suggestions: Sequence[Suggestion], warned: Sequence[Reason]) -> None:
    """The methods worth trying and what to beware of, each with its evidence."""
    for i, s in enumerate(suggestions, 1):
        settings = ", ".join(f"{k} {v}" for k, v in s.settings.items())
        out.print(styled("\n[bold]{}. {}[/]{}", i, s.method, f"  ({settings})" if settings else ""))
        for r in s.reasons:
            _reason(r)
    if warned:
        out.print(styled("\n[bold]Beware[/]"))
        for r in warned:
            _reason(r)


def _room(fields: dict[str, Any], size: Sizes, machine: Machine) -> str | Text:
    """What fits, by the estimate that a dry run prints."""
    from kilter.training.config import TrainSpec
    from kilter.training.estimate import train_memory

    need, full = (
        train_memory(TrainSpec.model_validate({"method": "sft"} | f), size)
        for f in (fields, {"dtype": "bfloat16"})
    )
    if "adapter" not in fields:
        return f"all weights can be trained, in about {full:.1f} GB (estimated)"
    if need > machine.memory_gb:
        needed = f"adapters need about {need:.1f} GB, all weights {full:.1f} GB (estimated)"
        return styled("[yellow]too little[/]: {}; take a smaller model", needed)
    return f"adapters, in about {need:.1f} GB; all weights would take about {full:.1f} GB (estimated)"


def _reason(r: Reason) -> None:
    """Prints a sentence of advice, and its evidence dimmed."""
    out.print(f"   {r.text}  ", end="")
    out.print(f"({r.evidence})", style="dim")
