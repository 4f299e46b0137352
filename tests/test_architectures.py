"""Every name of AutoModelForCausalLM that can be built tiny: it agrees with transformers, or is refused."""

import re
from pathlib import Path

import pytest
from bench.architectures import DOCS, Row, names, swept, table

SOME = {
    "llama": "shared prompts",
    "mamba": "plain rows",
    "modernbert-decoder": "own logits",
    "xlm-roberta": "refused",
}


@pytest.mark.parametrize("name", SOME)
def test_one_architecture_of_each_way(name):
    row = swept(name, names()[name])
    assert row.way == SOME[name]
    assert "WRONG" not in row.note


def test_the_table_has_a_line_for_each_architecture_and_counts_them():
    text = table([Row("a", "AForCausalLM", "plain rows"), Row("b", "B", "refused", "reads | ahead")])
    assert "2 names: 1 plain rows, 1 refused." in text
    assert "| b | B | refused | reads / ahead |" in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_architecture_agrees_or_is_refused():
    rows = [swept(name, model) for name, model in names().items()]
    assert [r for r in rows if "WRONG" in r.note or r.way == "failed"] == []
    built = [r for r in rows if r.way != "not built"]
    assert len(built) >= 157
    lines = Path(DOCS).read_text().partition("|---|---|---|---|")[2]
    written = dict(re.findall(r"^\| (\S+) \| \S+ \| ([a-z ]+?) \|", lines, re.M))
    assert {r.name: r.way for r in rows} == written
