"""How probable each of some options is as the beginning of an answer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from kilter.errors import UserError
from kilter.types import Choice, Completion, Encoded, Feedback, Group, Prompt

if TYPE_CHECKING:  # endpoints and scripts choose without torch
    from torch import Tensor

    from kilter.batch import Batch
    from kilter.data.encode import Encoder
    from kilter.models.forward import Scorer


SPACES = (" ", "\n")
"""White space with which a tokenizer may write an option: to a reader " A" and "A" are the same answer."""

PACKED = 2000
"""Tokens from which on it pays to re-arrange the weights first."""
NO_MASS = "none of the options is a likely beginning of the answer"
NO_LOGPS = "the log-probs of the answer's first token are not those of a distribution"
ROUNDED = 0.01
"""How far probabilities that were sent in few digits may come to more than 1."""


def choice(options: Sequence[str], masses: Sequence[float]) -> Choice:
    """A Choice from the probability of each option; unknown where none of them has any."""
    total = math.fsum(masses)
    if not total > 0:
        return Choice(tuple(options), problem=NO_MASS)
    return Choice(tuple(options), tuple(m / total for m in masses), min(1.0, total))


def from_first_tokens(options: Sequence[str], logps: Mapping[str, float]) -> Choice:
    """A Choice from the log-probs of an answer's first token, by the token's text.

    A token counts for the option that it is, else for the only option that it begins. A token that
    begins several options counts for none, because it does not tell them apart. Numbers that are no log-probs
    tell nothing.
    """
    # NaN fails the comparison too.
    sane = all(logp <= ROUNDED for logp in logps.values())
    if not sane or math.fsum(map(math.exp, logps.values())) > 1 + ROUNDED:
        return Choice(tuple(options), problem=NO_LOGPS)

    # Tokenizers put a space before a word or not; to a reader both are the same answer.
    masses = [0.0] * len(options)
    for token, logp in logps.items():
        text = token.strip()
        begun = [n for n, o in enumerate(options) if text and o.startswith(text)]
        same = [n for n in begun if options[n] == text]
        if same or len(begun) == 1:
            masses[(same or begun)[0]] += math.exp(logp)
    return choice(options, masses)


def from_scorer(
    scorer: Scorer,
    encoder: Encoder,
    prompts: Sequence[Prompt],
    options: Sequence[str],
    context: int | None = None,
    tokens_per_microbatch: int = 4096,
    amp: bool = False,
) -> list[Choice]:
    """Choices by a model in memory: the summed log-probs of each option's tokens after the prompt.

    Of options with one token each, a token with white space before the same letters counts as well.
    Neighbouring prompts with the same id are one Group, so that what they begin with is read once for all of
    them and all options. If one option begins another, it is counted without the longer one: "1" is the
    answer that begins with 1 and not with 10.

    Args:
        context: tokens that the model can read; None is no limit but the encoder's.

    Raises:
        UserError: an option is empty, or two have the same tokens.
    """
    from kilter.data.collate import collate

    if not all(options) or len(set(options)) < len(options):
        raise _alike(options)

    # A question that cannot be asked whole is not asked: cut, it would be another question.
    longest = min(encoder.max_length, context or encoder.max_length)
    asked = [_asked(encoder, p, options, longest) for p in prompts]
    known = {n: e for n, e in enumerate(asked) if isinstance(e, Encoded)}
    found = [Choice(tuple(options), problem=e if isinstance(e, str) else NO_MASS) for e in asked]
    if not known:
        return found

    # Options of one token each are read off a single state, so that a prompt is one row and not several.
    single = all(len(ids) == 1 for e in known.values() for ids in e.completion_ids)
    groups, rows = _grouped(prompts, known, 1 if single else len(options))
    batch, encoded = collate(groups), [known[n] for n, _ in rows]
    masses: dict[tuple[int, int], float] = {}
    if single:
        spaced = _spaced(encoder, prompts[min(known)], options)
        values_of_rows = _first_states(scorer, batch, encoded, spaced, tokens_per_microbatch, amp)
    else:
        values_of_rows = _whole_options(scorer, batch, encoded, tokens_per_microbatch, amp)
    for row, values in values_of_rows:
        n, first = rows[row]
        masses |= {(n, first + i): v for i, v in enumerate(values)}
    for n, e in known.items():
        of_options = [masses[n, i] for i in range(len(options))]
        found[n] = choice(options, _without_longer(e.completion_ids, of_options))
    return found


def _alike(options: Sequence[str]) -> UserError:
    return UserError("options", list(options), "are empty or alike", "give options that differ")


def _asked(encoder: Encoder, prompt: Prompt, options: Sequence[str], longest: int) -> Encoded | str:
    """One prompt with every option behind it, or why it cannot be asked."""
    try:
        encoded = encoder.beginnings(prompt, options)
    except UserError as error:
        return f"the chat template refuses the question ({error.problem})"
    if len(set(encoded.completion_ids)) < len(options):
        raise _alike(options)
    length = len(encoded.prompt_ids) + max(map(len, encoded.completion_ids))
    return f"the question has {length} tokens and {longest} are read" if length > longest else encoded


def _grouped(
    prompts: Sequence[Prompt], known: Mapping[int, Encoded], per_prompt: int
) -> tuple[list[Encoded], list[tuple[int, int]]]:
    """Groups with what their prompts share in front, and (prompt, first option) of each row."""
    groups, rows = [], []
    together = groupby(known, key=lambda n: (prompts[n].id or n, known[n].prompt_ids[0]))
    for members in ([*ns] for _, ns in together):
        # At least one token is left to each row: where prompts are alike, the option itself.
        shared = _common([known[n].prompt_ids for n in members])
        ids, masks = [], []
        for n in members:
            rest = known[n].prompt_ids[len(shared) :]
            for i, option in enumerate(known[n].completion_ids[:per_prompt]):
                ids.append((*rest, *option))
                masks.append((0,) * len(rest) + (1,) * len(option))
                rows.append((n, i))
        empty = Group(prompts[members[0]], (Completion(""),) * len(ids), (Feedback(None),) * len(ids))
        groups.append(Encoded(empty, shared, tuple(ids), tuple(masks)))
    return groups, rows


def _common(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all rows begin with."""
    low, high = min(rows), max(rows)
    size = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[:size]


