"""What a training takes, in memory and time, by arithmetic and a quarter second of matrix products."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from kilter.models.load import base_of
from kilter.models.logprobs import CHUNK_ELEMENTS, KEPT_BYTES
from kilter.roles.open import choose_device
from kilter.training.config import TrainSpec

EFFICIENCY = 0.5
"""Share of the machine's matrix-product speed that a training step of a small model reaches.

On 2 cores 0.58 was measured in bfloat16 and 0.78 in float32. Loading, saving and short batches take theirs.
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the estimate needs to know of a model."""

    parameters: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int


def sizes(folder: Path) -> Sizes:
    """From config.json, without loading weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(base_of(folder)[0])).get_text_config()
    # Counting parameters needs their shapes alone.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
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


PROMPT = 100
"""Tokens of a prompt, where counting them would not change an estimate."""


@functools.cache
def _decoding(folder: Path, dtype: str) -> float:
    """Seconds for one token through the model."""
    return 2 * sizes(folder).parameters / (flops_per_second(dtype) * EFFICIENCY)


def answering_seconds(folder: Path, answers: int, length: int, read: int, dtype: str) -> float:
    """Seconds in which a model of this size answers; decoding takes three times as long as reading.

    Args:
        folder: the model.
        answers: how many.
        length: tokens of an answer, at most.
        read: how many are read once more, by the model itself or by another.
        dtype: precision.
    """
    tokens = answers * (PROMPT + 3 * length) + read * (PROMPT + length)
    return tokens * _decoding(folder, dtype)


def train_memory(spec: TrainSpec, s: Sizes) -> float:
    """GB: float32 weights, gradients and two Adam moments of what is trained, activations of a micro-batch.

    Autocast keeps norms' inputs and rotated queries and keys in float32, and a bfloat16 copy of the weights.
    """
    # Adapters: two thin matrices beside about seven of each layer.
    trained = (
        s.parameters if spec.adapter is None else min(s.parameters, 14 * s.layers * spec.adapter.r * s.hidden)
    )
    # Weights of all; gradient and two moments of what trains.
    state = 4 * s.parameters + 12 * trained
    adapted = spec.adapter is not None
    width, wide = (2, 12) if spec.dtype == "bfloat16" else (4, 8)
    layer = (wide + 3 * adapted) * s.hidden + (3 + adapted) * s.inner
    state += 2 * s.parameters if spec.dtype == "bfloat16" else 0
    per_token = width * (s.layers * s.hidden + layer if spec.gradient_checkpointing else s.layers * layer)
    # The fused head holds a few chunks of logits, never the whole of them.
    head = 3 * 4 * CHUNK_ELEMENTS + KEPT_BYTES
    return (state + per_token * spec.tokens_per_microbatch + head + 6e8) / 1e9
