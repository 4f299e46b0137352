"""Settings of judges: what no judge would read is refused before any work, at every door."""

from __future__ import annotations

import json
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.cli import main
from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.judge.build import build, check, load_spec, over, parse_spec
from kilter.feedback.judge.protocol import ChatJudge
from kilter.feedback.judge.spec import JudgeSpec, Price
from kilter.feedback.judge.verdict import Comparison, Exam
from kilter.sampling.config import FOLLOWS, READS, SamplerKind
from kilter.types import Choice, Prompt, Reply

MODES = ("pairwise", "rubric", "reference", "constitution", "safety")
READINGS = ("logprob", "text", "reasoned")
VALUES = {
    "criterion": ("", "Shorter is better."),
    "scale": (5, 3),
    "clamp": (None, (0.4, 0.6)),
    "min_mass": (0.8, 0.95),
    "max_tokens": (512, 16),
}
"""The default, and another value that is right by itself."""

PEOPLE = {
    "local": {"name": "local"},
    "vllm": {"name": "vllm"},
    "openai": {"name": "openai", "model": "some-model"},
    "world": {"name": "world"},
}
OF_SAMPLERS = {
    "tokens_per_batch": 128,
    "url": "http://localhost:1/v1",
    "timeout": 5.0,
    "memory": 0.5,
    "model": "another-model",
    "concurrency": 2,
    "retries": 1,
    "options": {"sure": 0.9},
}
"""Of each field of a sampler a value that is not its default."""


@dataclass
class Told:
    """A Chat that notes all it is asked for. Nine tenths of the probability are on the verdict."""

    heard: list = field(default_factory=list)

    def reply(self, asks):
        self.heard += [a.messages for a in asks]
        # A judge that never lets a model write does not read how much it may write.
        self.heard.append("writes")
        return [Reply("Reasons.") for _ in asks]

    def choose(self, asks, options):
        self.heard += [(a.messages, tuple(options)) for a in asks]
        return [Choice(tuple(options), (0.9, *[0.1 / (len(options) - 1)] * (len(options) - 1)), 0.9)] * len(
            asks
        )


def behaviour(mode, read, key, value):
    """All that a judge asks and says, for one value of one setting."""
    # The rule is Constitutional AI's, for verdicts after reasons: no other reading clamps.
    value = None if key == "clamp" and read != "reasoned" else value
    spec = JudgeSpec.model_construct(mode=mode, read=read, **{key: value})
    chat = Told()
    judge = ChatJudge(chat, spec, "f", "script", lambda ask: 1)
    prompt = Prompt(messages=({"role": "user", "content": "Which river is the longest?"},))
    # A constitution puts every question under a principle.
    principle = "Prefer the honest answer." if mode in over.names() else ""
    found = [judge.compare([Comparison(prompt, "The Nile.", "The Thames.", "", "The Nile.", principle)])]
    if mode in ("rubric", "reference", "safety"):
        found.append(judge.grade([Exam(prompt, "The Nile.", "", "The Nile.", principle)]))
    wrote = ("writes" in chat.heard) and key == "max_tokens" and value
    return repr((chat.heard, found, wrote))


