"""What needs no model answers without torch: help, lists, schema, completion and every usage error."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from kilter import feedback
from kilter.objectives import index
from kilter.objectives.describe import describe
from kilter.version import __version__

HEAVY = ("torch", "transformers", "datasets", "scipy", "sklearn", "matplotlib", "pyarrow")
"""Libraries that take longer to import than such a command may take as a whole."""


def loaded_by(code: str) -> list[str]:
    """The heavy libraries in a fresh process after `code`."""
    report = f"import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def run_command(
    command: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`kilter COMMAND` in a fresh process; its stderr ends with the heavy libraries that it read."""
    code = (
        "import atexit, sys\nfrom kilter.cli import main\n"
        f"found = lambda: ''.join(' ' + m for m in {HEAVY} if m in sys.modules)\n"
        "atexit.register(lambda: print('heavy:' + found(), file=sys.stderr))\n"
        f"sys.argv = {['kilter', *command.split()]}\nmain()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | (environment or {}),
    )


@pytest.mark.parametrize(
    "module",
    [
        "kilter",
        "kilter.cli",
        "kilter.recipe",
        "kilter.feedback",
        "kilter.data.dataset",
        "kilter.training.config",
        "kilter.evaluation.config",
        "kilter.sampling.config",
        "kilter.models.builtin",
        "kilter.models.config",
        "kilter.objectives",
        "kilter.api",
        "kilter.study.study",
    ],
)
def test_a_module_that_only_describes_imports_nothing_heavy(module):
    assert loaded_by(f"import {module}") == []


def test_a_feedback_source_is_declared_where_it_is_registered():
    """An undeclared source would be unknown; a name that its file does not register would not load."""
    found = {m.name for m in pkgutil.iter_modules(feedback.__path__, "kilter.feedback.")}
    helpers = {f"kilter.feedback.{n}" for n in ("function", "isolation", "registry")}
    code = (
        "import importlib\nfrom kilter.feedback.registry import feedback_sources as s\n"
        f"for m in {sorted(found - helpers)}: importlib.import_module(m)\n"
        "assert set(s._entries) == set(s._places), (sorted(s._entries), sorted(s._places))"
    )
    loaded_by(code)
    assert [name for name, _ in feedback.feedback_sources] == feedback.feedback_sources.names()


def test_the_index_of_methods_is_what_their_classes_say():
    """kilter methods --write docs/methods brings it up to date."""
    assert index._read() == json.loads(json.dumps(index.live()))
    assert [index.known(name) for name in index.live()["methods"]] == [
        describe(name) for name in index.live()["methods"]
    ]


def test_a_method_added_since_the_index_was_written_is_known():
    """A new file is a new method at once, before anybody has written the index."""
    stale = json.dumps(
        {"modules": {m: n for m, n in index.listed().items() if not m.endswith(".hinge")}, "methods": {}}
    )
    code = (
        "import json, pathlib\n"
        "real = pathlib.Path.read_text\n"
        f"stale = {stale!r}\n"
        "pathlib.Path.read_text = lambda p, **k: stale if p.name == 'index.json' else real(p, **k)\n"
        "from kilter.objectives.index import check, lookup\n"
        "check('hinge'); assert lookup('hinge').family == 'preference pairs'"
    )
    assert loaded_by(code) == ["torch"]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("--help", 0, "Usage"),
        ("train --help", 0, "--learning-rate"),
        ("methods", 0, "dpo"),
        ("methods dpo", 0, "label_smoothing"),
        ("methods --json", 0, '"formula"'),
        ("methods dop", 2, "did you mean 'dpo'?"),
        ("schema", 0, '"$defs"'),
        ("tain", 2, "No such command"),
        ("train --epoch 1", 2, "No such option"),
        ("train --data pairs.jsonl", 2, "--method"),
        ("train --method dop --data pairs.jsonl", 2, "did you mean 'dpo'?"),
        ("train --method dpo --data pairs.jsonl --set beat=1", 2, "did you mean 'beta'?"),
        ("train --method dpo --data pairs.jsonl --set beta=-1", 2, "must lie in (0, inf)"),
        ("train --method dpo --data pairs.jsonl --set beta=x", 2, "is not a number"),
        ("train --method dpo --data pairs.jsonl --epochs many", 2, "many"),
        ("train --method dpo --data pairs.jsonl --batch-size 0", 2, "batch_size"),
        ("generate --help", 0, "--sampler.temperature"),
        ("label --help", 0, "--feedback"),
        ("label --data x.jsonl", 2, "--feedback"),
        ("eval --help", 0, "--reward-model"),
        ("run nowhere.yaml", 2, "no such file"),
        ("run key.yaml", 2, "did you mean 'learning_rate'?"),
        ("run stage.yaml", 2, "did you mean 'train'?"),
        ("run method.yaml", 2, "did you mean 'dpo'?"),
        ("run reference.yaml", 2, "is no earlier stage"),
        ("run feedback.yaml", 2, "did you mean 'math'?"),
        ("eval --model m", 2, "--data"),
    ],
)
def test_what_needs_no_model_answers_without_torch(tmp_path, command, code, words):
    train = {"key": "{method: dpo, learning_rat: 1}", "method": "{method: dop}"}
    train |= {"reference": "{method: dpo, from: sfft}", "feedback": "{method: grpo, feedback: mth}"}
    for name, stage in [(n, f"{{train: {spec}}}") for n, spec in train.items()] + [("stage", "{trian: {}}")]:
        (tmp_path / f"{name}.yaml").write_text(f"data: {{path: x.jsonl}}\nstages: {{first: {stage}}}\n")
    done = run_command(command, tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("kilter tr", "train"),
        ("kilter train --learning", "--learning-rate"),
        ("kilter train --sampler.temp", "--sampler.temperature"),
        ("kilter train --method dp", "dpo"),
        ("kilter train --model b", "builtin:smollm2-135m"),
        ("kilter train --feedback ma", "math"),
        ("kilter methods sim", "simpo"),
    ],
)
def test_the_shell_completes_without_torch(tmp_path, words, found):
    asked = {
        "_KILTER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = run_command("", tmp_path, asked)
    assert done.stdout.split() == [found]
    assert done.stderr.splitlines()[-1] == "heavy:"


def test_completion_is_installed(tmp_path):
    done = run_command("--install-completion bash", tmp_path, {"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "_KILTER_COMPLETE" in (tmp_path / ".bash_completions" / "kilter.sh").read_text()


def test_the_version_is_said(tmp_path):
    done = run_command("--version", tmp_path)
    assert done.stdout == f"kilter {__version__}\n"
    assert done.stderr.splitlines()[-1] == "heavy:"
