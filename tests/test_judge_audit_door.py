"""`kilter audit-judge` and its stage: exit codes, what is printed, what a later stage finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conftest import REAL
from kilter.artifacts import sha256_file
from kilter.cli import main

JUDGES = """
import re
from kilter.feedback.judge.dials import Dialled

def truth(id, text):
    found = re.findall("good|fair|bad", text)
    return {"good": 3.0, "fair": 2.0, "bad": 1.0}[found[0]] if found else 0.0

perfect = Dialled("perfect", 0.0, truth)
first = Dialled("position", 0.9, truth)
early = Dialled("longer", 0.3, truth)
late = Dialled("longer", 0.95, truth)
nothing = 3
"""


@pytest.fixture
def kilter(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("judges.py").write_text(JUDGES)
    rows = [
        {"prompt": f"Question {n}?", "chosen": f"A good answer, {n}.", "rejected": f"A bad one, number {n}."}
        for n in range(200)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capsys.readouterr()
        return stop.value.code or 0, " ".join((shown.out + shown.err).split())

    return run


def test_exit_codes_tell_what_became_of_a_judge(kilter):
    code, said = kilter("audit-judge", "judges.py:perfect", "--data", "pairs.jsonl", "--out", "good.json")
    assert (code, json.loads(Path("good.json").read_text())["verdict"]) == (0, "pass")
    assert "certified until" in said
    assert "not measured language, leak, cycles, order, self" in said

    code, said = kilter("audit-judge", "judges.py:first", "--data", "pairs.jsonl", "--out", "first.json")
    assert code == 1
    assert "refused for position, consistency" in said
    few = ("--limit", 20, "--out", "few.json")
    code, said = kilter("audit-judge", "judges.py:perfect", "--data", "pairs.jsonl", *few)
    assert code == 3
    assert "not decided on unscored" in said


def test_wrong_input_ends_with_two_and_says_what_to_do(kilter):
    data = ("--data", "pairs.jsonl")
    Path("bad.yaml").write_text("model: builtin:smollm2-135m\nmood: pairwise\n")
    Path("prompts.jsonl").write_text('{"prompt": "Q"}\n')
    for args, text in (
        ((), "JUDGE"),
        (("judges.py:perfect",), "--data"),
        (("nope.yaml", *data), "names no file"),
        (("bad.yaml", *data), "mood"),
        (("judges.py:nothing", *data), "is not a judge"),
        (("judges.py:perfect", *data, "--probes", "positon"), "position"),
        (("judges.py:perfect", "--data", "prompts.jsonl"), "prompts.jsonl"),
        (("--compare", "a.json", "b.json"), "a.json"),
        (("judges.py:perfect", "--compare", "a.json", "b.json"), "stands beside --compare"),
    ):
        code, said = kilter("audit-judge", *args)
        assert (code, text in said, "Fix: " in said) == (2, True, True), (args, said)


def test_a_dry_run_counts_and_asks_nobody(kilter):
    code, said = kilter("audit-judge", "judges.py:perfect", "--data", "pairs.jsonl", "--dry-run")
    assert code == 0
    assert "3,000 verdicts of 200 labelled pairs; none was asked for" in said
    assert not Path("judge.json").exists()
    assert not Path("judge.audit").exists()


def test_the_same_command_again_asks_nothing_and_has_the_same_result(kilter):
    command = ("audit-judge", "judges.py:first", "--data", "pairs.jsonl", "--limit", 60)
    assert kilter(*command)[0] == 1
    first = json.loads(Path("judge.json").read_text())
    code, said = kilter(*command)
    assert (code, "unchanged" in said) == (1, True)
    assert json.loads(Path("judge.json").read_text()) == first


def test_two_audits_are_compared(kilter):
    for name in ("early", "late"):
        kilter("audit-judge", f"judges.py:{name}", "--data", "pairs.jsonl", "--out", f"{name}.json")
    code, said = kilter("audit-judge", "--compare", "early.json", "late.json")
    assert code == 0
    assert "worse since: " in said
    assert "Wins of padding" in said.partition("worse since: ")[2]


RECIPE = """
model: TINY
data:
  pairs: {path: pairs.jsonl, heldout: 0}
