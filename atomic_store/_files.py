"""Find a file, and open it.

One call is not enough, for two reasons. A commit must follow symbolic links itself,
because it replaces the file that they lead to. And on some file systems, a file seems
to be missing for a moment while another program replaces it.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import IO, Any, TypeVar

from . import _windows

_T = TypeVar('_T')

# A `__del__` may use a store while the program shuts down. By then, `open` is no longer
# in the builtins.
open_file: Callable[..., IO[Any]] = io.open

# Text is UTF-8 everywhere. With newline='\n', no line ending is translated when reading
# or writing, and only '\n' ends a line (library/functions, open).
TEXT: dict[str, Any] = {'encoding': 'utf-8', 'newline': '\n'}

_MOST_LINKS = 40  # the limit of Linux (path_resolution(7))
_MOST_NAMES = 5000  # on a network, each name takes time
_MOST_LOOKS = 1000  # the limit if a test has stopped the clock
_LOOKS = 3
_SECOND = 1.0


def open_to_read(path: str, is_binary: bool) -> IO[Any] | None:
    """Open the file at `path` to load a value, or return None if there is none."""
    options: dict[str, Any] = {'mode': 'rb'} if is_binary else TEXT

    def open_when_free() -> IO[Any]:
        return _windows.wait_while_in_use(
            functools.partial(open_file, path, **options),
            lambda: 'it is a folder' if os.path.isdir(path) else None,
        )

    # The look below comes after the wait: another program may be replacing the file,
    # so that it is first in use, and then missing for a moment.
    with suppress(FileNotFoundError):
        return open_when_free()
    # Only for links: realpath() finds `missing/../file`, but the system does not.
    target = os.path.realpath(path) if os.path.islink(path) else path
    file = _look(open_when_free, target)
    if file is None:
        _windows.refuse_a_path_through_a_file(path)
    return file


class Output:
    """A file for a format to write to, whatever the format does with it."""

    def __init__(self, descriptor: int, is_binary: bool) -> None:
        options: Any = {'mode': 'wb'} if is_binary else {**TEXT, 'mode': 'w'}
        self.file = open_file(descriptor, closefd=False, **options)
        self._buffer: Any = getattr(self.file, 'buffer', self.file)
        self._raw: Any = getattr(self._buffer, 'raw', None)
        self._error = 0  # the number of the last error in writing
        # Formats close their file, or let wrappers do so. It must stay open.
        self._buffer.close = self._buffer.flush
        if self._raw is not None:
            self._raw.write = functools.partial(self._write, self._raw.write)
            self._raw.truncate = functools.partial(self._truncate, self._raw.truncate)

    def _write(self, write: Callable[[Any], int], data: Any) -> int:
        try:
            return write(data)
        except BaseException as error:
            # A wrapper that writes in `__del__` ignores the error. flush() does not.
            self._error = getattr(error, 'errno', None) or errno.EIO
            raise

    def _truncate(self, truncate: Callable[..., int], *size: int) -> int:
        self._error = 0  # the format starts again
        return truncate(*size)

    def flush(self) -> None:
        """Write what is still in memory, and raise any earlier error in writing."""
        for file in self.file, self._buffer:
            if not _is_detached(file):
                file.flush()
        if self._error:
            raise OSError(self._error, os.strerror(self._error))

    def disarm(self) -> None:
        """Stop what a format has kept of the file from writing to another one.

        The next file that is opened may get the same descriptor.
        """
        if self._raw is not None:
            self._raw.close()  # this flushes nothing, and closes no descriptor
            for name in 'write', 'truncate':  # and not the rest: it has the file's name
                vars(self._raw).pop(name, None)
        vars(self._buffer).pop('close', None)


def _is_detached(file: Any) -> bool:
    """Whether a format has detached this layer, which flushes it."""
    try:
        return file.closed is None
    except ValueError:
        return True


def find(path: str) -> tuple[str, os.stat_result | None]:
    """Follow links. Return the path of what they lead to, and its status if it exists."""
    for _ in range(_LOOKS * 10):
        target, status = _follow(path)
        # What was found must be what the kernel opens. It is not if the last link is in
        # /proc/PID/fd and means a deleted file or one of another mount namespace
        # (proc(5)), or if another program has just replaced the file. Look again.
        found = status if target is path else _status_through_links(path)
        if found is status or (found and status and os.path.samestat(found, status)):
            if status is None:
                _windows.refuse_a_path_through_a_file(target)
            return target, status
    reason = 'What the link leads to is not at this path'
    raise FileNotFoundError(errno.ENOENT, reason, target)


def _status_through_links(path: str) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.stat(path)
    return None


def _follow(path: str) -> tuple[str, os.stat_result | None]:
    target = path
    for _ in range(_MOST_LINKS + 1):
        status = find_status(target)
        if status is None or not stat.S_ISLNK(status.st_mode):
            return target, status
        folder = os.path.dirname(target)
        _refuse_a_planted_link(target, folder or os.curdir, status)
        target = os.path.join(folder, os.readlink(target))
        if os.name == 'nt':
            # An absolute link has a prefix, after which `..` would be an ordinary name.
            target = os.path.normpath(target)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _refuse_a_planted_link(link: str, folder: str, status: os.stat_result) -> None:
    """Refuse a link that the kernel refuses: see fs.protected_symlinks in proc(5).

    In a sticky folder where anyone may write, others may have made the link. The
    kernel's own check comes too late: by then, they may have replaced it.
    """
    if os.name == 'nt':
        return
    parent, owner = os.stat(folder), status.st_uid
    is_trusted = owner in (os.geteuid(), parent.st_uid) and is_known('uid', owner)
    anyone_may_write = stat.S_ISVTX | stat.S_IWOTH
    if parent.st_mode & anyone_may_write == anyone_may_write and not is_trusted:
        reason = 'Link of another user in a folder where anyone may write'
        raise PermissionError(errno.EACCES, reason, link)


def is_known(kind: str, identity: int) -> bool:
    """Whether a number of this kind ('uid' or 'gid') stands for one user or group.

    A user namespace, as in many containers, may not map all users and groups. Then one
    number stands for all the others (user_namespaces(7)).
    """
    if sys.platform != 'linux' or identity != _overflow_id(kind):
        return True
    try:
        with open_file(f'/proc/self/{kind}_map', 'rb') as file:
            return sum(int(line.split()[2]) for line in file) >= 2**32 - 1
    except (OSError, ValueError, IndexError) as error:
        # The kernel has no user namespaces, or there is no /proc, so nobody can tell.
        return isinstance(error, FileNotFoundError) and os.path.exists('/proc/self')


@functools.cache
def _overflow_id(kind: str) -> int:
    try:
        with open_file(f'/proc/sys/kernel/overflow{kind}', 'rb') as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534  # the default (user_namespaces(7))


def open_into(descriptors: list[int], path: str, flags: int, mode: int = 0) -> None:
    """Open a file and append its descriptor to the list.

    This takes a single call, so that no interrupt can come between the two.
    """
    descriptors.extend(map(os.open, [path], [flags], [mode]))


def close(descriptors: list[int], index: int = -1) -> None:
    """Take a descriptor off the list and close it, also in a single call."""
    next(map(os.close, map(descriptors.pop, [index])))


def close_all(descriptors: list[int]) -> None:
    """Close all descriptors on the list, and ignore errors."""
    while descriptors:
        with suppress(OSError):
            close(descriptors)


def find_status(path: str) -> os.stat_result | None:
    """Return the status of the file or link at `path`, or None if there is none."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        pass
    return _look(functools.partial(os.lstat, path), path)


