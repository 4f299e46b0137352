"""Each kind of plug-in is one file of the user's and one name in a recipe; nothing else has to know it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from kilter import cli

FORMAT = '''
from kilter.types import Completion, Feedback, Group, Prompt


def read(row):
    """A line with a question, a better and a worse answer."""
    question, better, worse = row["line"].split("|")
    answers = (Completion(better), Completion(worse))
    yield Group(Prompt(text=question), answers, (Feedback(1.0), Feedback(0.0)))
'''

SAMPLER = '''
from kilter.types import Completion, Sample, SamplerFacts, Usage


class Parrot:
    """Says the question again, as often as the number of the answer."""

    facts = SamplerFacts()

    def __init__(self, suffix: str = ""):
        self.suffix = suffix

    def run(self, requests, listener):
        for request in requests:
            for index in range(request.k):
                text = request.prompt.messages[-1]["content"] * (index + 1) + self.suffix
                yield Sample(request, index, Completion(text, finish_reason="stop"), usage=Usage())

    def sync(self, weights):
        return weights.version

    def close(self):
        pass
'''

FEEDBACK = '''
from kilter.seams import FeedbackSource
from kilter.types import Feedback


class Short(FeedbackSource):
    """The shorter, the better."""

    def __init__(self, per: float = 1.0):
        self.per = per

    def __call__(self, groups):
        return [[Feedback(-len(c.text) / self.per, "short") for c in g.completions] for g in groups]
'''

ANNOTATOR = '''
import torch


def halved(batch, learner):
    """A half for each row."""
    return batch.with_extra(halved_B=torch.full((batch.rows(),), 0.5))
'''

METHOD = '''
from dataclasses import dataclass, replace

from kilter.objectives.ops import mean
from kilter.objectives.pairs.dpo import DPO


@dataclass(frozen=True)
class Halved(DPO):
    """DPO with a loss that is scaled by what the annotator gives."""

    @property
    def needs(self):
        own = super().needs
        return replace(own, annotations=own.annotations | {"annotator.py:halved"})

    def loss(self, outputs, batch):
        found = super().loss(outputs, batch)
        return replace(
            found,
            value=found.value * batch.extra["halved_B"].mean(),
            metrics=found.metrics | {"halved": mean(batch.extra["halved_B"])},
        )
'''

METRIC = '''
from kilter.evaluation.metrics import metric


@metric("vowels", title="Vowels per answer", unit="vowels", better="higher")
class Vowels:
    """Vowels of the first answer."""

    def per_prompt(self, item):
        return float(sum(c in "aeiou" for c in item.answers[0].text))
'''

STAGE = '''
from kilter.stages import DataRef, Outcome, Section, StageKind, StageSpec


class Longest(StageKind):
    """Measures the longest answer."""

    class Spec(StageSpec):
        data: DataRef = "$data"

    makes = "report"

    def run(self, spec, work, folder):
        groups = work.load(spec.data, "rollouts").train
        return Outcome({"longest": max(len(c.text) for g in groups for c in g.completions)})

    def section(self, folder):
        return Section("The longest answer", "measured")
'''

FILES = {
    "format.py": FORMAT,
    "sampler.py": SAMPLER,
    "feedback.py": FEEDBACK,
    "annotator.py": ANNOTATOR,
    "method.py": METHOD,
    "metric.py": METRIC,
    "stage.py": STAGE,
}
QUESTIONS = [f"{'abcdefgh'[i]}{'u' * (i % 3)}?" for i in range(8)]


@pytest.fixture
def recipe(tmp_path, tiny, monkeypatch) -> dict:
    """A recipe with every plug-in, in the folder that commands run in. Each file knows one of them."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    rows = [{"line": f"{question}|yes, of course|no"} for question in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampler = {"name": "sampler.py:Parrot", "options": {"suffix": "ee"}}
    return {
        "name": "mine",
        "model": str(tiny),
        "data": {"path": "rows.jsonl", "format": "format.py:read", "heldout": 0.25},
        "stages": {
            "look": {"stage.py:Longest": {"data": "$data"}},
            "pairs": {"label": {"feedback": {"feedback.py:Short": {"per": 10.0}}}},
            "dpo": {
                "train": {
                    "method": {"name": "method.py:Halved", "beta": 0.2},
                    "data": "$pairs",
                    "max_steps": 1,
                    "max_length": 64,
                }
            },
            "eval": {"evaluate": {"models": ["dpo"], "metrics": ["metric.py:Vowels"], "sampler": sampler}},
        },
    }


