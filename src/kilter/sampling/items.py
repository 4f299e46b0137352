"""Requests as tokens, and tokens as samples: what every sampler that has a tokenizer does alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.sampling.text import answer_text
from kilter.types import Completion, Request, Sample, Usage


@dataclass(frozen=True)
class Item:
    """One request as tokens.

    Args:
        request: what was asked.
        ids: of the prompt, then of the prefix.
        first: samples of the same ids before its own.
        numbers: of the samples that are made, among its own.
    """

    request: Request
    ids: tuple[int, ...]
    first: int
    numbers: tuple[int, ...]


def admitted(
    requests: Sequence[Request], ids_of: Callable[[Request], tuple[int, ...]]
) -> tuple[list[Item], list[Sample]]:
    """The requests that can be answered, and failed samples of the others.

    Args:
        requests: in the order in which they were made.
        ids_of: prompt and prefix as tokens; raises UserError for a request that cannot be answered.
    """
    before: Counter[tuple[int, ...]] = Counter()
    items: list[Item] = []
    failed: list[Sample] = []
    for request in requests:
        try:
            ids = ids_of(request)
        except UserError as error:
            # This prompt cannot be answered; the others can.
            problem = f"{error.field} = {error.value}: {error.problem}"
            failed += [Sample(request, i, None, problem) for i in request.wanted]
            continue
        # Ids that stand there twice go on counting their samples, or both would draw the same numbers.
        if request.wanted:
            items.append(Item(request, ids, before[ids], request.wanted))
        # Those that are skipped count too: the others are then the same in a run that goes on.
        before[ids] += request.k
    return items, failed


def made(
    item: Item,
    index: int,
    encoder: Encoder,
    tokens: Sequence[int],
    logps: Sequence[float],
    finish: Literal["stop", "length"] | None,
    version: int,
    cut: str | None = None,
    entropy: float | None = None,
    versions: Sequence[tuple[int, int, int]] = (),
) -> Sample:
    """A sample from what was drawn.

    Args:
        item: what was asked.
        index: number of the sample.
        encoder: whose tokenizer the tokens are of.
        tokens: the new ones, without the prefix.
        logps: of the new tokens, nats, at the sampling temperature.
        finish: why they end.
        version: updates that the weights had seen.
        cut: what a stop string left of the new tokens' text.
        entropy: mean over the new tokens, nats.
        versions: spans (start, end, version) of the new tokens, where weights may change under way.
    """
    request, prefix = item.request, item.request.prefix_ids
    completion = Completion(
        text=answer_text(encoder, prefix, tokens, cut).strip(),
        # The prefix was given, not drawn: it is context like the prompt, so that nothing is learned from it.
        token_ids=(*prefix, *tokens),
        mask=(0,) * len(prefix) + (1,) * len(tokens),
        sampling_logps=(0.0,) * len(prefix) + tuple(logps),
        finish_reason=finish,
        policy_version=version,
        entropy=entropy,
        prompt_ids=item.ids[: len(item.ids) - len(prefix)],
        versions=tuple((start + len(prefix), end + len(prefix), seen) for start, end, seen in versions),
    )
    return Sample(request, index, completion, usage=Usage(len(item.ids), len(tokens)))
