"""Closed standard streams, narrow ones, and readers that leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOGS = """if True:
    import logging
    from llm_finetune.runtime import logging as log, standard_streams
    standard_streams.open_all()
    with open("kept", "w") as file:
        log.configure("info", rank=0)
        logging.getLogger("llm_finetune").warning("said")
        print("shown", flush=True)
        file.write("mine")
    standard_streams.close()
"""
SHOWS = """if True:
    import sys
    from llm_finetune.errors import OutputError
    from llm_finetune.runtime import standard_streams
    standard_streams.open_all()
    try:
        print(standard_streams.show("\\u27e6" * 200_000), standard_streams.show("more"), file=sys.stderr)
    except OutputError as error:
        print(error, file=sys.stderr)
    standard_streams.close()
"""


def shell(redirections: str, program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'"$0" -c "$1" {redirections}', sys.executable, program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "<&- 2>&-", ">&-"])
def test_nothing_of_the_log_lands_in_a_file_that_is_opened_next(tmp_path: Path, closed: str) -> None:
    done = shell(closed, LOGS, tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "kept").read_text() == "mine"


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    done = shell("| true; exit ${PIPESTATUS[0]}", SHOWS, tmp_path)
    assert (done.returncode, done.stderr) == (0, "False True\n")


ENDS = """if True:
    import os, signal, time
    from llm_finetune.runtime.watchdog import exit_after
    from llm_finetune.runtime.signals import SignaledError, raised_signals
    try:
        with raised_signals():
            os.kill(os.getpid(), signal.SIGTERM)
    except SignaledError:
        exit_after(0.1, lambda: "nobody hears it", 42)
        time.sleep(100)
"""


def test_a_process_ends_in_order_though_nobody_reads_its_last_words(tmp_path: Path) -> None:
    assert shell("2>&1 | true; exit ${PIPESTATUS[0]}", ENDS, tmp_path).returncode == 42


def test_a_full_disk_under_standard_output_is_told(tmp_path: Path) -> None:
    done = shell("> /dev/full", SHOWS, tmp_path)
    assert (done.returncode, done.stderr) == (
        0,
        "standard output: cannot be written (No space left on device)\n",
    )


def test_what_an_encoding_lacks_is_escaped() -> None:
    narrow = subprocess.run(
        [sys.executable, "-c", SHOWS],
        env={"PYTHONIOENCODING": "latin-1", "PATH": ""},
        capture_output=True,
        check=True,
    )
    assert narrow.stdout.endswith(b"\\u27e6\nmore\n")
