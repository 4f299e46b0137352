"""Feedback on the answers, by the gold source and a reward model. Finished scores outlive a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from kilter import feedback as feedbacks
from kilter.artifacts import remove
from kilter.data import store
from kilter.evaluation.answers import Answers
from kilter.evaluation.config import EvaluateSpec
from kilter.feedback.classifier import RewardModel
from kilter.feedback.context import Context
from kilter.feedback.judge.canary import counted, in_words
from kilter.feedback.judge.source import JudgeFeedback, JudgeOptions
from kilter.feedback.process_reward import ProcessReward
from kilter.feedback.worlds import OwnJudge, judged
from kilter.models.fingerprint import model_hash
from kilter.models.load import scores_steps
from kilter.progress import Display
from kilter.registry import user_files
from kilter.roles.open import OpenSpec, open_encoder
from kilter.screen import styled
from kilter.types import Completion, Feedback, Group, Prompt

Scores = dict[str, list[tuple[Feedback, ...]]]
"""source -> [prompt][sample]"""


TOGETHER = 16
"""Prompts that a judge is asked about between two words on its progress."""


class Source(Protocol):
    """Scores the answers of one evaluation."""

    @property
    def judge(self) -> str:
        """The source's name in reports."""
        ...

    @property
    def stamp(self) -> str:
        """Changes with whatever changes its scores."""
        ...

    def judges(self) -> Sequence[Mapping[str, Any]]:
        """The judges behind it, each with its fingerprint and what vouches for it; none of other sources."""
        ...

    def score(self, groups: Sequence[Group], title: str) -> list[list[Feedback]]:
        """One list per group, one Feedback per completion."""
        ...


class GoldSource:
    """The source that a recipe names, or the judge of the world that the prompts come from."""

    def __init__(self, gold: Any, prompts: Sequence[Prompt], context: Context | None = None) -> None:
        own = " and ".join(f"{name} verifier" for name in judged(prompts))
        self.judge = own if gold is None else json.dumps(gold)
        self.stamp = self.judge + "".join(path.read_text(encoding="utf-8") for path in user_files(gold))
        self._judges = (
            OwnJudge(prompts) if gold is None else feedbacks.build(gold, context or Context(), "gold")
        )

    def judges(self) -> Sequence[Mapping[str, Any]]:
        """As the sources' own history has them."""
        found = self._judges.history()
        return [h for h in found.get("judges", [found]) if "judge" in h]

    def score(self, groups: Sequence[Group], title: str) -> list[list[Feedback]]:
        """One Feedback per completion."""
        return self._judges(groups)


class JudgeSource:
    """A judge. It compares the answers of all models to a prompt, the baseline's first, or grades each.

    Args:
        judge: judge.yaml.
        context: finds models, and keeps replies in its folder.
        console: shows how far it is and what it costs.
    """

    def __init__(self, judge: str, context: Context, console: Console) -> None:
        self._source = JudgeFeedback(JudgeOptions(file=judge), context)
        self._console = console
        asked = self._source.judge
        self.judge, self.stamp = asked.name, f"{asked.fingerprint}|{self._source.spec.repeats}"

    def judges(self) -> Sequence[Mapping[str, Any]]:
        """The judge, and what vouches for it."""
        return [self._source.history()]

    def score(self, groups: Sequence[Group], title: str) -> list[list[Feedback]]:
        """One Feedback per completion."""
        found: list[list[Feedback]] = []
        with Display(self._console, title, len(groups)) as display:
            for first in range(0, len(groups), TOGETHER):
                found += self._source(groups[first : first + TOGETHER])
                display.update(len(found), f"prompts  {self._source.note()}")
        for words in in_words(counted(self._source.canaries())):
            self._console.print(styled("  [yellow]{}[/]", words), soft_wrap=True)
        return found


class _Steps:
    """A process reward model as a scorer of whole answers: its least probable step counts."""

    def __init__(self, folder: Path, max_length: int, template: str) -> None:
        encoder = open_encoder(OpenSpec(folder, "steps", template=template, max_length=max_length))
        self._source = ProcessReward(str(folder), Context(Path, (None, encoder)))

    def __call__(self, groups: Sequence[Group], progress: Callable[[int], None]) -> list[list[Feedback]]:
        """One Feedback per completion; each group is read by itself."""
        found: list[list[Feedback]] = []
        for group in groups:
            found += self._source([group])
            progress(len(found))
        return found


