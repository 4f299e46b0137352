"""Worlds by registry: a second one is data, a judge and labels from one file, and no other file knows its name."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

import kilter
from kilter import cli, feedback
from kilter.cli import complete
from kilter.data.dataset import DataSpec, load
from kilter.data.worlds import registry
from kilter.data.worlds.support_desk import GoldFeedback
from kilter.evaluation.classifiers import safety_label, should_comply, violates
from kilter.feedback.worlds import OwnJudge
from kilter.types import Completion, Feedback, Group, Prompt

TINY = '''
from kilter.data.worlds.registry import Dials, Labels, World
from kilter.seams import FeedbackSource
from kilter.types import Completion, Feedback, Group, Prompt


class Sums(Dials):
    """Sums of numbers below `below`."""

    below: int = 10

    def groups(self, shape, seed=0):
        asked = [(i, (i * 7 + seed) % self.below) for i in range(self.n)]
        prompts = [Prompt(text=f"{a} + {b}?", metadata={"sum": a + b}) for a, b in asked]
        if shape == "prompts":
            return [Group(p, (), ()) for p in prompts]
        texts = [(str(p.metadata["sum"]), "I cannot say") for p in prompts]
        scores = (Feedback(1.0), Feedback(0.0))
        return [Group(p, tuple(map(Completion, t)), scores) for p, t in zip(prompts, texts)]


class Truth(FeedbackSource):
    """The share of an answer's characters that are in the right answer: something that a random model earns too."""

    def __call__(self, groups):
        return [[self.one(g.prompt.metadata["sum"], c.text) for c in g.completions] for g in groups]

    def one(self, right, text):
        return Feedback(sum(c in str(right) for c in text) / max(1, len(text)), "gold", source="truth")


def labels(prompt):
    return Labels("unsafe" if prompt.metadata["sum"] == 13 else "safe", prompt.metadata["sum"] != 13)


