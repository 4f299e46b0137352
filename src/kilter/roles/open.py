"""The one way to open a model: from a reference to a model on its device, with tokenizer and limits.

Policies, references, teachers, critics, reward and process reward models, and the models of `kilter
sample` and of an evaluation all come through `open_model`, so that none differs from the others by
oversight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.models import adapters
from kilter.models.config import AdapterSpec
from kilter.models.forward import Scorer, supports_shared_prefix
from kilter.models.load import (
    load_causal,
    load_reward,
    load_steps,
    load_tokenizer,
    model_hash,
    resolve,
    stop_ids,
)
from kilter.models.positions import require_steady, steady_positions
from kilter.models.transformers_names import checkpoint_activations

Head = Literal["policy", "reward", "fresh_reward", "steps"]
UNCUT = 1 << 20
"""The length of an encoder that cuts nothing."""


@dataclass(frozen=True)
class OpenSpec:
    """All that opening a model takes.

    Args:
        model: folder as it is, or a reference for `models.load.resolve`.
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
        shared: whether prompts are shared; None proves it on the model.
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
    shared: bool | None = None
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


def open_model(spec: OpenSpec, encoder: Encoder | None = None) -> Ready:
    """Loads the weights, attaches what the spec asks for and moves it all to its device.

    Args:
        spec: what to open, and how.
        encoder: one that is open already; its tokenizer must be the model's.

    Raises:
        UserError: the folder lacks the head, the vocabulary or the positions that are asked for.
    """
    _refuse_rounded_start(spec)
    encoder = encoder or open_encoder(spec)
    model = LOADERS[spec.head](spec, encoder)
    _limit_positions(spec, model.config.get_text_config(), encoder)
    # Log-probs of policy and reference must be those of one function; adapters have a dropout of their own.
    switch_off_dropout(model)
    if spec.adapter is not None:
        model = adapters.attach(model, spec.adapter, spec.head != "policy")
    if spec.gradient_checkpointing:
        checkpoint_activations(model)
        if spec.adapter is not None:
            model.enable_input_require_grads()

    device, amp = choose_device(spec.device), spec.dtype == "bfloat16"
    if spec.head == "steps":
        return Ready(model.to(device).eval(), encoder, spec.folder, device, amp)
    scorer = Scorer(model, spec.shared is not False).to(device)
    if not spec.trains:
        scorer.requires_grad_(False).eval()
    if spec.shared is None:
        supports_shared_prefix(scorer)
    return Ready(model, encoder, spec.folder, device, amp, scorer)


def switch_off_dropout(model: Any) -> None:
    """Sets every dropout rate of the model to 0, in its modules and in its configuration."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in DROPOUTS:
            for holder in (module, getattr(module, "config", None)):
                if isinstance(getattr(holder, name, None), float):
                    setattr(holder, name, 0.0)


DROPOUTS = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "hidden_dropout",
    "attn_pdrop",
    "resid_pdrop",
    "embd_pdrop",
)
"""What transformers' models call their dropout rates."""


def _pad(encoder: Encoder) -> int | None:
    """The padding token that a classifier may pool by: never one that ends an answer."""
    pad: int | None = encoder.tokenizer.pad_token_id
    return None if pad in encoder.stop_ids else pad


LOADERS: dict[Head, Callable[[OpenSpec, Encoder], Any]] = {
    "policy": lambda spec, encoder: load_causal(spec.folder, adapters.quantization(spec.adapter)),
    "reward": lambda spec, encoder: load_reward(spec.folder, _pad(encoder), spec.seed),
    "fresh_reward": lambda spec, encoder: load_reward(spec.folder, _pad(encoder), spec.seed, fresh=True),
    "steps": lambda spec, encoder: load_steps(spec.folder),
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


def _limit_positions(spec: OpenSpec, config: Any, encoder: Encoder) -> None:
    """Holds rows within the positions at which a changing rotary embedding is the same in every batch."""
    if spec.max_length is None:
        return
    if spec.long_rows == "refuse":
        require_steady(config, spec.max_length, "max_length")
        return
    limit = steady_positions(config)
    encoder.max_length = spec.max_length if limit is None else min(limit, spec.max_length)