@dataclass
class RewardSource:
    """A reward model, opened when it is first asked."""

    judge: str
    folder: Path
    spec: EvaluateSpec
    console: Console

    @property
    def stamp(self) -> str:
        """The model's hash and how it reads."""
        s = self.spec
        return f"{model_hash(self.folder)}|{s.max_length + s.max_new_tokens}|{s.template}"

    @cached_property
    def model(self) -> RewardModel | _Steps:
        """With room for a prompt and a whole answer. A process reward model's score is that of its steps."""
        s = self.spec
        room = s.max_length + s.max_new_tokens
        if scores_steps(self.folder):
            return _Steps(self.folder, room, s.template)
        return RewardModel(self.folder, room, s.tokens_per_microbatch, s.template)

    def judges(self) -> Sequence[Mapping[str, Any]]:
        """None: a reward model is tested on held-out pairs."""
        return ()

    def score(self, groups: Sequence[Group], title: str) -> list[list[Feedback]]:
        """By the text of the completions alone: another tokenizer may apply."""
        return self.pairs([_text_only(g) for g in groups], title, "prompts")

    def pairs(self, groups: Sequence[Group], title: str, unit: str = "pairs") -> list[list[Feedback]]:
        """One Feedback per completion as it stands."""
        with Display(self.console, title, len(groups)) as display:
            return self.model(groups, lambda done: display.update(done, unit))


def _text_only(group: Group) -> Group:
    return replace(group, completions=tuple(Completion(c.text or " ") for c in group.completions))


@dataclass(frozen=True)
class Scoring:
    """Scores the answers of all models.

    folder: where finished scores lie until `forget`, for an attempt that is killed.
    """

    sources: Mapping[str, Source]
    folder: Path
    title: str

    def __call__(
        self, prompts: Sequence[Prompt], answers: Mapping[str, Answers], sampled: Collection[str]
    ) -> dict[str, Scores]:
        """Feedback as model -> source -> [prompt][sample].

        The first answers of all models to a prompt are one group: a source that compares sees them together.

        Args:
            sampled: sources that score further samples, not the first answer alone.
        """
        names = list(answers)
        present = [[n for n in names if answers[n][i]] for i in range(len(prompts))]
        first = [tuple(answers[n][i][0] for n in present[i]) for i in range(len(prompts))]
        found: dict[str, Scores] = {name: {} for name in names}
        for source in self.sources:
            rows = self._score(source, prompts, first, ", ".join(names))
            for name in names:
                own: list[tuple[Feedback, ...]] = [
                    (row[who.index(name)],) if name in who else ()
                    for row, who in zip(rows, present, strict=True)
                ]
                if source in sampled:
                    further = [row[1:] for row in answers[name]]
                    more = self._score(source, prompts, further, f"the further answers of {name}")
                    own = [(*one, *rest) for one, rest in zip(own, more, strict=True)]
                found[name][source] = own
        return found

    def forget(self) -> None:
        """Takes the scores from disk: the evaluation that they were for is written."""
        remove(self.folder)

    def _score(
        self, source: str, prompts: Sequence[Prompt], rows: Answers, whose: str
    ) -> list[list[Feedback]]:
        """Feedback on each answer of each row. A source is not asked about a prompt without answers."""
        groups = [
            Group(p, row, (Feedback(None),) * len(row)) for p, row in zip(prompts, rows, strict=True) if row
        ]
        found = iter(self._remembered(source, groups, whose))
        return [next(found) if row else [] for row in rows]

    def _remembered(self, source: str, groups: Sequence[Group], whose: str) -> list[list[Feedback]]:
        """Scores of a killed attempt where source and answers are the same, else new ones, which are kept."""
        asked = self.sources[source].stamp + json.dumps([store.to_json(g) for g in groups])
        path = self.folder / f"{source}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.jsonl"
        if path.exists():
            return [list(g.feedback) for g in store.read(path)]
        found = self.sources[source].score(groups, f"{self.title}: {source} of {whose}")
        store.write(path, [replace(g, feedback=tuple(f)) for g, f in zip(groups, found, strict=True)])
        return found


def combined(model: str, scores: Mapping[str, Sequence[Feedback]]) -> Feedback:
    """One Feedback on the first answer: the gold score, else the reward. The rationale holds all."""
    known = {source: row[0] for source, row in scores.items() if row and row[0].score is not None}
    primary = known.get("gold") or known.get("reward") or Feedback(None)
    notes = [f"{m} {f.score:.2f}" + (f" ({f.rationale})" if f.rationale else "") for m, f in known.items()]
    return replace(primary, source=model, rationale="; ".join(notes))
