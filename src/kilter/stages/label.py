"""label: feedback scores answers, and pairs, ratings, rankings or binary labels are made of the scores."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from rich.text import Text

from kilter.artifacts import read_json, read_lines, sha256_file
from kilter.data.lineage import UNCERTIFIED, amended, lineage, row_id, uncertified, with_entry
from kilter.data.shapes import PairRule, apart, compared, pairs_of
from kilter.data.worlds.registry import sources
from kilter.errors import RunFailed, UserError
from kilter.feedback.agreement import Agreement, agreement
from kilter.feedback.agreement import in_words as agreement_in_words
from kilter.feedback.judge.canary import counted, in_words
from kilter.feedback.judge.itself import judging_itself
from kilter.feedback.route import Route, question, routed
from kilter.options import DATA, METHOD, MODEL, OUTPUT
from kilter.redaction import redacted
from kilter.refs import DataRef, FeedbackRef, FileRef, ModelRef, TemplateRef
from kilter.release.section import Section
from kilter.screen import many
from kilter.stages.door import Door
from kilter.stages.generate import shown
from kilter.stages.kind import StageKind, Workspace
from kilter.stages.outcome import ARTIFACT, Outcome, StagePlan, StageSpec
from kilter.stages.registry import stage
from kilter.types import Feedback, Group, Shape
from kilter.validation import refuse_idle

if TYPE_CHECKING:
    from kilter.feedback import Weighted

SCORED = "scored.jsonl"
PEOPLE = "people.jsonl"
"""Pairs that people are asked about."""
JUDGED = "judged.jsonl"
"""Scores of pairs that people have labelled, by which agreement is measured."""
CANARIES = "canaries.jsonl"
"""Answers that had to lose, and whether they did."""
STATE = "feedback.json"


class LabelSpec(StageSpec):
    """A feedback source scores answers; what later stages learn from is written from the scores."""

    data: Annotated[DataRef, DATA] = Field(
        "$data", description="$name of a generate stage, or of a data set with answers"
    )
    feedback: Annotated[FeedbackRef, METHOD] = Field(
        description=f"who scores: {', '.join(sources())}, math, {{reward_model: rm}}, {{judge: judge.yaml}}, "
        "my_file.py:reward, or a weighted list"
    )
    write: Annotated[Literal["pairs", "ratings", "rankings", "binary", "groups"], OUTPUT] = Field(
        "pairs", description="what is made of the scores; groups: all answers as they are, scored or not"
    )
    pairs: Annotated[PairRule, OUTPUT] = Field(
        default_factory=lambda: PairRule(),
        description="which pairs are written, and with what margin (pairs)",
    )
    threshold: Annotated[float, OUTPUT] = Field(
        0.5, description="a score from here on is good, a lower one bad (binary)"
    )
    margin: Annotated[float, OUTPUT] = Field(
        0.0, ge=0, description="scores closer than this to the threshold are left out (binary)"
    )
    route: Annotated[Route, OUTPUT] = Field(
        default_factory=Route, description="labels that a judge was least sure of go to people instead"
    )
    agreement: Annotated[Agreement, METHOD] = Field(
        default_factory=Agreement, description="how far the labels agree with those of people"
    )
    replay: Annotated[FileRef | None, METHOD] = Field(
        None,
        description="kept replies, judge.sqlite of an earlier run: a judge answers from them alone, "
        "offline, and a question without a reply ends it",
    )
    rationale: Annotated[bool, OUTPUT] = Field(True, description="keep the judge's reasons beside the scores")
    judge: Annotated[ModelRef | None, MODEL] = Field(
        None, description="stage or model that feedback about a policy asks, such as self_reward"
    )
    allow_empty: Annotated[bool, OUTPUT] = Field(
        False, description="leave no rows instead of stopping where nothing could be scored"
    )
    limit: Annotated[int | None, DATA] = Field(None, ge=1, description="score only the first N prompts")
    batch_size: Annotated[int, METHOD] = Field(32, ge=1, description="prompts that are scored at once")
    max_length: Annotated[int, DATA] = Field(
        1024, ge=8, description="tokens of prompt plus answer that a model reads"
    )
    template: Annotated[TemplateRef, DATA] = Field(
        "auto",
        description="chat template of a reward model or policy that scores (a judge names its own): "
        "auto, model, a name, or a .jinja file",
    )


@stage("label")
class Label(StageKind[LabelSpec]):
    """Scores go to scored.jsonl as they are made; groups.jsonl is written from them at the end."""

    Spec = LabelSpec
    makes = "data"
    free = frozenset({"replay"})
    door = Door(
        "Score answers, and write pairs, ratings, rankings or binary labels. Run it again to go on.",
        (
            "kilter label --data runs/generate/groups.jsonl --feedback support_desk",
            "kilter label --data answers.jsonl --feedback '{reward_model: runs/rm}' --write rankings",
            "kilter label --data answers.jsonl --feedback my_file.py:reward --write binary --threshold 0.5",
            "kilter label --data answers.jsonl --feedback '{judge: judge.yaml}' --dry-run",
            "kilter label --data answers.jsonl --feedback '{judge: judge.yaml}' --replay old/judge.sqlite",
        ),
        often=("feedback", "write"),
    )

    def shape(self, spec: LabelSpec, field: str) -> Shape | None:
        """Answers as they are: nothing is dropped before it is scored. People's labels are pairs."""
        return "pairs" if field == "agreement.data" else "rollouts"

    def one_shape(self, spec: LabelSpec) -> bool:
        """Nothing else is read."""
        return True

    def begun(self, folder: Path) -> bool:
        """Where no answer has a score, all are scored anew, by whatever mends that."""
        from kilter.data import store

        names = (SCORED, JUDGED, ARTIFACT["data"])
        return any(f.score is not None for n in names for g in store.read(folder / n) for f in g.feedback)

    def inputs(self, spec: LabelSpec, work: Workspace) -> dict[str, str]:
        """Certificates of the run: rows say whether one vouched for their judge."""
        return {f"certificate:{path}": sha256_file(path) for path in work.certificates()}

    def check(self, spec: LabelSpec, work: Workspace) -> None:
        """The feedback can be built, and every setting has an effect."""
        from kilter import feedback

        feedback.check(spec.feedback, work.where("feedback"), policy=spec.judge is not None)
        feedback.check_replay(spec.replay, spec.feedback, work.where("replay"), work.where("feedback"))
        idle = {"pairs": ("pairs", "route"), "binary": ("threshold", "margin")}
        fields = [(name, kind) for kind, names in idle.items() for name in names if kind != spec.write]
        refuse_idle(
            spec,
            work.where(),
            [
                (name, f"write is {spec.write}", f"set write: {kind}, or leave it out")
                for name, kind in fields
            ],
        )

        _refuse_unread(spec, work)

    def preflight(self, spec: LabelSpec, work: Workspace) -> None:
        """Refuses data without an answer to score, or without a column that the feedback needs."""
        from kilter import feedback

        if not work.ready(spec.data):
            return
        data = work.load(spec.data, "rollouts")
        groups = data.train[: spec.limit]
        if not any(g.completions for g in groups):
            work.announce(spec.data, data)  # answers may stand there that are not read
            raise UserError(
                work.where("data"),
                spec.data,
                "holds no answers to score",
                "make some first, with `kilter generate` or a generate stage",
            )
        if spec.write in ("pairs", "rankings") and all(len(g.completions) < 2 for g in groups):
            problem = "compares answers to a prompt, and the data has one for each"
            fix = "use write: ratings or binary, or sample more answers with k"
            raise UserError(work.where("write"), spec.write, problem, fix)
        feedback.check_columns(spec.feedback, groups, work.where("feedback"))

    def plan(self, spec: LabelSpec, work: Workspace) -> StagePlan:
        """How many prompts have answers to score."""
        from kilter import feedback

        what = f"{spec.write} of {spec.data}"
        if not work.ready(spec.data):
            return StagePlan(what)
        groups = work.load(spec.data, "rollouts").train[: spec.limit]
        takes = feedback.forecast(spec.feedback, groups, work.where("feedback"))
        return StagePlan(", ".join(filter(None, (what, takes))), len(groups))

    def run(self, spec: LabelSpec, work: Workspace, folder: Path) -> Outcome:
        """Writes scored.jsonl and groups.jsonl."""
        from kilter.data import store

        data = work.load(spec.data, "rollouts")
        work.announce(spec.data, data)
        groups = data.train[: spec.limit]
        people = _people(spec, work)
        _score(spec, work, {SCORED: groups, JUDGED: people}, folder)
        scored = list(store.read(folder / SCORED))
        dropped: Counter[str] = Counter()
        written = [g for group in scored for g in WRITERS[spec.write](group, spec, dropped)]
        asked: list[Group] = []
        if spec.route.human:
            written, asked, dropped = _routed(scored, spec)
            store.write(folder / PEOPLE, map(question, asked))
            work.console.print(f"  {_waiting(len(asked))} for people in {folder / PEOPLE}")
        lost = _unscored(scored)
        if not written and not spec.allow_empty:
            dropped["pairs that wait for people"] = len(asked)
            raise _nothing_written(dropped, lost, bool(asked))
        store.write(folder / ARTIFACT["data"], written)
        agrees = [
            {"data": name, **found}
            for name, before, after in (
                (spec.data, groups[: spec.agreement.limit], scored[: spec.agreement.limit]),
                (spec.agreement.data, people, list(store.read(folder / JUDGED))),
            )
            if (found := agreement(before, after)) is not None
        ]
        facts = _facts(scored, written, dropped) | {"people": len(asked), "agreement": agrees}
        facts["canaries"] = counted(read_lines(folder / CANARIES))
        if dropped:
            text = ", ".join(f"{n} {why}" for why, n in dropped.items())
            work.console.print(f"  {many(len(written), 'rows')} written; left out: {text}")
        if lost:
            work.console.print(f"  {_why(lost)}", soft_wrap=True)
        return Outcome(facts)

    def summary(self, facts: Mapping[str, Any]) -> Sequence[str | Text]:
        """How far the labels agree with people's, before anybody learns from them."""
        failed = [Text(f"  {line}", style="yellow") for line in in_words(facts.get("canaries", {}))]
        return [*failed, *(Text(f"  {line}") for line in _agrees(facts))]

    def section(self, folder: Path) -> Section | None:
        """Counts, and the first rows with their scores and reasons."""
        from kilter.data import store
        from kilter.manifest import read

        entry = read(folder)
        if entry is None or entry.status != "done":
            return None
        facts = entry.facts
        left = "".join(f" {n} {why};" for why, n in facts["dropped"].items())
        lead = f"{many(facts['rows'], 'rows')} from {many(facts['answers'], 'answers')} "
        lead += f"to {many(facts['prompts'], 'prompts')}."
        lead += f" Left out:{left.rstrip(';')}." if left else ""
        lead += f" {_waiting(facts['people'])} for people in {PEOPLE}." if facts["people"] else ""
        failed = in_words(facts.get("canaries", {}))
        lead += "".join(f" {line[0].upper()}{line[1:]}." for line in (*failed, *_agrees(facts)))
        rows = [
            (shown(g.prompt), c.text[:600], "" if f.score is None else f"{f.score:.3g}", f.rationale[:300])
            for g, _ in zip(store.read(folder / ARTIFACT["data"]), range(3), strict=False)
            for c, f in zip(g.completions, g.feedback, strict=True)
        ]
        head = ("Prompt", "Answer", "Score", "Why")
        return Section("Labels", lead, "warn" if facts["unscored"] or failed else "", head, rows)