TINY = World("tiny-world", Sums, Truth, labels)
'''


@pytest.fixture
def tiny_world(tmp_path, monkeypatch) -> str:
    """A file with a world, in the folder that commands run in. What it registers is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_own", {})
    (tmp_path / "mine.py").write_text(TINY)
    return "builtin:mine.py:TINY"


@pytest.fixture
def registered(tiny_world, monkeypatch) -> str:
    """The same world as one that Kilter brings."""
    world = registry.worlds.get(tiny_world.removeprefix("builtin:"))
    monkeypatch.setattr(registry.worlds, "_entries", dict(registry.worlds._entries))
    registry.worlds.register(world.name)(world)
    return f"builtin:{world.name}"


def command(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    monkeypatch.setattr(cli.err, "width", 400)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


@pytest.mark.parametrize("fixture", ["tiny_world", "registered"])
def test_a_second_world_trains_and_is_evaluated_by_its_own_judge(
    fixture, request, tmp_path, tiny, monkeypatch, capsys
):
    path = request.getfixturevalue(fixture)
    short = {"max_new_tokens": 6, "temperature": 1.0}
    train = {"max_steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    raw = {
        "model": str(tiny),
        "data": {"path": path, "heldout": 0.4, "world": {"n": 20, "below": 5}},
        "stages": {
            "dpo": {"train": {"method": "dpo", "max_length": 64} | train},
            "grpo": {
                "train": {
                    "method": "grpo",
                    "prompts": "$data",
                    "feedback": "tiny_world",
                    "sampler": {"samples": 2} | short,
                    "monitors": {"gold_every": 1, "gold_prompts": 4},
                }
                | train
            },
            "eval": {"evaluate": {"models": ["dpo", "grpo"], "baseline": "dpo"} | short},
        },
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    code, text = command(monkeypatch, capsys, "run", "r.yaml")
    assert code == 0, text
    folder = tmp_path / "runs" / "r"

    # Held-out answers of the run and of the evaluation were judged, though nothing names a gold source.
    judged = [json.loads(line) for line in (folder / "grpo" / "gold.jsonl").read_text().splitlines()]
    assert all(value is not None for row in judged for value in row["values"]["gold"])
    metrics = json.loads((folder / "eval" / "evaluation.json").read_text())["models"]["grpo"]["metrics"]
    assert (metrics["gold"]["judge"], metrics["gold"]["n"]) == ("tiny_world verifier", 8)
    assert metrics["over_refusal"]["n"] in (7, 8)

    # The world is part of what a stage depends on: another judge is another evaluation.
    code, text = command(monkeypatch, capsys, "run", "r.yaml")
    assert (code, text.count("unchanged")) == (0, 3), text
    if fixture == "tiny_world":
        (tmp_path / "mine.py").write_text(TINY + "# changed\n")
        code, text = command(monkeypatch, capsys, "run", "r.yaml")
        assert (code, text.count("unchanged")) == (0, 0), text


def test_a_world_brings_labels_a_judge_and_dials(registered):
    data = load(DataSpec(path=registered, heldout=0, world={"n": 30, "below": 9}), "pairs")
    assert (data.format, len(data.train)) == ("tiny_world", 30)
    unsafe = next(g.prompt for g in data.train if g.prompt.metadata["sum"] == 13)
    safe = next(g.prompt for g in data.train if g.prompt.metadata["sum"] != 13)
    assert [safety_label(p) for p in (unsafe, safe)] == ["unsafe", "safe"]
    assert [should_comply(p) for p in (unsafe, safe)] == [False, True]
    assert violates(unsafe, "the answer to this is 13")
    assert not violates(safe, "the answer to this is 13")
    assert "tiny_world" in feedback.feedback_sources.names()
    feedback.check("tiny_world")
    assert complete.data("builtin:t") == [registered]
    assert complete.sources("tiny") == ["tiny_world"]
    assert DataSpec(path=registered).model_dump()["world"] == {"n": 400, "view": "auto", "below": 10}


def test_answers_of_several_worlds_are_judged_each_by_its_own(registered):
    desk = load(DataSpec(path="builtin:support-desk", heldout=0, world={"n": 2}), "pairs").train
    sums = load(DataSpec(path=registered, heldout=0, world={"n": 2}), "pairs").train
    other = Group(
        Prompt(text="1 + 1?", metadata={"world": "elsewhere"}), (Completion("2"),), (Feedback(None),)
    )
    groups = [sums[0], desk[0], other, sums[1], desk[1]]
    found = OwnJudge([g.prompt for g in groups])(groups)
    assert [f[0].source for f in found] == ["truth", "support_desk", "", "truth", "support_desk"]
    assert [f.score for f in found[0]] == [1.0, 0.0]
    assert found[2][0].score is None
    assert found[1] == GoldFeedback()([desk[0]])[0]
    assert found[4] == GoldFeedback()([desk[1]])[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"path": "builtin:suport-desk"},
            r"data.path.*names no built-in.*Fix: Did you mean 'builtin:support-desk'",
        ),
        (
            {"path": "builtin:nothing.py:TINY"},
            r"data.path` = 'builtin:nothing.py:TINY'.*no file nothing.py.*Fix:",
        ),
        ({"path": "builtin:mine.py:TINNY"}, r"data.path.*no attribute 'TINNY'.*Fix:"),
        ({"path": "builtin:mine.py:Sums"}, r"data.path.*does not name a world.*Fix:.*World"),
        (
            {"path": "builtin:mine.py:TINY", "world": {"bellow": 3}},
            r"data.world.bellow.*Fix: Did you mean 'below'",
        ),
        (
            {"path": "builtin:mine.py:TINY", "world": {"n": 0}},
            r"data.world.n` = 0.*Fix: Give a value that fits: number of prompts",
        ),
        ({"path": "builtin:support-desk", "world": {"below": 3}}, r"data.world.below.*is not a known key"),
        (
            {"path": "builtin:desk.py:DESK"},
            r"data.path.*'support-desk', which is taken.*Fix: Give it another name",
        ),
    ],
)
def test_a_world_that_cannot_be_is_one_message_with_a_fix(
    data, message, tiny_world, tiny, tmp_path, monkeypatch, capsys
):
    (tmp_path / "desk.py").write_text(TINY.replace("tiny-world", "support-desk").replace("TINY =", "DESK ="))
    raw = {"model": str(tiny), "data": data, "stages": {"sft": {"train": {"method": "sft"}}}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    code, text = command(monkeypatch, capsys, "run", "r.yaml")
    assert code == 2
    assert re.search(rf"(?s){message}", text), text
    assert "Traceback" not in text


def test_no_module_outside_the_world_names_it():
    """Docstrings and the examples of a command may; messages, defaults and branches may not."""
    root = Path(kilter.__file__).parent
    names = []
    for path in sorted(root.rglob("*.py")):
        if (root / "data" / "worlds") in path.parents:
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = [n.value for n in nodes if isinstance(n, ast.Expr)]
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                words = ast.unparse(node)
            elif isinstance(node, ast.Constant) and node not in docstrings:
                words = str(node.value)
            else:
                continue
            if not words.startswith("kilter ") and re.search("support[_-]desk", words):
                names.append(f"{path.relative_to(root)}:{node.lineno}")
    assert names == []


def test_ordinary_questions_prove_their_answers_and_belong_to_no_policy():
    def read(shape, **world):
        spec = DataSpec(path="builtin:ordinary-questions", heldout=0, world=world)
        return load(spec, shape).train

    found = read("demonstrations")
    assert len({g.prompt.messages[0]["content"] for g in found}) == len(found) == 120
    scores = OwnJudge([g.prompt for g in found])(found)
    assert all(f[0].score == 1 for f in scores)
    assert all(should_comply(g.prompt) is None and safety_label(g.prompt) == "" for g in found)
    pairs = read("pairs", n=10)
    judged = OwnJudge([g.prompt for g in pairs])(pairs)
    assert [[f.score for f in row] for row in judged] == [[1.0, 0.0]] * 10
    taught = read("demonstrations", part="taught")
    assert len(taught) == 60
    assert all(f[0].score == 1 for f in OwnJudge([g.prompt for g in taught])(taught))
    assert not {str(g.prompt.messages) for g in taught} & {str(g.prompt.messages) for g in found}


def test_a_mixture_of_worlds_holds_out_what_one_of_them_alone_holds_out():
    desk = {"path": "builtin:support-desk", "world": {"n": 120, "level": 0}}
    parts = [desk, {"path": "builtin:ordinary-questions", "world": {"part": "taught"}, "weight": 2}]
    alone = load(DataSpec(heldout=0.5, seed=7, **desk), "prompts")
    mixed = load(DataSpec(parts=parts, heldout=0.7, seed=7), "demonstrations")
    held = {g.prompt.id for g in mixed.heldout}
    assert {g.prompt.id for g in alone.heldout} <= held
    assert {g.prompt.metadata["world"] for g in mixed.train} == {"support_desk", "ordinary_questions"}
    assert not {g.prompt.id for g in mixed.train} & held
