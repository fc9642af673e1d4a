"""A disk that logs what it is told to write, and when to flush.

The disk is a file for a loop device: the only file of a FUSE file system, which runs in
its own process. The log tells what may be on a disk after a power cut.
"""

from __future__ import annotations

import multiprocessing
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import pytest

# mfusepy knows two libraries. The other one cuts each write into pages.
os.environ.setdefault('FUSE_LIBRARY_NAME', 'fuse3')
try:
    mfusepy = pytest.importorskip('mfusepy')
except OSError:
    pytest.skip('needs libfuse3', allow_module_level=True)

_HEADER = struct.Struct('<QQ')  # offset and size; a flush has neither


class Entry(NamedTuple):
    """A write, or a flush, which has no data."""

    end: int  # the size of the log with this entry
    offset: int
    data: bytes


@contextmanager
def logging_disk(disk: Path, image: Path, log: Path) -> Iterator[None]:
    """Make `disk` a file with the content of `image`, and log its writes to `log`.

    The size of the log is the time of this disk.
    """
    disk.touch()
    fork = multiprocessing.get_context('fork')
    ours, theirs = fork.Pipe()
    server = fork.Process(target=_serve, args=(disk, image, log, theirs), daemon=True)
    server.start()
    theirs.close()
    try:
        ours.recv()  # EOFError if the server has ended
        yield
    finally:
        subprocess.run(['umount', '--lazy', disk], check=True)
        server.join()  # it ends when no loop device uses the disk any more
        ours.close()


def _serve(disk: Path, image: Path, log: Path, ready: Connection) -> None:
    with image.open('r+b') as image_file, log.open('xb', buffering=0) as log_file:
        operations = _LoggingDisk(image_file.fileno(), log_file.fileno(), ready)
        mfusepy.FUSE(operations, os.fspath(disk), foreground=True, nothreads=True)


def entries(log: Path) -> Iterator[Entry]:
    with log.open('rb') as file:
        while header := file.read(_HEADER.size):
            offset, size = _HEADER.unpack(header)
            data = file.read(size)
            yield Entry(file.tell(), offset, data)


class _LoggingDisk:
    """The operations, with the names and arguments of mfusepy."""

    use_ns = True  # otherwise, mfusepy warns

    def __init__(self, image: int, log: int, ready: Connection) -> None:
        self._image, self._log, self._ready = image, log, ready

    def init(self, path: str) -> None:
        self._ready.send(None)

    def getattr(self, path: str, file: int | None = None) -> dict[str, int]:
        size = os.fstat(self._image).st_size
        return {'st_mode': stat.S_IFREG | 0o600, 'st_nlink': 1, 'st_size': size}

    def read(self, path: str, size: int, offset: int, file: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, file: int) -> int:
        os.write(self._log, _HEADER.pack(offset, len(data)) + data)
        return os.pwrite(self._image, data, offset)

    def fsync(self, path: str, only_data: int, file: int) -> int:
        os.write(self._log, _HEADER.pack(0, 0))
        return 0
