"""Runs the stages of a recipe in order; an unchanged finished stage is taken as it is, an unfinished one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kilter import manifest as manifests
from kilter import recipe as recipes
from kilter.artifacts import lock, set_aside, write_text
from kilter.data.dataset import DataSpec
from kilter.errors import Exit, UserError
from kilter.manifest import Manifest
from kilter.progress import clock
from kilter.recipe import Recipe, Stage
from kilter.registry import user_files
from kilter.types import Shape
from kilter.version import __version__


@dataclass
class Run:
    """A recipe and its folder runs/<name>/."""

    recipe: Recipe
    folder: Path
    console: Console
    isolated: bool = False
    """Each train stage in a process of its own, so that its peak memory is its own."""

    def execute(self) -> Exit:
        """Runs what is not done. Writes report.html after every stage, so that a failed run has one too."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "kilter run",
                os.environ["WORLD_SIZE"],
                "runs in one process",
                "start it once, and give its train stages `processes: N`",
            )
        with lock(self.folder):
            return self._execute()

    def _execute(self) -> Exit:
        from kilter.release import report

        write_text(self.folder / "recipe.yaml", recipes.dump(self.recipe))
        self.preflight()
        code = Exit.OK
        begin = time.monotonic()
        for number, (name, stage) in enumerate(self.recipe.stages.items(), start=1):
            title = f"[{number}/{len(self.recipe.stages)}] {name} ({stage.kind})"
            inputs = self._inputs(stage)
            config = json.loads(getattr(stage, stage.kind).model_dump_json(by_alias=True))
            entry = manifests.new(name, stage.kind, config, inputs)
            folder = self.folder / name
            old = manifests.read(folder)
            whole = stage.train is None or (folder / "model").is_dir()
            if old is not None and old.status == "done" and old.key == entry.key and whole:
                self.console.print(f"[green]✓[/] {title}: unchanged, taken from {folder}", highlight=False)
                code = self._code(stage, old, code)
                continue
            if old is not None and old.key != entry.key and any(folder.iterdir()):
                self._set_aside(folder)
            self.console.print(f"[bold]▶ {title}[/]", highlight=False)
            try:
                with manifests.life(folder, entry):
                    entry.outputs, entry.facts = STAGES[stage.kind](self, name, stage, folder)
            finally:
                report.write(self.folder)
            self.console.print(f"  done in {clock(entry.seconds)}", highlight=False)
            code = self._code(stage, entry, code)
        path = report.write(self.folder)
        self.console.print(
            f"\nreport: [bold]{path}[/]   ({clock(time.monotonic() - begin)})", highlight=False
        )
        return code

    def _code(self, stage: Stage, entry: Manifest, code: Exit) -> Exit:
        if stage.gate is None:
            return code
        from kilter.release.gate import exit_code

        verdict = entry.facts["verdict"]
        colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[verdict]
        self.console.print(
            f"  verdict: [bold {colour}]{verdict.upper()}[/] for {entry.facts['candidate']}", highlight=False
        )
        for line in entry.facts.get("lines", ()):
            self.console.print(f"    {line}", highlight=False, markup=False)
        mine = exit_code(verdict)
        return mine if code == Exit.OK else code

    def _set_aside(self, folder: Path) -> None:
        """Config or inputs changed: the old artifact is kept under .superseded/, never overwritten."""
        target = set_aside(folder, self.folder / ".superseded")
        self.console.print(
            f"  {folder.name}: its configuration or inputs changed; the old result is in {target}",
            highlight=False,
        )

    def _inputs(self, stage: Stage) -> dict[str, str]:
        """Content hashes of everything the stage reads."""
        found = {f"data:{n}": self.data_hash(self.recipe.data[n]) for _, n in stage.data_names()}
        found["kilter"] = __version__
        names = [ref for _, ref in stage.model_names()]
        if stage.audit is not None:  # the truncation check counts the base model's tokens
            names.append(self.recipe.model)
            found["shape"] = str(audit_shape(self.recipe, stage.audit.data))
        for path in user_files(json.loads(getattr(stage, stage.kind).model_dump_json())):
            found[f"file:{path}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        template = getattr(stage.train or stage.evaluate, "template", "auto")
        if template not in ("auto", "model"):
            found["template"] = hashlib.sha256(Path(template).read_bytes()).hexdigest()
        if stage.train is not None and stage.train.start is None:
            names.append(self.recipe.model)
        for ref in names:
            found[f"model:{ref}"] = (
                self.output_hash(ref) if ref in self.recipe.stages else self._model_hash(ref)
            )
        if stage.gate is not None:
            evaluation = self.evaluation_of(stage)
            found[f"evaluation:{evaluation}"] = self.output_hash(evaluation)
            if isinstance(stage.gate.policy, str):
                found["policy"] = hashlib.sha256(Path(stage.gate.policy).read_bytes()).hexdigest()
        return found

    def data_hash(self, spec: DataSpec) -> str:
        """Hash of the data set's configuration and, for a local file, its bytes."""
        digest = hashlib.sha256(spec.model_dump_json().encode())
        path = Path(spec.path).expanduser()
        if path.is_file():
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _model_hash(self, reference: str) -> str:
        from kilter.models.builtin import BUILTIN
        from kilter.models.load import model_hash, resolve

        if reference.startswith("builtin:") and reference.partition(":")[2] in BUILTIN:
            return BUILTIN[reference.partition(":")[2]].sha256
        return model_hash(resolve(reference))

    def output_hash(self, stage: str) -> str:
        """Hash of what an earlier stage made."""
        entry = manifests.read(self.folder / stage)
        if entry is None or entry.status != "done":
            raise UserError(
                f"stages.{stage}", "(unfinished)", "has not been run", "run the recipe from its beginning"
            )
        return entry.outputs.get("model") or entry.outputs.get("evaluation") or entry.key

    def model_folder(self, reference: str | None, field: str = "model") -> Path:
        """Folder of a stage's model, of a model reference, or of the recipe's base model (None)."""
        from kilter.models.load import resolve

        if reference is None:
            return resolve(self.recipe.model, "model")
        if reference in self.recipe.stages:
            return self.folder / reference / "model"
        return resolve(reference, field)

    def evaluation_of(self, stage: Stage) -> str:
        """The evaluate stage that a gate reads: the one it names, else the last one above it."""
        assert stage.gate is not None
        above = ""
        for name, other in self.recipe.stages.items():
            if other is stage:
                break
            above = name if other.evaluate else above
        return stage.gate.evaluation or above

    def preflight(self) -> None:
        """Everything that can be wrong and can be known now, before anything expensive: models, data, templates, trackers."""
        from kilter.data.dataset import load
        from kilter.training.log import check_trackers

        self.model_folder(None)
        loaded: set[tuple[str, str]] = set()
        for name, stage in self.recipe.stages.items():
            where = f"stages.{name}.{stage.kind}"
            for field, ref in stage.model_names():
                if ref not in self.recipe.stages:
                    self.model_folder(ref, f"{where}.{field}")
            template = getattr(stage.train or stage.evaluate, "template", "auto")
            if template not in ("auto", "model") and not Path(template).is_file():
                raise UserError(
                    f"{where}.template",
                    template,
                    "no such file",
                    "use auto, model, or the path of a .jinja file",
                )
            if stage.train is not None:
                check_trackers(stage.train.trackers)
                for _, data in stage.data_names():
                    shape = recipes.shape_of(stage.train)
                    if (data, shape) not in loaded:
                        load(self.recipe.data[data], shape, data)
                        loaded.add((data, shape))
            if stage.evaluate is not None:
                spec = recipes.data_of(self.recipe, stage.evaluate.data)
                if not load(spec, "prompts", stage.evaluate.data.removeprefix("$")).heldout:
                    raise UserError(
                        "data.heldout",
                        spec.heldout,
                        "leaves no prompts to evaluate on",
                        "set data.heldout above 0 or give more data",
                    )


Outcome = tuple[dict[str, str], dict[str, Any]]


def _audit(run: Run, name: str, stage: Stage, folder: Path) -> Outcome:
    from kilter.data.audit.run import audit, write
    from kilter.data.dataset import load
    from kilter.roles.open import OpenSpec, open_encoder

    assert stage.audit is not None
    spec = recipes.data_of(run.recipe, stage.audit.data)
    data = load(spec, audit_shape(run.recipe, stage.audit.data), stage.audit.data.removeprefix("$"))
    model = run.model_folder(None)
    encoder = open_encoder(OpenSpec(model, max_length=stage.audit.max_length))
    result = audit(data, encoder, lambda check: run.console.print(f"  checking {check}", highlight=False))
    write(result, folder)
    for finding in result["findings"]:
        if finding["level"] != "ok":
            run.console.print(
                f"  [yellow]{finding['level']}[/] {finding['check']}: {finding['value']}", highlight=False
            )
    if stage.audit.fail_on_error and result["verdict"] == "error":
        bad = next(f for f in result["findings"] if f["level"] == "error")
        raise UserError(
            f"{stage.audit.data} {bad['check']}",
            bad["value"],
            bad["meaning"],
            f"mend the data ({folder / 'audit.json'} lists the ids), or set fail_on_error: false",
        )
    return {"audit": result["data_hash"]}, {
        "verdict": result["verdict"],
        "train": result["train"],
        "heldout": result["heldout"],
    }


def audit_shape(recipe: Recipe, name: str) -> Any:
    """Pairs when any stage learns from pairs of this data set, else demonstrations."""
    from kilter.objectives import build_objective

    shapes = {
        build_objective(s.method).needs.shape
        for _, s in recipes.train_stages(recipe)
        if s.data == name and s.prompts is None
    }
    return "pairs" if "pairs" in shapes else "demonstrations" if shapes else "pairs"


def _train(run: Run, name: str, stage: Stage, folder: Path) -> Outcome:
    from kilter.data.dataset import load, prompt_key, trained_prompts
    from kilter.models.load import model_hash
    from kilter.training.parallel import launch
    from kilter.training.trainer import Trainer

    spec = stage.train
    assert spec is not None
    source = (spec.prompts or spec.data).removeprefix("$")
    data = load(recipes.data_of(run.recipe, source), recipes.shape_of(spec), source)
    start = run.model_folder(spec.start, f"stages.{name}.train.from")
    reference = run.model_folder(spec.reference, f"stages.{name}.train.reference") if spec.reference else None
    if data.skipped:
        run.console.print(f"  data: left out: {data.left_out()}", highlight=False)
    seen = {prompt_key(g.prompt)[:16] for g in data.train}
    for parent in (start, reference):
        seen |= trained_prompts(parent) if parent is not None else set()
    write_text(folder / "trained_prompts.txt", "\n".join(sorted(seen)) + "\n")
    resolve = lambda ref: run.model_folder(ref, f"stages.{name}.train")
    trainer = Trainer(spec, start, data.train, data.heldout, folder, reference, run.console, name, resolve)
    result = launch.run(trainer) if run.isolated else launch.train(trainer)
    facts = {
        "steps": result.steps,
        "groups": len(data.train),
        "heldout_groups": len(data.heldout),
        "metrics": result.metrics,
        "heldout": result.heldout,
        "left_out": dict(data.skipped + result.counts),
        "stopped": result.stopped,
        "best_step": result.best_step,
        "tokens_per_second": result.tokens_per_second,
        "step_seconds": result.step_seconds,
        "peak_memory_gb": result.peak_memory_gb if run.isolated else None,
    }
    return {"model": model_hash(result.model)}, facts


def _evaluate(run: Run, name: str, stage: Stage, folder: Path) -> Outcome:
    from kilter.data.dataset import heldout_pairs, load, trained_prompts
    from kilter.evaluation.runner import Evaluation

    spec = stage.evaluate
    assert spec is not None
    source = recipes.data_of(run.recipe, spec.data)
    prompts = load(source, "prompts", spec.data.removeprefix("$"))
    baseline = spec.baseline or spec.models[0]
    order = [baseline, *(m for m in spec.models if m != baseline)]
    models = {ref: run.model_folder(ref, f"stages.{name}.evaluate.models") for ref in order}
    reward = (spec.reward_model, run.model_folder(spec.reward_model)) if spec.reward_model else None
    pairs = heldout_pairs(source, spec.data.removeprefix("$")) if reward is not None else []
    trained: set[str] = set()
    for ref in models:
        trained |= trained_prompts(models[ref])
    for (
        other
    ) in run.recipe.stages.values():  # before any generation: can this many prompts pass the gate at all?
        if other.gate is not None and run.evaluation_of(other) == name:
            from kilter.release.gate import load_policy, power_warnings

            held = len({g.prompt.id or i for i, g in enumerate(prompts.heldout)})
            for line in power_warnings(load_policy(other.gate.policy), min(held, spec.limit or held)):
                run.console.print(f"  [yellow]power[/] {line}", highlight=False)
    probes = [g.prompt for probe in spec.probes for g in _probe(run, probe)[: spec.probe_limit]]
    tax = _probe(run, spec.tax, "demonstrations")[: spec.tax_limit] if spec.tax else []
    result = Evaluation(
        spec, models, reward, prompts, pairs, frozenset(trained), folder, run.console, name, probes, tax
    ).run()
    digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
    return {"evaluation": digest}, {"prompts": result["n_prompts"], "baseline": result["baseline"]}


def _probe(run: Run, name: str, shape: Shape = "prompts") -> list[Any]:
    """All prompts of a probe set, once each: what is held out and what is not, for nothing trains on them."""
    from kilter.data.dataset import load, prompt_key

    data = load(recipes.data_of(run.recipe, name), shape, name.removeprefix("$"))
    return list({prompt_key(g.prompt): g for g in (*data.heldout, *data.train)}.values())


def _gate(run: Run, name: str, stage: Stage, folder: Path) -> Outcome:
    from kilter.release import gate as gates

    spec = stage.gate
    assert spec is not None
    evaluation = json.loads((run.folder / run.evaluation_of(stage) / "evaluation.json").read_text())
    result = gates.decide(gates.load_policy(spec.policy), evaluation, spec.candidate, baseline=spec.baseline)
    gates.write(result, folder)
    lines = [f"{c['state']:<12} {c['condition']}   {c['why']}" for c in result["conditions"]]
    return {"gate": hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()}, {
        "verdict": result["verdict"],
        "candidate": result["candidate"],
        "lines": lines,
    }


STAGES: dict[str, Callable[[Run, str, Stage, Path], Outcome]] = {
    "audit": _audit,
    "train": _train,
    "evaluate": _evaluate,
    "gate": _gate,
}
