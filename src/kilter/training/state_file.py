"""Tensors with the plain values around them, in one safetensors file: a format that cannot hold code.

The header has the values as JSON. In it a tensor stands as its name, and what JSON does not know (tuples, and
mappings whose keys are no text) is named. So a state comes back as it was: types, order and every bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kilter.errors import UserError

KIND = "$"
"""In the JSON: marks a mapping that stands for another value, and says for which kind."""

HEADER = "kilter.values"
"""Key of the JSON in the file's header."""


def write_values(path: Path, value: Any) -> None:
    """Writes tensors, numbers, text, None, and lists, tuples and mappings of them.

    Args:
        path: the file.
        value: its mappings may have any plain value as a key.

    Raises:
        TypeError: it holds anything else, or a number format that safetensors has no name for.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _Writer(tensors).plain(value, ())
    save_file(tensors, path, metadata={HEADER: json.dumps(tree)})


def read_values(path: Path) -> Any:
    """The inverse of `write_values`.

    Raises:
        UserError: the file is damaged, or is of another kind.
    """
    try:
        with safe_open(path, "pt") as file:
            # Copies: what safetensors gives is a window on the file, which may be removed or replaced.
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
            tree = json.loads(file.metadata()[HEADER])
        return _read(tree, tensors)
    except Exception as error:  # safetensors has one class for all, and JSON another
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            "out",
            str(path),
            f"cannot be read as tensors ({type(error).__name__}: {reason})",
            "remove the file's folder, and begin this run anew",
        ) from error


class _Writer:
    """Turns values into JSON, and puts their tensors aside by name.

    Args:
        tensors: what is put aside.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self._storages: set[int] = set()

    def plain(self, value: Any, path: tuple[Any, ...]) -> Any:
        """JSON for a value that stands at this path."""
        for kind in type(value).__mro__:
            if kind in WRITERS:
                return WRITERS[kind](self, value, path)
        raise TypeError(f"{'.'.join(map(str, path))}: a state cannot hold a {type(value).__name__}")

    def as_is(self, value: Any, path: tuple[Any, ...]) -> Any:
        """What JSON knows."""
        return value

    def sequence(self, value: Any, path: tuple[Any, ...]) -> Any:
        """A list."""
        return [self.plain(item, (*path, n)) for n, item in enumerate(value)]

    def pair(self, value: Any, path: tuple[Any, ...]) -> Any:
        """A tuple."""
        return {KIND: "tuple", "items": self.sequence(value, path)}

    def mapping(self, value: Any, path: tuple[Any, ...]) -> Any:
        """A mapping: JSON's own where all keys are text, else its items."""
        if KIND not in value and all(type(key) is str for key in value):
            return {key: self.plain(item, (*path, key)) for key, item in value.items()}
        items = [[self.plain(key, path), self.plain(item, (*path, key))] for key, item in value.items()]
        return {KIND: "mapping", "items": items}

    def tensor(self, value: Any, path: tuple[Any, ...]) -> Any:
        """A tensor: its name. Tensors that share memory are stored one by one, as safetensors wants them."""
        value = value.detach().contiguous()
        storage = value.untyped_storage().data_ptr()
        if storage in self._storages:
            value = value.clone()
        elif value.numel():
            self._storages.add(storage)

        # Paths may meet: {"a": {"b": 1}} and {"a.b": 1} have one path, and a header one name for its own.
        name = ".".join(map(str, path)).encode("ascii", "backslashreplace").decode()
        while name in self.tensors or name == "__metadata__":
            name += "_"
        self.tensors[name] = value
        return {KIND: "tensor", "name": name}


WRITERS: dict[type, Callable[[_Writer, Any, tuple[Any, ...]], Any]] = {
    **dict.fromkeys((type(None), bool, int, float, str), _Writer.as_is),
    list: _Writer.sequence,
    tuple: _Writer.pair,
    dict: _Writer.mapping,
    torch.Tensor: _Writer.tensor,
}
"""Type to how it is written; any other type as the nearest one that it is derived from."""


def _read(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value that this JSON stands for."""
    if type(value) is list:
        return [_read(item, tensors) for item in value]
    if type(value) is not dict:
        return value
    if KIND not in value:
        return {key: _read(item, tensors) for key, item in value.items()}
    return READERS[value[KIND]](value, tensors)


READERS: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]] = {
    "tuple": lambda value, tensors: tuple(_read(value["items"], tensors)),
    "mapping": lambda value, tensors: {_read(k, tensors): _read(v, tensors) for k, v in value["items"]},
    "tensor": lambda value, tensors: tensors[value["name"]],
}
"""Kind of a marked mapping to what reads it."""
