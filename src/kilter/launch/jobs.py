"""A run as a job of Ray: what is sent to the cluster, its log, and the exit code that Ray flattens to 1.

The entry point is `kilter run`, on the head. It compares versions before anything else, and leaves its exit
code in a file beside the run folders: a run folder holds nothing that its chain does not know.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kilter.artifacts import write_json, write_text
from kilter.errors import Exit, UserError, nearest
from kilter.launch.versions import different, versions

SENDER, EXIT = "KILTER_SENDER", "KILTER_EXIT_FILE"
"""Variables of a job: versions of the sender as JSON, and where the exit code goes."""

STOPPING = 600
"""Seconds between SIGTERM and SIGKILL: a run ends its step and saves. Ray's own 3 are too few."""

STARTING = 60
"""Seconds in which a new head may find the agent that starts jobs."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def arrive() -> None:
    """Raises UserError where this is a job whose sender has other versions."""
    sent: dict[str, str] = json.loads(os.environ.get(SENDER, "{}"))
    for name, (own, other) in different(versions(), sent).items():
        raise UserError(
            "--address",
            platform.node(),
            f"has {name} {own}, and the sender of this job has {other}",
            f"install the same {name} on both sides",
        )


def leave(code: int) -> None:
    """Leaves the exit code where this is a job; the first process speaks for all."""
    if EXIT in os.environ and int(os.environ.get("RANK", "0")) == 0:
        write_json(Path(os.environ[EXIT]), {"code": code})


def bring_token() -> None:
    """Ray asks for a token wherever one lies, but a client sends none unless told to before its import."""
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


class Jobs:
    """The jobs of a cluster, by the name that Kilter gave them.

    Args:
        client: Ray's JobSubmissionClient, or what behaves like it.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def submit(
        self,
        words: Sequence[str],
        files: Sequence[Path],
        name: str,
        runs: Path,
        texts: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Sends the files, and further ones by their texts, and starts `kilter WORDS` beside them.

        Returns:
            The job's id.
        """
        job = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        code = runs / ".jobs" / f"{job}.json"
        variables = {
            SENDER: json.dumps(versions()),
            EXIT: str(code),
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING),
        }
        # The job runs in a copy of this folder, which Ray removes: only what is read goes there.
        with tempfile.TemporaryDirectory() as folder:
            for path in files:
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, Path(folder) / path)
            for title, text in texts.items():
                write_text(Path(folder) / title, text)
            send = partial(
                self.client.submit_job,
                entrypoint=f"exec python -m kilter {shlex.join(words)}",
                submission_id=job,
                runtime_env={"working_dir": folder, "env_vars": variables},
                metadata={"kilter": name, "exit": str(code)},
            )
            self._patiently(send)
        return job

    def _patiently(self, send: Callable[[], Any]) -> None:
        """Sends again while the head has no agent yet, as in its first seconds. Raises UserError."""
        end = time.monotonic() + STARTING
        while True:
            try:
                send()
                return
            except RuntimeError as error:
                said = str(error).strip().splitlines()[0][:160]
                if "No available agent" not in said or time.monotonic() > end:
                    fix = "look at the dashboard there, and at the log of the head"
                    raise UserError("--address", "(given)", f"refuses the job ({said})", fix) from error
            time.sleep(1)

    def find(self, name: str) -> str:
        """The id of the newest job of this name. Raises UserError."""
        known: dict[str, tuple[float, str]] = {}
        for job in self.client.list_jobs():
            if job.submission_id is not None:
                entry = (float(job.start_time or 0), str(job.submission_id))
                for word in {job.submission_id, (job.metadata or {}).get("kilter", job.submission_id)}:
                    known[word] = max(entry, known.get(word, entry))
        if name not in known:
            fix = nearest(name, known) if known else "run: kilter submit RECIPE"
            raise UserError("job", name, "is not known to this cluster", fix)
        return known[name][1]

    def status(self, job: str) -> str:
        """One of Ray's words, such as RUNNING."""
        found = self.client.get_job_status(job)
        return str(getattr(found, "value", found))

    def follow(self, job: str, say: Callable[[str], None]) -> None:
        """Says the log as it is written, until the job has ended."""
        # Every command reads this file, and few follow a job.
        import asyncio

        async def tail() -> None:
            async for lines in self.client.tail_job_logs(job):
                say(lines)

        asyncio.run(tail())
        while self.status(job) not in ENDED:
            time.sleep(0.5)

    def code(self, job: str) -> int:
        """The run's own exit code, from its file where that can be read, else from what Ray saw."""
        found = self.client.get_job_info(job)
        said: Mapping[str, str] = found.metadata or {}
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(json.loads(Path(said["exit"]).read_text(encoding="utf-8"))["code"])
        seen = found.driver_exit_code
        if seen is None:
            seen = 0 if self.status(job) == "SUCCEEDED" else Exit.RUN_FAILED
        # A signal ended it, or a shell that found no kilter.
        return int(seen) if seen in list(Exit) else int(Exit.RUN_FAILED)
