"""The tokenizer of a model folder, with a template that ends, and the tokens that end an answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilter.errors import UserError
from kilter.models.folder import read_json, readable
from kilter.models.remote_code import trusted
from kilter.models.resolve import base_of
from kilter.validation import TookTooLong, ends_within


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, with a pad token other than EOS if the vocabulary offers one."""
    from transformers import AutoTokenizer

    base, adapter = base_of(folder)
    own = adapter is None or any((folder / name).is_file() for name in TOKENIZER_FILES)
    with readable(folder):
        tokenizer = AutoTokenizer.from_pretrained(str(folder if own else base), trust_remote_code=trusted())
        # An adapter that was saved without a template speaks as its base does.
        if own and adapter is not None and not getattr(tokenizer, "chat_template", None):
            tokenizer.chat_template = getattr(load_tokenizer(base), "chat_template", None)
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model",
            str(folder),
            "has no EOS token in its tokenizer",
            "set eos_token in tokenizer_config.json",
        )

    # Padding with EOS would hide the answer's own EOS from everything that skips padding.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        unknown = tokenizer.unk_token
        tokenizer.pad_token = unknown if unknown and unknown != tokenizer.eos_token else tokenizer.eos_token

    # A chat template is a program of somebody's own: nobody knows that it ends.
    tokenizer.apply_chat_template = functools.partial(_render, type(tokenizer).apply_chat_template, tokenizer)
    return tokenizer


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
"""One of them stands in every folder that has a tokenizer of its own."""


RENDER_LIMIT = 10.0
"""Seconds for the chat template to write one conversation."""


def _render(render: Callable[..., Any], tokenizer: Any, *arguments: Any, **options: Any) -> Any:
    """What the tokenizer's own method returns, in bounded time."""
    template = tokenizer.chat_template
    problem = _endless(template) if isinstance(template, str) else ""
    try:
        if not problem:
            with ends_within(RENDER_LIMIT):
                return render(tokenizer, *arguments, **options)
    except TookTooLong as error:
        problem = f"it {error} to write one conversation"
    raise UserError(
        "template",
        str(tokenizer.name_or_path),
        f"does not end: {problem}",
        "mend the chat template, or give another one",
    )


@functools.lru_cache(maxsize=8)
def _endless(template: str) -> str:
    """What in a template no time limit could end: powers, whose computation cannot be interrupted."""
    import jinja2

    try:
        powers = jinja2.Environment().parse(template).find(jinja2.nodes.Pow)
    except jinja2.TemplateError:  # transformers knows more tags; what is no template at all, it will say
        return ""
    return "" if powers is None else f"it computes a power in line {powers.lineno} of its chat template"


def stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's EOS, and what base and adapter declare.

    As transformers has it: generation_config.json says it, and config.json where there is no such file.
    """
    base, adapter = base_of(folder)
    ids = {int(tokenizer.eos_token_id)}
    for place in (base, adapter):
        ids.update(_declared_stops(place) if place is not None else ())
    return frozenset(ids)


def _declared_stops(folder: Path) -> list[int]:
    """The `eos_token_id` of a folder: one, several or none."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name)
        if found:
            declared = found.get("eos_token_id", (found.get("text_config") or {}).get("eos_token_id"))
            return [declared] if isinstance(declared, int) else list(declared or [])
    return []
