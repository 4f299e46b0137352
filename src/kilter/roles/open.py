"""The one way to open a model: from a reference to a model on its device, with tokenizer and limits.

Policies, references, teachers, critics, reward and process reward models, and the models of `kilter
sample` and of an evaluation all come through `open_model`, so that none differs from the others by
oversight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.hashes import cache_root
from kilter.models import adapters, proof
from kilter.models.config import AdapterSpec
from kilter.models.fingerprint import model_hash
from kilter.models.forward import Scorer
from kilter.models.load import as_stored, empty_causal, load_causal, load_reward, load_steps, outline
from kilter.models.noise import switch_off_dropout
from kilter.models.positions import require_steady, steady_positions, windows
from kilter.models.resolve import resolve
from kilter.models.tokenizer import load_tokenizer, stop_ids
from kilter.models.transformers_names import checkpoint_activations

Head = Literal["policy", "reward", "fresh_reward", "steps"]
UNCUT = 1 << 20
"""The length of an encoder that cuts nothing."""


@dataclass(frozen=True)
class OpenSpec:
    """All that opening a model takes.

    Args:
        model: folder as it is, or a reference for `models.resolve.resolve`.
        head: "policy" predicts tokens; "reward" scores an answer and must have been trained to;
            "fresh_reward" may begin from a policy, its head at zero; "steps" classifies tokens (process
            rewards).
        device: None follows `choose_device`.
        dtype: of the products. Weights stay float32, but for the frozen base of a qlora adapter.
        template: "auto", "model", a name, or a jinja file; see data/templates.py.
        max_length: tokens of prompt plus answer; None cuts nothing.
        max_prompt: tokens of a prompt; None leaves that to max_length.
        long_rows: what happens when max_length passes the positions that mean the same in every batch.
        adapter: fresh adapters to attach; only where `trains`.
        gradient_checkpointing: activations are computed again in the backward pass.
        trains: the weights will change, so that they keep their gradients and the model its training mode.
        seed: of a fresh head.
        field: the setting that named the model, for messages.
    """

    model: Path | str
    head: Head = "policy"
    device: str | torch.device | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    template: str = "auto"
    max_length: int | None = None
    max_prompt: int | None = None
    long_rows: Literal["refuse", "cut"] = "refuse"
    adapter: AdapterSpec | None = None
    gradient_checkpointing: bool = False
    trains: bool = False
    seed: int = 0
    field: str = "model"

    @cached_property
    def folder(self) -> Path:
        """The local Hugging Face folder."""
        return self.model if isinstance(self.model, Path) else resolve(self.model, self.field)


@dataclass(eq=False)
class Ready:
    """An opened model. model: the transformers module, adapters included. amp: products in bfloat16."""

    model: Any
    encoder: Encoder
    folder: Path
    device: torch.device
    amp: bool

    scorer_or_none: Scorer | None = None
    finding: proof.Finding | None = None
    """How the forward pass was proven; a token classifier has none."""

    @property
    def scorer(self) -> Scorer:
        """The model as training and sampling use it; token classifiers have none."""
        assert self.scorer_or_none is not None, "a token classifier is called directly"
        return self.scorer_or_none

    @cached_property
    def hash(self) -> str:
        """Content hash of the folder. It reads every weight, so it is taken on demand."""
        return model_hash(self.folder)


def choose_device(wanted: str | torch.device | None = None) -> torch.device:
    """The one rule: what is asked for, else a GPU where there is one.

    Among several processes it is the GPU of this rank, which the process group made the current one.
    """
    if wanted is not None:
        return torch.device(wanted)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def open_encoder(spec: OpenSpec) -> Encoder:
    """The tokenizer alone, with stop ids, template and lengths as in `open_model`. Loads no weights."""
    tokenizer = load_tokenizer(spec.folder)
    return Encoder(
        tokenizer,
        stop_ids(spec.folder, tokenizer),
        UNCUT if spec.max_length is None else spec.max_length,
        spec.template,
        max_prompt=spec.max_prompt,
    )


def open_engine_weights(spec: OpenSpec, encoder: Encoder, dtype: torch.dtype) -> tuple[Any, list[Path]]:
    """A policy in an engine's precision, for who computes nothing with it: no adapter, and no proof.

    Fresh adapters add zero, so these are the numbers that training begins with.

    Returns:
        The model on the CPU. Or its structure without weights, and the files that hold just these.

    Raises:
        UserError: as `open_model`.
    """
    files = as_stored(spec.folder, dtype) if adapters.quantization(spec.adapter) is None else []
    if not files:
        return open_weights(spec, encoder, dtype), []
    model = outline(spec.folder)
    _limit_positions(spec, model.config.get_text_config(), encoder)
    return model, files


def open_weights(spec: OpenSpec, encoder: Encoder, dtype: torch.dtype = torch.float32) -> Any:
    """The model as it lies on disk, on the CPU; see `open_model`."""
    _refuse_rounded_start(spec)
    model = LOADERS[spec.head](spec, encoder, dtype)
    _refuse_whole_training_of_rounded_weights(spec, model)
    _limit_positions(spec, model.config.get_text_config(), encoder)
    return model


def open_model(spec: OpenSpec, encoder: Encoder | None = None) -> Ready:
    """Loads the weights, attaches what the spec asks for and moves it all to its device.

    Args:
        spec: what to open, and how.
        encoder: one that is open already; its tokenizer must be the model's.

    Raises:
        UserError: the folder lacks the head, the vocabulary or the positions that are asked for.
    """
    encoder = encoder or open_encoder(spec)
    model = open_weights(spec, encoder)
    device, amp = choose_device(spec.device), spec.dtype == "bfloat16"
    model = model.to(device)
    if spec.head == "steps":
        return Ready(model.eval(), encoder, spec.folder, device, amp)
    known = look(spec, model)

    # Log-probs of policy and reference must be those of one function. Adapters have a dropout of their own,
    # and a fresh one changes no number of what was seen.
    switch_off_dropout(model)
    if spec.adapter is not None:
        model = adapters.attach(model, spec.adapter, spec.head != "policy")
    if spec.gradient_checkpointing:
        checkpoint_activations(model)
        if spec.adapter is not None:
            model.enable_input_require_grads()
    scorer = Scorer(model).to(device)
    finding = prove(spec, scorer, known)
    if not spec.trains:
        scorer.requires_grad_(False).eval()
    return Ready(model, encoder, spec.folder, device, amp, scorer, finding)


def open_empty(spec: OpenSpec, encoder: Encoder, finding: proof.Finding, known: Collection[str]) -> Ready:
    """A policy without numbers, which are to come from a process that has opened and proven it.

    Args:
        spec: as in `open_model`; its folder is `fillable`, and there is no adapter.
        encoder: of the policy.
        finding: of the other process. known: its scorer's `slimmed`.
    """
    model = empty_causal(spec.folder)
    _limit_positions(spec, model.config.get_text_config(), encoder)
    switch_off_dropout(model)
    if spec.gradient_checkpointing:
        checkpoint_activations(model)
    scorer = Scorer(model, known=known)
    scorer.follow(finding.way)
    device = torch.device("meta")
    return Ready(model, encoder, spec.folder, device, spec.dtype == "bfloat16", scorer, finding)


def look(spec: OpenSpec, model: Any) -> tuple[Path, proof.Finding | proof.Seen]:
    """Where the proof of this model is kept, and what it found earlier, or what the bare model says now."""
    reach = [w for w in windows(model.config) if w <= (spec.max_length or proof.LONGEST)]
    key = proof.proof_key(
        model_hash(spec.folder),
        head=spec.head,
        longest=max(reach, default=0),
        device=choose_device(spec.device).type,
        weights=next(model.parameters()).dtype,
    )
    path = cache_root() / "proofs" / f"{key}.json"
    return path, proof.recall(path) or proof.observe(model, spec.max_length)


def prove(spec: OpenSpec, scorer: Scorer, known: tuple[Path, proof.Finding | proof.Seen]) -> proof.Finding:
    """Sets the scorer on the fastest way whose numbers are the model's own, and says it if that is slow.

    Raises:
        UserError: there is none, or what keeps the model's numbers forbids what the spec asks for.
    """
    path, found = known
    if isinstance(found, proof.Seen):
        finding = proof.prove(scorer, found, spec.field, spec.model)
        proof.keep(path, finding)
    else:
        finding = found
        scorer.follow(finding.way)

    # An adapter on the head may need the whole model, whatever the base does.
    reason = adapters.reads_own_logits(scorer.model) if spec.adapter is not None else ""
    if reason:
        finding = replace(finding, way=replace(finding.way, path="own"), reason=reason)
        scorer.follow(finding.way)
    if finding.way.still == "all" and spec.gradient_checkpointing and spec.trains:
        raise UserError(
            "gradient_checkpointing",
            True,
            "needs layers in training mode, in which this model computes other numbers",
            "leave gradient_checkpointing out",
        )
    proof.tell(finding, type(scorer._base()).__name__)
    return finding


def _pad(encoder: Encoder) -> int | None:
    """The padding token that a classifier may pool by: never one that ends an answer."""
    pad: int | None = encoder.tokenizer.pad_token_id
    return None if pad in encoder.stop_ids else pad


LOADERS: dict[Head, Callable[[OpenSpec, Encoder, torch.dtype], Any]] = {
    "policy": lambda spec, encoder, dtype: load_causal(
        spec.folder, adapters.quantization(spec.adapter), dtype
    ),
    "reward": lambda spec, encoder, dtype: load_reward(spec.folder, _pad(encoder), spec.seed),
    "fresh_reward": lambda spec, encoder, dtype: load_reward(
        spec.folder, _pad(encoder), spec.seed, fresh=True
    ),
    "steps": lambda spec, encoder, dtype: load_steps(spec.folder),
}
"""Head to the function that reads it from disk."""


def _refuse_rounded_start(spec: OpenSpec) -> None:
    """A 4-bit base can only carry a policy, and only one that is no adapter itself."""
    if spec.adapter is None or spec.adapter.kind != "qlora":
        return
    if spec.head != "policy" or adapters.is_adapter(spec.folder):
        raise UserError(
            "adapter.kind",
            "qlora",
            "trains policies that start from full weights",
            "use lora here, or merge the start model first",
        )


def _refuse_whole_training_of_rounded_weights(spec: OpenSpec, model: Any) -> None:
    """Weights that were quantised on disk take no gradient."""
    if spec.trains and spec.adapter is None and getattr(model, "is_quantized", False):
        raise UserError(
            "adapter",
            "(absent)",
            f"is needed: the weights of {spec.folder.name} are quantised and take no gradient",
            "train an adapter (--adapter lora), or start from the full-precision weights",
        )


def _limit_positions(spec: OpenSpec, config: Any, encoder: Encoder) -> None:
    """Holds rows within the positions at which a changing rotary embedding is the same in every batch."""
    if spec.max_length is None:
        return
    if spec.long_rows == "refuse":
        require_steady(config, spec.max_length, "max_length")
        return
    limit = steady_positions(config)
    encoder.max_length = spec.max_length if limit is None else min(limit, spec.max_length)
