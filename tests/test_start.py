"""What needs no model answers without torch: help, lists, schema, completion and every usage error."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from kilter import feedback
from kilter.feedback import named
from kilter.objectives import index
from kilter.objectives.describe import describe
from kilter.objectives.registry import build_objective
from kilter.version import __version__

HEAVY = ("torch", "transformers", "datasets", "scipy", "sklearn", "matplotlib", "pyarrow", "pandas")
"""Libraries that take longer to import than such a command may take as a whole."""


def loaded_by(code: str) -> list[str]:
    """The heavy libraries in a fresh process after `code`."""
    report = f"import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SERVER = f"""
import json, os, sys
from kilter.cli import main

for line in sys.stdin:
    job = json.loads(line)
    if (child := os.fork()) == 0:
        os.chdir(job["folder"])
        os.environ |= job["environment"]
        os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        sys.argv, code = ["kilter", *job["command"]], 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        sys.stdout.flush()
        heavy = [m for m in {HEAVY} if m in sys.modules]
        json.dump([code, heavy], open("report", "w"))
        os._exit(0)
    os.waitpid(child, 0)
    print("done", flush=True)
"""
"""A process that has read the command line and nothing else, and forks for each command."""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    made = [sys.executable, "-c", SERVER]
    with subprocess.Popen(made, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def kilter(server, tmp_path) -> Callable[..., tuple[int, str, list[str]]]:
    """Runs a command as if in a fresh process: (exit code, what it printed, heavy libraries that it read)."""

    def run(command: str, **environment: str) -> tuple[int, str, list[str]]:
        job = {"command": command.split(), "environment": environment, "folder": str(tmp_path)}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        assert server.stdout.readline() == "done\n"
        code, heavy = json.loads((tmp_path / "report").read_text())
        return code, (tmp_path / "said").read_text(), heavy

    return run


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


def test_statistics_read_pandas_for_an_interval_and_not_before():
    """Every process of a training reads them, and most need no interval of a share."""
    assert loaded_by("import kilter.statistics") == ["scipy"]


def test_a_feedback_source_is_declared_where_it_is_registered():
    """An undeclared source would be unknown; a name that its file does not register would not load."""
    sources = feedback.feedback_sources
    declared = {name: sources.get(name).__module__ for name in sources._places}
    for module in pkgutil.iter_modules(feedback.__path__, "kilter.feedback."):
        importlib.import_module(module.name)
    made = {name: source.__module__ for name, source in sources.registered()}
    # A function of a user, which another test may have given as a reward, is registered where it is named.
    ours = {name for name, file in made.items() if file.startswith("kilter.") and file != named.__name__}
    assert ours == set(declared)


def test_the_index_of_methods_is_what_their_classes_say():
    """kilter methods --write docs/methods brings it up to date."""
    assert index._read() == json.loads(json.dumps(index.live()))
    assert [index.known(name) for name in index.live()["methods"]] == [
        describe(name) for name in index.live()["methods"]
    ]


def test_a_setting_that_is_as_usual_changes_no_needs():
    for name, method in index._read()["methods"].items():
        for knob in method["knobs"]:
            config = {"name": name, knob["name"]: knob["default"]}
            assert index.brief(config) == index.Brief.of(build_objective(config).needs)
    assert index.brief({"name": "ppo", "epochs": 3}).inner_epochs == 3


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
        ("methods dop", 2, "Did you mean 'dpo'?"),
        ("schema", 0, '"$defs"'),
        ("tain", 2, "No such command"),
        ("train --epoch 1", 2, "No such option"),
        ("train --data pairs.jsonl", 2, "--method"),
        ("train --method dop --data pairs.jsonl", 2, "Did you mean 'dpo'?"),
        ("train --method dpo --data pairs.jsonl --set beat=1", 2, "Did you mean 'beta'?"),
        ("train --method dpo --data pairs.jsonl --set beta=-1", 2, "must lie in (0, inf)"),
        ("train --method dpo --data pairs.jsonl --set beta=x", 2, "is not a number"),
        ("train --method dpo --data pairs.jsonl --epochs many", 2, "many"),
        ("train --method dpo --data pairs.jsonl --batch-size 0", 2, "batch_size"),
        ("generate --help", 0, "--sampler.temperature"),
        ("label --help", 0, "--feedback"),
        ("label --data x.jsonl", 2, "--feedback"),
        ("eval --help", 0, "--reward-model"),
        ("run nowhere.yaml", 2, "names no file"),
        ("run key.yaml", 2, "Did you mean 'learning_rate'?"),
        ("run stage.yaml", 2, "Did you mean 'train'?"),
        ("run method.yaml", 2, "Did you mean 'dpo'?"),
        ("run reference.yaml", 2, "is not an earlier stage"),
        ("run feedback.yaml", 2, "Did you mean 'math'?"),
        ("eval --model m", 2, "--data"),
    ],
)
def test_what_needs_no_model_answers_without_torch(kilter, tmp_path, command, code, words):
    train = {"key": "{method: dpo, learning_rat: 1}", "method": "{method: dop}"}
    train |= {"reference": "{method: dpo, from: sfft}", "feedback": "{method: grpo, feedback: mth}"}
    for name, stage in [(n, f"{{train: {spec}}}") for n, spec in train.items()] + [("stage", "{trian: {}}")]:
        (tmp_path / f"{name}.yaml").write_text(f"data: {{path: x.jsonl}}\nstages: {{first: {stage}}}\n")
    ended, text, heavy = kilter(command)
    assert ended == code, text
    assert words in text
    assert heavy == []


def test_what_needs_torch_is_seen_to_read_it(kilter):
    """The tests above can fail."""
    code, text, heavy = kilter("check-method hinge")
    assert code == 0, text
    assert "torch" in heavy


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("kilter trai", "train"),
        ("kilter train --learning", "--learning-rate"),
        ("kilter train --sampler.temp", "--sampler.temperature"),
        ("kilter train --method dp", "dpo"),
        ("kilter train --model b", "builtin:smollm2-135m"),
        ("kilter train --feedback ma", "math"),
        ("kilter train --sampler vl", "vllm"),
        ("kilter train --adapter dor", "dora"),
        ("kilter methods sim", "simpo"),
    ],
)
def test_the_shell_completes_without_torch(kilter, words, found):
    at = str(len(words.split()) - 1)
    _, text, heavy = kilter("", _KILTER_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=at)
    assert text.split() == [found]
    assert heavy == []


def test_completion_is_installed(kilter, tmp_path):
    # The shell is named: detection looks at the parent process, and make starts tests from sh.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code, text, _ = kilter("--install-completion bash", HOME=str(tmp_path), **named)
    assert code == 0, text
    assert "_KILTER_COMPLETE" in (tmp_path / ".bash_completions" / "kilter.sh").read_text()


def test_the_version_is_said():
    done = subprocess.run([sys.executable, "-m", "kilter.cli", "--version"], capture_output=True, text=True)
    assert done.stdout == f"kilter {__version__}\n"
