"""A finished run: what it left is what its stages wrote, or the change is named; nothing of a kill stays behind."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from conftest import pair_rows
from kilter import cli, recipe
from kilter import manifest as manifests
from kilter.chain import files_of
from kilter.errors import Exit, UserError
from kilter.pipeline.runner import Run
from kilter.screen import Screen


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny) -> tuple[Path, dict]:
    """A run of every link: data, two models, an evaluation, a verdict. Tests spoil copies of it."""
    home = tmp_path_factory.mktemp("chain")
    (home / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    small = {"max_steps": 1, "batch_size": 2, "max_length": 64}
    policy = {"conditions": [{"metric": "length", "bound": "value", "op": ">=", "value": 0}]}
    raw = {
        "model": str(tiny),
        "data": {"path": str(home / "pairs.jsonl"), "heldout": 0.25},
        "stages": {
            "sft": {"train": {"method": "sft"} | small},
            "dpo": {"train": {"from": "sft", "method": "dpo"} | small},
            "eval": {"evaluate": {"models": ["sft", "dpo"], "max_new_tokens": 4, "metrics": ["length"]}},
            "gate": {"gate": {"policy": policy, "allow_means": True}},
        },
    }
    (home / "r.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert Run(recipe.build(raw), home / "run", Screen(quiet=True)).execute() == Exit.OK
    shutil.copytree(home / "run", home / "whole")
    return home, raw


@pytest.fixture
def run(finished) -> Path:
    """The run's folder, whole again."""
    home, _ = finished
    shutil.rmtree(home / "run")
    shutil.copytree(home / "whole", home / "run")
    return home / "run"


def kilter(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    for screen in (cli.err, cli.out):
        monkeypatch.setattr(screen, "width", 400)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


def again(run: Path, monkeypatch, capsys, *options: str) -> tuple[int, str]:
    """`kilter run` once more."""
    return kilter(
        monkeypatch, capsys, "run", run.parent / "r.yaml", "--runs", run.parent, "--set", "name=run", *options
    )


def files(run: Path) -> set[str]:
    return {str(p.relative_to(run)) for p in run.rglob("*")}


def test_a_finished_run_says_done_and_tidies(run, monkeypatch, capsys):
    before = files(run)
    # What a kill behind the last step leaves: a checkpoint, half a model, half a file, files for workers.
    for name in (
        "checkpoints/step-1/state.safetensors",
        ".model.partial/x",
        ".model.old/x",
        ".job/job.json",
        "pinned/a",
        ".writable.4711",
    ):
        path = run / "dpo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (run / "eval" / ".evaluation.json.partial").write_text("x")
    (run / ".report.html.partial").write_text("x")
    code, said = again(run, monkeypatch, capsys)
    assert code == 0, said
    assert said.count("done, unchanged, taken from") == 4
    assert "done; report: " in said
    assert files(run) == before


@pytest.mark.parametrize("stage", ["sft", "dpo", "eval", "gate"])
def test_a_kill_before_the_end_was_noted_is_made_good(run, stage, monkeypatch, capsys):
    """The stage's files are all there, and its manifest does not say so yet."""
    path = run / stage / "manifest.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"status": "running", "outputs": {}, "facts": {}}))
    code, said = again(run, monkeypatch, capsys)
    assert code == 0, said
    after = json.loads(path.read_text())
    assert after["status"] == "done"
    clock = {"metrics.jsonl": "holds seconds"}
    assert after["outputs"] | clock == entry["outputs"] | clock
    assert not (run / ".superseded").exists()


@pytest.mark.parametrize("stage", ["sft", "dpo", "eval", "gate"])
def test_a_kill_between_record_and_manifest_is_made_good(run, stage, monkeypatch, capsys):
    """No order of the two may leave a finished stage that nobody believes."""
    from kilter import chain
    from kilter.manifest import Manifest

    class Killed(BaseException):
        pass

    def killed(entry, folder):
        raise Killed

    write = Manifest.write
    real = chain.record

    def record(folder, name, *rest):
        real(folder, name, *rest)
        if name == stage:
            monkeypatch.setattr(Manifest, "write", killed)

    manifest = run / stage / "manifest.json"
    entry = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(entry | {"status": "running", "outputs": {}, "facts": {}}))
    with monkeypatch.context() as once:
        once.setattr(chain, "record", record)
        assert again(run, once, capsys)[0] == Exit.RUN_FAILED
    monkeypatch.setattr(Manifest, "write", write)
    assert json.loads(manifest.read_text())["status"] == "running"
    code, said = again(run, monkeypatch, capsys)
    assert (code, "not what its stage wrote" in said) == (0, False), said
    assert json.loads(manifest.read_text())["status"] == "done"


