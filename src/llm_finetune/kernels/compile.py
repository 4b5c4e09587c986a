"""The package's C and C++ sources as a library in this process: compiled once, then cached."""

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
from llm_finetune.storage import atomic
from llm_finetune.storage.stale_files import remove_abandoned
from llm_finetune.storage.user_directories import others_wrote, private_cache

COMPILERS = {".c": ("cc", "gcc"), ".cpp": ("c++", "g++")}
ALWAYS = ("-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
SECONDS = 120
ASIDE = ".compiling-"

log = logging.getLogger(__name__)


class NotCompiledError(Exception):
    """The library cannot be compiled or loaded; the message says why."""


def compiled(sources: Sequence[Path], flags: Sequence[str], headers: Sequence[Path] = ()) -> ctypes.CDLL:
    """Load the library built from these files, compiling it where the cache does not hold it yet.

    The cache is the user's own directory; the file name is a hash of sources, flags, OpenMP runtime and
    processor features. The library shares torch's OpenMP threads.

    Args:
        sources: C or C++ files.
        flags: compiler flags in addition to `ALWAYS`.
        headers: files that the sources include, part of the hash.

    Raises:
        NotCompiledError: there is no compiler, or it fails.
    """
    openmp = _openmp()
    content = [*ALWAYS, *flags, str(openmp), *sorted(processor_features())]
    content += [file.read_text() for file in (*sources, *headers)]
    name = f"{sources[0].parent.name}-{hashlib.sha256(chr(0).join(content).encode()).hexdigest()[:16]}.so"
    try:
        library = _cache() / name
        if not _is_ours(library):
            _compile(sources, flags, openmp, library)
        return _loaded(library)
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise NotCompiledError(str(reason).strip()) from error


def _compile(sources: Sequence[Path], flags: Sequence[str], openmp: Path, library: Path) -> None:
    remove_abandoned([*library.parent.glob(f"{ASIDE}*"), *library.parent.glob(f".*.{atomic.PARTIAL}")])
    # Another process may finish first: both write the same library.
    with (
        tempfile.TemporaryDirectory(prefix=ASIDE, dir=library.parent) as aside,
        atomic.written(library) as linked,
    ):
        objects = [f"{aside}/{source.stem}.o" for source in sources]
        for source, target in zip(sources, objects, strict=True):
            _run(_compiler(source), *ALWAYS, *flags, "-c", str(source), "-o", target)
        # Without -fopenmp, which would link the compiler's runtime, whose threads would compete with torch's.
        _run(_compiler(sources[0]), "-shared", *objects, str(openmp), "-lm", "-o", str(linked))
        linked.chmod(0o700)  # whatever the umask is


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
        raise NotCompiledError("torch has loaded no OpenMP runtime")
    return Path(mapped[0])


def _is_ours(library: Path) -> bool:
    """Whether the library is there, and no other user can have written it."""
    try:
        found = library.lstat()
    except FileNotFoundError:
        return False
    problem = others_wrote(found) if stat.S_ISREG(found.st_mode) else "is not a regular file"
    if problem:
        log.warning("%s %s: compiling it again", library, problem)
    return problem is None


def _loaded(library: Path) -> ctypes.CDLL:
    """Load the library through the descriptor whose owner and mode were checked."""
    folder = os.open(library.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        file = os.open(library.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        if problem := others_wrote(os.fstat(folder)) or others_wrote(os.fstat(file)):
            raise NotCompiledError(f"{library} {problem}")
        # It stays open: the loader knows a library by its name.
        return ctypes.CDLL(f"/proc/self/fd/{file}")
    finally:
        os.close(folder)


def _cache() -> Path:
    """A persistent directory that only this user can write to, since its contents are executed."""
    return private_cache("compiled")
