"""Data that stages make: answers, labels and rounds of both, with the history of every row."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import pytest
import yaml

import kilter
from kilter import progress
from kilter import recipe as recipes
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.data.lineage import KEY, lineage, with_entry
from kilter.errors import UserError
from kilter.stages import make
from kilter.stages.label import WRITERS
from kilter.types import Completion, Feedback, Group, Prompt

LOOP = {
    "rounds": 2,
    "start": "sft",
    "stages": {
        "answers": {
            "generate": {
                "data": "$data",
                "part": "{round}/{rounds}",
                "seed": "{round}",
                "k": 3,
                "sampler": {"max_new_tokens": 8},
                "max_length": 96,
            }
        },
        "pairs": {"label": {"data": "$answers", "feedback": "rewards.py:letters"}},
        "dpo": {"train": {"method": "dpo", "data": "$pairs", "batch_size": 4, "learning_rate": 1e-3}},
    },
}

REWARD = '''
def letters(prompt, completion):
    """The share of letters a to m, which any model can raise."""
    return sum("a" <= c <= "m" for c in completion.text.lower()) / max(1, len(completion.text))


def capitals(prompt, completion):
    return float(completion.text.isupper())
'''


def recipe(tiny, pairs_file, **loop) -> dict:
    return {
        "name": "loop",
        "model": str(tiny),
        "data": {"path": str(pairs_file), "heldout": 0.25},
        "stages": {
            "sft": {"train": {"method": "sft", "max_steps": 1, "max_length": 96}},
            "loop": LOOP | loop,
            "eval": {
                "evaluate": {
                    "models": {"sft": "sft", "first": "loop-1.dpo", "last": "loop"},
                    "max_new_tokens": 4,
                }
            },
        },
    }


def test_rounds_are_written_out(tiny, pairs_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    found = recipes.build(recipe(tiny, pairs_file)).stages
    assert list(found) == [
        *("sft", "loop-1.answers", "loop-1.pairs", "loop-1.dpo"),
        *("loop-2.answers", "loop-2.pairs", "loop-2.dpo", "eval"),
    ]
    first, second = found["loop-1.answers"].spec, found["loop-2.answers"].spec
    assert (first.model, first.part, first.seed, first.data) == ("sft", "1/2", 1, "$data")
    assert (second.model, second.part, second.seed) == ("loop-1.dpo", "2/2", 2)
    assert found["loop-2.pairs"].spec.data == "$loop-2.answers"
    assert (found["loop-1.dpo"].spec.start, found["loop-2.dpo"].spec.start) == ("sft", "loop-1.dpo")
    assert found["loop-2.dpo"].spec.reference is None
    assert found["eval"].spec.models == {"sft": "sft", "first": "loop-1.dpo", "last": "loop-2.dpo"}

    kept = recipes.build(recipe(tiny, pairs_file, reference="kept")).stages
    assert [kept[f"loop-{n}.dpo"].spec.reference for n in (1, 2)] == ["sft", "sft"]
    again = recipes.build(yaml.safe_load(recipes.dump(recipes.build(recipe(tiny, pairs_file)))))
    assert {n: s.spec for n, s in again.stages.items()} == {n: s.spec for n, s in found.items()}


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"rounds": 0}, "stages.loop.rounds", "greater than or equal to 1"),
        ({"round": 2}, "stages.loop.round", "Did you mean 'rounds'"),
        ({"stages": {"a": {"generat": {}}}}, "stages.loop.stages.a.generat", "Did you mean 'generate'"),
        ({"stages": {"a": {"generate": {"kk": 1}}}}, "stages.loop.stages.a.generate.kk", "Did you mean 'k'"),
        (
            {"stages": {"p": {"label": {"data": "$a", "feedback": "math"}}, "a": {"generate": {}}}},
            "stages.loop.stages.p.label.data",
            "the first round has none",
        ),
        ({"stages": {"a": {"rounds": 2, "stages": {}}}}, "stages.loop.stages.a", "rounds hold no rounds"),
        ({"start": "sfft"}, "stages.loop.stages.answers.generate.model", "Did you mean 'sft'"),
    ],
)
def test_rounds_that_cannot_be_written_out(tiny, pairs_file, tmp_path, monkeypatch, change, field, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    with pytest.raises(UserError) as error:
        recipes.build(recipe(tiny, pairs_file, **change))
    assert error.value.field == field
    assert problem in str(error.value)


def scored(*scores, texts="abcdef") -> Group:
    prompt = with_entry(Prompt(messages=({"role": "user", "content": "q"},), id="7"), {"stage": "pairs"})
    completions = tuple(Completion(f"answer {texts[i]}") for i in range(len(scores)))
    return Group(prompt, completions, tuple(Feedback(s, "judge", rationale=f"r{s}") for s in scores))


@pytest.mark.parametrize(
    ("settings", "group", "want", "dropped"),
    [
        ({}, scored(0.2, None, 0.9), [((2, 0), (0.9, 0.2))], {}),
        ({}, scored(0.5, 0.5), [], {"pairs: tie": 1}),
        ({"pairs": {"min_margin": 0.5}}, scored(0.5, 0.1), [], {"pairs: margin below 0.5": 1}),
        ({}, scored(0.5, 0.1, texts="aa"), [], {"pairs: identical answers": 1}),
        (
            {"pairs": {"rule": "all"}},
            scored(1, 2, 3),
            [((2, 1), (3, 2)), ((2, 0), (3, 1)), ((1, 0), (2, 1))],
            {},
        ),
        ({"write": "ratings"}, scored(0.2, None, 0.9), [((0, 2), (0.2, 0.9))], {"unscored answers": 1}),
        ({"write": "rankings"}, scored(1, 3, 1, 2), [((1, 3, 0), (3, 2, 1))], {"tied answers": 1}),
        (
            {"write": "rankings"},
            scored(1, 1),
            [],
            {"tied answers": 1, "prompts with fewer than two ranks": 1},
        ),
        (
            {"write": "binary", "margin": 0.2},
            scored(0.2, 0.9, 0.6),
            [((0,), (0,)), ((1,), (1,))],
            {"answers too close to the threshold": 1},
        ),
    ],
)
def test_what_is_written_from_scores_and_what_is_left_out(settings, group, want, dropped):
    spec = make("label", {"feedback": "math"} | settings).spec
    counts: Counter[str] = Counter()
    rows = WRITERS[spec.write](group, spec, counts)
    assert [
        (tuple(lineage(r.prompt)[-1]["answers"]), tuple(f.score for f in r.feedback)) for r in rows
    ] == want
    assert dict(+counts) == dropped
    for row in rows:
        places = lineage(row.prompt)[-1]["answers"]
        assert [f.rationale for f in row.feedback] == [group.feedback[i].rationale for i in places]


def test_labels_are_read_again_in_their_shape(tmp_path):
    shapes = {"pairs": "pairs", "ratings": "pairs", "rankings": "ranked", "binary": "unpaired"}
    for write, shape in shapes.items():
        spec = make("label", {"feedback": "math", "write": write}).spec
        rows = WRITERS[write](scored(0.9, 0.1), spec, Counter())
        store.write(tmp_path / f"{write}.jsonl", rows)
        data = load(DataSpec(path=str(tmp_path / f"{write}.jsonl"), heldout=0), shape)
        assert len(data.train) == len(rows), write
        assert not data.skipped, write
        assert data.train[0].completions[0].text == "answer a"
        assert data.train[0].feedback[0].rationale == "r0.9"
        assert data.train[0].prompt.metadata[KEY] == [
            {"stage": "pairs", "answers": rows[0].prompt.metadata[KEY][0]["answers"]}
        ]


def test_two_rounds_of_answers_labels_and_training(tiny, pairs_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    (tmp_path / "loop.yaml").write_text(yaml.safe_dump(recipe(tiny, pairs_file), sort_keys=False))
    assert kilter.run("loop.yaml") == 0
    run = tmp_path / "runs" / "loop"
    manifests = {
        n: json.loads((run / n / "manifest.json").read_text()) for n in os.listdir(run) if (run / n).is_dir()
    }

    # Each stage is hashed by what it reads: answers by the model, pairs by the answers, training by pairs and model.
    for number, start in ((1, "sft"), (2, "loop-1.dpo")):
        name = f"loop-{number}"
        answers, pairs, dpo = (manifests[f"{name}.{n}"] for n in ("answers", "pairs", "dpo"))
        assert answers["inputs"][f"model:{start}"] == manifests[start]["outputs"]["model"]
        assert pairs["inputs"][f"data:{name}.answers"] == answers["outputs"]["data"]
        assert dpo["inputs"][f"data:{name}.pairs"] == pairs["outputs"]["data"]
        assert answers["facts"]["answers"] == 3 * answers["facts"]["rows"] == 27
        assert pairs["facts"]["prompts"] == 9
        assert dpo["facts"]["groups"] == pairs["facts"]["rows"] > 0

    # A row tells its whole history, and what decided.
    row = next(iter(store.read(run / "loop-2.pairs" / "groups.jsonl")))
    asked, labelled = lineage(row.prompt)
    assert (asked["stage"], asked["model"], labelled["stage"]) == (
        "loop-2.answers",
        "loop-1.dpo",
        "loop-2.pairs",
    )
    assert asked["model_hash"] == manifests["loop-1.dpo"]["outputs"]["model"][:16]
    assert asked["sampling"]["seed"] == 2
    source = {
        g.prompt.id or store_key(g)
        for g in load(DataSpec(path=str(pairs_file), heldout=0.25), "prompts").train
    }
    assert asked["row"] in source
    assert row.feedback[0].score > row.feedback[1].score
    assert row.feedback[0].source == "letters"
    every = {store_key(g): g for g in store.read(run / "loop-2.answers" / "groups.jsonl")}[store_key(row)]
    assert [c.text for c in row.completions] == [every.completions[i].text for i in labelled["answers"]]

    # Rounds ask different prompts; the page shows both new kinds; nothing is repeated.
    asked_in = [
        {store_key(g) for g in store.read(run / f"loop-{n}.answers" / "groups.jsonl")} for n in (1, 2)
    ]
    assert not asked_in[0] & asked_in[1]
    page = (run / "report.html").read_text()
    assert "27 answers to 9 prompts" in page
    assert "Labels" in page
    capsys.readouterr()
    assert kilter.run("loop.yaml") == 0
    assert capsys.readouterr().out.count("unchanged") == 8


def store_key(group: Group) -> str:
    from kilter.data.dataset import prompt_key

    return prompt_key(group.prompt)[:16]


SLOW = """
import sys, time
from kilter.data import store
append = store.append
def slowly(path, groups):
    append(path, groups)
    print("written", flush=True)
    time.sleep(60 if sys.argv[1] == "slow" else 0)
