"""The chain of a run: one changed byte of any file is named by `kilter verify` and fails the gate."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import pair_rows
from kilter import chain, recipe
from kilter import manifest as manifests
from kilter.errors import Exit, UserError
from kilter.hashes import file_hash
from kilter.pipeline.runner import Run
from kilter.release import export, exported, signature
from kilter.release.source import find
from kilter.release.verify import verify
from kilter.screen import Screen
from test_chain import kilter

POLICY = "conditions: [{metric: length, bound: value, op: '>=', value: 0}]"


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny) -> Path:
    """A run of data, models, answers, labels, evaluation and verdict, and a signature over all of it."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(16)))
    small = {"max_steps": 1, "batch_size": 2, "max_length": 64}
    evaluate = {"models": {"base": str(tiny), "dpo": "dpo"}, "baseline": "base", "max_new_tokens": 2}
    evaluate |= {"data": "$data"}
    # Fresh answers, and the weights with the best of them: kept in a file of their own.
    best = {
        "method": "grpo",
        "from": "merged",
        "prompts": "$data",
        "feedback": {"regex": "[a-m]"},
        "sampler": {"samples": 2, "max_new_tokens": 2},
        "monitors": {"gold": {"regex": "[n-z]"}, "allow_truncation": True},
    }
    raw = {
        "model": str(tiny),
        "data": {"data": {"path": str(folder / "pairs.jsonl"), "heldout": 0.25}},
        "stages": {
            "audit": {"audit": {}},
            "sft": {"train": {"method": "sft", "adapter": "lora", "data": "$data"} | small},
            "merged": {"merge": {"model": "sft"}},
            "best": {"train": best | small},
            "answers": {"generate": {"data": "$data", "k": 2, "limit": 2, "sampler": {"max_new_tokens": 2}}},
            "labels": {"label": {"data": "$answers", "feedback": {"regex": "[a-m]"}, "allow_empty": True}},
            "dpo": {"train": {"method": "dpo", "data": "$data"} | small},
            "eval": {"evaluate": evaluate | {"metrics": ["length"]}},
            "gate": {"gate": {"policy": {"conditions": [dict(CONDITION)]}, "allow_means": True}},
        },
    }
    (folder / "p.yaml").write_text(POLICY)
    (folder / "r.json").write_text(json.dumps(raw))
    assert Run(recipe.build(raw), folder / "run", Screen(quiet=True)).execute() == Exit.OK
    for arguments in (["genpkey", "-algorithm", "ed25519", "-out", "key"], ["pkey", "-in", "key", "-pubout"]):
        more = [] if "key" in arguments[-1:] and "-out" in arguments else ["-out", "pub"]
        subprocess.run(["openssl", *arguments, *more], cwd=folder, check=True, capture_output=True)
    signature.sign(folder / "run", folder / "key")
    return folder


CONDITION = {"metric": "length", "bound": "value", "op": ">=", "value": 0}


def files(run: Path) -> list[Path]:
    return sorted(p for p in run.rglob("*") if p.is_file())


