"""What the launcher writes to the volume, or cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_finetune.errors import OutputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes to `path`.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"distributed.train.outputDir: {path} cannot be written ({error.strerror}); is the volume "
            "(storage.pvcMountPath) mounted, has it room, and may this user write it (securityContext)?"
        ) from error
