"""generate: a model answers prompts, k times each; every row says where it came from."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from rich.text import Text

from kilter.artifacts import read_lines, remove
from kilter.data.lineage import row_id, with_entry
from kilter.errors import RunFailed, UserError
from kilter.options import DATA, MODEL, SAMPLING
from kilter.refs import BaseRef, DataRef, Found, TemplateRef
from kilter.release.section import Section
from kilter.sampling.config import FOLLOWS, NAMES_MODEL, READS, SamplerKind, greedy, idle_fields
from kilter.screen import many, styled
from kilter.stages.door import Door
from kilter.stages.failures import FAILURES, Failures
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import ARTIFACT, Outcome, StagePlan, StageSpec
from kilter.stages.refs import references
from kilter.stages.registry import stage
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams
from kilter.validation import refuse_idle

if TYPE_CHECKING:
    from kilter.sampling.samples import Samples

CHUNK = 64
"""Answers that are asked for at once; after each chunk, what is there is on disk."""

SAMPLES = "samples.jsonl"
"""Answers to prompts of which others are still to come; in the folder as long as it is under way."""


class AnswerSpec(SamplerKind):
    """Who samples the answers, and how."""

    max_new_tokens: int = Field(128, ge=1, description="tokens of an answer")
    temperature: float = Field(1.0, ge=0, description="1: the model itself; 0: greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus")
    top_k: int = Field(0, ge=0, description="0: off")
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="strings that end an answer"
    )

    @property
    def own(self) -> bool:
        """Whether it is the user's; nobody but itself knows if it wants a model."""
        return self.name not in READS

    @property
    def opens(self) -> bool:
        """Whether it samples from weights that are opened here; an endpoint or a script has none."""
        return self.name in FOLLOWS or self.own


class GenerateSpec(StageSpec):
    """A model answers the prompts of a data set."""

    model: Annotated[BaseRef, MODEL] = Field(
        None, description="stage or model that answers; default: the recipe's model"
    )
    data: Annotated[DataRef, DATA] = Field(
        "$data", description="$name of the data set whose prompts are asked"
    )
    split: Annotated[Literal["train", "heldout", "all"], DATA] = Field(
        "train", description="which of its prompts are asked: those for training, those held out, or all"
    )
    part: Annotated[str | None, DATA] = Field(
        None, pattern=r"^[1-9]\d*/[1-9]\d*$", description="ask only this part of the prompts, such as 1/3"
    )
    limit: Annotated[int | None, DATA] = Field(None, ge=1, description="ask only the first N of them")
    k: Annotated[int, SAMPLING] = Field(4, ge=1, description="answers per prompt")
    sampler: Annotated[AnswerSpec, SAMPLING] = Field(
        default_factory=lambda: AnswerSpec(), description="who samples, and how"
    )
    seed: Annotated[int, SAMPLING] = Field(0, ge=0, lt=2**32, description="same seed, same answers")
    max_length: Annotated[int | None, DATA] = Field(
        1024,
        ge=8,
        description="tokens of prompt plus answer; prompts lose their beginning; null: none is cut",
    )
    template: Annotated[TemplateRef, DATA] = Field(
        "auto", description="chat template, a .jinja file among them"
    )
    dtype: Annotated[Literal["float32", "bfloat16"], MODEL] = Field(
        "float32", description="precision of sampling"
    )

    def params(self) -> SamplingParams:
        """How each answer is sampled."""
        s = self.sampler
        return SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, tuple(s.stop), self.seed)