def run(recipe: dict, monkeypatch, capsys) -> tuple[int, str]:
    """`kilter run` of the recipe: its exit code and what it printed."""
    Path("mine.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.setattr(sys, "argv", ["kilter", "run", "mine.yaml"])
    monkeypatch.setattr(cli.err, "width", 400)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_plug_in_is_one_file_and_one_name(recipe, tmp_path, monkeypatch, capsys):
    code, text = run(recipe, monkeypatch, capsys)
    assert code == 0, text
    folder = tmp_path / "runs" / "mine"

    # The format gave the questions and answers, the feedback their order: the worse answer is the shorter one.
    pairs = lines(folder / "pairs" / "groups.jsonl")
    assert {p["prompt"]["messages"][0]["content"] for p in pairs} < set(QUESTIONS)
    assert [[c["text"] for c in p["completions"]] for p in pairs] == [["no", "yes, of course"]] * 6

    # The stage looked, the annotator gave what the method's loss reads, the metric measured the sampler's answers.
    facts = json.loads((folder / "look" / "manifest.json").read_text())["facts"]
    assert facts["longest"] == len("yes, of course")
    assert "The longest answer" in (folder / "report.html").read_text()
    step = lines(folder / "dpo" / "metrics.jsonl")[0]
    assert step["halved"] == 0.5
    assert step["loss"] == pytest.approx(0.5 * 0.6931, abs=1e-4)  # the first step of DPO is log 2
    metrics = json.loads((folder / "eval" / "evaluation.json").read_text())["models"]["dpo"]["metrics"]
    asked = set(QUESTIONS) - {p["prompt"]["messages"][0]["content"] for p in pairs}
    assert (metrics["vowels"]["n"], metrics["vowels"]["unit"]) == (2, "vowels")
    assert metrics["vowels"]["value"] == sum(c in "aeiou" for q in asked for c in f"{q}ee") / 2

    # A plug-in's file is part of what its stage depends on.
    assert run(recipe, monkeypatch, capsys)[1].count("unchanged") == 4
    for file, name in {
        "metric.py": "eval",
        "sampler.py": "eval",
        "annotator.py": "dpo",
        "method.py": "dpo",
        "feedback.py": "pairs",
        "stage.py": "look",
        "format.py": "look",
    }.items():
        (tmp_path / file).write_text(FILES[file] + "# changed\n")
        assert f"{name}: its configuration or inputs changed" in run(recipe, monkeypatch, capsys)[1], file


PLACES = {
    "format.py:read": ("data", "format"),
    "sampler.py:Parrot": ("stages", "eval", "evaluate", "sampler", "name"),
    "feedback.py:Short": ("stages", "pairs", "label", "feedback"),
    "method.py:Halved": ("stages", "dpo", "train", "method", "name"),
    "metric.py:Vowels": ("stages", "eval", "evaluate", "metrics"),
    "stage.py:Longest": ("stages", "look"),
}
FIELDS = {
    "format.py:read": r"data\.format",
    "sampler.py:Parrot": r"\S*sampler\S*",
    "feedback.py:Short": r"\S*feedback\S*",
    "method.py:Halved": r"\S*method\S*",
    "metric.py:Vowels": r"\S*metrics?\S*",
    "stage.py:Longest": r"stages\.look\S*|stage",
    "annotator.py:halved": r"\S*method\S*|annotation",
}


def put(recipe: dict, plugin: str, name: str) -> None:
    """Names another object where the recipe names a plug-in."""
    if plugin == "annotator.py:halved":
        Path("method.py").write_text(METHOD.replace(plugin, name))
        return
    *path, last = PLACES[plugin]
    node = recipe
    for key in path:
        node = node[key]
    node[last] = {"metrics": [name], "look": {name: {}}}.get(last, name)
    if last == "name":
        node.pop("options", None)


@pytest.mark.parametrize("plugin", FIELDS)
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere.py:Thing", r"cannot be imported \(no file nowhere.py\)"),
        ("{file}:Thing", r"cannot be imported \(module .* has no attribute 'Thing'\)"),
        ("broken.py:Thing", "ZeroDivisionError in line 2"),
        (
            "broken.py",
            "names a file without its class or function|is not a known format|is not a sampler|is not a known kind",
        ),
        ("number.py:THREE", "is not a|is neither|does not declare"),
    ],
)
def test_a_plug_in_that_cannot_be_is_one_message(
    plugin, name, problem, recipe, tmp_path, monkeypatch, capsys
):
    """Before any stage runs: field, value, problem and fix, exit code 2."""
    (tmp_path / "broken.py").write_text("# line 1\n1 / 0\n")
    (tmp_path / "number.py").write_text("THREE = 3\n")
    name = name.format(file=plugin.partition(":")[0])
    put(recipe, plugin, name)
    code, text = run(recipe, monkeypatch, capsys)
    assert code == 2, text
    assert "Traceback" not in text
    assert re.search(rf"error: `({FIELDS[plugin]})` = .*{re.escape(name)}.*({problem}).*\nFix: \S+", text), (
        text
    )
    assert not (tmp_path / "runs" / "mine" / "look" / "manifest.json").exists()
