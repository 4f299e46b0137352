"""What a kind of stage is, and what a stage sees of the run around it: models, data and stages by name.

Neither knows recipe or pipeline: a stage is handed a Workspace, and the pipeline is handed a kind.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from kilter import manifest as manifests
from kilter.data.dataset import Dataset, DataSpec, load
from kilter.data.source import Part
from kilter.errors import UserError
from kilter.objectives.registry import method_name
from kilter.refs import Found
from kilter.release.section import Section
from kilter.stages.door import Door
from kilter.stages.outcome import ARTIFACT, Makes, Outcome, StagePlan
from kilter.stages.refs import references
from kilter.types import Group, Prompt, Shape

S = TypeVar("S", bound=BaseModel)

DATA = "data"
"""Name of the one data set of a run that has one alone: its settings stand right below `data`."""


class StageKind(ABC, Generic[S]):
    """One kind of stage. A kind of one's own has a Spec, says what it makes, and runs:

    class Longest(StageKind):
        class Spec(StageSpec):
            data: DataRef = "$data"

        makes = "report"

        def run(self, spec, work, folder):
            groups = work.load(spec.data, "prompts").train
            return Outcome({"longest": max(len(g.prompt.text) for g in groups)})

    The fields of Spec that are typed references are its inputs. The pipeline hashes them, orders stages by
    them and checks that they exist. A kind with a door is a command as well. The class holds no state: one
    instance serves every stage of its kind.
    """

    Spec: type[S]
    makes: Makes = "report"
    judges_links: bool = False
    """Whether it runs on inputs that have changed since they were written, and says so itself."""

    door: Door | None = None
    free: frozenset[str] = frozenset()
    """Settings that change no number: a result stands whatever they are."""

    def reads(self, spec: S) -> list[Found]:
        """The references that count; a kind leaves out those that its other settings switch off."""
        return [found for found in references(spec) if found.field not in self.free]

    def shape(self, spec: S, field: str) -> Shape | None:
        """The shape in which the data of a field is read; None: nobody has to try before the run."""
        return "prompts"

    def one_shape(self, spec: S) -> bool:
        """Whether `shape` is all that it reads data in; a kind that says so lets idle settings be refused."""
        return False

    def sets_aside(self, spec: S) -> bool:
        """Whether it splits the training rows of its data once more."""
        return False

    def inputs(self, spec: S, work: Workspace) -> dict[str, str]:
        """What else determines the result, beside settings and references."""
        return {}

    def mendable(self, spec: S) -> list[Path]:
        """A user's files that may change while the stage is unfinished: the next run goes on from there."""
        return []

    def begun(self, folder: Path) -> bool:
        """Whether a folder holds rows that the next run would go on with."""
        # Paid replies are no rows: they say themselves which question they answer.
        return any(path.stat().st_size for path in folder.glob("*.jsonl"))

    def names(self, spec: S) -> list[str]:
        """Names of the models that an evaluation reports on."""
        return []

    def scores(self, spec: S) -> bool:
        """Whether the model that it makes scores answers, and gives none."""
        return False

    def adapts(self, spec: S, work: Workspace) -> bool:
        """Whether the model that it makes is an adapter, without the weights beneath it."""
        return False

    def baseline(self, spec: S) -> str | None:
        """The model that an evaluation compares the others with."""
        return None

    def reports(self, spec: S) -> Mapping[str, Any] | None:
        """The metrics that an evaluation will report, with what is declared of each; None: nobody knows."""
        return None

    def asks(self, spec: S, work: Workspace) -> Mapping[str, Sequence[Prompt]]:
        """What an evaluation will ask, by its kind (prompts, probes, ...), as far as it is known now."""
        return {}

    def answers(self, spec: S) -> tuple[str, int] | None:
        """Field and tokens of the longest answer that its models may write; None: they write none."""
        return None

    def check_names(self, spec: S, work: Workspace) -> None:
        """Raises UserError for an unknown name. It is called of all stages before anything heavy is read."""

    def check(self, spec: S, work: Workspace) -> None:
        """Raises UserError for settings that cannot work together. Reads no data and no model."""

    def preflight(self, spec: S, work: Workspace) -> None:
        """Raises UserError for what only the machine and the data can tell, before any stage runs."""

    def notes(self, spec: S, work: Workspace) -> Sequence[str]:
        """What a person should know before the run, and is no reason to refuse it; said once."""
        return []

    def plan(self, spec: S, work: Workspace) -> StagePlan:
        """What a run would take."""
        return StagePlan()

    @abstractmethod
    def run(self, spec: S, work: Workspace, folder: Path) -> Outcome:
        """Does the work and leaves its files in `folder`; called again after a kill, it goes on from them."""

    def summary(self, facts: Mapping[str, Any]) -> Sequence[str | Text]:
        """Lines for the console, whenever the stage is done or taken as it is."""
        return []

    def section(self, folder: Path) -> Section | None:
        """Its part of report.html, from the files in its folder."""
        return None


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a recipe: the name of its kind, the kind itself, and the settings.

    where: the place of its settings in the recipe, such as stages.dpo.train; "" without a recipe.
    """

    kind: str
    maker: StageKind[Any]
    spec: Any
    where: str = ""


@dataclass(frozen=True)
class Workspace:
    """A run's folder, base model, data sets and stages, as one of the stages sees them.

    base: the recipe's model. name: the stage that looks.
    isolated: each training in a process of its own, so that its peak memory is its own.
    alone: one stage without a recipe, whose folder is the run's.
    loaded: data sets read so far, kept while a run is checked; None: they are not kept.
    said: what the run has said of its data, so that it says it once.
    """

    folder: Path
    console: Console
    base: str
    data_sets: Mapping[str, DataSpec]
    stages: Mapping[str, Stage]
    name: str = ""
    isolated: bool = False
    alone: bool = False
    loaded: dict[tuple[str, Shape], Dataset] | None = None
    said: set[str] = field(default_factory=set)

    def at(self, name: str) -> Workspace:
        """The same run seen from another stage."""
        return replace(self, name=name)

    @property
    def here(self) -> Stage:
        """The stage whose workspace this is."""
        return self.stages[self.name]

    def where(self, field: str = "") -> str:
        """A field's full name in an error message."""
        prefix = "" if self.alone else self.here.where
        return f"{prefix}.{field}".strip(".") if field else f"{prefix}.".lstrip(".")

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Gives errors of the stage's settings their full names: what raises them knows no recipe."""
        try:
            yield
        except UserError as error:
            field = self._full(error.field)
            if field == error.field:
                raise
            raise UserError(field, error.value, error.problem, error.fix) from error

    def _full(self, field: str) -> str:
        """The full name of a setting of this stage; any other name as it is."""
        spec = self.here.spec
        head, _, rest = field.partition(".")
        name = next((n for n, f in type(spec).model_fields.items() if head in (n, f.alias)), None)
        # A setting of the method bears the method's name.
        if name is None and rest and "method" in type(spec).model_fields and head == method_name(spec.method):
            return field if self.alone else self.where(f"method.{rest}")
        # `data.path` is of the data set, and a model that was left out is that of the recipe.
        outside = name is None or (head == "data" and rest) or (head == "model" and spec.model is None)
        return field if self.alone or outside else self.where(field)

    def is_stage(self, name: str | None) -> bool:
        """Whether a stage bears this name; without a recipe, names are of models and files."""
        return not self.alone and name in self.stages

    def origin(self, name: str | None) -> Path | None:
        """The model from which the named stage's own begins, at the end of the chain; None: of several."""
        while name is not None and self.is_stage(name):
            begun = [f for f in references(self.stages[name].spec) if f.ref.default == "base"]
            if len(begun) != 1 or self.stages[name].maker.makes != "model":
                return None
            name = begun[0].value
        return self.model(name)

    def stage(self, name: str) -> Path:
        """The folder of a stage; that of the run if it has one stage alone."""
        return self.folder if self.alone else self.folder / name

    def link(self, name: str) -> str:
        """What the run's chain calls a stage: its folder below the run's."""
        return "." if self.alone else name

    def require_policy(self, name: str, field: str) -> None:
        """Raises UserError where a stage of this name makes a model that answers nothing."""
        stage = self.stages[name]
        if stage.maker.scores(stage.spec):
            raise UserError(
                self.where(field), name, "is a reward model, which answers nothing", "name a policy here"
            )

    def require_scores(self, name: str, field: str) -> None:
        """Raises UserError where a stage of this name makes a model that scores nothing."""
        stage = self.stages[name]
        if not stage.maker.scores(stage.spec):
            raise UserError(
                self.where(field),
                name,
                "is a policy: it has no score head",
                "name a stage that trains a reward model, with method bradley_terry",
            )

    def earlier(self, makes: Makes | str = "") -> list[str]:
        """Stages before this one, all of them or those that make something."""
        return [n for n in self._above() if not makes or self.stages[n].maker.makes == makes]

    def certificates(self) -> list[Path]:
        """What audits of judges left in this run before this stage."""
        paths = [self.stage(name) / ARTIFACT["certificate"] for name in self.earlier("certificate")]
        return [path for path in paths if path.is_file()]

    def _above(self) -> Iterator[str]:
        for name in self.stages:
            if name == self.name:
                return
            yield name

    def inputs(self) -> list[Found]:
        """This stage's references. One that was left out stands with its meaning; None is the base model."""
        found = []
        for item in self.here.maker.reads(self.here.spec):
            value = item.value
            if value is None and item.ref.default == "last":
                value = next(reversed(self.earlier(item.ref.makes)), None)
            if value is not None or item.ref.default == "base":
                found.append(replace(item, value=value))
        return found

    def input(self, field: str) -> Any:
        """What stands at a field of this stage, or what it means where it was left out."""
        return next((f.value for f in self.inputs() if f.field == field), None)

    def model(self, reference: str | None, field: str = "model") -> Path:
        """Folder of a stage's model, of a model, or of the base model (None)."""
        from kilter.models.resolve import resolve

        if reference is None:
            return resolve(self.base, "model")
        if self.is_stage(reference):
            return self.stage(reference) / ARTIFACT["model"]
        return resolve(reference, self.where(field))

    def made_by(self, reference: str) -> list[str]:
        """The stages whose output a data reference leads to; none for data that was there before the run."""
        name = reference.removeprefix("$")
        if name not in self.data_sets:
            return [name] if self.is_stage(name) else []
        paths = [part.path for part in self.data_sets[name].sources()]
        return [path[1:] for path in paths if path.startswith("$")]

    def data(self, reference: str) -> DataSpec:
        """The data set that $name stands for; of a stage that makes data, all its rows are for training."""
        spec = self.data_sets.get(reference.removeprefix("$"))
        if spec is None and (stages := self.made_by(reference)):
            return DataSpec(**self._made(f"${stages[0]}"), heldout=0.0)
        spec = self.data_sets[reference.removeprefix("$")]
        if spec.parts:
            parts = [p.model_copy(update=self._made(p.path)) for p in spec.parts]
            return spec.model_copy(update={"parts": parts})
        return spec.model_copy(update=self._made(spec.path))

    def _made(self, path: str) -> dict[str, str]:
        """Where the rows of a source lie that a stage makes, and their format; nothing for other sources."""
        if not path.startswith("$"):
            return {}
        return {"path": str(self.stage(path[1:]) / ARTIFACT["data"]), "format": "groups"}

    def listed(self, reference: str) -> bool:
        """Whether a reference names a data set of the recipe; else it is what a stage makes."""
        return reference.removeprefix("$") in self.data_sets

    def data_field(self, reference: str, key: str = "") -> str:
        """What a recipe calls a data set, or one of its settings: data.desk, data.desk.heldout."""
        name = reference.removeprefix("$")
        if self.alone and name != DATA:
            # A data set that an option of the command names by its path.
            return next((f.field for f in references(self.here.spec) if f.value == reference), name)
        named = not self.alone and self.listed(reference) and name != DATA
        field = f"{DATA}.{name}" if named else name
        return f"{field}.{key}" if key else field

    def sources(self, reference: str) -> list[Part]:
        """What a data set is read from, but for what stages of the run make."""
        spec = self.data_sets.get(reference.removeprefix("$"))
        return [] if spec is None else [part for part in spec.sources() if not part.path.startswith("$")]

    def ready(self, reference: str) -> bool:
        """Whether the data can be read now: False where a stage that makes some of it has not ended."""
        # A stage that was killed has left a file too, and it holds a part of its rows.
        made = [(self.stage(name), manifests.read(self.stage(name))) for name in self.made_by(reference)]
        return all(
            entry is not None and entry.status == "done" and (folder / ARTIFACT["data"]).is_file()
            for folder, entry in made
        )

    def load(self, reference: str, shape: Shape) -> Dataset:
        """Reads a data set in a shape. Raises UserError naming file, line and field."""
        name = reference.removeprefix("$")
        if self.loaded is not None and (name, shape) in self.loaded:
            return self.loaded[name, shape]
        field = self.data_field(reference)
        try:
            found = load(self.data(reference), shape, field)
        except UserError as error:
            # Without a recipe an option is the path itself.
            if not self.alone or name == DATA or error.field != f"{field}.path":
                raise
            raise UserError(field, error.value, error.problem, error.fix) from error
        if self.loaded is not None:
            self.loaded[name, shape] = found
        return found

    def answered(self, reference: str) -> Sequence[Group]:
        """Groups of a data set with its own answers; none where it has none."""
        try:
            found = self.load(reference, "demonstrations")
        except UserError:
            return []
        return found.heldout or found.train

    def announce(self, reference: str, data: Dataset) -> None:
        """Says once what was left out of a data set, what is carried along, and what is not read."""
        name = reference.removeprefix("$")
        for note in data.notes():
            line = f"  {name}: {note}"
            if line not in self.said:
                self.said.add(line)
                self.console.print(line, soft_wrap=True)

    def shapes(self, reference: str) -> set[Shape]:
        """The shapes in which the run's stages read a data set."""
        found: set[Shape] = set()
        for stage in self.stages.values():
            for item in stage.maker.reads(stage.spec):
                shape = stage.maker.shape(stage.spec, item.field)
                if item.ref.to == "data" and item.value == reference and shape is not None:
                    found.add(shape)
        return found

    def asks(self, name: str) -> Mapping[str, Sequence[Prompt]]:
        """What another stage will ask, as far as it is known now."""
        other = self.stages[name]
        return other.maker.asks(other.spec, self.at(name))

    def plan(self, name: str) -> StagePlan:
        """What another stage would take."""
        other = self.stages[name]
        return other.maker.plan(other.spec, self.at(name))
