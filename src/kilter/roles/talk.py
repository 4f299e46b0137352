"""Opening a model that is talked to: its replies kept, counted and limited, whoever answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kilter.artifacts import sha256_file
from kilter.errors import UserError
from kilter.redaction import redacted
from kilter.registry import user_files
from kilter.roles.chat import SamplerChat
from kilter.roles.courier import by_courier
from kilter.roles.paid import Bill, PaidChat, Rate, estimated_tokens
from kilter.roles.replies import Replies, key_of
from kilter.sampling.build import SamplerContext, build
from kilter.sampling.config import READS, SamplerKind, address_of
from kilter.seams import Sampler
from kilter.types import Ask, Prompt, SamplingParams

if TYPE_CHECKING:  # an endpoint is talked to without torch
    from kilter.roles.open import OpenSpec

TOGETHER = 32
"""Questions that a model in memory is asked in one call, and that a kill may cost."""

PUBLIC = "https://api.openai.com/v1"
"""Where the official client asks if nobody says otherwise."""


def public_url(url: str | None, field: str) -> str:
    """An endpoint's address without user, password and query, which may hold a key.

    Args:
        url: the setting; None reads $OPENAI_BASE_URL.
        field: of the setting, for messages.
    """
    address, _ = address_of(url, field)
    parts = urlsplit(address or PUBLIC)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}".rstrip("/")


@dataclass
class Talker:
    """Someone to talk to.

    Args:
        sampler: who answers.
        model: folder of the weights; None where the sampler opens none.
        max_tokens: the most that a reply may have.
        max_length: tokens of a question; a longer one is not asked.
        template: chat template of a model in memory.
        version: of the questions' wording, for the cache.
        bill: what replies cost.
        rate: their price.
        cache: SQLite file of replies; None keeps none.
        replay: only kept replies count, and no model is opened.
        where: field of the settings. It says who pays.
        place: where the sampler's settings stand for a person, such as a file; "" is `where`.
        cache_field: the setting that names the cache, for errors; "" is that of `where`.
        elsewhere: opens the sampler over a folder of weights; None opens it here.
    """

    sampler: SamplerKind
    model: Path | None = None
    max_tokens: int = 512
    max_length: int = 4096
    template: str = "auto"
    version: str = ""
    bill: Bill = field(default_factory=Bill)
    rate: Rate = Rate()
    cache: Path | None = None
    replay: bool = False
    where: str = "judge"
    place: str = ""
    cache_field: str = ""
    elsewhere: Callable[[SamplerKind, OpenSpec, str], Sampler] | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Who answers: the weights by their hash, an endpoint by its address and the model's name."""
        spec = self.sampler
        who: dict[str, Any] = {"sampler": spec.name}
        if self.model is not None:
            from kilter.models.fingerprint import model_hash

            who["model"] = model_hash(self.model)
        if spec.model is not None:
            who |= {"model": spec.model, "url": public_url(spec.url, f"{self.where}.sampler.url")}
        if spec.script is not None:
            who["script"] = sha256_file(Path(spec.script))
        # Its own template is part of a model's hash; another one makes other questions of the same turns.
        if self.model is not None and self.template != "auto":
            file = Path(self.template)
            who["template"] = sha256_file(file) if file.is_file() else self.template
        # A sampler of the user's own is its code: what other code said is no reply of it.
        code = {path.name: sha256_file(path) for path in user_files(spec.name)}
        who |= {"code": code} if code else {}
        return who | ({"options": redacted(spec.options)} if spec.options else {})

    @cached_property
    def payer(self) -> str:
        """Names who pays, of several that keep their replies in one file: the same in each command."""
        rank = os.environ.get("RANK", "0")
        return key_of({**self.identity, "version": self.version, "where": self.where, "rank": rank})

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.sampler.model or (self.model.name if self.model is not None else self.sampler.name)

    @property
    def apart(self) -> bool:
        """Whether workers elsewhere answer, while others go on."""
        return self.model is not None and self.elsewhere is not None

    @property
    def endpoint(self) -> bool:
        """Whether each call is sent to somebody, and paid for."""
        return "concurrency" in READS.get(self.sampler.name, ())

    @property
    def pace(self) -> tuple[int, int]:
        """Calls under way at once, and questions of each."""
        # What is paid for is kept one by one; a model in memory reads many questions at once.
        return (self.sampler.concurrency, 1) if self.endpoint else (1, TOGETHER)

    @cached_property
    def chat(self) -> PaidChat:
        """The one to talk to; weights are opened when it is first asked."""
        at_once, chunk = self.pace
        replies = None
        if self.cache is not None:
            named = self.cache_field or f"{self.where}.cache"
            replies = Replies(self.cache, named, self.replay, self.payer, self.rate.of)
            if not self.replay:
                self.bill.before.setdefault((self.cache.resolve(), self.payer), replies.paid(self.payer))
        elif self.replay:
            raise UserError(
                f"{self.where}.replay", True, "has no cache to replay", "name one: cache: replies.sqlite"
            )
        who = {**self.identity, "temperature": 0.0, "version": self.version}
        made = PaidChat(
            self._open,
            who,
            self.max_tokens,
            self.bill,
            self.rate,
            replies,
            self.replay,
            at_once,
            chunk,
            ahead=self.apart,
            payer=self.payer,
        )
        if self.endpoint and replies is not None and not self.replay:
            return by_courier(made, self.sampler, self._params, self._field)
        return made

    @property
    def _field(self) -> str:
        """Of the sampler, for messages."""
        return f"{self.place or self.where}.sampler"

    @property
    def _params(self) -> SamplingParams:
        return SamplingParams(max_new_tokens=self.max_tokens, temperature=0.0)

    def _open(self) -> SamplerChat:
        params, where = self._params, self._field
        if self.model is not None and self.elsewhere is not None:
            return SamplerChat(self.elsewhere(self.sampler, self._opening, where), params)
        context = SamplerContext(self.sampler, self._weights, str(self.model or ""))
        return SamplerChat(build(context, where), params)

    def _weights(self) -> tuple[Any, Any]:
        from kilter.roles.open import open_model

        ready = open_model(self._opening)
        return ready.scorer, ready.encoder

    @property
    def _opening(self) -> OpenSpec:
        from kilter.roles.open import OpenSpec

        return OpenSpec(self.model or "", template=self.template, max_length=self.max_length, long_rows="cut")

    @cached_property
    def length(self) -> Callable[[Ask], int]:
        """Tokens of a question: counted where the tokenizer is here, else estimated."""
        if self.model is None:
            return estimated_tokens
        from kilter.roles.open import open_encoder

        encoder = open_encoder(self._opening)

        def count(ask: Ask) -> int:
            try:
                return len(encoder.prompt(Prompt(ask.messages)))
            except UserError:
                return 0  # the template refuses it: so will the model, and says why

        return count
