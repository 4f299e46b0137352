"""Metrics by registry: a contract that every one keeps, golden numbers, and one from a file of the user's."""

from __future__ import annotations

import itertools
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from conftest import make_model
from kilter import cli, manifest
from kilter import recipe as recipes
from kilter.data.dataset import DataSpec, load
from kilter.data.worlds.support_desk import KINDS, GoldFeedback, SupportDesk
from kilter.errors import RunFailed, UserError
from kilter.evaluation.aggregate import Origin, measure, measure_all
from kilter.evaluation.metrics import SOURCES, STANDARD, metric, metrics, resolve, titles
from kilter.evaluation.metrics.pass_at_k import pass_at
from kilter.evaluation.records import with_twins
from kilter.evaluation.result import titles_beyond
from kilter.study import page, study
from kilter.types import Answered, Completion, Feedback, Group, Prompt

DESK = SupportDesk(n=400, level=0).groups("prompts")
ORDINARY = load(DataSpec(path="builtin:ordinary-questions", heldout=0), "prompts").train
FLIPS = load(DataSpec(path="builtin:identity-flips", heldout=0), "prompts").train
ALONE = (Feedback(1.0, parts={"decision_alone": 1.0}), Feedback(0.0, parts={"decision_alone": 1.0}))
ORIGIN = Origin(0, "hash", {"gold": "a verifier", "reward": "rm"})
NAMES = [name for name, _ in metrics if name != "semantic_diversity"]  # it needs a model of its own


def question(name: str, i: int) -> Prompt:
    """A prompt that the metric counts."""
    if resolve([name])[0].facts.over == ("changes",):
        done = "null" if "null" in name else "bold"
        return Prompt(text=str(i), metadata={"change": done, "cluster": str(i)})
    subset = resolve([name])[0].facts.subset
    plain = [
        Prompt(
            text=f"question {i}",
            metadata={"safety": ("safe", "unsafe")[i % 2], "word": "yes|no", "answer": "yes"},
        )
    ]
    if subset is None or any(subset(Prompt(metadata={"safety": label})) for label in ("safe", "unsafe")):
        return plain[0]
    counted = [g.prompt for g in (*DESK, *ORDINARY, *FLIPS) if subset(g.prompt)]
    return counted[i % len(counted)]


def item(name: str, i: int, baseline: Answered | None = None, twin: Answered | None = None) -> Answered:
    """A record that has whatever a metric may need; every seventh answer is unscored."""
    draw = random.Random(i)
    text = " ".join(draw.choices(["I cannot help", "yes", "no", "sure thing", "two words"], k=1 + i % 5))
    answers = tuple(
        Completion(f"{text} {n}", (5, 6, 7), finish_reason="stop") for n in range(2 if i % 2 else 8)
    )
    feedback = {source: tuple(feedback_of(i, draw) for _ in answers) for source in SOURCES}
    logps = tuple(-draw.random() for _ in range(3))
    reference, nll = tuple(p - 0.1 for p in logps), draw.random()
    replies = {turn: Completion(draw.choice(("yes", "perhaps"))) for turn in ("push", "neutral")}
    asked = question(name, i)
    feedback["preferred"] = tuple(Feedback(None, against=((0.5, 0.5),) if i % 7 else ()) for _ in answers)
    entropy = draw.random()
    return Answered(
        asked, answers, feedback, logps, reference, nll, baseline, twin, follow_ups=replies, entropy=entropy
    )


def feedback_of(i: int, draw: random.Random) -> Feedback:
    if i % 7 == 0:
        return Feedback(None)
    return Feedback(draw.random(), parts={p: float(draw.random() < 0.7) for p in ("decision", "approved")})


def pair(i: int) -> Answered:
    feedback = (Feedback(None), Feedback(0.1)) if i % 7 == 0 else (Feedback(float(i % 3)), Feedback(1.0))
    one = Answered(
        Prompt(text=str(i)),
        (Completion("a"), Completion("b")),
        {"reward": feedback, "label": ALONE},
        pair_logps=None if i % 7 == 0 else (-float(i % 3), -1.0),
    )
    return replace(one, baseline=replace(one, pair_logps=(-1.0, -1.0)))


def listed(i: int) -> Answered:
    """A list of three answers, the first one right; of RewardBench 2's ties where i is odd."""
    scores = (None, 0.1, 0.2) if i % 7 == 0 else (float(i % 3), 1.0, 0.5)
    metadata = {"category": "Ties" if i % 2 else "Facts"}
    return Answered(
        Prompt(text=str(i), id=f"{'ref' if i % 4 == 1 else 'tied'}:{i // 4}", metadata=metadata),
        tuple(map(Completion, "abc")),
        {"reward": tuple(map(Feedback, scores)), "label": (Feedback(1.0), Feedback(0.0), Feedback(0.0))},
    )


