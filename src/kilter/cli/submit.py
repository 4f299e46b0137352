"""kilter submit: a recipe as a job of a Ray cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kilter.cli.app import SetOption, command, err, out
from kilter.errors import UserError

if TYPE_CHECKING:
    from kilter.launch.jobs import Jobs
    from kilter.recipe import Recipe


@command(
    examples=[
        "kilter submit recipes/cluster-7b.yaml --address http://head:8265 --runs /shared/runs --follow",
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

    asked = [v for v in (recipe, status, logs, stop) if v is not None]
    if len(asked) != 1:
        problem = "is missing" if not asked else "cannot be combined with --status, --logs or --stop"
        raise UserError("recipe", "(absent)" if recipe is None else str(recipe), problem, "give one of them")
    if recipe is not None:
        # What cannot work is refused before anybody is asked.
        words, files, loaded = _prepared(recipe, runs, set_ or [])
        jobs = connect(address)
        job = jobs.submit(words, files, name or loaded.name, runs)
        see = f"kilter submit --logs {name or loaded.name} --address {address}"
        out.print(f"submitted {job}; see it with: {see}", soft_wrap=True)
        if follow:
            _follow(jobs, job, address)
        return
    jobs = connect(address)
    job = jobs.find(str(asked[0]))
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


def connect(address: str) -> Jobs:
    """The jobs of the cluster whose dashboard is there. Raises UserError."""
    from kilter.launch.jobs import Jobs

    # Ray asks for a token wherever one lies, but its client sends none unless told to before its import.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        from kilter.cluster.ray import job_client
    except ModuleNotFoundError as error:
        problem, fix = "needs Ray, which is not installed", "run: pip install 'kilter[cluster]'"
        raise UserError("--address", address, problem, fix) from error
    return Jobs(job_client(address))


def _prepared(recipe: Path, runs: Path, sets: list[str]) -> tuple[list[str], list[Path], Recipe]:
    """(words of the run, files that it reads beside them, the recipe). Raises UserError."""
    from kilter.recipe import load, plain
    from kilter.registry import user_files
    from kilter.stages.refs import references

    if not runs.is_absolute():
        problem = "is relative, and a job's own folder goes with the job"
        raise UserError("--runs", str(runs), problem, "give an absolute path on a file system of all nodes")
    loaded = load(recipe, sets)
    sources = {f"data.{n}.path": part.path for n, spec in loaded.data.items() for part in spec.sources()}
    for field, path in (("model", loaded.model), *sources.items()):
        if not Path(path).is_absolute() and Path(path).exists():
            problem = "is relative, and means nothing on the cluster"
            raise UserError(field, path, problem, "give an absolute path on a file system of all nodes")

    # Code, scripts and templates of one's own go along; what is absolute lies there already.
    named = {recipe, *user_files(plain(loaded))}
    for stage in loaded.stages.values():
        named |= {Path(f.value) for f in references(stage.spec) if f.ref.is_file(f.value) and f.value}
    files = sorted(path for path in named if not path.is_absolute())
    for file in files:
        if ".." in file.parts:
            problem = "lies above this folder, so that it cannot be sent"
            raise UserError("recipe", str(file), problem, "run this command in the folder that holds it")
    # In a job, the cluster is the one that runs it.
    here = [n for n, s in loaded.stages.items() if _is_local(s.spec)]
    sets = [*sets, *(f"stages.{n}.train.cluster.address=auto" for n in here)]
    words = ["run", str(recipe), "--runs", str(runs), *(word for item in sets for word in ("--set", item))]
    return words, files, loaded


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
