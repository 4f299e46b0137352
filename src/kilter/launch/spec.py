"""The keys of `cluster:`: where the roles of a training run, and how they work together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator

from kilter.errors import UserError
from kilter.validation import Settings, with_fix

Place = Literal["here", "beside", "apart"]
ADDRESS = re.compile(r"local|auto|(\[[\da-fA-F:]+\]|[\w.-]+):\d{1,5}")

COUNTS = {"engines", "copies", "processes"}
"""What workers are called; each role has one of these words."""

COUNTED = {"CPU": "cores", "GPU": "gpus"}
"""Resources of Ray that have a key of their own."""


class RoleSpec(Settings):
    """Where one role runs, in how many workers, and what each of them takes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    place: Place = Field("here", description="here, beside or apart; see docs/cluster.md")
    workers: int = 1
    gpus: int | None = Field(None, ge=0, description="GPUs of each worker; default: 1 where there are any")
    cores: int | None = Field(None, ge=1, description="CPU cores of each worker; default: 1")
    resources: dict[str, float] = Field(
        default_factory=dict, description="further Ray resources of each worker, such as {big_memory: 1}"
    )

    @model_validator(mode="before")
    @classmethod
    def _counts_by_its_own_word(cls, given: Any) -> Any:
        if isinstance(given, RoleSpec):
            return given
        if not isinstance(given, dict):
            place = given if given in get_args(Place) else "apart"
            problem = "is not a mapping of a role's keys"
            raise with_fix(UserError(cls.__name__, given, problem, f"write {{place: {place}}}"))
        own = str(cls.model_fields["workers"].alias)
        for word in COUNTS & given.keys() - {own, "workers"}:
            problem, fix = f"has no {word}, for its workers are {own}", f"write {own}: {given[word]}"
            raise with_fix(UserError(word, given[word], problem, fix))
        return given

    @field_validator("resources")
    @classmethod
    def _are_further(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, amount in resources.items():
            if name in COUNTED:
                raise ValueError(f"counts {name}, for which there is a key of its own: use `{COUNTED[name]}`")
            if amount <= 0:
                raise ValueError(f"asks for {amount:g} of {name}: give a number above 0, or leave it out")
        return resources


class Engines(RoleSpec):
    """Who samples."""

    workers: int = Field(1, ge=1, alias="engines", description="engines; `gpus` of each: tensor parallel")


class Copies(RoleSpec):
    """A model that answers the same, whichever copy is asked."""

    workers: int = Field(1, ge=1, alias="copies", description="copies of each of its models")


class Processes(RoleSpec):
    """A model that trains, in a group of processes."""

    workers: int = Field(1, ge=1, alias="processes", description="ranks, one per GPU or share of the cores")


class Ranks(Processes):
    """The learner. The other places are seen from its own."""

    place: Literal["here"] = Field("here", description="always here")
    nodes: int = Field(1, ge=1, description="machines that hold the ranks, as many on each")

    @model_validator(mode="after")
    def _divides(self) -> Ranks:
        if self.workers % self.nodes:
            raise ValueError(f"has {self.workers} processes, which {self.nodes} nodes cannot share evenly")
        return self


class ClusterSpec(Settings):
    """Roles on other processes and machines."""

    ELSEWHERE: ClassVar[Mapping[str, str]] = {
        "actor": "write learner",
        "policy": "write learner",
        "ref": "write reference",
        "value": "write critic",
        "cluster": "leave out that line, and indent the others less",
    }
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    address: str = Field(
        "local",
        description="local (starts and ends a Ray of its own), auto (that of `ray start`), or HOST:6379",
    )
    learner: Ranks = Field(default_factory=lambda: Ranks(), description="the policy in training")
    rollout: Engines = Field(default_factory=lambda: Engines(), description="who answers the prompts")
    reference: Copies = Field(default_factory=lambda: Copies(), description="the reference policy")
    teacher: Copies = Field(default_factory=lambda: Copies(), description="whom a student learns from")
    reward: Copies = Field(default_factory=lambda: Copies(), description="feedback sources with a model")
    critic: Processes = Field(default_factory=lambda: Processes(), description="the value model (ppo)")
    lookahead: int = Field(
        0, ge=0, description="batches sampled before the weights that they train are known; 0: in turn"
    )
    in_flight: Literal["auto", "keep", "finish"] = Field(
        "auto",
        description="answers under way when weights change: keep goes on with them, finish ends them first; "
        "auto: keep where the sampler can pause",
    )
    correction: Literal["decoupled", "anchored"] = Field(
        "decoupled",
        description="decoupled: old log-probs computed anew, and a truncated weight for the sampler; "
        "anchored: the ratio is taken to the sampler's own log-probs",
    )
    weights: Literal["auto", "file", "object", "gloo", "nccl", "ipc"] = Field(
        "auto", description="how new weights reach the engines"
    )
    verify_weights: int = Field(
        20, ge=0, description="publications from one comparison of checksums to the next; 0: none"
    )
    restarts: int = Field(3, ge=0, description="workers replaced in a run; the learner's group counts as one")
    stall: float = Field(300.0, gt=0, description="seconds without progress until a role counts as lost")
    wait_for_resources: float = Field(600.0, gt=0, description="seconds that a role waits for its place")

    @field_validator("address")
    @classmethod
    def _is_known(cls, address: str) -> str:
        _, named, port = address.rpartition(":")
        if ADDRESS.fullmatch(address) is None or (named and not 0 < int(port) <= 65535):
            raise ValueError("should be local, auto, or HOST:PORT such as 10.0.0.1:6379")
        return address

    def roles(self) -> dict[str, RoleSpec]:
        """Every role by its name."""
        return {
            "learner": self.learner,
            "rollout": self.rollout,
            "reference": self.reference,
            "teacher": self.teacher,
            "reward": self.reward,
            "critic": self.critic,
        }

    def keeps(self, pauses: bool) -> bool:
        """Whether answers under way go on after a weight update, by whether the sampler can pause."""
        return self.in_flight == "keep" or (self.in_flight == "auto" and pauses)

    def numbers(self) -> str:
        """What changes a number of the run; "" in turn, which computes what one process computes."""
        return f"{self.lookahead} {self.in_flight} {self.correction}" if self.lookahead else ""
