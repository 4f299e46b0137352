"""What there is to train with, read without torch: names, fields and words of every shipped method.

A method's file needs torch to define its loss, and torch takes two seconds to import. What people ask before
anything is trained (`kilter methods`, a misspelt name, shell completion) is therefore kept beside the files,
in index.json. The alternative, torch imported inside each loss, puts an import between every formula and its
reader. `kilter methods --write docs/methods` writes index.json from the classes, and tests/test_start.py
compares the two. A new file is read at once, listed or not.
"""

from __future__ import annotations

import functools
import importlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.artifacts import write_text
from kilter.objectives.describe import Description, describe
from kilter.objectives.knobs import Knob, check_options, check_value
from kilter.objectives.registry import build_objective, mixture_parts, objectives, settings

if TYPE_CHECKING:
    from kilter.batch import Needs

ROOT = Path(__file__).parent
INDEX = ROOT / "index.json"


@dataclass(frozen=True, slots=True)
class Brief:
    """The part of a method's Needs that plans read; see there."""

    shape: str
    models: frozenset[str]
    annotations: frozenset[str]
    opponent: str | None
    inner_epochs: int
    corrections: frozenset[str]
    teacher: bool

    @classmethod
    def of(cls, needs: Needs) -> Brief:
        """The same fields of a Needs."""
        return cls(**{f.name: getattr(needs, f.name) for f in fields(cls)})

    def to_json(self) -> dict[str, Any]:
        """Plain values, sets in order."""
        return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(self).items()}


def modules() -> list[str]:
    """Every module in the rooms below this package, in order; files are listed, not imported."""
    found = [p.relative_to(ROOT).with_suffix("") for p in sorted(ROOT.glob("*/*.py")) if p.stem != "__init__"]
    return [".".join(("kilter", "objectives", *p.parts)) for p in found]


@functools.cache
def _read() -> dict[str, Any]:
    empty: dict[str, Any] = {"modules": {}, "methods": {}, "needs": {}}
    return empty | (json.loads(INDEX.read_text(encoding="utf-8")) if INDEX.is_file() else {})


def listed() -> dict[str, list[str]]:
    """Module to the names that it registers."""
    found: dict[str, list[str]] = _read()["modules"]
    return found


def known(name: str) -> Description | None:
    """The description of a shipped method; None for a name that the index does not hold."""
    entry = _read()["methods"].get(name)
    if entry is None:
        return None
    knobs = tuple(Knob(**k | {"choices": tuple(k["choices"])}) for k in entry["knobs"])
    return Description(**entry | {"knobs": knobs, "models": tuple(entry["models"])})


def lookup(name: str) -> Description:
    """The description of any method: from the index, or from the class itself for `file.py:Name`."""
    return known(name) or describe(name)


def brief(config: Any) -> Brief:
    """What a method needs: from the index, or from the class itself where a setting may change it."""
    options = settings(config)
    name = options.get("name")
    found, about = _read()["needs"].get(name), _read()["methods"].get(name, {})
    usual = {"name": name} | {knob["name"]: knob["default"] for knob in about.get("knobs", ())}
    if found is None or not options.items() <= usual.items():
        return Brief.of(build_objective(config).needs)
    fields: dict[str, Any] = {k: frozenset(v) if isinstance(v, list) else v for k, v in found.items()}
    return Brief(**fields)


def live() -> dict[str, Any]:
    """The content that index.json should have, from the classes themselves."""
    places: dict[str, list[str]] = {module: [] for module in modules()}
    for module in places:
        importlib.import_module(module)
    methods, needs = {}, {}
    for name, factory in objectives.registered():
        if factory.__module__ in places:  # whatever else this process registered is not Kilter's
            places[factory.__module__].append(name)
            methods[name] = describe(name).to_json()
            needs[name] = Brief.of(build_objective(name).needs).to_json()
    return {"modules": places, "methods": methods, "needs": needs}


def write() -> None:
    """Brings index.json up to date; the same content is not written again."""
    text = json.dumps(live(), indent=1, ensure_ascii=False) + "\n"
    if not INDEX.is_file() or INDEX.read_text(encoding="utf-8") != text:
        write_text(INDEX, text)


def check(config: Any) -> None:
    """Raises UserError for a wrong name, field or value of a shipped method; users' own are not read yet."""
    options = settings(config)
    if "mix" in options:
        for _, part in mixture_parts(options):
            check(part)
        return
    name = options.pop("name")
    found = known(name)
    if found is None:
        objectives.require(name)
        return
    knobs = {k.name: k for k in found.knobs}
    check_options(name, options, {k.name: (k.default, k.nullable) for k in found.knobs})
    for key, value in options.items():
        check_value(knobs[key], value, f"{name}.{key}")
