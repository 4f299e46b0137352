"""Pages of docs that state names: each name is looked up where it comes from."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from kilter.cli.options import members
from kilter.cli.options_page import train_options
from kilter.cli.train import OPTIONS
from kilter.objectives import objectives
from kilter.objectives.index import lookup
from kilter.training.config import TrainSpec

DOCS = Path(__file__).resolve().parents[1] / "docs"


def sections(text: str) -> dict[str, list[list[str]]]:
    """Heading to the rows of its table, heading row and rule left out."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines() if line.startswith("|")]
        found[title] = [[cell.strip() for cell in row] for row in rows[2:]]
    return found


TRL = sections((DOCS / "coming-from-trl.md").read_text())
TABLES = {title: rows for title, rows in TRL.items() if "Config" in title and "Losses" not in title}


def test_the_page_of_train_options_is_current():
    """`kilter schema --options > docs/train-options.md` writes it."""
    assert (DOCS / "train-options.md").read_text() == train_options(OPTIONS)


def test_the_table_of_metrics_is_what_the_registry_has():
    """`python docs/list_metrics.py` writes it."""
    spec = importlib.util.spec_from_file_location("list_metrics", DOCS / "list_metrics.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text() == script.page(script.PAGE.read_text())


def test_the_table_of_the_response_classifier_is_what_was_measured():
    """`python docs/list_styles.py` writes it."""
    spec = importlib.util.spec_from_file_location("list_styles", DOCS / "list_styles.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.table() in (DOCS / "response-classifier.md").read_text()


def test_the_page_of_train_options_has_every_option():
    text = (DOCS / "train-options.md").read_text()
    leaves = [o.path[-1].replace("_", "-") for o in OPTIONS if not o.hidden]
    assert [leaf for leaf in leaves if leaf not in text] == []


@pytest.mark.parametrize("title", TABLES)
def test_names_of_trl_are_fields_of_its_configurations(title):
    import trl

    configs = [getattr(trl, name) for name in re.findall(r"\w+Config", title)]
    assert configs
    for names, *_ in TABLES[title]:
        for name in re.findall(r"`(\w+)`", names):
            for config in configs:
                assert name in config.__dataclass_fields__, f"{config.__name__} has no {name}"


@pytest.mark.parametrize("title", TABLES)
def test_names_of_kilter_are_its_own(title):
    """Fields of a train stage by their path; `method.x` is a setting of some method."""
    settings = {knob.name for name in objectives.names() for knob in lookup(name).knobs}
    for _, names, *_ in TABLES[title]:
        for name in re.findall(r"`([\w.]+)`", names):
            head, _, rest = name.partition(".")
            if head == "method" and rest:
                assert rest in settings, name
            else:
                assert has_field(TrainSpec, name), name


def has_field(spec: type[BaseModel], path: str) -> bool:
    head, _, rest = path.partition(".")
    if head not in spec.model_fields:
        return False
    inner = [
        m
        for m in members(spec.model_fields[head].annotation)
        if isinstance(m, type) and issubclass(m, BaseModel)
    ]
    return not rest or (bool(inner) and has_field(inner[0], rest))


def test_losses_of_trl_are_methods_of_kilter():
    """All that its DPO trainer dispatches on, and no others."""
    import inspect

    from trl.trainer import dpo_trainer

    rows = {re.findall(r"`(\w+)`", a)[0]: re.findall(r"`(\w+)`", b)[0] for a, b in TRL["Losses of DPOConfig"]}
    theirs = re.findall(r'loss_type == "(\w+)"', inspect.getsource(dpo_trainer))
    assert set(rows) == set(theirs)
    assert set(rows.values()) <= set(objectives.names())


def test_methods_that_the_pages_name_exist():
    """In a note "method `x`", x is one."""
    for page in ("coming-from-trl.md", "troubleshooting.md", "tutorial.md"):
        for name in re.findall(r"[Mm]ethod `(\w+)`", (DOCS / page).read_text()):
            assert name in objectives.names(), f"{page}: {name}"


def test_symptoms_have_a_cause_and_something_to_do():
    tables = sections((DOCS / "troubleshooting.md").read_text())
    assert sum(map(len, tables.values())) >= 15
    assert all(cell for rows in tables.values() for row in rows for cell in row)
