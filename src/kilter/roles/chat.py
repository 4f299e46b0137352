"""Talking to a model, whatever answers: all that judges, critics, revisers and persuaded users need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from kilter.errors import UserError
from kilter.progress import NOBODY, Nobody
from kilter.sampling.collect import NO_ANSWER, Underway, begin, finish
from kilter.seams import BeginsChoice, Chooser, Listener, Sampler
from kilter.types import Ask, Choice, Message, Prompt, Reply, Request, Sample, SamplingParams, Usage


@dataclass
class SamplerChat:
    """Chat over any sampler.

    Args:
        sampler: who answers.
        params: how every reply is sampled.
    """

    sampler: Sampler
    params: SamplingParams = SamplingParams(max_new_tokens=512, temperature=0.0)
    usage: Usage = Usage()
    """Tokens of all replies so far."""

    def reply(self, asks: Sequence[Ask], listener: Listener = NOBODY) -> list[Reply]:
        """See seams.Chat. An ask that fails has a Reply with its problem, and ends no other."""
        return self._replies(begin(self.sampler, self._wanted(asks)), listener)

    def begin_reply(self, asks: Sequence[Ask]) -> Callable[[], list[Reply]]:
        """See seams.ChatAhead. A sampler that begins nothing is asked when the answers are waited for."""
        under_way = begin(self.sampler, self._wanted(asks))
        return lambda: self._replies(under_way)

    def _wanted(self, asks: Sequence[Ask]) -> list[Request]:
        return [Request(str(n), _prompt(a), 1, self.params) for n, a in enumerate(asks)]

    def _replies(self, under_way: Underway, listener: Listener = NOBODY) -> list[Reply]:
        found = finish(under_way, listener)
        self.usage += found.usage
        return [_reply(row[0]) for row in found.samples]

    def choose(self, asks: Sequence[Ask], options: Sequence[str]) -> list[Choice]:
        """See seams.Chat.

        Raises:
            UserError: the sampler does not know how probable an answer is.
        """
        if not self.sampler.facts.chooses:
            raise UserError(
                "sampler",
                type(self.sampler).__name__,
                "does not tell how probable an answer is",
                "use local, vllm, openai or scripted, or give the sampler a `choose`",
            )
        return cast(Chooser, self.sampler).choose([_prompt(a) for a in asks], options)

    def begin_choose(self, asks: Sequence[Ask], options: Sequence[str]) -> Callable[[], list[Choice]]:
        """See seams.ChatAhead. A sampler that begins nothing is asked when the answers are waited for."""
        facts = self.sampler.facts
        if not (facts.begins and facts.chooses):
            return lambda: self.choose(asks, options)
        return cast(BeginsChoice, self.sampler).begin_choice([_prompt(a) for a in asks], options)

    def stream(self, messages: Sequence[Message], write: Callable[[str], None]) -> Reply:
        """One reply, handed to `write` in pieces as it comes."""
        return self.reply([Ask(tuple(messages))], _Written(write))[0]


class _Written(Nobody):
    """A listener that passes pieces of text to a function."""

    wants_text = True

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def text(self, request: Request, index: int, piece: str) -> None:
        """Passes the piece on."""
        self._write(piece)


def _prompt(ask: Ask) -> Prompt:
    return Prompt(ask.messages, id=ask.id, metadata=ask.metadata)


def _reply(sample: Sample | None) -> Reply:
    if sample is None:
        return Reply("", problem=NO_ANSWER)
    if sample.completion is None:
        return Reply("", sample.usage, sample.problem or NO_ANSWER)
    return Reply(sample.completion.text, sample.usage, cut=sample.completion.finish_reason == "length")
