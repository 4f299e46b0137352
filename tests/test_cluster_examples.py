"""The examples for clusters: they parse, and every command and key in them is one of Kilter's."""

from __future__ import annotations

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

from kilter import recipe as recipes
from kilter.cli import app
from kilter.launch.spec import ClusterSpec

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "cluster"
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def commands(text):
    """Every call of Kilter in a file, comments left out."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    found = [re.search(r"(?<![\w/.\-])kilter (?:run|submit|cluster) [^\n|`]*", line) for line in lines]
    return [shlex.split(m[0].rstrip("& "), comments=True)[1:] for m in found if m is not None]


def overrides(words):
    """The options of a call, checked against the command; returns its --set values."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {name: p for p in command.params for name in p.opts}
    values = []
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            assert word in known, word
            value = None if known[word].is_flag else words.pop(0)
            values += [value] if word == "--set" else []
    return values


TEXTS = {path.name: path.read_text() for path in sorted(FOLDER.iterdir())}


@pytest.mark.parametrize("name", [*TEXTS, "cluster.md"])
def test_every_call_of_kilter_exists(name):
    """Its options, the recipe that it names, and every key that it sets."""
    calls = commands(TEXTS.get(name, PAGE))
    assert calls
    for words in calls:
        named = [w for before, w in pairwise(words) if w.endswith(".yaml") and before != "--cluster"]
        recipe = next(iter(named), None)
        sets = overrides(list(words))
        if recipe is not None:
            raw = recipes.read(ROOT / "recipes" / Path(recipe).name, "", "")
            sets = [re.sub(r"\$\w+", "head", item) for item in sets]
            assert recipes.parse(raw, sets).stages


def test_the_page_names_every_example_and_every_key():
    for name in TEXTS:
        assert f"../examples/cluster/{name}" in PAGE
    for key in ClusterSpec.model_fields:
        assert re.search(rf"\b{key}\b", PAGE), key
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    ClusterSpec(**yaml.safe_load(block[1])["train"]["cluster"])


@pytest.mark.parametrize("name", [n for n in TEXTS if not n.endswith(".yaml")])
def test_a_script_is_one(name):
    assert subprocess.run(["bash", "-n", FOLDER / name], check=False).returncode == 0


def test_kuberay_and_skypilot_have_the_keys_that_their_readers_need():
    job = yaml.safe_load(TEXTS["kuberay.yaml"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {v["name"] for v in pod["volumes"]}
        assert {m["name"] for c in pod["containers"] for m in c["volumeMounts"]} == volumes
    # Stages without `cluster` run on the head, on as many GPUs as they have processes.
    recipe = yaml.safe_load((ROOT / "recipes" / "cluster-7b.yaml").read_text())
    most = max(stage.get("train", {}).get("processes", 1) for stage in recipe["stages"].values())
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert int(head["resources"]["limits"]["nvidia.com/gpu"]) >= most == 8
    assert "num-gpus" not in spec["headGroupSpec"]["rayStartParams"]
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
    sky = yaml.safe_load(TEXTS["skypilot.yaml"])
    assert sky["num_nodes"] == 2
    assert subprocess.run(["bash", "-n"], input=sky["run"], text=True, check=False).returncode == 0