@pytest.fixture
def run(home, tmp_path) -> Path:
    shutil.copytree(home / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_whole_run_is_whole(home, monkeypatch, capsys):
    found = verify(home / "run", home / "pub")
    assert (found.broken, found.unseen) == ([], [])
    assert found.stages == 9
    assert (home / "run" / "best" / "best.safetensors").is_file()
    # Every file is read but the chain and its signature, which are checked by themselves.
    assert found.files == len(files(home / "run")) - 2
    code, said = kilter(monkeypatch, capsys, "verify", home / "run", "--key", home / "pub")
    assert (code, "the chain holds from data to verdict" in said) == (0, True), said
    assert "signed by key" in said


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_changed_byte_of_any_file_is_named(home, data):
    """Any file, any byte, any other value, with the file's times set back."""
    run = home / "run"
    path = data.draw(st.sampled_from(files(run)))
    before, times = path.read_bytes(), path.stat()
    at = data.draw(st.integers(0, max(0, len(before) - 1)))
    new = data.draw(st.integers(0, 255).filter(lambda b: not before or b != before[at]))
    path.write_bytes(before[:at] + bytes([new]) + before[at + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        broken = verify(run).broken
        assert path in {link.path for link in broken}, (path, broken)
        quick = {link.path for link in chain.breaks(run, file_hash)}
        assert path in quick or path.name == chain.SIGNATURE
    finally:
        path.write_bytes(before)
    assert not verify(run).broken


@pytest.fixture(scope="module")
def shipped(home) -> Path:
    """The run's model, exported."""
    source = find(str(home / "run"), "dpo")
    export.write(source, home / "shipped", export.Options())
    return home / "shipped"


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_one_changed_byte_of_any_exported_file_is_named(shipped, data):
    path = data.draw(st.sampled_from(files(shipped)))
    before, times = path.read_bytes(), path.stat()
    at = data.draw(st.integers(0, len(before) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda b: b != before[at]))
    path.write_bytes(before[:at] + bytes([new]) + before[at + 1 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        assert [link.path for link in verify(shipped).broken] == [path]
        assert [link.path for link in exported.breaks(shipped)] == [path]
    finally:
        path.write_bytes(before)
    assert not verify(shipped).broken


def test_an_exported_folder_is_verified_and_its_edit_fails_the_gate(
    shipped, home, run, tmp_path, monkeypatch, capsys
):
    assert {p.relative_to(shipped).as_posix() for p in files(shipped)} >= {
        "model.safetensors",
        "README.md",
        "evidence/gate.json",
        "evidence/export.json",
    }
    code, said = kilter(monkeypatch, capsys, "verify", shipped)
    assert (code, "every file is as it was exported" in said) == (0, True), said
    (shipped / ".gitattributes").write_text("*.safetensors filter=lfs")
    (shipped / "model.bin").write_bytes(b"x")
    code, said = kilter(monkeypatch, capsys, "verify", shipped)
    (shipped / "model.bin").unlink()
    assert (code, f"{shipped / 'model.bin'} was added" in said) == (1, True), said
    with pytest.raises(UserError, match="an exported folder, which nobody signs"):
        verify(shipped, home / "pub")

    # An evaluation of the exported model, in a run whose own chain holds.
    path = run / "eval" / "evaluation.json"
    found = json.loads(path.read_text())
    found["models"]["dpo"]["path"] = str(shipped)
    path.write_text(json.dumps(found))
    entry = manifests.read(path.parent)
    entry.files = chain.files_of(path.parent)
    entry.outputs["evaluation"] = chain.sha256_file(path)
    entry.write(path.parent)
    chain.record(run, "eval", entry.text(), entry.files)
    (run / chain.SIGNATURE).unlink()
    shutil.rmtree(run / "gate")
    chain.forget(run, "gate")
    policy = ("--policy", home / "p.yaml", "--allow-means", "--out", tmp_path / "out")
    assert kilter(monkeypatch, capsys, "gate", run / "eval", *policy)[0] == 0
    card = shipped / "README.md"
    before = card.read_text()
    card.write_text(before.replace("pass", "Pass"))
    code, said = kilter(monkeypatch, capsys, "gate", run / "eval", *policy)
    card.write_text(before)
    assert (code, f"{card} was changed since" in said) == (1, True), said


def test_every_file_fails_the_gate_by_name(home, run, monkeypatch, capsys):
    arguments = (
        "gate",
        run / "eval",
        "--policy",
        home / "p.yaml",
        "--allow-means",
        "--out",
        run.parent / "out",
    )
    assert kilter(monkeypatch, capsys, *arguments)[0] == 0
    for path in files(run):
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]) if before else b"x")
        code, said = kilter(monkeypatch, capsys, *arguments)
        assert code in (1, 2), (path, said)
        assert str(path) in said, (path, said)
        path.write_bytes(before)
    assert kilter(monkeypatch, capsys, *arguments)[0] == 0


def test_what_is_removed_or_added_is_named(run):
    for path in files(run):
        if path.name == chain.SIGNATURE:
            continue
        held = path.read_bytes()
        path.unlink()
        assert path in {link.path for link in verify(run).broken}, path
        path.write_bytes(held)
    for place in ("dpo/model/adapter_config.json", "eval/answers/x.jsonl", "gate/.hidden"):
        (run / place).write_text("{}")
        assert [str(link) for link in verify(run).broken] == [
            f"{run / place} was added since its stage ended"
        ]
        (run / place).unlink()


def test_a_manifest_that_is_rewritten_with_its_files_is_named(run):
    """Whoever knows how a manifest is made still has not changed the chain."""
    path = run / "eval" / "evaluation.json"
    path.write_text(path.read_text() + " ")
    manifest = run / "eval" / "manifest.json"
    entry = json.loads(manifest.read_text())
    entry["files"]["evaluation.json"] = entry["outputs"]["evaluation"] = chain.sha256_file(path)
    manifest.write_text(json.dumps(entry, indent=1))
    assert {link.path for link in verify(run).broken} >= {manifest, run / "gate" / "manifest.json"}


def test_a_chain_that_is_rewritten_as_a_whole_needs_the_key(home, run):
    path = run / "eval" / "evaluation.json"
    path.write_text(path.read_text() + " ")
    manifest, gate = run / "eval" / "manifest.json", run / "gate" / "manifest.json"
    entry = json.loads(manifest.read_text())
    entry["files"]["evaluation.json"] = entry["outputs"]["evaluation"] = chain.sha256_file(path)
    manifest.write_text(json.dumps(entry, indent=1))
    verdict = json.loads(gate.read_text())
    verdict["inputs"]["stage:eval"] = entry["outputs"]["evaluation"]
    gate.write_text(json.dumps(verdict, indent=1))
    for stage in ("eval", "gate"):
        text = (run / stage / "manifest.json").read_text()
        chain.record(run, stage, text, json.loads(text)["files"])
    assert [link.path.name for link in verify(run, home / "pub").broken] == [chain.SIGNATURE]
    # Signing with another key, or not at all, is no way out.
    other = run.parent / "other"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True, capture_output=True
    )
    signature.sign(run, other)
    assert not verify(run).broken
    assert "of another key" in str(verify(run, home / "pub").broken[0])
    (run / chain.SIGNATURE).unlink()
    assert "nobody has signed" in str(verify(run, home / "pub").broken[0])


def test_data_and_base_model_are_read_again(home, monkeypatch, capsys):
    path = home / "pairs.jsonl"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"a", b"b", 1))
    code, said = kilter(monkeypatch, capsys, "verify", home / "run")
    assert (code, f"{path} was changed since it was read" in said) == (1, True), said
    path.unlink()
    code, said = kilter(monkeypatch, capsys, "verify", home / "run", "--json")
    found = json.loads(said)
    path.write_bytes(before)
    assert (code, found["state"], len(found["unseen"])) == (3, "unseen", 1)


