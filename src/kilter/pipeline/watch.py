"""The report of runs that are under way, served to this machine alone: read-only, behind a token.

Three routes that only read need no framework: Python's own server is enough, and nothing is installed for it.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from kilter.errors import KilterError, UserError
from kilter.pipeline.report import require_run, run_body, stamps
from kilter.release.evidence import stage_folders
from kilter.release.report import fill, key_of, page

ADDRESS = "127.0.0.1"
PERIOD = 1.0
"""Seconds between two looks at the run folders."""

QUIET = 15.0
"""Seconds after which an idle reader is written to, so that one who has left is noticed."""


class Watch:
    """The runs that are watched, and the pages that are made of them.

    Args:
        runs: run folders; each must have a stage.
    """

    def __init__(self, runs: Sequence[Path]) -> None:
        for run in runs:
            require_run(run, "RUN")
        self.runs = _keyed(runs)
        self._one_at_a_time = threading.Lock()
        self._made: dict[str, tuple[Any, str]] = {}

    def page(self, key: str = "") -> str:
        """One run by its key, or all of them, as a whole document."""
        names = [path.resolve().name for path in self.runs.values()]
        bodies = [self._body(k) for k in ([key] if key else self.runs)]
        title = ", ".join(names)
        return page(f"{title} · Kilter", title, "live", bodies, live=True)

    def _body(self, key: str) -> str:
        """A run's part of the page, made anew only if a file of the run has changed."""
        # Figures are drawn by a library that knows one thread.
        with self._one_at_a_time:
            now = self.stamp(key)
            if key not in self._made or self._made[key][0] != now:
                self._made[key] = now, self._fresh(key)
            return self._made[key][1]

    def _fresh(self, key: str) -> str:
        run = self.runs[key]
        try:
            return run_body(run, key, several=len(self.runs) > 1)
        except KilterError as error:
            return fill("broken.html.j2", key=key, name=run.resolve().name, problem=str(error))

    def stamp(self, key: str) -> Any:
        """What changes as soon as any file of the run does."""
        run = self.runs[key]
        try:
            return [(folder.name, stamps(folder)) for folder in sorted({run, *stage_folders(run)})]
        except OSError:
            # A stage was set aside at this very moment.
            return None

    def changes(self, closing: threading.Event) -> Iterator[str | None]:
        """Keys of runs as they change; None now and then, where nothing does."""
        known = {key: self.stamp(key) for key in self.runs}
        written = time.monotonic()
        yield None
        while not closing.wait(PERIOD):
            for key in self.runs:
                now = self.stamp(key)
                if now is not None and now != known[key]:
                    known[key], written = now, time.monotonic()
                    yield key
            if time.monotonic() - written > QUIET:
                written = time.monotonic()
                yield None


class Server(ThreadingHTTPServer):
    """Listens on this machine only.

    Args:
        watch: what is shown.
        port: 0 takes a free one.

    Raises:
        UserError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, watch: Watch, port: int = 0) -> None:
        self.watch, self.closing = watch, threading.Event()
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((ADDRESS, port), Reader)
        except (OSError, OverflowError) as error:
            fix = "give another port, or leave --port out"
            raise UserError("--port", port, f"cannot be listened on ({error})", fix) from error

    @property
    def url(self) -> str:
        """The address that shows the page; whoever has it may read."""
        return f"http://{ADDRESS}:{self.server_port}/?token={self.token}"

    def shutdown(self) -> None:
        """Ends the open streams too."""
        self.closing.set()
        super().shutdown()


class Reader(BaseHTTPRequestHandler):
    """Answers GET and nothing else."""

    server: Server
    server_version, sys_version = "kilter", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """The page, one run's part of it, or the stream of changes."""
        address = urlsplit(self.path)
        if not self._allowed(address.query):
            self._send(HTTPStatus.FORBIDDEN, "Open the address that `kilter watch` printed.", "text/plain")
            return
        routes = {"/": lambda: self._page(""), "/events": self._events}
        known = {f"/run/{key}": key for key in self.server.watch.runs}
        path = unquote(address.path)
        if path in known:
            self._page(known[path])
        elif path in routes:
            routes[path]()
        else:
            self._send(HTTPStatus.NOT_FOUND, "There is no such page.", "text/plain")

    def _allowed(self, query: str) -> bool:
        """The token, and an address of this machine: a foreign page may not read through its own name."""
        port = self.server.server_port
        own = self.headers.get("Host", "") in (f"{ADDRESS}:{port}", f"localhost:{port}")
        given = parse_qs(query).get("token", [""])[0]
        return own and hmac.compare_digest(given.encode(), self.server.token.encode())

    def _page(self, key: str) -> None:
        self._send(HTTPStatus.OK, self.server.watch.page(key), "text/html")

    def _events(self) -> None:
        """Server-sent events: the key of each run that has changed, until the reader leaves."""
        self._head(HTTPStatus.OK, "text/event-stream", {"Connection": "close"})
        self.close_connection = True
        try:
            for key in self.server.watch.changes(self.server.closing):
                told = ": still here\n\n" if key is None else f"event: changed\ndata: {json.dumps(key)}\n\n"
                self.wfile.write(told.encode())
                self.wfile.flush()
        except OSError:
            return

    def _send(self, status: HTTPStatus, text: str, kind: str) -> None:
        data = text.encode()
        self._head(status, f"{kind}; charset=utf-8", {"Content-Length": str(len(data))})
        self.wfile.write(data)

    def _head(self, status: HTTPStatus, kind: str, more: Mapping[str, str]) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        for name, value in (fixed | dict(more)).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: addresses hold the token."""


def _keyed(runs: Sequence[Path]) -> dict[str, Path]:
    """Runs by a name that is safe in an address; two of one name are numbered."""
    found: dict[str, Path] = {}
    for path in runs:
        plain = key = key_of(path.resolve().name)
        number = 1
        while key in found:
            number += 1
            key = f"{plain}-{number}"
        found[key] = path
    return found
