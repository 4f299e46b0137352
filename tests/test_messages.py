"""Every message of the source is two whole sentences: a problem with a verb, and a fix that says what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kilter.errors import RunFailed, UserError, nearest
from kilter.objectives import build_objective
from kilter.recipe import build
from kilter.release.gate.verdict import _candidate

SRC = Path(__file__).resolve().parents[1] / "src"
LONGEST = 200
"""Characters of a problem or a fix, without what is filled in."""

WORDS = """
    answers are belongs can cannot comes compares could differs divides does ends exceeds exists fails falls fills gives goes has have
    finds holds is lacks leads learns leaves lies limits looks makes measures moves must names needs puts reads refuses reports rewrites scores serves
    sets shards shares should stands starts takes trains uses varies wants was would
    finds leads
"""
VERBS = frozenset(WORDS.split())
"""What a problem may begin with; its subject is the field."""

ORDERS = """
    ask add audit certify check choose close compare copy correct cut derive did drop evaluate finish free give install keep leave list look
    lower make mend merge mix move name publish put quote raise remove rename report resume run save see serve set share
    shorten start train use vary wait write
"""
IMPERATIVES = frozenset(ORDERS.split())
"""What a fix may begin with; "did" is that of "Did you mean"."""

SENTENCE_VERBS = VERBS | {"did", "ended", "failed", "had", "stopped", "took"}
"""A failed run's sentence has one of these; its subject is written out."""

BEGINS = re.compile(r"[A-Z{]|vLLM")
"""How a sentence begins."""


MISTAKES = (("UserError", 2), ("refuse", 2))
"""Calls of (field, value, problem, fix), and where the problem stands."""


def text_of(node: ast.expr) -> str | None:
    """The literal text of an argument, {} where something is filled in; None where the text is not written there."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or "{}") + (text_of(node.right) or "{}")
    return None


Names = dict[str, list[ast.expr]]
"""Everything that is assigned to a name."""


def texts_of(node: ast.expr, names: Names) -> list[str]:
    """All literal texts that an argument can be: sides of a condition, values of a dict or of a variable."""
    if isinstance(node, ast.IfExp):
        return texts_of(node.body, names) + texts_of(node.orelse, names)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        return [text for value in node.value.values for text in texts_of(value, names)]
    if isinstance(node, ast.Name):
        return [text for value in names.get(node.id, []) for text in texts_of(value, {})]
    text = text_of(node)
    return [] if text is None else [text]


def assigned(statements: Iterator[ast.AST]) -> Names:
    """What these statements assign to names, one by one or several at once."""
    names: Names = {}
    for node in statements:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts) if several else [(target, node.value)]
            for name, value in pairs:
                names.setdefault(getattr(name, "id", ""), []).append(value)
    return names


@cache
def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in sorted(SRC.rglob("*.py"))]


@cache
def calls(name: str) -> list[tuple[str, list[ast.expr], Names]]:
    """(place, arguments, variables in sight) of every call of the error, arguments as its parameters stand."""
    found = {}
    everywhere = [assigned(iter(tree.body)) for _, tree in trees()]
    imported = {name: values for names in everywhere for name, values in names.items() if name.isupper()}
    for (path, tree), own in zip(trees(), everywhere):
        constants = imported | own
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        # A nested function comes after the one that holds it, and so its own variables win.
        for scope in [tree, *functions]:
            names = constants if scope is tree else constants | assigned(ast.walk(scope))
            for node in ast.walk(scope):
                called = node.func if isinstance(node, ast.Call) else None
                if name in (getattr(called, "id", ""), getattr(called, "attr", "")):
                    assert isinstance(node, ast.Call)
                    given = [*node.args, *(k.value for k in node.keywords)]
                    place = f"{path.relative_to(SRC)}:{node.lineno}:{node.col_offset}"
                    found[place] = (place, given, names)
    return list(found.values())


def first_word(text: str) -> str:
    return text.split()[0].strip("`,.:;").lower() if text.split() else ""


def wrong_problems(name: str, at: int) -> list[str]:
    """Problems that do not begin with a verb, or are too long; `at` counts the arguments before them."""
    return [
        f"{place}: {text!r}"
        for place, given, names in calls(name)
        for text in texts_of(given[at], names)
        if text != "{}" and (first_word(text) not in VERBS or text[0].isupper() or len(text) > LONGEST)
    ]


def wrong_fixes(name: str, at: int) -> list[str]:
    """Fixes that do not begin with an imperative, or are too long."""
    return [
        f"{place}: {text!r}"
        for place, given, names in calls(name)
        if len(given) > at
        for text in texts_of(given[at], names)
        if text not in ("{}", "") and (first_word(text) not in IMPERATIVES or len(text) > LONGEST)
    ]


def test_a_users_mistake_has_a_verb_and_a_fix() -> None:
    """A bad row's error becomes a UserError, and carries no fix of its own."""
    assert len(calls("UserError")) > 200
    problems = [w for name, at in (*MISTAKES, ("RowError", 1)) for w in wrong_problems(name, at)]
    assert not problems, "a problem begins with a verb, its subject is the field:\n" + "\n".join(problems)
    fixes = [w for name, at in MISTAKES for w in wrong_fixes(name, at + 1)]
    assert not fixes, "a fix begins with an imperative:\n" + "\n".join(fixes)