def test_no_record_leads_out_of_the_run(run):
    secret = run.parent / "secret"
    secret.write_text("x")
    held = json.loads((run / chain.CHAIN).read_text())
    for name in ("../secret", str(secret)):
        held.pop("seal", None)
        held["files"][name] = chain.sha256_file(secret)
        chain._write(run, held)
        assert any("lies outside the run" in str(link) for link in verify(run).broken)


def test_the_gate_asks_for_a_chain(home, run, monkeypatch, capsys):
    """An evaluation that was taken out of its run proves nothing."""
    alone = run.parent / "alone"
    alone.mkdir()
    shutil.copy(run / "eval" / "evaluation.json", alone)
    code, said = kilter(monkeypatch, capsys, "gate", alone, "--policy", home / "p.yaml", "--allow-means")
    assert (code, "lies in no run with a chain.json" in said) == (1, True), said


def test_a_judge_of_the_run_whom_nobody_certified_decides_nothing_on_the_command_line_either(
    home, run, monkeypatch, capsys
):
    """A gate stage asks for certificates of every stage before it; so does the command."""
    path = run / "labels" / "manifest.json"
    entry = manifests.read(path.parent)
    entry.facts["uncertified"] = ["world"]
    entry.write(path.parent)
    chain.record(run, "labels", entry.text(), entry.files)
    (run / chain.SIGNATURE).unlink()
    policy = ("--policy", home / "p.yaml", "--allow-means", "--out", run.parent / "out")
    code, said = kilter(monkeypatch, capsys, "gate", run / "eval", *policy)
    assert (code, "judge not certified: world" in said) == (3, True), said


