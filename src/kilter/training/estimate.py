"""What a training takes, in memory and time, by arithmetic and a quarter second of matrix products."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kilter.data.encode import Encoder
from kilter.models.logprobs import CHUNK_ELEMENTS, KEPT_BYTES
from kilter.models.remote_code import trusted
from kilter.models.resolve import base_of
from kilter.models.sizes import Sizes
from kilter.roles.open import choose_device
from kilter.training.config import TrainSpec
from kilter.types import Group, Prompt

EFFICIENCY = 0.5
"""Share of the machine's matrix-product speed that a training step of a small model reaches.

On 2 cores 0.58 was measured in bfloat16 and 0.78 in float32. Loading, saving and short batches take theirs.
"""


def sizes(folder: Path) -> Sizes:
    """From config.json, without loading weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        str(base_of(folder)[0]), trust_remote_code=trusted()
    ).get_text_config()
    # Counting parameters needs their shapes alone.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted())
    count = sum(p.numel() for p in model.parameters())
    return Sizes(
        count,
        config.num_hidden_layers,
        config.hidden_size,
        getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        config.vocab_size,
    )


def flops_per_second(dtype: str) -> float:
    """A quarter second of matrix products of the size that a small model's layers have."""
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    device = choose_device()
    a, b = (
        torch.randn(1024, 1024, device=device, dtype=kind),
        torch.randn(1024, 1024, device=device, dtype=kind),
    )
    a @ b
    best, end = float("inf"), time.perf_counter() + 0.25
    while time.perf_counter() < end:  # the fastest one: other work on the machine only ever slows it down
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


READING = 0.75
"""Share of the machine's matrix-product speed that many tokens at once reach."""

WRITING = 0.4
"""The same for answers that are written token by token, many of them side by side.

On 2 idle cores the quickstart's evaluation read at 230 and wrote at 120 GFLOPS, where products reach 300.
"""

OPENING = 2.0
"""Seconds in which a small model is loaded and proven."""

LOOKED_AT = 64
"""Prompts and answers whose lengths stand for all."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What models do who answer prompts. read: tokens that pass through at once. written: one by one."""

    read: float
    written: float
    models: int = 1


@functools.cache
def _known(folder: Path, dtype: str) -> tuple[Sizes, float]:
    """A model's sizes, and the machine's speed."""
    return sizes(folder), flops_per_second(dtype)


def answering_seconds(folder: Path, tokens: Answered, dtype: str) -> float:
    """Seconds in which models of this size answer.

    Args:
        folder: the model.
        tokens: what is read and written, by all models together.
        dtype: precision.
    """
    size, speed = _known(folder, dtype)
    # The head is needed for the last token of a prompt alone, and looking a token up costs nothing.
    body = size.parameters - size.vocabulary * size.hidden
    reading = 2 * body * tokens.read / (speed * READING)
    writing = 2 * size.parameters * tokens.written / (speed * WRITING)
    return reading + writing + OPENING * tokens.models


def lengths(
    encoder: Encoder, prompts: Sequence[Prompt], answered: Sequence[Group], most: int
) -> tuple[float, float]:
    """Mean tokens of a prompt and of an answer, from the first of each.

    Args:
        encoder: of the model.
        prompts: what is asked.
        answered: groups with the data's own answers; without any, an answer is half as long as it may be.
        most: tokens of the longest answer.
    """
    asked = [len(encoder.prompt(p)) for p in prompts[:LOOKED_AT]]
    texts = [c.text for g in answered[:LOOKED_AT] for c in g.completions]
    said: list[float] = [min(most, 1 + len(encoder.tokenizer(t)["input_ids"])) for t in texts]
    said = said or [most / 2]
    return sum(asked) / max(1, len(asked)), sum(said) / len(said)


def train_memory(spec: TrainSpec, s: Sizes) -> float:
    """GB: float32 weights, gradients and two Adam moments of what is trained, activations of a micro-batch.

    Autocast keeps a bfloat16 copy of the weights besides.
    """
    # Adapters: two thin matrices beside about seven of each layer.
    trained = (
        s.parameters if spec.adapter is None else min(s.parameters, 14 * s.layers * spec.adapter.r * s.hidden)
    )
    # Weights of all; gradient and two moments of what trains.
    state = 4 * s.parameters + 12 * trained
    half = spec.dtype == "bfloat16"
    state += 2 * s.parameters if half else 0
    kept = s.activations(
        spec.tokens_per_microbatch, half, spec.gradient_checkpointing, spec.adapter is not None
    )
    # The fused head holds a few chunks of logits, never the whole of them.
    head = 3 * 4 * CHUNK_ELEMENTS + KEPT_BYTES
    return (state + kept + head + 6e8) / 1e9