def _look(action: Callable[[], _T], path: str) -> _T | None:
    """Retry an action that did not find the file at `path`.

    Return None if there is no such file. Raise FileNotFoundError if its folder lists it
    but it is not found: if it counted as missing, a default would replace it.

    On some FUSE file systems, a file seems to be missing for a moment while it is
    replaced: on most, only to open() (libfuse issue 637), on ntfs-3g also to stat().
    """
    folder, name = os.path.split(path)
    if name in ('', os.curdir, os.pardir):
        return action()  # these names mean folders, so it raises the error
    folder = folder or os.curdir
    is_sure = not _may_miss_files(folder)
    end = time.monotonic() + _SECOND
    for look in range(1, _MOST_LOOKS):
        with suppress(FileNotFoundError):
            return action()
        if is_sure or (look >= _LOOKS and not _is_listed(folder, name)):
            return None
        if time.monotonic() > end:
            break
        time.sleep(0.001)
    return action()


def _may_miss_files(folder: str) -> bool:
    """Whether a folder is on FUSE, or may be.

    FUSE leaves `f_fsid` zero (convert_fuse_statfs() in the kernel's fs/fuse/inode.c).
    """
    try:
        return os.statvfs(folder).f_fsid == 0
    except (AttributeError, FileNotFoundError):  # Windows has no statvfs()
        return False
    except OSError:
        return True


def is_on_exfat(path: str, descriptors: list[int]) -> bool:
    """Whether a file is on exFAT, as Linux mounts it (proc(5), mountinfo)."""
    mounts, device = b'', 0
    with suppress(Exception):
        device = os.lstat(path).st_dev
        open_into(descriptors, '/proc/thread-self/mountinfo', os.O_RDONLY)
        mounts = b''.join(iter(lambda: os.read(descriptors[-1], 1 << 16), b''))
    close_all(descriptors)
    number = f' {os.major(device)}:{os.minor(device)} '.encode()
    return any(number in line and b' - exfat ' in line for line in mounts.splitlines())


def _is_listed(folder: str, name: str) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        return any(entry.name == name for entry in islice(entries, _MOST_NAMES))
    return False
