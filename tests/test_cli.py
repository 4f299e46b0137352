"""The look of the command line, and the way from a field of a configuration to an option and back."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.models import OptionInfo

from kilter import cli
from kilter.cli.options import collect, options_of, parameters
from kilter.data.dataset import DataSpec
from kilter.evaluation.config import EvaluateSpec
from kilter.options import GROUPS, OPTIMISATION
from kilter.refs import ModelRef
from kilter.stages import kinds
from kilter.stages.generate import GenerateSpec
from kilter.training.config import TrainSpec


def commands(found: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command by its words, those that hold commands included."""
    found = found or typer.main.get_command(cli.app)
    yield path
    for name, inner in getattr(found, "commands", {}).items():
        yield from commands(inner, (*path, name))


def shown(monkeypatch, capsys, *args: str, columns: int = 100) -> str:
    """What a command prints with --help."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["kilter", *args, "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help_fits_and_begins_with_examples(monkeypatch, capsys, words):
    text = shown(monkeypatch, capsys, *words)
    lines = text.splitlines()
    assert [line for line in lines if len(line) > 100] == []
    examples = [i for i, line in enumerate(lines) if line.startswith("  $ kilter")]
    options = [i for i, line in enumerate(lines) if re.match(r" +-", line)]
    assert examples
    assert max(examples) < min(options)
    assert "…" not in text  # a name that is cut cannot be typed


def test_every_command_stands_under_its_own_heading(monkeypatch, capsys):
    assert "Commands" not in shown(monkeypatch, capsys).splitlines()


def declared(found: typer.Typer) -> Iterator[tuple[str, OptionInfo]]:
    """Every parameter that a command declares as an option, by its name."""
    for group in found.registered_groups:
        yield from declared(group.typer_instance)
    for command in found.registered_commands:
        for name, parameter in inspect.signature(command.callback).parameters.items():
            given = getattr(parameter.annotation, "__metadata__", ())
            yield from ((name, info) for info in given if isinstance(info, OptionInfo))


def test_every_option_with_a_metavar_names_its_flag():
    """typer's releases do not agree on the flag of a parameter that names none: 0.27 may take the metavar."""
    options = [(name, info) for name, info in declared(cli.app) if info.metavar is not None]
    assert len(options) > 100
    assert [name for name, info in options if info.default is ... and not info.param_decls] == []


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_follows_the_terminal(monkeypatch, capsys, columns):
    text = shown(monkeypatch, capsys, "train", columns=columns)
    widest = max(len(line) for line in text.splitlines() if "$ kilter" not in line)
    assert widest <= min(columns, 100)
    assert widest > min(columns, 100) - 12


def test_train_shows_its_groups_in_order_after_three_examples(monkeypatch, capsys):
    lines = shown(monkeypatch, capsys, "train").splitlines()
    headings = [line.lower() for line in lines if re.fullmatch(r"[A-Z]\w+", line)]
    assert headings == ["examples", *GROUPS, "options"]
    assert sum(line.startswith("  $ kilter") for line in lines) == 3
    below = {h: lines[lines.index(h.capitalize()) + 1].split()[0] for h in GROUPS}
    assert below["model"] == "--model"
    assert below["data"] == "--data"
    assert below["method"].startswith("--method")
    assert below["output"] == "--out"


def flags(monkeypatch, capsys, *args: str) -> set[str]:
    """Every option that a page of help shows, both names of a switch written out."""
    found = set(re.findall(r"^ +(--[\w.\[\]-]+)", shown(monkeypatch, capsys, *args), re.MULTILINE))
    return {f.replace("[no-]", "") for f in found}


def fields(spec: type[BaseModel], prefix: str = "") -> set[str]:
    """Flags that a configuration must have; the first field of a nested one is its short form."""
    return {o.flag for o in options_of(spec, prefix=tuple(filter(None, [prefix]))) if not o.hidden}


