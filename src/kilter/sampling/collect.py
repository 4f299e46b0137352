"""From a sampler's stream to lists in order: every completion where it belongs, every problem by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from kilter.errors import RunFailed
from kilter.progress import NOBODY
from kilter.seams import Begins, Listener, Sampler
from kilter.types import Completion, Prompt, Request, Sample, SamplingParams, Usage

NO_ANSWER = "the sampler ended without an answer"


@dataclass
class Collected:
    """What became of some requests. samples[n][i]: sample i of request n, None where none came."""

    requests: Sequence[Request]
    samples: list[list[Sample | None]]
    usage: Usage = field(default_factory=Usage)

    @property
    def completions(self) -> list[list[Completion | None]]:
        """[request][sample], None where it failed."""
        return [[None if s is None else s.completion for s in row] for row in self.samples]

    @property
    def made(self) -> list[list[Completion]]:
        """[request], those that did not fail."""
        return [[c for c in row if c is not None] for row in self.completions]

    @property
    def prompt_ids(self) -> list[tuple[int, ...]]:
        """[request], the prompt's tokens as the sampler read them; empty if all its samples failed."""
        return [row[0].prompt_ids if row else () for row in self.made]

    @property
    def problems(self) -> list[str]:
        """One line per sample that failed."""
        # In the order of the requests, not of arrival: the same failures read the same in every run.
        return [p for row in self.problems_by_request() for p in row if p]

    def problems_by_request(self) -> list[list[str]]:
        """[request][sample], empty where there is none."""
        return [
            ["" if i in request.skip else _problem(s) for i, s in enumerate(row)]
            for request, row in zip(self.requests, self.samples, strict=True)
        ]

    def summary(self) -> str:
        """How many failed and why, for a person; empty where none did."""
        total = sum(len(r.wanted) for r in self.requests)
        return f"{len(self.problems)} of {total} answers failed: {self.problems[0]}" if self.problems else ""


def requests(
    prompts: Sequence[Prompt],
    k: int,
    params: SamplingParams | Sequence[SamplingParams],
    ids: Sequence[tuple[int, ...]] = (),
    skip: Sequence[tuple[int, ...]] = (),
) -> list[Request]:
    """One request per prompt, numbered.

    Args:
        k: completions of each.
        params: for all, or one per prompt.
        ids: tokens of the prompts, where an earlier call has brought them (`Collected.prompt_ids`).
        skip: per prompt, numbers of the samples that an earlier run has made.
    """
    # Numbers rather than the prompts' own ids: two rows of a data set may share one.
    own = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    none: list[tuple[int, ...]] = [()] * len(prompts)
    return [
        Request(str(n), p, k, o, prompt_ids=i, skip=s)
        for n, (p, o, i, s) in enumerate(zip(prompts, own, ids or none, skip or none, strict=True))
    ]


@dataclass(frozen=True, eq=False)
class Underway:
    """Requests that a sampler was given. begun: what its `begin` gave; None if it answers while one waits."""

    sampler: Sampler
    requests: Sequence[Request]
    begun: Any = None

    def knowing(self, ids: Sequence[tuple[int, ...]]) -> Underway:
        """With the tokens of the prompts, so that they are not made again; too late for what is begun."""
        if self.begun is not None:
            return self
        known = [replace(r, prompt_ids=i) for r, i in zip(self.requests, ids, strict=True)]
        return replace(self, requests=known)


def begin(sampler: Sampler, wanted: Sequence[Request]) -> Underway:
    """Sends the requests off, where the sampler can answer while its caller goes on."""
    begun = cast(Begins, sampler).begin(_told(sampler, wanted)) if sampler.facts.begins else None
    return Underway(sampler, wanted, begun)


def _told(sampler: Sampler, wanted: Sequence[Request]) -> Sequence[Request]:
    """The requests that a sampler is given. Some want nothing, and tell only what others count on."""
    return wanted if sampler.facts.skips else [r for r in wanted if r.wanted]


def collect(sampler: Sampler, wanted: Sequence[Request], listener: Listener = NOBODY) -> Collected:
    """Runs the requests to their end. Ids must be distinct."""
    return finish(begin(sampler, wanted), listener)


Arrived = Callable[[int, list[Completion]], None]
"""Takes the completions of a request by its number, once all that it wants have ended."""

Came = Callable[[int, Sample], None]
"""Takes each sample as it ends, with the number of its request."""


