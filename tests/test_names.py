"""Names in messages are names for --set: what spoils a recipe is mended by the field that the message names."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from conftest import pair_rows
from kilter import cli, feedback, stages
from kilter.data.dataset import DataSpec
from kilter.errors import UserError
from kilter.launch.spec import ClusterSpec
from kilter.models.config import AdapterSpec
from kilter.recipe import override, parse
from kilter.training.config import CriticSpec, EarlyStopping, FsdpSpec, KLControl, MonitorSpec, TrainSpec

NESTED = {
    "sampler": {},
    "kl_control": {},
    "critic": {},
    "monitors": {},
    "early_stopping": {},
    "adapter": {},
    "fsdp": {},
    "cluster": {role: {} for role in ("learner", "rollout", "reference", "reward", "critic")},
}
"""Parts of a train stage that are mappings of their own."""

WRONG = {"no": {"such": "value"}}
"""What no setting takes."""


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The settings of a model that are no mappings, by the names that a recipe gives them."""
    found: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        here, inner = (*path, field.alias or name), field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += leaves(inner, here) if nested else [here]
    return found


def places() -> list[tuple[str, ...]]:
    """Where a value can be wrong in a recipe with named data, mixtures, rounds and nested settings."""
    parts = {
        "adapter": AdapterSpec,
        "fsdp": FsdpSpec,
        "early_stopping": EarlyStopping,
        "cluster": ClusterSpec,
    }
    parts |= {"critic": CriticSpec, "kl_control": KLControl, "monitors": MonitorSpec}
    settings = [(name,) for name in (f.alias or n for n, f in TrainSpec.model_fields.items())]
    settings = [p for p in settings if p[0] not in (*parts, "sampler", "method", "feedback")]
    settings += leaves(TrainSpec.model_fields["sampler"].annotation, ("sampler",))
    settings += [p for name, model in parts.items() for p in leaves(model, (name,))]
    found = [("stages", "dpo", "train", *p) for p in settings]
    found += [("stages", "loop", "stages", "again", "train", *p) for p in settings[::5]]
    found += [("stages", "e", "evaluate", *p) for p in leaves(stages.kinds.get("evaluate").Spec)]
    found += [("stages", "g", "generate", *p) for p in leaves(stages.kinds.get("generate").Spec)]
    sets = [p for p in leaves(DataSpec) if p[0] not in ("parts", "world", "path", "condition", "pairs")]
    found += [("data", "desk", *p) for p in sets]
    part = ("format", "split", "weight", "heldout", "on_bad_row")
    return found + [("data", "mixed", "parts", "1", name) for name in part]


# What takes anything, a mapping among them: a mapping is no mistake there.
FREE = {
    "gold",
    "feedback",
    "start",
    "options",
    "resources",
    "map",
    "world",
    "models",
    "reward_model",
    "process_reward",
}
FREE |= {"judge", "suites", "probes", "references", "method", "response", "independent", "classifiers"}


def good() -> dict:
    """A recipe with every kind of place."""
    again = {"train": {"method": "dpo", "data": "$desk"} | copy.deepcopy(NESTED)}
    return {
        "name": "r",
        "data": {
            "desk": {"path": "a.jsonl"},
            "mixed": {"parts": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]},
        },
        "stages": {
            "dpo": copy.deepcopy(again),
            "loop": {"rounds": 2, "stages": {"again": copy.deepcopy(again)}},
            "g": {"generate": {"data": "$desk"}},
            "e": {"evaluate": {"models": ["dpo"], "data": "$desk"}},
        },
    }


def at(raw, path):
    for key in path:
        raw = raw[int(key)] if isinstance(raw, list) else raw.setdefault(key, {})
    return raw


def default(path: tuple[str, ...]) -> str:
    """A value that the place takes: what a good recipe has there without being asked."""
    recipe = parse(good())
    if path[0] == "data":
        spec = recipe.data[path[1]]
        spec, rest = (spec.parts[int(path[3])], path[4:]) if path[2:3] == ("parts",) else (spec, path[2:])
    else:
        name = "loop-1.again" if path[1] == "loop" else path[1]
        spec, rest = recipe.stages[name].spec, path[5 if path[1] == "loop" else 3 :]
    value = spec.model_dump(mode="json", by_alias=True)
    for key in rest:
        value = value[key]
    return json.dumps(value)


PLACES = [p for p in places() if p[-1] not in FREE]


@pytest.mark.parametrize("path", PLACES, ids=".".join)
def test_the_field_that_a_message_names_mends_the_recipe(path):
    raw = good()
    at(raw, path[:-1])[path[-1]] = WRONG
    with pytest.raises(UserError) as refused:
        parse(copy.deepcopy(raw))
    assert refused.value.field.startswith(".".join(path))
    # A union is named by the setting, whatever stands in it.
    parse(raw, [f"{'.'.join(path)}={default(path)}"])


def test_there_are_many_places():
    assert len(PLACES) > 150


@pytest.mark.parametrize(
    ("raw", "item", "where"),
    [
        ({"data": ["a.jsonl", "b.jsonl"]}, "data.parts.1.weight=2", ("data", "parts", "1", "weight")),
        ({"data": {"path": ["a.jsonl", "b.jsonl"]}}, "data.parts.0.path=c", ("data", "parts", "0", "path")),
        ({"data": {"data": {"path": "a"}, "pr": {"path": "b"}}}, "data.limit=2", ("data", "data", "limit")),
        ({"data": {"pr": ["a", "b"]}}, "data.pr.parts.0.weight=2", ("data", "pr", "parts", "0", "weight")),
        (
            {"stages": {"s": {"train": {"adapter": "lora"}}}},
            "stages.s.train.adapter.r=2",
            ("stages", "s", "train", "adapter", "r"),
        ),
    ],
)
def test_short_forms_have_the_places_of_the_long_ones(raw, item, where):
    override(raw, item)
    assert at(raw, where) in (2, "c")