def _parts(scorer: Scorer, batch: Batch, budget: int, amp: bool) -> Iterator[tuple[Batch, list[int]]]:
    """Micro-batches in evaluation mode without gradient, and which rows of the batch each holds."""
    import torch

    from kilter.models.microbatch import split
    from kilter.sampling.packed import packed_linears

    # A judge may be the policy in training: it goes back to its mode.
    training = scorer.training
    scorer.eval()
    try:
        tokens = int(batch.length_B.sum()) + sum(len(p) for p in batch.prompts_N)
        faster = packed_linears(scorer, amp, budget) if tokens > PACKED else contextlib.nullcontext()
        with torch.no_grad(), faster:
            numbered = batch.with_(score_B=torch.arange(batch.rows()))
            for part in split(numbered, budget, scorer.shared):
                yield part, part.score_B.tolist()
    finally:
        scorer.train(training)


def _spaced(encoder: Encoder, prompt: Prompt, options: Sequence[str]) -> list[tuple[int, int]]:
    """(option, token) of each option that the tokenizer also has as one token with white space before it."""
    plain = encoder.beginnings(prompt, options).completion_ids
    texts = [space + option for space in SPACES for option in options]
    spaced = encoder.beginnings(prompt, texts).completion_ids
    taken, found = set(plain), []
    for place, ids in enumerate(spaced):
        if len(ids) == 1 and ids not in taken:
            taken.add(ids)
            found.append((place % len(options), ids[0]))
    return found


def _first_states(
    scorer: Scorer,
    batch: Batch,
    encoded: Sequence[Encoded],
    spaced: Sequence[tuple[int, int]],
    budget: int,
    amp: bool,
) -> Iterator[tuple[int, list[float]]]:
    """(row, probability of each option) where a row is a prompt, and an option one token or `spaced`."""
    import torch

    from kilter.models.logprobs import cast, logits

    for part, rows in _parts(scorer, batch, budget, amp):
        # A judge's questions begin with the same instructions, which are read once.
        states_SD: Tensor = scorer.predicting(part, amp, rooted=True)
        logps_SV = logits(states_SD, cast(scorer.head(), states_SD.dtype)).double().log_softmax(-1)
        tokens = torch.tensor([[ids[0] for ids in encoded[r].completion_ids] for r in rows])
        picked_SO = logps_SV.gather(1, tokens.to(logps_SV.device)).exp()
        for option, token in spaced:
            picked_SO[:, option] += logps_SV[:, token].exp()
        yield from zip(rows, picked_SO.tolist(), strict=True)


def _whole_options(
    scorer: Scorer, batch: Batch, encoded: Sequence[Encoded], budget: int, amp: bool
) -> Iterator[tuple[int, list[float]]]:
    """(row, [probability]) where a row is one option of a prompt."""
    for part, rows in _parts(scorer, batch, budget, amp):
        logps_BT = scorer(part, amp=amp).logps_BT * part.mask_BT.to(scorer.device)
        for row, value in zip(rows, logps_BT.double().sum(-1).exp().tolist(), strict=True):
            yield row, [value]


def _without_longer(ids: Sequence[Sequence[int]], masses: Sequence[float]) -> list[float]:
    """Each option's probability less that of the options which begin with it and go on."""
    # From the longest on: what is taken from an option has itself lost what belongs to longer ones.
    longest_first = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
    out = list(masses)
    for place, n in enumerate(longest_first):
        for m in longest_first[:place]:
            if ids[m][: len(ids[n])] == ids[n]:
                out[n] -= out[m]
    return [max(0.0, m) for m in out]