@pytest.mark.parametrize("read", READINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", VALUES)
def test_a_setting_is_refused_just_where_it_changes_nothing(key, mode, read):
    default, other = VALUES[key]
    matters = behaviour(mode, read, key, default) != behaviour(mode, read, key, other)
    for value in (default, other) if default is not None else (other,):
        settings = {"model": "m", "mode": mode, "read": read, key: value}
        if matters:
            check(parse_spec(settings))
            continue
        with pytest.raises(UserError, match=rf"`judge\.{key}` .*has no effect") as caught:
            parse_spec(settings)
        assert mode in caught.value.problem or read in caught.value.problem


@pytest.mark.parametrize("mode", [m for m in MODES if m != "constitution"])
def test_a_constitution_is_read_by_its_own_mode_alone(mode):
    with pytest.raises(UserError, match=r"judge\.constitution"):
        parse_spec({"model": "m", "mode": mode, "constitution": "general"})


@given(st.sampled_from(sorted(PEOPLE)), st.sampled_from(sorted(OF_SAMPLERS)), st.booleans())
def test_who_answers_reads_each_field_of_its_sampler_and_a_model_only_where_it_opens_one(name, key, named):
    spec = parse_spec(
        {"sampler": {**PEOPLE[name], key: OF_SAMPLERS[key]}} | ({"model": "m"} if named else {})
    )
    if key in READS[name] and named == (name in FOLLOWS):
        check(spec)
        return
    with pytest.raises(UserError) as caught:
        check(spec)
    wrong = set() if key in READS[name] else {f"judge.sampler.{key}"}
    assert caught.value.field in wrong | {"judge.model"}
    with pytest.raises(UserError):
        build(spec, Context())


def test_every_field_of_a_sampler_has_a_value_here():
    assert {*OF_SAMPLERS, "name", "script"} == set(SamplerKind.model_fields)
    assert {*PEOPLE, "scripted"} == set(READS)


@pytest.mark.parametrize(
    ("sampler", "what"),
    [
        ({"name": "openai"}, "judge.sampler.model"),
        ({"name": "scripted"}, "judge.sampler.script"),
        ({"name": "scripted", "script": "none.jsonl"}, "sampler.script"),
        ({"name": "world", "options": {"wrld": "x"}}, "judge.sampler.options.wrld"),
        ({"name": "world", "options": {"sure": "very"}}, "judge.sampler.options.sure"),
        ({"name": "world", "options": {"sure": 2.0}}, "sampler.options.sure"),
        ({"name": "world", "options": {"world": "none"}}, "sampler.options.world"),
    ],
)
def test_who_cannot_answer_is_refused_before_any_work(sampler, what):
    with pytest.raises(UserError) as caught:
        check(parse_spec({"sampler": sampler}))
    assert caught.value.field == what


@pytest.mark.parametrize(
    "more",
    [{"mode": "rubric"}, {"mode": "safety"}, {"mode": "reference"}, {"read": "text"}, {"read": "reasoned"}],
)
def test_a_world_compares_by_probability_alone(more):
    with pytest.raises(UserError, match="sampler world"):
        check(parse_spec({"sampler": {"name": "world"}} | more))


ODD = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(), min_size=3, max_size=4),
    st.dictionaries(st.sampled_from(["a", "b"]), st.integers(), min_size=1),
)
FIELDS = [
    *((JudgeSpec, name, ()) for name in JudgeSpec.model_fields),
    *((Price, name, ("price",)) for name in Price.model_fields),
    *((SamplerKind, name, ("sampler",)) for name in SamplerKind.model_fields),
]


