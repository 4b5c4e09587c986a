"""What stands for the training in tests of the group: ranks join, and count steps together on the volume.

It comes up in a second, where transformers takes ten, and goes on from the step that rank 0 kept last. Called
as `distributed.script` is: `rank_program.py run --settings FILE`. FAULTS names what goes wrong, each once:
`rank:step:what`, with spaces between.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from llm_finetune.distributed import Group, Ranks, join
from llm_finetune.errors import DataError, UserError
from llm_finetune.runtime import heartbeat, shutdown
from llm_finetune.runtime.parent_death import exit_with_parent
from llm_finetune.runtime.rank_progress import begin_loop, end_loop
from llm_finetune.runtime.termination_message import report_error

STEPS = int(os.environ.get("STEPS", "40"))
STEP_SECONDS = 0.05


def main() -> int:
    shutdown.install_handlers()
    exit_with_parent()
    settings = json.loads(Path(sys.argv[3]).read_text())["distributed"]
    ranks = Ranks.from_environment()
    out = Path(settings["train"]["outputDir"])
    try:
        grace, stall = settings["shutdownGraceSeconds"], settings["stallTimeoutMinutes"] * 60
        backend = settings["train"]["ddpBackend"]
        joined = join(backend, ranks, 60.0, grace_seconds=grace, stall_seconds=stall)
        with heartbeat.rank_heartbeat(ranks):
            with joined as group:
                count(group, out)
            if ranks.is_main_process:
                run_rank_zero_stages(out)
    except UserError as error:
        report_error(error.problems)
        return error.exit_code
    return 0


def count(group: Group, out: Path) -> None:
    kept = out / "progress.json"
    first = int(
        group.on_rank_zero(
            "step", lambda: str(json.loads(kept.read_text())["step"] if kept.exists() else 0), 60.0
        )
    )
    begin_loop()
    for step in range(first + 1, STEPS + 1):
        fail(group.ranks.rank, step, out)
        (size,) = group.all_reduce_sum([1.0])
        heartbeat.record_step(step)
        if group.ranks.is_main_process:
            aside = out / ".progress"
            aside.write_text(json.dumps({"step": step, "size": size}))
            os.replace(aside, kept)
            print(f"step {step}/{STEPS} with {size:g}", flush=True)
        time.sleep(STEP_SECONDS)
    end_loop()


def run_rank_zero_stages(out: Path) -> None:
    """What rank 0 does by itself when the group is left; it lasts while the test wants it to."""
    print("alone", flush=True)
    while (out / "busy").exists():
        time.sleep(STEP_SECONDS)


def fail(rank: int, step: int, out: Path) -> None:
    for fault in os.environ.get("FAULTS", "").split():
        where, when, what = fault.split(":")
        done = out / f"fault-{fault.replace(':', '-')}"
        if int(where) != rank or int(when) != step or done.exists():
            continue
        if not what.endswith("!"):  # with ! it happens each time
            done.touch()
        match what.rstrip("!"):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "data":
                raise DataError("data.json: row 7: no 'output'")
            case "defect":
                raise ValueError("a defect")
            case "hang":
                time.sleep(1000)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    sys.exit(main())
