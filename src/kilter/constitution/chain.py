"""Answer, critique, revision, evidence, n rounds: a revision takes the answer's place only if it is better.

Better means that a judge prefers it under the drawn principle in both orders. Every link keeps its state:

accepted    judged better in both orders; the next round revises it
no_change   the critic found nothing (which ends the chain), the revision is the same text, or a tie
worse       the answer that was there is judged better in both orders
evasive     the revision declines without a reason, or declines what deserves help
unscored    no critique, no revision or no verdict that counts, with the reason
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from kilter.constitution.critique import look, said_by
from kilter.constitution.document import Constitution, Principle
from kilter.constitution.draw import draw
from kilter.constitution.wording import critique_ask, revision_ask
from kilter.data.dataset import prompt_key
from kilter.feedback.judge.prompts import conversation
from kilter.feedback.judge.verdict import Comparison, Judge, Judgement
from kilter.seams import Chat
from kilter.types import ABOUT, Prompt, Reply

State = Literal["accepted", "no_change", "worse", "evasive", "unscored"]
STATES: tuple[State, ...] = ("accepted", "no_change", "worse", "evasive", "unscored")


@dataclass(frozen=True, slots=True)
class Link:
    """One round of one prompt.

    forward, swapped: probabilities that the revision is better, by the order that was shown.
    ends: whether the chain ends here. failed: whether critic, reviser or judge could not be asked.
    """

    round: int
    principle: str
    state: State
    reason: str = ""
    critique: str = ""
    revision: str = ""
    forward: float | None = None
    swapped: float | None = None
    ends: bool = False
    failed: bool = False


@dataclass(slots=True)
class Chain:
    """What became of one answer."""

    prompt: Prompt
    original: str
    answer: str
    links: list[Link] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """Whether any revision took the answer's place."""
        return any(link.state == "accepted" for link in self.links)

    @property
    def ended(self) -> bool:
        """Whether no further round follows."""
        return bool(self.links) and self.links[-1].ends

    def plain(self) -> list[dict[str, Any]]:
        """The links as plain data."""
        return [asdict(link) for link in self.links]


