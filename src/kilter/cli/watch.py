"""kilter watch: the report of runs while they go on."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from kilter.cli.app import command, out
from kilter.screen import styled


@command("watch", examples=["kilter watch runs/quickstart --open", "kilter watch runs/a runs/b --port 8765"])
def watch(
    runs: Annotated[
        list[Path],
        typer.Argument(help="folders of runs that have begun; all stand on one page", metavar="RUN..."),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to serve at; 0 is any free one")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
) -> None:
    """Serve the report of runs on this machine while they go on; it follows them by itself, and only reads.

    The address holds a token, without which nothing is shown. Ctrl-C ends it, and no run is touched.
    """
    from kilter.pipeline.watch import Server, Watch

    server = Server(Watch(runs), port)
    out.print(styled("watching {}: [bold]{}[/]", ", ".join(map(str, runs)), server.url), soft_wrap=True)
    out.print("Ctrl-C ends it; the runs go on")
    if open_ and not webbrowser.open(server.url):
        out.print("no browser was found; open the address yourself")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        out.print("\nno longer watching")
    finally:
        server.closing.set()
        server.server_close()
