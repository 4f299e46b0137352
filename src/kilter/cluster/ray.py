"""Workers as Ray actors. The only file that imports ray."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.cluster.backend import LOST, Factory, Report, run
from kilter.cluster.spec import ClusterSpec
from kilter.errors import UserError


class Held:
    """What an actor runs: the worker's object, made in the actor's own process."""

    def __init__(self, role: str, number: int, make: Factory, arguments: Mapping[str, Any]) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()[:8]
        self.where = f"{role} {number} (node {node}, process {os.getpid()})"
        self.object = make(**arguments)

    def call(self, method: str, arguments: Sequence[Any]) -> Report:
        """One call, its errors as data."""
        return run(self.object, method, arguments, self.where)

    def control(self, method: str, arguments: Sequence[Any]) -> Report:
        """The same beside the calls under way."""
        return run(self.object, method, arguments, self.where)


@dataclass(eq=False)
class RayCall:
    """A call whose answer is an object of Ray."""

    reference: Any
    where: str

    def done(self) -> bool:
        """Whether Ray has its answer, or knows that none will come."""
        import ray

        return bool(ray.wait([self.reference], timeout=0)[0])

    def report(self) -> Report:
        """How it ended; LOST where the actor is gone."""
        import ray

        try:
            found: Report = ray.get(self.reference)
            return found
        except ray.exceptions.RayError as error:
            return Report(kind=LOST, arguments=(str(error).strip().splitlines()[0],), where=self.where)


@dataclass(eq=False)
class RayHandle:
    """One actor."""

    actor: Any
    where: str

    def call(self, method: str, *arguments: Any) -> RayCall:
        """Sends a call behind the earlier ones."""
        return RayCall(self.actor.call.remote(method, arguments), self.where)

    def control(self, method: str, *arguments: Any) -> RayCall:
        """Sends a call past the others."""
        return RayCall(
            self.actor.control.options(concurrency_group="beside").remote(method, arguments), self.where
        )

    def kill(self) -> None:
        """Ends the actor's process."""
        import ray

        ray.kill(self.actor, no_restart=True)


class RayBackend:
    """Connects to Ray, or starts one of its own on this machine."""

    def __init__(self, spec: ClusterSpec) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "cluster", "(given)", "needs Ray, which is not installed", "run: pip install 'kilter[ray]'"
            ) from error
        self.ray, self.spec = ray, spec
        self._own = not ray.is_initialized()
        if self._own:
            address = None if spec.address == "local" else spec.address
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def start(
        self, role: str, number: int, make: Factory, arguments: Mapping[str, Any], at_once: int = 1
    ) -> RayHandle:
        """Starts an actor that holds what `make` makes."""
        asked = self.spec.roles()[role]
        gpus = min(1, int(self.ray.cluster_resources().get("GPU", 0))) if asked.gpus is None else asked.gpus
        environment = {}
        if asked.place == "beside":
            # It shares the learner's GPUs, which Ray has given to nobody, and must see them.
            gpus, environment = 0, {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
        actor = (
            self.ray.remote(Held)
            .options(
                num_cpus=asked.cores or 1,
                num_gpus=gpus,
                resources=asked.resources,
                max_concurrency=at_once,
                concurrency_groups={"beside": 1},
                runtime_env={"env_vars": environment},
            )
            .remote(role, number, make, dict(arguments))
        )
        return RayHandle(actor, f"{role} {number}")

    def share(self, value: Any) -> Any:
        """Puts it into Ray's object store."""
        return self.ray.put(value)

    def wait(self, calls: Sequence[Any], seconds: float) -> None:
        """Until one of them is done."""
        self.ray.wait([call.reference for call in calls], timeout=seconds)

    def now(self) -> float:
        """The machine's clock."""
        import time

        return time.monotonic()

    def close(self) -> None:
        """Ends what was started here."""
        if self._own:
            self.ray.shutdown()
