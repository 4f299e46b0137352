"""kilter sample and kilter chat: one prompt, a file of them, or a conversation, with any sampler."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel, Field

from kilter.artifacts import require_file
from kilter.cli import complete
from kilter.cli.app import command, err, out
from kilter.cli.options import collect, options_of, parameters, takes
from kilter.errors import RunFailed, UserError
from kilter.options import MODEL, SAMPLING
from kilter.refs import TemplateRef
from kilter.sampling.config import SamplerKind

if TYPE_CHECKING:
    from kilter.roles.chat import SamplerChat
    from kilter.seams import Sampler
    from kilter.types import Completion, Group, Message, Prompt, Reply, SamplingParams

AnswererArg = Annotated[
    str,
    typer.Argument(
        help="builtin:NAME, a folder, a .gguf file, or a Hub id; the endpoint's name of a model with "
        "--sampler openai; a script's file with --sampler scripted",
        metavar="MODEL",
        autocompletion=complete.models,
    ),
]


class Answerer(BaseModel):
    """Who answers, apart from the model: what sample and chat share."""

    sampler: Annotated[SamplerKind, SAMPLING] = Field(default_factory=SamplerKind, description="who samples")
    template: Annotated[TemplateRef, MODEL] = Field(
        "auto", description="chat template: auto, model, or a .jinja file"
    )
    dtype: Annotated[Literal["float32", "bfloat16"], MODEL] = Field(
        "float32", description="precision of sampling"
    )


ANSWERER = list(options_of(Answerer))


def with_answerer(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator: the options of Answerer beside a command's own; it gets them as **answerer."""
    given = inspect.signature(function, eval_str=True).parameters.values()
    own = [p for p in given if p.kind is not inspect.Parameter.VAR_KEYWORD]
    return takes(*parameters(ANSWERER, own=own, first=[p.name for p in own]))(function)


@contextlib.contextmanager
def opened(model: str, answerer: dict[str, Any]) -> Iterator[Sampler]:
    """The sampler that was typed, over the model that was typed."""
    from pydantic import ValidationError

    from kilter.roles.open import OpenSpec
    from kilter.roles.sampler import open_sampler
    from kilter.validation import as_user_error, refuse_idle

    try:
        asked = Answerer.model_validate(collect(ANSWERER, answerer))
    except ValidationError as error:
        raise as_user_error(error, "", Answerer) from error
    from kilter.sampling.config import idle_fields

    refuse_idle(asked.sampler, "sampler.", idle_fields(asked.sampler))
    opening = OpenSpec(model, template=asked.template, dtype=asked.dtype)
    with contextlib.closing(open_sampler(asked.sampler, opening)) as sampler:
        yield sampler


@command(
    examples=[
        "kilter sample runs/quickstart/dpo --prompt 'Where is my order?' -k 3",
        "kilter sample builtin:smollm2-135m --data prompts.jsonl --out answers.jsonl",
        "kilter sample runs/sft --data demonstrations.jsonl --negatives --out pairs.jsonl",
        "kilter sample some-model --sampler openai --sampler.url http://localhost:8000/v1 --data p.jsonl",
    ]
)
@with_answerer
def sample(
    model: AnswererArg,
    prompt: Annotated[
        str | None, typer.Option(help="one prompt; or use --data", rich_help_panel="data")
    ] = None,
    data: Annotated[str | None, typer.Option(help="file with prompts", rich_help_panel="data")] = None,
    out_: Annotated[
        Path | None,
        typer.Option("--out", help="write groups.jsonl here instead of printing", rich_help_panel="output"),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="answers per prompt", rich_help_panel="sampling")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="tokens per answer", rich_help_panel="sampling")] = 128,
    temperature: Annotated[float, typer.Option(help="0: greedy", rich_help_panel="sampling")] = 0.7,
    top_p: Annotated[float, typer.Option(help="nucleus", rich_help_panel="sampling")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0: off", rich_help_panel="sampling")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="stop string, repeatable", rich_help_panel="sampling")
    ] = None,
    seed: Annotated[int, typer.Option(help="same seed, same answers", rich_help_panel="sampling")] = 0,
    limit: Annotated[int | None, typer.Option(help="first N prompts only", rich_help_panel="data")] = None,
    negatives: Annotated[
        bool,
        typer.Option(
            "--negatives",
            help="pairs: the data's own answer is chosen, the sampled ones are rejected",
            rich_help_panel="data",
        ),
    ] = False,
    **answerer: Any,
) -> None:
    """Sample answers, with token ids and log-probs in groups.jsonl."""
    from kilter.sampling.params import check_params
    from kilter.types import SamplingParams

    _check(prompt, data, out_, negatives)
    params = SamplingParams(max_new_tokens, temperature, top_p, top_k, tuple(stop or ()), seed)
    check_params(params)
    known = _read(prompt, data, limit, negatives)
    with opened(model, answerer) as sampler:
        answers = _ask(sampler, [g.prompt for g in known], k, params, quiet=prompt is not None)
    groups = _groups(known, answers, negatives)

    # To a file with everything that was sampled, or to a person as text.
    if out_ is not None:
        from kilter.data import store

        store.append(out_, groups)
        err.print(f"{len(groups)} groups appended to {out_}", highlight=False)
        return
    for group in groups:
        for completion in group.completions:
            out.print(completion.text, markup=False, highlight=False, soft_wrap=True)
            if len(known) * k > 1:
                out.rule(style="dim")


