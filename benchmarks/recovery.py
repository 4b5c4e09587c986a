"""From a kill to the next training step, and the steps lost by it: this project, and the plain Trainer.

python benchmarks/recovery.py [--rounds 5] [--work FOLDER]

All train the same small model on the same records, with a checkpoint every ten steps, and are killed in
step 18. A single process is started again at once by the same command; a rank of two is started again by
what stands above it: `llm-finetune worker`, or torchrun. A step is lost when it has to be made twice. A
training that makes no step within two minutes has not come back: that is counted, and no part of the seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import worker_protocol
from worker_protocol import Answer

from llm_finetune.config import load
from report import bars, machine, markdown, parser, write

SAVE_STEPS, KILL_AT, STEPS = 10, 17, 1000  # after SIGTERM the Trainer continues for seconds: it must not end
MADE = re.compile(rb"step (\d+)/")
PATIENCE_SECONDS = 120
HERE = Path(__file__).parent
OURS, PEER = "ours", "transformers' Trainer"
PEERS_AGENT = f"{PEER} under torchrun"
COLUMNS = {
    "fault": "",
    "name": "",
    "seconds": "to the next step (s)",
    "range": "least - most",
    "lost": "steps lost",
    "back": "came back",
}


@dataclass(frozen=True)
class Case:
    """Something that happens to a training.

    Attributes:
        rank: the one of the command's children that it happens to; None: the command's process itself.
    """

    fault: str
    name: str
    command: Sequence[str]
    number: signal.Signals
    rank: int | None = None


def main() -> None:
    asked = parser(__doc__, rounds=5)
    asked.add_argument("--work", type=Path, help="folder for models, records and logs")
    options = asked.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="recovery-"))
    found: list[tuple[Case, list[tuple[float, int] | None]]] = [(case, []) for case in cases(work)]
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for case, kills in found:
            kills.append(one_kill(case, work))
    rows = [_row(case, kills) for case, kills in found]
    results = {
        "machine": machine(),
        "versions": worker_protocol.versions("torch", "transformers"),
        "save_steps": SAVE_STEPS,
        "killed_in_step": KILL_AT + 1,
        "rows": rows,
    }
    table = markdown(rows, COLUMNS)
    pictured = [(f"{row['fault']}: {row['name']}", row["seconds"]) for row in rows]
    picture = bars("From a fault to the next training step", pictured, "s")
    write(options.out, "recovery", results, table, picture)
    print(table)


def cases(work: Path) -> list[Case]:
    """What is measured; `out` in the folder is where all of them write."""
    model, records = _made(work / "files")
    one, two = (_settings(work, model, records, processes) for processes in (1, 2))
    ours = [sys.executable, "-m", "llm_finetune.cli.main", "run", "--settings", str(one)]
    worker = [sys.executable, "-m", "llm_finetune.cli.main", "worker", "--settings", str(two)]
    program = [str(HERE / "killed_trainer.py"), str(model), str(records), str(work / "out")]
    plain = [sys.executable, *program]
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    agent += ["--nproc-per-node=2", "--max-restarts=3"]
    killed, terminated, lost = (
        "the process is killed",
        "the process is terminated",
        "one of two ranks is killed",
    )
    return [
        Case(killed, OURS, ours, signal.SIGKILL),
        Case(killed, PEER, plain, signal.SIGKILL),
        Case(terminated, OURS, ours, signal.SIGTERM),
        Case(terminated, PEER, plain, signal.SIGTERM),
        Case(lost, OURS, [*worker, "--volume", str(work)], signal.SIGKILL, rank=1),
        Case(lost, PEERS_AGENT, [*agent, *program], signal.SIGKILL, rank=1),
    ]


def one_kill(case: Case, work: Path) -> tuple[float, int] | None:
    """Seconds from the fault to the end of the next step, and the steps lost; None: it did not come back."""
    shutil.rmtree(work / "out", ignore_errors=True)
    log = work / "log.txt"
    log.write_bytes(b"")
    process = _start(case.command, log)
    if not _steps_after(log, 0, KILL_AT):
        raise SystemExit(f"{case.fault}: {case.name}: not begun within {PATIENCE_SECONDS} s; see {log}")
    began = time.perf_counter()
    os.kill(process.pid if case.rank is None else _child(process.pid, case.rank), case.number)
    if case.rank is None:
        process.wait()
    else:
        time.sleep(0.3)  # the other rank may be in the middle of saying that a step is done
    before = log.stat().st_size
    if case.rank is None:
        process = _start(case.command, log)
    made = _steps_after(log, before, 1)
    seconds = time.perf_counter() - began
    _end(process)
    if not made:
        return None
    last = max(int(step) for step in MADE.findall(log.read_bytes()[:before]))
    return seconds, last + 1 - made[0]


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """In a process group of its own; what it says goes to the end of the log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PET_MAX_RESTARTS": "3", "POD_NAME": "localhost"}
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: torchrun's ranks have process groups of their own, and would go on."""
    started = psutil.Process(process.pid).children(recursive=True)
    for one in (process, *started):
        one.kill()
    process.wait()
    psutil.wait_procs(started, timeout=10)


def _steps_after(log: Path, position: int, count: int) -> list[int]:
    """That many steps behind a place in the log, waited for; none of them where they do not come."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        made = [int(step) for step in MADE.findall(log.read_bytes()[position:])]
        if len(made) >= count:
            return made
        time.sleep(0.005)
    return []


def _child(agent: int, rank: int) -> int:
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return int(children[rank])


def _row(case: Case, kills: Sequence[tuple[float, int] | None]) -> Answer:
    came = [kill for kill in kills if kill is not None]
    if not came:
        raise SystemExit(f"{case.fault}: {case.name}: never came back")
    seconds, lost = [one for one, _ in came], [steps for _, steps in came]
    return {
        "fault": case.fault,
        "name": case.name,
        "seconds": round(statistics.median(seconds), 1),
        "range": f"{min(seconds):.1f} - {max(seconds):.1f}",
        "lost": statistics.median_low(lost),
        "back": f"{len(came)} of {len(kills)}",
    }


def _made(files: Path) -> tuple[Path, Path]:
    """The model and the records that all train on."""
    if not files.is_dir():
        subprocess.run([sys.executable, HERE.parent / "demo" / "make_files.py", files], check=True)
    return files / "untrained", files / "train.jsonl"


def _settings(work: Path, model: Path, records: Path, processes: int) -> Path:
    """A settings file, as the chart mounts it, that asks for what killed_trainer.py does."""
    tree = load([]).settings.to_values()
    tree |= {"modelNameOrPath": str(model), "doEval": False, "processesPerWorker": processes}
    tree["script"] = str(HERE.parent / "scripts" / "finetune.py")
    tree["train"] |= {
        "datasetName": None,
        "dataFile": str(records),
        "outputDir": str(work / "out"),
        "maxSteps": STEPS,
        "saveStrategy": "steps",
        "saveSteps": SAVE_STEPS,
        "perDeviceBatchSize": 4,
        "maxSeqLength": 128,
        "bf16": False,
        "ddpBackend": "gloo",
        "reportTo": None,
    }
    file = work / f"settings-{processes}.json"
    file.write_text(json.dumps({"distributed": tree}))
    return file


if __name__ == "__main__":
    main()