def may_be(annotation):
    """The Python types that a value may have; none of the odd lists is a pair, and no word is a choice."""
    if typing.get_origin(annotation) is typing.Annotated:
        return may_be(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {t for member in typing.get_args(annotation) for t in may_be(member)}
    whole = {int: {int}, float: {int, float}, str: {str}, bool: {bool}, list: {list}}
    return whole.get(typing.get_origin(annotation) or annotation, set())


@given(st.sampled_from(FIELDS), ODD)
def test_a_value_of_the_wrong_type_is_refused_by_name(which, value):
    model, name, path = which
    # True is an int to Python, and no number to anybody else. What settings a mapping holds is tried above.
    if type(value) in may_be(model.model_fields[name].annotation) or isinstance(value, dict):
        return
    for part in reversed((*path, name)):
        value = {part: value}
    with pytest.raises(UserError) as caught:
        check(parse_spec({"model": "m"} | value))
    assert caught.value.field.startswith(".".join(("judge", *path, name)))


@given(st.sampled_from(sorted(VALUES)), st.sampled_from(READINGS), st.sampled_from(READINGS))
def test_a_panel_says_what_one_of_its_judges_reads_and_the_others_keep_their_own(key, first, second):
    own = [{"model": "a", "read": first}, {"model": "b", "read": second}]
    value = VALUES[key][1]
    alone = [
        behaviour("pairwise", r, key, VALUES[key][0]) != behaviour("pairwise", r, key, value)
        for r in (first, second)
    ]
    settings = {"panel": own, key: value}
    if any(alone):
        members = check(parse_spec(settings))
        assert [key in m.model_fields_set for m in members] == alone
    else:
        with pytest.raises(UserError, match=rf"judge\.{key}"):
            parse_spec(settings)
    for n, reads in enumerate(alone):
        alike = [o | ({key: value} if m == n else {}) for m, o in enumerate(own)]
        if reads:
            check(parse_spec({"panel": alike}))
            continue
        with pytest.raises(UserError, match=rf"judge\.panel\.{n}\.{key}"):
            parse_spec({"panel": alike})


@pytest.mark.parametrize(
    "key", ["repeats", "canary", "constitution", "max_cost", "certificate", "require_certificate", "panel"]
)
def test_what_a_whole_panel_does_is_no_setting_of_one_of_its_judges(key):
    value = {"repeats": 2, "canary": False, "max_cost": 1.0, "require_certificate": True}.get(key, "x")
    with pytest.raises(UserError, match=rf"judge\.panel\.1\.{key}"):
        parse_spec({"panel": [{"model": "a"}, {"model": "b", key: value}]})


def test_a_panel_names_its_judges_and_may_share_a_limit_on_cost():
    both = [{"model": "a"}, {"sampler": {"name": "openai", "model": "m"}, "price": {"prompt": 1.0}}]
    for key, value in (("model", "m"), ("sampler", {"name": "local"})):
        with pytest.raises(UserError, match=rf"judge\.{key}.*each judge of the panel"):
            parse_spec({"panel": both, key: value})
    check(parse_spec({"panel": both, "max_cost": 2.0}))
    with pytest.raises(UserError, match="gives no grades"):
        parse_spec({"panel": [both[0], both[1] | {"mode": "pairwise"}], "mode": "rubric"})
    with pytest.raises(UserError, match="mode of the whole panel"):
        parse_spec({"panel": [both[0], both[1] | {"mode": "constitution"}]})


@pytest.fixture
def kilter(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rows = [
        {"prompt": f"Question {n}?", "chosen": f"A good answer, {n}.", "rejected": f"A bad one, number {n}."}
        for n in range(8)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return stop.value.code or 0, " ".join((shown.out + shown.err).split())

    return run


BAD = {
    "judge.model": {"model": "m", "sampler": {"name": "openai", "model": "some-model"}},
    "judge.scale": {"sampler": {"name": "openai", "model": "some-model"}, "scale": 3},
    "judge.repeats": {"sampler": {"name": "openai", "model": "some-model"}, "repeats": True},
}
DOORS = {
    "label": ("label", "--data", "pairs.jsonl", "--feedback", "{{judge: {judge}}}", "--dry-run"),
    "audit-judge": ("audit-judge", "judge.yaml", "--data", "pairs.jsonl", "--dry-run"),
    "train": (
        *("train", "--method", "grpo", "--model", "{tiny}", "--data", "pairs.jsonl", "--out", "t"),
        *("--feedback", "{{judge: {judge}}}", "--allow-uncertified"),
    ),
    "eval": ("eval", "--model", "{tiny}", "--data", "pairs.jsonl", "--judge", "judge.yaml", "--out", "e"),
    "conflicts": (
        *("constitution", "conflicts", "general", "--data", "pairs.jsonl"),
        *("--judge", "judge.yaml"),
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("bad", BAD)
def test_every_door_refuses_the_file_before_any_work(bad, door, kilter, tiny):
    Path("judge.yaml").write_text(json.dumps(BAD[bad]))
    code, said = kilter(*(word.format(judge="judge.yaml", tiny=tiny) for word in DOORS[door]))
    assert code == 2, said
    assert f".{bad.removeprefix('judge.')}`" in said, said
    assert sorted(p.name for p in Path().iterdir()) == ["judge.yaml", "pairs.jsonl"]


@pytest.mark.parametrize("bad", BAD)
def test_settings_in_place_of_a_file_are_refused_as_well(bad, kilter, tiny):
    settings = json.dumps({"judge": BAD[bad]})
    code, said = kilter("label", "--data", "pairs.jsonl", "--feedback", settings, "--dry-run")
    assert (code, f".{bad.removeprefix('judge.')}`" in said) == (2, True), said


def test_a_file_is_refused_under_its_own_name(tmp_path):
    path = tmp_path / "judge.yaml"
    path.write_text("model: m\nsampler: {name: openai, model: x}\n")
    with pytest.raises(UserError, match=r"judge\.yaml\.model.*opens no model"):
        load_spec(path)
