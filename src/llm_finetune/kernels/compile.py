"""C and C++ of our own as a library in this process: compiled by the machine's compiler once, then kept."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from llm_finetune.distributed import processor_features
from llm_finetune.storage.stale_files import remove_abandoned
from llm_finetune.storage.user_directories import others_wrote, private_cache

COMPILERS = {".c": ("cc", "gcc"), ".cpp": ("c++", "g++")}
ALWAYS = ("-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
SECONDS = 120
ASIDE = ".compiling-"

log = logging.getLogger(__name__)


class NotCompiledError(Exception):
    """Why there is no library here."""


def compiled(sources: Sequence[Path], flags: Sequence[str], headers: Sequence[Path] = ()) -> ctypes.CDLL:
    """The library made of these files.

    It is kept in the user's cache, under a name that its sources, flags, OpenMP runtime and processor decide.
    Its threads are those of torch.

    Args:
        flags: beside those that are always given.

    Raises:
        NotCompiledError: there is no compiler, or it fails.
    """
    openmp = _openmp()
    content = [*ALWAYS, *flags, str(openmp), *sorted(processor_features())]
    content += [file.read_text() for file in (*sources, *headers)]
    name = f"{sources[0].parent.name}-{hashlib.sha256(chr(0).join(content).encode()).hexdigest()[:16]}.so"
    try:
        kept = _cache() / name
        if not _is_ours(kept):
            _compile(sources, flags, openmp, kept)
        return _loaded(kept)
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise NotCompiledError(str(said).strip()) from error


def _compile(sources: Sequence[Path], flags: Sequence[str], openmp: Path, kept: Path) -> None:
    remove_abandoned(kept.parent.glob(f"{ASIDE}*"))
    with tempfile.TemporaryDirectory(prefix=ASIDE, dir=kept.parent) as aside:
        objects = [f"{aside}/{source.stem}.o" for source in sources]
        for source, target in zip(sources, objects, strict=True):
            _run(_compiler(source), *ALWAYS, *flags, "-c", str(source), "-o", target)
        # Without -fopenmp, which would link the compiler's own runtime: its threads would fight with torch's.
        linked = f"{aside}/library.so"
        _run(_compiler(sources[0]), "-shared", *objects, str(openmp), "-lm", "-o", linked)
        os.chmod(linked, 0o700)  # whatever the umask is
        os.replace(linked, kept)  # another process may have been as fast: both are the same


def _compiler(source: Path) -> str:
    names = COMPILERS[source.suffix]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise NotCompiledError(f"no compiler; install {names[-1]}")
    return found


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)


def _openmp() -> Path:
    """The OpenMP runtime that torch has loaded into this process."""
    torch.get_num_threads()
    mapped = re.findall(r"/\S*/lib[gi]?omp5?[^/\s]*\.so\S*", Path("/proc/self/maps").read_text())
    if not mapped:
        raise NotCompiledError("torch brought no OpenMP runtime")
    return Path(mapped[0])


def _is_ours(kept: Path) -> bool:
    """Whether the library is there, and nobody else put it there."""
    try:
        found = kept.lstat()
    except FileNotFoundError:
        return False
    problem = others_wrote(found) if stat.S_ISREG(found.st_mode) else "is no file"
    if problem:
        log.warning("%s %s: it is compiled anew", kept, problem)
    return problem is None


def _loaded(kept: Path) -> ctypes.CDLL:
    """The library, through the very file that was looked at, in the very folder."""
    folder = os.open(kept.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        file = os.open(kept.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        if problem := others_wrote(os.fstat(folder)) or others_wrote(os.fstat(file)):
            raise NotCompiledError(f"{kept} {problem}")
        # It stays open: the loader knows a library by its name.
        return ctypes.CDLL(f"/proc/self/fd/{file}")
    finally:
        os.close(folder)


def _cache() -> Path:
    """A folder of the user's own, since what lies in it is run; it lasts, so that this is compiled once."""
    return private_cache("compiled")
