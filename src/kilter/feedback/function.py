"""A user's Python function as a feedback source, with a time limit.

    def reward(prompt, completion): ...                 -> float or None, of a Prompt and a Completion
    def reward(prompts, completions, **columns): ...    -> list; as TRL calls it
    async def reward(prompt, completion): ...           -> all completions at once

An exception, a time-out, NaN or a list of the wrong length leaves the completions concerned unscored,
with the cause on record, and the run goes on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.errors import UserError
from kilter.feedback.context import Context, require_columns
from kilter.feedback.isolation import Patience, Target, limited, limited_here, load, too_slow
from kilter.seams import FeedbackSource
from kilter.types import PLAIN, Completion, Feedback, Group, Prompt

LARGEST = 1e18
"""Beyond it the square of a score, and so the spread of a group, overflows float32."""

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


@dataclass(frozen=True)
class Call:
    """What a function of a batch is given, as TRL gives it.

    Args:
        prompts: texts, or lists of turns where the user's prompts are conversations.
        completions: texts, or lists of turns beside such prompts.
        ids: tokens of each completion.
        columns: the user's other columns, a value per completion.
    """

    prompts: list[Any]
    completions: list[Any]
    ids: list[list[int]]
    columns: dict[str, list[Any]]

    @classmethod
    def of(cls, flat: Sequence[tuple[Prompt, Completion]]) -> Call:
        """The call for these answers."""
        names = list(dict.fromkeys(name for p, _ in flat for name in columns_of(p)))
        every = [columns_of(p) for p, _ in flat]
        return cls(
            [_prompt_form(p) for p, _ in flat],
            [_completion_form(p, c) for p, c in flat],
            [list(c.token_ids or ()) for _, c in flat],
            {name: [own.get(name) for own in every] for name in names},
        )

    def arguments(self, function: Callable[..., Any]) -> dict[str, Any]:
        """What the function takes of it."""
        given = {"prompts": self.prompts, "completions": self.completions, "completion_ids": self.ids}
        known = _signature(function).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            return {k: v for k, v in (self.columns | given).items() if k in known}
        return self.columns | given


GIVEN = ("prompts", "completions", "completion_ids")
"""What every function of a batch can take beside the columns."""

OWN = ("prompt", "prompts", "completion", "completions", "completion_ids")
"""Names that are no columns: TRL gives something else under them, or nothing."""


def columns_of(prompt: Prompt) -> dict[str, Any]:
    """The user's columns of a row, and what Kilter knows of its prompt under a name that can be a parameter.

    A column of the user's own stands before a note of the same name.
    """
    known = {k: v for k, v in prompt.metadata.items() if k.isidentifier()}
    return {k: v for k, v in {**known, **prompt.columns}.items() if k not in OWN}


def _is_plain(prompt: Prompt) -> bool:
    """Whether the user's prompt is text and not a conversation."""
    return prompt.text is not None or bool(prompt.metadata.get(PLAIN))


def _prompt_form(prompt: Prompt) -> Any:
    if not _is_plain(prompt):
        return [dict(m) for m in prompt.messages]
    return prompt.text if prompt.text is not None else prompt.messages[-1]["content"]


def _completion_form(prompt: Prompt, completion: Completion) -> Any:
    if _is_plain(prompt):
        return completion.text
    return [dict(m) for m in completion.turns] or [{"role": "assistant", "content": completion.text}]


def call_batch(target: Target, call: Call) -> tuple[list[Score], str]:
    """In the worker: the function on a whole batch, awaited where it is asynchronous."""
    function = target.resolve()
    return read_all(_awaited(function(**call.arguments(function))), len(call.completions))


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


def takes_batch(function: Callable[..., Any]) -> bool:
    """Whether a function takes whole batches by name, as TRL calls it, and not one answer after the other."""
    known = _signature(function).parameters.values()
    by_name = any(p.kind is p.VAR_KEYWORD for p in known)
    positional = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in known)
    return any(p.name in GIVEN for p in known) or (by_name and not positional)


