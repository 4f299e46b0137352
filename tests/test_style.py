"""What the source looks like: small functions and short lines."""

from __future__ import annotations

import ast
from pathlib import Path

import kilter

ROOT = Path(kilter.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def test_no_function_is_longer_than_60_lines():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    assert long == []


def test_no_line_is_longer_than_110_characters_and_none_is_kept_from_the_formatter():
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > 110 or "fmt: " + "skip" in line or "fmt: " + "off" in line
    ]
    assert wide == []
