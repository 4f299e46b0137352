"""revise: a model answers, a critic objects under a drawn principle, and a revision counts on evidence."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_serializer
from rich.text import Text

from kilter.artifacts import append_lines, read_lines, sha256_file, write_text
from kilter.constitution.spec import CriticSpec
from kilter.data.lineage import row_id, with_entry
from kilter.errors import RunFailed, UserError
from kilter.feedback.judge.spec import JudgeSpec
from kilter.options import DATA, METHOD, MODEL, SAMPLING
from kilter.refs import BaseRef, CertificateRef, DataRef, Found, TemplateRef
from kilter.release.section import Section
from kilter.screen import many, styled
from kilter.stages.door import Door
from kilter.stages.generate import AnswerSpec, in_order
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import ARTIFACT, Outcome, StagePlan, StageSpec
from kilter.stages.refs import references
from kilter.stages.registry import stage
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams

if TYPE_CHECKING:
    from kilter.constitution.chain import Chain, Reviser
    from kilter.feedback.judge.verdict import Judge
    from kilter.roles.chat import SamplerChat
    from kilter.seams import Chat

CHUNK = 16
"""Prompts that are answered, criticised and revised at once; after each chunk its chains are on disk."""

CHAINS = "chains.jsonl"
ANSWERS = "answers.jsonl"


class ReviseSpec(StageSpec):
    """A model's answers are criticised and revised under a constitution."""

    model: Annotated[BaseRef, MODEL] = Field(
        None, description="stage or model that answers; default: the recipe's model"
    )
    data: Annotated[DataRef, DATA] = Field("$data", description="$name of the prompts, such as a red team's")
    split: Annotated[Literal["train", "heldout", "all"], DATA] = Field(
        "train", description="which of its prompts are asked"
    )
    limit: Annotated[int | None, DATA] = Field(None, ge=1, description="ask only the first N of them")
    constitution: Annotated[str, METHOD] = Field(
        "general", description="a shipped name, a .yaml file, or a .json file of a public layout"
    )
    rounds: Annotated[int, METHOD] = Field(
        2, ge=1, le=16, description="rounds of critique and revision; each draws one principle by hash"
    )
    shots: Annotated[int, METHOD] = Field(
        2, ge=0, le=8, description="the principle's worked examples that critic and reviser see"
    )
    critic: Annotated[CriticSpec, METHOD] = Field(
        default_factory=CriticSpec, description="who writes critiques and revisions"
    )
    judge: Annotated[JudgeSpec | None, METHOD] = Field(
        None, description="who compares revision and answer, as in docs/judges.md; default: the critic"
    )
    certificate: Annotated[CertificateRef, METHOD] = Field(
        None, description="audit_judge stage that certifies the judge; default: judge.certificate"
    )
    allow_uncertified: Annotated[bool, METHOD] = Field(
        False, description="accept revisions on the word of a judge without a valid certificate"
    )
    sampler: Annotated[AnswerSpec, SAMPLING] = Field(
        default_factory=lambda: AnswerSpec(), description="who samples the first answers, and how"
    )
    seed: Annotated[int, SAMPLING] = Field(
        0, ge=0, lt=2**32, description="same seed, same answers and same principles drawn"
    )
    max_length: Annotated[int | None, DATA] = Field(
        1024, ge=8, description="tokens of prompt plus answer; null: none is cut"
    )
    template: Annotated[TemplateRef, DATA] = Field(
        "auto", description="chat template of the model that answers"
    )
    dtype: Annotated[Literal["float32", "bfloat16"], MODEL] = Field(
        "float32", description="precision of the first answers"
    )

    def params(self) -> SamplingParams:
        """How each first answer is sampled."""
        s = self.sampler
        return SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, tuple(s.stop), self.seed)

    @field_serializer("judge")
    def _judge_as_written(self, value: JudgeSpec | None) -> Any:
        return None if value is None else value.as_written()

    def judging(self, base: str) -> JudgeSpec:
        """The judge's settings; without them the critic judges, by the model that `base` names."""
        if self.judge is not None:
            return self.judge
        model = self.critic.model or self.model or base
        return JudgeSpec(model=model if self.critic.opens else None, sampler=self.critic.sampler)