def finish(
    underway: Underway,
    listener: Listener = NOBODY,
    arrived: Arrived = lambda number, made: None,
    came: Came = lambda number, sample: None,
) -> Collected:
    """Waits for the end of what was begun. The ids of its requests must be distinct."""
    wanted, sampler = underway.requests, underway.sampler
    # Samples arrive as they finish; the id alone says which request each belongs to.
    rows: dict[str, list[Sample | None]] = {r.id: [None] * r.k for r in wanted}
    assert len(rows) == len(wanted), "two requests share an id"
    found = Collected(wanted, [rows[r.id] for r in wanted])
    samples = (
        sampler.run(_told(sampler, wanted), listener)
        if underway.begun is None
        else cast(Begins, sampler).finish(underway.begun, listener)
    )
    place, left = {r.id: n for n, r in enumerate(wanted)}, {r.id: r.wanted for r in wanted}
    for sample in as_asked(samples, sampler, wanted):
        row = rows[sample.request.id]
        row[sample.index] = sample
        found.usage += sample.usage
        came(place[sample.request.id], sample)
        if all(row[i] is not None for i in left[sample.request.id]):
            arrived(place[sample.request.id], [s.completion for s in row if s and s.completion is not None])
    return found


def as_asked(samples: Iterable[Sample], sampler: Sampler, wanted: Sequence[Request]) -> Iterator[Sample]:
    """Samples as they come. A sampler of the user's own may give others than those that it was asked for.

    It may know nothing of samples that are skipped, and make them too: they are left out here.

    Raises:
        RunFailed: nobody asked for a sample, or it came before; what came first may be on disk already.
    """
    sizes, came = {r.id: r.k for r in wanted}, set[tuple[str, int]]()
    skipped = {(r.id, i) for r in wanted for i in r.skip}
    for sample in _given(samples, sampler):
        named, index = sample.request.id, sample.index
        wrong = ""
        if named not in sizes:
            wrong = f"it gave a sample of request {named!r}, which nobody asked for"
        elif not isinstance(index, int) or not 0 <= index < sizes[named]:
            wrong = f"it gave sample {index} of request {named}, whose last is {sizes[named] - 1}"
        elif (named, index) in came:
            wrong = f"it gave sample {index} of request {named} twice"
        if wrong:
            raise _wrong(sampler, wrong)
        came.add((named, index))
        if (named, index) not in skipped:
            yield sample


def _given(samples: Any, sampler: Sampler) -> Iterator[Sample]:
    """Samples whose parts are of their types, whatever a sampler of the user's own gives."""
    if not isinstance(samples, Iterable):
        raise _wrong(sampler, f"its `run` gave a {type(samples).__name__}, and no samples")
    for sample in samples:
        if not (isinstance(sample, Sample) and isinstance(sample.request, Request)):
            raise _wrong(sampler, f"it gave a {type(sample).__name__} where a sample of a request belongs")
        made = sample.completion
        if made is not None and not isinstance(made, Completion):
            raise _wrong(sampler, f"it gave a {type(made).__name__} where a Completion belongs")
        if made is not None and not isinstance(made.text, str):
            raise _wrong(sampler, f"it gave a completion whose text is a {type(made.text).__name__}")
        if not isinstance(sample.usage, Usage):
            raise _wrong(sampler, f"it gave a {type(sample.usage).__name__} where Usage belongs")
        counts = (sample.usage.prompt_tokens, sample.usage.tokens)
        if any(type(count) is not int or count < 0 for count in counts):
            raise _wrong(sampler, f"it gave {counts} as counts of tokens")
        yield sample


def _wrong(sampler: Sampler, what: str) -> RunFailed:
    problem = f"The sampler {type(sampler).__name__} is wrong: {what}."
    return RunFailed(problem, "make it yield each sample of its requests once, from index 0 on")


def answers(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    k: int,
    params: SamplingParams | Sequence[SamplingParams],
    listener: Listener = NOBODY,
) -> list[list[Completion]]:
    """k completions of each prompt, for those who cannot do without any.

    Raises:
        RunFailed: a completion could not be made; names the first problem.
    """
    found = collect(sampler, requests(prompts, k, params), listener)
    if found.problems:
        raise RunFailed(found.summary(), "mend or leave out this prompt")
    return found.made


def _problem(sample: Sample | None) -> str:
    # A sampler of the user's own may forget a sample, or fail one without a reason.
    if sample is None:
        return NO_ANSWER
    return sample.problem or NO_ANSWER if sample.completion is None else ""
