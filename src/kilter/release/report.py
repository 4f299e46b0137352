"""The report: one self-contained HTML file from a run folder. The verdict comes first, then the evidence."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
from markupsafe import Markup

from kilter.artifacts import write_text
from kilter.evaluation.metrics import titles
from kilter.progress import clock
from kilter.release import answers, forest, words
from kilter.release.evidence import Evidence, gather
from kilter.release.section import PARTS, Section
from kilter.release.words import cell, number
from kilter.screen import plain

Sections = Mapping[str, Section | None]
"""What stages have to say themselves, by name."""

NOTHING: Sections = MappingProxyType({})


def write(run: Path, sections: Sections = NOTHING) -> Path:
    """Renders run/report.html from what the stages have left there, and returns its path.

    Args:
        run: the run's folder.
        sections: what the stages themselves have to say, by name.
    """
    write_text(run / "report.html", render(run, sections))
    return run / "report.html"


def render(run: Path, sections: Sections = NOTHING) -> str:
    """The page as text; sections without evidence yet are left out."""
    facts = gather(run)
    arrow = f" → {', '.join(facts.compared)}" if facts.compared else ""
    sub = f"{facts.settings.get('model', '')}{arrow}"
    return page(f"{facts.name} · Kilter report", facts.name, sub, [body(facts, sections)])


def page(title: str, heading: str, sub: str, bodies: Sequence[str], live: bool = False) -> str:
    """A whole document around the bodies of runs.

    Args:
        title: of the browser's tab.
        heading: the page's first line.
        sub: what stands beside it.
        bodies: ready HTML, a run or a comparison each.
        live: the page asks its server for what is new.
    """
    # Only this script runs, whatever an answer of a model smuggles in: the browser compares its hash.
    script = fill("report.js.j2")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return fill(
        "page.html.j2",
        title=title,
        heading=heading,
        sub=sub,
        bodies=bodies,
        links=[link for text in bodies for link in _links(text)],
        script=script,
        script_hash=f"sha256-{digest}",
        live=live,
    )


def body(facts: Evidence, sections: Sections = NOTHING, key: str = "", several: bool = False) -> str:
    """A run's part of a page.

    Args:
        facts: what the run folder holds.
        sections: what the stages themselves have to say, by name.
        key: begins the ids of its parts; default: made of the run's name.
        several: other runs stand on the same page, so that this one is named.
    """
    named = titles(facts.evaluation)
    written = [(s.name, found) for s in facts.stages if (found := sections.get(s.name)) is not None]
    gate, evaluation = facts.gate, facts.evaluation or {}
    return fill(
        "run.html.j2",
        run=facts,
        key=key or key_of(facts.name),
        heading=several,
        under_way=facts.under_way(),
        word=words.headline(gate) if gate else "",
        summary=words.summary(gate, named) if gate else "",
        reasons=words.reasons(gate, evaluation or {"models": {}}, named) if gate else [],
        no_verdict=_no_verdict(facts),
        limits=words.limits(evaluation, gate) if evaluation.get("models") else [],
        titles=named,
        forest=forest.rows(facts.evaluation, facts.compared),
        shelf=answers.shelf(facts.evaluated, evaluation, facts.candidate) if facts.evaluated else None,
        # Stages stand in the order of the run, and parts of the page in their own.
        sections=sorted(written, key=lambda pair: PARTS.index(pair[1].part)),
    )


def key_of(name: str) -> str:
    """A name as part of an id: letters, digits and dashes."""
    return "run-" + (re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "unnamed")


def fill(template: str, **values: Any) -> str:
    """A file of templates/ with these values in it."""
    # Answers of models are shown, so everything is escaped; Markdown has its own way, the filter `cell`.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kilter.release"),
        autoescape=not template.endswith(".md.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    environment.filters |= {"number": number, "interval": interval, "clock": clock, "cell": cell}
    environment.tests["beyond"] = words.BEYOND.__contains__
    return environment.get_template(template).render(**values)


def _seen(value: Any) -> Any:
    """Text from outside as it can be seen: what a terminal obeys, or turns its direction, is written out."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else plain(value)


def _links(text: str) -> list[tuple[str, str]]:
    """Sections of a body with their headings, for the page's navigation."""
    found = re.findall(r'<h2 id="([\w.-]+)-h">(.*?)</h2>', text, re.S)
    named = ((key, heading.replace("<small>", "of ")) for key, heading in found)
    bare = ((key, re.sub(r"<span.*?</span>|<[^>]+>", "", heading)) for key, heading in named)
    return [(key, Markup(" ".join(heading.split()))) for key, heading in bare]


def _no_verdict(facts: Evidence) -> str:
    if facts.undecided:
        return "The gate has not run."
    return "The run has no gate." if facts.evaluation else "Nothing has been evaluated."


def interval(metric: Mapping[str, Any]) -> str:
    """'0.1 to 0.3'; "" without an interval."""
    if metric.get("ci_low") is None:
        return ""
    return f"{number(metric['ci_low'])} to {number(metric['ci_high'])}"
