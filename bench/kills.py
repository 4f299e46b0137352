"""Kills small runs at every change of the file system and damages their files: nothing may be lost by it.

    python -m bench.kills                                     # 200 kills, 60 damaged files
    python -m bench.kills --kills 20 --damages 6 --seed 1 --only online
    python -m bench.kills --kills 20 --damages 0 --only ahead     # workers of a cluster, in the run's process

A killed run is given the same command again. It must end as the run that nobody killed: the same exit code,
metrics and weights, byte for byte; no process is left behind, no advice is printed that is not due, and the
command given once more says that all is done. A damaged file changes nothing, or is named: with exit code 2,
or by a gate that fails for it, or beside the results that stand. Exits with 0 only if all of it holds.

Runs are forked from this process, which has imported all they need: a run then takes a second, and not ten.
bench/kills_hook.py counts changes and kills.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench import kills_hook
from bench.numbers import VERDICTS, read_stage
from bench.numbers_cases import write_inputs
from kilter.cluster.inline import InlineBackend
from kilter.data import store

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300.0
"""Seconds that one run may take."""

REST = 20.0
"""Seconds that the processes of a killed run have to end by themselves."""

WRONG = ("Traceback", "defect in Kilter", "Fix:", "superseded", "settings or inputs changed")
"""What a resumed run has no reason to say."""

DONE = ("unchanged, taken from", "is done", "done:", "finished")
"""How a command says that nothing is left to do."""


@dataclass(frozen=True)
class Case:
    """One run: its command, and the folders of its stages. `share`: how many of a hundred kills it gets.

    Args:
        apart: workers of a cluster are in the run's own process, on a clock of their own.
        ahead: answers may be those of other weights than in the whole run: only the prompts are compared.
    """

    words: tuple[str, ...]
    stages: tuple[str, ...]
    share: int
    roles: tuple[str, ...] = ("main",)
    """The processes that are killed: the one that was started, or one of its workers by rank."""
    apart: bool = False
    ahead: bool = False


OFFLINE = shlex.split("--max-steps 4 --batch-size 4 --save-every 1 --learning-rate 3e-3")
ONLINE = shlex.split(
    "--max-steps 6 --batch-size 3 --save-every 2 --learning-rate 3e-3 --feedback '{regex: \"[a-m]\"}'"
    " --set sampler.samples=3 --set sampler.max_new_tokens=6 --set monitors.stop=false"
    " --set monitors.allow_truncation=true --set monitors.gold='{regex: \"[n-z]\"}'"
    " --set monitors.gold_every=2 --set monitors.gold_prompts=4"
)
APART = shlex.split(
    "--set cluster.rollout.place=apart --set cluster.rollout.engines=2 --set cluster.reference.place=apart"
    " --set beta=0.1 --set"
)
TRAIN = ("train", "--model", "./tiny", "--data", "pairs.jsonl", "--out", "out")

CASES = {
    "offline": Case((*TRAIN, "--method", "dpo", *OFFLINE), ("",), 22),
    "adapter": Case((*TRAIN, "--method", "kto", "--adapter", "lora", *OFFLINE), ("",), 8),
    "online": Case((*TRAIN, "--method", "grpo", *ONLINE), ("",), 24),
    "stages": Case(
        ("run", "recipe.yaml", "--runs", "out"), ("sft", "answers", "pairs", "dpo", "eval", "gate"), 40
    ),
    "processes": Case(
        (*TRAIN, "--method", "dpo", *OFFLINE, "--processes", "2"), ("",), 3, ("main", "rank0", "rank1")
    ),
    "online processes": Case(
        (*TRAIN, "--method", "grpo", *ONLINE, "--processes", "2"),
        ("",),
        3,
        ("main", "rank0", "rank1"),
    ),
    "apart": Case((*TRAIN, "--method", "grpo", *ONLINE, *APART, "cluster.lookahead=0"), ("",), 0, apart=True),
    "ahead": Case(
        (*TRAIN, "--method", "grpo", *ONLINE, *APART, "cluster.lookahead=2"),
        ("",),
        0,
        apart=True,
        ahead=True,
    ),
}
"""Those without a share run when they are asked for by name."""

RECIPE: dict[str, Any] = yaml.safe_load("""
model: ./tiny
data: {data: {path: pairs.jsonl, heldout: 0.25}}
stages:
  sft: {train: {method: sft, max_steps: 3, batch_size: 4, save_every: 1}}
  answers: {generate: {model: sft, data: $data, k: 3, sampler: {max_new_tokens: 6}, limit: 6}}
  pairs: {label: {data: $answers, feedback: {regex: "[a-m]"}}}
  dpo: {train: {method: dpo, from: sft, data: $pairs, max_steps: 3, batch_size: 2, save_every: 1}}
  eval:
    evaluate: {data: $data, models: [sft, dpo], baseline: sft, max_new_tokens: 6, gold: {regex: "[a-m]"}}
  gate:
    gate:
      candidate: dpo
      baseline: sft
      policy: {conditions: [{metric: gold, bound: diff_ci_low, op: ">", value: 0, min_n: 4}]}