def check_form(function: Callable[..., Any], name: str) -> None:
    """Raises UserError for a function that no call of Kilter's can reach.

    Which columns there are is not known yet, so a parameter of another name may be one of them.
    """
    problem = _batch_problem(function) if takes_batch(function) else _single_problem(function)
    if problem:
        raise UserError(
            f"feedback.{name}",
            f"def {getattr(function, '__name__', name)}{_signature(function)}",
            problem,
            "write `def reward(prompt, completion)` for one answer, "
            "or `def reward(prompts, completions, **columns)` for all of a step",
        )


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters; functions written in C that do not tell theirs count as taking anything in order."""
    try:
        return inspect.signature(function)
    except ValueError:
        return inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)])


def _batch_problem(function: Callable[..., Any]) -> str:
    if inspect.isgeneratorfunction(function):
        return "yields its scores, and a list of them is needed"
    for p in _signature(function).parameters.values():
        if p.kind is p.POSITIONAL_ONLY:
            return f"takes {p.name} by its place alone, and a batch is given by name"
        if p.name in OWN and p.name not in GIVEN and p.default is p.empty:
            return f"takes {p.name} for one answer beside names for all of them"
    return ""


def _single_problem(function: Callable[..., Any]) -> str:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "yields its score, and has to return it"
    signature = _signature(function)
    try:
        taken = signature.bind("prompt", "completion").arguments
    except TypeError as error:
        return f"cannot be called with a prompt and a completion: {error}"
    if taken.get("completion") == "prompt" or taken.get("prompt") == "completion":
        return "takes the completion first, and is given the prompt first"
    return ""


def check_timeout(seconds: float, field: str) -> None:
    """Raises UserError for a time that no call could take. `field`: the source, for messages."""
    if not 0 < seconds < math.inf:
        raise UserError(f"{field}.timeout", seconds, "must be above 0 and finite", "give seconds, such as 30")


class FunctionFeedback(FeedbackSource):
    """FeedbackSource around `function`.

    `timeout`: seconds for one call (for one completion, in the async form).

    The function runs in a worker process, which is killed when the time is up; its module is imported there.
    """

    fits = False

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        timeout: float = 30.0,
        context: Context | None = None,
    ) -> None:
        if not callable(function):
            raise UserError("feedback", name, "is not a function", "give file.py:function")
        check_timeout(timeout, f"feedback.{name}")
        self.function, self.name, self.timeout = function, name, timeout
        self.target = Target.of(function)
        check_form(function, name)
        self.batched = takes_batch(function)
        # An object is asynchronous by its method.
        called: Any = type(function).__call__
        self.asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
        if context is not None:
            needed = self.needs({"function": function})
            require_columns(needed, (g.prompt for g in context.known), f"feedback.{name}")

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """Parameters without a default that are no part of every call."""
        function = options["function"]
        known = _signature(function).parameters.values() if takes_batch(function) else ()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return [p.name for p in known if p.default is p.empty and p.kind in kinds and p.name not in GIVEN]

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
        patience = Patience()
        calls = (patience.call(functools.partial(self._one, p, c)) for p, c in flat)
        return [self._feedback((None, problem) if problem else score) for score, problem in calls]

    def _one(self, prompt: Prompt, completion: Completion) -> tuple[Any, str]:
        if self.target is None:
            return limited_here(lambda: read(self.function(prompt, completion)), self.timeout)
        prepare = functools.partial(load, self.target)
        return limited(call_one, self.target, prompt, completion, timeout=self.timeout, prepare=prepare)

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
        call = Call.of(flat)
        if self.target is None:
            here = lambda: read_all(_awaited(self.function(**call.arguments(self.function))), len(flat))
            answer, problem = limited_here(here, self.timeout)
        else:
            answer, problem = limited(
                call_batch,
                self.target,
                call,
                timeout=self.timeout,
                prepare=functools.partial(load, self.target),
            )
        scores, problem = ([], problem) if problem else answer
        return [self._feedback((None, problem) if problem else scores[i]) for i in range(len(flat))]

    def _feedback(self, score: Score) -> Feedback:
        return Feedback(score[0], "function", rationale=score[1], source=self.name)