@stage("generate")
class Generate(StageKind[GenerateSpec]):
    """Appends to groups.jsonl; after a kill it asks only for the samples that are not there yet."""

    Spec = GenerateSpec
    makes = "data"
    door = Door(
        "Sample answers to prompts, several to each, into a data set. Run it again to go on.\n\n"
        "`kilter label` scores them, and `kilter train` learns from the labels.",
        (
            "kilter generate --model runs/sft --data prompts.jsonl --k 4",
            "kilter generate --data builtin:support-desk --limit 50 --sampler.temperature 0.7",
            "kilter generate --model runs/sft --data prompts.jsonl --part 1/3 --out runs/answers",
        ),
        often=("k", "sampler", "sampler__temperature", "sampler__max_new_tokens", "seed"),
    )

    def reads(self, spec: GenerateSpec) -> list[Found]:
        """An endpoint or a script opens no model, and a sampler of one's own perhaps not the recipe's."""
        reads = spec.sampler.opens and not _unsure(spec)
        return [f for f in references(spec) if f.field != "model" or reads]

    def one_shape(self, spec: GenerateSpec) -> bool:
        """Nothing else is read."""
        return True

    def inputs(self, spec: GenerateSpec, work: Workspace) -> dict[str, str]:
        """The recipe's model where a sampler of one's own may open it."""
        return {f"model:{work.base}": _weights(spec, work)[1]} if _unsure(spec) else {}

    def check(self, spec: GenerateSpec, work: Workspace) -> None:
        """Every setting has an effect, and there is room for a prompt."""
        _check_sampler(spec, work)
        if spec.k > 1 and spec.sampler.temperature == 0:
            raise UserError(
                work.where("k"),
                spec.k,
                "gives the same greedy answer each time",
                "set k: 1, or a temperature",
            )
        new = spec.sampler.max_new_tokens
        room = None if spec.max_length is None else spec.max_length - new
        if room is not None and room < 16:
            raise UserError(
                work.where("max_length"),
                spec.max_length,
                f"leaves {max(0, room)} tokens for prompts beside {new} of the answer",
                "raise max_length, or lower sampler.max_new_tokens",
            )
        if spec.part is not None and _part(spec.part)[0] > _part(spec.part)[1]:
            raise UserError(
                work.where("part"), spec.part, "is beyond the last part", "write 1/3, 2/3 or 3/3, for example"
            )

    def answers(self, spec: GenerateSpec) -> tuple[str, int] | None:
        """Those of a model that is opened here."""
        return ("sampler.max_new_tokens", spec.sampler.max_new_tokens) if spec.sampler.opens else None

    def preflight(self, spec: GenerateSpec, work: Workspace) -> None:
        """Refuses data that has no prompts to answer."""
        if work.ready(spec.data) and not _prompts(spec, work):
            raise UserError(
                work.where("split"),
                spec.split,
                "leaves no prompts to ask",
                "choose another split, or more data",
            )

    def plan(self, spec: GenerateSpec, work: Workspace) -> StagePlan:
        """Prompts, and the tokens of answers: as long as the data's own, else half as long as they may be."""
        from kilter.sampling.build import refuse_unready

        refuse_unready(spec.sampler, work.where("sampler"), [""])
        what = f"{_who(spec, work)} answers {spec.data}, {spec.k} each"
        if not work.ready(spec.data):
            return StagePlan(what)
        prompts, most = _prompts(spec, work), spec.sampler.max_new_tokens
        if not spec.sampler.opens:
            return StagePlan(what, len(prompts), len(prompts) * spec.k * most)

        from kilter.roles.open import OpenSpec, open_encoder
        from kilter.training.estimate import Answered, answering_seconds, lengths

        # Answers to one prompt share it.
        encoder = open_encoder(OpenSpec(work.model(None), template=spec.template, max_length=spec.max_length))
        prompt, answer = lengths(encoder, prompts, work.answered(spec.data), most)
        tokens = Answered(len(prompts) * prompt, len(prompts) * spec.k * answer)
        seconds = answering_seconds(work.model(None), tokens, spec.dtype)
        return StagePlan(what, len(prompts), round(tokens.written), seconds=round(seconds))

    def run(self, spec: GenerateSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes groups.jsonl, and failures.jsonl for answers that could not be made."""
        from kilter.data import store
        from kilter.data.dataset import prompt_key
        from kilter.sampling.samples import Samples

        path = folder / ARTIFACT["data"]
        prompts = _prompts(spec, work)
        there = {prompt_key(g.prompt) for g in store.read(path)}
        todo = [p for p in prompts if prompt_key(p) not in there]
        finished, failures = Samples(folder / SAMPLES, there), Failures(folder / FAILURES, there)
        if todo and (there or finished.count(todo, spec.k)):
            n = finished.count(todo, spec.k)
            further = f", and {n} of the other prompts' samples are there" if n else ""
            work.console.print(f"  {len(there)} of {len(prompts)} prompts are answered already{further}")

        # A prompt without any answer has no row: a killed run that goes on asks it again.
        if todo:
            _answer(spec, work, prompts, there, path, finished, failures)
        remove(folder / SAMPLES)
        groups = in_order(path, prompts)
        facts = _facts(groups, failures.order(prompts))
        if not groups:
            raise RunFailed(_failed(facts), "correct the request or the sampler that this reason names")
        return Outcome(facts)

    def begun(self, folder: Path) -> bool:
        """Answers alone: what failed is asked anew, by whatever mends it."""
        files = (folder / ARTIFACT["data"], folder / SAMPLES)
        return any(file.exists() and file.stat().st_size > 0 for file in files)

    def summary(self, facts: Mapping[str, Any]) -> Sequence[str | Text]:
        """How many answers failed and why; failures.jsonl has every one."""
        return [styled("[yellow]{}[/]", _failed(facts))] if facts["failed"] else []

    def section(self, folder: Path) -> Section | None:
        """Counts, and the answers to the first prompts."""
        from kilter.data import store

        groups = list(store.read(folder / ARTIFACT["data"]))
        if not groups:
            return None
        facts = _facts(groups, list(read_lines(folder / FAILURES)))
        length = "" if facts["mean_length"] is None else f", {facts['mean_length']} tokens on average"
        lead = f"{many(facts['answers'], 'answers')} to {many(facts['rows'], 'prompts')}{length}: "
        lead += f"{facts['distinct']} distinct, {facts['truncated']} cut at the limit, "
        lead += f"{facts['failed']} failed."
        rows = [(shown(g.prompt), c.text[:600]) for g in groups[:3] for c in g.completions[:2]]
        return Section("Answers", lead, "warn" if facts["failed"] else "", ("Prompt", "Answer"), rows)


def _check_sampler(spec: GenerateSpec, work: Workspace) -> None:
    """The sampler reads all that is set for it; one that opens no model is not given one."""
    from kilter.sampling.build import check_sampler

    idle = [*idle_fields(spec.sampler), *greedy(spec.sampler.temperature)]
    refuse_idle(spec.sampler, f"{work.where('sampler')}.", idle)
    check_sampler(spec.sampler, work.where("sampler"))
    if not spec.sampler.opens:
        why = f"sampler {spec.sampler.name} opens no model"
        refuse_idle(spec, work.where(), [("model", why, "set sampler.model, or leave it out")])
        if NAMES_MODEL.get(spec.sampler.name) == "model" and spec.sampler.model is None:
            fix = "give the endpoint's name of the model; on the command line --model NAME says it too"
            raise UserError(work.where("sampler.model"), "(absent)", "is required by an endpoint", fix)


def _answer(
    spec: GenerateSpec,
    work: Workspace,
    prompts: Sequence[Prompt],
    there: Collection[str],
    path: Path,
    finished: Samples,
    failures: Failures,
) -> None:
    """Asks the prompts in chunks. Appends rows as they come, each after the failures of its prompt."""
    from kilter.data import store
    from kilter.data.dataset import prompt_key
    from kilter.progress import Display, OnDisplay
    from kilter.roles.open import OpenSpec
    from kilter.roles.sampler import open_sampler
    from kilter.sampling.samples import Asking

    model, content = _weights(spec, work)
    opening = OpenSpec(
        model,
        dtype=spec.dtype,
        template=spec.template,
        max_length=spec.max_length,
        max_prompt=None if spec.max_length is None else spec.max_length - spec.sampler.max_new_tokens,
    )
    entry = {
        "stage": work.name,
        "kind": "generate",
        "model": _who(spec, work),
        "model_hash": content[:16],
        **({"descent": parents} if (parents := _parents(model, content)) else {}),
        "sampling": asdict(spec.params()) | {"sampler": spec.sampler.name},
    }
    size = max(1, CHUNK // spec.k)
    with (
        contextlib.closing(open_sampler(spec.sampler, opening, work.where("sampler"))) as sampler,
        Display(work.console, f"{work.name}: answers", len(prompts) * spec.k) as display,
    ):
        asking = Asking(sampler, spec.k, spec.params(), finished)
        # In the same chunks whatever is there: samples of one call are numbered together.
        for first in range(0, len(prompts), size):
            part = prompts[first : first + size]
            done = [n for n, prompt in enumerate(part) if prompt_key(prompt) in there]
            if len(done) == len(part):
                continue

            def ended(
                n: int,
                made: Mapping[int, Completion],
                failed: Mapping[int, str],
                part: Sequence[Prompt] = part,
            ) -> None:
                failures.add(part[n], failed)
                store.append(path, [_group(part[n], tuple(made.values()), entry)] if made else [])

            asking(part, done, OnDisplay(display, first * spec.k), ended)
            finished.end(part)


def in_order(path: Path, prompts: Sequence[Prompt], done: int = 0) -> list[Group]:
    """The rows of a file in the order of their prompts: that in which they came is chance.

    Args:
        path: file of rows, one for a prompt.
        prompts: those that were asked.
        done: rows at its beginning that stay where they are.
    """
    from kilter.data import store
    from kilter.data.dataset import prompt_key

    found, place = list(store.read(path)), {prompt_key(prompt): n for n, prompt in enumerate(prompts)}
    ordered = [
        *found[:done],
        *sorted(found[done:], key=lambda group: place.get(prompt_key(group.prompt), len(place))),
    ]
    if ordered != found:
        store.write(path, ordered)
    return ordered


def _unsure(spec: GenerateSpec) -> bool:
    """Whether nobody named a model and the sampler is the user's, which may do without one."""
    return spec.sampler.own and spec.model is None


def _weights(spec: GenerateSpec, work: Workspace) -> tuple[Path | str, str]:
    """(the model that the sampler may open, its hash), the hash empty where there are no weights."""
    from kilter.models.fingerprint import model_hash

    if not spec.sampler.opens:
        return spec.sampler.model or "", ""
    try:
        folder = work.model(spec.model)
    except UserError:
        # A sampler that does open it gets this very error then.
        if _unsure(spec):
            return work.base, ""
        raise
    return folder, model_hash(folder)


def _parents(model: Path | str, content: str) -> list[str]:
    """Hashes of the models that the one which answers began as; none where it opens no weights."""
    from kilter.models.descent import descent

    return descent(Path(model))[1:] if content else []


def _group(prompt: Prompt, answers: Sequence[Completion], entry: Mapping[str, Any]) -> Group:
    """A row, with this stage in its history; nobody has scored it."""
    asked = with_entry(prompt, {**entry, "row": row_id(prompt)})
    return Group(asked, tuple(answers), (Feedback(None),) * len(answers))


def shown(prompt: Prompt) -> str:
    """The end of a prompt, for a person."""
    return (prompt.messages[-1]["content"] if prompt.messages else prompt.text or "")[-300:]


def _facts(groups: Sequence[Group], failures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rows on disk amount to, whichever run made them."""
    answers = [c for g in groups for c in g.completions]
    lengths = [len(c.token_ids) for c in answers if c.token_ids is not None]
    return {
        "rows": len(groups),
        "answers": len(answers),
        "mean_length": round(statistics.fmean(lengths), 1) if lengths else None,
        "truncated": sum(c.finish_reason == "length" for c in answers),
        "distinct": sum(len({c.text for c in g.completions}) for g in groups),
        "failed": len(failures),
        "problems": dict(Counter(f["problem"] for f in failures).most_common(5)),
    }


def _failed(facts: Mapping[str, Any]) -> str:
    """How many answers failed, and the most frequent reason."""
    total = facts["answers"] + facts["failed"]
    return f"{facts['failed']} of {total} answers failed: {next(iter(facts['problems']))}"


def _prompts(spec: GenerateSpec, work: Workspace) -> list[Prompt]:
    """The prompts that are asked, each once, in the order of the data."""
    from kilter.data.dataset import prompt_key

    data = work.load(spec.data, "prompts")
    work.announce(spec.data, data)
    groups = {"train": data.train, "heldout": data.heldout, "all": [*data.train, *data.heldout]}[spec.split]
    prompts = list({prompt_key(g.prompt): g.prompt for g in reversed(groups)}.values())[::-1]
    if spec.part is not None:
        number, parts = _part(spec.part)
        prompts = prompts[len(prompts) * (number - 1) // parts : len(prompts) * number // parts]
    return prompts[: spec.limit]


def _part(text: str) -> tuple[int, int]:
    """(number, parts) of "1/3"."""
    number, _, parts = text.partition("/")
    return int(number), int(parts)


def _who(spec: GenerateSpec, work: Workspace) -> str:
    """Name of the model that answers, or of the sampler if it opens no model."""
    return (spec.model or work.base) if spec.sampler.opens else spec.sampler.model or spec.sampler.name
