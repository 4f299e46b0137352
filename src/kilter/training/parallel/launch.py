"""Several processes from one command: `processes: 2` starts them, waits, and ends all when one dies.

torch's elastic agent starts and watches the workers. Their data is handed over as files in the stage's
folder, so that every worker reads the same rows without reading the data set again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter import errors, feedback
from kilter.artifacts import AGAIN, owning, remove, write_first, write_json, write_text
from kilter.cluster.backend import JOIN
from kilter.data import store
from kilter.errors import Interrupted, KilterError, RoleLost, RunFailed
from kilter.runtime import core_count
from kilter.screen import Screen

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from kilter.training.config import TrainSpec
    from kilter.training.result import TrainResult
    from kilter.training.trainer import Trainer

WORKER = ("-m", "kilter.training.parallel.worker")

JOB = ".job"
"""Folder of the handed-over files inside the stage's folder."""


def needed(spec: TrainSpec) -> bool:
    """Whether this process should start the workers: several are asked for, and it is not one of them."""
    return (spec.processes > 1 or _on_cluster(spec)) and "WORLD_SIZE" not in os.environ


def _on_cluster(spec: TrainSpec) -> bool:
    return spec.cluster is not None and spec.cluster.learner.workers > 1


def train(trainer: Trainer) -> TrainResult:
    """Trains here, or in the processes that the spec asks for."""
    return run(trainer) if needed(trainer.spec) else trainer.run()


def run(trainer: Trainer) -> TrainResult:
    """Trains `trainer` in the processes that the spec asks for.

    Raises what the first worker to fail raised, or RunFailed with its rank and signal.
    """
    from kilter.training.result import TrainResult

    folder = trainer.out / JOB
    _hand_over(trainer, folder)
    (_run_on_cluster if _on_cluster(trainer.spec) else _run_here)(trainer, folder)
    result = json.loads((folder / "result.json").read_text())
    remove(folder)
    return TrainResult(**result | {"model": Path(result["model"]), "counts": Counter(result["counts"])})


def _run_on_cluster(trainer: Trainer, folder: Path) -> None:
    """The ranks where the cluster has room for them; the group begins anew when it loses one."""
    from kilter.training import restart
    from kilter.training.hooks.interrupts import StopRequest
    from kilter.training.parallel.ranks import Group

    assert trainer.spec.cluster is not None
    cluster, stop = trainer.spec.cluster, StopRequest()
    backend, group = trainer.connect(cluster), None
    environment = {JOIN: backend.address, "OMP_NUM_THREADS": str(cluster.learner.cores or 1)}
    try:
        for attempt in range(cluster.restarts + 1):
            with stop:
                # The hosts stay, and with them the workers of the ranks, whose models are loaded.
                group = group or Group(backend, cluster.learner.workers, cluster.stall, lambda: stop.received)
                ended = group.run([*WORKER, str(folder)], environment, attempt)
            if not ended.whole:
                group.close()
                group = None
            # The result is written when every process has trained to the end.
            if (folder / "result.json").is_file():
                return
            left = attempt < cluster.restarts and not stop.received
            lost = ended.lost or _lost_role(folder)
            if not lost or not left:
                break
            # What the others say of one that was killed is not the cause.
            for left_behind in (folder / "cause.json", *folder.glob(_trace(folder, "*").name)):
                remove(left_behind)
            restart.note(trainer.out, trainer.name, trainer.spec.save_every, lost)
    finally:
        backend.close()
    if (folder / "cause.json").is_file() and not ended.lost:
        raise _told(folder)
    if stop.received and not ended.lost:
        raise _stopped(trainer)
    if not ended.lost:
        _show_trace(folder, range(len(ended.codes)))
    how = ended.lost or f"exit codes {ended.codes}; their own message stands above"
    raise RunFailed(f"The learner's processes were stopped ({how})", AGAIN, _kept(trainer.out))