def test_a_failed_run_has_a_sentence_and_a_fix() -> None:
    assert len(calls("RunFailed")) > 5
    wrong = [
        f"{place}: {text!r}"
        for place, given, names in calls("RunFailed")
        for text in texts_of(given[0], names)
        if text != "{}"
        and (
            not SENTENCE_VERBS & set(re.findall(r"\w+", text))
            or not BEGINS.match(text)
            or len(text) > LONGEST
        )
    ]
    assert not wrong, "a problem is a sentence with its subject:\n" + "\n".join(wrong)
    fixes = wrong_fixes("RunFailed", 1) + wrong_fixes("Stop", 1)
    assert not fixes, "a fix begins with an imperative:\n" + "\n".join(fixes)


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (
            UserError("seeds", [1, 1], "names a seed twice", "name each seed once"),
            "`seeds` = [1, 1] names a seed twice.\nFix: Name each seed once.",
        ),
        (
            UserError("data.path", "(absent)", "is required", "add path: ..."),
            "`data.path` is required.\nFix: Add path: ...",
        ),
        (
            UserError("beta", -1, "Input should be above 0", nearest("bta", ["beta"])),
            "`beta` = -1: Input should be above 0.\nFix: Did you mean 'beta'?",
        ),
        (
            RunFailed("The disk is full", "free some space", "Last good checkpoint: step-2"),
            "The disk is full.\nLast good checkpoint: step-2\nFix: Free some space.",
        ),
    ],
)
def test_printed_form(error: Exception, printed: str) -> None:
    assert str(error) == printed


def test_no_choice_is_near() -> None:
    assert nearest("zzz", ["dpo", "ipo"]) == "choose one of: dpo, ipo"
    assert nearest("zzz", [], none="name a stage") == "name a stage"
    assert nearest("zzz", []) == "leave it out: nothing can be named here"


EMPTY = {
    "a recipe without stages": (
        lambda: build({"model": "m", "data": {"path": "d"}, "stages": {}}, ["stages.a.train.limit=1"]),
        r"--set 'stages.a=\{train: \{method: sft\}\}'",
    ),
    "a method without fields": (lambda: build_objective({"name": "orm", "x": 1}), "has no fields"),
    "an evaluation without models": (
        lambda: _candidate({"models": {}, "baseline": None}, None, None),
        "0 candidates.*Evaluate models",
    ),
    "a candidate of none": (
        lambda: _candidate({"models": {}, "baseline": None}, "dpo", None),
        "holds no model",
    ),
}


@pytest.mark.parametrize("name", EMPTY)
def test_where_there_is_no_choice_none_is_offered(name):
    act, fix = EMPTY[name]
    with pytest.raises(UserError, match=f"(?s){fix}") as failed:
        act()
    assert not re.search(r"[:(]\s*[.)]", str(failed.value))
