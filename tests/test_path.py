"""bench.path counts what a run passes, and not what runs because a module is read."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from bench.path import follow, weigh

MODULE = '''
def register():
    """Runs when the module is read."""
    return 1


registered = register()


def called():
    """Two statements and its own."""

    def inside():
        return 2

    return inside()


def unused():
    return 3
'''


@pytest.mark.parametrize(("imports", "names"), [(False, ["called"]), (True, ["register", "called"])])
def test_only_what_is_passed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: bool, names: list[str]
) -> None:
    name = f"passed_{imports}".lower()
    (tmp_path / "kilter").mkdir()
    (tmp_path / "kilter" / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "kilter")

    found = weigh(follow(lambda: importlib.import_module(name).called(), imports))

    assert [p.name for p in found] == names
    assert found[-1].statements == 4
    assert found[-1].lines == 4
