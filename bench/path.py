"""How long the way is from the command line to the first optimizer step: python -m bench.path dpo grpo

A run is followed from `kilter train` to its first `optimizer.step`, in one process and one thread. Every function of
Kilter that is entered on the way counts once, whole, nested functions with the one that holds them. Docstrings and
comments are left out. `statements` does not depend on how wide the lines are; `lines` does.
`--source PATH` counts another checkout (its src folder), so that two commits can be compared.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

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


def walk(method: str) -> set[CodeType]:
    """Code of Kilter's functions that are entered before the first optimizer step."""
    import torch

    from kilter import cli

    passed: set[CodeType] = set()

    def enter(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and f"{os.sep}kilter{os.sep}" in frame.f_code.co_filename:
            passed.add(frame.f_code)

    def arrive(*_: Any, **__: Any) -> None:
        raise Arrived

    torch.optim.AdamW.step = arrive  # type: ignore[method-assign]
    sys.argv = ["kilter", "train", *ARGUMENTS[method], *COMMON, *(ONLINE if method == "grpo" else [])]
    sys.setprofile(enter)
    try:
        cli.main()
    except Arrived:
        return passed
    finally:
        sys.setprofile(None)
    raise SystemExit("the run ended without an optimizer step")


def weigh(passed: set[CodeType]) -> dict[str, int]:
    """Functions, statements and lines of code of what was passed."""
    functions = statements = lines = 0
    for file in {code.co_filename for code in passed}:
        if not Path(file).is_file():  # methods that dataclasses write themselves
            continue
        text = Path(file).read_text()
        first_lines = {code.co_firstlineno for code in passed if code.co_filename == file}
        for node in outermost(ast.parse(text), first_lines):
            functions += 1
            statements += sum(isinstance(n, ast.stmt) and not is_docstring(n) for n in ast.walk(node))
            lines += code_lines(node, text.splitlines())
    return {"functions": functions, "statements": statements, "lines": lines}


def outermost(tree: ast.AST, first_lines: set[int]) -> list[ast.AST]:
    """Functions that start on these lines, without those inside another one of them."""
    found: list[ast.AST] = []
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


def code_lines(node: ast.AST, text: list[str]) -> int:
    """Lines of a function that hold code."""
    taken = set(range(node.lineno, node.end_lineno + 1))  # type: ignore[attr-defined]
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
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(weigh(walk(arguments.inside))))
        return
    for method in arguments.methods or ARGUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder))
            paths = os.pathsep.join([str(arguments.source.resolve()), str(ROOT)])
            done = subprocess.run(
                [sys.executable, "-m", "bench.path", "--inside", method],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"{method}: {done.stderr[-2000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{method}: " + ", ".join(f"{value} {name}" for name, value in found.items()))


if __name__ == "__main__":
    main()
