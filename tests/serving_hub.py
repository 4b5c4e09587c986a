"""A Hugging Face Hub on this machine, with what is in folders, for the Hub's own client."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from served import served

CHUNK = 1 << 20
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ServingHub:
    """What it has, how it behaves, and what was asked of it.

    Attributes:
        folders: by name: `models/owner/name` or `datasets/owner/name`.
        seconds_a_chunk: how slow it is behind the first.
        served: files that were fetched.
    """

    folders: dict[str, Path]
    seconds_a_chunk: float = 0.0
    address: str = ""
    served: list[str] = field(default_factory=list)

    def found(self, path: str) -> tuple[Path, str] | None:
        """The folder that a path names, and the rest of the path."""
        for name, folder in self.folders.items():
            if path == name or path.startswith(f"{name}/"):
                return folder, path.removeprefix(name).strip("/")
        return None


@contextmanager
def serving_hub(folders: dict[str, Path], seconds_a_chunk: float = 0.0) -> Iterator[ServingHub]:
    """While the body runs."""
    hub = ServingHub(folders, seconds_a_chunk)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("api/"):
                self.describe(path.removeprefix("api/"))
            else:
                self.hand_out(path if path.startswith("datasets/") else f"models/{path}")

        do_HEAD = do_GET  # noqa: N815 (the base class asks for this name)

        def describe(self, path: str) -> None:
            if not (found := hub.found(path)):
                self.answer(404)
                return
            folder, asked = found
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            if asked.startswith("tree/"):
                within = folder / asked.partition("/")[2].partition("/")[2]
                listed = [_described(file, folder) for file in files if within in file.parents]
                self.answer(200, json.dumps(listed).encode())
                return
            names = [{"rfilename": str(file.relative_to(folder))} for file in files]
            about = {"id": path, "sha": COMMIT, "private": False, "tags": [], "siblings": names}
            self.answer(200, json.dumps(about).encode())

        def hand_out(self, path: str) -> None:
            found = hub.found(path)
            name = re.sub("^resolve/[^/]*/", "", found[1]) if found else ""
            if not found or not (found[0] / name).is_file():
                self.answer(404, **{"X-Error-Code": "EntryNotFound"})
                return
            content = (found[0] / name).read_bytes()
            if self.command == "GET":
                hub.served.append(name)
            tag = hashlib.sha256(content).hexdigest()
            self.answer(200, content, **{"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

        def answer(self, code: int, body: bytes = b"{}", **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:CHUNK])
                for begin in range(CHUNK, len(body), CHUNK):
                    time.sleep(hub.seconds_a_chunk)
                    self.wfile.write(body[begin : begin + CHUNK])

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with served(Handler) as hub.address:
        yield hub


def _described(file: Path, folder: Path) -> dict[str, object]:
    content = file.read_bytes()
    digest = hashlib.sha1(content).hexdigest()
    return {"type": "file", "oid": digest, "size": len(content), "path": str(file.relative_to(folder))}
