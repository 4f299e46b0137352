"""Verifiers: rules that need no model.

Each scores 1 or 0 (or a share) and says nothing where it has no answer to check against.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jsonschema
from jsonschema_specifications import REGISTRY as KNOWN
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from kilter.data.row import is_missing, unpacked
from kilter.data.row import name as name_of
from kilter.errors import UserError, nearest
from kilter.feedback import final_answer
from kilter.feedback.final_answer import boxed
from kilter.feedback.isolation import Patience, limited
from kilter.feedback.registry import feedback_sources
from kilter.seams import FeedbackSource
from kilter.types import Completion, Feedback, Group, Prompt

LOOK_BACK = 4000
"""Characters at the end of an answer in which the final number or formula is searched."""

TIMEOUT = 10.0
"""Seconds for one verdict; answers can be made to parse for ever (9**9**9)."""


def ready() -> None:
    """What a new worker does before the first verdict, off the clock: importing this module."""


def first_parse() -> None:
    """The first parse of math-verify imports its grammar."""
    MathAnswer().equal("1", "1")


class _PerCompletion(FeedbackSource):
    """A verifier judges one prompt and completion at a time.

    If a judgement is None, fails or takes too long, the completion stays unscored.
    """

    prepare = staticmethod(ready)

    def __call__(self, groups: Sequence[Group]) -> list[list[Feedback]]:
        """One Feedback per completion."""
        patience = Patience()
        return [[self.verdict(g.prompt, c, patience) for c in g.completions] for g in groups]

    def verdict(self, prompt: Prompt, completion: Completion, patience: Patience) -> Feedback:
        """One judgement, in a process of its own; `patience` counts those that took too long."""
        call = lambda: limited(self.judge, prompt, completion, timeout=TIMEOUT, prepare=self.prepare)
        found, problem = patience.call(call)
        score, why = (None, problem) if problem else found
        return Feedback(score, "verifier", rationale=why, source=type(self).__name__)

    @abstractmethod
    def judge(self, prompt: Prompt, completion: Completion) -> tuple[float | None, str]:
        """Scores one completion: (score, rationale). A score of None leaves it unscored."""


def gold_answer(prompt: Prompt, key: str) -> str | None:
    """The reference answer of the prompt: what Kilter noted under this name, else the user's own column.

    Of "... #### 42" the part after the mark, of "... \\boxed{42} ..." what stands in the last box.
    """
    value = prompt.metadata.get(key, prompt.columns.get(key))
    if is_missing(value):
        return None
    text = name_of(value).rpartition("####")[2].strip()
    return boxed(text) or text


def behind(text: str, mark: str) -> str:
    """The line behind the last mark; of a tag, what it encloses."""
    rest = text.rpartition(mark)[2]
    if mark.startswith("<") and mark.endswith(">"):
        return rest.partition(f"</{mark[1:]}")[0].strip()
    return rest.strip().removeprefix(":").strip().split("\n")[0]


class _AgainstAnswer(_PerCompletion):
    """Compares what the completion ends with to the reference in the prompt's metadata."""

    def __init__(self, key: str = "answer", mark: str | None = None) -> None:
        self.key, self.mark = key, mark

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """The column of the reference."""
        return (str(options.get("key", "answer")),)

    def readable(self, gold: str) -> bool:
        """Whether the reference is one that answers can be compared with."""
        return bool(gold)

    def judge(self, prompt: Prompt, completion: Completion) -> tuple[float | None, str]:
        """Finds both, then compares."""
        gold = gold_answer(prompt, self.key)
        if gold is None:
            return None, f"the prompt has no {self.key!r}"
        if not self.readable(gold):
            return None, f"the prompt's {self.key!r} is {gold[:40]!r}, which cannot be read"
        text = completion.text
        if self.mark is not None:
            if self.mark not in text:
                return 0.0, f"no {self.mark}"
            text = behind(text, self.mark)
        right = self.equal(gold, text)
        return float(right), "right" if right else "wrong"

    @abstractmethod
    def equal(self, gold: str, text: str) -> bool:
        """Whether they say the same."""


