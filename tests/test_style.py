"""What the source looks like: small functions, short lines, comments that say why."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

import kilter

ROOT = Path(kilter.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LINES_PER_COMMENT = 25
SILENT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
FOR_TOOLS = ("noqa", "type:", "pragma")
"""Comments that speak to a program."""


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


def docstring_lines(text: str) -> set[int]:
    """Lines of texts that are statements by themselves, those behind a field included."""
    return {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def code_and_comments(text: str) -> tuple[int, int]:
    """Lines that are neither blank, comment nor docstring, and comments for people."""
    lines: set[int] = set()
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments += not token.string.lstrip("# ").startswith(FOR_TOOLS)
        elif token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(text)), comments


def test_code_and_comments_are_counted_as_a_reader_counts_them():
    text = '"""Doc."""\n\n# Why.\nx = 1  # noqa: E501\ny = """a\nb"""\n"""Of y."""\n\n\ndef f():\n    """Doc."""\n'
    assert code_and_comments(text + "    return (  # why\n        x\n    )\n") == (7, 2)


@pytest.mark.parametrize("room", ["training", "sampling", "models"])
def test_a_room_says_why_at_least_once_in_25_lines(room):
    counts = [code_and_comments(p.read_text()) for p in sorted((ROOT / room).rglob("*.py"))]
    code, comments = (sum(column) for column in zip(*counts, strict=True))
    assert comments * LINES_PER_COMMENT >= code
