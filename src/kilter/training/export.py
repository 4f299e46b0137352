"""The finished model on disk: full weights in Hugging Face layout, or the adapter; a critic beside it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoTokenizer

from kilter.artifacts import whole_folder, write_text
from kilter.data.arrange import READS
from kilter.data.encode import Encoder
from kilter.errors import UserError
from kilter.hashes import cache_root, remember, remembered
from kilter.models import adapters
from kilter.models.folder import quiet_transformers
from kilter.models.load import MADE_BY
from kilter.models.noise import is_rate
from kilter.models.remote_code import trusted
from kilter.models.resolve import base_of
from kilter.models.save import mend_generation, name_dtype, rounded, save
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
    dtype: str = "float32",
) -> None:
    """model/ (and critic/) appear by rename; `merge` folds adapters in. Every rank must call it.

    dtype: of the saved weights.
    """
    state = engine.state(learner.module) if engine.world > 1 else None
    # Gathering took every rank; the files take one.
    if not engine.is_main:
        return
    facts = {"method": method, "reads": READS.get(learner.needs.rows, "answers")}
    for name, model, prefix in _models(learner):
        with whole_folder(
            out / name,
            what="the model",
            fix="free disk space, then run again to resume",
            note=f"last good checkpoint: {out / 'checkpoints'}",
        ) as partial:
            # Asked for, or the base was itself adapted: only full weights describe the result.
            folded = _folds(model, start, merge)
            own = None if folded or not prefix else _own(state, prefix)
            saved = adapters.fold(model) if folded else model
            if dtype != "float32":
                own = rounded(saved.state_dict() if own is None else own, dtype)
            _write(saved, encoder, start, partial, own)
            if dtype != "float32":
                name_dtype(partial / "config.json", dtype)
            (partial / MADE_BY).write_bytes((json.dumps(facts) + "\n").encode())


def _models(learner: LocalLearner) -> list[tuple[str, Any, str]]:
    """(folder, model, prefix of its weights in the learner's state) of all that a run leaves."""
    critic = learner.scorer.critic
    policy = learner.scorer.model
    if critic is None:
        found: list[tuple[str, Any, str]] = [("model", policy, "model.")]
        # A critic elsewhere comes whole, and its weights do not stand in the learner's state.
        return found if learner.critic is None else [*found, ("critic", learner.critic.scorer().model, "")]
    return [("model", policy, "policy.model."), ("critic", critic.model, "critic.model.")]


def _folds(model: Any, start: Path, merge: bool) -> bool:
    return hasattr(model, "peft_config") and (merge or adapters.is_adapter(start))


def _own(state: dict[str, Any] | None, prefix: str) -> dict[str, Any] | None:
    return (
        None
        if state is None
        else {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )


def _write(model: Any, encoder: Encoder, start: Path, folder: Path, state: dict[str, Any] | None) -> None:
    """One model into a folder that exists."""
    if hasattr(model, "peft_config"):
        for config in model.peft_config.values():
            config.base_model_name_or_path = str(start.resolve())
    save(model, encoder.tokenizer, folder, **({} if state is None else {"state_dict": state}))
    _rates_as_before(folder / "config.json", start)


def _rates_as_before(path: Path, start: Path) -> None:
    """Dropout was off while the model trained. What it will be fine-tuned with next is not ours to say."""
    base, _ = base_of(start)
    if not path.is_file() or not (base / "config.json").is_file():
        return
    written, before = (json.loads(p.read_text(encoding="utf-8")) for p in (path, base / "config.json"))
    rates = {k: v for k, v in before.items() if is_rate(k, v) and written.get(k) == 0.0}
    if any(rates.values()):
        write_text(path, json.dumps(written | rates, indent=2, sort_keys=True) + "\n")


REHEARSED_BYTES = 1 << 31
"""Weights up to this size are written as they are. Of larger models the rest is, and the names of weights."""


def rehearse(
    learner: LocalLearner, encoder: Encoder, engine: Engine, start: Path, out: Path, merge: bool = False
) -> list[str]:
    """Exports the untrained model beside its later place, reads it back and removes it.

    Once per kind of model: what was found is remembered by everything but the values of the weights.

    Returns:
        What a person should know about the export.

    Raises:
        UserError: the model cannot be written, or is another one when it is read.
    """
    if not engine.is_main:
        return []
    notes = []
    for name, model, _ in _models(learner):
        notes += _left_out(model, start)
        done = cache_root() / "exports" / _form(model, encoder, merge)
        if remembered(done):
            continue
        folder = out / f".{name}.rehearsal"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            # Several processes hold parts of the weights, and only together could they write them.
            bare = _folds(model, start, merge) or engine.world > 1
            _write_and_read(model, encoder, start, folder, bare)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        remember(done, True)
    return list(dict.fromkeys(notes))


def _left_out(model: Any, start: Path) -> list[str]:
    """Generation settings that cannot be written."""
    settings = mend_generation(model)
    if not settings:
        return []
    text = ", ".join(f"{name} {value}" for name, value in settings.items())
    return [
        f"generation_config.json of {start.name}: {text} would have no effect and is left out of the export"
    ]


def _form(model: Any, encoder: Encoder, merge: bool) -> str:
    """Everything that decides whether an export works."""
    import transformers

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    weights = [(n, str(p.dtype), tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()]
    tokenizer = encoder.tokenizer
    parts = (
        transformers.__version__,
        base.config.to_json_string(),
        str(getattr(base, "generation_config", None)),
        [str(c.to_dict()) for c in getattr(model, "peft_config", {}).values()],
        type(tokenizer).__name__,
        len(tokenizer),
        tokenizer.chat_template,
        str(tokenizer.special_tokens_map),
        merge,
        weights,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


def _write_and_read(model: Any, encoder: Encoder, start: Path, folder: Path, bare: bool) -> None:
    """Any step of it may fail in code that is not ours: each failure is the model's.

    Args:
        model: the untrained model.
        encoder: its tokenizer is written too.
        start: where it came from.
        folder: exists, and is removed by the caller.
        bare: leaves the weights out.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    try:
        # Folding changes the weights, so that it waits for the end; all else is as the base has it.
        if bare or size > REHEARSED_BYTES:
            base.config.save_pretrained(str(folder))
            if getattr(base, "generation_config", None) is not None:
                base.generation_config.save_pretrained(str(folder))
            encoder.tokenizer.save_pretrained(str(folder))
        else:
            _write(model, encoder, start, folder, None)
        problem = _unlike(model, encoder, folder, bare)
    except OSError:
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if problem:
        raise UserError(
            "model",
            str(start),
            f"cannot be exported as it is ({problem})",
            "mend the named file of the model folder, or use another model",
        )


def _unlike(model: Any, encoder: Encoder, folder: Path, bare: bool) -> str:
    """How the export differs from the model in memory; "" where it does not."""
    from transformers import AutoConfig, GenerationConfig

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if (folder / "config.json").is_file():
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trusted())
        if config.model_type != base.config.model_type:
            return f"config.json says {config.model_type}, and the model is {base.config.model_type}"
    if (folder / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(str(folder)).validate()

    # The same text has to become the same tokens.
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trusted())
    text = "A text, <|tags|> & 3 numbers: 12, 13."
    if tokenizer(text)["input_ids"] != encoder.tokenizer(text)["input_ids"]:
        return "the tokenizer encodes a text otherwise once it is saved"
    if tokenizer.chat_template != encoder.tokenizer.chat_template:
        return "the chat template is another one once the tokenizer is saved"

    # Every weight that trains is there, in its shape.
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            found |= {name: math.prod(file.get_slice(name).get_shape()) for name in names}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if found and not bare and sum(found.values()) < trained:
        return f"its files hold {sum(found.values()):,} of {trained:,} trained weights"
    return ""