@dataclass
class Reviser:
    """The parts that make chains.

    Args:
        constitution: whose principles are drawn.
        critic: writes critiques.
        reviser: writes revisions.
        judge: compares, in both orders.
        rounds: of each chain at most.
        seed: of the draws.
        shots: worked examples that are shown at most.
        evades: whether an answer to a prompt declines without a reason, or declines what deserves help.
        trusted: whether the judge has a certificate; without it no revision is accepted.
    """

    constitution: Constitution
    critic: Chat
    reviser: Chat
    judge: Judge
    rounds: int
    seed: int
    shots: int
    evades: Callable[[Prompt, str], bool]
    trusted: bool = True

    def revise(self, answers: Sequence[tuple[Prompt, str]]) -> list[Chain]:
        """One chain per (prompt, answer), in order. What fails in one chain ends no other."""
        chains = [Chain(prompt, answer, answer) for prompt, answer in answers]
        for number in range(1, self.rounds + 1):
            going = [chain for chain in chains if not chain.ended]
            # One call per step for all chains, so that samplers batch them and endpoints run side by side.
            if going:
                self._round(number, going)
        return chains

    def _round(self, number: int, chains: Sequence[Chain]) -> None:
        links = [self._drawn(number, chain) for chain in chains]
        open_ = [n for n, link in enumerate(links) if link is None]
        principles = {n: self._principle(number, chains[n]) for n in open_}
        # A question that comes back in a later round is another one: its reply is not the one that was kept.
        asked = f"round {number}"
        asks = [
            replace(critique_ask(chains[n].prompt, chains[n].answer, principles[n], self.shots), note=asked)
            for n in open_
        ]
        criticised = {}
        for n, reply in zip(open_, said_by(self.critic, asks), strict=True):
            links[n] = self._criticised(number, chains[n], principles[n], reply)
            if links[n] is None:
                criticised[n] = reply.text

        # Only what was criticised is revised, and only a revision that says something else is judged.
        asks = [
            replace(
                revision_ask(chains[n].prompt, chains[n].answer, text, principles[n], self.shots), note=asked
            )
            for n, text in criticised.items()
        ]
        revised: dict[int, Link] = {}
        for n, reply in zip(criticised, said_by(self.reviser, asks), strict=True):
            link = Link(number, principles[n].id, "unscored", "", criticised[n], reply.text)
            links[n] = self._unjudged(chains[n], link, reply)
            if links[n] is None:
                revised[n] = link
        compared = [_comparison(chains[n], link, principles[n]) for n, link in revised.items()]
        for (n, link), judged in zip(
            revised.items(), self.judge.compare(compared) if compared else (), strict=True
        ):
            links[n] = self._judged(link, judged)
        for chain, found in zip(chains, links, strict=True):
            assert found is not None
            chain.links.append(found)
            if found.state == "accepted":
                chain.answer = found.revision

    def _principle(self, number: int, chain: Chain) -> Principle:
        found = draw(self.constitution.about(chain.prompt), self.seed, prompt_key(chain.prompt), number)
        assert found is not None
        return found

    def _drawn(self, number: int, chain: Chain) -> Link | None:
        """None where a principle is about the prompt, else the link that ends the chain."""
        if self.constitution.about(chain.prompt):
            return None
        return Link(number, "", "no_change", "no principle is about this prompt", ends=True)

    def _criticised(self, number: int, chain: Chain, principle: Principle, reply: Reply) -> Link | None:
        """None where the critique names a problem, else the link without a revision."""
        link = Link(number, principle.id, "unscored", reply.problem, reply.text)
        if reply.problem:
            return replace(link, failed=True)
        found, why = look(reply.text, chain.answer, conversation(chain.prompt))
        if found == "nothing":
            return replace(link, state="no_change", reason="the critic found nothing", ends=True)
        # To find fault is no harm, whatever the prompt asks for.
        if found == "invalid" and self.evades(Prompt(text=""), reply.text):
            return replace(link, state="evasive", reason="the critic declines")
        return replace(link, reason=why) if found == "invalid" else None

    def _unjudged(self, chain: Chain, link: Link, reply: Reply) -> Link | None:
        """The link of a revision that needs no judge, None for one that does."""
        if reply.problem or not link.revision:
            reason = reply.problem or "the reviser wrote nothing"
            return replace(link, reason=reason, failed=bool(reply.problem))
        # Half an answer, taught as a whole one, teaches to break off.
        if reply.cut:
            return replace(link, reason="the revision was cut off at max_new_tokens")
        if " ".join(link.revision.split()) == " ".join(chain.answer.split()):
            return replace(link, state="no_change", reason="the revision is identical to the answer")
        if self.evades(chain.prompt, link.revision):
            return replace(
                link, state="evasive", reason="it declines without a reason, or what deserves help"
            )
        return None

    def _judged(self, link: Link, judged: Judgement) -> Link:
        forward, swapped = judged.of("forward"), judged.of("swapped")
        link = replace(link, forward=forward, swapped=swapped)
        if forward is None or swapped is None:
            reason = f"the judge gave no verdict: {judged.reason}"
            return replace(link, reason=reason, failed=judged.failed)
        # Evidence of a judge whom nobody measured is on record, and accepts nothing.
        if not self.trusted:
            return replace(link, reason="judge not certified")
        if forward == swapped == 0.5:
            return replace(link, state="no_change", reason="judged equal")
        if min(forward, swapped) > 0.5:
            return replace(link, state="accepted")
        if max(forward, swapped) < 0.5:
            return replace(link, state="worse", reason="the answer that was there is judged better")
        return replace(link, reason="the judge's two orders disagree")


def _comparison(chain: Chain, link: Link, principle: Principle) -> Comparison:
    return Comparison(
        about(chain.prompt, principle),
        link.revision,
        chain.answer,
        f"{chain.prompt.id}:{link.round}",
        principle=principle.question,
    )


def about(prompt: Prompt, principle: Principle) -> Prompt:
    """The prompt with the principle's id, for a judge that knows a world; no model sees it."""
    noted: Mapping[str, Any] = {"step": "compare", "principle": principle.id, "answer": ""}
    return replace(prompt, metadata={**prompt.metadata, ABOUT: noted})