def _refuse_unread(spec: LabelSpec, work: Workspace) -> None:
    """Raises UserError for settings that no source of this feedback reads."""
    from kilter import feedback

    idle, fix = [], "leave it out"
    if not feedback.wants_policy(spec.feedback):
        why = "no source of this feedback scores with a policy"
        idle += [("judge", why, "leave it out; a judge is feedback itself: {judge: judge.yaml}")]
    if not feedback.reads_length(spec.feedback):
        why = "no source of this feedback reads answers as tokens of a model"
        idle += [("max_length", why, fix), ("template", why, fix)]
    if not feedback.gives_odds(spec.feedback):
        idle += [("route", "this feedback gives no odds, so that no label is doubtful", fix)]
    refuse_idle(spec, work.where(), idle)


def _people(spec: LabelSpec, work: Workspace) -> list[Group]:
    """The pairs with labels of people on which the labels are checked besides."""
    if spec.agreement.data is None:
        return []
    data = work.load(spec.agreement.data, "pairs")
    work.announce(spec.agreement.data, data)
    return [*data.train, *data.heldout][: spec.agreement.limit]


def _agrees(facts: Mapping[str, Any]) -> list[str]:
    """A line for each data set whose labels were compared; a judge that was compared with nobody is named."""
    if facts["agreement"]:
        return [f"{found['data']}: {agreement_in_words(found)}" for found in facts["agreement"]]
    missing = "nobody's labels are known of these answers, so agreement with people is not measured"
    return [f"{missing}; agreement.data may name pairs that people labelled"] if facts["judged"] else []


