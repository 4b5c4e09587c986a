"""Data sets of the Hugging Face Hub (or folders that `datasets` understands)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_finetune.data.source import Source
from llm_finetune.errors import DataError
from llm_finetune.volume import writing

_PROBE_SECONDS = 10
_TOKEN = "secret.encodedToken in the cluster, HF_TOKEN elsewhere"
_BATCH_ROWS = 1000


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
    """Download what the cache of `datasets` does not hold yet; a download goes on where it stopped.

    Raises:
        DataError: it cannot be had; says why and what to do.
        OutputError: the cache has no room for it, or cannot be written.
    """
    name = source.dataset or ""
    reachable = Path(name).is_dir() or _probe(name, source.revision)
    import datasets

    # Where the Hub does not answer, what was downloaded before still serves; without this switch `datasets`
    # would first try again for half a minute.
    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or not reachable
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        with writing(cache, kept=lambda: "files that are whole are kept"):
            return HubDataSet(
                name, dict(datasets.load_dataset(name, source.config, revision=source.revision))
            )
    except ConnectionError as error:
        raise DataError(
            f"{name}: the Hugging Face Hub cannot be reached, and the data set is not in the cache. Check "
            "network and proxy (envVars.httpsProxy in the cluster), or set datasetName to null and dataFile "
            "to a file."
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        hint = " Name one of them by datasetConfig." if "vailable" in str(error) else ""
        raise DataError(f"{name}: the data set cannot be loaded: {error}{hint}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _probe(name: str, revision: str | None) -> bool:
    """Ask the Hub about the data set: it says at once, and exactly, what `datasets` says late or vaguely.

    Returns:
        False where there is no answer.
    """
    from huggingface_hub import HfApi, errors

    try:
        HfApi().dataset_info(name, revision=revision, timeout=_PROBE_SECONDS)
    except errors.HFValidationError as error:
        raise DataError(
            f"{name}: neither a folder nor a name on the Hub (owner/name). For a file of your own set "
            "datasetName to null and dataFile to its path."
        ) from error
    except errors.GatedRepoError as error:
        raise DataError(
            f"{name}: the data set is gated ({_status(error)}). Ask for access at "
            f"https://huggingface.co/datasets/{name}, and give the token of an account that has it: {_TOKEN}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{name}: the data set has no revision {revision!r} on the Hub.") from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"{name}: the Hub shows no such data set ({_status(error)}). The name is wrong, or the data set "
            f"is private: then give a token that may read it: {_TOKEN}."
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise DataError(
                f"{name}: the Hub refuses access ({_status(error)}). The token is wrong, has "
                f"expired, or may not read this data set. Give another: {_TOKEN}."
            ) from error
        raise DataError(f"{name}: the Hub answers {_status(error)}. Try again later.") from error
    except (errors.HTTPError, OSError, ValueError):  # type: ignore[attr-defined]  # whichever library it uses
        return False
    return True


def _status(error: Any) -> str:
    return f"status {error.response.status_code}"
