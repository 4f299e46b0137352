"""docs/train-options.md: every option of `kilter train` by group, written from the options themselves."""

from __future__ import annotations

from collections.abc import Sequence

from kilter.cli.options import Option, describe, metavar
from kilter.options import GROUPS

HEAD = """# All options of training

Each field of a train stage is an option of `kilter train`, a key in a recipe, and an argument of
`kilter.train`.
`kilter schema --options` writes this page.

    kilter train --method dpo --data pairs.jsonl --adapter lora --adapter.r 8 --learning-rate 1e-5

In a recipe, a dot is a nested key: `--adapter.r 8` is `adapter: {r: 8}`. Fields of the data set stand
under `data`.
Settings of a method, such as `beta`, are options of `--set`; `kilter methods NAME` lists them.
With `--dry-run` the command checks and opens everything, prints rows, tokens, steps, memory and time, and
runs nothing.
"""


def train_options(options: Sequence[Option]) -> str:
    """The page as Markdown.

    Args:
        options: of the command, in the order of their fields.
    """
    lines = [HEAD]
    for group in GROUPS:
        own = [o for o in options if o.group == group and not o.hidden]
        if own:
            lines += [f"## {group[0].upper()}{group[1:]}", ""]
            lines += [f"- `{_shown(o)}`: {_sentence(describe(o))}" for o in own]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _shown(option: Option) -> str:
    """The flag with its value; a switch that is on by default has both of its names."""
    if option.kind == "switch":
        return metavar(option) or option.flag
    return f"{option.flag} {metavar(option)}"


def _sentence(text: str) -> str:
    """With a capital and a full stop, and no angle brackets that Markdown would hide."""
    text = text.replace("<", "\\<")
    first = text if text.partition(" ")[0].rstrip(",:;") in KEEP else text[:1].upper() + text[1:]
    return first if first.endswith(".") else first + "."


KEEP = ("auto", "fixed", "lora", "tensorboard", "bfloat16", "builtin:NAME")
"""Values and names with which a description begins."""