def change(name: str, i: int) -> Answered:
    """A changed answer and what it was."""
    scores = (None, 0.1) if i % 7 == 0 else (float(i % 3), float(i % 5))
    metadata = {"change": "null" if "null" in name else "bold", "cluster": f"answer {i // 2}"}
    answers = (Completion("a"), Completion("b"))
    return Answered(Prompt(text=str(i), metadata=metadata), answers, {"reward": tuple(map(Feedback, scores))})


def records(name: str) -> list[Answered]:
    if resolve([name])[0].facts.over == ("pairs",):
        return [pair(i) for i in range(40)]
    if resolve([name])[0].facts.over == ("lists",):
        return [listed(i) for i in range(40)]
    if resolve([name])[0].facts.over == ("changes",):
        return [change(name, i) for i in range(40)]
    return [item(name, i, item(name, i + 100), item(name, i + 1)) for i in range(40)]


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_declares_what_its_readers_need(name):
    asked = resolve([name])[0]
    assert asked.facts.title
    assert asked.facts.unit
    assert asked.facts.better in ("higher", "lower", None)
    assert "{" not in asked.facts.name + asked.facts.title
    assert titles()[asked.facts.name if asked.facts.name in titles() else metrics.get(name).facts.name]
    estimate = measure(asked, records(name), ORIGIN).estimate
    assert estimate.unit == asked.facts.unit
    assert estimate.higher_is_better == {"higher": True, "lower": False, None: None}[asked.facts.better]


@pytest.mark.parametrize("name", NAMES)
def test_missing_stays_unscored(name):
    """What a metric cannot tell of a prompt is counted as unscored and moves no value."""
    asked = resolve([name])[0]
    unscored = {source: (Feedback(None),) * 2 for source in SOURCES} | {"label": ALONE}
    bare = Answered(question(name, 0), (Completion("a"), Completion("b")), unscored)
    needed = asked.facts.needs - {"answers", "samples"}
    assert (measure(asked, [bare], ORIGIN) is None) == bool(needed)
    known_by_value = asked.facts.aggregate not in ("corpus", "deviation")
    if not asked.facts.needs & {*SOURCES, "logps"} or asked.facts.over == ("lists",) or not known_by_value:
        return
    whole = measure(asked, records(name), ORIGIN)
    known = [r for r, v in zip(records(name), whole.values, strict=True) if v is not None]
    more = measure(asked, [*known, bare, bare], ORIGIN)
    assert more.values[-2:] == [None, None]
    assert more.estimate.n_unscored == 2
    assert more.estimate.value == pytest.approx(sum(more.values[:-2]) / len(known))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_prompts_does_not_matter(name):
    asked, items = resolve([name])[0], records(name)
    shuffled = random.Random(3).sample(items, len(items))
    one, other = measure(asked, items, ORIGIN), measure(asked, shuffled, ORIGIN)
    assert other.estimate.value == pytest.approx(one.estimate.value, abs=1e-12)
    assert (other.estimate.n, other.estimate.n_unscored) == (one.estimate.n, one.estimate.n_unscored)
    assert sorted(map(str, other.values)) == sorted(map(str, one.values))


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_without_an_answer_is_unscored(name):
    """A sampler that failed has not refused, cut or lost anything."""
    asked = resolve([name])[0]
    if asked.facts.over in (("pairs",), ("lists",), ("changes",)):
        return
    silent = Answered(question(name, 1), (), {source: () for source in SOURCES})
    safe = Answered(question(name, 0), (), {source: () for source in SOURCES})
    before, after = (
        measure(asked, records(name), ORIGIN),
        measure(asked, [*records(name), silent, safe], ORIGIN),
    )
    assert after.estimate.value == before.estimate.value
    assert after.estimate.n == before.estimate.n
    assert after.estimate.n_unscored > before.estimate.n_unscored


def test_decisions_are_reported_by_kind_and_twins_are_found_by_name():
    def answered(group, text):
        score = GoldFeedback()([Group(group.prompt, (Completion(text),), (Feedback(None),))])[0]
        return Answered(group.prompt, (Completion(text),), {"gold": tuple(score)})

    items = with_twins([answered(g, "Declined.") for g in DESK])
    assert all(
        one.twin.prompt.metadata["gold"]["grant"] != one.prompt.metadata["gold"]["grant"] for one in items
    )
    assert with_twins(items[:1])[0].twin is None
    wanted = resolve(["decision", "twin_accuracy", "wrong_declines", "wrong_approvals", "violation_unsafe"])
    found = measure_all(wanted, {"prompts": items}, ORIGIN)
    values = {name: made.estimate.value for name, made in found.items()}
    assert values.pop("twin_accuracy") == 0
    assert values.pop("wrong_declines") == 1
    assert values.pop("wrong_approvals") == values.pop("violation_unsafe") == 0
    assert all(values.pop(f"twin_accuracy.{kind}") == 0 for kind in KINDS)
    assert set(values) == {"decision", *(f"decision.{kind}" for kind in KINDS)}
    assert set(values.values()) == {0.5}
    assert titles_beyond(wanted, found)["titles"]["decision.refund"] == "Right decisions: refund"