""")


@dataclass
class Ended:
    """How a command ended: its exit code (negative: killed by that signal) and what it printed."""

    code: int
    text: str


@dataclass
class Place:
    """A folder of its own for one run, with its inputs, its cache and the counts of its processes."""

    folder: Path
    number: int = 0

    @property
    def counts(self) -> Path:
        """One file per process of the last command, a byte per change."""
        return self.folder / "counts"

    def command(self, case: Case, plan: dict[str, Any] | None = None) -> Ended:
        """Runs the case's command here to its end, or to the kill that is planned."""
        shutil.rmtree(self.counts, ignore_errors=True)
        self.counts.mkdir()
        self.number += 1
        log = self.folder / f"log-{self.number}.txt"
        mark = f"{self.folder}#{self.number}"
        pid = os.fork()
        if pid == 0:
            _be_the_command(case, self, plan or {}, log, mark)
        code = _wait(pid)
        left = _left_behind(pid, mark)
        text = log.read_text(errors="replace")
        return Ended(code, text + "".join(f"\nLEFT BEHIND: {name}" for name in left))

    def results(self, case: Case) -> dict[str, Any]:
        """What the run's stages left, without what depends on the clock or on the folder's name."""
        base = self.work / "out" / "run" if case.words[0] == "run" else self.work / "out"
        if case.ahead:
            return {"prompts": [g.prompt.messages for g in store.read(base / "groups.jsonl")]}
        return {name: read_stage(base / name, self.work) for name in case.stages}

    @property
    def work(self) -> Path:
        """The folder in which the command is given."""
        return self.folder / "work"


def _be_the_command(case: Case, place: Place, plan: dict[str, Any], log: Path, mark: str) -> None:
    """The child: becomes `kilter ...` in a session of its own. Never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(place.work)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (handle, 1), (handle, 2)):
            os.dup2(source, target)
        os.environ["KILTER_CACHE"] = str(place.work / "cache")
        os.environ["KILTER_KILLS_MARK"] = mark
        os.environ[kills_hook.ENVIRONMENT] = json.dumps(
            plan | {"counts": str(place.counts), "inside": str(place.work)}
        )
        sys.argv = ["kilter", *case.words]
        if case.apart:
            fake = types.ModuleType("kilter.cluster.ray")
            fake.RayBackend = lambda spec: InlineBackend()  # type: ignore[attr-defined]
            sys.modules[fake.__name__] = fake
        kills_hook.arm("main")
        from kilter.cli import main

        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        # What a process does on its way out belongs to it.
        atexit._run_exitfuncs()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int:
    """The child's exit code; one that does not end is killed and counts as 99."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 99


def _left_behind(session: int, mark: str) -> list[str]:
    """Processes of a command that outlive it; they are killed."""
    end = time.monotonic() + REST
    while (alive := list(_alive(session, mark))) and time.monotonic() < end:
        time.sleep(0.05)
    for pid, _ in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"process {pid}: {name}" for pid, name in alive]


