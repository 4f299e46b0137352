"""kilter submit: a recipe as a job of a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from kilter.cli.app import ClusterOption, SetOption, command, err, out
from kilter.cli.cluster import parsed
from kilter.errors import UserError
from kilter.validation import require_name

if TYPE_CHECKING:
    from kilter.launch.jobs import Jobs
    from kilter.recipe import Recipe


@command(
    examples=[
        "kilter submit recipes/cluster-7b.yaml --address http://head:8265 --runs /shared/runs --follow",
        "kilter submit my.yaml --cluster cluster.yaml --address http://head:8265 --runs /shared/runs",
        "kilter submit --status cluster-7b --address http://head:8265",
        "kilter submit --stop cluster-7b --address http://head:8265",
    ]
)
def submit(
    recipe: Annotated[Path | None, typer.Argument(help="a recipe (YAML)")] = None,
    address: Annotated[
        str, typer.Option(help="the head's dashboard", metavar="URL")
    ] = "http://127.0.0.1:8265",
    runs: Annotated[
        Path, typer.Option(help="folder that holds run folders, on a file system of all nodes")
    ] = Path("runs"),
    set_: SetOption = None,
    cluster: ClusterOption = None,
    name: Annotated[
        str | None, typer.Option(help="what the job is called; default: the recipe's name")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="show the log, and end with the run's own exit code")
    ] = False,
    status: Annotated[str | None, typer.Option(help="say how a job stands", metavar="NAME")] = None,
    logs: Annotated[str | None, typer.Option(help="print the log of a job", metavar="NAME")] = None,
    stop: Annotated[
        str | None, typer.Option(help="end a job; it saves after its step", metavar="NAME")
    ] = None,
) -> None:
    """Run a recipe on a Ray cluster, as a job. Submit it again to resume; Ctrl-C leaves it running."""
    from kilter.launch.jobs import ENDED

    asked = _one({"recipe": recipe, "--status": status, "--logs": logs, "--stop": stop})
    if cluster is not None and recipe is None:
        problem, fix = "goes with a recipe, and none is sent", "give a recipe, or leave --cluster out"
        raise UserError("--cluster", str(cluster), problem, fix)
    # Ray would take it for the port of the cluster itself, and try for most of a minute.
    if not address.startswith(("http://", "https://")):
        problem = "is not the URL of a dashboard"
        raise UserError("--address", address, problem, "give it as http://HEAD:8265")
    if name is not None:
        require_name("--name", name)
    if recipe is not None:
        # What cannot work is refused before anybody is asked.
        parcel = _packed(recipe, runs, set_ or [], cluster)
        jobs, called = connect(address), name or parcel.name
        job = jobs.submit(parcel.words, parcel.files, called, runs, parcel.texts)
        see = f"kilter submit --logs {called} --address {address}"
        out.print(f"submitted {job}; see it with: {see}", soft_wrap=True)
        if follow:
            _follow(jobs, job, address)
        return
    jobs = connect(address)
    job = jobs.find(asked)
    if status is not None:
        ended = jobs.status(job) in ENDED
        out.print(f"{job}: {jobs.status(job).lower()}" + (f", exit code {jobs.code(job)}" if ended else ""))
    elif logs is not None and follow:
        _follow(jobs, job, address)
    elif logs is not None:
        print(jobs.client.get_job_logs(job), end="")
    else:
        jobs.client.stop_job(job)
        out.print(f"{job} is asked to stop; it saves at the end of its step. Submit it again to resume")


def _one(doors: Mapping[str, object]) -> str:
    """What was asked for. Raises UserError unless it is one thing."""
    asked = {field: str(value) for field, value in doors.items() if value is not None}
    if not asked:
        fix = "give a recipe, or the name of a job to --status, --logs or --stop"
        raise UserError("recipe", "(absent)", "is missing", fix)
    if len(asked) > 1:
        first, second = list(asked)[:2]
        raise UserError(second, asked[second], f"cannot be combined with {first}", "give one of them")
    return next(iter(asked.values()))


def connect(address: str) -> Jobs:
    """The jobs of the cluster whose dashboard is there. Raises UserError."""
    from kilter.launch.jobs import Jobs, bring_token

    bring_token()
    try:
        from kilter.cluster.ray import job_client
    except ModuleNotFoundError as error:
        problem, fix = "needs Ray, which is not installed", "run: pip install 'kilter[cluster]'"
        raise UserError("--address", address, problem, fix) from error
    return Jobs(job_client(address))


CLUSTER = "cluster-of-this-job.yaml"
"""What the file of `--cluster` is called beside the recipe of a job."""


@dataclass(frozen=True)
class Parcel:
    """What a job is made of.

    Args:
        name: of the recipe.
        words: of its command.
        files: that the command reads, as they lie here.
        texts: further files by name.
    """

    name: str
    words: list[str]
    files: list[Path]
    texts: dict[str, str]


def _packed(recipe: Path, runs: Path, sets: list[str], cluster: Path | None) -> Parcel:
    """What is sent. Raises UserError where the job could not work."""
    from kilter.recipe import check

    if not runs.is_absolute():
        problem = "is relative, and a job's own folder goes with the job"
        raise UserError("--runs", str(runs), problem, "give an absolute path on a file system of all nodes")

    # Checked as the job will read it: there, the cluster is the one that runs the job.
    alone = parsed(recipe, sets, None, "recipes/quickstart.yaml")
    here = [n for n, s in alone.stages.items() if _is_local(s.spec)]
    sets = [*sets, *(f"stages.{n}.train.cluster.address=auto" for n in here)]
    texts = {} if cluster is None else {CLUSTER: _of_the_job(cluster)}
    loaded = parsed(recipe, sets, cluster, "recipes/quickstart.yaml")
    check(loaded)
    _refuse_relative(loaded)
    words = ["run", str(recipe), "--runs", str(runs), *(word for item in sets for word in ("--set", item))]
    words += [word for name in texts for word in ("--cluster", name)]
    return Parcel(loaded.name, words, _read_along(loaded, recipe), texts)


def _of_the_job(cluster: Path) -> str:
    """The text of a cluster's file, whose roles live where the job runs."""
    from kilter.recipe import mapping

    keys = mapping(cluster, "--cluster", "cluster.yaml", "rollout: {place: apart}")
    here = keys.get("address", "local") == "local"
    return yaml.safe_dump(keys | ({"address": "auto"} if here else {}), sort_keys=False)