def _run_here(trainer: Trainer, folder: Path) -> None:
    """The processes on this machine, by torch's elastic agent."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    spec = trainer.spec
    # Without a limit every process would take all cores, and all would wait for each other.
    threads = max(1, core_count() // spec.processes)
    threads_before = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        run_id="kilter",
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=spec.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    # What the agent says of a worker that ended, `_cause` says in words.
    agent = logging.getLogger("torch.distributed.elastic")
    level = agent.level
    agent.setLevel(logging.CRITICAL)
    try:
        elastic_launch(config, entrypoint=sys.executable)(*WORKER, str(folder), str(os.getpid()))
    except ChildFailedError as error:
        # The result is written when every process has trained to the end: a worker that stumbles over its own
        # shutdown changes nothing.
        if not (folder / "result.json").is_file():
            raise _cause(folder, error, spec.processes) from error
    except SignalException as error:  # the agent hands the signal on, and each worker saves at its next step
        raise _stopped(trainer) from error
    finally:
        agent.setLevel(level)
        if threads_before is None:
            os.environ.pop("OMP_NUM_THREADS", None)


def _stopped(trainer: Trainer) -> Interrupted:
    """What ends a launch that somebody asked to stop, where no worker said more."""
    return Interrupted(
        f"Stopped; the finished steps are saved in {trainer.out}.\nTo resume: run the same command again."
    )


def _hand_over(trainer: Trainer, folder: Path) -> None:
    """Writes what every worker reads."""
    # A killed launch left its files: they describe other rows.
    remove(folder)
    folder.mkdir(parents=True)
    store.append(folder / "train.jsonl", trainer.train)
    store.append(folder / "heldout.jsonl", trainer.heldout)
    if trainer.select is not None:
        store.append(folder / "select.jsonl", trainer.select)
    # Whatever needs a name resolved is resolved here: workers know no recipe.
    job = {
        "spec": trainer.spec.model_dump(mode="json", by_alias=True),
        "start": str(trainer.start),
        "reference": None if trainer.reference is None else str(trainer.reference),
        "out": str(trainer.out),
        "name": trainer.name,
        "models": {name: str(trainer.resolve(name)) for name in _models(trainer.spec)},
        "certificates": [str(path) for path in trainer.certificates],
    }
    write_json(folder / "job.json", job)


def work(folder: Path) -> None:
    """One worker: trains its share; rank 0 leaves the result, the first to fail leaves the cause."""
    import torch.distributed as dist

    from kilter.training.config import TrainSpec
    from kilter.training.trainer import Trainer

    job = json.loads((folder / "job.json").read_text())
    spec = TrainSpec.model_validate(job["spec"])
    parts = [folder / f"{part}.jsonl" for part in ("train", "heldout", "select")]
    groups = [list(store.read(path)) if path.is_file() else None for path in parts]
    reference = Path(job["reference"]) if job["reference"] else None
    resolve = lambda name: Path(job["models"][name])
    # The same Trainer as in one process: it learns from its environment that it is one of several.
    trainer = Trainer(
        spec,
        Path(job["start"]),
        groups[0] or (),
        groups[1] or (),
        Path(job["out"]),
        reference,
        Screen(stderr=True),
        job["name"],
        resolve,
        [Path(path) for path in job["certificates"]],
        groups[2],
    )
    try:
        with owning(trainer.out):
            result = trainer.run()
        if dist.is_initialized():
            dist.barrier()
    except KilterError as error:
        _leave(folder, {"kind": type(error).__name__, "arguments": error.arguments})
        raise SystemExit(int(error.code)) from error
    except Exception as error:
        # One whose neighbour died loses its connection. The launcher alone knows which of both this is.
        write_text(_trace(folder, os.environ["RANK"]), traceback.format_exc())
        raise SystemExit(1) from error
    # Everybody has trained to the end: from here on no failure counts.
    if os.environ["RANK"] == "0":
        write_json(
            folder / "result.json",
            asdict(result) | {"model": str(result.model), "counts": dict(result.counts)},
        )
    if dist.is_initialized():
        dist.destroy_process_group()


def _models(spec: TrainSpec) -> list[str]:
    # Stages and models that the worker will ask for by name.
    named = [spec.teacher, spec.critic.start]
    for source in (spec.feedback, spec.monitors.gold):
        named += feedback.model_references(source) if source is not None else []
    return [n for n in named if n]


def _leave(folder: Path, cause: dict[str, Any]) -> None:
    try:
        write_first(folder / "cause.json", cause | {"rank": int(os.environ["RANK"])})
    except RunFailed:  # the disk that ended this worker has no room for its cause either
        print(*cause["arguments"], sep="\n", file=sys.stderr)


def _trace(folder: Path, rank: object) -> Path:
    """Where a worker leaves the traceback of what nobody expected."""
    return folder / f"trace-{rank}.txt"


def _show_trace(folder: Path, ranks: Sequence[int]) -> None:
    """Prints the traceback of the first of these workers that left one."""
    found = [path for rank in ranks if (path := _trace(folder, rank)).is_file()]
    for path in found[:1]:
        print(path.read_text(encoding="utf-8"), end="", file=sys.stderr)


def _kept(out: Path) -> str:
    """What a stopped run goes on from, for a person."""
    from kilter.training.checkpoint import Checkpoints

    return f"Last good checkpoint: {Checkpoints(out / 'checkpoints', 'auto').latest() or 'none yet'}"


def _lost_role(folder: Path) -> str:
    """What was lost with a role that nobody can replace; "" where it was something else."""
    if not (folder / "cause.json").is_file():
        return ""
    error = _told(folder)
    return error.problem if isinstance(error, RoleLost) else ""


def _told(folder: Path) -> KilterError:
    """What the first worker to fail raised."""
    cause = json.loads((folder / "cause.json").read_text())
    error = errors.made_again(cause["kind"], cause["arguments"])
    assert error is not None, "workers leave no other kind of cause"
    return error


def _cause(folder: Path, error: ChildFailedError, count: int) -> KilterError:
    # The launcher itself ends the others with SIGTERM, and one that lost its neighbour fails as well.
    blame = {-signal.SIGTERM: 2}
    order = lambda item: (blame.get(item[1].exitcode, item[1].exitcode > 0), item[1].timestamp, item[0])
    rank, failure = min(error.failures.items(), key=order)
    killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    # What the others say of a worker that was killed (a broken connection, a checkpoint not written) is not
    # the cause.
    if not killed and (folder / "cause.json").is_file():
        return _told(folder)
    code, kept = failure.exitcode, _kept(folder.parent)
    if code < 0:
        # A signal leaves no message: the kind of signal is all there is to say.
        memory = " (often: out of memory)" if code == -signal.SIGKILL else ""
        how = f"was killed by {signal.Signals(-code).name}{memory}"
        return RunFailed(f"Process {rank} of {count} {how}; the others were stopped", AGAIN, kept)
    _show_trace(folder, [rank, *error.failures])
    fix = f"mend what it says above, then {AGAIN}"
    return RunFailed(f"Process {rank} of {count} ended with code {code}; the others were stopped", fix, kept)
