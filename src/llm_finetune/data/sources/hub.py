"""Data sets of the Hugging Face Hub (or folders that `datasets` understands)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_finetune.data.sources.source import Source
from llm_finetune.data.sources.walk import visible_files
from llm_finetune.errors import DataError
from llm_finetune.storage.errors import writing

_PROBE_SECONDS = 10
_TOKEN = "secret.encodedToken in the cluster, HF_TOKEN elsewhere"
_BATCH_ROWS = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubSplit:
    """One split of a data set, in `datasets`' own cache and memory-mapped from there."""

    data_set: str
    split: str
    table: Any

    @property
    def name(self) -> str:
        return self.split

    @property
    def location(self) -> str:
        return f"{self.data_set}, split {self.split}"

    def digest(self) -> str:
        # The library's name for the content: data set, configuration, commit and split.
        return str(self.table._fingerprint)

    def rows(self) -> Iterator[tuple[int, Any]]:
        number = 0
        for batch in self.table.iter(_BATCH_ROWS):
            for cells in zip(*batch.values(), strict=True):
                number += 1
                yield number, dict(zip(batch, cells, strict=True))
        if number == 0:
            raise DataError(f"{self.location}: the split holds no row.")


@dataclass(frozen=True)
class HubDataSet:
    """A data set with all its splits."""

    name: str
    tables: dict[str, Any]

    def split(self, name: str) -> HubSplit:
        """Raises:
        DataError: there is no such split.
        """
        if name not in self.tables:
            raise DataError(
                f"{self.name}: the data set has no split {name!r}; it has {', '.join(self.tables)}. Name one "
                "of them by datasetSplit."
            )
        return HubSplit(self.name, name, self.tables[name])

    def held_out_split(self, trained_on: str) -> HubSplit | None:
        """The split that the data set keeps for validation, else for tests."""
        for name in ("validation", "test"):
            if name in self.tables and name != trained_on:
                return self.split(name)
        return None


def load(source: Source) -> HubDataSet:
    """Downloads what the cache of `datasets` does not hold yet.

    A Hub that is away, overloaded or refuses today must not end a job whose data is here since yesterday:
    then the cache serves.

    Raises:
        DataError: it cannot be had; says why and what to do.
        OutputError: the cache has no room for it, or cannot be written.
    """
    name = source.dataset or ""
    if Path(name).is_dir():
        visible_files(Path(name))  # no link leads out of it
        refusal = None
    else:
        refusal = _refusal(name, source.revision)
    import datasets

    # Without this switch `datasets` would first try again for half a minute.
    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or refusal is not None
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        with writing(cache, preserved=lambda: "complete files are not downloaded again"):
            tables = dict(datasets.load_dataset(name, source.config, revision=source.revision))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        if isinstance(error, ConnectionError):
            refusal = refusal or _unreachable(name)
        if refusal:
            raise DataError(f"{refusal.why}, and the cache does not hold it. {refusal.remedy}") from error
        hint = " Name one of them by datasetConfig." if "available" in str(error).lower() else ""
        raise DataError(f"{name}: the data set cannot be loaded: {error}{hint}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    if refusal:
        commit = _commit(tables)
        if _is_commit(source.revision) and commit != source.revision:
            raise DataError(f"{refusal.why}, and the cache holds commit {commit} of it. {refusal.remedy}")
        log.warning("%s; the cache serves, as of commit %s", refusal.why, commit)
    return HubDataSet(name, tables)


@dataclass(frozen=True)
class _Refusal:
    """Why the Hub does not hand a data set out now, and what to do about it."""

    why: str
    remedy: str


def _refusal(name: str, revision: str | None) -> _Refusal | None:
    """Asks the Hub about the data set: it says at once, and exactly, what `datasets` says late or vaguely.

    Raises:
        DataError: the name or the revision is wrong, so that no cache may serve.
    """
    from huggingface_hub import HfApi, errors

    try:
        HfApi().dataset_info(name, revision=revision, timeout=_PROBE_SECONDS)
    except errors.HFValidationError as error:
        raise DataError(
            f"{name}: neither a folder nor a name on the Hub (owner/name). For a file of your own set "
            "datasetName to null and dataFile to its path."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{name}: the data set has no revision {revision!r} on the Hub.") from error
    except errors.GatedRepoError as error:
        return _Refusal(
            f"{name}: the data set is gated ({_status(error)})",
            f"Ask for access at https://huggingface.co/datasets/{name}, and give the token of an account "
            f"that has it: {_TOKEN}.",
        )
    except errors.RepositoryNotFoundError as error:
        return _Refusal(
            f"{name}: the Hub shows no such data set ({_status(error)})",
            f"The name is wrong, or the data set is private: then give a token that may read it: {_TOKEN}.",
        )
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            return _Refusal(
                f"{name}: the Hub refuses access ({_status(error)})",
                f"The token is wrong, has expired, or may not read this data set. Give another: {_TOKEN}.",
            )
        return _Refusal(f"{name}: the Hub answers {_status(error)}", "Try again later.")
    except (errors.HTTPError, OSError, ValueError):  # type: ignore[attr-defined]  # whichever library it uses
        return _unreachable(name)
    return None


def _unreachable(name: str) -> _Refusal:
    return _Refusal(
        f"{name}: the Hugging Face Hub cannot be reached",
        "Check network and proxy (envVars.httpsProxy in the cluster), or set datasetName to null and "
        "dataFile to a file.",
    )


def _commit(tables: dict[str, Any]) -> str:
    """Which one the cache holds: it calls the folder so."""
    return Path(next(iter(tables.values())).cache_files[0]["filename"]).parent.name


def _is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch("[0-9a-f]{40}", revision))


def _status(error: Any) -> str:
    return f"status {error.response.status_code}"
