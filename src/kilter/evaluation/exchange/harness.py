"""Tasks of lm-evaluation-harness on models of Kilter, by the harness itself."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kilter.artifacts import require_writable, sha256_file
from kilter.errors import RunFailed, UserError
from kilter.evaluation.exchange import lm_eval as results
from kilter.evaluation.exchange.imported import recorded
from kilter.evaluation.exchange.kilter import write_evaluation
from kilter.evaluation.exchange.outcome import Outcome, safe
from kilter.models.fingerprint import model_hash, reference_hash
from kilter.models.resolve import base_of, resolve
from kilter.screen import Screen

YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Harness:
    """What is asked, and how.

    Args:
        tasks: names that lm-eval knows, or YAML files of tasks.
        limit: only the first prompts of each task; None: all.
        few_shot: examples before each prompt; None: as the task says.
        chat: whether prompts go through the model's chat template.
        batch_size: prompts at once.
        seed: of sampling and of the examples.
    """

    tasks: Sequence[str]
    limit: int | None = None
    few_shot: int | None = None
    chat: bool = False
    batch_size: int = 8
    seed: int = 0

    def run(self, models: Mapping[str, str], out: Path, console: Screen) -> dict[str, Any]:
        """Every model on every task; lm-eval's files, and evaluation.json with paired differences.

        Raises:
            UserError: lm-eval is not installed, or a task or a model is unknown. No model was opened then.
        """
        if importlib.util.find_spec("lm_eval") is None:
            fix = 'Run pip install "kilter[lm-eval]".'
            raise UserError("lm-eval", ", ".join(self.tasks), "needs lm-eval, which is not installed.", fix)
        require_writable(out)
        # Its progress is shown; what it tells of its settings stands in its files.
        logging.getLogger("lm_eval").setLevel(logging.WARNING)
        names, manager = self._known()
        folders = {name: resolve(reference) for name, reference in models.items()}
        sources = {f"model:{reference}": reference_hash(reference) for reference in models.values()}
        sources |= {f"file:{task}": sha256_file(Path(task)) for task in self.tasks if task.endswith(YAML)}

        outcomes: list[Outcome] = []
        files: list[Path] = []
        with recorded(out, {"models": dict(models), **asdict(self)}, sources) as entry:
            for name, folder in folders.items():
                console.print(f"lm-eval: {name} on {', '.join(names)}")
                made = self._one(folder, names, manager, out / "lm-eval" / safe(name))
                found = {"path": str(folder), "model_hash": model_hash(folder)[:16]}
                outcomes += [replace(o, model=name, about={**o.about, **found}) for o in results.read(made)]
                files.append(made)
            result = write_evaluation(outcomes, out, files)
            entry.facts = {"prompts": result["n_prompts"], "baseline": result["baseline"]}
        return result

    def _known(self) -> tuple[list[str], Any]:
        """The tasks by name, and lm-eval's manager of them."""
        from lm_eval.tasks import TaskManager

        files = {task: Path(task) for task in self.tasks if task.endswith(YAML)}
        for task, path in files.items():
            if not path.is_file():
                raise UserError("--tasks", task, "names no file", "give a task's YAML file, or its name")
        folders = [str(path.resolve().parent) for path in files.values()]
        names = [_name(files[task]) if task in files else task for task in self.tasks]
        manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(self.tasks))
        for name in names:
            if not manager.match_tasks([name]):
                fix = "See `lm-eval ls tasks` for the names, or give a YAML file."
                raise UserError("--tasks", name, "is not a task that lm-eval knows.", fix)
        return names, manager

    def _one(self, folder: Path, names: list[str], manager: Any, out: Path) -> Path:
        """One model on all tasks; returns lm-eval's results file."""
        from lm_eval import simple_evaluate
        from lm_eval.loggers import EvaluationTracker

        from kilter.roles.open import choose_device

        # An adapter is laid over its base by lm-eval itself.
        base, adapter = base_of(folder)
        arguments = {"pretrained": str(base), "dtype": "float32"} | (
            {"peft": str(adapter)} if adapter else {}
        )
        tracker = EvaluationTracker(output_path=str(out))
        made = simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=names,
            num_fewshot=self.few_shot,
            limit=self.limit,
            batch_size=self.batch_size,
            device=str(choose_device()),
            task_manager=manager,
            evaluation_tracker=tracker,
            apply_chat_template=self.chat,
            random_seed=self.seed,
            numpy_random_seed=self.seed,
            torch_random_seed=self.seed,
            fewshot_random_seed=self.seed,
        )
        samples = made.pop("samples")
        tracker.save_results_aggregated(results=made, samples=samples)
        for name, rows in samples.items():
            tracker.save_results_samples(task_name=name, samples=rows)
        written = sorted(out.glob("*/results_*.json"))
        if not written:
            raise RunFailed(
                f"The harness failed to write results into {out}", "look at what it printed above"
            )
        return written[-1]


def _name(path: Path) -> str:
    """The task's name in its file, read without its tags: some of them run code."""
    found = re.search(r"^task:\s*['\"]?([^'\"\n#]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise UserError("--tasks", str(path), "has no line `task: NAME`", "give the YAML file of one task")
    return found[1].strip()
