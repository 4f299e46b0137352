"""The command line. Every command: --help with examples, exit codes of kilter.errors, no traceback for a user's mistake."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from kilter.errors import Exit, KilterError, UserError
from kilter.validation import as_user_error

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
                  help="Align language models with preferences, and prove it.\n\nFirst run: [bold]kilter run recipes/quickstart.yaml[/]")  # fmt: skip
data_app = typer.Typer(no_args_is_help=True, help="Look at preference data, convert it.")
app.add_typer(data_app, name="data")
out, err = Console(), Console(stderr=True)

ModelArg = Annotated[str, typer.Argument(help="builtin:NAME, a folder, a .gguf file, or a Hub id")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="override a field, e.g. stages.dpo.train.epochs=2", metavar="KEY=VALUE")]


def _epilog(*examples: str) -> str:
    return "[bold]Examples[/]\n\n" + "\n\n".join(f"$ {e}" for e in examples)


@app.command(
    epilog=_epilog(
        "kilter run recipes/quickstart.yaml",
        "kilter run recipes/hh-dpo.yaml --dry-run",
        "kilter run my.yaml --set stages.dpo.train.learning_rate=1e-5",
    )
)
def run(
    recipe: Annotated[Path, typer.Argument(help="a recipe (YAML)")],
    set_: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan: rows, tokens, steps, memory, time")] = False,
    runs: Annotated[Path, typer.Option(help="folder that holds run folders")] = Path("runs"),
) -> None:
    """Run a recipe to its report and verdict. Run it again to resume; unchanged stages are not repeated."""
    from kilter import recipe as recipes

    loaded = recipes.load(recipe, set_ or ())
    if dry_run:
        _print_plan(loaded)
        return
    from kilter.pipeline.runner import Run

    raise typer.Exit(int(Run(loaded, runs / loaded.name, out).execute()))


def _print_plan(recipe: Any) -> None:
    from kilter import recipe as recipes
    from kilter.pipeline.plan import plan

    table = Table("stage", "kind", "what", "rows", "tokens", "steps", "memory", "time", box=None, pad_edge=False)
    total = 0.0
    for s in plan(recipe):
        total += s.seconds or 0
        cells = [f"{v:,}" if v is not None else "" for v in (s.rows, s.tokens, s.steps)]
        table.add_row(s.name, s.kind, s.what, *cells, f"{s.memory_gb} GB" if s.memory_gb else "", _duration(s.seconds))
    out.print(recipes.dump(recipe), highlight=False, markup=False)
    out.print(table)
    out.print(f"\ntraining takes about {_duration(total)} on this machine; nothing was run", highlight=False)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _train_command() -> None:
    """Builds `kilter train` with one option per field of a train stage, so that the two cannot drift apart."""
    from typing import Literal, get_args, get_origin

    from kilter.models.adapters import AdapterSpec
    from kilter.training.config import TrainSpec

    def option(annotation: Any) -> Any:
        """The type that the command line parses for a field."""
        inner = [a for a in get_args(annotation) if a is not type(None)]
        if AdapterSpec in (annotation, *inner):
            return str
        if get_origin(annotation) is Literal or annotation in (int, float, bool, str):
            return str if get_origin(annotation) is Literal else annotation
        if get_origin(annotation) is list:
            return list[str]
        return inner[0] if len(inner) == 1 else str

    parameters = [
        inspect.Parameter("model", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, typer.Option(help="builtin:NAME, a folder, a .gguf file, or a Hub id")], default="builtin:smollm2-135m"),
        inspect.Parameter("data", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, typer.Option(help="file, Hub name (owner/name), or builtin:support-desk")], default=...),
        inspect.Parameter("out_", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[Path | None, typer.Option("--out", help="folder of the result; default runs/<method>")], default=None),
        inspect.Parameter("set_", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[list[str] | None, typer.Option("--set", help="a field of the method (beta=0.05), of the data (data.heldout=0.2) or of the adapter (adapter.r=8)", metavar="KEY=VALUE")], default=None),
    ]  # fmt: skip
    for name, field in TrainSpec.model_fields.items():
        if name in ("data", "start"):
            continue
        flag = "--" + name.replace("_", "-")
        text = field.description or ""
        if name == "adapter":
            text = "lora: train LoRA adapters instead of all weights"
        kind = str if name == "method" else option(field.annotation)
        default = ... if field.is_required() else None
        if default is None and field.default is not None and field.default_factory is None and not isinstance(field.default, bool):
            text += f" (default {field.default})"
        names = (flag, "--algorithm") if name == "method" else (flag + "/--no-" + flag[2:],) if kind is bool else (flag,)
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

        model, data, folder, sets = (values.pop(k) for k in ("model", "data", "out_", "set_"))
        if values["method"] is None:
            from kilter.objectives import objectives

            raise UserError("--method", None, "is required", f"one of: {', '.join(objectives.names())}")
        options = {k: v for k, v in values.items() if v is not None and v != []}
        if "save_every" in options:
            options["save_every"] = scalar(options["save_every"])
        if "adapter" in options:
            if options["adapter"] != "lora":
                raise UserError("--adapter", options["adapter"], "unknown adapter", "use lora")
            options["adapter"] = {}
        method: dict[str, Any] = {"name": options.pop("method")}
        source: dict[str, Any] = {"path": data}
        for item in sets or ():
            key, sign, text = item.partition("=")
            if not sign:
                raise UserError("--set", item, "is not KEY=VALUE", "write --set beta=0.05")
            target, leaf = (
                (source, key[5:])
                if key.startswith("data.")
                else (options.setdefault("adapter", {}), key[8:])
                if key.startswith("adapter.")
                else (method, key)
            )
            while "." in leaf:
                head, _, leaf = leaf.partition(".")
                target = target.setdefault(head, {})
            target[leaf] = scalar(text)
        from kilter.api import train as train_

        result = train_(model, source, method, folder, err, **options)
        held = "  ".join(f"{k} {v:.4g}" for k, v in result.heldout.items() if k in ("eval_loss", "eval_rewards/accuracies", "eval_nll"))
        out.print(f"model: [bold]{result.model}[/]   {result.steps} steps in {_duration(result.seconds)}   {held}", highlight=False)

    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__doc__ = "Train one stage without a recipe. Run it again to resume."
    app.command("train", epilog=_epilog(
        "kilter train --method dpo --model builtin:smollm2-135m --data pairs.jsonl --out runs/my-dpo",
        "kilter train --method sft --data builtin:support-desk --set data.world.n=100 --max-steps 5",
        "kilter train --method dpo --data pairs.jsonl --adapter lora --set beta=0.05 --learning-rate 1e-4",
    ))(train)  # fmt: skip


@app.command(
    epilog=_epilog(
        "kilter sample runs/quickstart/dpo --prompt 'Where is my order?' -k 3",
        "kilter sample builtin:smollm2-135m --data prompts.jsonl --out answers.jsonl",
    )
)
def sample(
    model: ModelArg,
    prompt: Annotated[str | None, typer.Option(help="one prompt; or use --data")] = None,
    data: Annotated[str | None, typer.Option(help="file with prompts")] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="write groups.jsonl here instead of printing")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="answers per prompt")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="tokens per answer")] = 128,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.7,
    top_p: Annotated[float, typer.Option(help="nucleus")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0: off")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="stop string, repeatable")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same answers")] = 0,
    limit: Annotated[int | None, typer.Option(help="first N prompts only")] = None,
) -> None:
    """Sample answers, with token ids and log-probs in groups.jsonl."""
    from kilter.api import make_data_spec
    from kilter.data import store
    from kilter.data.dataset import load
    from kilter.sampling.local import check_params
    from kilter.training.log import Display
    from kilter.types import Feedback, Group, Prompt, SamplingParams

    if (prompt is None) == (data is None):
        raise UserError("--prompt/--data", prompt or data, "give exactly one of them", "write --prompt 'text' or --data FILE")
    params = SamplingParams(max_new_tokens, temperature, top_p, top_k, tuple(stop or ()), seed)
    check_params(params)
    if out_ is not None:
        _require_file(out_, "--out")
    if prompt is not None:
        prompts = [Prompt(messages=({"role": "user", "content": prompt},))]
    else:
        prompts = [g.prompt for g in load(make_data_spec({"path": str(data), "heldout": 0, "limit": limit}), "prompts").train]
    sampler = _sampler(model)
    display = Display(err, "sampling", len(prompts) * k, quiet=prompt is not None)
    answers = sampler.generate(prompts, k, params, lambda n: display.update(n, "answers"))
    display.close()
    groups = [Group(p, tuple(a), (Feedback(None),) * k) for p, a in zip(prompts, answers, strict=True)]
    if out_ is not None:
        store.append(out_, groups)
        err.print(f"{len(groups)} groups appended to {out_}", highlight=False)
        return
    for group in groups:
        for completion in group.completions:
            out.print(completion.text, markup=False, highlight=False, soft_wrap=True)
            if len(groups) * k > 1:
                out.rule(style="dim")


def _require_file(path: Path, field: str) -> None:
    """Fails before the work rather than after it when a file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise UserError(field, str(path), f"cannot be written ({error.strerror or error})", "choose a file you may write") from error


