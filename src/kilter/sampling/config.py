"""How completions are sampled, and by whom: the fields of `sampler`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from kilter.errors import UserError, nearest
from kilter.refs import FileRef
from kilter.sampling.registry import samplers
from kilter.validation import Settings, with_fix


def _address(url: str | None) -> str | None:
    if url is not None and "${" in url:
        problem = "is taken as it is written: Kilter fills in no ${...}"
        fix = "write the address, or leave it out: sampler openai then reads OPENAI_BASE_URL"
        raise with_fix(UserError("url", url, problem, fix))
    if url is not None and not url.startswith(("http://", "https://")):
        raise ValueError("should begin with http:// or https://")
    if url is not None and not has_host(url):
        raise ValueError("should name a host, and a port from 0 to 65535 if any")
    return url


def has_host(url: str) -> bool:
    """Whether an address can be asked at all."""
    try:
        return bool(urlsplit(url).hostname) and urlsplit(url).port != -1
    except ValueError:
        return False


def address_of(url: str | None, field: str) -> tuple[str | None, str]:
    """(an endpoint's address, the name of what gave it); None is that of the official client.

    Args:
        url: the setting; None reads $OPENAI_BASE_URL.
        field: of the setting.

    Raises:
        UserError: the address names no host.
    """
    found = url or os.environ.get("OPENAI_BASE_URL") or None
    named = field if url or not found else "OPENAI_BASE_URL"
    if found is not None and not has_host(found):
        raise UserError(named, found, "names no host", "set it to http://HOST:PORT/v1")
    return found, named


class SamplerKind(Settings):
    """Who samples. The fields that only one sampler reads name it in brackets."""

    ELSEWHERE: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("key", "api_key", "token"), "leave it out: an endpoint's key is read from OPENAI_API_KEY alone"
    )
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: str = Field(
        "local",
        description="local (in process), vllm, openai (any compatible endpoint), scripted, "
        "world (a world's own critic), or my_file.py:MySampler",
    )
    tokens_per_batch: int = Field(1 << 14, ge=64, description="cached tokens in flight (local)")
    url: Annotated[str | None, AfterValidator(_address)] = Field(
        None,
        description="address of a running server; default: in process (vllm), $OPENAI_BASE_URL (openai)",
    )
    timeout: float = Field(
        120.0, gt=0, description="seconds for one weight update or one request (vllm, openai)"
    )
    memory: float | None = Field(
        None,
        gt=0,
        description="GB of key-value cache on a CPU, share of the GPU's memory (0 to 1) on a GPU (vllm)",
    )
    model: str | None = Field(None, description="the endpoint's name of the model (openai)")
    concurrency: int = Field(
        8, ge=1, le=1000, description="requests under way at once, as many as the client opens (openai)"
    )
    retries: int = Field(4, ge=0, description="further attempts after a failure that may pass (openai)")
    script: FileRef | None = Field(
        None, description="JSON lines of {prompt, answer} or {prompt, answers} (scripted)"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="what a sampler of your own takes besides (my_file.py:MySampler, world)",
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        # One's own is read later, with the other settings checked: importing it runs the user's code.
        if ":" not in name and name not in samplers.names():
            raise ValueError(f"{name!r} is not a sampler; {nearest(name, samplers.names())}")
        return name


class SamplerSpec(SamplerKind):
    """How completions are sampled in training."""

    samples: int = Field(8, ge=1, description="completions per prompt (num_generations)")
    max_new_tokens: int = Field(128, ge=1, description="tokens of a completion")
    temperature: float = Field(
        1.0, gt=0, description="log-probs in the loss are taken at this temperature too"
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus; below 1 the log-probs stay those of the full distribution"
    )
    top_k: int = Field(0, ge=0, description="0: off")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="strings that end a completion"
    )


READS: dict[str, frozenset[str]] = {
    "local": frozenset({"tokens_per_batch"}),
    "vllm": frozenset({"url", "timeout", "memory"}),
    "openai": frozenset({"url", "timeout", "model", "concurrency", "retries"}),
    "scripted": frozenset({"script"}),
    "world": frozenset({"options"}),
}
"""The fields of SamplerKind that each sampler reads. One of your own may read them all."""

FOLLOWS = frozenset({"local", "vllm"})
"""The built-in samplers whose weights follow a policy in training."""

PAUSES = frozenset({"vllm"})
"""Those that can hold answers under way while their weights change."""

ENGINES = frozenset({"vllm"})
"""Those that take whole weights, adapters added in, where they have a process of their own."""

BESIDE = 0.3
"""Share of a GPU's memory for an engine that lives with a learner, where `memory` says nothing."""

NAMES_MODEL = {"openai": "model", "scripted": "script"}
"""Of the samplers that open no weights, the field that says who answers."""

PACKAGES = {"vllm": "vllm"}
"""What has to be installed for a sampler that asks no server."""

AT_HAND = frozenset({"scripted", "world"})
"""Those that open neither weights nor a connection."""

FILTERS_BIAS = frozenset({"vllm"})
"""Those whose log-probs are of what top_k and top_p left, which a correction must not read."""


def idle_fields(spec: SamplerKind) -> list[tuple[str, str, str]]:
    """(field, why, fix) of every field that this sampler does not read, for validation.refuse_idle."""
    # A sampler of one's own reads what it likes.
    if spec.name not in READS:
        return []
    # Fields of SamplerSpec, such as the temperature, are read by all.
    unread = [n for n in SamplerKind.model_fields if n != "name" and n not in READS[spec.name]]
    return [
        (
            name,
            f"sampler {spec.name} does not read it",
            f"leave it out, or use another sampler than {spec.name}",
        )
        for name in unread
    ]


def greedy(temperature: float) -> list[tuple[str, str, str]]:
    """(field, why, fix) of what changes no answer at this temperature."""
    fix = "leave it out, or set a temperature"
    return [
        (n, "at temperature 0 the likeliest token is taken", fix)
        for n in ("top_p", "top_k")
        if not temperature
    ]