def test_train_has_every_field_of_the_stage_and_of_its_data(monkeypatch, capsys):
    page = flags(monkeypatch, capsys, "train")
    # The model is where a single stage starts, its data has no name, and --online says that it is answered.
    wanted = (fields(TrainSpec) - {"--from", "--data", "--prompts"}) | fields(DataSpec, "data") | {"--data"}
    # Roles on a cluster stand in a file of their own: --cluster FILE.
    assert {f for f in wanted if not f.startswith("--cluster.")} - page == set()


def test_eval_has_every_field_of_the_stage_and_of_its_data(monkeypatch, capsys):
    page = flags(monkeypatch, capsys, "eval")
    # --heldout says which prompts are asked, for `split` and the data's own share alike.
    wanted = (fields(EvaluateSpec) - {"--models", "--split"}) | (
        fields(DataSpec, "data") - {"--data.heldout"}
    )
    assert wanted - page == set()
    assert {"--model", "--heldout", "--metric", "--out"} <= page


@pytest.mark.parametrize("name", [n for n, kind in kinds if kind.door is not None])
def test_a_kind_with_a_door_has_every_field_of_its_spec(monkeypatch, capsys, name):
    page = flags(monkeypatch, capsys, name)
    refused = {"--" + n.replace("__", ".").replace("_", "-") for n in kinds.get(name).door.without}
    wanted = (fields(kinds.get(name).Spec) - refused) | fields(DataSpec, "data") | {"--out"}
    assert wanted - page == set()
    assert not refused & page


def test_sample_has_every_field_of_a_generate_stage_and_of_its_data(monkeypatch, capsys):
    page = flags(monkeypatch, capsys, "sample")
    wanted = (fields(GenerateSpec) - {"--model"}) | fields(DataSpec, "data") | {"--prompt", "--out"}
    assert wanted - page == set()
    text = shown(monkeypatch, capsys, "sample")
    assert all(f"{short} " in text for short in ("-k", "--temperature", "--top-p", "--top-k", "--stop"))


