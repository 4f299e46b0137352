"""Models from their folders: to generate, to score answers, to score steps.

What does not fit is refused before any work.
"""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Any

import torch

from kilter.errors import UserError
from kilter.models.adapters import is_adapter, layered, load_merged, tokens_of
from kilter.models.folder import quiet_transformers, read_json, readable
from kilter.models.remote_code import trusted
from kilter.models.resolve import base_of
from kilter.models.tokenizer import load_tokenizer

log = logging.getLogger("kilter")


def check_files(folder: Path, field: str) -> None:
    """Opens what a model will be loaded from, without loading it: configuration, tokenizer, heads of weights.

    Raises:
        UserError: one of them is missing or damaged.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    base, adapter = base_of(folder)
    with readable(base, field):
        AutoConfig.from_pretrained(str(base), trust_remote_code=trusted())
    load_tokenizer(folder if (folder / "tokenizer_config.json").is_file() else base)
    for path in sorted(p for part in {base, adapter or base} for p in part.glob("*.safetensors")):
        with readable(path, field), safe_open(path, "pt") as weights:
            weights.keys()


def load_causal(folder: Path, quantization: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model, with its adapters folded in.

    Args:
        folder: full weights, or an adapter that names its base.
        quantization: transformers' configuration for quantised weights; None for whole ones.
        dtype: of whole weights; float32 is the master copy. Each number is rounded once, at the end.

    Raises:
        UserError: if the model is a reward model, or if its files cannot be read or lack weights.
    """
    from transformers import AutoModelForCausalLM

    base_folder, adapter = base_of(folder)
    rewards = is_classifier(base_folder) or (adapter is not None and adapter_has_head(adapter))
    if rewards or scores_steps(base_folder):
        raise UserError(
            "model",
            str(folder),
            f"is a {'' if rewards else 'process '}reward model: it has no language-model head",
            "start from the policy it was made from",
        )
    refuse_unfit(base_folder, str(folder))
    # An adapter is added to exact weights: to the base in its own precision, where that is the one asked for.
    kept = adapter is None or (layered(adapter) and set(stored(base_folder).values()) == {dtype})
    extra: dict[str, Any] = {"dtype": dtype if kept else torch.float32}
    if quantization is not None:
        # Weights are quantised while they are loaded, and only the GPU has the kernels for it.
        place = {"": torch.cuda.current_device()}
        extra = {"dtype": torch.bfloat16, "quantization_config": quantization, "device_map": place}
    with readable(folder):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(base_folder), output_loading_info=True, trust_remote_code=trusted(), **extra
        )
    _refuse_missing(folder, info, set())
    _name_unread(folder, info)
    if adapter is None:
        return model
    found = _with_adapter(model, adapter, folder, dtype if kept else torch.float32)
    return found if quantization is not None or kept else found.to(dtype)


def stored(folder: Path) -> dict[str, torch.dtype]:
    """Name and precision of every weight in the safetensors that a model is read from."""
    from safetensors import safe_open

    found: dict[str, torch.dtype] = {}
    for file in weight_files(folder):
        # One of several may not have been downloaded.
        with readable(folder), safe_open(str(file), "pt") as weights:
            names = weights.keys()
            found |= {n: KINDS.get(str(weights.get_slice(n).get_dtype()), torch.uint8) for n in names}
    return found


KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Precisions of floating-point weights, by their names in safetensors."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers reads in a folder of full weights; none where it reads others."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    named = read_json(folder / "model.safetensors.index.json").get("weight_map") or {}
    return sorted({folder / str(name) for name in named.values()})


def as_stored(folder: Path, dtype: torch.dtype) -> list[Path]:
    """The files that hold just a policy's weights, in this precision and by its own names; else none."""
    base, adapter = base_of(folder)
    if adapter is not None or any(folder.glob("*.py")):
        return []
    found, (names, _) = stored(base), own_names(base)
    return weight_files(base) if found.keys() == names and set(found.values()) == {dtype} else []


def own_names(base: Path) -> tuple[set[str], str]:
    """Names of a policy's weights that lie in its files, and that of a tied head; "" without one."""
    bare = outline(base)
    names = set(bare.state_dict())
    if not bare.config.get_text_config().tie_word_embeddings:
        return names, ""
    head = bare.get_output_embeddings()
    tied = next((f"{name}.weight" for name, module in bare.named_modules() if module is head), "")
    return names - {tied}, tied


