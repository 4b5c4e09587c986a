"""The output folder of a run: whose it is, what is in it already, and what gives way when."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_finetune import fingerprint
from llm_finetune.errors import OutputError
from llm_finetune.report import results

PREVIOUS = "previous"
# What a run leaves; nothing else in the folder is ever touched.
RUN_PATTERNS = (
    "checkpoint-*",
    "adapter_*",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "README.md",
    "*_results.json",
    "run.json",
    "runs",
)


@dataclass(frozen=True)
class RunFolder:
    """An output folder that belongs to this run.

    Attributes:
        path: the folder.
        finished: this very run is done already.
        checkpoint: the newest checkpoint of this very run, to go on from.
    """

    path: Path
    finished: bool
    checkpoint: Path | None

    def finish(self) -> None:
        """Says that all is done, and only then lets go of what an earlier run left."""
        content = results.read_json(self.path / results.RUN) or {}
        results.write_json(self.path / results.RUN, {**content, "finished": True})
        shutil.rmtree(self.path / PREVIOUS, ignore_errors=True)


def claim(path: Path, content: dict[str, Any], *, overwrite: bool, fresh: bool) -> RunFolder:
    """Makes the folder this run's own, or finds that it is.

    Args:
        content: of run.json; under "deciding" all that decides the result.
        overwrite: an earlier, different run gives way, once this one is whole.
        fresh: so does this same run.

    Raises:
        OutputError: the folder cannot be written, or holds another run and may not be overwritten.
    """
    _check_writable(path)
    old = results.read_json(path / results.RUN)
    left = _left_by_a_run(path)
    if old and not fresh and old.get("deciding") == content["deciding"]:
        return RunFolder(path, bool(old.get("finished")), newest_checkpoint(path))
    if left and not overwrite and not fresh:
        found = left[0].name
        if old:
            found = (
                f"another run: {fingerprint.first_difference(old.get('deciding', {}), content['deciding'])}"
            )
        raise OutputError(
            f"distributed.train.outputDir: {path} holds {found}; "
            "set distributed.train.overwriteOutputDir to true, or name another folder"
        )
    if left:
        _set_aside(path, left, whole=bool(old and old.get("finished")))
    results.write_json(path / results.RUN, {**content, "finished": False})
    return RunFolder(path, finished=False, checkpoint=None)


def newest_checkpoint(path: Path) -> Path | None:
    """The checkpoint with the highest step; the Trainer writes its state last."""
    whole = [folder for folder in path.glob("checkpoint-*") if (folder / "trainer_state.json").is_file()]
    return max(whole, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)


def _check_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"distributed.train.outputDir: {path} cannot be written: {error.strerror}; "
            "name a folder that this user may write"
        ) from error


def _left_by_a_run(path: Path) -> list[Path]:
    return sorted({file for pattern in RUN_PATTERNS for file in path.glob(pattern)})


def _set_aside(path: Path, left: list[Path], *, whole: bool) -> None:
    previous = path / PREVIOUS
    if not whole and previous.is_dir():
        # A run that never finished is worth less than the whole one that waits there already.
        for file in left:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        return
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for file in left:
        os.replace(file, previous / file.name)