def test_an_edited_stage_is_not_believed_without_a_gate_either(home, run, monkeypatch, capsys):
    raw = json.loads((home / "r.json").read_text())
    del raw["stages"]["gate"]
    (run.parent / "r.yaml").write_text(json.dumps(raw))
    path = run / "dpo" / "metrics.jsonl"
    path.write_text(path.read_text().replace("1", "2", 1))
    again = ("run", run.parent / "r.yaml", "--runs", run.parent, "--set", "name=run")
    code, said = kilter(monkeypatch, capsys, *again)
    assert code == 2, said
    assert f"is not what its stage wrote: {path} was changed since" in said
    assert f"Fix: Put it back, or remove {run / 'dpo'}" in said


def test_a_verdict_that_was_edited_is_given_anew(home, run, monkeypatch, capsys):
    path = run / "gate" / "gate.json"
    path.write_text(path.read_text().replace('"pass"', '"fail"', 1))
    (run / "recipe.yaml").write_text("name: other")
    again = ("run", home / "r.json", "--runs", run.parent, "--set", "name=run")
    code, said = kilter(monkeypatch, capsys, *again)
    assert code == 0, said
    assert f"{path} was changed since; it is made anew" in said
    assert f"{run / 'recipe.yaml'} was changed since: it is written anew" in said
    assert '"verdict": "pass"' in path.read_text()
    assert not [link for link in verify(run).broken if link.path.name != chain.SIGNATURE]


def test_a_kill_between_the_record_and_the_end_of_a_stage_is_made_good(home, run, monkeypatch, capsys):
    """The chain has the last manifest of the stage, and the folder the one before it."""
    manifest = run / "eval" / "manifest.json"
    entry = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(entry | {"status": "running", "outputs": {}, "facts": {}, "files": {}}))
    again = ("run", home / "r.json", "--runs", run.parent, "--set", "name=run")
    code, said = kilter(monkeypatch, capsys, *again)
    assert (code, "was changed since" in said, "not what" in said) == (0, False, False), said
    assert not [link for link in verify(run).broken if link.path.name != chain.SIGNATURE]


def test_a_kill_while_a_page_is_written_breaks_nothing(run):
    with contextlib.suppress(KeyboardInterrupt), chain.noting(run, run / "report.html"):
        (run / "report.html").write_text("new")
        raise KeyboardInterrupt
    assert not verify(run).broken


def test_the_record_of_a_stage_that_was_removed_goes_with_the_recipe(home, run, monkeypatch, capsys):
    raw = json.loads((home / "r.json").read_text())
    del raw["stages"]["audit"]
    (run.parent / "r.json").write_text(json.dumps(raw))
    shutil.rmtree(run / "audit")
    assert "audit/manifest.json is missing" in str(verify(run).broken[0])
    again = ("run", run.parent / "r.json", "--runs", run.parent, "--set", "name=run")
    code, said = kilter(monkeypatch, capsys, *again)
    assert (code, "audit was removed" in said) == (0, True), said
    assert not [link for link in verify(run).broken if link.path.name != chain.SIGNATURE]


def test_a_database_that_is_still_open_is_no_broken_link(tmp_path):
    """The replies of a judge are kept open until the process ends: closing them changes no recorded byte."""
    from kilter.roles.replies import Replies

    path = tmp_path / "stage" / "judge.sqlite"
    first, second = Replies(path), Replies(path)
    for number in range(50):
        first.put([(str(number), {"text": "x" * 1000})])
    assert second.get("7") is not None
    before = chain.files_of(tmp_path / "stage")
    assert list(before) == ["judge.sqlite"]
    first.close()
    second.close()
    assert chain.files_of(tmp_path / "stage") == before
    again = Replies(path)
    assert again.get("7") is not None
    again.close()
    assert chain.files_of(tmp_path / "stage") == before