def _score(spec: LabelSpec, work: Workspace, parts: Mapping[str, Sequence[Group]], folder: Path) -> None:
    """Appends scored groups in the order of the data, after those that an earlier process scored.

    `parts`: rows by the file that their scores go to.
    """
    from kilter.data import store

    done = {name: sum(1 for _ in store.read(folder / name)) for name in parts}
    lost = {name: _without_score(folder / name) for name in parts}
    if all(done[name] == len(groups) for name, groups in parts.items()) and not any(lost.values()):
        return
    source = _source(spec, work, folder)
    if done[SCORED]:
        # What the first batch fixed, such as a reward's scale, holds for every batch.
        work.console.print(f"  {done[SCORED]} of {len(parts[SCORED])} prompts are scored already")
        source.restore(read_json(folder / STATE))
    entry = {
        "stage": work.name,
        "kind": "label",
        # An address may hold a key, and rows go wherever data goes.
        "feedback": redacted(spec.feedback),
        "models": _hashes(work),
        **source.history(),
    }
    _warn_of(entry, parts[SCORED], work)
    for name, groups in parts.items():
        if lost[name]:
            have, are = ("has", "is") if len(lost[name]) == 1 else ("have", "are")
            work.console.print(
                f"  {len(lost[name])} of them {have} an answer without a score, and {are} scored anew"
            )
            _again(spec, source, entry, groups, lost[name], folder / name)
        if done[name] < len(groups):
            _append(spec, work, source, entry, groups[done[name] :], folder / name)


