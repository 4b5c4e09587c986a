"""The kernel's control groups that bind this process, of both versions: they hold a container's limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def control_groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """The version (1 or 2) and folder of this process's own group and of each one above it.

    Args:
        controller: `cpu` or `memory`.
        root: where `proc` and `sys` are mounted.
    """
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from ((2, folder) for folder in _upwards(root / "sys/fs/cgroup", path))
        elif controller in controllers.split(","):
            yield from ((1, folder) for folder in _upwards(root / "sys/fs/cgroup" / controller, path))


def lines(file: Path) -> list[str]:
    """The lines of one of the kernel's files; none where it is not there."""
    return file.read_text().splitlines() if file.is_file() else []


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and all above it, up to the mount.

    In a container the path may be the host's and not exist under the mount: then only the mount is there,
    and it is the container's own group.
    """
    folder = mount / path.strip("/")
    while folder != mount:
        yield folder
        folder = folder.parent
    yield mount
