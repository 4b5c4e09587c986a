"""What strangers on the network say to the launcher, and what they answer in the place of it."""

from __future__ import annotations

import errno
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz import fuzz
from line_pair import socket_pair
from llm_finetune.distributed import handshake, job_secret, listener
from llm_finetune.distributed.connection import Line
from llm_finetune.distributed.failure import Failure
from llm_finetune.distributed.handshake import UnprovenError, welcome
from llm_finetune.distributed.listener import MOST_WAITING, Listener
from llm_finetune.errors import GroupError
from llm_finetune.launcher.coordinator_client import CoordinatorClient, StopError, understood
from llm_finetune.launcher.coordinator_server import CoordinatorServer
from llm_finetune.launcher.file_integrity import _CHECKS, missing_end
from llm_finetune.launcher.pod_heartbeats import PodHeartbeats
from llm_finetune.launcher.restart_state import RestartState
from llm_finetune.launcher.round import Round
from llm_finetune.runtime import heartbeat
from llm_finetune.runtime.json_object import parsed
from llm_finetune.runtime.outcome import Outcome
from llm_finetune.runtime.rank_progress import Progress

HELLO = b'{"hello": {"name": "job-worker-1", "settings": "D"}}\n'
ROUND = {"number": 1, "group_rank": 0, "group_size": 2, "master_addr": "10.0.0.1", "master_port": 4000}
STRANGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x00\xff\n",
    b"[" * 200_000 + b"\n",
    b'{"hello": 5}\n',
    b'{"hello": {"name": {}, "settings": []}}\n',
    b'{"hello": {"name": "a\\u001b[2J", "settings": "D"}}\n',
    b"x" * 1_000_000,
    HELLO.replace(b'"D"', b'"another"'),
]


@pytest.fixture(autouse=True)
def no_thread_dies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    died: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: died.append(repr(hook.exc_value)))
    yield
    assert not died


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def job_has_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 32)
    monkeypatch.setenv(job_secret.FILE, str(tmp_path / "secret"))


def calling(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)


