"""Who writes or judges, as one word says it: a world's own critic, a model, or a file of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kilter.data.worlds.registry import PREFIX, worlds
from kilter.errors import UserError
from kilter.sampling.config import SamplerKind
from kilter.validation import load_yaml, with_fix

FILES = (".yaml", ".yml")


def own_critic(text: str) -> SamplerKind | None:
    """The world's own critic in `builtin:WORLD`, `builtin:WORLD:CRITIC`; None of anything else."""
    name, _, critic = text.removeprefix(PREFIX).partition(":")
    if not text.startswith(PREFIX) or name not in worlds.names():
        return None
    return SamplerKind(name="world", options={"world": name, "critic": critic or "constitution"})


def settings(value: Any) -> Any:
    """Settings whose `model` is one such word, as the fields that it stands for.

    Fields beside a file replace those in it. A validator of settings calls this before their own checks.

    Raises:
        PydanticCustomError: the file is not there, or holds no settings.
    """
    if not isinstance(value, dict) or not isinstance(text := value.get("model"), str):
        return value
    rest = {name: v for name, v in value.items() if name != "model"}
    if text.endswith(FILES):
        value = _read(text) | rest
        rest = {name: v for name, v in value.items() if name != "model"}
    own = own_critic(str(value.get("model", "")))
    return value if own is None or "sampler" in rest else rest | {"sampler": own}


def _read(path: str) -> dict[str, Any]:
    """What a file of settings holds."""
    fix = "give a file of settings in YAML, a model, or builtin:WORLD"
    if not Path(path).is_file():
        raise with_fix(UserError("model", path, f"names the file {path}, which is not there", fix))
    try:
        found = load_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = f"names the file {path}, which is not YAML ({' '.join(str(error).split())[:160]})"
        raise with_fix(UserError("model", path, problem, fix)) from error
    if not isinstance(found, dict):
        raise with_fix(UserError("model", path, f"names the file {path}, which is not a mapping", fix))
    return found
