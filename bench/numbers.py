"""Proves that a change of the code changes no number: small runs of two commits, byte for byte.

    python -m bench.numbers against 949c5d3            # that commit and this checkout, one after the other
    python -m bench.numbers record base.json --source ../base/src
    python -m bench.numbers compare base.json now.json

A record holds what each stage left: the lines of metrics.jsonl, gold.jsonl and events.jsonl, the documents of
evaluation, gate and audit, hashes of rollouts and answers, and the hash of the final weights. It leaves out
wall-clock fields. Only Kilter's command line is used, so that one script drives every commit. Two records can
be compared if machine and libraries are the same. bench/numbers_cases.py holds the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.numbers_cases import Case, cases, write_inputs

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600
"""Seconds that one run may take."""

WALL_CLOCK = {
    "step_time": "seconds of a step",
    "tokens_per_second": "speed of training",
    "sampling/tokens_per_second": "speed of sampling",
    "sampling/seconds": "seconds of sampling",
    "feedback/seconds": "seconds of the reward",
    "memory/peak_gb": "the allocator's high-water mark differs from run to run",
}
"""Fields that differ between two runs of the same code, and what they measure. Everything else must agree."""

VERDICTS = (0, 1, 3)
"""Exit codes of a run that came to its end: pass, fail, inconclusive."""

ABSENT = "(absent)"


def digest(data: bytes | str) -> str:
    """sha256, cut to what a person can compare."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:24]


def json_lines(text: str) -> list[Any]:
    """The objects of a jsonl file without wall-clock fields; keys keep the order of the file."""
    return [{k: v for k, v in json.loads(line).items() if k not in WALL_CLOCK} for line in text.splitlines()]


def whole_rows(folder: Path) -> str:
    """groups.jsonl with its tokens in the rows, so that it does not matter where a commit keeps them."""
    if not (folder / "groups.tokens").is_file():
        return (folder / "groups.jsonl").read_text(encoding="utf-8")
    from kilter.data import store

    rows = map(store.to_json, store.read(folder / "groups.jsonl"))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def rollouts(text: str) -> list[dict[str, Any]]:
    """Scores and hashes per row of groups.jsonl: a difference shows whether sampling or feedback changed."""
    rows = []
    for line in text.splitlines():
        group = json.loads(line)
        answers = group["completions"]
        rows.append(
            {
                "tokens": digest(json.dumps([a.get("token_ids") for a in answers])),
                "logps": digest(json.dumps([a.get("sampling_logps") for a in answers])),
                "scores": [f["score"] for f in group["feedback"]],
                "line": digest(line),
            }
        )
    return rows


def facts(text: str) -> dict[str, Any]:
    """Results of a train stage that stand in its manifest alone."""
    found = json.loads(text).get("facts", {})
    return {key: found[key] for key in ("steps", "heldout", "best_step") if key in found}


READERS = {
    "metrics.jsonl": json_lines,
    "gold.jsonl": json_lines,
    "events.jsonl": json_lines,
    "groups.jsonl": rollouts,
    "evaluation.json": json.loads,
    "gate.json": json.loads,
    "audit.json": json.loads,
    "per_prompt.json": digest,
    "manifest.json": facts,
}
"""Files of a stage's folder and how each is recorded."""


def read_stage(folder: Path, work: Path) -> dict[str, Any]:
    """What one stage left, with the temporary folder's name taken out of it."""
    found: dict[str, Any] = {}
    for name, read in READERS.items():
        if (folder / name).is_file():
            path = folder / name
            text = whole_rows(folder) if name == "groups.jsonl" else path.read_text(encoding="utf-8")
            found[name] = read(text.replace(f"{work}/", ""))
    for part in ("model", "critic"):
        weights = sorted((folder / part).rglob("*.safetensors"))
        if weights:
            found[f"{part} weights"] = digest(b"".join(p.read_bytes() for p in weights))
    return found


def environment(source: Path, cache: Path) -> dict[str, str]:
    """For the child processes: the code under test, one thread, no GPU, no network, a cache of its own."""
    kept = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    settings = {
        "PYTHONPATH": str(source),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "KILTER_CACHE": str(cache),
    }
    return kept | one_thread | settings


