"""kilter sample and chat."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from kilter.artifacts import require_file
from kilter.cli.app import ModelArg, command, err, out
from kilter.errors import UserError


@command(
    examples=[
        "kilter sample runs/quickstart/dpo --prompt 'Where is my order?' -k 3",
        "kilter sample builtin:smollm2-135m --data prompts.jsonl --out answers.jsonl",
        "kilter sample runs/sft --data demonstrations.jsonl --negatives --out pairs.jsonl",
    ]
)
def sample(
    model: ModelArg,
    prompt: Annotated[str | None, typer.Option(help="one prompt; or use --data")] = None,
    data: Annotated[str | None, typer.Option(help="file with prompts")] = None,
    out_: Annotated[
        Path | None, typer.Option("--out", help="write groups.jsonl here instead of printing")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="answers per prompt")] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="tokens per answer")] = 128,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.7,
    top_p: Annotated[float, typer.Option(help="nucleus")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0: off")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="stop string, repeatable")] = None,
    seed: Annotated[int, typer.Option(help="same seed, same answers")] = 0,
    limit: Annotated[int | None, typer.Option(help="first N prompts only")] = None,
    negatives: Annotated[
        bool,
        typer.Option(
            "--negatives", help="pairs: the data's own answer is chosen, the sampled ones are rejected"
        ),
    ] = False,
) -> None:
    """Sample answers, with token ids and log-probs in groups.jsonl."""
    from kilter.api import make_data_spec
    from kilter.data import store
    from kilter.data.dataset import load
    from kilter.progress import SILENT, Display, OnDisplay, Progress
    from kilter.sampling.collect import collect, requests
    from kilter.sampling.params import check_params
    from kilter.types import Feedback, Group, Prompt, SamplingParams

    if (prompt is None) == (data is None):
        raise UserError(
            "--prompt/--data",
            prompt or data,
            "give exactly one of them",
            "write --prompt 'text' or --data FILE",
        )
    params = SamplingParams(max_new_tokens, temperature, top_p, top_k, tuple(stop or ()), seed)
    check_params(params)
    if out_ is not None:
        require_file(out_, "--out")
    if negatives and (data is None or out_ is None):
        raise UserError(
            "--negatives",
            True,
            "needs demonstrations and a file to write",
            "give --data FILE and --out pairs.jsonl",
        )
    known: list[Group] = []
    if prompt is not None:
        prompts = [Prompt(messages=({"role": "user", "content": prompt},))]
    else:
        known = load(
            make_data_spec({"path": str(data), "heldout": 0, "limit": limit}),
            "demonstrations" if negatives else "prompts",
        ).train
        prompts = [g.prompt for g in known]
    sampler = _sampler(model)
    display: Progress = Display(err, "sampling", len(prompts) * k) if prompt is None else SILENT
    with contextlib.closing(display):
        found = collect(sampler, requests(prompts, k, params), OnDisplay(display))
    answers = found.made
    if found.problems:
        err.print(f"[yellow]{found.summary()}[/]", highlight=False)
    if negatives:
        groups = [
            Group(
                g.prompt,
                (g.completions[0], *(c for c in a if c.text.strip())),
                (Feedback(1.0), *(Feedback(0.0) for c in a if c.text.strip())),
            )
            for g, a in zip(known, answers, strict=True)
        ]
    else:
        groups = [
            Group(p, tuple(a), (Feedback(None),) * len(a)) for p, a in zip(prompts, answers, strict=True) if a
        ]
    if out_ is not None:
        store.append(out_, groups)
        err.print(f"{len(groups)} groups appended to {out_}", highlight=False)
        return
    for group in groups:
        for completion in group.completions:
            out.print(completion.text, markup=False, highlight=False, soft_wrap=True)
            if len(groups) * k > 1:
                out.rule(style="dim")


def _sampler(model: str) -> Any:
    from kilter.roles.open import OpenSpec, open_model
    from kilter.sampling.local import LocalSampler

    ready = open_model(OpenSpec(model))
    return LocalSampler(ready.scorer, ready.encoder)


@command(
    examples=[
        "kilter chat runs/quickstart/dpo",
        "kilter chat builtin:smollm2-135m --system 'Answer in one sentence.'",
    ]
)
def chat(
    model: ModelArg,
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    temperature: Annotated[float, typer.Option(help="0: greedy")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="tokens per answer")] = 256,
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends; /new starts over."""
    from kilter.sampling.collect import answers
    from kilter.types import Message, Prompt, SamplingParams

    sampler = _sampler(model)
    opening = [Message(role="system", content=system)] if system else []
    history = list(opening)
    seed = 0
    err.print("[dim]empty line: end, /new: start over[/]")
    while True:
        try:
            text = input("you> ").strip()
        except EOFError:
            break
        if not text:
            break
        if text == "/new":
            history = list(opening)
            continue
        history.append(Message(role="user", content=text))
        params = SamplingParams(max_new_tokens, temperature, seed=seed)
        answer = answers(sampler, [Prompt(messages=tuple(history))], 1, params)[0][0].text
        history.append(Message(role="assistant", content=answer))
        out.print(answer, style="cyan", markup=False, highlight=False)
        seed += 1
