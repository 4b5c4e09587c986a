"""Where each rank's output goes: a file for each stream, and what of it is shown here."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

from llm_finetune.storage import atomic
from llm_finetune.storage.errors import writing

OUT, ERR = "out", "err"
TAIL_BYTES = 65536


class RankLogs(LogsSpecs):
    """Files `rank-3.out.log` and `rank-3.err.log` in a folder of the round.

    Args:
        terminal: the first rank of this machine has this process's own output instead, as a terminal's
            progress bar needs it, and the others are not shown. Without it all are shown as they are written.
    """

    def __init__(self, folder: Path, *, terminal: bool) -> None:
        super().__init__(str(folder))
        self._folder = folder
        self._words = TemporaryDirectory(prefix="llm-finetune-words-")  # not on the volume, which may fail
        self._terminal = terminal
        self._ranks: dict[int, int] = {}

    @property
    def root_log_dir(self) -> str:
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        self._ranks = {local: int(env["RANK"]) for local, env in envs.items()}
        with writing(self._folder):
            atomic.own_folder(self._folder)
            for local in envs:
                for end in (OUT, ERR):
                    atomic.fresh_file(self._file(local, end))
        outs, errs = ({local: str(self._file(local, end)) for local in envs} for end in (OUT, ERR))
        failures = {local: f"{self._words.name}/rank-{rank}.json" for local, rank in self._ranks.items()}
        for local, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = failures[local]
        if self._terminal:
            outs[0] = errs[0] = ""
            return LogsDest(outs, errs, {}, {}, failures)
        return LogsDest(outs, errs, dict(outs), dict(errs), failures)

    def last_line(self, local_rank: int) -> str:
        """The last complaint of a rank; empty where there is none, or where it went to the terminal."""
        return next(iter(self.last_lines(local_rank, 1)), "")

    def last_lines(self, local_rank: int, count: int) -> list[str]:
        """The last complaints of a rank."""
        file = self._file(local_rank, ERR)
        lines = _end_of(file).splitlines() if file.is_file() else []
        return [line for line in lines if line.strip()][-count:]

    def _file(self, local_rank: int, end: str) -> Path:
        return self._folder / f"rank-{self._ranks[local_rank]}.{end}.log"


def _end_of(file: Path) -> str:
    """The end of a log, which may have grown for days."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        return stream.read(TAIL_BYTES).decode(errors="replace")