def test_answers_are_generated_and_labelled(monkeypatch, capsys, tiny, pairs_file, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        text = "".join(capsys.readouterr())
        assert stop.value.code == 0, text
        return text

    small = ["--sampler.max-new-tokens", 6, "--max-length", 96, "--limit", 5, "--k", 3]
    asked = ["generate", "--model", tiny, "--data", pairs_file, *small, "--out", "answers"]
    assert "5 rows  15 answers" in run(*asked)
    assert "unchanged" in run(*asked)
    labelled = run(
        *("label", "--data", "answers/groups.jsonl", "--feedback", "{length: {limit: 20, buffer: 10}}"),
        *("--write", "groups", "--out", "labels"),
    )
    assert "15 answers" in labelled
    assert len((tmp_path / "labels" / "groups.jsonl").read_text().splitlines()) == 5


class Inner(BaseModel):
    kind: Literal["plain", "fancy"] = Field("plain", description="which")
    rank: int = Field(4, ge=1, description="how many")
    on: bool = Field(True, description="whether")


class Example(BaseModel):
    """A configuration with a field of every kind."""

    rate: Annotated[float | None, OPTIMISATION] = Field(None, gt=0, description="how fast")
    every: int | Literal["auto"] = Field("auto", description="how often")
    start: ModelRef = Field("here", alias="from", description="where")
    names: list[str] = Field(default_factory=list, description="who")
    inner: Inner | None = Field(None, description="what")
    anything: Any = Field(None, description="something")
    many: list[Any] = Field(default_factory=list, description="some things")


OPTIONS = list(options_of(Example))


@pytest.mark.parametrize(
    ("typed", "configuration"),
    [
        ({"rate": 0.5}, {"rate": 0.5}),
        ({"every": "3"}, {"every": 3}),
        ({"every": "auto"}, {"every": "auto"}),
        ({"from_": "1e5"}, {"from": "1e5"}),
        ({"names": ["a", "b"]}, {"names": ["a", "b"]}),
        ({"names": []}, {}),
        ({"inner": "fancy"}, {"inner": {"kind": "fancy"}}),
        ({"inner": "{kind: fancy, rank: 2}"}, {"inner": {"kind": "fancy", "rank": 2}}),
        ({"inner": "fancy", "inner__rank": 8}, {"inner": {"kind": "fancy", "rank": 8}}),
        ({"inner__on": False}, {"inner": {"on": False}}),
        ({"many": ["1", "{a: 2}", "x"]}, {"many": [1, {"a": 2}, "x"]}),
        ({"anything": "{math: {mark: '#'}}"}, {"anything": {"math": {"mark": "#"}}}),
    ],
)
def test_what_was_typed_becomes_the_configuration(typed, configuration):
    assert collect(OPTIONS, typed) == configuration
    Example.model_validate(configuration)  # what was typed is also valid


def test_an_option_says_what_its_field_says():
    made = {p.name: p for p in parameters(OPTIONS)}
    info = {name: p.annotation.__metadata__[0] for name, p in made.items()}
    assert {n: i.metavar for n, i in info.items()} == {
        "rate": "NUMBER",
        "every": "INT|auto",
        "from_": "MODEL",
        "names": "TEXT",
        "inner": "plain|fancy",
        "inner__kind": "plain|fancy",
        "inner__rank": "INT",
        "inner__on": "--inner.[no-]on",
        "anything": "YAML",
        "many": "YAML",
    }
    assert info["inner__rank"].help == "how many (default 4)"
    assert info["inner__kind"].hidden
    assert info["rate"].rich_help_panel == "optimisation"
    assert info["inner__rank"].rich_help_panel == info["inner"].rich_help_panel


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--adapter", "lora", "--adapter.r", "0"], "adapter.r` = 0"),
        (["--sampler.temperature", "-1"], "sampler.temperature` = -1.0"),
        (["--data.heldout", "2"], "data.heldout` = 2.0"),
        (["--save-every", "never"], "save_every"),
        (["--monitors.no-stop"], "monitors` = {'stop': False}"),
        (["--schedule", "cosin"], "schedule` = 'cosin'"),
        (["--epochs", "many"], "--epochs means: passes over the training groups"),
    ],
)
def test_a_wrong_value_names_field_value_and_fix(monkeypatch, capsys, args, message):
    monkeypatch.setattr(sys, "argv", ["kilter", "train", "--method", "sft", "--data", "x.jsonl", *args])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    text = " ".join(capsys.readouterr().err.split())
    assert message in text
    assert "Fix: " in text


@pytest.mark.parametrize("more", [{}, {"data__world__view": "pairs"}])
def test_a_plain_value_of_several_configurations_is_their_first_field_whatever_else_is_typed(more):
    """The first n questions of a world, whichever world it is; it once vanished beside another dial."""
    from kilter.data.dataset import DataSpec

    options = list(options_of(DataSpec, prefix=("data",)))
    views = {"view": "pairs"} if more else {}
    assert collect(options, {"data__world": "16"} | more) == {"data": {"world": {"n": 16} | views}}
    assert collect(options, {"data__world": "{n: 5}"} | more) == {"data": {"world": {"n": 5} | views}}


def test_sigterm_while_something_loads_ends_with_a_line_and_what_was_started(tiny, pairs_file, tmp_path):
    """Before it, and between steps, nothing hears the loop's own request to stop."""
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "try:\n    print('loading', flush=True)\n    time.sleep(60)\n"
        "finally:\n    print('tidied up', flush=True)\n"
    )
    words = [
        "train",
        "--method",
        "grpo",
        "--model",
        tiny,
        "--data",
        pairs_file,
        "--feedback",
        "slow.py:reward",
    ]
    command = subprocess.Popen(
        [sys.executable, "-m", "kilter", *words, "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "loading\n"
    command.send_signal(signal.SIGTERM)
    said, why = command.communicate(timeout=60)
    assert command.returncode == 4
    assert said == "tidied up\n"
    assert "interrupted; run the same command again to resume" in why
    assert "Traceback" not in why
