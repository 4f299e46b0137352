"""Critics from settings: a model, an endpoint, a script, or a world's own critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from kilter.constitution.document import Constitution
from kilter.constitution.script import mixed_up
from kilter.constitution.spec import CriticSpec
from kilter.constitution.wording import VERSION
from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.judge.build import build, load_spec
from kilter.feedback.judge.spec import JudgeSpec
from kilter.feedback.judge.verdict import ToldJudge
from kilter.models.resolve import resolve
from kilter.roles.chat import SamplerChat
from kilter.roles.courier import by_courier
from kilter.roles.open import OpenSpec
from kilter.roles.paid import PaidChat
from kilter.roles.replies import Replies
from kilter.roles.sampler import open_sampler
from kilter.roles.talk import Talker
from kilter.sampling.named import FILES, own_critic
from kilter.types import SamplingParams
from kilter.validation import as_user_error


def open_critic(spec: CriticSpec, model: Callable[[], Path], seed: int, where: str) -> SamplerChat:
    """The chat with a critic. Its `sampler` has to be closed.

    Args:
        spec: who writes.
        model: finds the folder of the weights; it is asked only if the sampler opens some.
        seed: of sampling.
        where: field of the settings, for messages.
    """
    opening = OpenSpec(
        model() if spec.opens else spec.sampler.model or "",
        template=spec.template,
        max_length=spec.max_length,
        max_prompt=spec.max_length - spec.max_new_tokens,
        long_rows="cut",
    )
    params = SamplingParams(spec.max_new_tokens, spec.temperature, seed=seed)
    return SamplerChat(open_sampler(spec.sampler, opening, f"{where}.sampler"), params)


CACHE = "critic.sqlite"
"""File of a stage's critiques and revisions."""


def keeping(
    chat: SamplerChat, spec: CriticSpec, model: Callable[[], Path], seed: int, folder: Path
) -> PaidChat:
    """A critic whose replies are on disk as they come.

    A kill costs the questions that a model in memory was reading, and nothing of what an endpoint was asked.

    Args:
        chat: the critic, of `open_critic` with the same settings.
        spec: who writes.
        model: finds the folder of the weights; it is asked only if the sampler opens some.
        seed: of sampling.
        folder: of the stage.
    """
    own = Talker(spec.sampler, model() if spec.opens else None, template=spec.template)
    how = spec.model_dump(mode="json", include={"max_length", "temperature"})
    identity = {**own.identity, **how, "seed": seed, "version": VERSION}
    at_once, chunk = own.pace
    replies = Replies(folder / CACHE, "critic")
    made = PaidChat(
        lambda: chat, identity, spec.max_new_tokens, replies=replies, at_once=at_once, chunk=chunk
    )
    return by_courier(made, spec.sampler, chat.params, "critic.sampler") if own.endpoint else made


def critic_of_text(text: str, seed: int = 0) -> SamplerChat:
    """A critic as a command line names it: builtin:WORLD, a model, or a file of a critic's settings.

    Raises:
        UserError: the file or its settings are wrong.
    """
    file = text.endswith(FILES)
    if file and not Path(text).is_file():
        raise UserError("--critic", text, "names no file", "correct the path")
    where, model = (text, f"{text}.model") if file else ("--critic", "--critic")
    try:
        spec = CriticSpec(model=text)
    except ValidationError as error:
        raise as_user_error(error, where, CriticSpec) from error
    return open_critic(spec, lambda: resolve(spec.model or "", model), seed, where)


def judge_of_text(text: str) -> ToldJudge:
    """A judge as a command line names it: judge.yaml, builtin:WORLD, or a model."""
    file = text if text.endswith(FILES) else None
    spec = load_spec(text, "--judge") if file else JudgeSpec(model=text)
    # Principles are asked one by one, so what the file says of a constitution is not needed here.
    plain = spec.model_copy(update={"mode": "pairwise", "constitution": None})
    return build(plain, Context(lambda name: resolve(name, "--judge")), "--judge", file=file)


def not_told_apart(text: str, documents: Sequence[Constitution]) -> list[str]:
    """What `mixed_up` says of a critic or a judge as a command line names it."""
    own = own_critic(text)
    return [] if own is None else mixed_up(own, documents)
