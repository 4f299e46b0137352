"""How probable each of some options is as the beginning of an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kilter.errors import UserError
from kilter.types import Choice, Encoded, Prompt

if TYPE_CHECKING:  # endpoints and scripts choose without torch
    from kilter.data.encode import Encoder
    from kilter.models.forward import Scorer


def choice(options: Sequence[str], masses: Sequence[float]) -> Choice | None:
    """A Choice from the probability of each option; None where none of them has any."""
    total = math.fsum(masses)
    if not total > 0:
        return None
    return Choice(tuple(options), tuple(m / total for m in masses), min(1.0, total))


def from_first_tokens(options: Sequence[str], logps: Mapping[str, float]) -> Choice | None:
    """A Choice from the log-probs of an answer's first token, by the token's text.

    A token counts for the option that it is, else for the only option that it begins. A token that
    begins several options counts for none, because it does not tell them apart.
    """
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
    tokens_per_microbatch: int = 2048,
    amp: bool = False,
) -> list[Choice | None]:
    """Choices by a model in memory: the summed log-probs of each option's tokens after the prompt.

    The options of a prompt are one Group, so that the prompt is encoded once. If one option begins another,
    it is counted without the longer one: "1" is the answer that begins with 1 and not with 10.

    Raises:
        UserError: an option is empty, or two have the same tokens.
    """
    import torch

    from kilter.data.collate import collate
    from kilter.models.microbatch import split

    if not all(options) or len(set(options)) < len(options):
        raise _alike(options)

    # The options of a prompt are one Group, so that the prompt is read once for all of them.
    found: list[Choice | None] = [None] * len(prompts)
    encoded = {n: e for n, p in enumerate(prompts) if (e := _group(encoder, p, options)) is not None}
    if not encoded:
        return found
    batch = collate(list(encoded.values()))
    places = {id(p): n for p, n in zip(batch.prompts_N, encoded, strict=True)}

    # A judge may be the policy in training: it goes back to its mode.
    training = scorer.training
    scorer.eval()
    try:
        with torch.no_grad():
            for part in split(batch, tokens_per_microbatch, scorer.shared):
                logps_BT = scorer(part, amp=amp).logps_BT * part.mask_BT.to(scorer.device)
                sums = logps_BT.double().sum(-1).exp().view(-1, len(options)).tolist()
                for prompt, masses in zip(part.prompts_N, sums, strict=True):
                    n = places[id(prompt)]
                    found[n] = choice(options, _without_longer(encoded[n].completion_ids, masses))
    finally:
        scorer.train(training)
    return found


def _alike(options: Sequence[str]) -> UserError:
    return UserError("options", list(options), "are empty or alike", "give options that differ")


def _group(encoder: Encoder, prompt: Prompt, options: Sequence[str]) -> Encoded | None:
    """One prompt with every option behind it; None where the template refuses the prompt."""
    try:
        encoded = encoder.beginnings(prompt, options)
    except UserError:
        return None
    if len(set(encoded.completion_ids)) < len(options):
        raise _alike(options)
    return encoded


def _without_longer(ids: Sequence[tuple[int, ...]], masses: Sequence[float]) -> list[float]:
    """Each option's probability less that of the options which begin with it and go on."""
    # From the longest on: what is taken from an option has itself lost what belongs to longer ones.
    longest_first = sorted(range(len(ids)), key=lambda n: -len(ids[n]))
    out = list(masses)
    for place, n in enumerate(longest_first):
        for m in longest_first[:place]:
            if ids[m][: len(ids[n])] == ids[n]:
                out[n] -= out[m]
    return [max(0.0, m) for m in out]
