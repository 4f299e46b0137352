"""kilter generate, kilter label, and whatever other kind of stage makes data and declares a door."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kilter.cli.app import command, err, out
from kilter.cli.doors import (
    READING,
    dry_run_option,
    json_option,
    model_option,
    name_answerer,
    out_option,
    source_options,
)
from kilter.cli.options import collect, options_of, parameters, reference, takes
from kilter.progress import clock
from kilter.screen import many, styled
from kilter.stages import StageKind, kinds
from kilter.stages.door import Door
from kilter.stages.outcome import StagePlan


def make(kind: str, maker: type[StageKind[Any]], door: Door) -> Callable[..., None]:
    """The command of a kind that makes data.

    Args:
        kind: name of the kind and of its command.
        maker: the kind, whose Spec gives the options.
        door: what the command says.
    """
    # A field that means the recipe's model where it is left out is what --model says here.
    refs = {name: reference(field) for name, field in maker.Spec.model_fields.items()}
    base = [name for name, ref in refs.items() if ref is not None and ref.default == "base"]
    fields = [o for o in options_of(maker.Spec, skip=("data", *base)) if o.name not in door.without]
    options = [*fields, *source_options()]
    own = [
        *([model_option()] if base else []),
        out_option(
            Path("runs") / kind, "folder of groups.jsonl; the same command again goes on where it was"
        ),
        dry_run_option("print what it takes; nothing is run"),
        json_option(),
    ]
    first = ("model", "data", "limit", *door.often, "out_")

    @takes(*parameters(options, own=own, first=first, aliases=READING, defaults={"data__heldout": 0.0}))
    def run(**values: Any) -> None:
        settings = collect(options, values)
        source = settings.pop("data")
        from kilter.api import BASE, made

        # The built-in model that stands there by default is nobody's name at an endpoint.
        if values.get("model", BASE) != BASE:
            name_answerer(settings, values["model"])

        if values["dry_run"]:
            from kilter.api import planned

            plan = planned(kind, settings, values.get("model", BASE), source, values["out_"])
            _print(plan, values["as_json"])
            return
        done = made(kind, settings, values.get("model", BASE), source, values["out_"], err)
        if values["as_json"]:
            found = {"data": str(done.path), "facts": dict(done.facts)}
            out.print(json.dumps(found, indent=1), soft_wrap=True)
            return
        # True is an int to Python.
        counts = "  ".join(many(v, k) for k, v in done.facts.items() if type(v) is int and v)
        out.print(styled("data: [bold]{}[/]   {}", done.path, counts))

    run.__doc__ = door.does
    return command(kind, examples=door.examples)(run)


def _print(plan: StagePlan, as_json: bool) -> None:
    """What a run would take."""
    if as_json:
        out.print(json.dumps(asdict(plan), indent=1), soft_wrap=True)
        return
    numbers = [many(v, k, ",") for k, v in (("prompts", plan.rows), ("tokens", plan.tokens)) if v is not None]
    numbers += [f"about {clock(plan.seconds)} here"] if plan.seconds else []
    out.print("  ".join([plan.what, *numbers]), soft_wrap=True)
    for line in plan.warnings:
        out.print(styled("[yellow]warn[/] {}", line), soft_wrap=True)
    out.print("nothing was run")


for _name, _maker in kinds:
    if _maker.door is not None:
        make(_name, _maker, _maker.door)
