"""A Hugging Face Hub that refuses or breaks off, and looks for the token among its clients meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from served import served

TOKEN = "hf_NobodyMayEverSeeThis0123456789"
SECRET = TOKEN[9:-1]  # in whatever form it is shown
MARK = "LLM_FINETUNE_TEST_OF_THE_TOKEN"


@dataclass
class Hub:
    """A Hub that refuses or breaks off what is asked for; it keeps who asked, and looks around meanwhile."""

    mode: str
    address: str = ""
    given: list[str] = field(default_factory=list)
    in_processes: set[str] = field(default_factory=set)

    def look_around(self) -> None:
        """Looks for the token among the job's processes."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment, words = ((folder / name).read_bytes() for name in ("environ", "cmdline"))
            except OSError:  # it ended meanwhile
                continue
            if MARK.encode() in environment and SECRET.encode() in environment + words:
                self.in_processes.add(words.decode())


@contextmanager
def stand_in_hub(mode: str) -> Iterator[Hub]:
    """A Hub on this machine, while the body runs."""
    made = Hub(mode)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.given.append(self.headers.get("Authorization", ""))
            made.look_around()
            if made.mode == "breaks off":
                self.close_connection = True
                return
            body = b"not JSON at all" if made.mode == "answers nonsense" else b"{}"
            codes = {"refuses": 401, "fails": 500, "answers nonsense": 200}
            self.send_response(codes[made.mode])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with served(Handler) as made.address:
        yield made


def found_in(folder: Path, but: Path) -> list[Path]:
    """The files that hold the token."""
    files = (file for file in folder.rglob("*") if file.is_file() and file != but)
    return [file for file in files if SECRET.encode() in file.read_bytes()]
