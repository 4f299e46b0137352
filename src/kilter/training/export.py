"""The finished model on disk: full weights in Hugging Face layout, or the adapter; a critic beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kilter.artifacts import whole_folder
from kilter.data.arrange import READS
from kilter.data.encode import Encoder
from kilter.models import adapters
from kilter.models.load import MADE_BY, quiet_transformers
from kilter.training.learner import LocalLearner
from kilter.training.parallel.engine import Engine


def save_model(
    learner: LocalLearner,
    encoder: Encoder,
    engine: Engine,
    start: Path,
    out: Path,
    method: str,
    merge: bool = False,
) -> None:
    """model/ (and critic/) appear by rename; `merge` folds adapters in. Every rank must call it."""
    state = engine.state(learner.module) if engine.world > 1 else None
    # Gathering took every rank; the files take one.
    if not engine.is_main:
        return
    critic = learner.scorer.critic
    facts = {"method": method, "reads": READS.get(learner.needs.rows, "answers")}
    _write(
        learner.scorer.model,
        encoder,
        start,
        out / "model",
        _own(state, "model." if critic is None else "policy.model."),
        facts,
        merge,
    )
    if critic is not None:
        _write(
            critic.model,
            encoder,
            start,
            out / "critic",
            _own(state, "critic.model."),
            facts,
            merge,
        )


def _own(state: dict[str, Any] | None, prefix: str) -> dict[str, Any] | None:
    return (
        None
        if state is None
        else {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )


def _write(
    model: Any,
    encoder: Encoder,
    start: Path,
    final: Path,
    state: dict[str, Any] | None,
    facts: dict[str, str],
    merge: bool,
) -> None:
    with whole_folder(
        final,
        what="the model",
        fix="free disk space, then run again to resume",
        note=f"last good checkpoint: {final.parent / 'checkpoints'}",
    ) as partial:
        # Asked for, or the base was itself adapted: only full weights describe the result.
        if hasattr(model, "peft_config") and (merge or adapters.is_adapter(start)):
            model = model.merge_and_unload()
            state = None
        # Under DDP and FSDP the weights were gathered before; else the model has its own.
        extra = {} if state is None else {"state_dict": state}
        if hasattr(model, "peft_config"):
            for config in model.peft_config.values():
                config.base_model_name_or_path = str(start.resolve())
        with quiet_transformers():
            model.save_pretrained(str(partial), **extra)
            encoder.tokenizer.save_pretrained(str(partial))
        (partial / MADE_BY).write_bytes((json.dumps(facts) + "\n").encode())
