"""The data, prepared by a process of its own while this one still loads its libraries."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from llm_finetune.config import Settings
from llm_finetune.distributed import available_cores
from llm_finetune.errors import DataError
from llm_finetune.runtime.parent_death import set_parent_death_signal
from llm_finetune.runtime.signals import handled_signals

BackgroundPreparation = Callable[[], Path | None]
SECONDS_TO_EXIT = 5.0


@contextmanager
def background_preparation(settings: Settings) -> Iterator[BackgroundPreparation]:
    """Prepares the data in another process while the body runs.

    Returns:
        What waits for the folder of the prepared rows, or raises a DataError where the records are wrong.
        None: it was not worthwhile, or that process failed otherwise; then the caller prepares the data, and
        meets the same obstacle.
    """
    if not _is_worthwhile(settings):
        yield lambda: None
        return
    fork = multiprocessing.get_context("fork")
    answer, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_prepare, args=(settings, os.getpid(), sender), daemon=True)
    process.start()
    sender.close()  # that process alone holds it: the pipe ends with the process
    try:
        yield partial(_awaited, answer)
    finally:
        process.terminate()
        process.join(SECONDS_TO_EXIT)
        process.kill()
        answer.close()


def _is_worthwhile(settings: Settings) -> bool:
    """Whether there are records, a second core, and libraries yet to load, whose threads no fork outlives."""
    has_records = bool(settings.train.data_file or settings.train.dataset_name)
    return has_records and available_cores() > 1 and "torch" not in sys.modules


def _awaited(answer: Connection) -> Path | None:
    try:
        folder_or_problems: str | list[str] = answer.recv()
    except EOFError:
        return None
    if isinstance(folder_or_problems, list):
        raise DataError(folder_or_problems)
    return Path(folder_or_problems)


def _prepare(settings: Settings, parent: int, sender: Connection) -> None:
    for number in handled_signals():
        signal.signal(number, signal.SIG_IGN)  # a terminal sends it to both: the parent sees to it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is half written goes away
    set_parent_death_signal(parent, signal.SIGTERM)
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # that there is no torch
    sys.modules["torch"] = None  # type: ignore[assignment]  # a tokenizer can do without, in a third of the time
    with suppress(Exception):
        try:
            sender.send(str(_prepared(settings)))
        except DataError as error:
            sender.send(error.problems)


def _prepared(settings: Settings) -> Path:
    from llm_finetune.models.loading import load_tokenizer
    from llm_finetune.models.resolve import fetch
    from llm_finetune.pipeline.prepare_data import prepare_data

    name, revision, trust = settings.model_name_or_path, settings.model_revision, settings.trust_remote_code
    folder = fetch(name, revision, weights=False, code=trust)
    return prepare_data(settings, load_tokenizer(folder, trust))