def _without_score(path: Path) -> list[int]:
    """Rows of a file of scores in which an answer has none."""
    from kilter.data import store

    return [n for n, g in enumerate(store.read(path)) if any(f.score is None for f in g.feedback)]


def _again(
    spec: LabelSpec,
    source: Weighted,
    entry: dict[str, Any],
    groups: Sequence[Group],
    lost: Sequence[int],
    path: Path,
) -> None:
    """Scores rows anew that an earlier process left without a score: an error is not an opinion.

    A judge's verdict that was read, and did not count, is kept; only a call that failed is made again.
    """
    from kilter.artifacts import append_lines
    from kilter.data import store

    rows = list(store.read(path))
    for first in range(0, len(lost), spec.batch_size):
        places = lost[first : first + spec.batch_size]
        part = [groups[n] for n in places]
        for n, group, feedback in zip(places, part, source(part), strict=True):
            rows[n] = _scored(group, feedback, entry, spec.rationale)
    append_lines(path.with_name(CANARIES), source.canaries(), escape=False)
    store.write(path, rows)


def _append(
    spec: LabelSpec,
    work: Workspace,
    source: Weighted,
    entry: dict[str, Any],
    groups: Sequence[Group],
    path: Path,
) -> None:
    """Scores these groups in batches, and keeps each batch as it is done."""
    from kilter.artifacts import append_lines, write_json
    from kilter.data import store
    from kilter.progress import Display

    done = sum(1 for _ in store.read(path))
    with Display(work.console, f"{work.name}: scores", done + len(groups), done) as display:
        for first in range(0, len(groups), spec.batch_size):
            part = groups[first : first + spec.batch_size]
            rows = [
                _scored(group, feedback, entry, spec.rationale)
                for group, feedback in zip(part, source(part), strict=True)
            ]
            if not done and not first and path.name == SCORED:
                write_json(path.with_name(STATE), source.state())
            append_lines(path.with_name(CANARIES), source.canaries(), escape=False)
            store.append(path, rows)
            display.update(done + first + len(part), "  ".join(filter(None, ("prompts", source.note()))))