def _with_adapter(model: Any, adapter: Path, folder: Path, dtype: torch.dtype) -> Any:
    """The base with its adapter folded in, and the generation settings that the adapter brings."""
    from transformers import GenerationConfig

    with readable(folder):
        if (adapter / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(str(adapter))
        return load_merged(model, adapter, dtype)


def config_of(folder: Path) -> Any:
    """The configuration of a model's text part; that of its base where it is an adapter."""
    from transformers import AutoConfig

    base, _ = base_of(folder)
    with readable(base):
        config = AutoConfig.from_pretrained(str(base), trust_remote_code=trusted())
    return config.get_text_config()


def context_of(folder: Path) -> int | None:
    """Tokens that a row may have in a model; None where its configuration sets no end."""
    from kilter.models.positions import positions

    return positions(config_of(folder))


def vocabulary_of(folder: Path) -> int:
    """Tokens that have an embedding; an adapter may bring some of its own."""
    base, adapter = base_of(folder)
    if adapter is None:
        return int(config_of(folder).vocab_size)
    with readable(folder):
        return tokens_of(adapter, outline(base))


@functools.lru_cache(maxsize=4)
def outline(folder: Path) -> Any:
    """The modules of a model, from its configuration alone; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with readable(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trusted())
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trusted())


def empty_causal(folder: Path) -> Any:
    """The modules of a policy in full weights, float32 and without numbers; see `fillable`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with readable(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trusted())
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trusted())


def fillable(folder: Path) -> bool:
    """Whether `empty_causal` lacks only parameters and buffers, so that another process can fill it."""
    base, adapter = base_of(folder)
    quantised = read_json(base / "config.json").get("quantization_config")
    if adapter is not None or any(base.glob("*.py")) or quantised:
        return False
    names, head = own_names(base)
    found = stored(base).keys()
    # A head that lies in the files is not tied, whatever the configuration says.
    loose = any(torch.is_tensor(value) for m in outline(base).modules() for value in vars(m).values())
    return names <= found and head not in found and not loose


def refuse_unfit(folder: Path, value: str, field: str = "model") -> None:
    """Raises UserError for a model that no setting can train, from its config.json alone.

    Args:
        folder: full weights.
        value: what named the model.
        field: the setting.
    """
    config = read_json(folder / "config.json")
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith("ForMaskedLM"):
        raise UserError(
            field,
            value,
            f"is a masked-language model ({architecture}), which reads the tokens that it should predict",
            "use a causal language model, whose architecture ends in ForCausalLM",
        )
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        _refuse_unreadable_weights(quantised, field, value)


LOADS = {
    "gptq": "optimum gptqmodel",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "quanto": "optimum-quanto",
    "auto-round": "auto-round",
}
"""Method of quantisation to the packages that load its weights, where their names differ from its own."""


def _refuse_unreadable_weights(quantised: dict[str, Any], field: str, value: str) -> None:
    """Quantised weights need libraries that come with neither transformers nor Kilter."""
    from transformers.quantizers import AutoHfQuantizer

    # bitsandbytes wrote no name of its own at first.
    bits = quantised.get("load_in_4bit") or quantised.get("load_in_8bit")
    method = quantised.get("quant_method") or ("bitsandbytes" if bits else "an unknown method")
    try:
        with quiet_transformers():
            quantizer = AutoHfQuantizer.from_config(dict(quantised), pre_quantized=True)
            quantizer.validate_environment(device_map=None, weights_only=True)
    except (ImportError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:200]
        problem = f"has weights quantised by {method}, which cannot be loaded here ({reason})"
        if not isinstance(error, ImportError):
            raise UserError(field, value, problem, "give the model's full-precision weights") from error
        fix = f"run: pip install {LOADS.get(method, method)}. Or give the model's full-precision weights"
        raise UserError(field, value, problem, fix) from error


def require_head(folder: Path, field: str) -> None:
    """Raises UserError for a model without a score head. Reads its configuration alone."""
    base, adapter = base_of(folder)
    if not is_classifier(base) and not (adapter and adapter_has_head(adapter)):
        raise UserError(
            field,
            str(folder),
            "is not a reward model (it has no score head)",
            "train one with method bradley_terry",
        )


