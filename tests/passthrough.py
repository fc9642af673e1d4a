"""A file system for tests: it shows a folder elsewhere, and refuses some operations.

It runs in its own process, in user space (FUSE, through mfusepy). The tests prepare and
inspect the folder itself, and commit where it is shown.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from typing import Any

import pytest

# Debian has both. Which one is found first depends on what else is installed.
os.environ.setdefault('FUSE_LIBRARY_NAME', 'fuse3')
try:
    mfusepy = pytest.importorskip('mfusepy')
except OSError:
    pytest.skip('needs libfuse3', allow_module_level=True)

fork = multiprocessing.get_context('fork')

# An access control list like those of NFS and ZFS. The kernel knows nothing of it: what
# it says is up to the file system. It is kept where the real file system can.
LIST, LIST_KEPT_AS = 'system.nfs4_acl', 'user.list'

STATUS = ('st_mode', 'st_nlink', 'st_uid', 'st_gid', 'st_size', 'st_ino', 'st_blocks')


def operation(method: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse the operation if asked to, else call the method with the real path."""

    @functools.wraps(method)
    def refusable(self: Passthrough, path: str, *details: Any) -> Any:
        asked = ' '.join(map(str, (method.__name__, path, *details)))
        if self.is_logging.value:
            with open(self.log, 'a') as log:
                log.write(f'{asked}\n')
        if self.left.value and re.match(self.pattern.value.decode(), asked):
            self.left.value -= 1
            self.refused.value += 1
            raise OSError(self.error.value, 'refused')
        return method(self, self.source + path, *details)

    return refusable


class Passthrough:
    """The operations, with the names and arguments of mfusepy."""

    use_ns = True

    def __init__(self, source: Path) -> None:
        self.source = os.fspath(source)
        self.log = f'{source}.log'
        # In memory shared with the tests.
        self.pattern, self.error = RawArray('c', 100), RawValue('i')
        self.left, self.refused = RawValue('i'), RawValue('i')
        self.is_logging = RawValue('i')

    @contextmanager
    def refusing(self, pattern: str, error: int, times: int = 10**6) -> Iterator[None]:
        """Answer the next operations that match the pattern with this error."""
        self.pattern.value, self.error.value = pattern.encode(), error
        self.left.value, self.refused.value = times, 0
        yield
        self.left.value = 0

    @operation
    def getattr(self, path: str, file: int | None) -> dict[str, int]:
        status = os.lstat(path) if file is None else os.fstat(file)
        times = {f'st_{t}time': getattr(status, f'st_{t}time_ns') for t in 'amc'}
        return times | {name: getattr(status, name) for name in STATUS}

    @operation
    def opendir(self, path: str) -> int:
        return os.open(path, os.O_RDONLY)

    @operation
    def readdir(self, path: str, _: int) -> list[str]:
        return ['.', '..', *os.listdir(path)]

    @operation
    def fsyncdir(self, path: str, is_data: int, file: int) -> None:
        pass  # no test of this kind looks at the disk

    @operation
    def releasedir(self, path: str, file: int) -> None:
        os.close(file)

    @operation
    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    @operation
    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags)

    @operation
    def read(self, path: str, size: int, offset: int, file: int) -> bytes:
        return os.pread(file, size, offset)

    @operation
    def write(self, path: str, data: bytes, offset: int, file: int) -> int:
        return os.pwrite(file, data, offset)

    @operation
    def flush(self, path: str, file: int) -> None:
        pass

    @operation
    def fsync(self, path: str, is_data: int, file: int) -> None:
        pass

    @operation
    def release(self, path: str, file: int) -> None:
        os.close(file)

    @operation
    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode & 0o7777)

    @operation
    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(path, uid, gid)

    @operation
    def listxattr(self, path: str) -> list[str]:
        return [name.replace(LIST_KEPT_AS, LIST) for name in os.listxattr(path)]

    @operation
    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(path, name.replace(LIST, LIST_KEPT_AS))

    @operation
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(path, name.replace(LIST, LIST_KEPT_AS), value, flags)

    @operation
    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(path, name.replace(LIST, LIST_KEPT_AS))

    @operation
    def rename(self, path: str, new: str) -> None:
        os.rename(path, self.source + new)

    @operation
    def unlink(self, path: str) -> None:
        os.unlink(path)


@contextmanager
def shown(operations: Passthrough, place: Path) -> Iterator[None]:
    """Show the folder in this place."""
    ours, theirs = fork.Pipe()
    server = fork.Process(target=serve, args=(operations, place, theirs), daemon=True)
    server.start()
    theirs.close()
    try:
        ours.recv()  # EOFError if it has ended
        yield
    finally:
        subprocess.run(['umount', '--lazy', place], check=True)
        server.join()
        ours.close()


def serve(operations: Any, place: Path, pipe: Connection) -> None:
    os.umask(0)  # the kernel applies the umask of the process that creates a file
    operations.init = lambda _: pipe.send('ready')
    # Without caches, so that the kernel asks for each operation.
    options = {'attr_timeout': 0, 'entry_timeout': 0, 'hard_remove': True}
    mfusepy.FUSE(
        operations,
        os.fspath(place),
        foreground=True,
        nothreads=True,
        allow_other=True,
        default_permissions=True,
        **options,
    )
