"""A stand-in for the Hub that answers as it does: redirects, digests in headers, ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from served import served

PATH = "/datasets/gbharti/finance-alpaca/resolve/main/Cleaned_date.json"


@dataclass
class Hub:
    """One file, and what was asked for.

    Args:
        content: the file as the headers describe it.
        sent: what really comes, if it differs.
        stop_after: bytes after which a connection is cut.
    """

    content: bytes
    sent: bytes | None = None
    stop_after: int | None = None
    address: str = ""
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            if self.path == PATH:
                self.send_response(302)
                self.send_header("Location", f"{hub.address}/stored")
                self.send_header("X-Linked-Size", str(len(hub.content)))
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(hub.content).hexdigest()}"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path != "/stored":
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            rest = (hub.sent if hub.sent is not None else hub.content)[begin:]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(rest)))
            if asked:
                self.send_header(
                    "Content-Range", f"bytes {begin}-{begin + len(rest) - 1}/{begin + len(rest)}"
                )
            self.end_headers()
            if body:
                hub.ranges.append(asked)
                self.wfile.write(rest[: hub.stop_after])

        def log_message(self, *arguments: object) -> None:
            pass

    with served(Handler) as hub.address:
        yield hub