def test_a_stage_that_is_made_to_look_unfinished_hides_nothing(home, run, monkeypatch, capsys):
    manifest = run / "dpo" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"status": "done"', '"status": "running"'))
    assert manifest in {link.path for link in verify(run).broken}
    arguments = (
        "gate",
        run / "eval",
        "--policy",
        home / "p.yaml",
        "--allow-means",
        "--out",
        run.parent / "out",
    )
    code, said = kilter(monkeypatch, capsys, *arguments)
    assert (code, f"{manifest} was changed since" in said) == (1, True), said


def appended(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def cut_short(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def swapped(path: Path, other: Path) -> None:
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


def taken_out(path: Path, other: Path) -> None:
    """The same bytes, read from where nobody watches them."""
    outside = Path(tempfile.mkdtemp()) / path.name
    shutil.move(path, outside)
    path.symlink_to(outside)


def replaced(path: Path, other: Path) -> None:
    """Another file of the same size and time in its place, as one that was downloaded again."""
    times, size = path.stat(), path.stat().st_size
    path.unlink()
    path.write_bytes(b"x" * size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


WAYS = (appended, cut_short, swapped, taken_out, replaced, lambda path, other: path.unlink())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_file_that_is_no_longer_what_it_was_is_named_in_whatever_way(home, data):
    """Longer, shorter, swapped, a link, of the same size and time, or gone: by verify and by the gate's look."""
    run = home / "run"
    paths = [p for p in files(run) if p.stat().st_size]
    path, other = (data.draw(st.sampled_from(paths)) for _ in range(2))
    way = data.draw(st.sampled_from(WAYS))
    if way is swapped and path.read_bytes() == other.read_bytes():
        return
    before = {p: p.read_bytes() for p in (path, other)}
    way(path, other)
    try:
        broken = {link.path for link in verify(run, home / "pub").broken}
        quick = {link.path for link in chain.breaks(run, file_hash)} | {
            link.path for link in signature.check(run, home / "pub")[1]
        }
        assert path in broken and path in quick, (way, path, broken)
        assert way is not swapped or other in broken
    finally:
        for p, content in before.items():
            if p.is_symlink():
                shutil.rmtree(p.resolve().parent)
            p.unlink(missing_ok=True)
            p.write_bytes(content)
    assert not verify(run, home / "pub").broken


def test_what_is_put_into_a_run_is_named(run):
    """A link to a folder, one that leads nowhere, a pipe, a file under a name that Kilter uses elsewhere."""
    put = {name: run / name for name in ("eval/more", "dpo/model/gone", "eval/pipe", "eval/chain.json")}
    put |= {name: run / name for name in ("dpo/model/manifest.json", "best/model/.lock")}
    put["eval/more"].symlink_to(run.parent)
    put["dpo/model/gone"].symlink_to("nowhere")
    os.mkfifo(put["eval/pipe"])
    for name in ("eval/chain.json", "dpo/model/manifest.json", "best/model/.lock"):
        put[name].write_text("{}")
    assert {link.path for link in verify(run).broken} == set(put.values())


def test_a_chain_within_a_stage_hides_no_edit_from_the_gate(home, run, monkeypatch, capsys):
    """The signature is of the run, and not of what somebody calls a run inside of it."""
    path = run / "eval" / "evaluation.json"
    path.write_text(path.read_text() + " ")
    entry = manifests.read(path.parent)
    entry.files["evaluation.json"] = chain.sha256_file(path)
    entry.write(path.parent)
    chain.record(run / "eval", ".", entry.text(), entry.files)
    assert chain.root_of(path.parent) == run
    arguments = ("--policy", home / "p.yaml", "--allow-means", "--out", run.parent / "out")
    code, said = kilter(monkeypatch, capsys, "gate", run / "eval", *arguments)
    assert (code, str(run / "eval" / "chain.json") in said) == (1, True), said