def edit_evaluation(run: Path) -> str:
    path = run / "eval" / "evaluation.json"
    text = path.read_text()
    path.write_text(text.replace('"n_prompts"', '"n_prompts" ', 1))
    return str(path)


def replace_weights(run: Path, stage: str = "dpo") -> str:
    path = run / stage / "model" / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).add_(1e-3)
    save_file(weights, path, {"format": "pt"})
    return str(path)


def replace_sft(run: Path) -> str:
    return replace_weights(run, "sft")


def remove_tokenizer(run: Path) -> str:
    path = run / "dpo" / "model" / "tokenizer_config.json"
    path.unlink()
    return str(path)


@pytest.mark.parametrize("spoil", [edit_evaluation, replace_weights, replace_sft, remove_tokenizer])
def test_a_broken_link_fails_the_gate_by_name(run, spoil, monkeypatch, capsys):
    name = spoil(run)
    code, said = again(run, monkeypatch, capsys)
    assert code == 1, said
    assert "verdict: FAIL" in said
    assert f"{name} was changed since" in said or f"{name} is missing" in said
    assert "every file is what its stage wrote" in (run / "gate" / "gate.xml").read_text()
    assert "PASS" not in said
    assert again(run, monkeypatch, capsys)[0] == 1  # not only the first time


def test_a_link_that_is_mended_passes_again(run, monkeypatch, capsys):
    path = run / "eval" / "evaluation.json"
    text = path.read_bytes()
    edit_evaluation(run)
    assert again(run, monkeypatch, capsys)[0] == 1
    path.write_bytes(text)
    assert again(run, monkeypatch, capsys)[0] == 0


def test_the_gate_command_checks_the_evaluation_too(run, monkeypatch, capsys, tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text("conditions: [{metric: length, bound: value, op: '>=', value: 0}]")
    asked = ("gate", run / "eval", "--policy", policy, "--allow-means")
    assert kilter(monkeypatch, capsys, *asked)[0] == 0
    name = edit_evaluation(run)
    code, said = kilter(monkeypatch, capsys, *asked)
    assert (code, f"{name} was changed since" in said) == (1, True)


@pytest.mark.parametrize(("spoil", "later"), [(replace_weights, "eval"), (replace_sft, "dpo")])
def test_no_stage_reads_what_another_did_not_write(run, spoil, later, monkeypatch, capsys):
    name = spoil(run)
    shutil.rmtree(run / later)
    code, said = again(run, monkeypatch, capsys)
    assert code == 2, said
    assert f"is not what its stage wrote: {name} was changed since" in said
    assert "Fix: Put it back, or remove " in said


def test_every_damaged_file_of_a_finished_run_is_named(run, monkeypatch, capsys):
    written = [p for p in files(run) if (run / p).is_file() and len(Path(p).parts) > 1]
    damaged = sorted(run / p for p in written if Path(p).name != "manifest.json")
    assert len(damaged) > 20
    for number, path in enumerate(damaged):
        # The gate still reads the evaluation: it fails for the models.
        spoilt = path.read_bytes() + b" " if path.name == "evaluation.json" else b"\xfa"
        path.unlink() if number % 3 == 0 and path.name != "evaluation.json" else path.write_bytes(spoilt)
    code, said = again(run, monkeypatch, capsys)
    assert code == 1, said
    for path in damaged:
        named = f"{path} was changed since" in said or f"{path} is missing" in said
        assert named or path.parts[-2] == "gate", path
        assert path.parts[-2] == "gate" or str(path) in said.split("verdict: FAIL")[1]


def test_a_record_of_an_earlier_version_lists_no_files_and_vouches_for_none(run, monkeypatch, capsys):
    path = run / "dpo" / "manifest.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in entry.items() if k not in ("files", "sources")}))
    code, said = again(run, monkeypatch, capsys)
    assert (code, f"{path} lists no hashes of its stage's files" in said) == (1, True), said


def test_a_run_of_an_earlier_version_is_said_to_be_one(run, monkeypatch, capsys):
    """Neither a chain nor lists of files: that is no tampering, and the message says what it is."""
    (run / "chain.json").unlink()
    for path in run.glob("*/manifest.json"):
        entry = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in entry.items() if k not in ("files", "sources")}))
    code, said = again(run, monkeypatch, capsys)
    assert (code, "it is of an older Kilter" in said) == (1, True), said
    assert "nobody recorded" not in said


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: b"\0" * len(data),
    "not text": lambda data: b"\xff\xfe" + data,
    "another kind": lambda data: b"[1, 2]",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_of_any_kind_is_named(how, tmp_path):
    path = tmp_path / "manifest.json"
    manifests.new("a", "train", {}, {}).write(tmp_path)
    assert manifests.read(tmp_path) is not None
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    with pytest.raises(
        UserError, match=r"manifest\.json' is damaged or missing.*\nFix: Put it back, or remove"
    ):
        manifests.read(tmp_path)
    path.unlink()
    assert manifests.read(tmp_path) is None


