"""A Chat that keeps its replies, counts what they cost, and stops before a limit."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from kilter.errors import RunFailed, UserError
from kilter.roles.replies import Replies, key_of
from kilter.screen import many
from kilter.seams import Chat, ChatAhead
from kilter.types import Ask, Choice, Reply, Usage

BYTES_PER_TOKEN = 3.0
"""Of a question whose tokens nobody has counted. Rather too many tokens than too few."""


SHOWN = 120
"""Characters of a question in a message."""


def estimated_tokens(ask: Ask) -> int:
    """Tokens of a question, by its length."""
    size = sum(len(m["content"].encode("utf-8", "surrogatepass")) + 16 for m in ask.messages)
    return int(size / BYTES_PER_TOKEN) + 1


@dataclass(frozen=True, slots=True)
class Rate:
    """Prices of a million tokens read, and of a million written, in any one currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, usage: Usage) -> float:
        """What these tokens cost."""
        return (usage.prompt_tokens * self.prompt + usage.tokens * self.completion) / 1e6


@dataclass
class Bill:
    """What replies cost, and how far one may go. Threads and the judges of a panel share it.

    Args:
        limit: no call is made that could pass it; None is no limit.
        before: what earlier commands paid, by the file that keeps the replies and by who paid.
    """

    limit: float | None = None
    before: dict[tuple[Path, str], float] = field(default_factory=dict)
    calls: int = 0
    """Questions that were asked and answered."""
    kept: int = 0
    """Questions whose reply was there already."""
    usage: Usage = Usage()
    cost: float = 0.0
    uncounted: int = 0
    """Calls whose tokens the endpoint did not tell; theirs are estimated."""
    _booked: float = 0.0
    _under_way: int = 0
    _ended: threading.Condition = field(default_factory=threading.Condition, repr=False)

    @property
    def spent(self) -> float:
        """What counts towards the limit: a limit that each restart began anew would be none."""
        return self.cost + sum(self.before.values())

    def begin(self, most: float) -> None:
        """Books the most that a call can cost. Raises RunFailed where that would pass the limit."""
        with self._ended:
            # Calls under way mostly cost less than was booked for them.
            while self._under_way and self._passes(self._booked + most) and not self._passes(most):
                self._ended.wait()
            if self._passes(most):
                raise self._limited(most)
            self._booked += most
            self._under_way += 1

    def _passes(self, more: float) -> bool:
        return self.limit is not None and self.spent + more > self.limit

    def _limited(self, most: float) -> RunFailed:
        before = sum(self.before.values())
        files = ", ".join(sorted({str(path) for (path, _), cost in self.before.items() if cost}))
        return RunFailed(
            f"The cost is {self.spent:.6g}, and the next call can take up to {most:.6g} more: "
            f"that could bring it above max_cost {self.limit:g}",
            "raise max_cost and run the same command again: what was paid for is kept",
            f"Earlier commands paid {before:.6g} of it, for the replies in {files}." if before else "",
        )

    def end(self, most: float, calls: int, usage: Usage, cost: float, uncounted: int = 0) -> None:
        """Books what the calls did cost, in place of the most that they could."""
        with self._ended:
            self._under_way -= 1
            # Sums of fractions leave a rest, which is nobody's.
            self._booked = self._booked - most if self._under_way else 0.0
            self.calls += calls
            self.uncounted += uncounted
            self.usage += usage
            self.cost += cost
            self._ended.notify_all()

    def line(self) -> str:
        """The bill in one line for a person."""
        words = [many(self.calls, "calls"), *([f"{self.kept} kept"] if self.kept else [])]
        words.append(many(self.usage.prompt_tokens + self.usage.tokens, "tokens"))
        if self.cost or self.limit is not None:
            words.append(f"cost {self.spent:.4g}" + ("" if self.limit is None else f" of {self.limit:g}"))
        if self.uncounted:
            words.append(f"tokens of {self.uncounted} estimated")
        return ", ".join(words)

    def facts(self) -> dict[str, Any]:
        """The bill for a manifest."""
        tokens = {"prompt_tokens": self.usage.prompt_tokens, "tokens": self.usage.tokens}
        counts = {"calls": self.calls, "kept": self.kept, "uncounted": self.uncounted}
        return counts | tokens | {"cost": round(self.cost, 6)}


R = TypeVar("R", Reply, Choice)