def _sampler(model: str) -> Any:
    from kilter.data.encode import Encoder
    from kilter.models.forward import Scorer
    from kilter.models.load import load_causal, load_tokenizer, resolve, stop_ids
    from kilter.sampling.local import LocalSampler

    folder = resolve(model)
    tokenizer = load_tokenizer(folder)
    return LocalSampler(Scorer(load_causal(folder)).eval(), Encoder(tokenizer, stop_ids(folder, tokenizer), max_length=1 << 20))


@app.command(epilog=_epilog("kilter chat runs/quickstart/dpo", "kilter chat builtin:smollm2-135m --system 'Answer in one sentence.'"))
def chat(
    model: ModelArg,
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="tokens per answer")] = 256,
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends; /new starts over."""
    from kilter.types import Message, Prompt, SamplingParams

    sampler = _sampler(model)
    opening = [Message(role="system", content=system)] if system else []
    history = list(opening)
    seed = 0
    err.print("[dim]empty line: end, /new: start over[/]")
    while True:
        try:
            text = input("you> ").strip()
        except EOFError:
            break
        if not text:
            break
        if text == "/new":
            history = list(opening)
            continue
        history.append(Message(role="user", content=text))
        answer = sampler.generate([Prompt(messages=tuple(history))], 1, SamplingParams(max_new_tokens, temperature, seed=seed))[0][0].text
        history.append(Message(role="assistant", content=answer))
        out.print(answer, style="cyan", markup=False, highlight=False)
        seed += 1


@app.command(
    "eval",
    epilog=_epilog(
        "kilter eval --model runs/my-dpo --baseline builtin:smollm2-135m --data pairs.jsonl",
        "kilter eval --model A --model B --reward-model RM --data pairs.jsonl --out runs/eval",
    ),
)
def evaluate(
    model: Annotated[list[str], typer.Option(help="model to evaluate, repeatable; NAME=PATH gives it a name")],
    data: Annotated[str, typer.Option(help="file, Hub name or builtin:support-desk")],
    baseline: Annotated[str | None, typer.Option(help="model the others are compared with")] = None,
    reward_model: Annotated[str | None, typer.Option(help="reward model that scores the answers")] = None,
    out_: Annotated[Path, typer.Option("--out", help="folder of evaluation.json and groups.jsonl")] = Path("runs/eval"),
    heldout: Annotated[float, typer.Option(help="share of prompts used; 1 uses every prompt of the file")] = 1.0,
    limit: Annotated[int | None, typer.Option(help="first N prompts only")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="tokens per answer")] = 128,
    temperature: Annotated[float, typer.Option(help="1: the policy itself; 0: greedy")] = 1.0,
    seed: Annotated[int, typer.Option(help="seed of sampling and bootstrap")] = 0,
) -> None:
    """Evaluate models on the same prompts: metrics with confidence intervals, paired differences, evaluation.json."""
    from kilter.api import make_data_spec
    from kilter.data.dataset import Dataset, heldout_pairs, load, trained_prompts
    from kilter.evaluation.config import EvaluateSpec
    from kilter.evaluation.runner import Evaluation
    from kilter.models.load import resolve
    from kilter.training.trainer import require_writable

    try:
        spec = EvaluateSpec(models=model, limit=limit, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    except ValidationError as error:
        raise as_user_error(error, "", EvaluateSpec) from error
    require_writable(out_)
    entries = ([baseline] if baseline else []) + [m for m in model if m != baseline]
    named = dict(_named(m) for m in entries)
    if len(named) < len(entries):
        raise UserError("--model", entries, "two models have the same name", "write NAME=PATH")
    folders = {n: resolve(p, "--model") for n, p in named.items()}
    reward = (_named(reward_model)[0], resolve(_named(reward_model)[1], "--reward-model")) if reward_model else None
    if not 0 < heldout <= 1:
        raise UserError("--heldout", heldout, "is no share", "use a value in (0, 1]")
    share: dict[str, Any] = {"limit": limit, "heldout": 0.0 if heldout == 1 else heldout}
    prompts = load(make_data_spec({"path": data} | share), "prompts")
    pairs = heldout_pairs(make_data_spec({"path": data} | share)) if reward is not None else []
    if heldout == 1:
        prompts = Dataset(prompts.spec, [], prompts.train, prompts.skipped, prompts.format)
    trained: set[str] = set()
    for folder in folders.values():
        trained |= trained_prompts(folder)
    result = Evaluation(spec, folders, reward, prompts, pairs, frozenset(trained), out_, err).run()
    _print_evaluation(result)
    out.print(f"\nwritten: [bold]{out_ / 'evaluation.json'}[/]", highlight=False)


def _named(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if sign:
        return name, path
    cleaned = Path(text)
    return (cleaned.parent.name if cleaned.name == "model" else cleaned.name) or text, text


def _print_evaluation(result: dict[str, Any]) -> None:
    from kilter.release.report import TITLES

    table = Table("metric", *result["models"], box=None, pad_edge=False)
    keys: list[str] = []
    for entry in result["models"].values():
        keys += [k for k in entry["metrics"] if k not in keys]
    for key in keys:
        cells = []
        for entry in result["models"].values():
            m = entry["metrics"].get(key)
            if m is None or m["value"] is None:
                cells.append("")
            else:
                cells.append(f"{m['value']:.3g}" + (f" [{m['ci_low']:.3g}, {m['ci_high']:.3g}]" if m["ci_low"] is not None else ""))
        table.add_row(TITLES.get(key, key), *cells)
    out.print(table)


@app.command(
    epilog=_epilog("kilter gate runs/quickstart/eval --policy gate.yaml", "kilter gate runs/eval/evaluation.json --policy gate.yaml --candidate dpo")
)
def gate(
    evaluation: Annotated[Path, typer.Argument(help="evaluation.json, or the folder that holds it")],
    policy: Annotated[Path, typer.Option(help="YAML file with conditions")],
    candidate: Annotated[str | None, typer.Option(help="model under test; default: the only one that is not the baseline")] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="folder for gate.json and gate.xml (JUnit); default: beside the evaluation")] = None,
) -> None:
    """Decide. Exit code 0 pass, 1 fail, 3 inconclusive."""
    from kilter.release import gate as gates

    path = evaluation / "evaluation.json" if evaluation.is_dir() else evaluation
    if not path.is_file():
        raise UserError("evaluation", str(path), "no such file", "run `kilter eval` first, or give its folder")
    try:
        loaded = json.loads(path.read_text())
        loaded["baseline"], loaded["n_prompts"], loaded["data_hash"]
        [(m["path"], m["model_hash"], m["metrics"]) for m in loaded["models"].values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("evaluation", str(path), f"is no evaluation.json ({error})", "give the file that `kilter eval` wrote") from error
    _check_fresh(loaded, path)
    result = gates.decide(gates.load_policy(policy, "--policy"), loaded, candidate)
    gates.write(result, out_ or path.parent)
    for c in result["conditions"]:
        out.print(f"{c['state']:<12} {c['condition']}   {c['why']}", highlight=False, markup=False)
    out.print(f"verdict: [bold]{result['verdict'].upper()}[/] for {result['candidate']}", highlight=False)
    raise typer.Exit(int(gates.exit_code(result["verdict"])))


def _check_fresh(evaluation: dict[str, Any], path: Path) -> None:
    """A model that has changed since it was evaluated has not been evaluated."""
    from kilter.models.load import model_hash

    for name, entry in evaluation["models"].items():
        folder = Path(entry["path"])
        if folder.is_dir() and model_hash(folder)[:16] != entry["model_hash"]:
            raise UserError("evaluation", str(path), f"is stale: {name} ({folder}) has changed since", "run `kilter eval` again")


@app.command(epilog=_epilog("kilter report runs/quickstart"))
def report(folder: Annotated[Path, typer.Argument(help="a run folder")]) -> None:
    """Write report.html of a run folder from what its stages have left there."""
    from kilter.release import report as reports

    if not folder.is_dir() or not any(folder.glob("*/manifest.json")):
        raise UserError(
            "folder", str(folder), "is no run folder (no stage with a manifest.json)", "give a folder that `kilter run` made, such as runs/quickstart"
        )
    out.print(f"[bold]{reports.write(folder)}[/]", highlight=False)


@app.command(epilog=_epilog("kilter schema > kilter.schema.json"))
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from kilter.recipe import schema as make

    print(json.dumps(make(), indent=1))


@data_app.command(epilog=_epilog("kilter data peek pairs.jsonl", "kilter data peek builtin:support-desk --shape pairs -n 2"))
def peek(
    path: Annotated[str, typer.Argument(help="file, Hub name or builtin:support-desk")],
    shape: Annotated[str, typer.Option(help="demonstrations, pairs or prompts")] = "prompts",
    n: Annotated[int, typer.Option("-n", min=1, help="groups to show")] = 3,
    format_: Annotated[str, typer.Option("--format", help="auto, or a format by name")] = "auto",
) -> None:
    """Show what Kilter reads from a file: detected format, counts, the first groups."""
    data = _load(path, shape, format_)
    groups = [*data.train, *data.heldout]
    out.print(
        f"[bold]{path}[/]: format {data.format}, {len(groups)} groups" + (f", left out: {dict(data.skipped)}" if data.skipped else ""),
        highlight=False,
    )
    for group in groups[:n]:
        out.rule(group.prompt.id or "", style="dim")
        for m in group.prompt.messages:
            out.print(f"[bold]{m['role']}[/]: ", end="")
            out.print(m["content"], markup=False, highlight=False)
        if group.prompt.text:
            out.print(group.prompt.text, markup=False, highlight=False)
        for c, f in zip(group.completions, group.feedback, strict=True):
            score = "unscored" if f.score is None else f"{f.kind} {f.score:g}"
            out.print(f"[cyan]→ {score}[/] ", end="")
            out.print(c.text, markup=False, highlight=False)


def _load(path: str, shape: str, format_: str, world: dict[str, Any] | None = None) -> Any:
    from kilter.api import make_data_spec
    from kilter.data.dataset import load
    from kilter.errors import nearest

    shapes = ("demonstrations", "pairs", "prompts")
    if shape not in shapes:
        raise UserError("--shape", shape, "unknown shape", nearest(shape, shapes))
    return load(make_data_spec({"path": path, "format": format_, "heldout": 0, "world": world or {}}), shape)  # type: ignore[arg-type]


@data_app.command(
    epilog=_epilog(
        "kilter data convert hh.jsonl.gz groups.jsonl --shape pairs", "kilter data convert builtin:support-desk steps.jsonl --view steps --size 1000"
    )
)
def convert(
    path: Annotated[str, typer.Argument(help="file, Hub name or builtin:support-desk")],
    target: Annotated[Path, typer.Argument(help="groups.jsonl to write")],
    shape: Annotated[str, typer.Option(help="demonstrations, pairs or prompts (prompts keeps every completion)")] = "prompts",
    format_: Annotated[
        str, typer.Option("--format", help="auto, hh, preference, unpaired, conversations, alpaca, ratings, oasst, stepwise, ...")
    ] = "auto",
    view: Annotated[str, typer.Option(help="builtin:support-desk: pairs, demonstrations, binary, ranked, steps, prompts")] = "auto",
    size: Annotated[int, typer.Option(help="builtin:support-desk: scenarios")] = 400,
) -> None:
    """Convert any known format to groups.jsonl."""
    from kilter.data import store

    if target.exists():
        raise UserError("target", str(target), "exists already", "choose another name, or remove it")
    if target.suffix != ".jsonl":
        raise UserError("target", str(target), "is not a .jsonl file", "groups are written as plain JSON lines; name it something.jsonl")
    _require_file(target, "target")
    world = {"view": view, "n": size} if path.startswith("builtin:") else None
    data = _load(path, shape, format_, world)
    store.append(target, data.train)
    out.print(f"{len(data.train)} groups written to {target}" + (f"; left out: {dict(data.skipped)}" if data.skipped else ""), highlight=False)


_train_command()


def main() -> None:
    """Entry point. One message for a user's mistake; --debug (anywhere) shows the traceback."""
    debug = "--debug" in sys.argv or os.environ.get("KILTER_DEBUG") == "1"
    sys.argv = [a for a in sys.argv if a != "--debug"]
    logging.basicConfig(
        level=logging.INFO if not debug else logging.DEBUG,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_time=False, show_path=False, show_level=False)],
        force=True,
    )
    for noisy in ("httpx", "urllib3", "filelock", "fsspec", "matplotlib", "datasets", "huggingface_hub", "transformers", "torch", "asyncio", "PIL"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (typer.Exit, click.exceptions.Exit) as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KilterError as error:
        if debug:
            raise
        err.print(f"[red bold]{'error' if error.code == Exit.BAD_INPUT else 'stopped'}[/]: ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(int(error.code))
    except (KeyboardInterrupt, click.exceptions.Abort):
        err.print("interrupted; run the same command again to resume")
        sys.exit(int(Exit.RUN_FAILED))
    except OSError as error:
        if debug:
            raise
        err.print(
            f"[red bold]stopped[/]: {error}\n  fix: check disk space and permissions, then run the same command again to resume", highlight=False
        )
        sys.exit(int(Exit.RUN_FAILED))
    except Exception as error:  # a defect of ours: one line, the run's state is on disk, and the way to see more
        if debug:
            raise
        err.print(f"[red bold]stopped[/]: {type(error).__name__}: {error}\n  this is a defect in Kilter; --debug shows where", highlight=False)
        sys.exit(int(Exit.RUN_FAILED))


if __name__ == "__main__":
    main()
