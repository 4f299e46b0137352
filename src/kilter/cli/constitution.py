"""kilter constitution: show, lint, convert, test, conflicts, diff."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from kilter.artifacts import require_file, write_text
from kilter.cli.app import command, commands, err, out
from kilter.constitution.read import shipped
from kilter.errors import Exit, UserError, nearest
from kilter.screen import many, styled

if TYPE_CHECKING:
    from kilter.constitution.document import Constitution as ConstitutionFile
    from kilter.constitution.probe import LeftOut, Measure
    from kilter.feedback.judge.verdict import Comparison

constitution_app = commands(
    "constitution",
    help="Read constitutions, check them, and measure what their principles do.",
    examples=[
        "kilter constitution show general",
        "kilter constitution lint my.yaml",
        "kilter constitution diff one general --data pairs.jsonl --judge judge.yaml",
    ],
)

Document = Annotated[
    str, typer.Argument(help=f"{', '.join(shipped())}, a .yaml file, or a .json file", metavar="NAME")
]
JsonOption = Annotated[bool, typer.Option("--json", help="machine-readable")]


@command("show", to=constitution_app, examples=["kilter constitution show general"])
def show(name: Document, as_json: JsonOption = False) -> None:
    """Print a constitution: its principles by rank, with weight and scope."""
    from kilter.constitution.read import load

    document = load(name)
    if as_json:
        out.print(json.dumps(document.model_dump(mode="json"), indent=1), soft_wrap=True)
        return
    licence = document.licence or "no licence"
    count = many(len(document.principles), "principles")
    out.print(f"{document.name}: {count}, {licence}, {document.fingerprint[:16]}")
    ranks = document.tiers
    for principle in sorted(document.principles, key=lambda p: ranks[p.id]):
        scope = principle.scope
        where = [f"prompts like {scope.prompts!r}"] * (scope.prompts is not None)
        where += [f"labelled {', '.join(scope.labels)}"] * bool(scope.labels)
        notes = [f"rank {ranks[principle.id]}", f"weight {principle.weight:g}", *where]
        out.print(styled("[bold]{}[/]  {}", principle.id, "; ".join(notes)))
        out.print(f"  {principle.rule}", soft_wrap=True)


@command("lint", to=constitution_app, examples=["kilter constitution lint my.yaml"])
def lint(name: Document, as_json: JsonOption = False) -> None:
    """Check a constitution by reading it: duplicates, broken examples, ranks. Exit code 2 for an error."""
    from dataclasses import asdict

    from kilter.constitution.lint import lint as check
    from kilter.constitution.read import load

    document = load(name)
    found = check(document)
    if as_json:
        out.print(json.dumps([asdict(f) for f in found], indent=1), soft_wrap=True)
    for finding in found if not as_json else ():
        colour = {"error": "red", "warn": "yellow"}[finding.level]
        who = finding.principle or document.name
        out.print(styled(f"[{colour}]{{}}[/] {{}} {{}}", f"{finding.level:<5}", who, finding.problem))
    if not found and not as_json:
        count = many(len(document.principles), "principles")
        out.print(f"{document.name}: {count}, nothing to object to")
    if any(f.level == "error" for f in found):
        raise typer.Exit(int(Exit.BAD_INPUT))


@command(
    "convert",
    to=constitution_app,
    examples=[
        "kilter constitution convert principles.json mine.yaml",
        "kilter constitution convert general general.json --to pairs",
    ],
)
def convert(
    name: Document,
    target: Annotated[Path, typer.Argument(help="file to write: .yaml, or .json of a public layout")],
    to: Annotated[
        str, typer.Option(help="kilter, revisions ({id: {prompt, edit_request}}) or pairs (critic, revision)")
    ] = "kilter",
) -> None:
    """Read any known layout, and write any of them."""
    from kilter.constitution.layouts import WRITERS
    from kilter.constitution.read import load

    if to not in WRITERS:
        raise UserError("--to", to, "is not a layout", nearest(to, WRITERS))
    suffix = ".yaml" if to == "kilter" else ".json"
    if target.suffix != suffix:
        raise UserError("target", str(target), f"is not a {suffix} file", f"name it something{suffix}")
    if target.exists():
        raise UserError("target", str(target), "exists already", "choose another name, or remove it")
    document = load(name)
    require_file(target, "target")
    raw = WRITERS[to](document)
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=100) if to == "kilter" else ""
    write_text(target, text or json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    out.print(f"{many(len(document.principles), 'principles')} written to {target}")


Data = Annotated[str, typer.Option("--data", help="file of pairs, Hub name, or builtin:NAME")]
Limit = Annotated[int, typer.Option(min=2, help="the first N pairs")]
JudgeOption = Annotated[
    str, typer.Option("--judge", help="judge.yaml, builtin:WORLD (its own critic), or a model")
]


@command(
    "test",
    to=constitution_app,
    examples=[
        "kilter constitution test general --data pairs.jsonl --critic runs/sft",
        "kilter constitution test general --data pairs.jsonl --critic runs/sft --judge judge.yaml",
    ],
)
def probe(
    name: Document,
    data: Data,
    critic: Annotated[str, typer.Option(help="builtin:WORLD (its own critic), a model, or critic.yaml")],
    judge: Annotated[
        str | None,
        typer.Option(
            help="who compares with and without each principle; default: the critic, none for a file"
        ),
    ] = None,
    limit: Limit = 100,
    target: Annotated[Path | None, typer.Option("--out", help="file of the page, .md")] = None,
    as_json: JsonOption = False,
) -> None:
    """Which principle never fires, which always does, and what changes without each of them?"""
    from kilter.constitution.opening import critic_of_text, judge_of_text
    from kilter.constitution.page import FIRES, fires_rows, principles_page
    from kilter.constitution.probe import fires, leave_one_out, said, votes
    from kilter.constitution.read import load

    _page_goes_to(target)
    document, comparisons = load(name), _pairs(data, limit)
    _name_what_a_script_mixes_up([critic, judge or ""], [document])
    # A file of a critic's settings says how it writes, and nothing of how it compares.
    compares = judge or ("" if critic.endswith((".yaml", ".yml")) else critic)
    who = judge_of_text(compares) if compares else None
    answers = [(c.prompt, text) for c in comparisons for text in (c.first, c.second)]
    fired = fires(document, critic_of_text(critic), answers)
    left = []
    if who is not None:
        judged = said(votes(document, who, comparisons))
        left = leave_one_out(document, comparisons, judged, _measures(comparisons))
    if target is not None:
        write_text(
            target, principles_page(document.name, fired, left, data, critic, "" if who is None else who.name)
        )
    if as_json:
        rows = [
            {"principle": f.principle, "probes": f.probes, "invalid": f.invalid, "says": f.says}
            | {"rate": f.rate.to_json()}
            for f in fired
        ]
        out.print(json.dumps({"fires": rows, "without": _plain(left)}, indent=1), soft_wrap=True)
        return
    _print_table(FIRES, fires_rows(fired))
    if who is not None:
        _print_left_out(left, document.name)
    else:
        out.print("\nwithout each principle: not measured; name who compares with --judge")


def _plain(left: Sequence[LeftOut]) -> dict[str, Any]:
    """What changes without each principle, for JSON."""
    return {
        one.principle: {"moved": one.moved.to_json()} | {m: c.to_json() for m, c in one.changes.items()}
        for one in left
    }


def _print_left_out(left: Sequence[LeftOut], name: str) -> None:
    """The table of what changes without each principle, and how it is read."""
    from kilter.constitution.page import ABOUT_LEFT_OUT, interval, surest_first, tested

    if not left:
        out.print(f"\n{name} has one principle: there is no constitution without it")
        return
    for one in surest_first(left):
        head = styled("\nwithout [bold]{}[/]: {} of the decisions change", one.principle, interval(one.moved))
        out.print(head, soft_wrap=True)
        changed = [(m, *tested(c)) for m, c in one.changes.items() if c.gains or c.losses]
        for measure, change, counts, p, holm in changed:
            out.print(f"  {measure:29} {change:38} {counts:>7}  p {p}, Holm {holm}", soft_wrap=True)
    out.print(f"\n{ABOUT_LEFT_OUT}")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    shown = Table(*head, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*map(escape, row))
    out.print(shown)


@command(
    "conflicts",
    to=constitution_app,
    examples=["kilter constitution conflicts general --data pairs.jsonl --judge judge.yaml"],
)
def conflicts(
    name: Document,
    data: Data,
    judge: JudgeOption,
    limit: Limit = 200,
    contradict: Annotated[
        float, typer.Option(min=0, max=1, help="a rate whose lower bound is above this is a contradiction")
    ] = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Which principles prefer different answers, how often, and what changes without each of them."""
    from kilter.constitution.opening import judge_of_text
    from kilter.constitution.page import interval
    from kilter.constitution.probe import conflicts as pairs_of
    from kilter.constitution.probe import leave_one_out, said, votes
    from kilter.constitution.read import load

    document, comparisons = load(name), _pairs(data, limit)
    _name_what_a_script_mixes_up([judge], [document])
    found = said(votes(document, judge_of_text(judge), comparisons))
    opposed = pairs_of(document, found)
    left = leave_one_out(document, comparisons, found, _measures(comparisons))
    if as_json:
        rows = [
            {"first": c.first, "second": c.second, "rate": c.rate.to_json()}
            | {"contradict": c.contradict(contradict)}
            for c in opposed
        ]
        out.print(json.dumps({"conflicts": rows, "without": _plain(left)}, indent=1), soft_wrap=True)
        return
    for c in opposed:
        word = "contradict" if c.contradict(contradict) else ""
        line = f"differ on {interval(c.rate)} of the pairs that both decide"
        out.print(styled("[bold]{} / {}[/]  {}  [red]{}[/]", c.first, c.second, line, word), soft_wrap=True)
    _print_left_out(left, document.name)


