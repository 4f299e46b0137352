"""kilter train: one stage without a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from kilter.cli.app import command, err, out
from kilter.cli.doors import READING, dry_run_option, model_option, out_option, source_options
from kilter.cli.options import collect, options_of, parameter, parameters, takes
from kilter.cli.plan import print_plan
from kilter.errors import Exit, UserError
from kilter.progress import clock
from kilter.screen import many, styled
from kilter.training.config import TrainSpec

OPTIONS = [*options_of(TrainSpec, skip=("start", "data", "prompts", "cluster")), *source_options()]
"""Every field of a train stage and its data; `--model`, `--online` and `--cluster` replace those left out."""

OFTEN = (
    *("model", "adapter", "data", "data__heldout", "method", "set_", "feedback", "out_"),
    *("learning_rate", "epochs", "max_steps", "batch_size", "schedule", "tokens_per_microbatch", "seed"),
    *("online", "sampler", "sampler__samples", "sampler__max_new_tokens", "sampler__temperature"),
)
"""What people set most: it comes first under its heading."""

OWN = [
    model_option(),
    out_option(None, "folder of the result; default runs/<method>"),
    parameter(
        "set_",
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="a setting of the method, such as beta=0.05; repeatable; kilter methods NAME lists them",
            rich_help_panel="method",
        ),
    ),
    parameter(
        "online",
        bool,
        typer.Option(
            "--online",
            help="the policy answers the data's prompts itself; --feedback implies it",
            rich_help_panel="sampling",
        ),
        default=False,
    ),
    dry_run_option("print the plan: rows, tokens, steps, memory, time; nothing is run"),
    parameter(
        "cluster",
        Path | None,
        typer.Option(
            "--cluster",
            metavar="FILE",
            help="YAML that says which roles run on other processes and machines; "
            "--set cluster.rollout.engines=2 sets one key",
            rich_help_panel="optimisation",
        ),
    ),
]


@command(
    "train",
    examples=[
        "kilter train --method dpo --data pairs.jsonl --out runs/my-dpo",
        "kilter train --method sft --data builtin:support-desk --max-steps 5 --adapter lora --dry-run",
        "kilter train --method grpo --data builtin:support-desk --feedback support_desk --set beta=0.05",
    ],
)
@takes(*parameters(OPTIONS, own=OWN, first=OFTEN, aliases=READING | {"method": ("--algorithm",)}))
def train(**values: Any) -> None:
    """Train a model with any method, without a recipe. Run it again to resume."""
    fields, source, method = _stage(values)
    from kilter.api import train as train_
    from kilter.api import training

    if values["dry_run"]:
        from kilter.pipeline.plan import plan_alone

        work = training(values["model"], source, method, values["out_"], err, **fields)
        print_plan(plan_alone(work))
        return
    result = train_(values["model"], source, method, values["out_"], err, **fields)
    if int(os.environ.get("RANK", "0")) > 0:
        return  # one process speaks for all
    shown = ("eval_loss", "eval_rewards/accuracies", "eval_nll")
    held = "  ".join(f"{k} {v:.4g}" for k, v in result.heldout.items() if k in shown)
    steps = many(result.steps, "steps")
    out.print(styled("model: [bold]{}[/]   {} in {}   {}", result.model, steps, clock(result.seconds), held))
    if result.stopped is not None:  # the model is there, and its monitors did not trust the way there
        raise typer.Exit(int(Exit.INCONCLUSIVE))


def _stage(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str | dict[str, Any]]:
    """(fields of the stage, fields of its data, method with its settings) from what was typed."""
    if values["feedback"] is not None and not values["feedback"].strip():
        raise UserError(
            "--feedback",
            values["feedback"],
            "is empty",
            "write --feedback math, or my_file.py:reward",
        )
    fields = collect(OPTIONS, values)
    source, given = fields.pop("data"), fields.pop("method")
    method = dict(given) if isinstance(given, dict) else {"name": given}
    if values["cluster"] is not None:
        from kilter.recipe import mapping

        fields["cluster"] = mapping(values["cluster"], "--cluster", "cluster.yaml", "rollout: {place: apart}")
    _apply(values["set_"] or (), fields, source, method)
    if values["online"]:
        fields["prompts"] = "$data"
    return fields, source, given if len(method) == 1 else method


def _refuse_option(key: str, text: str, method: Mapping[str, Any]) -> None:
    """Raises UserError where --set names what is an option of its own, and no setting of the method."""
    from kilter.objectives import index
    from kilter.recipe import scalar

    option = next((o for o in OPTIONS if o.path == (key,)), None)
    shipped = index.known(str(method.get("name")))
    if option is not None and shipped is not None and key not in [k.name for k in shipped.knobs]:
        problem = f"is no setting of {shipped.name}, but an option of its own"
        words = f"{option.flag} {text}"
        if option.kind == "switch":
            words = option.flag if scalar(text, "--set") else option.negative
        raise UserError("--set", f"{key}={text}", problem, f"write {words}")


def _apply(
    sets: Sequence[str], fields: dict[str, Any], source: dict[str, Any], method: dict[str, Any]
) -> None:
    """--set KEY=VALUE: a setting of the method, or by its path a field of the data or of a nested part."""
    from kilter.recipe import override, scalar

    nested = {"cluster", *(o.path[0] for o in OPTIONS if len(o.path) > 1)}
    for item in sets:
        key, sign, text = item.partition("=")
        if not sign or not all(key.split(".")):
            raise UserError("--set", item, "is not KEY=VALUE", "write --set beta=0.05")
        head, _, rest = key.partition(".")
        if rest and head == "feedback":
            if "feedback" not in fields:
                raise UserError(
                    "--set", item, "sets an option of feedback, and there is none", "give --feedback"
                )
            override(fields, item)
            continue
        if not rest:
            _refuse_option(key, text, method)
        target, leaf = method, key
        # A message calls a setting of the method dpo.beta.
        if rest and head in ("method", method.get("name")):
            target, leaf = method, rest
        elif rest and head == "data":
            target, leaf = source, rest
        elif rest and head in nested:
            target, leaf = fields.setdefault(head, {}), rest
        while "." in leaf:
            head, _, leaf = leaf.partition(".")
            target = target.setdefault(head, {})
        target[leaf] = scalar(text)
