"""The job's secret, by which its processes tell each other from strangers on the network.

It is a file: the chart mounts it into every worker, and on one machine the launcher writes it for its ranks.
A variable says where it lies; the secret itself is in no variable, no argument and no log.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.errors import SettingsError

FILE = "LLM_FINETUNE_SECRET_FILE"
LEAST_BYTES = 16
MOST_BYTES = 4096

log = logging.getLogger(__name__)


def job_secret(environment: Mapping[str, str] = os.environ) -> bytes | None:
    """The secret; None where the job has none. It is read again for each handshake: Kubernetes may renew it.

    Raises:
        SettingsError: it cannot be read, or is too short to be one.
    """
    name = environment.get(FILE)
    if not name:
        return None
    try:
        with Path(name).open("rb") as file:
            secret = file.read(MOST_BYTES).strip()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"environment: {FILE} is {name!r}, which cannot be read ({error}); is the Secret mounted "
            "(jobSecret.existingSecret), with the key `secret`?"
        ) from error
    if len(secret) < LEAST_BYTES:
        raise SettingsError(
            f"{name}: found {len(secret)} bytes, expected a secret of {LEAST_BYTES} or more; write one by "
            "`openssl rand -hex 32`"
        )
    return secret


def say_where_there_is_none() -> None:
    """Warns of a job that any process on the network may take part in; where the launcher has, no more."""
    if FILE not in os.environ:
        os.environ[FILE] = ""  # the processes that this one starts need not say so again
        log.warning(
            "this job has no secret (%s): any process on its ports can join it; the chart makes one",
            FILE,
        )


@contextmanager
def new_secret(folder: Path) -> Iterator[None]:
    """While the body runs, the processes that are started here share a secret of their own."""
    file = folder / "secret"
    with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    os.environ[FILE] = str(file)
    try:
        yield
    finally:
        del os.environ[FILE]
        file.unlink(missing_ok=True)