def load_reward(folder: Path, pad_token_id: int | None, seed: int = 0, fresh: bool = False) -> Any:
    """A sequence classifier with one output, adapters folded in.

    Args:
        folder: a reward model, an adapter with a head, or, if `fresh`, a causal language model. pad_token_id:
            written to the config. Hugging Face's own pooling finds the last token only if it differs from
            EOS. seed: of whatever transformers draws for a head that the files lack. fresh: whether a causal
            language model is accepted; its score head then starts at zero.

    Raises:
        UserError: if the model has no score head and `fresh` is not set, or if its files cannot be read or
            lack weights.
    """
    from transformers import AutoModelForSequenceClassification

    base_folder, adapter = base_of(folder)
    made = not is_classifier(base_folder)
    if not fresh:
        require_head(folder, "reward_model")
    torch.manual_seed(seed)
    with readable(folder):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(base_folder),
            num_labels=1,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=trusted(),
        )
    _refuse_missing(folder, info, {"score.weight"} if made else set())
    if not hasattr(model, "score"):
        raise UserError(
            "model",
            str(folder),
            f"has no `score` head ({type(model).__name__})",
            "use a decoder-only model for reward models",
        )

    # From zero, every answer scores alike at first, whatever the seed.
    if made:
        torch.nn.init.zeros_(model.score.weight)
    model.config.get_text_config().pad_token_id = pad_token_id
    model.config.pad_token_id = pad_token_id
    if adapter is not None and adapter_has_head(adapter):
        return load_merged(model, adapter)

    # An adapted policy becomes the backbone: its adapters fit a causal model, so they are folded in there.
    if adapter is not None:
        policy = load_causal(folder)
        model.resize_token_embeddings(policy.get_input_embeddings().weight.shape[0], mean_resizing=False)
        getattr(model, model.base_model_prefix).load_state_dict(
            getattr(policy, policy.base_model_prefix).state_dict()
        )
    return model


def load_steps(folder: Path) -> Any:
    """A token classifier with float32 weights: a process reward model, whose last label is "correct"."""
    from transformers import AutoModelForTokenClassification

    with readable(folder):
        return AutoModelForTokenClassification.from_pretrained(
            str(folder), dtype=torch.float32, trust_remote_code=trusted()
        )


MADE_BY = "kilter.json"
"""Beside a trained model: its method, and whether a reward model reads "answers" or "pairs" of them."""


def reads_pairs(folder: Path) -> bool:
    """Whether a model of this folder scores two answers in one row (method pairwise_preference)."""
    path = folder / MADE_BY
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("reads") == "pairs"


def scores_steps(folder: Path) -> bool:
    """Whether a model of this folder classifies tokens: a process reward model."""
    return not is_adapter(folder) and _architecture(folder).endswith("ForTokenClassification")


def is_classifier(folder: Path) -> bool:
    """Whether full weights have a score head, as config.json says."""
    return _architecture(folder).endswith("ForSequenceClassification")


def _architecture(folder: Path) -> str:
    """The class of full weights, as config.json says; "" where it names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = config.get("architectures") or [""]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            "model",
            str(folder),
            f"has a config.json that cannot be read ({error})",
            "copy config.json from the original model",
        ) from error
    return str(architectures[0])


def adapter_has_head(folder: Path) -> bool:
    """Whether an adapter was trained with a reward head."""
    task = json.loads((folder / "adapter_config.json").read_text()).get("task_type")
    return str(task) == "SEQ_CLS"


def _refuse_missing(folder: Path, info: dict[str, Any], allowed: set[str]) -> None:
    missing = sorted(set(info.get("missing_keys", ())) - allowed)
    if missing:
        raise UserError(
            "model",
            str(folder),
            f"lacks {len(missing)} weights in its files ({missing[0]}, ...)",
            "copy all weight files. Random weights are never filled in",
        )


def _name_unread(folder: Path, info: dict[str, Any]) -> None:
    """Says that files hold weights which the configuration has no place for, such as further layers."""
    if unread := sorted(info.get("unexpected_keys", ())):
        text = "%s holds %d weights that its configuration has no place for (%s, ...): they are not read"
        log.warning(text, folder, len(unread), unread[0])
