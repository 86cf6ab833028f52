# Disks that stop taking what is written, and take it again: a small real one, and a limit that needs no rights.
from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

SMALL_BYTES = 6 << 20
_BALLAST = "ballast"


class Disk:
    """A folder, and two ways of change: from now on nothing more is taken, and all is well again."""

    def __init__(self, path: Path, stop: Callable[[int, Path], None], go: Callable[[int], None]) -> None:
        self.path, self._stop, self._go = path, stop, go

    def stop_taking(self, pid: int, file: Path) -> None:
        """Take no more of what the process writes; at least, `file` cannot grow."""
        self._stop(pid, file)

    def take_again(self, pid: int) -> None:
        """Take everything again."""
        self._go(pid)


@contextmanager
def full_disk(path: Path) -> Iterator[Disk]:
    """A real file system of a few MiB that is filled to the last byte."""

    def stop(_: int, __: Path) -> None:
        with (path / _BALLAST).open("wb", buffering=0) as ballast:
            try:
                for size in (1 << 16, 1 << 12, 1):
                    while ballast.write(bytes(size)) == size:
                        pass
            except OSError:
                pass
        while True:
            try:
                with (path / _BALLAST).open("ab", buffering=0) as ballast:
                    ballast.write(bytes(1 << 12))
            except OSError:
                return

    with mounted(path):
        yield Disk(path, stop, lambda _: (path / _BALLAST).unlink())


@contextmanager
def mounted(path: Path) -> Iterator[Path]:
    """A tmpfs of a few MiB at `path`; the test is skipped, saying why, where mounting is not allowed."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"no real disk for this one, the file size limit stands in: {getattr(error, 'stderr', error)}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def limited_files(path: Path) -> Iterator[Disk]:
    """Files of the process cannot grow any more: RLIMIT_FSIZE, which needs no rights."""
    yield _limited(path, lambda file: file.stat().st_size)


@contextmanager
def refused_writes(path: Path) -> Iterator[Disk]:
    """No write of the process to any file is taken, as on a disk that became read-only under it."""
    yield _limited(path, lambda _: 0)


def _limited(path: Path, size: Callable[[Path], int]) -> Disk:
    path.mkdir(parents=True)
    changed: list[tuple[int, tuple[int, int]]] = []

    def stop(pid: int, file: Path) -> None:
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        changed.append((pid, limits))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size(file), limits[1]))

    def go(pid: int) -> None:
        for limited, limits in changed:
            if limited == pid:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    return Disk(path, stop, go)


DISKS = {"a full disk": full_disk, "files that cannot grow": limited_files, "writes refused": refused_writes}


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Each kind in turn."""
    with ExitStack() as stack:
        yield stack.enter_context(DISKS[request.param](tmp_path / "disk"))