@pytest.mark.parametrize("item", ["data.parts.7.weight=2", "data.parts.x.weight=2", "data.parts.-1.weight=1"])
def test_a_place_that_a_list_has_not_is_refused(item):
    with pytest.raises(UserError, match="sets a place that the list has not"):
        override({"data": ["a", "b"]}, item)


LATE = {
    "data.pr.path": {"data": {"pr": {"path": "nope.jsonl"}}},
    "data.mixed.parts.1.path": {"data": {"mixed": [{"path": "pairs.jsonl"}, {"path": "nope.jsonl"}]}},
    "data.path": {"data": {"path": "nope.jsonl"}},
    "data.parts.0.path": {"data": ["nope.jsonl", "pairs.jsonl"]},
    "stages.dpo.train.method.beta": {"method": {"name": "dpo", "beta": -1}},
    "stages.dpo.train.adapter.target": {"adapter": {"target": ["nope"]}},
    "stages.dpo.train.template": {"template": "no.jinja"},
    "stages.dpo.train.trackers": {"trackers": ["nope"]},
}
"""Fields that only the machine and the data can refuse, and what is wrong with the recipe."""


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
@pytest.mark.parametrize("field", LATE)
def test_what_is_refused_late_has_its_full_name(field, dry, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pair_rows(24)))
    wrong = dict(LATE[field])
    data = wrong.pop("data", {"pr": {"path": "pairs.jsonl"}})
    name = "data" if isinstance(data, list) or "path" in data else next(iter(data))
    train = {"method": "dpo", "data": f"${name}"} | wrong
    recipe = {"model": str(tiny), "data": data, "stages": {"dpo": {"train": train}}}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr("sys.argv", ["kilter", "run", "r.yaml", *["--dry-run"] * dry])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert f"`{field}`" in captured.out + captured.err
    # The field takes a value as it is printed.
    override(recipe, f"{field}=x")


FEEDBACK = {
    "feedback": ("maths", "math"),
    "feedback.math.kee": ({"math": {"kee": "x"}}, None),
    "feedback.regex.pattern": ({"regex": "["}, "a+"),
    "feedback.length.buffer": ({"length": {"limit": 5, "buffer": 0}}, "3"),
    "feedback.weight": ({"math": {}, "weight": "x"}, "2"),
    "feedback.1": (["math", "maths"], "format"),
    "feedback.1.regex.pattern": (["math", {"regex": "["}], "a+"),
    "feedback.0.weight": ([{"math": None, "weight": "x"}, "format"], "2"),
    "feedback.2.length.buffer": (["math", "format", {"length": {"limit": 5, "buffer": 0}}], "3"),
    "feedback.1.r.py:reward.timeout": (["math", {"r.py:reward": {"timeout": -1}}], "3"),
}
"""Fields of wrong feedback: what is wrong, and what mends it; None where nothing in that place would."""


def check_feedback(recipe: dict) -> None:
    spec = parse(recipe).stages["t"].spec
    feedback.check(spec.feedback, "stages.t.train.feedback")


@pytest.mark.parametrize("field", FEEDBACK)
def test_an_entry_of_feedback_has_the_name_that_mends_it(field, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.py").write_text("def reward(prompt, completion): return 1.0\n")
    wrong, right = FEEDBACK[field]
    train = {"method": "grpo", "prompts": "$data", "feedback": wrong}
    raw = {"data": {"path": "a"}, "stages": {"t": {"train": train}}}
    with pytest.raises(UserError) as refused:
        check_feedback(copy.deepcopy(raw))
    assert refused.value.field.removeprefix("stages.t.train.") == field
    if right is not None:
        override(raw, f"stages.t.train.{field}={right}")
        check_feedback(raw)


@pytest.mark.parametrize(
    ("wrote", "item", "reads"),
    [
        ("math", "math.key=x", {"math": {"key": "x"}}),
        (["format", "math"], "1.math.key=x", ["format", {"math": {"key": "x"}}]),
        ({"reward_model": "rm"}, "reward_model.dtype=bfloat16", None),
        ({"reward_model": "rm"}, "reward_model.model=other", {"reward_model": {"model": "other"}}),
    ],
)
def test_short_forms_of_feedback_have_the_places_of_the_long_ones(wrote, item, reads):
    train = {"method": "grpo", "prompts": "$data", "feedback": wrote}
    raw = {"data": {"path": "a"}, "stages": {"t": {"train": train}}}
    override(raw, f"stages.t.train.feedback.{item}")
    found = parse(raw).stages["t"].spec.feedback
    assert found == (reads or {"reward_model": {"model": "rm", "dtype": "bfloat16"}})


def test_no_setting_takes_infinity():
    """A number that is none passes every other bound, and ends in a loss of nan."""

    def models(base):
        for one in base.__subclasses__():
            yield one
            yield from models(one)

    def floats(hint):
        return hint is float or any(map(floats, getattr(hint, "__args__", None) or ()))

    specs = {name: stages.kinds.get(name).Spec for name in stages.kinds.names()}
    seen, waiting = set(), [*specs.values(), DataSpec]
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        for field in model.model_fields.values():
            stack = [field.annotation]
            while stack:
                hint = stack.pop()
                stack += getattr(hint, "__args__", None) or ()
                if isinstance(hint, type) and issubclass(hint, BaseModel):
                    waiting.append(hint)
            if floats(field.annotation):
                assert model.model_config.get("allow_inf_nan") is False, model
    assert len(seen) > 15
    assert math.inf > 0
