"""Where a base model's files come from: a folder that is there, or the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from llm_finetune.errors import ModelError

# Small files first: with these alone, settings and data can be checked before gigabytes are fetched.
DESCRIPTION_FILES = ["*.json", "*.jinja", "*.model", "tokenizer*", "vocab*", "merges.txt"]
WEIGHT_FILES = ["*.safetensors"]
CODE_FILES = ["*.py"]


SETTING = "distributed.modelNameOrPath"
TOKEN = "cluster: secret.encodedToken; workstation: `hf auth login` or HF_TOKEN"


def fetch(
    name_or_path: str, revision: str | None, *, weights: bool, code: bool, named_in: str = SETTING
) -> Path:
    """The local folder that holds the model's files; downloads what is missing (resumable).

    Args:
        name_or_path: a folder, or the name of a model on the Hub ("owner/name").
        revision: branch, tag or commit on the Hub.
        weights: also the weights; without them the description and the tokenizer alone.
        code: also the repository's Python files, which only a user who trusts them asks for.
        named_in: where the user finds that name, for errors.

    Raises:
        ModelError: the folder holds no model, or the Hub does not hand it out; says what to do.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return _checked(folder, weights)
    if looks_like_a_path(name_or_path):
        raise ModelError(
            f"{named_in}: no folder {name_or_path}; expected a folder with config.json, "
            "or the name of a model on the Hugging Face Hub (owner/name)"
        )
    return _checked(_download(name_or_path, revision, weights, code, named_in), weights)


def looks_like_a_path(name: str) -> bool:
    """Whether a name can only mean a folder: the Hub's have one slash at most, and no leading dot."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _checked(folder: Path, weights: bool) -> Path:
    if not (folder / "config.json").is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        hint = ""
        if (folder / "adapter_config.json").is_file():
            hint = " (an adapter is not a base model: name its base)"
        raise ModelError(f"{folder}: no config.json in this model folder{hint}; it holds {found}")
    if weights and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        why = "only pickled weights, which could run code when they are read" if pickled else "no weights"
        raise ModelError(
            f"{folder}: {why}; expected *.safetensors"
            + ("; choose a revision that has them, or convert the model once" if pickled else "")
        )
    return folder


def _download(name: str, revision: str | None, weights: bool, code: bool, named_in: str) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    patterns = DESCRIPTION_FILES + (WEIGHT_FILES if weights else []) + (CODE_FILES if code else [])
    where = f"{named_in}: {name}" + (f" at revision {revision}" if revision else "")
    where += " (there is no folder of that name)"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
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
            f"{where}: the download broke off ({type(error).__name__}); try again; where that does not help "
            f"see to the network, and to the token ({TOKEN})"
        ) from None
