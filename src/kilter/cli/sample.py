"""kilter sample: a generate stage whose answers go to the screen, or to the end of a file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from kilter.artifacts import require_file
from kilter.cli.app import command, err, out
from kilter.cli.doors import ANSWERER, READING, name_answerer, source_options
from kilter.cli.options import collect, options_of, parameter, parameters, takes
from kilter.errors import UserError
from kilter.screen import Screen, many
from kilter.stages.generate import Generate, GenerateSpec

if TYPE_CHECKING:
    from kilter.types import Group

OPTIONS = [*options_of(GenerateSpec, skip=("model", "data", "max_length")), *source_options()]
"""Every field of a generate stage and its data; MODEL and an option of its own replace those left out."""

SHORT = {
    "k": ("-k",),
    "sampler__temperature": ("--temperature",),
    "sampler__max_new_tokens": ("--max-new-tokens",),
    "sampler__top_p": ("--top-p",),
    "sampler__top_k": ("--top-k",),
    "sampler__stop": ("--stop",),
}
"""What a person types for one question."""

DEFAULTS = {"data": None, "data__heldout": 0.0, "k": 1, "sampler__temperature": 0.7}
"""Where one answer to read differs from a data set of answers."""

OFTEN = (
    *("prompt", "data", "limit", "negatives", "out_"),
    *("k", "sampler", "sampler__temperature", "sampler__max_new_tokens", "seed"),
)
"""What people set most: it comes first under its heading."""

OWN = [
    parameter("model", str, ANSWERER, default=...),
    parameter("prompt", str | None, typer.Option(help="one prompt; or use --data", rich_help_panel="data")),
    parameter(
        "max_length",
        int | None,
        typer.Option(
            help="tokens of prompt plus answer; prompts lose their beginning; without it none is cut",
            rich_help_panel="data",
        ),
    ),
    parameter(
        "negatives",
        bool,
        typer.Option(
            "--negatives",
            help="pairs: the data's own answer is chosen, the sampled ones are rejected",
            rich_help_panel="data",
        ),
        default=False,
    ),
    parameter(
        "out_",
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="append the answers to this groups.jsonl instead of printing them",
            rich_help_panel="output",
        ),
    ),
]


@command(
    "sample",
    examples=[
        "kilter sample runs/quickstart/dpo --prompt 'Where is my order?' -k 3",
        "kilter sample builtin:smollm2-135m --data prompts.jsonl --out answers.jsonl",
        "kilter sample runs/sft --data demonstrations.jsonl --negatives --out pairs.jsonl",
        "kilter sample some-model --sampler openai --sampler.url http://localhost:8000/v1 --data p.jsonl",
    ],
)
@takes(*parameters(OPTIONS, own=OWN, first=OFTEN, aliases=READING | SHORT, defaults=DEFAULTS))
def sample(**values: Any) -> None:
    """Sample answers, with token ids and log-probs in groups.jsonl.

    It is `kilter generate` for the screen: that keeps its answers in a folder, and goes on after a kill.
    """
    prompt, target = values["prompt"], values["out_"]
    settings: dict[str, Any] = {"max_length": values["max_length"]} | collect(OPTIONS, values)
    source = settings.pop("data")
    _check(prompt, source, target, values["negatives"])
    if prompt is not None:
        _refuse_idle(values)

    name_answerer(settings, values["model"])
    with tempfile.TemporaryDirectory(prefix="kilter-sample-") as folder:
        if prompt is not None:
            source = {"format": "groups"} | source | {"path": _asked(prompt, Path(folder))}
        # One question needs no progress, only what went wrong.
        console = err if prompt is None else Screen(quiet=True, force_terminal=False)
        work = Path(folder) / "sample"
        groups, facts = _answered(values["model"], source, settings, work, console, values["negatives"])
    if prompt is not None:
        for line in Generate().summary(facts):
            err.print(line, soft_wrap=True)

    # To a file with everything that was sampled, or to a person as text.
    if target is None:
        _show(groups, alone=facts["answers"] + facts["failed"] == 1)
        return
    from kilter.data import store

    store.append(target, groups)
    err.print(f"{many(len(groups), 'groups')} appended to {target}")


def _check(prompt: str | None, source: Mapping[str, Any], target: Path | None, negatives: bool) -> None:
    """Options that do not go together, before a model is loaded."""
    if prompt is not None and not prompt.strip():
        raise UserError("--prompt", prompt, "is empty", "write what to ask")
    if (prompt is None) == ("path" not in source):
        raise UserError(
            "--prompt",
            prompt or "(absent)",
            "needs exactly one of itself and --data",
            "write --prompt 'text' or --data FILE",
        )
    if target is not None:
        if target.suffix != ".jsonl":
            raise UserError("--out", str(target), "is not a .jsonl file", "name it something.jsonl")
        require_file(target, "--out")
    if negatives and (prompt is not None or target is None):
        raise UserError(
            "--negatives",
            True,
            "needs demonstrations and a file to write",
            "give --data FILE and --out pairs.jsonl",
        )


ASKED = ("system", "text", "condition")
"""Fields of a data set that change how one prompt is asked."""

CHOOSING = (("limit",), ("part",), ("split",))
"""Fields of a generate stage that say which of the prompts are asked."""


def _refuse_idle(values: Mapping[str, Any]) -> None:
    """Raises UserError for an option that chooses or reads prompts, where the one prompt is typed."""
    for option in OPTIONS:
        of_data = len(option.path) > 1 and option.path[0] == "data" and option.path[1] not in ASKED
        value, usual = values.get(option.name), DEFAULTS.get(option.name)
        if (of_data or option.path in CHOOSING) and value not in (None, [], usual):
            problem = "has no effect: --prompt asks one prompt"
            raise UserError(option.flag, value, problem, "leave it out, or give --data FILE")


def _asked(prompt: str, folder: Path) -> str:
    """A data set of one prompt."""
    from kilter.data import store
    from kilter.types import Group, Prompt

    path = folder / "prompts.jsonl"
    store.write(path, [Group(Prompt(messages=({"role": "user", "content": prompt},)), (), ())])
    return str(path)


def _answered(
    model: str,
    source: dict[str, Any],
    settings: dict[str, Any],
    folder: Path,
    console: Console,
    negatives: bool,
) -> tuple[list[Group], Mapping[str, Any]]:
    """(one group per prompt that was answered, what the stage says of them)."""
    from kilter.api import made, make_data_spec
    from kilter.data import store
    from kilter.data.dataset import load

    spec = make_data_spec(source)
    # Demonstrations are read before anything is sampled: data without answers ends the command here.
    own = load(spec, "demonstrations") if negatives else None
    done = made("generate", settings, model, spec, folder, console, "sample")
    groups = list(store.read(done.path))
    return (groups if own is None else _pairs([*own.train, *own.heldout], groups)), done.facts


def _pairs(demonstrations: Sequence[Group], sampled: Sequence[Group]) -> list[Group]:
    """The data's own answer above the sampled ones; a prompt without any has nothing to compare."""
    from kilter.data.dataset import prompt_key
    from kilter.types import Feedback, Group

    groups = {prompt_key(g.prompt): g for g in sampled}
    pairs = []
    for shown in demonstrations:
        found = groups.get(prompt_key(shown.prompt))
        said = [c for c in found.completions if c.text.strip()] if found is not None else []
        if found is not None and said:
            feedback = (Feedback(1.0), *(Feedback(0.0) for _ in said))
            pairs.append(Group(found.prompt, (shown.completions[0], *said), feedback))
    return pairs


def _show(groups: Sequence[Group], alone: bool) -> None:
    """The answers as text, each with a rule below it where there are several."""
    for group in groups:
        for completion in group.completions:
            out.print(completion.text, soft_wrap=True)
            if not alone:
                out.rule(style="dim")
