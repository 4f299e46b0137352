"""A command that needs no model answers without torch: help, lists, schema, completion and every usage error."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from kilter import feedback

HEAVY = ("torch", "transformers", "datasets", "scipy", "sklearn", "matplotlib", "pyarrow")
"""Libraries that take longer to import than such a command may take as a whole."""


def loaded_by(code: str) -> list[str]:
    """The heavy libraries in a fresh process after `code`."""
    report = f"import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "kilter",
        "kilter.cli",
        "kilter.recipe",
        "kilter.feedback",
        "kilter.data.dataset",
        "kilter.training.config",
        "kilter.evaluation.config",
        "kilter.sampling.config",
        "kilter.models.config",
    ],
)
def test_a_module_that_only_describes_imports_nothing_heavy(module):
    assert loaded_by(f"import {module}") == []


def test_a_feedback_source_is_declared_where_it_is_registered():
    """A source whose file is not declared would be unknown; a name that its file does not register would not load."""
    found = {m.name for m in pkgutil.iter_modules(feedback.__path__, "kilter.feedback.")}
    helpers = {f"kilter.feedback.{n}" for n in ("function", "isolation", "registry")}
    code = (
        "import importlib\nfrom kilter.feedback.registry import feedback_sources as s\n"
        f"for m in {sorted(found - helpers)}: importlib.import_module(m)\n"
        "assert set(s._entries) == set(s._places), (sorted(s._entries), sorted(s._places))"
    )
    loaded_by(code)
    assert [name for name, _ in feedback.feedback_sources] == feedback.feedback_sources.names()