@feedback_sources.register("math")
class MathAnswer(_AgainstAnswer):
    """1 when the final answer equals the reference as mathematics (math-verify): 0.5 = 1/2 = \\frac{1}{2}.

    key: column of the reference. mark: when given, only what follows the last mark counts, and an
    answer without it is wrong; without a mark the last number or formula of the text counts.
    """

    prepare = staticmethod(first_parse)

    def readable(self, gold: str) -> bool:
        """Whether the reference is mathematics.

        A word ("Paris") would be read as a product of letters, and no answer in prose would equal it.
        """
        from math_verify import parse

        gold = final_answer.reference(gold)
        word = re.fullmatch(r"[^\W\d_]{2,}(?:\s+[^\W\d_]+)*", gold) is not None and gold.lower() not in (
            "pi",
            "infinity",
            "inf",
        )
        return bool(not word and parse(f"${gold}$", parsing_timeout=None))

    def equal(self, gold: str, text: str) -> bool:
        """After parsing both; its own time limits use signals, which work in the main thread alone."""
        from math_verify import parse, verify

        gold, text = final_answer.reference(gold), text[-LOOK_BACK:]
        if final_answer.CHOICE.fullmatch(gold):
            return final_answer.names_choice(gold, text)
        expected = parse(f"${gold}$", parsing_timeout=None)
        found = parse(final_answer.last_part(text), parsing_timeout=None)
        # (-oo, 3] and x <= 3 say the same, whichever of them is the reference.
        if not verify(expected, found, timeout_seconds=None, allow_set_relation_comp=True):
            return False
        # math-verify rounds to six decimals: what is small, or differs in the seventh, would be equal.
        return not final_answer.differ(expected, found)


@feedback_sources.register("exact")
class ExactMatch(_AgainstAnswer):
    """1 when the answer is the reference, white space and case aside.

    key: column of the reference; mark: as in math.
    """

    def equal(self, gold: str, text: str) -> bool:
        """Whether both are the same text, apart from case and spaces."""
        return " ".join(text.split()).lower() == " ".join(gold.split()).lower()


@feedback_sources.register("regex")
class Regex(_PerCompletion):
    """1 when the pattern is found (anywhere, or over the whole answer with full: true)."""

    def __init__(self, pattern: str, full: bool = False) -> None:
        try:
            self.pattern, self.full = re.compile(pattern, re.DOTALL), full
        except re.error as error:
            raise UserError(
                "feedback.regex.pattern",
                pattern,
                f"is not a regular expression ({error})",
                "check brackets and escapes",
            ) from error

    def judge(self, prompt: Prompt, completion: Completion) -> tuple[float | None, str]:
        """1 if the pattern matches, 0 if not."""
        find = self.pattern.fullmatch if self.full else self.pattern.search
        return float(find(completion.text) is not None), ""


def _resolve_all(part: Resource[Any], resolver: Any) -> None:
    """Looks up every reference of a schema and of those in it. Raises Unresolvable."""
    if isinstance(part.contents, Mapping):
        for key in ("$ref", "$dynamicRef"):
            if isinstance(reference := part.contents.get(key), str):
                resolver.lookup(reference)
    for inner in part.subresources():
        _resolve_all(inner, resolver.in_subresource(inner))