@pytest.mark.parametrize("how", ["cut"])
@pytest.mark.parametrize("name", ["sft/manifest.json", "gate/manifest.json"])
def test_a_damaged_manifest_is_named_and_nothing_is_lost(run, name, how, monkeypatch, capsys):
    path = run / name
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    code, said = again(run, monkeypatch, capsys)
    assert code == 2, said
    assert f"{path}' is damaged" in said
    assert f"Fix: Put it back, or remove {path.parent}" in said
    assert {p: p.read_bytes() for p in before} == before


INPUTS = [
    "sft/metrics.jsonl",
    "eval/evaluation.json",
    "eval/groups.jsonl",
    "gate/gate.json",
    "sft/manifest.json",
]


@pytest.mark.parametrize("how", ["cut", "not text"])
@pytest.mark.parametrize("name", INPUTS)
def test_a_report_of_damaged_files_is_refused_by_name(run, name, how, monkeypatch, capsys):
    path = run / name
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    code, said = kilter(monkeypatch, capsys, "report", run)
    if code == 0 and how == "cut" and name.endswith(".jsonl"):
        return  # a log that was cut reads as one that is still being written
    assert code == 2, said
    assert str(path) in said
    assert "Fix: " in said


def test_damaged_lineage_is_named(run, monkeypatch, capsys):
    path = run / "sft" / "trained_prompts.txt"
    path.write_text(path.read_text()[:-20])
    shutil.rmtree(run / "eval")
    code, said = again(run, monkeypatch, capsys)
    assert code == 2, said
    assert str(path) in said


def test_the_reference_cache_is_exact_or_named(tmp_path, pair_batch):
    from kilter.models.reference import ReferenceCache

    path = tmp_path / "reference.sqlite"
    cache = ReferenceCache(path, "hash", "float32")
    logps = torch.randn(pair_batch.tokens_BT.shape) * pair_batch.mask_BT
    keys = cache.keys(pair_batch)
    cache.put(keys, logps, pair_batch.length_B)
    found = cache.lookup(pair_batch)
    assert found is not None
    cache._db.execute("UPDATE sealed SET value = zeroblob(length(value)) WHERE key = ?", [keys[0]])
    assert cache.lookup(pair_batch) is None  # one row has changed: it is computed again
    assert set(cache.get(keys)) == set(keys[1:])
    cache.close()

    whole = path.read_bytes()
    for spoilt in (
        b"no database" * 100,
        whole[:100] + b"\xff" * 4000 + whole[4100:],
        whole[: len(whole) // 2],
    ):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"reference\.sqlite.*\n.*Remove this file"):
            ReferenceCache(path, "hash", "float32").lookup(pair_batch)


def test_what_is_tidied_is_known(run):
    assert manifests.read(run / "sft").status == "done"
    assert not list(run.rglob("checkpoints"))


HOSTILE = """</svg></title></script><script>alert(1)</script><img src=x onerror=alert(1)>" onload="x $\\frac{ &lt;b&gt;"""