@command(
    "diff",
    to=constitution_app,
    examples=[
        "kilter constitution diff one general --data pairs.jsonl --judge judge.yaml",
        "kilter constitution diff old.yaml new.yaml --data pairs.jsonl --judge judge.yaml --out page.md",
    ],
)
def diff(
    first: Document,
    second: Document,
    data: Data,
    judge: JudgeOption,
    limit: Limit = 200,
    target: Annotated[Path | None, typer.Option("--out", help="file of the page, .md")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two constitutions on the same pairs, with paired intervals."""
    from kilter.constitution.opening import judge_of_text
    from kilter.constitution.page import page
    from kilter.constitution.probe import difference
    from kilter.constitution.read import load

    _page_goes_to(target)
    who = judge_of_text(judge)
    comparisons, documents = _pairs(data, limit), (load(first), load(second))
    _name_what_a_script_mixes_up([judge], documents)
    found = difference(*documents, who, comparisons, _measures(comparisons))
    text = page(found, data, who.name)
    if target is not None:
        write_text(target, text)
    if as_json:
        out.print(json.dumps(found.to_json() | {"judge": who.name}, indent=1), soft_wrap=True)
        return
    out.print(text, soft_wrap=True)


def _name_what_a_script_mixes_up(texts: Sequence[str], documents: Sequence[ConstitutionFile]) -> None:
    """A world's script has rules for the principles of its own constitution, and not for a user's."""
    from kilter.constitution.opening import not_told_apart

    for text in dict.fromkeys(texts):
        if mixed := not_told_apart(text, documents):
            line = f"{text} has no rule of its own for {', '.join(mixed)}: it answers them all alike"
            err.print(styled("[yellow]warn[/] {}", line), soft_wrap=True)


def _page_goes_to(target: Path | None) -> None:
    """Refuses a file whose name says that it holds something else than a page in Markdown."""
    if target is None:
        return
    if target.suffix != ".md":
        raise UserError("--out", str(target), "is not a .md file", f"name it {target.with_suffix('.md')}")
    require_file(target, "--out")


def _pairs(data: str, limit: int) -> list[Comparison]:
    """Pairs as comparisons, the better one first in every second: place must not tell."""
    from kilter.api import make_data_spec
    from kilter.data.dataset import load
    from kilter.feedback.judge.verdict import Comparison

    groups = load(make_data_spec({"path": data, "heldout": 0.0, "limit": limit}), "pairs").train
    rows = []
    for n, group in enumerate(groups):
        texts = [c.text for c in group.completions][:: 1 if n % 2 else -1]
        rows.append(Comparison(group.prompt, texts[0], texts[1], group.prompt.id))
    return rows


def _measures(comparisons: Sequence[Comparison]) -> dict[str, Measure]:
    """What is measured of the answers that a constitution prefers.

    Args:
        comparisons: of `_pairs`, whose labels say which answers people chose.
    """
    from kilter.data.dataset import prompt_key
    from kilter.evaluation.classifiers import declines, safety_label, should_comply, violates
    from kilter.feedback.worlds import OwnJudge
    from kilter.types import Completion, Feedback, Group, Prompt

    def gold(prompt: Prompt, text: str) -> float | None:
        """The score of the prompt's own world; None of any other prompt."""
        group = Group(prompt, (Completion(text),), (Feedback(None),))
        return OwnJudge([prompt])([group])[0][0].score

    better = {
        (prompt_key(c.prompt), text): float((text == c.first) == (n % 2 == 1))
        for n, c in enumerate(comparisons)
        for text in (c.first, c.second)
    }
    return {
        "as the labels": lambda prompt, text: better.get((prompt_key(prompt), text)),
        "violations on unsafe requests": lambda prompt, text: (
            float(violates(prompt, text)) if safety_label(prompt) == "unsafe" else None
        ),
        "over-refusal": lambda prompt, text: float(declines(prompt, text)) if should_comply(prompt) else None,
        "gold score": gold,
        "words": lambda prompt, text: float(len(text.split())),
    }
