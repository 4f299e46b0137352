"""Names to factories. A duplicate is an error; `package.module:Name` or `file.py:Name` is always accepted."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from kilter.errors import UserError, nearest
from kilter.validation import TookTooLong, ends_within

T = TypeVar("T")


def user_files(value: Any) -> list[Path]:
    """The files that a configuration names as file.py:Name. Their content is part of the configuration."""
    if isinstance(value, str):
        where, colon, _ = value.removeprefix("builtin:").rpartition(":")
        path = Path(where)
        return [path] if colon and where.endswith(".py") and path.is_file() else []
    if isinstance(value, Mapping):
        return [p for k, v in value.items() for p in (*user_files(str(k)), *user_files(v))]
    if isinstance(value, list | tuple):
        return [p for v in value for p in user_files(v)]
    return []


USER_MODULE = "kilter_user_"
"""How the modules of files that a user names begin."""


def user_line(error: BaseException) -> int | None:
    """The line of a user's own file in which an error arose; None where it arose elsewhere."""
    return next((line for _, line in _user_frames(error)), None)


def user_file(error: BaseException) -> Path | None:
    """The user's own file in which an error arose."""
    return next((path for path, _ in _user_frames(error)), None)


def _user_frames(error: BaseException) -> list[tuple[Path, int]]:
    """Frames of the traceback that lie in a user's file, innermost first."""
    # A generator's StopIteration becomes an error of Python's own, whose traceback lacks the generator.
    found = [
        (f.f_code.co_filename, line)
        for one in (error, error.__cause__)
        for f, line in traceback.walk_tb(None if one is None else one.__traceback__)
        if str(f.f_globals.get("__name__", "")).startswith(USER_MODULE)
    ]
    return [(Path(name), line) for name, line in reversed(found)]


READ_LIMIT = 60.0
"""Seconds that a user's own file may take to be read, its imports included, or its reader for one row."""


class _LeftError(BaseException):
    """What a user's file would do to the process or the terminal; not to be caught by the file itself."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A user's own code neither ends the process in silence, nor waits for a person, nor runs on.

    It leaves behind neither another folder nor other modes of torch.

    Raises:
        One of UNBOUND: it tried to.
    """

    def leave(code: int = 0) -> None:
        raise _LeftError(f"ends the process (os._exit({code}))")

    def pause(*arguments: object, **options: object) -> None:
        raise _LeftError("calls breakpoint()")

    kept = os._exit, sys.breakpointhook, sys.stdin
    torch = sys.modules.get("torch")
    modes = (torch.is_grad_enabled(), torch.get_default_dtype()) if torch else None
    folder = os.getcwd()
    with open(os.devnull) as empty, ends_within(READ_LIMIT):
        os._exit, sys.breakpointhook, sys.stdin = leave, pause, empty  # type: ignore[assignment]
        try:
            yield
        finally:
            os._exit, sys.breakpointhook, sys.stdin = kept
            # A file may move into its own folder, or switch gradients off for a model that it opens.
            os.chdir(folder)
            if torch := sys.modules.get("torch"):
                grad, dtype = modes or (True, torch.float32)
                torch.set_grad_enabled(grad)
                torch.set_default_dtype(dtype)


UNBOUND = (TookTooLong, SystemExit, _LeftError)
"""What ends a user's code within `bounded`."""


def left(error: BaseException) -> str:
    """What a user's code did that `bounded` has ended, and where."""
    what = f"ends the process (exit code {error.code})" if isinstance(error, SystemExit) else str(error)
    return f"it {what}, in line {user_line(error)}"


class Registry(Generic[T]):
    """One kind of thing by name: objectives, feedback sources, samplers, suites."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._places: dict[str, str] = {}
        self._included: list[tuple[Callable[[], Collection[str]], Callable[[str], T]]] = []

    def declare(self, module: str, *names: str) -> None:
        """Says that importing `module` registers `names`.

        The names are known at once; the module is read on demand.
        """
        for name in names:
            if name in self._entries or name in self._places:
                raise ValueError(f"{self.kind} {name!r} is already declared or registered")
            self._places[name] = module

    def include(self, names: Callable[[], Collection[str]], get: Callable[[str], T]) -> None:
        """Takes in what another registry holds.

        Both are asked each time, so what joins the other one later is known here at once.
        """
        self._included.append((names, get))

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator. Raises ValueError when `name` is taken: entries are never overwritten in silence."""

        def add(entry: T) -> T:
            # A declared name belongs to its own module: whoever else asks for it meets that entry below.
            place = self._places.get(name)
            if place is not None and place not in sys.modules:
                importlib.import_module(place)
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is already registered by {self._entries[name]!r}")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str, field: str = "") -> T:
        """The entry of this name, or the object that `package.module:Name` or `file.py:Name` points to.

        Args:
            name: of the entry.
            field: that names it, for messages; default: the kind.
        """
        self.require(name, field)
        if name not in self._entries and name in self._places:
            importlib.import_module(self._places[name])
        if name in self._entries:
            return self._entries[name]
        for names, get in self._included:
            if name in names():
                return get(name)
        return self._import(name, field or self.kind)

    def require(self, name: str, field: str = "") -> None:
        """Raises UserError for a name that nobody registered; no file is read, not even a user's own."""
        if ":" in name or name in self.names():
            return
        if name.endswith(".py"):
            raise UserError(
                field or self.kind,
                name,
                "names a file without its class or function",
                f"write {name}:NAME, the class or function to use",
            )
        raise UserError(field or self.kind, name, "is not registered", nearest(name, self.names()))

    def names(self) -> list[str]:
        """Registered and declared names, sorted."""
        return sorted({*self._entries, *self._places, *(n for names, _ in self._included for n in names())})

    def in_order(self) -> list[T]:
        """What has been read so far, in the order in which it was registered."""
        return list(self._entries.values())

    def registered(self) -> list[tuple[str, T]]:
        """What has been read so far, by name."""
        return sorted(self._entries.items(), key=lambda kv: kv[0])

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return iter([(name, self.get(name)) for name in self.names()])

    def _import(self, name: str, field: str) -> T:
        where, _, attribute = name.rpartition(":")
        try:
            if where.endswith(".py"):
                path = Path(where)
                spec = importlib.util.spec_from_file_location(f"{USER_MODULE}{path.stem}", path)
                if spec is None or spec.loader is None or not path.is_file():
                    raise ImportError(f"no file {where}")
                module: Any = importlib.util.module_from_spec(spec)
                sys.modules[spec.name] = module
                with bounded():
                    spec.loader.exec_module(module)
            else:
                with bounded():
                    module = importlib.import_module(where)
            entry: T = getattr(module, attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(
                field,
                name,
                f"cannot be imported ({error})",
                "give package.module:Name or path/to/file.py:Name",
            ) from error
        except UNBOUND as error:
            raise UserError(
                field,
                name,
                f"cannot be imported: {left(error)}",
                f"move that out of {where}, or behind `if __name__ == '__main__':`",
            ) from error
        except Exception as error:  # whatever the user's own code raises while it is read
            line = error.lineno if isinstance(error, SyntaxError) else user_line(error)
            raise UserError(
                field, name, f"fails with {type(error).__name__} in line {line}: {error}", f"correct {where}"
            ) from error
        return entry
