"""Files that people write (rewards, templates, settings): none waits, runs on or ends a command unseen."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from conftest import make_model
from kilter import cli, registry
from kilter.errors import UserError
from kilter.models import tokenizer as tokenizers
from kilter.validation import load_yaml


def kilter(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
    monkeypatch.setattr(cli.err, "width", 400)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


FILES = {
    "import sys\nsys.exit(0)\n": "it ends the process (exit code 0), in line 2",
    "import os\nos._exit(0)\n": "it ends the process (os._exit(0)), in line 2",
    "breakpoint()\n": "it calls breakpoint(), in line 1",
    "\n\ninput('?')\n": "fails with EOFError in line 3",
    "while True:\n    try: pass\n    except Exception: pass\n": "it takes longer than 0.3 s, in line",
    "raise KeyboardInterrupt\n": "",
    "exit()\n": "ends the process",
    "import ctypes_is_not_here\n": "cannot be imported",
    "1 +\n": "fails with SyntaxError in line 1",
    "raise KeyError('[/INST]')\n": "[/INST]",
}


@pytest.mark.parametrize("text", FILES, ids=lambda t: t.splitlines()[-1][:20])
def test_a_file_that_is_read_ends_nothing(text, tmp_path, tiny, pairs_file, monkeypatch, capsys):
    monkeypatch.setattr(registry, "READ_LIMIT", 0.3)
    path = tmp_path / "mine.py"
    path.write_text(text + "\ndef reward(prompt, completion): return 1.0\n")
    arguments = ["--method", "grpo", "--model", tiny, "--data", pairs_file, "--out", tmp_path / "o"]
    kept = os._exit, sys.breakpointhook, sys.stdin
    code, said = kilter(monkeypatch, capsys, "train", *arguments, "--feedback", f"{path}:reward")
    assert (os._exit, sys.breakpointhook, sys.stdin) == kept
    assert code == (2 if FILES[text] else 4), said
    assert FILES[text] in said
    assert "Traceback" not in said
    assert not (tmp_path / "o" / "model").exists()


MOVES = """
import os, torch
os.chdir(os.path.dirname(os.path.abspath(__file__)))
torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)
def reward(prompt, completion): return 1.0
"""


@pytest.mark.parametrize("ends", ["", "raise KeyError\n"])
def test_a_file_that_is_read_leaves_folder_and_modes_as_they_were(ends, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "of" / "theirs"
    place.mkdir(parents=True)
    (place / "mine.py").write_text(MOVES + ends)
    with contextlib.suppress(UserError, KeyError):
        registry.Registry("feedback").get("of/theirs/mine.py:reward", "feedback")
    assert Path.cwd() == tmp_path
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


READERS = {
    "while True: pass": "it takes longer than 0.3 s, in line 3",
    "breakpoint()": "it calls breakpoint(), in line 3",
    "sys.exit(0)": "it ends the process (exit code 0), in line 3",
    "os._exit(0)": "it ends the process (os._exit(0)), in line 3",
    "input('?')": "reads the terminal",
}


@pytest.mark.parametrize("skip", [[], ["--on-bad-row", "skip"]], ids=["", "skip"])
@pytest.mark.parametrize("text", READERS)
def test_a_reader_of_rows_ends_nothing(text, skip, tmp_path, pairs_file, monkeypatch, capsys):
    monkeypatch.setattr(registry, "READ_LIMIT", 0.3)
    path = tmp_path / "mine.py"
    path.write_text(f"import os, sys\ndef read(row):\n    {text}\n    yield row\n")
    code, said = kilter(monkeypatch, capsys, "data", "peek", pairs_file, "--format", f"{path}:read", *skip)
    assert code == 2, said
    assert READERS[text] in said or (skip and text.startswith("input"))
    assert said.count("Fix:") == 1


def test_files_of_users_are_bounded_by_default():
    assert 0 < registry.READ_LIMIT <= 60


def bomb(levels: int) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*rows, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels))])


def merging(levels: int) -> str:
    rows = ["a0: &a0 {x: 1}"]
    return "\n".join([*rows, *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, levels))])


ENDLESS = {
    "anchors": bomb(12),
    "merges": merging(40),
    "itself": "a: &a [*a]",
    "its own key": "a: &a {b: {c: *a}}",
    "deep": "[" * 5000,
    "deep and closed": "[" * 3000 + "]" * 3000,
    "long number": "a: " + "1" * 5000,
    "no such day": "a: 2024-13-45",
    "no such time": "a: 2024-01-01 25:61:61",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_settings_that_do_not_end_are_refused_at_once(name, tmp_path, tiny, pairs_file, monkeypatch, capsys):
    begin = time.monotonic()
    with pytest.raises(yaml.YAMLError):
        load_yaml(ENDLESS[name])
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: {tiny}\ndata: {{path: {pairs_file}}}\nstages: {{dpo: {{train: {{method: dpo}}}}}}\n"
        + ENDLESS[name].replace("a:", "feedback:", 1)
    )
    code, said = kilter(monkeypatch, capsys, "run", recipe)
    assert code == 2, said
    assert "is not YAML" in said
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("text", ["a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: [*x, *x]", bomb(5), "", "null", "[]"])
def test_anchors_that_end_are_read_as_ever(text):
    assert load_yaml(text) == yaml.safe_load(text)


TEMPLATES = {
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
    "{% endfor %}": "takes longer than 0.3 s to write one conversation",
    "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ 9**9**9 }}": "computes a power in line 1",
}


@pytest.mark.parametrize("template", TEMPLATES, ids=["loops", "power"])
def test_a_chat_template_that_does_not_end_is_named(template, tmp_path, pairs_file, monkeypatch, capsys):
    monkeypatch.setattr(tokenizers, "RENDER_LIMIT", 0.3)
    model = make_model(tmp_path / "model", template)
    arguments = ["--method", "dpo", "--model", model, "--data", pairs_file, "--out", tmp_path / "o"]
    code, said = kilter(monkeypatch, capsys, "train", *arguments)
    assert code == 2, said
    assert TEMPLATES[template] in said
    assert "Fix: Mend the chat template" in said


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "debug"])
@pytest.mark.parametrize("error", ["exit", "base", "key", "group"])
def test_no_uncaught_exception_is_the_gates_no(error, debug, monkeypatch, capsys):
    raised = {
        "exit": SystemExit(0),
        "base": GeneratorExit(),
        "key": KeyError("[/INST]"),
        "group": ExceptionGroup("a", [ValueError("[b]")]),
    }[error]

    def fail(**options):
        raise raised

    monkeypatch.setattr(cli, "app", fail)
    code, said = kilter(monkeypatch, capsys, "methods", *debug)
    assert code == 4
    assert ("Traceback" in said) == bool(debug)
    assert "Fix: " in said


def test_the_message_itself_may_fail(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "_show_failure", fail)
    code, said = kilter(monkeypatch, capsys, "methods")
    assert (code, "MemoryError" in said) == (4, True)


def test_a_process_that_exits_in_a_users_code_says_so(tmp_path, tiny, pairs_file):
    stage = tmp_path / "mine.py"
    stage.write_text(
        "import sys\nfrom kilter.stages import StageKind, StageSpec\n"
        "class Mine(StageKind):\n    class Spec(StageSpec):\n        pass\n"
        "    def run(self, spec, work, folder):\n        sys.exit(0)\n"
    )
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        json.dumps(
            {"model": str(tiny), "data": {"path": str(pairs_file)}, "stages": {"a": {f"{stage}:Mine": {}}}}
        )
    )
    command = [sys.executable, "-m", "kilter.cli", "run", str(recipe), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 4, done.stderr
    assert "ended the process by sys.exit(0)" in " ".join(done.stderr.split())


def test_a_user_error_of_a_limit_names_the_file(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nsys.exit('[b]no[/b]')\n")
    with pytest.raises(UserError, match=r"\[b\]no\[/b\]"):
        registry.Registry("thing").get(f"{tmp_path / 'mine.py'}:Thing")