def test_what_a_metric_raises_names_the_metric_and_its_line(own, tmp_path):
    (tmp_path / "mine.py").write_text(OWN.replace("return None if", "return 1 / 0 if"))
    asked = resolve([own])[0]
    question = Prompt(messages=({"role": "user", "content": "Question 3 "},))
    with pytest.raises(RunFailed, match=r"(?s)vowels failed in line \d+ of .*mine.py .*division.*Fix:"):
        measure(asked, [Answered(question, (Completion("a"),))], ORIGIN)
    nan = Answered(Prompt(text="x"), (Completion("a"),), nll=float("nan"))
    assert measure(resolve(["tax_nll"])[0], [nan], ORIGIN).values == [None]


def test_pass_at_k_by_hand():
    """Ten answers, three right: 1 - 7/10, and 1 - C(7,5)/C(10,5) = 1 - 21/252."""
    assert pass_at(1, 10, 3) == pytest.approx(0.3)
    assert pass_at(5, 10, 3) == pytest.approx(0.916667, abs=1e-6)
    drawn = [any(i < 3 for i in chosen) for chosen in itertools.combinations(range(10), 5)]
    assert pass_at(5, 10, 3) == pytest.approx(sum(drawn) / len(drawn))


def test_pass_at_k_reads_the_gold_scores_of_all_samples():
    asked = resolve([{"pass_at_k": {"k": 2, "samples": 3, "threshold": 1.0}}])[0]
    assert (asked.facts.name, asked.facts.title, asked.samples) == ("pass_at_2", "pass@2 by gold", 3)

    def solved(*scores: float | None) -> Answered:
        answers = (Completion("a"),) * len(scores)
        return Answered(Prompt(text="x"), answers, {"gold": tuple(map(Feedback, scores))})

    found = measure(asked, [solved(1.0, 0.9, 0.0), solved(1.0, None, None), solved(1.0, 1.0, 0.0)], ORIGIN)
    assert found.values == [pytest.approx(2 / 3), None, 1.0]
    unsolved = measure(asked, [solved(0.0, 0.0, 0.0)] * 20, ORIGIN).estimate
    assert (unsolved.value, unsolved.ci_low) == (0.0, 0.0)
    assert unsolved.ci_high == pytest.approx(0.161, abs=1e-3)  # twenty unsolved prompts prove no zero
    with pytest.raises(UserError, match="between 1 and the number of samples"):
        resolve([{"pass_at_k": {"k": 9}}])


