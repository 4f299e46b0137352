"""A user's Python function as a feedback source, with a time limit.

    def reward(prompt, completion): ...                 -> float or None, of a Prompt and a Completion
    def reward(prompts, completions, **columns): ...    -> list; prompts and texts are lists, as in TRL
    async def reward(prompt, completion): ...           -> all completions at once

An exception, a time-out, NaN or a list of the wrong length leaves the completions concerned unscored,
with the cause on record, and the run goes on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from kilter.errors import UserError
from kilter.feedback.isolation import Target, limited, limited_here, load, too_slow
from kilter.seams import FeedbackSource
from kilter.types import Completion, Feedback, Group, Prompt

LARGEST = 1e18
"""Beyond it the square of a score, and so the spread of a group, overflows float32."""

PATIENCE = 3
"""Time-outs in a row after which the rest of a batch is left unscored, so that a function that hangs costs
minutes a step and not an hour.
"""

Score = tuple[float | None, str]
"""A score, or None and why there is none."""


def read(value: Any) -> Score:
    """Reads a function's result as a plain number, because other objects may not leave the worker."""
    if value is None:
        return None, "returned None"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None, f"returned {repr(value)[:80]}, which is no number to compute with"
    if not math.isfinite(number):
        return None, f"returned {number}"
    return (
        (number, "")
        if abs(number) <= LARGEST
        else (None, f"returned {number:g}, which is too large to compute with")
    )


def read_all(values: Any, count: int) -> tuple[list[Score], str]:
    """(a score per completion, "") or ([], problem) of what a function returned for a batch."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list | tuple) or len(values) != count:
        found = len(values) if isinstance(values, list | tuple) else type(values).__name__
        return [], f"returned {found} scores for {count} completions"
    return [read(v) for v in values], ""


def call_one(target: Target, prompt: Prompt, completion: Completion) -> Score:
    """In the worker: the function on one completion."""
    return read(target.resolve()(prompt, completion))


def call_batch(
    target: Target, prompts: list[Any], completions: list[str], columns: dict[str, Any]
) -> tuple[list[Score], str]:
    """In the worker: the function on a whole batch, awaited where it is asynchronous."""
    return read_all(
        _awaited(target.resolve()(prompts=prompts, completions=completions, **columns)), len(completions)
    )


def call_all(target: Target, flat: list[tuple[Prompt, Completion]], timeout: float) -> list[Score]:
    """In the worker: an asynchronous function on all completions at once, each with its own time limit."""
    return _all(target.resolve(), flat, timeout)


def _awaited(result: Any) -> Any:
    return asyncio.run(result) if inspect.isawaitable(result) else result  # type: ignore[arg-type]


def _all(
    function: Callable[..., Any], flat: Sequence[tuple[Prompt, Completion]], timeout: float
) -> list[Score]:
    async def one(prompt: Prompt, completion: Completion) -> Score:
        try:
            return read(await asyncio.wait_for(function(prompt, completion), timeout))
        except TimeoutError:
            return None, too_slow(timeout)
        except BaseException as error:
            return None, f"raised {type(error).__name__}: {error}"

    async def gather() -> list[Score]:
        return list(await asyncio.gather(*(one(p, c) for p, c in flat)))

    return asyncio.run(gather())


class FunctionFeedback(FeedbackSource):
    """FeedbackSource around `function`.

    `timeout`: seconds for one call (for one completion, in the async form).

    The function runs in a worker process, which is killed when the time is up; its module is imported there.
    """

    def __init__(self, function: Callable[..., Any], name: str, timeout: float = 30.0) -> None:
        if not callable(function):
            raise UserError("feedback", name, "is not a function", "give file.py:function")
        if not timeout > 0:
            raise UserError(
                f"feedback.{name}.timeout", timeout, "must be above 0", "give seconds, such as 30"
            )
        self.function, self.name, self.timeout = function, name, timeout
        self.target = Target.of(function)
        self.batched = "completions" in inspect.signature(function).parameters
        self.asynchronous = inspect.iscoroutinefunction(function)

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        flat = [(g.prompt, c) for g in groups for c in g.completions]
        found = iter(
            self._batch(flat)
            if self.batched
            else self._together(flat)
            if self.asynchronous
            else self._each(flat)
        )
        return [[next(found) for _ in g.completions] for g in groups]

    def _each(self, flat: Sequence[tuple[Prompt, Completion]]) -> list[Feedback]:
        found: list[Feedback] = []
        slow = 0
        for p, c in flat:
            if slow == PATIENCE:
                found.append(
                    self._feedback(
                        (
                            None,
                            f"not called: the {PATIENCE} calls before it took longer "
                            f"than {self.timeout:g} s each",
                        )
                    )
                )
                continue
            if self.target is None:
                judge = lambda p=p, c=c: read(self.function(p, c))
                score, problem = limited_here(judge, self.timeout)
            else:
                score, problem = limited(
                    call_one,
                    self.target,
                    p,
                    c,
                    timeout=self.timeout,
                    prepare=functools.partial(load, self.target),
                )
            slow = slow + 1 if problem == too_slow(self.timeout) else 0
            found.append(self._feedback((None, problem) if problem else score))
        return found

    def _together(self, flat: Sequence[tuple[Prompt, Completion]]) -> list[Feedback]:
        # One that blocks the event loop stops all of them: the whole has a limit too.
        whole = self.timeout * 2 + 5
        if self.target is None:
            found, problem = limited_here(functools.partial(_all, self.function, flat, self.timeout), whole)
        else:
            found, problem = limited(
                call_all,
                self.target,
                list(flat),
                self.timeout,
                timeout=whole,
                prepare=functools.partial(load, self.target),
            )
        return [self._feedback((None, problem) if problem else found[i]) for i in range(len(flat))]

    def _batch(self, flat: Sequence[tuple[Prompt, Completion]]) -> list[Feedback]:
        keys = {k for p, _ in flat for k in p.metadata if k.isidentifier()}
        columns: dict[str, Any] = {k: [p.metadata.get(k) for p, _ in flat] for k in keys}
        prompts = [[dict(m) for m in p.messages] or p.text for p, _ in flat]
        texts = [c.text for _, c in flat]
        if self.target is None:
            call = lambda: read_all(
                _awaited(self.function(prompts=prompts, completions=texts, **columns)), len(texts)
            )
            answer, problem = limited_here(call, self.timeout)
        else:
            answer, problem = limited(
                call_batch,
                self.target,
                prompts,
                texts,
                columns,
                timeout=self.timeout,
                prepare=functools.partial(load, self.target),
            )
        scores, problem = ([], problem) if problem else answer
        return [self._feedback((None, problem) if problem else scores[i]) for i in range(len(flat))]

    def _feedback(self, score: Score) -> Feedback:
        return Feedback(score[0], "function", rationale=score[1], source=self.name)
