"""kilter methods, check-method, and the pages: what they say is what the code is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from kilter.cli import main
from kilter.objectives import objectives
from kilter.objectives.describe import describe
from kilter.objectives.pages import pages

DOCS = Path(__file__).resolve().parents[1] / "docs" / "methods"


def kilter(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *args])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main()
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


@pytest.mark.parametrize("name", objectives.names())
def test_every_method_says_all_of_it(name):
    d = describe(name)
    assert "L = " in d.formula
    for part in (d.summary, d.paper, d.use, d.watch, d.fails, d.data):
        assert len(part) > 3, (name, part)
    assert not any(w in d.summary for w in ("Paper", "Use:"))
    assert all(k.meaning for k in d.knobs), name


def test_the_pages_are_what_the_methods_say():
    """docs/methods is written by `kilter methods --write docs/methods`; this fails when somebody forgot to."""
    for name, text in pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, name
    assert {p.name for p in DOCS.glob("*.md")} == set(pages())


def test_methods_json(monkeypatch, capsys):
    code, text = kilter(monkeypatch, capsys, "methods", "--json")
    assert code == 0
    found = json.loads(text)
    assert len(found) >= 36
    dpo = next(d for d in found if d["name"] == "dpo")
    assert dpo["knobs"][0] == {
        "name": "beta",
        "default": 0.1,
        "kind": "float",
        "meaning": "inverse strength of the pull to the reference",
        "interval": "(0, inf)",
        "usual": "0.01 to 0.5",
        "choices": [],
    }


def test_methods_of_one(monkeypatch, capsys):
    code, text = kilter(monkeypatch, capsys, "methods", "simpo")
    assert code == 0
    assert "beta lbar(w)" in text
    assert "Meng" in text
    code, text = kilter(monkeypatch, capsys, "methods", "sinpo")
    assert code == 2
    assert "Did you mean 'simpo'" in text


MINE = '''
from dataclasses import dataclass
from torch.nn.functional import logsigmoid
from kilter.objectives.knobs import knob
from kilter.objectives.pairwise import Pairwise


@dataclass(frozen=True)
class Mine(Pairwise):
    """DPO's logistic loss with a margin.

        L = -log sigmoid(z - gamma)

    Paper: none, an example.

    Use: to learn how a method is written. Watch: rewards/margins. Fails: not known.
    """

    gamma: float = knob(0.5, "margin", "[0, inf)", "0 to 1")

    def pair_loss(self, w, l):
        return -logsigmoid(self.margin(w, l) - self.gamma)
'''


def test_a_method_from_outside_is_checked_listed_trained_and_resumed(
    monkeypatch, capsys, tiny, tmp_path, pairs_file
):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    code, text = kilter(monkeypatch, capsys, "check-method", f"{path}:Mine")
    assert code == 0, text
    assert "11 of 11 checks passed" in text
    code, text = kilter(monkeypatch, capsys, "methods", f"{path}:Mine")
    assert code == 0
    assert "gamma" in text
    out = tmp_path / "run"
    args = [
        "train",
        "--method",
        f"{path}:Mine",
        "--model",
        str(tiny),
        "--data",
        str(pairs_file),
        "--out",
        str(out),
        "--max-steps",
        "4",
        "--batch-size",
        "4",
        "--set",
        "gamma=0.2",
    ]
    code, text = kilter(monkeypatch, capsys, *args)
    assert code == 0, text
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
    code, text = kilter(monkeypatch, capsys, *args[:-1], "gamma=-1", "--out", str(tmp_path / "other"))
    assert code == 2
    assert "Mine.gamma" in text
    assert "[0, inf)" in text
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("method: {name: mine.py:Mine}\n")
    assert "mine.py:Mine" in kilter(monkeypatch, capsys, "methods")[1]


def test_the_readme_counts_the_offline_methods():
    offline = [n for n in objectives.names() if describe(n).data != describe("grpo").data]
    assert f"| {len(offline)} of them" in (DOCS.parents[1] / "README.md").read_text()


def test_check_method_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(MINE + "\n    def total(self, loss_N, out, batch):\n        return loss_N.mean()\n")
    code, text = kilter(monkeypatch, capsys, "check-method", f"{path}:Mine")
    assert code == 1
    assert "n_*_total" in text


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("def Mine(:\n", "SyntaxError in line 1"),
        ("x = 1\nraise RuntimeError('not today')\n", "RuntimeError in line 2: not today"),
        ("def Mine(a, b):\n    return a\n", "cannot be built"),
        ("class Mine:\n    pass\n", "lacks needs, prepare or loss"),
        ("", "has no attribute 'Mine'"),
    ],
)
def test_a_mistake_in_ones_own_file_is_named(monkeypatch, capsys, tmp_path, text, where):
    path = tmp_path / "mistaken.py"
    path.write_text(text)
    code, said = kilter(monkeypatch, capsys, "check-method", f"{path}:Mine")
    assert code == 2
    assert where in said
    assert "Fix: " in said


def test_a_file_without_its_class(monkeypatch, capsys):
    code, said = kilter(monkeypatch, capsys, "check-method", "my_losses.py")
    assert code == 2
    assert "Write my_losses.py:NAME" in said


def test_an_error_of_ones_own_loss_in_training_is_no_defect_of_kilters(
    monkeypatch, capsys, tmp_path, tiny, pairs_file
):
    path = tmp_path / "raising.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom kilter.objectives.pairwise import Pairwise\n\n\n@dataclass(frozen=True)\nclass Mine(Pairwise):\n"
        "    def pair_loss(self, w, l):\n        return w.no_such_thing\n"
    )
    options = (
        "--model",
        str(tiny),
        "--data",
        str(pairs_file),
        "--out",
        str(tmp_path / "out"),
        "--max-length",
        "64",
    )
    code, said = kilter(monkeypatch, capsys, "train", "--method", f"{path}:Mine", *options)
    assert code == 4
    assert "raising.py line 8" in said.replace("\n", "")
    assert "defect" not in said


def test_the_contract_sees_through_batches_and_stop_gradients(tmp_path):
    from kilter.objectives.contract import run_contract

    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom kilter.objectives.pairs.dpo import DPO\n\n\n@dataclass(frozen=True)\nclass Grows(DPO):\n    unit = 'batch'\n"
        "    def total(self, loss_N, out, batch):\n        return loss_N.sum()\n\n\n@dataclass(frozen=True)\nclass Still(DPO):\n    detaches = True\n"
        "    def total(self, loss_N, out, batch):\n        return loss_N.sum().detach() + 0 * out.logps_BT.sum()\n"
    )
    assert "twice" in dict(run_contract(f"{path}:Grows"))["microbatches_add_up"]
    assert "zero everywhere" in dict(run_contract(f"{path}:Still"))["gradient_is_the_slope"]
