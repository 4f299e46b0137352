"""kilter verify, sign: whether a run is still what its stages wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kilter.chain import SIGNATURE
from kilter.cli.app import command, out
from kilter.errors import Exit, UserError
from kilter.screen import many, styled

RunArg = Annotated[Path, typer.Argument(help="folder of a run, such as runs/NAME", metavar="RUN")]
VerifiedArg = Annotated[
    Path, typer.Argument(help="folder of a run, such as runs/NAME, or of an export", metavar="RUN")
]


@command(
    examples=[
        "kilter verify runs/quickstart",
        "kilter verify runs/quickstart --key release.pub",
        "kilter verify exported --json",
    ]
)
def verify(
    run: VerifiedArg,
    key: Annotated[
        Path | None, typer.Option(help="public key (PEM): the run must be signed, and by this key")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Read every file of a run or an export again, and what it was made from, and name what is not as it was.

    Exit code 0 whole, 1 broken, 3 not all seen: data, a base model or your own code is not on this machine.
    """
    from kilter.release.verify import verify as verify_

    found = verify_(run, key)
    code = Exit.GATE_FAILED if found.broken else Exit.INCONCLUSIVE if found.unseen else Exit.OK
    if json_:
        print(json.dumps(found.plain(), indent=1))
        raise typer.Exit(int(code))

    # The first link that broke explains the others.
    for number, link in enumerate(found.broken):
        out.print(
            styled("[red]✗[/] {}{}", link, "   (the first broken link)" if number == 0 else ""),
            soft_wrap=True,
        )
    for line in found.unseen:
        out.print(styled("[yellow]?[/] {}", line), soft_wrap=True)
    for line in found.notes:
        out.print(f"  {line}")
    stages = many(found.stages, "stages") if found.stages else "an exported model"
    count = f"{many(found.files, 'files')}, {stages}"
    words = {
        Exit.OK: "the chain holds from data to verdict"
        if found.stages
        else "every file is as it was exported",
        Exit.GATE_FAILED: f"BROKEN: {many(len(found.broken), 'links')}",
        Exit.INCONCLUSIVE: "the run is as its stages wrote it; what it was made from was not all seen",
    }
    out.print(styled("[bold]{}[/] ({})", words[code], count))
    raise typer.Exit(int(code))


@command(examples=["kilter sign runs/quickstart --key release.key"])
def sign(
    run: RunArg,
    key: Annotated[Path, typer.Option(help="private Ed25519 key (PEM), as openssl genpkey writes it")],
) -> None:
    """Sign a run whose chain holds: recipe, stages and verdict. Writes RUN/chain.sig.json."""
    from kilter.release import signature
    from kilter.release.verify import verify as verify_

    links = [link for link in verify_(run).broken if link.path.name != SIGNATURE]
    if links:
        fix = "mend it first: nobody should sign what is not what it was"
        raise UserError("RUN", str(run), f"is broken: {links[0]}", fix)
    fingerprint = signature.sign(run, key)
    out.print(styled("signed by key {}: [bold]{}[/]", fingerprint, run / SIGNATURE))
