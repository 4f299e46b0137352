"""Text of sampled tokens: stop strings, text after a prefix, and pieces of text that still grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kilter.data.encode import Encoder

TAIL = 24
"""Tokens at the end that are searched for stop strings, beyond the stop string's own length."""


def stop_cut(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> str | None:
    """The text before the first stop string; None while there is none among the last tokens."""
    # Most steps look at the end alone: to decode everything each time would cost the square of the length.
    tail = tokenizer.decode(tokens[-(TAIL + max(map(len, stop))) :])
    if not any(s in tail for s in stop):
        return None
    text: str = tokenizer.decode(tokens)
    return first_cut(text, stop)


def first_cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string; all of it without one."""
    cuts = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(cuts)] if cuts else text


def answer_text(
    encoder: Encoder, prefix: Sequence[int], tokens: Sequence[int], cut: str | None = None
) -> str:
    """The text of prefix and new tokens.

    cut: what a stop string left of the new tokens. Stop strings count among new tokens only: the steps of a
    search end with one, and the next step goes on after it.
    """
    # Prefix and new tokens in one go: a character may be split between them.
    decode = encoder.tokenizer.decode
    new = [t for t in tokens if t not in encoder.stop_ids]
    whole: str = decode([*prefix, *new])
    return whole if cut is None else whole[: len(whole) - (len(decode(new)) - len(cut))]


class Stream:
    """The text of one completion in pieces. What may still change waits.

    That is half a character, the beginning of a stop string, and space at the end, which the answer will
    lose.
    """

    def __init__(self, encoder: Encoder, stop: Sequence[str] = ()) -> None:
        self._encoder, self._stop, self._shown = encoder, stop, 0

    def take(self, tokens: Sequence[int], cut: str | None = None, ended: bool = False) -> str:
        """What is new. cut: the text that a stop string left. ended: nothing more will come."""
        text = answer_text(self._encoder, (), tokens) if cut is None else cut
        if not ended:
            starts = (s[:n] for s in self._stop for n in range(1, len(s)))
            text = text[: len(text) - max((len(s) for s in starts if text.endswith(s)), default=0)]
            text = text.rstrip("\ufffd")
        text = text.rstrip()
        lead = len(text) - len(text.lstrip())
        piece, self._shown = text[max(self._shown, lead) :], max(self._shown, len(text))
        return piece
