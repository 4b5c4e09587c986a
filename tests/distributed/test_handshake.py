"""Two processes that prove to each other that they are of one job, and what a stranger gets instead."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed as dist

from line_pair import line_pair, socket_pair
from llm_finetune.distributed import Ranks, handshake, job_secret
from llm_finetune.distributed.connection import Line
from llm_finetune.distributed.failure import Alarm
from llm_finetune.distributed.handshake import UnprovenError, introduce, welcome
from llm_finetune.distributed.store import Rendezvous
from llm_finetune.errors import GroupError, SettingsError

SECRET, OTHER = b"s" * 32, b"o" * 32
HELLO = {"name": "worker-1"}


def meet(calling: Line, called: Line, calls: bytes | None, is_called: bytes | None) -> list[str]:
    """What each side finds of the other; empty where both are content."""
    problems: list[str] = []

    def call() -> None:
        try:
            introduce(calling, "test", HELLO, calls, 5)
        except OSError as error:
            problems.append(f"calling: {error}")
            calling.shutdown()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert welcome(called, "test", is_called, 5) == HELLO
    except OSError as error:
        problems.append(f"called: {error}")
        called.shutdown()
    thread.join()
    return problems


@pytest.mark.parametrize("both", [SECRET, None])
def test_two_of_one_job_believe_each_other(both: bytes | None) -> None:
    calling, called = line_pair()
    assert meet(calling, called, both, both) == []
    calling.send("ä")
    called.send("one")
    called.send("two")
    assert (called.receive(5), calling.receive(5), calling.receive(5)) == ("ä", "one", "two")


@pytest.mark.parametrize("calls", [OTHER, None])
def test_who_does_not_know_the_secret_is_not_believed(calls: bytes | None) -> None:
    calling, called = line_pair()
    assert any("secret" in problem for problem in meet(calling, called, calls, SECRET))


@pytest.mark.parametrize("is_called", [OTHER, None])
def test_who_answers_without_the_secret_is_not_believed(is_called: bytes | None) -> None:
    calling, called = line_pair()
    stranger = threading.Thread(target=lambda: meet_quietly(called, is_called))
    stranger.start()
    with pytest.raises(OSError, match=r"secret|timed out|^$"):
        introduce(calling, "test", HELLO, SECRET, 1)
    stranger.join()


def meet_quietly(called: Line, is_called: bytes | None) -> None:
    with suppress(OSError):
        welcome(called, "test", is_called, 1)
        called.send(json.dumps({"nonce": "0" * 64, "proof": "0" * 64}))


def test_a_proof_is_good_for_its_purpose_alone() -> None:
    """A stranger passes on what he is told at the other port."""
    calling, called = line_pair()
    problems: list[str] = []

    def call() -> None:
        try:
            introduce(calling, "ranks", HELLO, SECRET)
        except UnprovenError as error:
            problems.append(str(error))
        calling.shutdown()

    thread = threading.Thread(target=call)
    thread.start()
    with pytest.raises(UnprovenError):
        welcome(called, "workers", SECRET, 5)
    thread.join()
    assert problems == ["it does not know this job's secret"]


def test_a_line_that_was_forged_said_again_or_sent_back_ends_the_connection() -> None:
    for forged in ("of nobody", "again", "back"):
        (calling_socket, called_socket) = socket_pair()
        calling, called = Line(calling_socket), Line(called_socket)
        assert meet(calling, called, SECRET, SECRET) == []
        if forged == "of nobody":
            calling_socket.sendall(b'{"ended": {}}\n')
        elif forged == "again":
            calling.send("word")
            heard = called_socket.recv(1000)
            calling_socket.sendall(heard + heard)
            assert called.receive(5) == "word"
        else:
            called.send("word")
            calling_socket.sendall(calling_socket.recv(1000))
        assert called.receive(5) == ""


def test_whoever_trickles_has_no_more_time_than_others() -> None:
    stranger, called = socket_pair()
    began, is_over = time.monotonic(), threading.Event()

    def trickle() -> None:
        while not is_over.wait(0.05):
            stranger.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(TimeoutError):
        welcome(Line(called), "test", None, 0.5)
    is_over.set()
    thread.join()
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize(
    "said",
    [b"\n", b"GET / HTTP/1.1\r\n\r\n", b"[" * 2000 + b"\n", b'{"hello": 5}\n', b"\xff\x00\n", b"x" * 100_000],
)
def test_nonsense_is_refused(said: bytes) -> None:
    stranger, called = socket_pair()
    stranger.sendall(said)
    with pytest.raises(UnprovenError):
        welcome(Line(called), "test", None, 5)


def test_what_a_stranger_writes_into_the_store_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch's store asks nobody who he is."""
    (tmp_path / "secret").write_text("s" * 32)
    monkeypatch.setenv(job_secret.FILE, str(tmp_path / "secret"))
    store = dist.HashStore()
    first, second = (Rendezvous(store, Ranks(rank, 2, rank, 2), Alarm()) for rank in (0, 1))
    first.store_set("model", "/models/ä")
    assert second.store_wait("model", 5.0) == "/models/ä"
    written = store.get("value/model")
    store.set("value/data", written.decode())  # signed, but for another key
    with pytest.raises(GroupError, match="'value/data' that no rank of this job has written"):
        second.store_wait("data", 5.0)
    store.set("place/the end/0", "")
    with pytest.raises(GroupError, match="no rank of this job has written"):
        second.barrier("the end", 5.0)


def test_a_secret_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    assert job_secret.job_secret({}) is None
    with pytest.raises(SettingsError, match="cannot be read"):
        job_secret.job_secret({job_secret.FILE: str(file)})
    file.write_text("short\n")
    with pytest.raises(SettingsError, match="found 5 bytes, expected a secret of 16 or more"):
        job_secret.job_secret({job_secret.FILE: str(file)})
    file.write_text("s" * 32 + "\n")
    assert job_secret.job_secret({job_secret.FILE: str(file)}) == b"s" * 32


def test_ranks_of_one_machine_get_a_secret_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(job_secret.FILE, "")
    with job_secret.new_secret(tmp_path):
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert job_secret.job_secret() == file.read_bytes()
    assert not list(tmp_path.iterdir())


def test_all_handshakes_have_a_bound() -> None:
    assert handshake.SECONDS < 30
