"""kilter chat: a conversation with any sampler."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel, Field

from kilter.cli.app import command, err, out
from kilter.cli.doors import ANSWERER
from kilter.cli.options import collect, options_of, parameters, takes
from kilter.errors import RunFailed
from kilter.options import MODEL, SAMPLING
from kilter.refs import TemplateRef
from kilter.sampling.config import SamplerKind
from kilter.screen import many, styled

if TYPE_CHECKING:
    from kilter.roles.chat import SamplerChat
    from kilter.seams import Sampler
    from kilter.types import Message, Reply


class Answerer(BaseModel):
    """Who answers, apart from the model."""

    sampler: Annotated[SamplerKind, SAMPLING] = Field(default_factory=SamplerKind, description="who samples")
    template: Annotated[TemplateRef, MODEL] = Field(
        "auto", description="chat template: auto, model, or a .jinja file"
    )
    dtype: Annotated[Literal["float32", "bfloat16"], MODEL] = Field(
        "float32", description="precision of sampling"
    )


OPTIONS = list(options_of(Answerer))


def with_answerer(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator: the options of Answerer beside a command's own; it gets them as **answerer."""
    given = inspect.signature(function, eval_str=True).parameters.values()
    own = [p for p in given if p.kind is not inspect.Parameter.VAR_KEYWORD]
    return takes(*parameters(OPTIONS, own=own, first=[p.name for p in own]))(function)


@contextlib.contextmanager
def opened(model: str, answerer: dict[str, Any]) -> Iterator[Sampler]:
    """The sampler that was typed, over the model that was typed."""
    from pydantic import ValidationError

    from kilter.roles.open import OpenSpec
    from kilter.roles.sampler import open_sampler
    from kilter.validation import as_user_error, refuse_idle

    try:
        asked = Answerer.model_validate(collect(OPTIONS, answerer))
    except ValidationError as error:
        raise as_user_error(error, "", Answerer) from error
    from kilter.sampling.config import idle_fields

    refuse_idle(asked.sampler, "sampler.", idle_fields(asked.sampler))
    opening = OpenSpec(model, template=asked.template, dtype=asked.dtype)
    with contextlib.closing(open_sampler(asked.sampler, opening)) as sampler:
        yield sampler


@command(
    examples=[
        "kilter chat runs/quickstart/dpo",
        "kilter chat builtin:smollm2-135m --system 'Answer in one sentence.'",
        "echo 'Where is my order?' | kilter chat runs/quickstart/dpo",
    ]
)
@with_answerer
def chat(
    model: Annotated[str, ANSWERER],
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
        err.print(styled("[dim]/reset: start over, /exit: end[/]"))
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
            err.print(reply.problem, style="yellow")
            continue
        history.append(Message(role="assistant", content=reply.text))
    if failed and not person:
        turns = many(failed, "turns")
        raise RunFailed(f"{turns} failed to get an answer", "see the messages above")


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
        lambda piece: out.print(piece, end="", style="cyan", soft_wrap=True),
    )
    out.print()
    talk.params = replace(talk.params, seed=talk.params.seed + 1)
    return reply