def _warn_of(entry: Mapping[str, Any], groups: Sequence[Group], work: Workspace) -> None:
    """Says what makes these labels worth less: a judge without a certificate, or one that judges itself."""
    own = entry.get("judges", [entry])
    for judge in (j for j in own if "uncertified" in j):
        problem = f"  {judge['judge_name']} is not certified: {judge['uncertified']}"
        work.console.print(f"{problem}. Training on its labels needs allow_uncertified.", soft_wrap=True)
    for name in entry.get(UNCERTIFIED, ()):
        problem = f"  A reward model learned labels of {name}, which is not certified"
        work.console.print(f"{problem}. Training on its scores needs allow_uncertified.", soft_wrap=True)
    wrote = {
        str(digest)
        for g in groups
        for e in lineage(g.prompt)
        for digest in (e.get("model_hash", ""), *e.get("descent", ()))
    }
    said = judging_itself(entry, wrote)
    # A reward model, or a policy that scores its own answers, is among the stage's models.
    if not said and set(entry["models"].values()) & {digest[:16] for digest in wrote}:
        said = ["the judge judges its own answers: it may prefer them"]
    for words in said:
        work.console.print(f"  {words}", soft_wrap=True)


def _hashes(work: Workspace) -> dict[str, str]:
    """The stage's models, each with the beginning of its hash."""
    models = [f.value for f in work.inputs() if f.ref.to == "model"]
    if not models:  # an endpoint is asked without torch
        return {}
    from kilter.models.fingerprint import model_hash

    return {str(value): model_hash(work.model(value))[:16] for value in models}


def _source(spec: LabelSpec, work: Workspace, folder: Path) -> Weighted:
    from kilter import feedback

    policy = None
    if spec.judge is not None:
        from kilter.roles.open import OpenSpec, open_model

        ready = open_model(
            OpenSpec(work.model(spec.judge, "judge"), max_length=spec.max_length, template=spec.template)
        )
        policy = (ready.scorer, ready.encoder)
    context = feedback.Context(
        lambda name: work.model(name, "feedback"),
        policy,
        spec.max_length,
        spec.template,
        folder=folder,
        certificates=work.certificates(),
        replay=None if spec.replay is None else Path(spec.replay),
    )
    return feedback.build(spec.feedback, context, work.where("feedback"))


def _scored(group: Group, feedback: Sequence[Feedback], entry: dict[str, Any], rationale: bool) -> Group:
    """The group with this stage's feedback in place of older one, and the stage in its history."""
    prompt = with_entry(group.prompt, entry | {"row": row_id(group.prompt)})
    kept = tuple(f if rationale or f.score is None else replace(f, rationale="") for f in feedback)
    return replace(group, prompt=prompt, feedback=kept)


def _picked(group: Group, places: Sequence[int], kind: str = "") -> Group:
    """Some of the answers in this order; the history says which of the scored ones they were."""
    picked = group.picked(places)
    feedback = tuple(replace(f, kind=kind or f.kind) for f in picked.feedback)
    return replace(picked, prompt=amended(group.prompt, answers=list(places)), feedback=feedback)


def _known(group: Group, dropped: Counter[str]) -> dict[int, float]:
    """Scores by place; answers without one are counted."""
    known = {i: f.score for i, f in enumerate(group.feedback) if f.score is not None}
    if len(known) < len(group.feedback):
        dropped["unscored answers"] += len(group.feedback) - len(known)
    return known


def _pairs(group: Group, spec: LabelSpec, dropped: Counter[str]) -> list[Group]:
    left: Counter[str] = Counter()
    rows = [_picked(group, places) for places in pairs_of(group, spec.pairs, left)]
    for reason, count in left.items():
        dropped[f"pairs: {reason}"] += count
    return rows


