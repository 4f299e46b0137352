"""--dry-run: what would happen, with rows, tokens, steps, memory and time, before anything is spent."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kilter import feedback as feedbacks
from kilter import recipe as recipes
from kilter.data.dataset import load
from kilter.data.encode import Encoder
from kilter.models.load import base_of, resolve
from kilter.models.logprobs import CHUNK_ELEMENTS, KEPT_BYTES
from kilter.objectives import build_objective, method_name
from kilter.recipe import Recipe, Stage
from kilter.roles.open import OpenSpec, choose_device, open_encoder
from kilter.training.config import TrainSpec
from kilter.training.sources.fixed import FixedSource

EFFICIENCY = 0.5
"""Share of the machine's matrix-product speed that a training step of a small model reaches; on 2 cores 0.58 was
measured in bfloat16 and 0.78 in float32, and loading, saving and short batches take their part."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One line of the plan; None where nothing can be said before the stages above have run."""

    name: str
    kind: str
    what: str
    rows: int | None = None
    tokens: int | None = None
    steps: int | None = None
    memory_gb: float | None = None
    seconds: float | None = None


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


def train_memory(spec: TrainSpec, s: Sizes) -> float:
    """GB: float32 weights, gradients and two Adam moments of what is trained, plus activations of one micro-batch.

    Autocast keeps norms' inputs and rotated queries and keys in float32, and a bfloat16 copy of the weights.
    """
    trained = (
        s.parameters if spec.adapter is None else min(s.parameters, 14 * s.layers * spec.adapter.r * s.hidden)
    )
    state = 4 * s.parameters + 12 * trained
    adapted = spec.adapter is not None
    width, wide = (2, 12) if spec.dtype == "bfloat16" else (4, 8)
    layer = (wide + 3 * adapted) * s.hidden + (3 + adapted) * s.inner
    state += 2 * s.parameters if spec.dtype == "bfloat16" else 0
    per_token = width * (s.layers * s.hidden + layer if spec.gradient_checkpointing else s.layers * layer)
    head = 3 * 4 * CHUNK_ELEMENTS + KEPT_BYTES
    return (state + per_token * spec.tokens_per_microbatch + head + 6e8) / 1e9


def plan(recipe: Recipe) -> list[StagePlan]:
    """One StagePlan per stage. Loads data and the tokenizer, never weights."""
    base = resolve(recipe.model)
    size = sizes(base)
    speed: dict[str, float] = {}
    out = []
    for name, stage in recipe.stages.items():
        if stage.train is not None:
            out.append(
                _train(
                    recipe,
                    name,
                    stage.train,
                    open_encoder(
                        OpenSpec(base, max_length=stage.train.max_length, template=stage.train.template)
                    ),
                    size,
                    speed,
                )
            )
        else:
            out.append(_other(recipe, name, stage))
    return out


def _train(
    recipe: Recipe, name: str, spec: TrainSpec, encoder: Encoder, size: Sizes, speed: dict[str, float]
) -> StagePlan:
    needs = build_objective(spec.method).needs
    name_of = method_name(spec.method)
    source_name = (spec.prompts or spec.data).removeprefix("$")
    data = load(recipes.data_of(recipe, source_name), recipes.shape_of(spec), source_name)
    if spec.dtype not in speed:
        speed[spec.dtype] = flops_per_second(spec.dtype)
    if spec.prompts is not None:
        return _online(
            recipe,
            name,
            name_of,
            spec,
            [encoder.prompt(g.prompt) for g in data.train[: spec.limit]],
            size,
            speed[spec.dtype],
        )
    encoded = encoder.encode_all(data.train[: spec.limit])
    source = FixedSource(encoded, spec.batch_size, spec.epochs, spec.max_steps)
    tokens = sum(e.tokens() for e in encoded)
    trained = int(tokens * source.total_steps / source.steps_per_epoch)
    passes = 6 * trained + (2 * tokens if "ref_logps" in needs.annotations else 0)
    seconds = passes * size.parameters / (speed[spec.dtype] * EFFICIENCY)
    return StagePlan(
        name,
        "train",
        f"{name_of} from {spec.start or recipe.model}",
        len(encoded),
        trained,
        source.total_steps,
        round(train_memory(spec, size), 1),
        round(seconds),
    )


def _online(
    recipe: Recipe,
    name: str,
    method: str,
    spec: TrainSpec,
    prompts: list[tuple[int, ...]],
    size: Sizes,
    speed: float,
) -> StagePlan:
    """An upper estimate: every completion as long as it may be. Decoding reaches about a third of what training does."""
    needs = build_objective(spec.method).needs
    steps = spec.max_steps or max(1, math.ceil(spec.epochs * len(prompts) / spec.batch_size))
    prompt = sum(map(len, prompts)) / max(1, len(prompts))
    answers = spec.sampler.samples * spec.sampler.max_new_tokens
    tokens = int(steps * spec.batch_size * (prompt + answers))
    epochs = spec.inner_epochs or needs.inner_epochs
    models = 2 if "critic" in needs.models else 1
    extra = (
        ("ref_logps" in needs.annotations)
        + ("old_values" in needs.annotations)
        + ("old_logps" in needs.annotations and spec.dtype == "bfloat16")
    )
    passes = 6 * epochs * models * tokens + 2 * extra * tokens + 2 * 3 * steps * spec.batch_size * answers
    second = (
        4
        * size.parameters
        * (
            (models - 1) * 4
            + ("ref_logps" in needs.annotations and spec.adapter is None)
            + len(feedbacks.model_references(spec.feedback))
        )
    )
    memory = train_memory(spec, size) + second / 1e9
    return StagePlan(
        name,
        "train",
        f"{method} from {spec.start or recipe.model}, online",
        len(prompts),
        tokens,
        steps,
        round(memory, 1),
        round(passes * size.parameters / (speed * EFFICIENCY)),
    )


def _other(recipe: Recipe, name: str, stage: Stage) -> StagePlan:
    what: Any = ""
    rows = None
    if stage.evaluate is not None:
        what = ", ".join(stage.evaluate.models)
        held = load(recipes.data_of(recipe, stage.evaluate.data), "prompts").heldout
        rows = min(len(held), stage.evaluate.limit or len(held))
    elif stage.audit is not None:
        what, rows = stage.audit.data, len(load(recipes.data_of(recipe, stage.audit.data), "prompts").train)
    elif stage.gate is not None:
        what = (
            stage.gate.policy
            if isinstance(stage.gate.policy, str)
            else f"{len(stage.gate.policy['conditions'])} conditions"
        )
    return StagePlan(name, stage.kind, what, rows)
