"""A user's Python function as a feedback source: per completion or per batch, plain or async, with a time limit.

    def reward(prompt, completion): ...                       -> float or None; prompt is a Prompt, completion a Completion
    def reward(prompts, completions, **columns): ...          -> list; lists of messages (or text) and of texts, as in TRL
    async def reward(prompt, completion): ...                 -> all completions at once

An exception, a time-out, NaN or a list of the wrong length leaves the completions concerned unscored, with the cause on
record, and the run goes on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kilter.errors import UserError
from kilter.types import Completion, Feedback, Group, Prompt


class FunctionFeedback:
    """FeedbackSource around `function`. `timeout`: seconds for one call (for one completion, in the async form)."""

    def __init__(self, function: Callable[..., Any], name: str, timeout: float = 30.0) -> None:
        if not callable(function):
            raise UserError("feedback", name, "is not a function", "give file.py:function")
        if not timeout > 0:
            raise UserError(f"feedback.{name}.timeout", timeout, "must be above 0", "give seconds, such as 30")
        self.function, self.name, self.timeout = function, name, timeout
        self.batched = "completions" in inspect.signature(function).parameters
        self.asynchronous = inspect.iscoroutinefunction(function)

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        flat = [(g.prompt, c) for g in groups for c in g.completions]
        found = iter(self._batch(flat) if self.batched else self._each(flat))
        return [[next(found) for _ in g.completions] for g in groups]

    def _each(self, flat: Sequence[tuple[Prompt, Completion]]) -> list[Feedback]:
        if self.asynchronous:
            return asyncio.run(self._gather(flat))
        return [self._feedback(*limited_call(functools.partial(self.function, p, c), self.timeout)) for p, c in flat]

    async def _gather(self, flat: Sequence[tuple[Prompt, Completion]]) -> list[Feedback]:
        async def one(prompt: Prompt, completion: Completion) -> Feedback:
            try:
                return self._feedback(await asyncio.wait_for(self.function(prompt, completion), self.timeout), "")
            except TimeoutError:
                return self._feedback(None, f"took longer than {self.timeout:g} s")
            except Exception as error:
                return self._feedback(None, f"raised {type(error).__name__}: {error}")

        return list(await asyncio.gather(*(one(p, c) for p, c in flat)))

    def _batch(self, flat: Sequence[tuple[Prompt, Completion]]) -> list[Feedback]:
        keys = {k for p, _ in flat for k in p.metadata if k.isidentifier()}
        columns: dict[str, Any] = {k: [p.metadata.get(k) for p, _ in flat] for k in keys}
        prompts = [[dict(m) for m in p.messages] or p.text for p, _ in flat]
        texts = [c.text for _, c in flat]

        def run() -> Any:
            result = self.function(prompts=prompts, completions=texts, **columns)
            return asyncio.run(result) if inspect.isawaitable(result) else result  # type: ignore[arg-type]

        value, problem = limited_call(run, self.timeout)
        if not problem and (not isinstance(value, list | tuple) or len(value) != len(flat)):
            length = len(value) if isinstance(value, list | tuple) else type(value).__name__
            problem = f"returned {length} scores for {len(flat)} completions"
        return [self._feedback(None if problem else value[i], problem) for i in range(len(flat))]

    def _feedback(self, value: Any, problem: str) -> Feedback:
        if not problem and value is not None:
            try:
                number = float(value)
            except (TypeError, ValueError):
                number, problem = math.nan, f"returned {value!r}, which is no number"
            if not problem and not math.isfinite(number):
                problem = f"returned {number}"
            if not problem:
                return Feedback(number, "function", source=self.name)
        return Feedback(None, "function", rationale=problem or "returned None", source=self.name)


def limited_call(function: Callable[[], Any], timeout: float) -> tuple[Any, str]:
    """(value, problem). Runs in a daemon thread, so that a call that never ends is left behind and not waited for."""
    box: queue.Queue[tuple[Any, str]] = queue.Queue()

    def run() -> None:
        try:
            box.put((function(), ""))
        except BaseException as error:
            box.put((None, f"raised {type(error).__name__}: {error}"))

    threading.Thread(target=run, daemon=True).start()
    try:
        return box.get(timeout=timeout)
    except queue.Empty:
        return None, f"took longer than {timeout:g} s"
