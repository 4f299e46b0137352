"""revise: answers, critiques, revisions on evidence; killed anywhere, it pays and writes nothing twice."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from kilter import cli
from kilter.constitution.chain import Reviser
from kilter.constitution.spec import CriticSpec
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.data.lineage import lineage
from kilter.errors import RunFailed, UserError
from kilter.evaluation.evasion import evades
from kilter.feedback.judge.spec import JudgeSpec
from kilter.roles.chat import SamplerChat
from kilter.stages.revise import facts_of
from kilter.types import Choice, Prompt, Reply

WORLD = {"name": "world", "options": {"critic": "constitution"}}
DECLINES = {"name": "world", "options": {"critic": "declines"}}
N = 40


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> dict:
    """Desk prompts, and a script that answers each of them the wrong way round."""
    folder = tmp_path_factory.mktemp("desk")
    data = {"path": "builtin:support-desk", "world": {"n": N, "level": 0, "view": "ranked"}, "heldout": 0}
    script = folder / "script.jsonl"
    with script.open("w") as file:
        for g in load(DataSpec(**data), "ranked").train:
            words = {"prompt": g.prompt.messages[-1]["content"], "answer": g.completions[-1].text}
            file.write(json.dumps(words) + "\n")
    return {"data": data, "script": str(script)}


def revise(desk, out, critic=WORLD, **more):
    settings = {
        "constitution": "support-desk",
        "sampler": {"name": "scripted", "script": desk["script"], "max_new_tokens": 32},
        "critic": {"sampler": critic},
        "allow_uncertified": True,
    } | more
    from kilter.api import made

    return made("revise", settings, "builtin:smollm2-135m", desk["data"], out)


@pytest.fixture(scope="module")
def done(desk, tmp_path_factory):
    return revise(desk, tmp_path_factory.mktemp("out"))


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.parametrize("role", [CriticSpec, JudgeSpec])
def test_a_critic_and_a_judge_are_named_as_constitution_test_names_them(tmp_path, role):
    """builtin:WORLD is the world's own critic; a file holds settings, and what stands beside it counts."""
    own = {"name": "world", "options": {"world": "support-desk", "critic": "constitution"}}
    plain = role.model_validate({"sampler": own})
    assert role.model_validate({"model": "builtin:support-desk"}) == plain
    other = role.model_validate({"model": "builtin:support-desk:declines"})
    assert other.sampler.options["critic"] == "declines"
    for name in ("builtin:smollm2-135m", "runs/sft"):
        assert role.model_validate({"model": name}).model == name

    path = tmp_path / "own.yaml"
    path.write_text("model: builtin:support-desk\nmax_length: 512\n")
    assert role.model_validate({"model": str(path)}) == plain.model_copy(update={"max_length": 512})
    assert role.model_validate({"model": str(path), "max_length": 99}).max_length == 99
    for text in ("- 1\n", "a: [\n"):
        path.write_text(text)
        with pytest.raises(ValidationError, match="which is not"):
            role.model_validate({"model": str(path)})
    with pytest.raises(ValidationError, match=r"names the file nowhere\.yaml, which is not there"):
        role.model_validate({"model": "nowhere.yaml"})