@feedback_sources.register("json_schema")
class JsonSchema(_PerCompletion):
    """1 when the answer is JSON that fits the schema, 0.5 when it is JSON that does not, 0 otherwise.

    A ``` fence is allowed.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            jsonschema.Draft202012Validator.check_schema(dict(schema))
        except jsonschema.SchemaError as error:
            raise UserError(
                "feedback.json_schema.schema",
                schema,
                f"is not a JSON schema ({error.message})",
                "see json-schema.org for its rules",
            ) from error
        self.schema = dict(schema)
        self._check_references()

    def _check_references(self) -> None:
        """A schema stands for itself: nothing that it refers to is fetched, neither now nor later."""
        whole = Resource.from_contents(self.schema, default_specification=DRAFT202012)
        try:
            _resolve_all(whole, KNOWN.with_resource("", whole).resolver(whole.id() or ""))
        except Unresolvable as error:
            raise UserError(
                "feedback.json_schema.schema",
                f"$ref: {error.ref}",
                "names a schema that does not stand in this one, and none is fetched",
                "copy it below $defs, and refer to it there: {$ref: '#/$defs/NAME'}",
            ) from error

    def judge(self, prompt: Prompt, completion: Completion) -> tuple[float | None, str]:
        """1 if the answer is JSON and satisfies the schema; a fence around it is removed."""
        text = re.sub(r"^```(?:json)?\s*|\s*```$", "", completion.text.strip(), flags=re.IGNORECASE)
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return 0.0, f"not JSON ({error})"
        validator = jsonschema.Draft202012Validator(self.schema, registry=KNOWN)
        problem = next(iter(validator.iter_errors(value)), None)
        return (1.0, "") if problem is None else (0.5, problem.message)


@feedback_sources.register("format")
class FormatTags(_PerCompletion):
    """1 if the answer is <tag>...</tag> for each tag, once each and in order, with white space between."""

    def __init__(self, tags: Sequence[str] = ("think", "answer")) -> None:
        known = "|".join(map(re.escape, tags))
        self.pattern = re.compile(
            r"\s*"
            + r"\s*".join(rf"<{re.escape(t)}>(?:(?!</?(?:{known})>).)*</{re.escape(t)}>" for t in tags)
            + r"\s*",
            re.DOTALL,
        )

    def judge(self, prompt: Prompt, completion: Completion) -> tuple[float | None, str]:
        """Matches the whole answer."""
        return float(self.pattern.fullmatch(completion.text) is not None), ""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", text)


CHECKS: dict[str, tuple[type, Callable[[str, Any], bool]]] = {
    "keywords": (list, lambda text, v: all(k.lower() in text.lower() for k in v)),
    "forbidden_words": (
        list,
        lambda text, v: not any(re.search(rf"(?<!\w){re.escape(k)}(?!\w)", text, re.IGNORECASE) for k in v),
    ),
    "min_words": (int, lambda text, v: len(_words(text)) >= v),
    "max_words": (int, lambda text, v: len(_words(text)) <= v),
    "min_sentences": (int, lambda text, v: len(re.findall(r"[.!?](?:\s|$)", text)) >= v),
    "max_sentences": (int, lambda text, v: len(re.findall(r"[.!?](?:\s|$)", text)) <= v),
    "bullets": (int, lambda text, v: len(re.findall(r"^\s*[-*] ", text, re.MULTILINE)) == v),
    "paragraphs": (int, lambda text, v: len([p for p in text.split("\n\n") if p.strip()]) == v),
    "starts_with": (str, lambda text, v: text.strip().startswith(v)),
    "ends_with": (str, lambda text, v: text.strip().endswith(v)),
    "no_commas": (bool, lambda text, v: ("," not in text) is bool(v)),
    "uppercase": (bool, lambda text, v: (text == text.upper()) is bool(v)),
    "lowercase": (bool, lambda text, v: (text == text.lower()) is bool(v)),
    "quoted": (bool, lambda text, v: (text.strip()[:1] == text.strip()[-1:] == '"') is bool(v)),
    "json": (bool, lambda text, v: _is_json(text) is bool(v)),
}
"""What each check takes, and whether a text passes it."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


@feedback_sources.register("instructions")
class Instructions(_PerCompletion):
    """Share of verifiable instructions that the answer follows (in the manner of IFEval, Zhou et al. 2023).

    checks: {name: value} for all prompts; a prompt's own column `instructions` is added to them.
    strict: 1 only when all are followed.
    """

    def __init__(self, checks: Mapping[str, Any] | None = None, strict: bool = False) -> None:
        self.checks, self.strict = dict(checks or {}), strict
        self._known(self.checks)

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[str]:
        """The prompts' own checks, where there are none for all of them."""
        return () if options.get("checks") else ("instructions",)

    def _known(self, checks: Mapping[str, Any]) -> None:
        for name in checks:
            if name not in CHECKS:
                raise UserError(
                    f"feedback.instructions.{name}",
                    checks[name],
                    "is not a known check",
                    nearest(name, CHECKS),
                )
            kind, value = CHECKS[name][0], checks[name]
            if not isinstance(value, (list, tuple) if kind is list else kind) or (
                isinstance(value, bool) and kind is not bool
            ):
                raise UserError(
                    f"feedback.instructions.{name}", value, "is of the wrong kind", f"give a {kind.__name__}"
                )

    def _own(self, prompt: Prompt) -> dict[str, Any]:
        """The checks of the prompt's own column, which a text column holds as JSON."""
        given = prompt.metadata.get("instructions", prompt.columns.get("instructions"))
        found = unpacked(given) if isinstance(given, str) else given
        if is_missing(found):
            return {}
        if not isinstance(found, Mapping):
            raise ValueError("the column 'instructions' is not a mapping from check to value")
        return dict(found)

    def judge(self, prompt: Prompt, completion: Completion) -> tuple[float | None, str]:
        """Runs every check."""
        checks = self.checks | self._own(prompt)
        self._known(checks)
        if not checks:
            return None, "the prompt has no 'instructions'"
        missed = [name for name, value in checks.items() if not CHECKS[name][1](completion.text, value)]
        share = 1 - len(missed) / len(checks)
        return (float(not missed) if self.strict else share), "missed " + ", ".join(missed) if missed else ""
