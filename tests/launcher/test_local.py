"""Ranks on one machine: what each process is given, what is shown of it, and whose exit code comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm_finetune.distributed import available_cores, threads_per_process
from llm_finetune.errors import GroupError
from llm_finetune.launcher import launch

WORKER = str(Path(__file__).parents[1] / "distributed" / "worker.py")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A rank without torch: it runs its first argument."""
    file = tmp_path / "program.py"
    file.write_text("import os, signal, sys, time\nrank = int(os.environ['RANK'])\nexec(sys.argv[1])\n")
    return file


def test_ranks_join_and_only_rank_0_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(2, ["healthy"], entry=[WORKER]) == 0
    shown, complaints = capfd.readouterr()
    assert json.loads(shown)["rank"] == 0
    assert complaints == ""


def test_arguments_arrive_as_they_are(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    odd = ["it's $5, $$5, ${local_rank} and $HOME", 'two\nlines and "quotes"', ""]
    assert launch(1, ["import json; print(json.dumps(sys.argv[2:]))", *odd], entry=[str(program)]) == 0
    assert json.loads(capfd.readouterr().out) == odd


@pytest.mark.parametrize("set_by_user", [None, "7"])
def test_each_process_gets_its_share_of_the_cores(
    program: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, set_by_user: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if set_by_user:
        monkeypatch.setenv("OMP_NUM_THREADS", set_by_user)
    assert launch(2, ["print(os.environ['OMP_NUM_THREADS'])"], entry=[str(program)]) == 0
    expected = set_by_user or str(threads_per_process(available_cores(), 2))
    assert capfd.readouterr().out.strip() == expected


def test_the_failed_ranks_code_comes_back_and_its_words_are_shown(
    program: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fails = "print('row 7 is broken', file=sys.stderr); sys.exit(3)"
    assert launch(2, [f"if rank == 1: {fails}\nelse: time.sleep(1000)"], entry=[str(program)]) == 3
    assert capfd.readouterr().err == "[rank 1] row 7 is broken\n"


def test_an_error_in_the_group_comes_back_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(3, ["raises_elsewhere"], entry=[WORKER]) == 3
    complaints = capfd.readouterr().err
    assert "data.json: row 7: no 'output'" in complaints
    assert "Traceback" not in complaints


def test_a_killed_rank_is_named_with_its_signal(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kills = "if rank == 0: os.kill(os.getpid(), signal.SIGKILL)\nelse: time.sleep(1000)"
    assert launch(2, [kills], entry=[str(program)]) == 128 + signal.SIGKILL
    assert "rank 0: ended by SIGKILL" in capfd.readouterr().err


def test_ctrl_c_ends_all(program: Path, tmp_path: Path) -> None:
    """The launcher is a process of its own here; its ranks leave their process ids in files."""
    waits = "open(f'{sys.argv[2]}/{os.getpid()}.id', 'w'); print('running', flush=True); time.sleep(1000)"
    launches = "import sys; from llm_finetune.launcher import launch\n"
    launches += "sys.exit(launch(2, sys.argv[2:], entry=sys.argv[1:2]))"
    command = [sys.executable, "-c", launches, str(program), waits, str(tmp_path)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "running\n"
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 128 + signal.SIGINT
    ids = [int(file.stem) for file in tmp_path.glob("*.id")]
    assert ids
    for process in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_rank_launches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(GroupError, match="is a rank already"):
        launch(2, [])
