"""What `helm test` runs in a pod like a worker's: are image, settings, secrets and folders as the job needs?

python -P -m llm_finetune.launcher.helm_test SETTINGS VOLUME
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llm_finetune.config import Settings, load_merged
from llm_finetune.distributed.job_secret import job_secret
from llm_finetune.errors import SettingsError, UserError
from llm_finetune.runtime.logging import entry

# Where the image must have what the job imports.
NEEDED = ("torch", "transformers", "peft", "datasets")
CACHES = {
    "HF_HOME": "envVars.hfHome",
    "HF_DATASETS_CACHE": "envVars.hfDatasetsCache",
    "HF_HUB_CACHE": "envVars.transformersCache",
}


def main(settings_file: Path, volume: Path) -> None:
    """Prints a line for each thing that is as it should be.

    Raises:
        UserError: one line for each thing that is not.
    """
    settings = load_merged(settings_file).settings
    print(f"settings: {settings_file} is right")
    problems = [*_image(), *_token(), *_job_secret(), *_folders(settings, volume)]
    if problems:
        raise UserError(problems)


def _image() -> Iterator[str]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        yield f"image.name: the image has no {', '.join(missing)}; build it from this project's Dockerfile"
    preloaded = os.environ.get("LD_PRELOAD", "").replace(" ", ":").split(":")
    absent = [name for name in preloaded if name.startswith("/") and not Path(name).exists()]
    if absent:
        yield f"envVars.ldPreload: the image has no {', '.join(absent)}"
    if not missing and not absent:
        print(f"image: Python {sys.version.split()[0]} with {', '.join(NEEDED)}; all of LD_PRELOAD is there")


def _token() -> Iterator[str]:
    file = Path(os.environ.get("HF_TOKEN_PATH") or Path(os.environ.get("HF_HOME", "/tmp/home")) / "token")
    if not file.exists():
        print("token: none, so only models and data that are not gated")
        return
    try:
        token = file.read_text()
    except (OSError, ValueError) as error:
        yield f"{file}: {type(error).__name__}, expected to read the Hugging Face token"
        return
    if not token or token.split() != [token]:
        yield f"{file}: expected a token without spaces or line breaks; replace the Secret"
    else:
        print(f"token: {file} can be read")


def _job_secret() -> Iterator[str]:
    try:
        is_there = job_secret() is not None
    except SettingsError as error:
        yield from error.problems
    else:
        print(f"job secret: {'can be read' if is_there else 'none, so any process can take part in the job'}")


def _folders(settings: Settings, volume: Path) -> Iterator[str]:
    folders = {"storage.pvcMountPath": volume, "distributed.train.outputDir": Path(settings.train.output_dir)}
    if settings.do_quantize:
        folders["distributed.quantize.outputDir"] = Path(settings.quantize.output_dir)
    folders |= {key: Path(os.environ[name]) for name, key in CACHES.items() if name in os.environ}
    for key, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=there):
                print(f"{key}: {folder} can be written")
        except OSError as error:
            yield (
                f"{key}: {there}: {error.strerror}; user {os.getuid()} of group {os.getgid()} must be able "
                "to write there: set securityContext.fsGroup, or runAsUser to the one who owns the folder"
            )


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        sys.exit("\n".join(entry(f"error: {problem}") for problem in error.problems))