stages:
  early: {audit_judge: {judge: judges.py:early, data: $pairs}}
  late: {audit_judge: {judge: judges.py:late, data: $pairs, before: early}}
"""


def test_a_stage_shows_the_audit_and_what_changed_in_the_report(kilter, tiny):
    recipe = RECIPE.replace("TINY", str(tiny))
    Path("r.yaml").write_text(recipe)
    assert kilter("run", "r.yaml")[0] == 1
    made = json.loads(Path("runs/r/late/manifest.json").read_text())["facts"]["lines"]
    grew = [line for line in made if line.startswith("worse ")]
    assert any(" verbosity " in line and "since `early`: +" in line and "[" in line for line in grew)
    page = Path("runs/r/report.html").read_text()
    assert page.count(">Audit of the judge <small>") == 2
    assert "Since the earlier audit" in page
    assert "The same answer wins" in page
    Path("r.yaml").write_text(recipe.replace("before: early", "before: pairs"))
    code, said = kilter("run", "r.yaml")
    assert (code, "certificate" in said) == (2, True)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real data is not here")
def test_a_small_model_is_refused_as_a_judge_of_real_pairs(kilter):
    Path("judge.yaml").write_text("model: builtin:smollm2-135m\nmode: pairwise\n")
    pairs = REAL / "hh_harmless" / "pairs.jsonl.gz"
    probes = [x for name in ("unscored", "mass", "position", "consistency") for x in ("--probes", name)]
    options = ("--limit", 12, "--on-bad-row", "skip", *probes)
    code, said = kilter("audit-judge", "judge.yaml", "--data", pairs, *options)
    assert code in (1, 3)
    found = json.loads(Path("judge.json").read_text())
    assert {"position", "mass"} <= set(found["failures"])
    assert found["metrics"]["position"]["value"] > 0.9
    assert found["metrics"]["mass"]["value"] < 0.1


def machine(capsys, monkeypatch, *args):
    """Standard output alone, as a program reads it."""
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0, json.loads(capsys.readouterr().out)


def test_whatever_a_judge_command_finds_a_program_can_read(kilter, capsys, monkeypatch):
    read = lambda *args: machine(capsys, monkeypatch, *args)
    pairs = ("--data", "pairs.jsonl")
    code, plan = read("audit-judge", "judges.py:perfect", *pairs, "--dry-run")
    assert (code, plan["pairs"], plan["verdicts"]) == (0, 200, 3000)
    assert sum(ask["verdicts"] for ask in plan["asks"].values()) == 3000
    for name in ("early", "late"):
        code, made = read("audit-judge", f"judges.py:{name}", *pairs, "--limit", 60, "--out", f"{name}.json")
        assert made == json.loads(Path(f"{name}.json").read_text()) and code in (0, 1, 3)
    code, changes = read("audit-judge", "--compare", "early.json", "late.json")
    assert code == 0 and {"name", "before", "after", "worse"} <= changes[0].keys()

    Path("scores.py").write_text("def length(prompt, completion):\n    return float(len(completion.text))\n")
    label = ("label", *pairs, "--feedback", "scores.py:length", "--limit", 4, "--out", "l")
    assert read(*label, "--dry-run")[1]["rows"] == 4
    code, made = read(*label, "--write", "groups")
    assert (code, made["data"], made["facts"]["rows"]) == (0, "l/groups.jsonl", 4)
    code, row = read("trace", "l", 3)
    (entry,), (file,) = row["history"], row["files"]
    assert (code, row["place"], row["stage"], row["learners"]) == (0, 3, "l", [])
    assert [f["score"] for f in row["feedback"]] == [len(c["text"]) for c in row["completions"]]
    assert (entry["kind"], entry["decisions"]) == ("label", [])
    assert (file["changed"], file["hash"]) == (False, sha256_file(Path("l/groups.jsonl")))