store.append = slowly
from kilter.stages import generate
generate.CHUNK = 6
import kilter
kilter.generate({model!r}, {data!r}, out="answers", k=2, sampler={{"max_new_tokens": 6}}, max_length=96)
"""


def test_a_data_set_may_be_what_a_stage_makes(tiny, pairs_file, tmp_path, monkeypatch, capsys):
    """With a split of its own; it is hashed by its settings and by what the stage left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    sampling = {"k": 2, "sampler": {"max_new_tokens": 6}, "max_length": 96}
    raw = {
        "name": "made",
        "model": str(tiny),
        "data": {
            "asked": {"path": str(pairs_file), "heldout": 0.25},
            "ranked": {"path": "$pairs", "heldout": 0.5},
            "mixed": {"parts": [{"path": "$pairs", "weight": 2}, {"path": str(pairs_file)}], "heldout": 0},
        },
        "stages": {
            "answers": {"generate": {"data": "$asked", **sampling}},
            "pairs": {"label": {"data": "$answers", "feedback": "rewards.py:letters"}},
            "dpo": {"train": {"method": "dpo", "data": "$ranked", "max_steps": 1, "max_length": 96}},
            "more": {"train": {"method": "sft", "data": "$mixed", "max_steps": 1, "max_length": 96}},
        },
    }
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert kilter.run("made.yaml") == 0
    facts = json.loads((tmp_path / "runs/made/dpo/manifest.json").read_text())["facts"]
    assert facts["heldout_groups"] >= facts["groups"] - 1 > 0
    # A part of a mixture too: what the stage made counts twice, and 24 rows of the file once.
    made = sum(1 for _ in store.read(tmp_path / "runs/made/pairs/groups.jsonl"))
    mixed = json.loads((tmp_path / "runs/made/more/manifest.json").read_text())
    assert mixed["facts"]["groups"] == 2 * made + 24
    capsys.readouterr()
    assert kilter.run("made.yaml", ["data.ranked.heldout=0.25"]) == 0
    assert capsys.readouterr().out.count("unchanged") == 3
    assert kilter.run("made.yaml", ["stages.answers.generate.seed=1", "data.ranked.heldout=0.25"]) == 0
    assert json.loads((tmp_path / "runs/made/more/manifest.json").read_text())["key"] != mixed["key"]
    with pytest.raises(UserError, match="asked.* is a data set itself"):
        recipes.build(raw | {"data": raw["data"] | {"mixed": ["$asked"]}})
    with pytest.raises(UserError, match="'.more' comes later"):
        recipes.build(raw | {"data": raw["data"] | {"ranked": ["$more"]}})
    with pytest.raises(UserError, match="Did you mean 'pairs'"):
        recipes.build(raw | {"data": raw["data"] | {"ranked": {"path": "$pair"}}})