@stage("revise")
class Revise(StageKind[ReviseSpec]):
    """First answers.jsonl, then chains.jsonl, both line by line; groups.jsonl holds what was accepted."""

    Spec = ReviseSpec
    makes = "data"
    door = Door(
        "Criticise and revise a model's answers under a constitution. Run it again to go on.\n\n"
        "A revision counts only if the judge prefers it under its principle in both orders.",
        (
            "kilter revise --data prompts.jsonl --constitution general --critic.model runs/sft",
            "kilter revise --model runs/sft --data prompts.jsonl --rounds 3 --dry-run",
        ),
        often=("constitution", "rounds", "critic__sampler__name", "critic__model", "allow_uncertified"),
    )

    def reads(self, spec: ReviseSpec) -> list[Found]:
        """A model is read if it answers, or if it criticises its own answers."""
        reads = spec.sampler.opens or (spec.critic.opens and spec.critic.model is None)
        return [f for f in references(spec) if f.field != "model" or reads]

    def one_shape(self, spec: ReviseSpec) -> bool:
        """Nothing else is read."""
        return True

    def inputs(self, spec: ReviseSpec, work: Workspace) -> dict[str, str]:
        """The constitution's content, the critic's wording, and the certificates of the run."""
        from kilter.constitution.read import load
        from kilter.constitution.wording import VERSION

        document = load(spec.constitution, work.where("constitution"))
        audits = {f"certificate:{path}": sha256_file(path) for path in work.certificates()}
        return {f"constitution:{spec.constitution}": document.fingerprint, "wording": VERSION, **audits}

    def check(self, spec: ReviseSpec, work: Workspace) -> None:
        """The constitution can be read, and the samplers take their settings."""
        from kilter.constitution.read import load
        from kilter.feedback.judge.build import check
        from kilter.sampling.build import check_sampler, check_who_answers
        from kilter.sampling.config import greedy, idle_fields
        from kilter.validation import refuse_idle

        load(spec.constitution, work.where("constitution"))
        refuse_idle(
            spec.sampler,
            f"{work.where('sampler')}.",
            [*idle_fields(spec.sampler), *greedy(spec.sampler.temperature)],
        )
        check_sampler(spec.sampler, work.where("sampler"))
        own = (spec.model or work.base) if spec.critic.opens else None
        check_who_answers(spec.critic.model or own, spec.critic.sampler, work.where("critic"))
        if spec.critic.max_length - spec.critic.max_new_tokens < 32:
            raise UserError(
                work.where("critic.max_length"),
                spec.critic.max_length,
                "leaves no room for a question beside its reply",
                "raise it, or lower critic.max_new_tokens",
            )
        if spec.judge is not None:
            check(spec.judge, work.where("judge"))

    def answers(self, spec: ReviseSpec) -> tuple[str, int] | None:
        """Those of a model that is opened here."""
        return ("sampler.max_new_tokens", spec.sampler.max_new_tokens) if spec.sampler.opens else None

    def preflight(self, spec: ReviseSpec, work: Workspace) -> None:
        """Refuses data that has no prompts to answer, or none that a scripted critic knows."""
        prompts = prompts_of(spec, work) if work.ready(spec.data) else None
        if prompts == []:
            fix = "choose another split, or more data"
            raise UserError(work.where("split"), spec.split, "leaves no prompts to ask", fix)

        # What opens no weights is opened now: a misspelt critic must not cost the answers before it.
        if not spec.critic.opens:
            with contextlib.closing(_critic(spec, work).sampler) as critic:
                lacking = [n for n in critic.facts.needs if not any(n in p.metadata for p in prompts or ())]
            if prompts and lacking:
                problem = f"reads {lacking[0]!r} of a prompt, as those of its world bring it: here none does"
                fix = "name a model or an endpoint as critic, and as judge, for prompts of your own"
                raise UserError(work.where("critic.sampler"), spec.critic.sampler.name, problem, fix)
        if not work.is_stage(spec.judging(work.base).model):
            _judge(spec, work, None)

    def plan(self, spec: ReviseSpec, work: Workspace) -> StagePlan:
        """Prompts, and the calls that they can take at most."""
        who = (spec.model or work.base) if spec.sampler.opens else spec.sampler.name
        what = f"{who} answers {spec.data}, {spec.critic.sampler.name} revises by {spec.constitution}"
        if not work.ready(spec.data):
            return StagePlan(what)
        count = len(prompts_of(spec, work))
        calls = (
            f"at most {2 * count * spec.rounds} critiques and revisions, {2 * count * spec.rounds} verdicts"
        )
        tokens = count * (spec.sampler.max_new_tokens + 2 * spec.rounds * spec.critic.max_new_tokens)
        return StagePlan(f"{what}: {calls}", count, tokens, warnings=_mixed_up(spec, work))

    def run(self, spec: ReviseSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes answers.jsonl, chains.jsonl and groups.jsonl."""
        from kilter.data import store

        for line in _mixed_up(spec, work):
            work.console.print(f"  {line}", soft_wrap=True)
        prompts = prompts_of(spec, work)
        problems = _answer(spec, work, prompts, folder)
        if problems:
            said = f"{len(problems)} of {len(prompts)} answers failed: {problems[0]}"
            if len(problems) == len(prompts):
                raise RunFailed(said, "correct the request or the sampler that this reason names")
            work.console.print(f"  {said}", soft_wrap=True)
        # Those that have a chain already stay in its place.
        answers = in_order(folder / ANSWERS, prompts, sum(1 for _ in read_lines(folder / CHAINS)))
        history = _revise(spec, work, answers, folder)
        chains = list(read_lines(folder / CHAINS))
        lost = _lost(chains)
        if lost and not any(chain["accepted"] for chain in chains):
            fix = "mend what the reason names, then run the same command again: they are asked anew"
            raise RunFailed(_failed(chains, lost), fix)
        if lost:
            work.console.print(f"  {_failed(chains, lost)}", soft_wrap=True)
        rows = [_row(g, c, history) for g, c in zip(answers, chains, strict=True) if c["accepted"]]
        store.write(folder / ARTIFACT["data"], rows)
        facts = facts_of(chains) | {"rows": len(rows), "failed": len(prompts) - len(answers)}
        uncertified = [history["judge_name"]] if "uncertified" in history else []
        return Outcome(facts | {"uncertified": uncertified})

    def summary(self, facts: Mapping[str, Any]) -> Sequence[str | Text]:
        """Rates by state, and what keeps revisions from being accepted."""
        counts = ", ".join(f"{n} {state}" for state, n in facts["states"].items() if n)
        revised = f"  {facts['rows']} of {facts['prompts']} answers were revised"
        lines: list[str | Text] = [f"{revised}; all rounds: {counts}" if counts else revised]
        for name in facts["uncertified"]:
            lines.append(styled("  [yellow]judge not certified[/]: {}", name))
        if not facts["rows"]:
            lines.append(styled("  [yellow]no revision was accepted[/]: {}", _most(facts["reasons"])))
        return lines

    def section(self, folder: Path) -> Section | None:
        """Rates per principle and round, and the first chains."""
        chains = list(read_lines(folder / CHAINS))
        if not chains:
            return None
        facts = facts_of(chains)
        counts = ", ".join(f"{n} {state}" for state, n in facts["states"].items() if n)
        lead = (
            f"{facts['accepted']} of {facts['prompts']} answers have an accepted revision. Links: {counts}."
        )
        if facts["reasons"]:
            lead += f" Most frequent reasons: {_most(facts['reasons'], 3)}."
        rows = [
            (r["principle"], str(r["round"]), str(r["n"]), _share(r), *(str(r[s]) for s in REST))
            for r in facts["rates"]
        ]
        head = ("Principle", "Round", "Links", "Accepted", *(s.replace("_", " ").capitalize() for s in REST))
        return Section("Revisions", lead, "" if facts["accepted"] else "warn", head, rows)


REST = ("no_change", "worse", "evasive", "unscored")


def prompts_of(spec: ReviseSpec, work: Workspace) -> list[Prompt]:
    """The prompts that are asked, each once, in the order of the data."""
    from kilter.data.dataset import prompt_key

    data = work.load(spec.data, "prompts")
    work.announce(spec.data, data)
    groups = {"train": data.train, "heldout": data.heldout, "all": [*data.train, *data.heldout]}[spec.split]
    found: dict[str, Prompt] = {}
    for group in groups:
        found.setdefault(prompt_key(group.prompt), group.prompt)
    return list(found.values())[: spec.limit]


def _model(spec: ReviseSpec, work: Workspace) -> Path | str:
    return work.model(spec.model) if spec.sampler.opens else spec.sampler.model or ""


def _answer(spec: ReviseSpec, work: Workspace, prompts: Sequence[Prompt], folder: Path) -> list[str]:
    """Appends first answers as they come; a failed one is asked again by the next run.

    Returns:
        Why prompts have no answer, one reason each.
    """
    from kilter.data import store
    from kilter.data.dataset import prompt_key
    from kilter.progress import Display, OnDisplay
    from kilter.roles.open import OpenSpec
    from kilter.roles.sampler import open_sampler
    from kilter.sampling.collect import begin, finish, requests

    there = {prompt_key(g.prompt) for g in store.read(folder / ANSWERS)}
    todo = [p for p in prompts if prompt_key(p) not in there]
    problems: list[str] = []
    if not todo:
        return problems
    room = None if spec.max_length is None else spec.max_length - spec.sampler.max_new_tokens
    opening = OpenSpec(
        _model(spec, work),
        dtype=spec.dtype,
        template=spec.template,
        max_length=spec.max_length,
        max_prompt=room,
    )
    with (
        contextlib.closing(open_sampler(spec.sampler, opening, work.where("sampler"))) as sampler,
        Display(work.console, f"{work.name}: answers", len(prompts), len(there)) as display,
    ):
        for part in _chunks(todo):
            # A kill costs the calls under way: whatever has come is on disk.
            def arrived(n: int, made: Sequence[Completion], part: Sequence[Prompt] = part) -> None:
                rows = [Group(part[n], (answer,), (Feedback(None),)) for answer in made]
                store.append(folder / ANSWERS, rows)

            underway = begin(sampler, requests(part, 1, spec.params()))
            problems += finish(underway, OnDisplay(display, len(there)), arrived).problems
            there |= {prompt_key(p) for p in part}
    return problems


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(rows), CHUNK):
        yield rows[first : first + CHUNK]


def _revise(spec: ReviseSpec, work: Workspace, answers: Sequence[Group], folder: Path) -> dict[str, Any]:
    """Appends a chain per answer; returns who judged, and what vouches for it."""
    from kilter.constitution.opening import keeping
    from kilter.constitution.read import load
    from kilter.constitution.wording import VERSION
    from kilter.feedback.judge.itself import judging_itself
    from kilter.progress import Display

    judge = _judge(spec, work, folder)
    document = load(spec.constitution)
    asked: dict[str, Any] = {
        "stage": work.name,
        "constitution": document.name,
        "constitution_hash": document.fingerprint,
    }
    asked |= {
        "wording": VERSION,
        "sampling": asdict(spec.params()),
        **_answerer(spec, work),
        **_criticises(spec, work),
    }
    history = _vouched(spec, work, judge) | asked
    chains = list(read_lines(folder / CHAINS))
    done, lost = len(chains), _lost(chains)
    if done == len(answers) and not lost:
        return history
    for words in judging_itself(history, [history["model_hash"], *history.get("descent", ())]):
        work.console.print(f"  {words}", soft_wrap=True)

    # The critic's weights are opened only where a chain is still to be made.
    critic = _critic(spec, work)
    kept = keeping(critic, spec.critic, lambda: _criticising(spec, work), spec.seed, folder)
    reviser = _reviser(spec, kept, judge, not history.get("uncertified") or spec.allow_uncertified)
    with (
        contextlib.closing(critic.sampler),
        Display(work.console, f"{work.name}: revisions", len(answers), done) as display,
    ):
        # An error is not an opinion: whoever could not be asked in an earlier process is asked anew.
        for places in _chunks(lost):
            made = reviser.revise([(answers[n].prompt, answers[n].completions[0].text) for n in places])
            for n, chain in zip(places, made, strict=True):
                chains[n] = _line(chain)
            lines = (json.dumps(chain, ensure_ascii=False) for chain in chains)
            write_text(folder / CHAINS, "".join(f"{line}\n" for line in lines))
        for part in _chunks(answers[done:]):
            made = reviser.revise([(g.prompt, g.completions[0].text) for g in part])
            append_lines(folder / CHAINS, map(_line, made), flush=True, escape=False)
            done += len(part)
            display.update(done, "prompts")
    return history


def _lost(chains: Sequence[Mapping[str, Any]]) -> list[int]:
    """Chains in which critic, reviser or judge could not be asked."""
    return [n for n, chain in enumerate(chains) if any(link.get("failed") for link in chain["links"])]


def _failed(chains: Sequence[Mapping[str, Any]], lost: Sequence[int]) -> str:
    """How many of them, and the most frequent reason."""
    reasons = Counter(link["reason"] for n in lost for link in chains[n]["links"] if link.get("failed"))
    ((why, _),) = reasons.most_common(1)
    return f"Critic or judge failed on {len(lost)} of {len(chains)} prompts; most often: {why}"


def _judge(spec: ReviseSpec, work: Workspace, folder: Path | None) -> Judge:
    from kilter.feedback.context import Context
    from kilter.feedback.judge.build import build

    context = Context(lambda name: work.model(name, "judge"), folder=folder)
    return build(spec.judging(work.base), context, work.where("judge"))


def _critic(spec: ReviseSpec, work: Workspace) -> SamplerChat:
    from kilter.constitution.opening import open_critic

    return open_critic(spec.critic, lambda: _criticising(spec, work), spec.seed, work.where("critic"))


def _mixed_up(spec: ReviseSpec, work: Workspace) -> list[str]:
    """What a world's script, as critic or judge, does not tell apart of the constitution; a sentence each."""
    from kilter.constitution.read import load
    from kilter.constitution.script import alike

    document = load(spec.constitution, work.where("constitution"))
    asked = {"critic": spec.critic.sampler, "judge": spec.judging(work.base).sampler}
    return [line for who, sampler in asked.items() for line in alike(who, sampler, [document])]


def _criticising(spec: ReviseSpec, work: Workspace) -> Path:
    """The folder of the critic's weights."""
    return work.model(spec.critic.model or spec.model)


def _answerer(spec: ReviseSpec, work: Workspace) -> dict[str, Any]:
    """Who gave the first answers, in the words of a row's history."""
    from kilter.models.descent import descent

    found = _model(spec, work)
    name = (spec.model or work.base) if spec.sampler.opens else str(found) or spec.sampler.name
    own, *parents = descent(found) if isinstance(found, Path) else [""]
    return {"model": name, "model_hash": own, **({"descent": parents} if parents else {})}


def _criticises(spec: ReviseSpec, work: Workspace) -> dict[str, Any]:
    """Who wrote critiques and revisions, in the words of a row's history."""
    from kilter.models.fingerprint import model_hash

    if not spec.critic.opens:
        return {"critic": spec.critic.sampler.model or spec.critic.sampler.name}
    name = spec.critic.model or spec.model
    return {"critic": name or work.base, "critic_hash": model_hash(work.model(name))}


def _reviser(spec: ReviseSpec, critic: Chat, judge: Judge, trusted: bool) -> Reviser:
    from kilter.constitution.chain import Reviser
    from kilter.constitution.read import load
    from kilter.evaluation.evasion import evades

    document = load(spec.constitution)
    return Reviser(document, critic, critic, judge, spec.rounds, spec.seed, spec.shots, evades, trusted)


def _vouched(spec: ReviseSpec, work: Workspace, judge: Judge) -> dict[str, Any]:
    """Who judges, in the words of a row's history; "uncertified" says why nothing vouches for it."""
    from kilter.feedback.context import Context
    from kilter.feedback.judge import certificate
    from kilter.feedback.judge.itself import models_of

    judging = spec.judging(work.base)
    named = judging.certificate
    if spec.certificate is not None:
        named = str(work.stage(spec.certificate) / ARTIFACT["certificate"])
    path, problem = certificate.vouching(named, work.certificates(), judge.fingerprint)
    vouches = "uncertified" if path is None else sha256_file(path)
    own: dict[str, Any] = {"judge": judge.fingerprint, "judge_name": judge.name, "certificate": vouches}
    own["judge_models"] = models_of(judging, Context(lambda name: work.model(name, "judge")))
    return own | ({"uncertified": problem} if problem else {})


def _line(chain: Chain) -> dict[str, Any]:
    """A line of chains.jsonl."""
    return {
        "row": row_id(chain.prompt),
        "accepted": chain.accepted,
        "original": chain.original,
        "answer": chain.answer,
        "links": chain.plain(),
    }


def _row(group: Group, chain: Mapping[str, Any], history: Mapping[str, Any]) -> Group:
    """The accepted answer above the first one: a demonstration, and a pair."""
    entry = {"kind": "revise", "row": chain["row"], "links": chain["links"], **history}
    first = group.completions[0]
    better = Completion(chain["answer"], finish_reason="stop")
    feedback = (Feedback(1.0, source="constitution"), Feedback(0.0, source="constitution"))
    return Group(with_entry(group.prompt, entry), (better, Completion(first.text)), feedback)


def facts_of(chains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the chains on disk amount to."""
    from kilter.constitution.chain import STATES
    from kilter.statistics import wilson_bounds

    links = [link for chain in chains for link in chain["links"]]
    states = Counter(link["state"] for link in links)
    reasons = Counter(link["reason"] for link in links if link["reason"])
    rates = []
    key = lambda link: (link["principle"], link["round"])
    for (principle, number), group in itertools.groupby(sorted(links, key=key), key=key):
        own = Counter(link["state"] for link in group)
        n = own.total()
        low, high = wilson_bounds(own["accepted"], n)
        rates.append(
            {"principle": principle or "(none)", "round": number, "n": n, "ci_low": low, "ci_high": high}
            | {state: own[state] for state in STATES}
        )
    return {
        "prompts": len(chains),
        "accepted": sum(chain["accepted"] for chain in chains),
        "states": {state: states[state] for state in STATES},
        "reasons": dict(reasons.most_common(5)),
        "rates": rates,
    }


def _share(rate: Mapping[str, Any]) -> str:
    share = rate["accepted"] / rate["n"]
    return f"{share:.0%} [{rate['ci_low']:.0%}, {rate['ci_high']:.0%}]"


def _most(reasons: Mapping[str, int], count: int = 1) -> str:
    return (
        "; ".join(f"{many(n, 'times')} {why}" for why, n in list(reasons.items())[:count]) or "none was made"
    )