def test_strangers_are_turned_away_and_a_worker_behind_them_is_heard(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    workers = CoordinatorServer(port, "D")
    for said in STRANGE:
        with calling(port) as stranger, suppress(ConnectionError):  # hung up on in the middle of it
            stranger.sendall(said)
            while stranger.recv(1000):
                pass
    with ExitStack() as strangers:
        crowd = [strangers.enter_context(calling(port)) for _ in range(3 * MOST_WAITING)]
        worker = strangers.enter_context(calling(port))
        worker.sendall(HELLO)
        event = workers.next(20)
        assert event
        assert event.name == "job-worker-1"
        assert crowd[0].recv(1) == b""  # the oldest had to go
    told = [line.message for line in caplog.records if "turned away" in line.message]
    assert len(told) == 1  # in a minute
    assert told[0].startswith(f"port {port}: turned away 1 connection; the last, from 127.0.0.1: ")


def test_no_more_files_is_no_end_of_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PAUSE_SECONDS", 0.01)
    failing = iter([OSError(errno.EMFILE, "Too many open files")] * 3)

    class Server(socket.socket):
        def accept(self) -> Any:
            for error in failing:
                raise error
            return super().accept()

    server = Server()
    server.bind(("127.0.0.1", 0))
    server.listen()
    came = threading.Event()
    entrance = Listener(server, "test", lambda hello, line: came.set())
    with calling(server.getsockname()[1]) as worker:
        worker.sendall(HELLO)
        assert came.wait(20)
    entrance.close()


def test_a_worker_says_nothing_that_a_worker_does_not_say(port: int) -> None:
    workers = CoordinatorServer(port, "D")
    with calling(port) as worker:
        worker.sendall(HELLO + b'{"ended": {"exit_code": "x", "message": [], "asked": 1}}\n')
        came, left = workers.next(20), workers.next(20)
        assert came
        assert came.has_come
        assert left
        assert left.is_gone
    assert workers.here == set()


@pytest.mark.usefixtures("job_has_a_secret")
def test_where_the_job_has_a_secret_only_who_knows_it_is_heard(port: int) -> None:
    workers = CoordinatorServer(port, "D")
    with calling(port) as stranger:
        stranger.sendall(HELLO)
        assert stranger.recv(1000) == b""
    member = CoordinatorClient("job-worker-1", ("127.0.0.1", port), "D", 20)
    told: list[object] = []
    waiting = threading.Thread(target=lambda: told.append(member.next()))
    waiting.start()
    event = workers.next(20)
    assert event
    assert (event.name, workers.here) == ("job-worker-1", {"job-worker-1"})
    workers.tell({"job-worker-1"}, {"start": ROUND})
    waiting.join(20)
    assert told == [Round(**ROUND)]


@pytest.mark.usefixtures("job_has_a_secret")
def test_who_answers_in_the_leaders_place_is_not_followed(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(handshake, "SECONDS", 1.0)
    answer = json.dumps({"leave": {"exit_code": 2, "message": "go away", "asked": False}})
    server = socket.create_server(("127.0.0.1", port))

    def lie() -> None:
        with suppress(OSError):
            while True:
                stranger, _ = server.accept()
                stranger.sendall(answer.encode() + b"\n")

    threading.Thread(target=lie, daemon=True).start()
    with pytest.raises(GroupError, match="does not prove that it knows this job's secret"):
        CoordinatorClient("job-worker-1", ("127.0.0.1", port), "D", 0.5).next()
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def test_a_leader_that_stands_still_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Its kernel answers for a process that is stopped."""
    monkeypatch.setattr("llm_finetune.launcher.coordinator_client.PULSE_SECONDS", 0.1)
    stands_still = pytest.raises(GroupError, match=r"sent no message for 0\.3")
    with socket.create_server(("127.0.0.1", port)), stands_still:
        CoordinatorClient("job-worker-1", ("127.0.0.1", port), "D", 0.5, stall_seconds=0.01).next()


# --- Any bytes ---------------------------------------------------------------------------------------

ANY = fuzz(60)
KEYS = [
    "hello", "name", "settings", "nonce", "proof", "ended", "exit_code", "message", "asked", "start", "stop",
    "leave", "failure", "rank", "progress", "step", "part", "idle_seconds", "weight_map", "data_offsets",
    "used_bytes", "limit_bytes", "job", "number", "begun_at", "failures", "running", "over", *ROUND,
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=6)
    ),
    max_leaves=20,
)
DEEP = st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000])
CONTENT = st.binary(max_size=300) | JSON.map(lambda content: json.dumps(content).encode()) | DEEP


@given(content=CONTENT)
@example(b"\xff\n")
@ANY
def test_any_line_is_understood_or_passed_over(content: bytes) -> None:
    said = parsed(content.decode(errors="replace"))
    assert isinstance(said, dict)
    for word in (said, *said.values()):
        for kind in (Outcome, Round, Failure, Progress):
            found = kind.from_word(word)  # type: ignore[attr-defined]
            assert found is None or isinstance(found, kind)
    word = understood(content.decode(errors="replace"))
    assert word is None or isinstance(word, Round | Outcome | StopError)


@given(content=CONTENT)
@ANY
def test_any_bytes_of_a_stranger_are_a_hello_or_refused(content: bytes) -> None:
    for known in (None, b"s" * 32):
        stranger, called = socket_pair()
        with stranger, called:
            stranger.sendall(content + b"\n")
            stranger.shutdown(socket.SHUT_WR)
            try:
                assert isinstance(welcome(Line(called), "test", known, 20), dict)
                assert known is None
            except UnprovenError:
                pass


@given(content=CONTENT, suffix=st.sampled_from([*_CHECKS, ""]), as_header=st.booleans())
@ANY
def test_any_file_that_is_waited_for_is_whole_or_has_a_flaw(
    tmp_path: Path, content: bytes, suffix: str, as_header: bool
) -> None:
    file = tmp_path / f"file{suffix}"
    file.write_bytes(len(content).to_bytes(8, "little") + content if as_header else content)
    assert isinstance(missing_end(file), str | None)


@given(content=CONTENT)
@ANY
def test_any_file_of_state_is_read_or_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "heartbeat-pod-1.json").write_bytes(content)
    (tmp_path / "rounds.json").write_bytes(content)
    assert isinstance(str(heartbeat.read(tmp_path / "heartbeat-pod-1.json")), str)
    assert isinstance(PodHeartbeats(tmp_path).left(), str)
    restarts = RestartState(tmp_path / "rounds.json", "job", 3)
    assert restarts.begin() > 0
    assert restarts.failures >= 0