def _refuse_relative(loaded: Recipe) -> None:
    """Raises UserError where the path of data or of a model counts from this folder."""
    from kilter.stages.refs import references

    named = {f"data.{n}.path": part.path for n, spec in loaded.data.items() for part in spec.sources()}
    named["model"] = loaded.model
    for name, stage in loaded.stages.items():
        for item in references(stage.spec):
            if item.ref.to == "model" and item.value not in (None, *loaded.stages):
                named[f"stages.{name}.{stage.kind}.{item.field}"] = str(item.value)
    for field, path in named.items():
        if not Path(path).is_absolute() and Path(path).exists():
            problem = "is relative, and means nothing on the cluster"
            raise UserError(field, path, problem, "give an absolute path on a file system of all nodes")


def _read_along(loaded: Recipe, recipe: Path) -> list[Path]:
    """Code, scripts and templates of one's own go along; what is absolute lies there already."""
    from kilter.recipe import plain
    from kilter.registry import user_files
    from kilter.stages.refs import references

    named = {recipe, *user_files(plain(loaded))}
    for stage in loaded.stages.values():
        named |= {Path(f.value) for f in references(stage.spec) if f.ref.is_file(f.value) and f.value}
    files = sorted(path for path in named if not path.is_absolute())
    for file in files:
        if ".." in file.parts:
            problem = "lies above this folder, so that it cannot be sent"
            raise UserError("recipe", str(file), problem, "run this command in the folder that holds it")
    return files


def _is_local(spec: object) -> bool:
    """Whether a stage would start a Ray of its own."""
    from kilter.training.config import TrainSpec

    return isinstance(spec, TrainSpec) and spec.cluster is not None and spec.cluster.address == "local"


def _follow(jobs: Jobs, job: str, address: str) -> None:
    """Shows the log and ends with the run's own exit code. Ctrl-C ends the show alone."""
    try:
        jobs.follow(job, lambda lines: print(lines, end="", flush=True))
    except KeyboardInterrupt:
        err.print(
            f"\n{job} goes on; see it with: kilter submit --logs {job} --follow --address {address}",
            soft_wrap=True,
        )
        return
    raise typer.Exit(jobs.code(job))