def check_source(source: Path, env: dict[str, str]) -> None:
    """Ends the program if the children would import Kilter from elsewhere, such as an installed copy."""
    code = "import kilter; print(kilter.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True)
    if not done.stdout.startswith(f"{source}{os.sep}"):
        sys.exit(f"{source} does not hold the package kilter: {done.stdout or done.stderr}")


def run_case(case: Case, work: Path, source: Path) -> dict[str, Any]:
    """Runs one case in `work`; returns hashes of what it read, its exit code and what its stages left."""
    write_inputs(work, case.recipe)
    read = sorted(p for p in work.rglob("*") if p.is_file())
    inputs = {str(p.relative_to(work)): digest(p.read_bytes()) for p in read}
    command = [sys.executable, "-m", "kilter.cli", "run", "recipe.yaml", "--runs", "runs"]
    command += [word for override in case.overrides for word in ("--set", override)]
    env = environment(source, work / "cache")

    # A killed run is resumed by the same command; the check needs what both of them wrote.
    before = kill(command, work, env, case) if case.killed else []
    code = finish(command, work, env)
    if case.killed:
        check_resumed(before, work / "runs" / "run" / case.killed / "metrics.jsonl")

    stages = {name: read_stage(work / "runs" / "run" / name, work) for name in case.recipe["stages"]}
    return {"inputs": inputs | {"--set": " ".join(case.overrides)}, "exit": code, "stages": stages}


def finish(command: list[str], work: Path, env: dict[str, str]) -> int:
    """Runs to the end; ends the program with the child's last words if it failed."""
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode not in VERDICTS:
        words = f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        sys.exit(f"{' '.join(command)}\nended with code {done.returncode}:\n{words}")
    return done.returncode


def kill(command: list[str], work: Path, env: dict[str, str], case: Case) -> list[str]:
    """Starts the run, kills its process group after some steps; returns the lines of metrics.jsonl so far."""
    stage = work / "runs" / "run" / case.killed
    metrics, checkpoints = stage / "metrics.jsonl", stage / "checkpoints"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=work, env=env, start_new_session=True, **quiet)

    # The kill comes at whatever point of a step the run has reached then, as it would in life.
    end = time.monotonic() + LIMIT
    ready = False
    while not ready and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
        steps = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        ready = steps >= case.kill_after and any(checkpoints.glob("*"))
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    if not (ready and alive):
        sys.exit(f"{case.killed} was to be killed after step {case.kill_after} and ended or hung before that")
    return metrics.read_text().splitlines()


def check_resumed(before: list[str], metrics: Path) -> None:
    """Ends the program if the killed run began again at step 1.

    Lines up to the checkpoint still hold the killed process's clock; those of steps done again cannot.
    """
    after = metrics.read_text().splitlines()
    same = [a == b for a, b in zip(before, after, strict=False)]
    kept = same.index(False) if False in same else len(same)
    if not kept:
        sys.exit("the killed run began again at step 1 instead of resuming")
    print(f"  killed after step {len(before)}, went on after step {kept}", flush=True)


def record(source: Path, names: list[str]) -> dict[str, Any]:
    """Runs the cases on the code in `source`; returns the record."""
    source = source.resolve()
    libraries = ("torch", "transformers", "peft", "accelerate", "numpy", "scipy")
    versions = {name: importlib.metadata.version(name) for name in libraries}
    machine = {"cpu": cpu(), "python": platform.python_version()} | versions
    found: dict[str, Any] = {"machine": machine, "cases": {}, "seconds": {}}
    with tempfile.TemporaryDirectory(prefix="kilter-numbers-") as folder:
        work = Path(folder).resolve()
        check_source(source, environment(source, work))
        for name, case in cases().items():
            if name in names:
                begin = time.monotonic()
                found["cases"][name] = run_case(case, work / name, source)
                found["seconds"][name] = round(time.monotonic() - begin, 1)
                print(f"  {name:<12}{found['seconds'][name]:>6.0f} s", flush=True)
    return found