def _routed(scored: Sequence[Group], spec: LabelSpec) -> tuple[list[Group], list[Group], Counter[str]]:
    """(pairs to learn from, pairs for people, what was left out).

    A tie is no pair to learn from, and what a judge is least certain of.
    """
    left: Counter[str] = Counter()
    pairs = [_picked(g, places) for g in scored for places in compared(g, spec.pairs, left)]
    kept, asked = routed(pairs, spec.route)
    written = [p for p in kept if apart(p, [(0, 1)], spec.pairs, left)]
    return written, asked, Counter({f"pairs: {reason}": count for reason, count in left.items()})


def _ratings(group: Group, spec: LabelSpec, dropped: Counter[str]) -> list[Group]:
    known = _known(group, dropped)
    return [_picked(group, list(known), "rating")] if known else []


def _rankings(group: Group, spec: LabelSpec, dropped: Counter[str]) -> list[Group]:
    """Best first; of equal answers the first one stands, and a ranking has at least two ranks."""
    known = _known(group, dropped)
    ranks: dict[float, int] = {}
    for place in sorted(known, key=lambda i: -known[i]):
        ranks.setdefault(known[place], place)
    dropped["tied answers"] += len(known) - len(ranks)
    if len(ranks) < 2:
        dropped["prompts with fewer than two ranks"] += 1
        return []
    return [_picked(group, list(ranks.values()), "rank")]


def _binary(group: Group, spec: LabelSpec, dropped: Counter[str]) -> list[Group]:
    """One row per answer; the score that decided stays on record."""
    rows = []
    for place, score in _known(group, dropped).items():
        if abs(score - spec.threshold) < spec.margin:
            dropped["answers too close to the threshold"] += 1
            continue
        row = _picked(group, [place], "binary")
        label = replace(row.feedback[0], score=float(score >= spec.threshold), parts={"score": score})
        rows.append(replace(row, feedback=(label,)))
    return rows


def _groups(group: Group, spec: LabelSpec, dropped: Counter[str]) -> list[Group]:
    return [group]


WRITERS: Mapping[str, Callable[[Group, LabelSpec, Counter[str]], list[Group]]] = {
    "pairs": _pairs,
    "ratings": _ratings,
    "rankings": _rankings,
    "binary": _binary,
    "groups": _groups,
}
"""By what is written."""


def _waiting(pairs: int) -> str:
    return f"{many(pairs, 'pairs')} {'waits' if pairs == 1 else 'wait'}"


def _unscored(scored: Sequence[Group]) -> Counter[str]:
    """Why answers have no score."""
    return Counter(f.rationale or "no reason given" for g in scored for f in g.feedback if f.score is None)


def _why(lost: Counter[str]) -> str:
    """The answers without a score, and the reason of most."""
    ((reason, _),) = lost.most_common(1)
    has = "has" if lost.total() == 1 else "have"
    return f"{many(lost.total(), 'answers')} {has} no score; most often: {reason}"


def _nothing_written(dropped: Counter[str], lost: Counter[str], asked: bool) -> RunFailed:
    """Why there are no rows, and what to do about it."""
    reasons = [f"{n} {why}" for why, n in (+dropped).items()] + ([_why(lost)] if lost else [])
    fix = "raise the number or the length of the answers, or lower the margin"
    if asked:
        fix = "lower route.human, or set allow_empty: true where people label all of them"
    if lost:
        fix = "mend what keeps answers from a score, then run the same command again: they are scored anew"
    return RunFailed(f"The stage has no rows to write ({', '.join(reasons)})", fix)


def _facts(scored: Sequence[Group], written: Sequence[Group], dropped: Counter[str]) -> dict[str, Any]:
    """What came in, what came out, and why the rest did not."""
    feedback = [f for g in scored for f in g.feedback]
    scores = [f.score for f in feedback if f.score is not None]
    reasons = _unscored(scored)
    return {
        "rows": len(written),
        "prompts": len(scored),
        "answers": len(feedback),
        "unscored": len(feedback) - len(scores),
        "problems": dict(reasons.most_common(5)),
        "mean_score": round(statistics.fmean(scores), 4) if scores else None,
        "dropped": dict(+dropped),
        "uncertified": sorted({name for g in scored for name in uncertified(g.prompt)}),
        "judged": any({"judge", "judges"} & e.keys() for g in scored[:1] for e in lineage(g.prompt)[-1:]),
    }