def _alive(session: int, mark: str) -> Iterator[tuple[int, str]]:
    """Processes of the command's session, or with its mark in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            marked = mark.encode() in (folder / "environ").read_bytes()
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state[0] != "Z" and (marked or int(state[3]) == session):
            yield int(folder.name), name[:120]


@dataclass
class Bench:
    """The reference runs, and what became of the others."""

    base: Path
    draw: random.Random
    good: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    changes: dict[str, dict[str, int]] = field(default_factory=dict)
    whole: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)

    def place(self, name: str) -> Place:
        """A fresh folder with the inputs."""
        found = Place(self.base / name)
        found.folder.mkdir()
        shutil.copytree(self.base / "inputs", found.work)
        return found

    def reference(self, name: str) -> None:
        """The run that nobody kills: what it ends with, and how many changes it makes."""
        case, place = CASES[name], self.place(f"whole-{name.replace(' ', '-')}")
        ended = place.command(case)
        if ended.code not in VERDICTS:
            sys.exit(f"{name}: ended with code {ended.code}:\n{ended.text[-3000:]}")
        self.changes[name] = {role: (place.counts / role).stat().st_size for role in case.roles}
        self.whole[name] = ended.code, place.results(case)
        # A finished command given once more is the last thing that every run is asked for.
        self.check_done(name, place, f"{name}, not killed")
        print(f"{name}: {self.changes[name]} changes of the file system", flush=True)

    def kill(self, name: str, number: int, total: int) -> None:
        """One run, killed once or twice, then brought to its end."""
        case, place = CASES[name], self.place(f"kill-{name.replace(' ', '-')}-{number}")
        role = self.draw.choice(case.roles)
        # Every stretch of the run gets its kills.
        at = 1 + int((number % max(1, total) + self.draw.random()) / max(1, total) * self.changes[name][role])
        plans = [self.plan(role, at)]
        if self.draw.random() < 0.2:
            plans.append(self.plan("main", self.draw.randint(1, 60)))
        what = f"{name}, {plans}"
        for plan in plans:
            ended = place.command(case, plan)
            self.check_text(ended, what, killed=True)
        code, results = self.whole[name]
        ended = place.command(case)
        self.check_text(ended, what)
        self.expect(ended.code == code, what, f"exit code {ended.code} instead of {code}", ended)
        if ended.code == code:
            difference = first_difference(results, place.results(case))
            self.expect(not difference, what, f"not the same: {difference}", ended)
        self.check_done(name, place, what)
        self.finish(place, what, f"kills of {name}")

    def plan(self, role: str, at: int) -> dict[str, Any]:
        """Where and how a process is killed."""
        how = self.draw.choices(("before", "torn", "after"), (5, 2, 3))[0]
        return {"role": role, "at": at, "how": how, "delay": self.draw.random() ** 2 * 0.05}

    def check_text(self, ended: Ended, what: str, killed: bool = False) -> None:
        """No process is left behind. A run that went on says nothing that is not due."""
        self.expect("LEFT BEHIND" not in ended.text, what, "a process was left behind", ended)
        if not killed:
            for wrong in WRONG:
                self.expect(wrong not in ended.text, what, f"it says {wrong!r}", ended)

    def check_done(self, name: str, place: Place, what: str) -> None:
        """The same command once more changes nothing and says so."""
        ended = place.command(CASES[name])
        code, results = self.whole[name]
        self.expect(ended.code == code, what, f"once more: exit code {ended.code} instead of {code}", ended)
        self.expect(any(word in ended.text for word in DONE), what, "once more: does not say done", ended)
        difference = first_difference(results, place.results(CASES[name]))
        self.expect(not difference, what, f"once more: not the same: {difference}", ended)

    def damage(self, name: str, number: int) -> None:
        """One file of a killed or finished run is damaged; then the command is given again."""
        case, place = CASES[name], self.place(f"damage-{number}")
        finished = self.draw.random() < 0.3
        count = self.changes[name]["main"]
        plan = (
            None
            if finished
            else {"role": "main", "at": self.draw.randint(count // 4, count), "how": "before"}
        )
        place.command(case, plan)
        files = sorted(
            p
            for folder in ("out", "cache")
            for p in (place.work / folder).rglob("*")
            if p.is_file() and not p.name.startswith(".")
        )
        path = self.draw.choice(files)
        how = self.draw.choice(sorted(DAMAGES))
        DAMAGES[how](path, self.draw)
        shown = path.relative_to(place.work)
        what = f"{name}, {'finished' if finished else plan}, {how}: {shown}"

        ended = place.command(case)
        code, _ = self.whole[name]
        self.expect(
            "Traceback" not in ended.text and "defect in" not in ended.text, what, "a traceback", ended
        )
        if ended.code == code:
            named = path.name in ended.text
            self.expect(named or not self.differs(name, place), what, "another result, in silence", ended)
        else:
            # A gate may also fail for the file, with an exit code of its own.
            self.expect(ended.code in (1, 2), what, f"exit code {ended.code}", ended)
            self.expect(path.name in ended.text, what, "the damaged file is not named", ended)
        self.finish(place, what, "damaged files")

    def differs(self, name: str, place: Place) -> bool:
        """Whether the run's results are others than those of the whole run; damaged ones cannot be read."""
        try:
            return bool(first_difference(self.whole[name][1], place.results(CASES[name])))
        except ValueError:
            return True

    def expect(self, holds: bool, what: str, problem: str, ended: Ended) -> None:
        """Notes what does not hold."""
        if not holds:
            self.bad.append(f"{what}: {problem}")
            print(f"BAD  {what}\n     {problem}\n{_quoted(ended.text)}", flush=True)

    def finish(self, place: Place, what: str, kind: str) -> None:
        """Counts the run; the folder of a good one goes."""
        if any(line.startswith(f"{what}: ") for line in self.bad):
            print(f"     kept in {place.folder}", flush=True)
            self.good[f"bad {kind}"] += 1
            return
        self.good[kind] += 1
        shutil.rmtree(place.folder)


