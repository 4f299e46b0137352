"""Constitutions from files: shipped ones by name, constitution.yaml, and the public JSON layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kilter.constitution.document import Constitution
from kilter.constitution.layouts import imported
from kilter.errors import UserError
from kilter.validation import as_user_error, load_yaml, unique

SHIPPED = Path(__file__).parent / "shipped"


def shipped() -> list[str]:
    """Names of the constitutions that come with Kilter."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str, field: str = "constitution") -> Path:
    """The file that a name or path means.

    Raises:
        UserError: there is none.
    """
    if name in shipped():
        return SHIPPED / f"{name}.yaml"
    path = Path(name)
    if path.is_file():
        return path
    fix = f"give a .yaml or .json file, or one of {', '.join(shipped())}"
    raise UserError(field, name, "names no constitution", fix)


def load(name: str, field: str = "constitution") -> Constitution:
    """A shipped constitution by its name, a .yaml file, or a .json file of a public layout.

    Raises:
        UserError: with field, value and fix.
    """
    path = find(name, field)
    raw = read(path, field)
    if _is_json(path):
        raw = imported(raw, path, field)
    if not isinstance(raw, dict):
        raise UserError(field, str(path), "is not a mapping", "write version:, name: and principles:")
    return build(raw, f"{field} {path.name}")


def build(raw: Mapping[str, Any], where: str = "constitution") -> Constitution:
    """A checked constitution from plain data. Raises UserError."""
    try:
        return Constitution.model_validate(raw)
    except ValidationError as error:
        raise as_user_error(error, where, Constitution) from error


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def read(path: Path, field: str) -> Any:
    """Plain data from a YAML or JSON file. Raises UserError."""
    if not path.is_file():
        raise UserError(field, str(path), "names no file", "correct the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if _is_json(path):
            return json.loads(text, object_pairs_hook=unique)
        return load_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        kind = "JSON" if _is_json(path) else "plain YAML"
        raise UserError(
            field,
            str(path),
            f"is not {kind} ({' '.join(str(error).split())[:160]})",
            "correct the file: no tags, no repeated keys, no open brackets",
        ) from error