def test_a_stage_killed_before_its_first_row_is_not_read(tiny, pairs_file, tmp_path, monkeypatch):
    """Later stages are checked before the first one runs: a file that holds no row yet is not their data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    sampling = {"k": 2, "sampler": {"max_new_tokens": 6}, "max_length": 96}
    raw = {
        "name": "cut",
        "model": str(tiny),
        "data": {"path": str(pairs_file), "heldout": 0.25},
        "stages": {
            "answers": {"generate": {"data": "$data", **sampling}},
            "pairs": {"label": {"data": "$answers", "feedback": "rewards.py:letters"}},
        },
    }
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert kilter.run("cut.yaml") == 0
    folder = tmp_path / "runs/cut"
    whole = (folder / "pairs/groups.jsonl").read_bytes()

    # As a kill leaves it: the first stage under way, with an empty file.
    manifest = json.loads((folder / "answers/manifest.json").read_text()) | {"status": "running", "files": {}}
    (folder / "answers/manifest.json").write_text(json.dumps(manifest))
    (folder / "answers/groups.jsonl").write_text("")
    (folder / "chain.json").unlink()
    shutil.rmtree(folder / "pairs")
    assert kilter.run("cut.yaml") == 0
    assert (folder / "pairs/groups.jsonl").read_bytes() == whole


def test_a_killed_generation_keeps_its_answers_and_asks_the_rest(tiny, pairs_file, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(model=str(tiny), data=str(pairs_file)))
    process = subprocess.Popen(
        [sys.executable, str(script), "slow"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    path = tmp_path / "answers" / "groups.jsonl"
    first = path.read_bytes()
    there = first.count(b"\n")
    assert 1 <= there < 24
    done = subprocess.run([sys.executable, str(script), "fast"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{there} of 24 prompts are answered already" in done.stderr
    assert set(first.splitlines()[:there]) <= set(path.read_bytes().splitlines())
    assert len({store_key(g) for g in store.read(path)}) == 24

    # Without the kill the tokens are the same, whatever else was in their batch.
    whole = kilter.generate(
        str(tiny),
        str(pairs_file),
        out=tmp_path / "whole" / "answers",
        k=2,
        sampler={"max_new_tokens": 6},
        max_length=96,
    )
    tokens = lambda file: [[c.token_ids for c in g.completions] for g in store.read(file)]
    assert tokens(whole.path) == tokens(path)


def test_generate_and_label_as_doors(tiny, pairs_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    settings = {"k": 3, "sampler": {"max_new_tokens": 6}, "max_length": 96, "limit": 5}
    made = kilter.generate(str(tiny), str(pairs_file), out="answers", **settings)
    assert made.facts["rows"] == 5
    assert kilter.generate(str(tiny), str(pairs_file), out="answers", **settings) == made
    with pytest.raises(UserError, match="holds data of other settings"):
        kilter.generate(str(tiny), str(pairs_file), out="answers", **settings | {"k": 2})

    # What a killed process had scored is of its own reward, and goes into no labels of another one.
    told = progress.Display.update
    monkeypatch.setattr(progress.Display, "update", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        kilter.label(str(made.path), "rewards.py:letters", out="killed", batch_size=2)
    monkeypatch.setattr(progress.Display, "update", told)
    with pytest.raises(UserError, match="holds data of other settings"):
        kilter.label(str(made.path), "rewards.py:capitals", out="killed", batch_size=2)
    labelled = kilter.label(str(made.path), "rewards.py:letters", out="pairs", write="rankings")
    assert labelled.facts["answers"] == 15
    rows = list(store.read(labelled.path))
    assert [f.score for f in rows[0].feedback] == sorted((f.score for f in rows[0].feedback), reverse=True)
    with pytest.raises(UserError, match="the same greedy answer"):
        kilter.generate(str(tiny), str(pairs_file), out="more", k=2, sampler={"temperature": 0})
    with pytest.raises(UserError, match="is beyond the last part"):
        kilter.generate(str(tiny), str(pairs_file), out="more", part="3/2")
    with pytest.raises(UserError, match="write is pairs"):
        kilter.label(str(made.path), "rewards.py:letters", out="more", threshold=0.3)


def test_an_interrupted_labelling_keeps_its_scores(pairs_file, tmp_path, monkeypatch, capsys):
    from kilter.progress import Display

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    label = lambda: kilter.label(str(pairs_file), "rewards.py:letters", out="pairs", batch_size=10)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr(Display, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            label()
    first = (tmp_path / "pairs" / "scored.jsonl").read_bytes()
    assert first.count(b"\n") == 10
    assert not (tmp_path / "pairs" / "groups.jsonl").exists()
    capsys.readouterr()
    made = label()
    assert "10 of 24 prompts are scored already" in capsys.readouterr().err
    assert (tmp_path / "pairs" / "scored.jsonl").read_bytes().startswith(first)
    assert made.facts["prompts"] == 24


def test_a_script_answers_without_a_model_and_its_gaps_are_named(pairs_file, tmp_path, monkeypatch):
    """Any sampler answers; what it could not answer is counted, and named in failures.jsonl."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARD)
    asked = [json.loads(line)["prompt"] for line in pairs_file.read_text().splitlines()]
    lines = [{"prompt": p, "answers": ["abc", "xyz"]} for p in asked[1:4]]
    (tmp_path / "script.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    sampler = {"name": "scripted", "script": "script.jsonl"}
    made = kilter.generate("builtin:nothing", str(pairs_file), out="answers", limit=4, k=2, sampler=sampler)
    assert (made.facts["rows"], made.facts["failed"]) == (3, 2)
    failures = [json.loads(x) for x in (tmp_path / "answers" / "failures.jsonl").read_text().splitlines()]
    assert [f["answer"] for f in failures] == [0, 1]
    row = next(iter(store.read(made.path)))
    assert lineage(row.prompt)[0]["model"] == "scripted"
    manifest = json.loads((tmp_path / "answers" / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"kilter", "data:data", "file:script.jsonl"}
    pairs = kilter.label(str(made.path), "rewards.py:letters", out="pairs")
    assert [c.text for c in next(iter(store.read(pairs.path))).completions] == ["abc", "xyz"]
    stages = {"a": {"generate": {"model": "builtin:x", "sampler": sampler}}}
    with pytest.raises(UserError, match="sampler scripted opens no model"):
        recipes.build({"data": {"path": str(pairs_file)}, "stages": stages})