class Tags(HTMLParser):
    """The elements of a page with their attributes, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.seen[tag, tuple(name for name, _ in attrs)] += 1

    def foreign(self):
        """Scripts that are not the page's own (one script, one block of packed answers), and handlers."""
        own = {("script", ()): 1, ("script", ("type", "class")): 1}
        found = {key: n - own.get(key, 0) for key, n in self.seen.items() if key[0] == "script"}
        handlers = [names for _, names in self.seen if {"onerror", "onload"} & set(names)]
        return [key for key, n in found.items() if n > 0] + handlers


def poison(value, key=""):
    """The value with hostile text in place of every text that is anybody's."""
    if isinstance(value, dict):
        return {HOSTILE if k == "dpo" else k: poison(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(v, key) for v in value]
    free = key in ("text", "content", "why", "condition", "policy", "candidate", "rationale", "id", "judge")
    return HOSTILE if value == "dpo" or (free and isinstance(value, str)) else value


def test_text_from_outside_is_never_html(run, monkeypatch, capsys):
    for name in ("eval/evaluation.json", "gate/gate.json", "eval/groups.jsonl", "eval/per_prompt.json"):
        path = run / name
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().splitlines()] if "jsonl" in name else None
            spoilt = [poison(r) for r in rows] if rows else poison(json.loads(path.read_text()))
            path.write_text("\n".join(map(json.dumps, spoilt)) + "\n" if rows else json.dumps(spoilt))
    (run / "dpo" / "events.jsonl").write_text(
        json.dumps({"step": 1, "kind": HOSTILE, "name": HOSTILE, "message": HOSTILE, "level": HOSTILE}) + "\n"
    )
    recipe_text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(yaml.safe_dump(yaml.safe_load(recipe_text) | {"note": HOSTILE}))
    code, said = kilter(monkeypatch, capsys, "report", run)
    assert code == 0, said
    page = (run / "report.html").read_text()
    assert "alert(1)" in page  # it is shown
    assert Tags(page).foreign() == []


def test_the_audit_of_hostile_data_is_shown_as_text(tiny, tmp_path, monkeypatch, capsys):
    """Rows, ids, categories and the name of the file: on the page, and on the terminal without a control."""
    rows = [
        r | {"id": f"{HOSTILE}{i}", "category": HOSTILE, "source": HOSTILE} for i, r in enumerate(pair_rows())
    ]
    turned = {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    rows += [rows[0] | turned, rows[1] | {HOSTILE: "\x1b]0;title\x07[/bold]"}]
    spoilt = [
        {k: f"\x1b[31m{v} {HOSTILE}" if k in ("prompt", "chosen", "rejected") else v for k, v in r.items()}
        for r in rows
    ]
    path = tmp_path / "[bold]<script>x.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in spoilt))
    raw = {
        "model": str(tiny),
        "data": {"path": str(path), "heldout": 0.25},
        "stages": {"audit": {"audit": {"waive": {"grouped_split": HOSTILE}}}},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    runs = tmp_path / "runs"
    code, said = kilter(monkeypatch, capsys, "run", tmp_path / "r.yaml", "--runs", runs)
    assert code == 0, said
    for command in (("data", "peek"), ("audit", "--out", tmp_path / "audit")):
        code, more = kilter(monkeypatch, capsys, *command, path)
        said += more
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert not [
        tag for tag, names in Tags(page).seen if tag == "script" or {"onerror", "onload"} & set(names)
    ]
    assert "[bold]<script>x.jsonl" in said
    assert not [c for c in said if ord(c) < 32 and c not in "\n\t\r"]
    page = (runs / "r" / "report.html").read_text()
    assert "&lt;script&gt;x.jsonl" in page
    assert Tags(page).foreign() == []


def test_figures_show_names_as_they_are():
    from kilter.release import figures

    rows = [{"step": n, "loss": 1.0 / (n + 1)} for n in range(4)]
    events = [{"step": 2, "level": HOSTILE, "number": HOSTILE}]
    (drawn,) = figures.curves({HOSTILE: rows, "other": rows}, [("loss", HOSTILE)], events)
    seen = Tags(drawn).seen
    assert "alert(1)" in drawn
    assert not [tag for tag, names in seen if tag in ("script", "img") or "onload" in names]


@pytest.mark.parametrize("name", [".writable.4711", ".job/job.json", ".model.partial/x", ".x.old/y"])
def test_no_manifest_lists_what_a_killed_writer_left(tmp_path, name):
    (tmp_path / "metrics.jsonl").write_text("{}")
    before = files_of(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("x")
    assert files_of(tmp_path) == before
