"""kilter train: one stage without a recipe."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from kilter.cli.app import app, duration, epilog, err, out
from kilter.errors import Exit, UserError

NESTED = ("sampler", "critic", "kl_control", "monitors")
"""Fields with fields of their own: --set sampler.samples=8."""


def _train_command() -> None:
    """Builds `kilter train` with one option per field of a train stage, so that the two cannot drift apart."""
    from typing import Literal, get_args, get_origin

    from kilter.models.config import AdapterSpec
    from kilter.training.config import TrainSpec

    def option(annotation: Any) -> Any:
        """The type that the command line parses for a field."""
        inner = [a.__origin__ if get_origin(a) is Annotated else a for a in get_args(annotation)]
        inner = [a for a in inner if a is not type(None)]
        if AdapterSpec in (annotation, *inner):
            return str
        if get_origin(annotation) is Literal or annotation in (int, float, bool, str):
            return str if get_origin(annotation) is Literal else annotation
        if get_origin(annotation) is list:
            return list[str]
        return inner[0] if len(inner) == 1 else str

    parameters = [
        inspect.Parameter(
            "model",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[str, typer.Option(help="builtin:NAME, a folder, a .gguf file, or a Hub id")],
            default="builtin:smollm2-135m",
        ),
        inspect.Parameter(
            "data",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                str, typer.Option(help="file, Hub name (owner/name), or builtin:support-desk")
            ],
            default=...,
        ),
        inspect.Parameter(
            "out_",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                Path | None, typer.Option("--out", help="folder of the result; default runs/<method>")
            ],
            default=None,
        ),
        inspect.Parameter(
            "set_",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                list[str] | None,
                typer.Option(
                    "--set",
                    help="a field of the method (beta=0.05), of the data (data.heldout=0.2), adapter (adapter.r=8), sampler (sampler.samples=8), critic, kl_control or monitors",
                    metavar="KEY=VALUE",
                ),
            ],
            default=None,
        ),
    ]
    parameters.append(
        inspect.Parameter(
            "online",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool,
                typer.Option(
                    "--online",
                    help="the policy answers the data's prompts itself (--feedback implies it; distill needs no feedback)",
                ),
            ],
        )
    )
    for name, field in TrainSpec.model_fields.items():
        if name in ("data", "start", "prompts", *NESTED):
            continue
        flag = "--" + name.replace("_", "-")
        text = field.description or ""
        if name == "adapter":
            text = "lora, rslora, dora or qlora: train low-rank adapters instead of all weights"
        if name == "feedback":
            text += "; online methods need it: the data's prompts are then answered by the policy"
        kind = str if name in ("method", "feedback") else option(field.annotation)
        default = ... if field.is_required() else None
        if (
            default is None
            and field.default is not None
            and field.default_factory is None
            and not isinstance(field.default, bool)
        ):
            text += f" (default {field.default})"
        names = (
            (flag, "--algorithm")
            if name == "method"
            else (flag + "/--no-" + flag[2:],)
            if kind is bool
            else (flag,)
        )
        if name == "method":
            default = None
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[kind | None, typer.Option(*names, help=text, show_default=False)],
                default=default,
            )
        )

    def train(**values: Any) -> None:
        from kilter.recipe import scalar

        model, data, folder, sets, online = (
            values.pop(k) for k in ("model", "data", "out_", "set_", "online")
        )
        if values["method"] is None:
            from kilter.objectives import objectives

            raise UserError("--method", None, "is required", f"one of: {', '.join(objectives.names())}")
        options = {k: v for k, v in values.items() if v is not None and v != []}
        if options.get("feedback") is not None and not options["feedback"].strip():
            raise UserError(
                "--feedback",
                options["feedback"],
                "is empty",
                "write --feedback support_desk, math, or my_file.py:reward",
            )
        if "feedback" in options:
            options["feedback"] = scalar(options["feedback"])
        if "save_every" in options:
            options["save_every"] = scalar(options["save_every"])
        if "adapter" in options:
            kinds = get_args(AdapterSpec.model_fields["kind"].annotation)
            if options["adapter"] not in kinds:
                raise UserError(
                    "--adapter", options["adapter"], "unknown adapter", f"one of {', '.join(kinds)}"
                )
            options["adapter"] = {"kind": options["adapter"]}
        given = scalar(options.pop("method"))
        method: dict[str, Any] = dict(given) if isinstance(given, dict) else {"name": given}
        source: dict[str, Any] = {"path": data}
        for item in sets or ():
            key, sign, text = item.partition("=")
            if not sign:
                raise UserError("--set", item, "is not KEY=VALUE", "write --set beta=0.05")
            head, _, rest = key.partition(".")
            target, leaf = method, key
            if rest and head == "data":
                target, leaf = source, rest
            elif rest and head in ("adapter", *NESTED):
                target, leaf = options.setdefault(head, {}), rest
            while "." in leaf:
                head, _, leaf = leaf.partition(".")
                target = target.setdefault(head, {})
            target[leaf] = scalar(text)
        if online:
            options["prompts"] = "$data"
        from kilter.api import train as train_

        result = train_(model, source, method, folder, err, **options)
        if int(os.environ.get("RANK", "0")) > 0:
            return  # one process speaks for all
        held = "  ".join(
            f"{k} {v:.4g}"
            for k, v in result.heldout.items()
            if k in ("eval_loss", "eval_rewards/accuracies", "eval_nll")
        )
        out.print(
            f"model: [bold]{result.model}[/]   {result.steps} steps in {duration(result.seconds)}   {held}",
            highlight=False,
        )

        if result.stopped is not None:  # the model is there, and its monitors did not trust the way there
            raise typer.Exit(int(Exit.INCONCLUSIVE))

    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__doc__ = "Train one stage without a recipe. Run it again to resume."
    app.command(
        "train",
        epilog=epilog(
            "kilter train --method dpo --model builtin:smollm2-135m --data pairs.jsonl --out runs/my-dpo",
            "kilter train --method sft --data builtin:support-desk --set data.world.n=100 --max-steps 5",
            "kilter train --method grpo --data builtin:support-desk --feedback support_desk --set sampler.samples=8",
            "kilter train --method grpo --data gsm8k.jsonl --feedback '{math: {mark: \"####\"}}' --max-steps 50",
            "kilter train --method dpo --data pairs.jsonl --adapter lora --set beta=0.05 --learning-rate 1e-4",
            "kilter train --method '{mix: {dpo: 1, sft: 0.1}}' --data pairs.jsonl",
        ),
    )(train)


_train_command()