def _quoted(text: str) -> str:
    return "\n".join(f"     | {line[:200]}" for line in text.strip().splitlines()[-12:])


def _cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path, draw: random.Random) -> None:
    os.truncate(path, 0)


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for place in draw.sample(range(len(data)), min(len(data), 3)):
        data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _garbage(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + draw.randbytes(40))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "cut in half": _cut,
    "empty": _empty,
    "three bits flipped": _flip,
    "bytes appended": _garbage,
    "removed": lambda path, draw: path.unlink(),
}


def first_difference(a: Any, b: Any, where: str = "") -> str:
    """Where two results differ, empty if nowhere."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            if key not in a or key not in b:
                return f"{where}/{key} is in one of them alone"
            if found := first_difference(a[key], b[key], f"{where}/{key}"):
                return found
        return ""
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{where} has {len(a)} and {len(b)} entries"
        return next((d for i in range(len(a)) if (d := first_difference(a[i], b[i], f"{where}[{i}]"))), "")
    return "" if a == b else f"{where}: {str(a)[:60]} and {str(b)[:60]}"


def prepare(base: Path) -> None:
    """Imports what runs need, so that a fork has it; no run of this process's own may start threads."""
    sys.path.insert(0, str(ROOT / "src"))
    hook = base / "hook"
    hook.mkdir()
    # Workers are processes of their own: Python runs this when they start.
    (hook / "sitecustomize.py").write_text(
        "import os\n"
        "if 'RANK' in os.environ:\n"
        "    from bench import kills_hook\n"
        "    kills_hook.arm('rank' + os.environ['RANK'])\n"
    )
    paths = [str(hook), str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for name in (
        "torch",
        "peft",
        "transformers.models.llama.modeling_llama",
        "kilter.cli",
        "kilter.training.trainer",
        "kilter.training.parallel.launch",
        "kilter.evaluation.runner",
        "kilter.release.report",
        "kilter.sampling.local",
    ):
        __import__(name)


def main() -> int:
    """Runs all of it and prints the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damages", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(CASES), help="one of the cases alone")
    a = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    prepare(base)
    if os.fork() == 0:
        write_inputs(base / "inputs", RECIPE)
        os._exit(0)
    os.wait()

    bench = Bench(base, random.Random(a.seed))
    names = [a.only] if a.only else [name for name, case in CASES.items() if case.share]
    for name in names:
        bench.reference(name)
    shares = sum(CASES[name].share for name in names) or 1
    plan = [name for name in names for _ in range(round(a.kills * CASES[name].share / shares))]
    plan = (plan + [names[0]] * a.kills)[: a.kills]
    begin, seen, sizes = time.monotonic(), Counter[str](), Counter(plan)
    for number, name in enumerate(plan):
        bench.kill(name, seen[name], sizes[name])
        seen[name] += 1
        if (number + 1) % 10 == 0:
            print(f"{number + 1} of {a.kills} kills, {time.monotonic() - begin:.0f} s", flush=True)
    cheap = [name for name in names if CASES[name].roles == ("main",)] or names
    for number in range(a.damages):
        bench.damage(cheap[number % len(cheap)], number)
    for kind, count in sorted(bench.good.items()):
        print(f"{kind}: {count}")
    print(f"{len(bench.bad)} things do not hold" + (f"; see {base}" if bench.bad else ""))
    if not bench.bad:
        shutil.rmtree(base)
    return 1 if bench.bad else 0


if __name__ == "__main__":
    sys.exit(main())