@dataclass(frozen=True)
class _Kind(Generic[R]):
    """How replies of one kind are asked for and kept. tokens: the most that one of them writes."""

    ask: Callable[[Sequence[Ask]], list[R]]
    begin: Callable[[Sequence[Ask]], Callable[[], list[R]]]
    key: Mapping[str, Any]
    tokens: int
    loaded: Callable[[Mapping[str, Any]], R]


@dataclass(frozen=True, eq=False)
class _Begun(Generic[R]):
    """Questions under way together, by their keys. wait: gives the answers in their order."""

    asks: Mapping[str, Ask]
    wait: Callable[[], list[R]]


@dataclass
class PaidChat:
    """Chat over another one.

    Args:
        open: gives the other one; it is not called where all replies are kept already.
        identity: who answers and how it samples, as JSON.
        max_tokens: the most that a reply may have.
        bill: what the calls cost.
        rate: their price.
        replies: where replies are kept; None keeps none.
        replay: a reply that is not kept is an error instead of a call.
        at_once: calls under way at once.
        chunk: asks that one call takes together. They are kept together too.
        ahead: the other one is a ChatAhead, so that `begin` sends something off.
        payer: under whose name costs are kept beside the replies.
        keeps: replies and their costs are kept here; False leaves that to the other one.
    """

    open: Callable[[], Chat]
    identity: Mapping[str, Any]
    max_tokens: int = 512
    bill: Bill = field(default_factory=Bill)
    rate: Rate = Rate()
    replies: Replies | None = None
    replay: bool = False
    at_once: int = 1
    chunk: int = 32
    ahead: bool = False
    payer: str = ""
    keeps: bool = True
    _begun: dict[str, _Begun[Any]] = field(default_factory=dict, repr=False)

    @cached_property
    def chat(self) -> Chat:
        """The other one, opened when it is first asked."""
        return self.open()

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """See seams.Chat."""
        return self._answers(asks, self._replying())

    def choose(self, asks: Sequence[Ask], options: Sequence[str]) -> list[Choice]:
        """See seams.Chat."""
        return self._answers(asks, self._choosing(options))

    def begin(self, asks: Sequence[Ask], options: Sequence[str] | None = None) -> None:
        """Sends off what is not kept, as one call, to be taken when it is asked for.

        Beside a limit of cost nothing is sent off: each part has to fit under it before it is asked.

        Args:
            asks: what will be asked for.
            options: of `choose`; None is for `reply`.
        """
        if self.ahead and not self.replay and self.bill.limit is None:
            self._begin(asks, self._replying() if options is None else self._choosing(options))

    def _begin(self, asks: Sequence[Ask], kind: _Kind[Any]) -> None:
        missing = {k: a for k, a in ((self._key(a, kind), a) for a in asks) if self._kept(k, kind) is None}
        under_way = [self._begun.get(key) for key in missing]
        if not missing or all(b is not None and b.asks.keys() == missing.keys() for b in under_way):
            return

        # What a model says depends in its last digits on what it reads beside. Of two calls with one question
        # the same one has to answer, whichever came first.
        begun = _Begun(missing, kind.begin(list(missing.values())))
        for key, other in zip(missing, under_way, strict=True):
            if other is None or tuple(missing) < tuple(other.asks):
                self._begun[key] = begun

    def _replying(self) -> _Kind[Reply]:
        ask: Callable[[Sequence[Ask]], list[Reply]] = lambda part: self.chat.reply(part)
        begin = lambda part: cast(ChatAhead, self.chat).begin_reply(part)
        return _Kind(ask, begin, {"reply": self.max_tokens}, self.max_tokens, _reply)

    def _choosing(self, options: Sequence[str]) -> _Kind[Choice]:
        ask: Callable[[Sequence[Ask]], list[Choice]] = lambda part: self.chat.choose(part, options)
        begin = lambda part: cast(ChatAhead, self.chat).begin_choose(part, options)
        return _Kind(ask, begin, {"choose": list(options)}, 1, _choice)

    def _kept(self, key: str, kind: _Kind[R]) -> R | None:
        row = None if self.replies is None else self.replies.get(key)
        return None if row is None else kind.loaded(row)

    def _answers(self, asks: Sequence[Ask], kind: _Kind[R]) -> list[R]:
        keys = [self._key(a, kind) for a in asks]
        kept = {key: self._kept(key, kind) for key in dict.fromkeys(keys)}
        found = {key: reply for key, reply in kept.items() if reply is not None}
        self.bill.kept += len(found)

        # The same question twice is one call.
        missing = {k: a for k, a in zip(keys, asks, strict=True) if k not in found}
        if missing and self.replay:
            path = "" if self.replies is None else str(self.replies.path)
            changed = 0 if self.replies is None else self.replies.changed
            beside = f"; {changed} of its replies were changed since they were kept" if changed else ""
            raise UserError(
                "replay",
                path,
                f"holds no reply to {len(missing)} of {len(asks)} questions; the first is {_shown(missing)}"
                f"{beside}",
                "run without replay once, with the same judge and data",
            )
        found |= self._taken(missing, kind)
        found |= self._paid([pair for pair in missing.items() if pair[0] not in found], kind)
        return [found[k] for k in keys]

    def _taken(self, missing: Mapping[str, Ask], kind: _Kind[R]) -> dict[str, R]:
        """Waits for what is under way of these questions. What was begun and is not asked for stays."""
        calls = dict.fromkeys(call for key in missing if (call := self._begun.get(key)) is not None)
        found: dict[str, R] = {}
        for call in calls:
            own = {key: ask for key, ask in call.asks.items() if self._begun.get(key) is call}
            answers: dict[str, R] = dict(zip(call.asks, call.wait(), strict=True))
            found |= self._part(list(own.items()), replace(kind, ask=_given([answers[key] for key in own])))
        self._begun = {key: call for key, call in self._begun.items() if call not in calls}
        return found

    def _key(self, ask: Ask, kind: _Kind[R]) -> str:
        return key_of(
            {**self.identity, **kind.key, "messages": [dict(m) for m in ask.messages], "note": ask.note}
        )

    def _paid(self, missing: Sequence[tuple[str, Ask]], kind: _Kind[R]) -> dict[str, R]:
        """Asks, in parts that are kept as soon as they are answered."""
        parts = [missing[n : n + self.chunk] for n in range(0, len(missing), self.chunk)]
        if self.at_once == 1:
            return dict(pair for part in parts for pair in self._part(part, kind))
        if parts:
            _ = self.chat  # opened once, before threads ask for it

        # After a failure that concerns all calls, those under way end and are kept; the others never begin.
        pool = ThreadPoolExecutor(self.at_once)
        try:
            jobs = [pool.submit(self._part, part, kind) for part in parts]
            return dict(pair for job in jobs for pair in job.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _part(self, part: Sequence[tuple[str, Ask]], kind: _Kind[R]) -> list[tuple[str, R]]:
        asks = [a for _, a in part]
        most = [Usage(estimated_tokens(a), kind.tokens) for a in asks]
        booked = sum(map(self.rate.of, most))
        self.bill.begin(booked)
        answered: list[R] = []
        try:
            answered = kind.ask(asks)
        finally:
            # What an endpoint counts is owed, also where it sent nothing that can be read. What it does not
            # count is not free: a good reply is estimated.
            told = [r.usage for r in answered]
            uncounted = [not r.problem and r.usage == Usage() for r in answered]
            spent = sum((m if u else t for t, m, u in zip(told, most, uncounted, strict=False)), Usage())
            good = sum(not r.problem for r in answered)
            self.bill.end(booked, good, spent, self.rate.of(spent), sum(uncounted))

        # A failure may pass, and is asked again in the next run.
        pairs = [(key, r) for (key, _), r in zip(part, answered, strict=True)]
        if self.replies is not None and self.keeps:
            kept = [(key, _plain(r)) for key, r in pairs if not r.problem]
            self.replies.put(kept, self.rate.of(spent), self.payer)
        return pairs


def _given(answers: list[R]) -> Callable[[Sequence[Ask]], list[R]]:
    """Asks nobody: the answers are there."""
    return lambda asks: answers


def _shown(missing: Mapping[str, Ask]) -> str:
    """The first question, for a person: its beginning, and its order and repeat."""
    ask = next(iter(missing.values()))
    words = " ".join((ask.title or ask.messages[-1]["content"]).split())
    return f"{words[:SHOWN] + '...' * (len(words) > SHOWN)!r}" + (f" ({ask.note})" if ask.note else "")


def _plain(reply: Reply | Choice) -> dict[str, Any]:
    row = dataclasses.asdict(reply)
    del row["problem"]
    return row


def _reply(row: Mapping[str, Any]) -> Reply:
    return Reply(row["text"], Usage(**row["usage"]), cut=row.get("cut", False))


def _choice(row: Mapping[str, Any]) -> Choice:
    return Choice(tuple(row["options"]), tuple(row["probabilities"]), row["mass"], Usage(**row["usage"]))
