"""Chat templates by name, for models whose tokenizer brings none or another one than is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kilter.errors import UserError, nearest

DEFAULT_TEMPLATE = (
    "{% for m in messages %}{{ '### ' + m['role']|capitalize + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
"""Where a tokenizer has no template: '### User:\\n...\\n\\n### Assistant:\\n'. EOS ends the last answer."""

CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content']|trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('system turns are not supported') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content']|trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant turns are supported') }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
    "plain": DEFAULT_TEMPLATE,
}
"""What `template` may name. `refs.TemplateRef` lists the same names."""


def install(tokenizer: Any, template: str) -> bool:
    """Gives the tokenizer the template that is asked for.

    Args:
        tokenizer: its `chat_template` is written, but for "model".
        template: "auto" (its own, else DEFAULT_TEMPLATE), "model" (its own or an error), the name of one of
            its own templates, a name of TEMPLATES, or a jinja file.

    Returns:
        Whether the tokenizer had none and got the default.

    Raises:
        UserError: the model has no template, or nothing has this name.
    """
    own = getattr(tokenizer, "chat_template", None)
    named = own if isinstance(own, dict) else {}
    if template == "model" and not own:
        raise UserError(
            "template",
            "model",
            "needs a chat template, and the tokenizer has none",
            "use template: auto (a documented default), a name such as chatml, or give a .jinja file",
        )

    # The model's own names come first: `tool_use` or `rag` is a template that the model was trained with.
    if template in named:
        tokenizer.chat_template = named[template]
    elif template in TEMPLATES:
        tokenizer.chat_template = _begun(tokenizer) + TEMPLATES[template]
    elif template not in ("auto", "model"):
        tokenizer.chat_template = _from_file(Path(template), [*named, *TEMPLATES])
    elif not own:
        tokenizer.chat_template = _begun(tokenizer) + DEFAULT_TEMPLATE
        return True
    elif named and "default" not in named:
        raise UserError(
            "template",
            template,
            f"does not say which of the model's templates is meant: {', '.join(named)}",
            "give one of these names",
        )
    return False


def _from_file(path: Path, names: list[str]) -> str:
    if not path.is_file():
        raise UserError(
            "template",
            str(path),
            "names no chat template and no file",
            nearest(str(path), ["auto", "model", *names]),
        )
    return path.read_text(encoding="utf-8")


def _begun(tokenizer: Any) -> str:
    """What stands before a template of ours: the BOS, if the tokenizer puts one before a text of its own."""
    first = tokenizer("a")["input_ids"][:1]
    bos = tokenizer.bos_token_id
    return "{{ bos_token }}" if bos is not None and first == [bos] else ""