def test_the_standard_set_is_a_name_and_each_metric_stands_once():
    assert [m.facts.name for m in resolve(["standard"])] == list(STANDARD)
    assert list(titles())[: len(STANDARD)] == list(STANDARD)
    with pytest.raises(UserError, match="names the metric 'length' twice"):
        resolve(["standard", "length"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("lenght", "length"),
        ({"pass_at_k": {"kk": 1}}, "k"),
        ({"pass_at_k": {"k": "two"}}, "int"),
        ({"length": {"x": 1}}, "no options"),
        ({"length": 3}, "neither a name"),
        ("kilter.types:Prompt", "title, unit and direction"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_with_a_fix(entry, message):
    with pytest.raises(UserError, match=message):
        resolve([entry])


def test_a_declaration_that_does_not_fit_is_an_error_at_import():
    facts = {"title": "T", "unit": "u", "better": None}
    with pytest.raises(ValueError, match="already registered"):
        metric("length", **facts)(type("Length", (), {"per_prompt": lambda self, item: 0.0}))
    with pytest.raises(ValueError, match="no method over_corpus"):
        metric("new", aggregate="corpus", **facts)(type("New", (), {"per_prompt": lambda self, item: 0.0}))
    with pytest.raises(ValueError, match="needs"):
        metric("new", needs={"weather"}, **facts)
    with pytest.raises(ValueError, match="how many"):
        metric("new", needs={"samples"}, **facts)(type("New", (), {"per_prompt": lambda self, item: 0.0}))


OWN = '''
from kilter.evaluation.metrics import metric


@metric("vowels", title="Vowels per answer", unit="vowels", better="higher")
class Vowels:
    """Not of prompts about question 3."""

    def per_prompt(self, item):
        asked = item.prompt.messages[-1]["content"]
        return None if "Question 3 " in asked else float(sum(c in "aeiou" for c in item.answers[0].text))
'''


@pytest.fixture
def own(tmp_path) -> str:
    (tmp_path / "mine.py").write_text(OWN)
    return f"{tmp_path / 'mine.py'}:Vowels"


@pytest.fixture
def other(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "other", rms_norm_eps=0.5)


def kilter(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


def test_a_metric_from_one_file_is_measured_by_the_command(
    tiny, other, own, pairs_file, tmp_path, monkeypatch, capsys
):
    args = ["--model", f"new={other}", "--baseline", f"old={tiny}", "--data", pairs_file]
    args += ["--limit", 24, "--max-new-tokens", 8, "--out", tmp_path / "eval", "--metric", own]
    monkeypatch.setattr(cli.out, "width", 200)
    monkeypatch.setattr(cli.err, "width", 200)
    code, text = kilter(monkeypatch, capsys, "eval", *args, "--metric", "{pass_at_k: {k: 1, samples: 2}}")
    assert code == 2
    assert "`gold` does not bring what the metric pass_at_1 needs: a source that judges the answers" in text
    code, text = kilter(monkeypatch, capsys, "eval", *args)
    assert code == 0, text
    assert "Vowels per answer" in text
    found = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert found["titles"] == {"vowels": "Vowels per answer"} | found["titles"]
    for name in ("old", "new"):
        estimate = found["models"][name]["metrics"]["vowels"]
        assert (estimate["n"], estimate["n_unscored"], estimate["unit"]) == (23, 1, "vowels")
        assert estimate["ci_low"] < estimate["value"] < estimate["ci_high"]
    assert found["models"]["new"]["difference"]["vowels"]["n"] == 23
    values = json.loads((tmp_path / "eval" / "per_prompt.json").read_text())
    assert len(values["new"]["vowels"]) == 24
    policy = {
        "conditions": [{"metric": "vowels", "bound": "ci_low", "op": ">", "value": 1e9, "max_unscored": 0.5}]
    }
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(policy))
    code, text = kilter(monkeypatch, capsys, "gate", tmp_path / "eval", "--policy", tmp_path / "gate.yaml")
    assert code == 1
    assert "vowels ci_low > 1e+09" in text


def test_a_metric_from_one_file_is_in_report_gate_and_comparison(
    tiny, other, own, pairs_file, tmp_path, monkeypatch, capsys
):
    cell = "dpo__s0"
    condition = {"metric": "vowels", "bound": "diff_value", "op": ">", "value": -1e9, "max_unscored": 0.5}
    evaluate = {"models": [str(tiny), str(other)], "limit": 24, "max_new_tokens": 8}
    # Nobody knows on what these two were trained.
    waiver = {"owner": "Ada", "reason": "random weights", "expires": "2099-01-01"}
    waived = {"unmeasured_leakage": waiver}
    recipe = {
        "model": str(tiny),
        "data": {"path": str(pairs_file), "heldout": 0.9},
        "stages": {
            "eval": {
                "evaluate": evaluate
                | {"metrics": ["standard", own], "gold": {"length": {"limit": 4, "buffer": 4}}}
            },
            "gate": {"gate": {"policy": {"conditions": [condition], **waived}, "allow_means": True}},
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    code, text = kilter(monkeypatch, capsys, "run", tmp_path / "mine.yaml", "--runs", tmp_path / "runs")
    assert code == 0, text
    folder = tmp_path / "runs" / "mine"
    report = (folder / "report.html").read_text()
    assert (
        report.count("Vowels per answer") >= 3
    )  # a condition of the gate, a row of the forest plot, a row of the table
    assert json.loads((folder / "gate" / "gate.json").read_text())["conditions"][0]["state"] == "pass"

    # The comparison reads the same evaluation; its models have the names of cells there.
    for name in ("evaluation.json", "per_prompt.json"):
        path = folder / "eval" / name
        path.write_text(path.read_text().replace(str(other), cell).replace(f'"{tiny}"', '"start"'))
    facts = {"heldout": {}, "metrics": {}, "step_seconds": 1.0}
    manifest.Manifest(cell, "train", "", {}, {}, "done", facts=facts).write(folder / cell)
    compared = study.Study(name="mine", data={}, start={}, methods={"dpo": "dpo"}, seeds=[0], model=str(tiny))
    page.write(compared, folder)
    row = json.loads((folder / "compare.json").read_text())["rows"][0]
    assert row["metrics"]["vowels"]["n"] == 21
    assert "Vowels per answer" in (folder / "compare.html").read_text()
    assert "vowels per answer" in (folder / "compare.md").read_text()


def test_metrics_of_a_recipe_are_checked_before_anything_runs(tiny, pairs_file):
    stages = {"eval": {"evaluate": {"models": [str(tiny)], "metrics": ["standard", "vowles"]}}}
    with pytest.raises(UserError, match=r"(?s)metric` = 'vowles'.*Fix:"):
        recipes.build({"model": str(tiny), "data": {"path": str(pairs_file)}, "stages": stages})
