"""Where rows come from and how they are read: one source, or a part of a mixture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator

from kilter.data.worlds import registry as worlds
from kilter.errors import UserError
from kilter.validation import Settings, with_fix

if TYPE_CHECKING:
    AnyDials = worlds.Dials
else:  # so that the schema and the command line show the dials of every registered world
    AnyDials = Union[tuple(world.dials for _, world in worlds.worlds)]  # noqa: UP007


class SourceSpec(Settings):
    """One source of rows and how they are read."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    path: Annotated[str, AfterValidator(worlds.check_path)] = Field(
        description="file, folder, pattern (data/*.jsonl), Hub name (owner/name), "
        f"or {', '.join(worlds.paths())}"
    )
    format: str = Field(
        "auto", description="auto, a name listed by `kilter data formats`, or my_file.py:read"
    )
    map: dict[str, str] = Field(
        default_factory=dict,
        description="what the data calls a column: prompt=question reads question as the prompt",
    )
    split: str = Field("train", description="split of a Hub data set, or of a folder")
    config: str | None = Field(None, description="configuration of a Hub data set")
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="stop at a bad row, or skip and count it"
    )
    world: Annotated[AnyDials, worlds.DialsOfPath()] = Field(
        default_factory=dict, validate_default=True, description=f"dials of {', '.join(worlds.paths())}"
    )

    @field_validator("map")
    @classmethod
    def _one_column_each(cls, value: dict[str, str]) -> dict[str, str]:
        twice = [theirs for theirs, count in Counter(value.values()).items() if count > 1]
        if twice:
            raise ValueError(f"uses the column {twice[0]!r} twice")
        return value

    @field_validator("format", "map", "split")
    @classmethod
    def _is_read(cls, value: Any, info: ValidationInfo) -> Any:
        """A setting that this source does not read would be dropped in silence, and other rows be taken.

        `config` is left alone: a recipe that names a Hub data set is run on a copy by data.path.
        """
        path, name = info.data.get("path", ""), str(info.field_name)
        if value == cls.model_fields[name].get_default(call_default_factory=True):
            return value
        idle = ""
        if worlds.is_world(path):
            idle = f"{path} is generated, and has rows of one kind"
        elif name == "split" and (Path(path).expanduser().is_file() or set("*?[") & set(path)):
            idle = f"{path} names files, and all of their rows are read"
        if idle:
            raise with_fix(UserError(name, value, f"has no effect: {idle}", "leave it out"))
        return value


class Part(SourceSpec):
    """One source of a mixture."""

    weight: float = Field(
        1.0, gt=0, description="how often each row is seen in a pass: 2 is twice, 0.5 is every second row"
    )
    heldout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="this part's share of prompts kept for evaluation; else that of the whole",
    )


INHERITED = ("format", "map", "split", "config", "on_bad_row")
"""What a part of a mixture takes from the whole where it says nothing itself."""