def _check(prompt: str | None, data: str | None, out_: Path | None, negatives: bool) -> None:
    """Options that do not go together, before a model is loaded."""
    if (prompt is None) == (data is None):
        raise UserError(
            "--prompt",
            prompt or "(absent)",
            "needs exactly one of itself and --data",
            "write --prompt 'text' or --data FILE",
        )
    if out_ is not None:
        require_file(out_, "--out")
    if negatives and (data is None or out_ is None):
        raise UserError(
            "--negatives",
            True,
            "needs demonstrations and a file to write",
            "give --data FILE and --out pairs.jsonl",
        )


def _read(prompt: str | None, data: str | None, limit: int | None, negatives: bool) -> list[Group]:
    """The prompts, with the data's own answers where those are chosen over the sampled ones."""
    from kilter.api import make_data_spec
    from kilter.data.dataset import load
    from kilter.types import Group, Prompt

    if prompt is not None:
        return [Group(Prompt(messages=({"role": "user", "content": prompt},)), (), ())]
    spec = make_data_spec({"path": str(data), "heldout": 0, "limit": limit})
    return load(spec, "demonstrations" if negatives else "prompts").train


def _ask(
    sampler: Sampler, prompts: Sequence[Prompt], k: int, params: SamplingParams, quiet: bool
) -> list[list[Completion]]:
    """What could be sampled; what could not is counted and named, and the rest is worth keeping."""
    from kilter.progress import SILENT, Display, OnDisplay, Progress
    from kilter.sampling.collect import collect as collected
    from kilter.sampling.collect import requests

    display: Progress = SILENT if quiet else Display(err, "sampling", len(prompts) * k)
    with contextlib.closing(display):
        found = collected(sampler, requests(prompts, k, params), OnDisplay(display))
    if not any(found.made):
        raise RunFailed(found.summary(), "correct what it names, then run the same command again")
    if found.problems:
        err.print(found.summary(), style="yellow", markup=False, highlight=False)
    return found.made


def _groups(known: Sequence[Group], answers: Sequence[Sequence[Completion]], negatives: bool) -> list[Group]:
    """One group per prompt that was answered: unscored answers, or pairs with the data's own answer above."""
    from kilter.types import Feedback, Group

    groups = []
    for group, sampled in zip(known, answers, strict=True):
        if negatives:
            said = [c for c in sampled if c.text.strip()]
            feedback = (Feedback(1.0), *(Feedback(0.0) for _ in said))
            groups.append(Group(group.prompt, (group.completions[0], *said), feedback))
        elif sampled:
            groups.append(Group(group.prompt, tuple(sampled), (Feedback(None),) * len(sampled)))
    return groups


@command(
    examples=[
        "kilter chat runs/quickstart/dpo",
        "kilter chat builtin:smollm2-135m --system 'Answer in one sentence.'",
        "echo 'Where is my order?' | kilter chat runs/quickstart/dpo",
    ]
)
@with_answerer
def chat(
    model: AnswererArg,
    system: Annotated[str | None, typer.Option(help="system message", rich_help_panel="data")] = None,
    temperature: Annotated[float, typer.Option(help="0: greedy", rich_help_panel="sampling")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="tokens per answer", rich_help_panel="sampling")] = 256,
    seed: Annotated[
        int, typer.Option(help="same seed and same words, same answers", rich_help_panel="sampling")
    ] = 0,
    **answerer: Any,
) -> None:
    """Talk to a model. /reset forgets what was said; /exit, Ctrl-D or Ctrl-C ends."""
    from kilter.roles.chat import SamplerChat
    from kilter.sampling.params import check_params
    from kilter.types import Message, SamplingParams

    check_params(SamplingParams(max_new_tokens, temperature))
    opening = [Message(role="system", content=system)] if system else []
    with opened(model, answerer) as sampler:
        talk = SamplerChat(sampler, SamplingParams(max_new_tokens, temperature, seed=seed))
        try:
            _converse(talk, opening, sys.stdin.isatty())
        except KeyboardInterrupt:
            out.print()


def _converse(talk: SamplerChat, opening: Sequence[Message], person: bool) -> None:
    """One turn after the other until the input ends.

    Raises:
        RunFailed: no person is there to see that a turn failed.
    """
    from kilter.types import Message

    history, failed = list(opening), 0
    if person:
        err.print("[dim]/reset: start over, /exit: end[/]")
    for text in _turns(person):
        if text == "/exit":
            return
        if text == "/reset":
            history = list(opening)
            continue
        history.append(Message(role="user", content=text))
        reply = _answer(talk, history)
        if reply.problem:
            # The turn did not take place: the next one stands where it stood.
            failed += 1
            history.pop()
            err.print(reply.problem, style="yellow", markup=False, highlight=False)
            continue
        history.append(Message(role="assistant", content=reply.text))
    if failed and not person:
        raise RunFailed(f"{failed} turns failed to get an answer", "see the messages above")


def _turns(person: bool) -> Iterator[str]:
    """What is typed or piped in, line by line; empty lines say nothing."""
    if person:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  lets a person edit the line and recall earlier ones
    while True:
        try:
            text = input("you> " if person else "").strip()
        except EOFError:
            return
        if text:
            yield text


def _answer(talk: SamplerChat, history: Sequence[Message]) -> Reply:
    """The answer, written as it comes; each turn draws with a seed of its own."""
    from dataclasses import replace

    reply = talk.stream(
        history,
        lambda piece: out.print(piece, end="", style="cyan", markup=False, highlight=False, soft_wrap=True),
    )
    out.print()
    talk.params = replace(talk.params, seed=talk.params.seed + 1)
    return reply
