"""How long the way is from the command line to the first optimizer step: python -m bench.path dpo grpo

A run is followed from `kilter train` to its first `optimizer.step`, in one process and one thread, with an empty
cache. Every function of Kilter that is entered on the way counts once, whole, nested functions with the one that
holds them. Docstrings and comments are left out. `statements` does not depend on how wide the lines are; `lines` does.

What runs only because a module is read does not count: decorators that register, fields that declare themselves.
A command line that imports everything before it begins does the same work where no count can see it. `--imports`
counts it all the same.

`--functions` lists what was passed, the longest first in each file. `--source PATH` counts another checkout (its src
folder), so that two commits can be compared.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]

ARGUMENTS = {
    "dpo": ["--method", "dpo", "--data", "pairs.jsonl"],
    "grpo": ["--method", "grpo", "--data", "pairs.jsonl", "--feedback", "rewards.py:brevity"],
}
COMMON = [
    "--model",
    "model",
    "--out",
    "run",
    "--max-steps",
    "2",
    "--batch-size",
    "2",
    "--set",
    "data.heldout=0",
]
ONLINE = ["--set", "sampler.samples=2", "--set", "sampler.max_new_tokens=8"]


class Arrived(BaseException):
    """The optimizer steps: the way is walked."""


def write_inputs(folder: Path) -> None:
    """A model of 30,000 parameters, a handful of pairs and a reward."""
    from bench.numbers_cases import make_model

    make_model(folder / "model")
    rows = [{"prompt": f"Say {i}.", "chosen": f"{i}", "rejected": f"{i} {i} {i}"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "rewards.py").write_text(
        "def brevity(prompts, completions, **columns):\n    return [-float(len(c)) for c in completions]\n"
    )


def being_imported(frame: FrameType | None) -> bool:
    """Whether a module that is being read called this function."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def follow(run: Callable[[], object], imports: bool = False) -> set[CodeType]:
    """Code of Kilter's functions that are entered while this runs, up to its end or to `Arrived`."""
    passed: set[CodeType] = set()

    def enter(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in passed or f"{os.sep}kilter{os.sep}" not in code.co_filename:
            return
        if imports or not being_imported(frame):
            passed.add(code)

    sys.setprofile(enter)
    try:
        run()
    except Arrived:
        return passed
    finally:
        sys.setprofile(None)
    return passed


def walk(method: str, imports: bool = False) -> set[CodeType]:
    """Code of Kilter's functions that are entered before the first optimizer step."""
    import torch

    from kilter import cli

    def arrive(*_: Any, **__: Any) -> None:
        raise Arrived

    torch.optim.AdamW.step = arrive  # type: ignore[method-assign]
    sys.argv = ["kilter", "train", *ARGUMENTS[method], *COMMON, *(ONLINE if method == "grpo" else [])]
    try:
        return follow(cli.main, imports)
    except SystemExit as end:
        raise SystemExit("the run ended without an optimizer step") from end


class Passed(NamedTuple):
    """A function on the way."""

    file: str
    line: int
    name: str
    statements: int
    lines: int


def weigh(passed: set[CodeType]) -> list[Passed]:
    """What was passed, with its statements and its lines of code."""
    found = []
    for file in sorted({code.co_filename for code in passed}):
        if not Path(file).is_file():  # methods that dataclasses write themselves
            continue
        text = Path(file).read_text()
        first_lines = {code.co_firstlineno for code in passed if code.co_filename == file}
        place = file.rpartition(f"{os.sep}kilter{os.sep}")[2]
        for node in outermost(ast.parse(text), first_lines):
            statements = sum(isinstance(n, ast.stmt) and not is_docstring(n) for n in ast.walk(node))
            lines = code_lines(node, text.splitlines())
            found.append(Passed(place, node.lineno, node.name, statements, lines))
    return found


def outermost(tree: ast.AST, first_lines: set[int]) -> list[ast.FunctionDef]:
    """Functions that start on these lines, without those inside another one of them."""
    found: list[ast.FunctionDef] = []
    for node in ast.iter_child_nodes(tree):
        starts = {getattr(node, "lineno", 0), *(d.lineno for d in getattr(node, "decorator_list", []))}
        if isinstance(node, ast.FunctionDef) and starts & first_lines:
            found.append(node)
        else:
            found += outermost(node, first_lines)
    return found


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a lone string."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def code_lines(node: ast.FunctionDef, text: list[str]) -> int:
    """Lines of a function that hold code."""
    taken = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for inner in ast.walk(node):
        if isinstance(inner, ast.stmt) and is_docstring(inner):
            taken -= set(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return sum(bool(text[i - 1].strip()) and not text[i - 1].strip().startswith("#") for i in taken)


def main() -> None:
    """Counts each method in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", help="dpo, grpo; default: both")
    parser.add_argument(
        "--source", type=Path, default=ROOT / "src", help="src folder of the checkout to count"
    )
    parser.add_argument("--functions", action="store_true", help="list every function that was passed")
    parser.add_argument("--imports", action="store_true", help="count what runs while modules are read, too")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(weigh(walk(arguments.inside, arguments.imports))))
        return
    command = [sys.executable, "-m", "bench.path", *(["--imports"] if arguments.imports else [])]
    for method in arguments.methods or ARGUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder))
            paths = os.pathsep.join([str(arguments.source.resolve()), str(ROOT)])
            done = subprocess.run(
                [*command, "--inside", method],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "KILTER_CACHE": "cache"},
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"{method}: {done.stderr[-2000:]}")
        found = [Passed(*item) for item in json.loads(done.stdout.splitlines()[-1])]
        statements, lines = sum(p.statements for p in found), sum(p.lines for p in found)
        print(f"{method}: {len(found)} functions, {statements} statements, {lines} lines")
        if arguments.functions:
            show(found)


def show(found: Sequence[Passed]) -> None:
    """Every file with its statements, the longest first, and below it its functions."""
    files: dict[str, list[Passed]] = {}
    for p in found:
        files.setdefault(p.file, []).append(p)
    for file, own in sorted(files.items(), key=lambda item: -sum(p.statements for p in item[1])):
        print(f"{sum(p.statements for p in own):5} {file}")
        for p in sorted(own, key=lambda p: -p.statements):
            print(f"{p.statements:10} {p.name}:{p.line}")


if __name__ == "__main__":
    main()