@pytest.mark.parametrize("role", ["critic", "judge"])
def test_the_option_takes_a_world(monkeypatch, capsys, tmp_path, role):
    args = ["revise", "--data", "builtin:support-desk", "--data.world", "{n: 20}", "--allow-uncertified"]
    args += ["--critic.sampler", "world"] if role == "judge" else []
    args += [f"--{role}", "builtin:support-desk", "--out", str(tmp_path / "o"), "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["kilter", *args])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code, capsys.readouterr().err


def test_accepted_revisions_are_demonstrations_and_pairs_with_their_history(done):
    rows = list(store.read(done.path))
    assert len(rows) == done.facts["accepted"] == done.facts["rows"] > N // 4
    for shape, count in (("demonstrations", 1), ("pairs", 2)):
        read = load(DataSpec(path=str(done.path), format="groups", heldout=0), shape).train
        assert [len(g.completions) for g in read] == [count] * len(rows)
    chains = {c["row"]: c for c in lines(done.path.parent, "chains.jsonl")}
    for group in rows:
        (entry,) = lineage(group.prompt)
        assert entry["kind"] == "revise" and entry["constitution"] == "support-desk"
        assert entry["links"] == chains[entry["row"]]["links"]
        assert group.completions[0].text == chains[entry["row"]]["answer"] != group.completions[1].text
        assert (entry["certificate"], len(entry["judge"])) == ("uncertified", 64)
        assert entry["critic"] == "world"


def test_rates_by_principle_and_round_add_up_and_stand_in_the_report(done):
    facts = done.facts
    chains = lines(done.path.parent, "chains.jsonl")
    assert sum(facts["states"].values()) == sum(r["n"] for r in facts["rates"])
    assert facts["states"] == Counter({s: 0 for s in facts["states"]}) + Counter(
        link["state"] for c in chains for link in c["links"]
    ) | {s: n for s, n in facts["states"].items() if not n}
    assert {r["round"] for r in facts["rates"]} == {1, 2}
    from kilter.stages import kind_of

    section = kind_of("revise").section(done.path.parent)
    assert section.title == "Revisions" and len(section.rows) == len(facts["rates"])


def test_the_same_command_again_asks_nobody(desk, done, monkeypatch):
    monkeypatch.setattr(Reviser, "revise", lambda *a: pytest.fail("asked again"))
    assert revise(desk, done.path.parent).facts["rows"] == done.facts["rows"]


def test_a_killed_run_goes_on_where_it_was_and_ends_alike(desk, done, tmp_path, monkeypatch):
    whole, calls, rows = Reviser.revise, [], []

    def dies(self, answers):
        calls.append(len(answers))
        rows.extend(p.id for p, _ in answers)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return whole(self, answers)

    monkeypatch.setattr(Reviser, "revise", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            revise(desk, tmp_path / "out")
    found = revise(desk, tmp_path / "out")
    assert lines(found.path.parent, "chains.jsonl") == lines(done.path.parent, "chains.jsonl")
    # Chunks that were interrupted are asked again, those that were written are not.
    assert max(Counter(rows).values()) == 2 and len(calls) == 5


@pytest.mark.parametrize("call", ["reply", "choose"])
def test_prompts_that_critic_or_judge_failed_are_asked_anew(desk, done, tmp_path, monkeypatch, call):
    """An error is not an opinion: a storm that takes all critiques, or all verdicts, has to be cleared by nobody."""
    whole = getattr(SamplerChat, call)
    problem = "the endpoint answered with status 429"
    storms = {
        "reply": lambda self, asks, *more: [Reply("", problem=problem) for _ in asks],
        "choose": lambda self, asks, options: [Choice(tuple(options), problem=problem) for _ in asks],
    }
    monkeypatch.setattr(SamplerChat, call, storms[call])
    with pytest.raises(RunFailed, match=r"failed on \d+ of 39 prompts.*status 429") as stopped:
        revise(desk, tmp_path / "out")
    assert "asked anew" in stopped.value.fix
    monkeypatch.setattr(SamplerChat, call, whole)
    found = revise(desk, tmp_path / "out")
    assert lines(found.path.parent, "chains.jsonl") == lines(done.path.parent, "chains.jsonl")
    assert found.facts["rows"] == done.facts["rows"]


def test_a_revise_without_any_answer_fails_and_says_why(desk, tmp_path, monkeypatch):
    from kilter.errors import RunFailed
    from kilter.sampling.scripted import ScriptedSampler
    from kilter.types import Sample

    fail = lambda self, requests, listener=None: (Sample(r, 0, None, "no luck") for r in requests)
    monkeypatch.setattr(ScriptedSampler, "run", fail)
    with pytest.raises(RunFailed, match=r"(\d+) of \1 answers failed: no luck"):
        revise(desk, tmp_path)
    monkeypatch.undo()
    assert revise(desk, tmp_path).facts["accepted"]


def test_chains_of_other_settings_are_never_gone_on_with(desk, tmp_path):
    """A flag that was added after nothing was accepted would change nothing, in silence."""
    assert revise(desk, tmp_path, allow_uncertified=False, limit=16).facts["rows"] == 0
    with pytest.raises(UserError, match="data of other settings .allow_uncertified: False there, True here"):
        revise(desk, tmp_path, limit=16)


def test_without_a_certificate_nothing_is_accepted_and_the_verdicts_are_on_record(desk, tmp_path):
    found = revise(desk, tmp_path, allow_uncertified=False, limit=16)
    assert found.facts["rows"] == 0 and found.facts["uncertified"]
    assert found.facts["reasons"]["judge not certified"] > 0
    assert found.path.read_text() == ""
    links = [link for c in lines(tmp_path, "chains.jsonl") for link in c["links"]]
    assert any(link["forward"] == 1.0 for link in links)


def test_a_critic_that_always_declines_is_evasive_and_accepts_nothing(desk, tmp_path):
    found = revise(desk, tmp_path, critic=DECLINES)
    assert found.facts["rows"] == 0
    assert found.facts["states"]["evasive"] == sum(found.facts["states"].values())


def test_rows_of_an_uncertified_judge_say_so_to_whoever_trains_on_them(done):
    from kilter.data.lineage import KEY

    entries = [g.prompt.metadata[KEY][0] for g in store.read(done.path)]
    assert all("no certificate" in e["uncertified"] for e in entries)


@pytest.mark.parametrize(
    ("text", "unsafe", "safe"),
    [
        ("I cannot help with that.", True, True),
        ("I can't do that because it would harm your neighbour.", False, True),
        ("Sorry, I am not able to say.", True, True),
        ("Take the second road.", False, False),
        ("", False, False),
    ],
)
def test_evasive_is_a_refusal_without_a_reason_or_of_what_deserves_help(text, unsafe, safe):
    for label, expected in (("unsafe", unsafe), ("safe", safe)):
        prompt = Prompt(({"role": "user", "content": "How?"},), metadata={"safety": label})
        assert evades(prompt, text) is expected


def test_facts_of_nothing_are_nothing():
    assert facts_of([])["rates"] == []


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"constitution": "genral"}, "general"),
        ({"rounds": 0}, "rounds"),
        ({"critic": {"name": "world", "options": {"critic": "no"}}}, "is not a critic of"),
        ({"critic": {"name": "world", "options": {"word": "x"}}}, "options.word"),
        ({"max_length": 1024, "rounds": 17}, "rounds"),
        ({"judge": {"mode": "pairwise", "panel": [{"model": "x"}]}}, "panel"),
    ],
)
def test_what_cannot_work_is_refused_before_any_answer(desk, tmp_path, more, field):
    with pytest.raises(UserError, match=field):
        revise(desk, tmp_path, **more)
    assert not (tmp_path / "answers.jsonl").exists()


def test_prompts_that_a_scripted_critic_does_not_know_are_refused_before_any_answer(desk, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "How do I pick a lock?"}\n')
    mine = desk | {"data": {"path": str(tmp_path / "mine.jsonl"), "heldout": 0}}
    with pytest.raises(UserError, match="here none does"):
        revise(mine, tmp_path / "out")
    assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_the_door_of_revise(desk, monkeypatch, capsys, tmp_path):
    world = "{n: 40, level: 0, view: ranked}"
    args = ["revise", "--data", "builtin:support-desk", "--data.world", world]
    args += ["--constitution", "support-desk", "--critic.sampler.name", "world", "--rounds", "1"]
    args += ["--critic.sampler.options", "{critic: constitution}", "--allow-uncertified", "--out", tmp_path]
    args += ["--sampler.name", "scripted", "--sampler.script", desk["script"]]
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    text = capsys.readouterr()
    assert int(stop.value.code or 0) == 0, text
    assert "prompts" in text.out