def cpu() -> str:
    """The processor's name: another one may round otherwise."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(field, value in a, value in b) of everything that is not written alike."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from differences(a.get(key, ABSENT), b.get(key, ABSENT), f"{where}/{key}" if where else key)
        if set(a) == set(b) and list(a) != list(b):
            yield f"{where} (order of fields)", list(a), list(b)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}[{i}]")
    elif isinstance(a, list) and isinstance(b, list):
        yield f"{where} (count)", len(a), len(b)
    elif json.dumps(a) != json.dumps(b):  # as text, so that NaN equals NaN and 1 is not 1.0
        yield where, a, b


def compare(a: dict[str, Any], b: dict[str, Any], names: list[str]) -> bool:
    """Prints a line per case; returns whether all are identical."""
    for where, x, y in differences(a["machine"], b["machine"]):
        print(f"note: made on unlike machines: {where} {x} | {y}")
    unlike = [n for n in names if not compare_case(n, a["cases"].get(n), b["cases"].get(n))]
    return not unlike


def compare_case(name: str, a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    """Prints `identical`, or the first difference with both values; returns whether they are identical."""
    if a is None or b is None:
        print(f"{name:<12}NOT RECORDED in {'both' if a is b else 'the first' if a is None else 'the second'}")
        return False
    for where, x, y in differences(a["inputs"], b["inputs"]):
        print(f"note: {name} read unlike inputs: {where} {x} | {y}")
    found = list(differences({"exit": a["exit"]} | a["stages"], {"exit": b["exit"]} | b["stages"]))
    if found:
        print(f"{name:<12}DIFFERENT in {len(found)} fields; the first: {found[0][0]}")
        print("\n".join(f"{'':<12}  {_short(value)}" for value in found[0][1:]))
    else:
        steps = sum(len(stage.get("metrics.jsonl", ())) for stage in a["stages"].values())
        print(f"{name:<12}identical   {len(a['stages'])} stages, {steps} steps")
    return not found


def resumed_alike(found: dict[str, Any]) -> bool:
    """Whether the killed run equals the unbroken one, if both are on record; prints the first difference."""
    runs = found["cases"]
    if "unbroken" not in runs or "resumed" not in runs:
        return True
    unlike = next(differences(runs["unbroken"], runs["resumed"]), None)
    if unlike is not None:
        where, *values = unlike
        print(f"the resumed run differs from the unbroken one: {where}")
        print("\n".join(f"  {_short(value)}" for value in values))
    return unlike is None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def against(commit: str, names: list[str]) -> bool:
    """Records `commit` in a temporary worktree, then this checkout; returns whether they are identical."""
    with tempfile.TemporaryDirectory(prefix="kilter-commit-") as folder:
        tree = Path(folder).resolve() / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True
        )
        try:
            print(commit, flush=True)
            base = record(tree / "src", names)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    print("this checkout", flush=True)
    now = record(ROOT / "src", names)
    same = compare(base, now, names)
    return resumed_alike(now) and same


def main() -> None:
    """Exits 0 if all is identical, 1 if not."""
    args = arguments()
    names = args.case or list(cases())
    if args.command == "compare":
        same = compare(json.loads(args.first.read_text()), json.loads(args.second.read_text()), names)
    elif args.command == "against":
        same = against(args.commit, names)
    else:
        found = record(args.source, names)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        same = resumed_alike(found)
    sys.exit(0 if same else 1)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = lambda name, text: commands.add_parser(name, help=text, description=text)
    one = add("record", "run the cases and write what they left")
    one.add_argument("out", type=Path)
    one.add_argument("--source", type=Path, default=ROOT / "src", help="src folder of the code to run")
    two = add("compare", "compare two records")
    two.add_argument("first", type=Path)
    two.add_argument("second", type=Path)
    three = add("against", "record a commit and this checkout, and compare them")
    three.add_argument("commit")
    text = "only this case (may be repeated)"
    for command in (one, two, three):
        command.add_argument("--case", action="append", choices=list(cases()), help=text)
    return parser.parse_args()


if __name__ == "__main__":
    main()
