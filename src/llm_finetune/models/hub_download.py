"""Downloads from the Hugging Face Hub, with a check of free space, progress lines and explained errors."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from llm_finetune.errors import ModelError, OutputError
from llm_finetune.runtime.formatting import duration, size
from llm_finetune.storage.errors import held_bytes, writing
from llm_finetune.storage.stale_files import remove_abandoned

TOKEN = "cluster: secret.encodedToken; workstation: `hf auth login` or HF_TOKEN"
SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger(__name__)


def download(name: str, revision: str | None, patterns: Sequence[str], named_in: str) -> Path:
    """The local folder of a model's files; what is there already is not fetched again.

    Args:
        patterns: which files.
        named_in: where the user finds that name, for errors.

    Raises:
        ModelError: the Hub refuses them or cannot be reached; the message says what to do.
        OutputError: the cache has no room for them, or cannot be written.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub import errors as hub
    from huggingface_hub.file_download import repo_folder_name

    where = f"{named_in}: {name}" + (f" at revision {revision}" if revision else "")
    where += " (there is no folder of that name)"
    fetched = partial(snapshot_download, name, revision=revision, allow_patterns=list(patterns))
    try:
        blobs = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "blobs")
        with writing(blobs, preserved=_complete_files):
            missing = _missing_bytes(fetched)
        remove_abandoned(blobs.glob("*.incomplete"))
        with writing(blobs, missing, _complete_files), _progress_logged(name, missing, blobs):
            return Path(fetched())
    except OutputError:
        raise
    except hub.HFValidationError as error:
        raise ModelError(f"{where}: neither a folder nor a valid Hub name (owner/name): {error}") from error
    except hub.GatedRepoError as error:
        raise ModelError(
            f"{where}: this model is gated; ask for access on its page on the Hub, then give a token "
            f"of that account ({TOKEN})"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelError(
            f"{where}: no such revision; see the model's branches and tags on the Hub"
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise ModelError(
            f"{where}: not found on the Hub; check the spelling, or give a token that may read it"
        ) from error
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError) as error:
        raise ModelError(
            f"{where}: the Hub cannot be reached and the model is not in the cache; check network and proxy "
            "(envVars.httpsProxy), or copy the model's folder here and give its path"
        ) from error
    except hub.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        hints = {401: "the token is not valid", 403: "this token may not read it"}
        hint = hints.get(status, "try again later")
        raise ModelError(f"{where}: the Hub answered with status {status}: {hint}") from error
    except Exception as error:  # of several libraries; in their words the token may stand
        raise ModelError(
            f"{where}: the download failed ({type(error).__name__}); try again; where that does not help "
            f"check the network and the token ({TOKEN})"
        ) from None


def _complete_files() -> str:
    return "complete files are not downloaded again"


def _missing_bytes(fetched: Callable[..., Any]) -> int:
    """What is to come; 0 where the Hub does not say, which the download itself explains."""
    from huggingface_hub.errors import DryRunError
    from tqdm import tqdm

    try:
        files = fetched(dry_run=True, tqdm_class=partial(tqdm, disable=True))
    except DryRunError:
        return 0
    return sum(file.file_size or 0 for file in files if file.will_download)


@contextmanager
def _progress_logged(name: str, missing: int, blobs: Path) -> Iterator[None]:
    """Lines in the log while the body downloads; on a terminal the library itself draws a bar."""
    if not missing or sys.stderr.isatty():
        yield
        return
    log.info("downloading %s: %s", name, size(missing))
    over = threading.Event()
    logging_thread = threading.Thread(target=_log_progress, args=(name, missing, blobs, over), daemon=True)
    logging_thread.start()
    try:
        yield
    finally:
        over.set()
        logging_thread.join()


def _log_progress(name: str, missing: int, blobs: Path, over: threading.Event) -> None:
    began, before = time.monotonic(), held_bytes(blobs)
    while not over.wait(SECONDS_BETWEEN_LINES):
        if fetched := held_bytes(blobs) - before:
            left = (time.monotonic() - began) * (missing / fetched - 1)
            log.info("downloading %s: %s of %s, %s left", name, size(fetched), size(missing), duration(left))
        else:
            log.info("downloading %s: nothing received yet", name)
