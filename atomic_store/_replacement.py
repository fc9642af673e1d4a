"""Replace a file: the steps of a commit.

`replace` lists the steps, and `_Replacement` has a method for each. Plain atomicwrites
writes a temporary file, syncs it, renames it over the old file and syncs the folder. Two
things go beyond that: while the format writes, the file has no name, so that a kill leaves
nothing behind; and it gets the metadata of the old file. Neither may cost a value, or a
commit that would succeed without it. Therefore:

- The file is synced once it has its name. If it is synced before, a power cut may cost
  both values on ext2, udf, minix and on ext4 without a journal. On btrfs up to Linux
  6.12, it may leave an empty file, and ext4 with `fast_commit` cannot be mounted again.
- The file is closed before the rename. On SMB mounts since Linux 7.1, renaming an open
  file that had no name at first removes the old file.

Between naming and renaming, this is a plain replacement, and a kill leaves the file.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any

from atomicwrites import AtomicWriter

from . import _files, _metadata, _notes, _windows

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# None where every file has a name.
_O_TMPFILE: int | None = getattr(os, 'O_TMPFILE', None)

# Not /proc/self/fd: that is the table of the main thread, and a thread may have its own
# (unshare(2), CLONE_FILES).
_DESCRIPTORS = '/proc/thread-self/fd'

# If a leading dot is refused, as by Samba's `veto files`, the second name is used. If
# only short names fit, as on minix or in a folder whose own path is nearly as long as
# Windows allows, the last one is used.
_TEMPORARY_NAMES = ('.atomic_store-{}.tmp', '{}-atomic_store.tmp', '{:.8}')

# The errors of fsync(2) if a file system cannot sync a folder.
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}

# A later commit may find what this one lacks.
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}
_NOT_SYNCED = 'the file already holds the new value, but a power cut may undo that'


def replace(path: str, is_binary: bool, dump: Callable[[IO[Any]], object]) -> None:
    """Replace the file at `path` with what `dump` writes."""
    replacement = _Replacement(path)
    try:
        try:
            file = replacement.get_fileobject(is_binary)
            dump(file)
            replacement.flush(file)
            replacement.keep_metadata()
            replacement.give_name()
            replacement.sync(file)
            replacement.commit(file)
            replacement.sync_folder()
        finally:
            replacement.rollback()
    except BaseException as error:
        replacement.rollback()  # an interrupt may have cut the first one short
        if replacement.temporary is not None:
            stays = os.path.abspath(replacement.temporary)
            _notes.add(error, f'the temporary file stays: {stays!r}')
        raise


class _Replacement(AtomicWriter):
    """A new file, and the steps by which it replaces the old one."""

    _path: str  # AtomicWriter's
    _buffer: Any = None
    _raw: Any = None
    temporary: str | None = (
        None  # None if there is no name, or it is not ours to remove
    )

    def __init__(self, path: str) -> None:
        target, status = _files.find(path)
        super().__init__(target, 'wb')
        self._folder = os.path.dirname(target) or os.curdir
        self._old: _metadata.Metadata | None = None
        if status is not None:
            _files.refuse_unless_regular(target, status)
            self._old = _metadata.of_status(status)
        self._process = os.getpid()
        # File objects do not close these: an interrupt could come between opening a
        # descriptor and handing it over.
        self._descriptors: list[int] = []
        self._placeholders: list[int] = []

    def get_fileobject(self, is_binary: bool) -> IO[Any]:  # type: ignore[override]
        """Create the temporary file, without a name if possible."""
        if not self._create_unnamed():
            self._create_named()
        self._was_named = self.temporary is not None
        options: dict[str, Any] = (
            {'mode': 'wb'} if is_binary else {'mode': 'w', **_files.TEXT}
        )
        file: IO[Any] = _files.open_file(
            self._descriptors[-1], closefd=False, **options
        )
        self._buffer = getattr(file, 'buffer', file)
        self._raw = getattr(self._buffer, 'raw', None)
        # Formats close files, or let wrappers do so. The file stays open, so that an
        # error in flushing it, which a wrapper's `__del__` ignores, comes up again.
        self._buffer.close = self._buffer.flush
        return file

    def _create_unnamed(self) -> bool:
        # Without /proc, it could not be given a name later.
        if _O_TMPFILE is None or not os.path.exists(_DESCRIPTORS):
            return False
        with suppress(Exception):
            self._open_descriptor(
                self._folder, _O_TMPFILE | os.O_RDWR, self._first_mode()
            )
            # Here, the umask is ignored by ZFS, and by Linux before 5.19 if the file
            # system has no ACLs.
            if self._old or os.fstat(self._descriptors[-1]).st_mode & 0o666 != 0o666:
                return True
        with suppress(OSError):
            _close_all(self._descriptors)
        return False

    def _create_named(self) -> None:
        names = _TEMPORARY_NAMES * 2
        for tries, name in enumerate(names, 1):
            self.temporary = self._new_path(name)
            try:
                self._open_descriptor(
                    self.temporary,
                    os.O_CREAT | os.O_EXCL | os.O_RDWR,
                    self._first_mode(),
                )
                return
            except OSError as error:
                if not isinstance(error, FileExistsError):  # which is not ours
                    with suppress(OSError):
                        os.unlink(self.temporary)
                self.temporary = None
                if tries == len(names):
                    error.filename = self._folder
                    raise

    def _new_path(self, name: str) -> str:
        return os.path.join(self._folder, name.format(os.urandom(6).hex()))

    def _first_mode(self) -> int:
        # If there is no old file, do as open() does: the kernel applies the umask or
        # the folder's default ACL. If there is one, nobody else may open the new file
        # until it has the permissions of the old one.
        return 0o666 if self._old is None else 0o600

    def _open_descriptor(self, path: str, flags: int, mode: int = 0) -> None:
        # Not as descriptor 0, 1 or 2, if the program has closed one of them: what it
        # prints would get into the file.
        for standard in range(3):
            if _is_closed(standard):
                with suppress(OSError):
                    _open_into(self._placeholders, os.devnull, os.O_RDWR)
        try:
            _open_into(self._descriptors, path, flags, mode)
        finally:
            _close_all(self._placeholders)

    def flush(self, f: IO[Any]) -> None:
        """Write what is still in memory."""
        # A format may have detached a layer, which flushes it.
        if getattr(f, 'buffer', f) is not None:
            f.flush()
        if getattr(self._buffer, 'raw', self._buffer) is not None:
            self._buffer.flush()

    def keep_metadata(self) -> None:
        """Give the file the metadata of the old one."""
        # Look again: the old file may have changed during a long write.
        self._old = _metadata.of_file(self._path) or self._old
        if self._old is not None:
            # After the last write, because a write removes the set-user-ID bit and file
            # capabilities (chmod(2), capabilities(7)).
            _metadata.restore(self._descriptors[-1], self._old)

    def give_name(self) -> None:
        """Give a name to a file without one, or copy it to a file with one."""
        if self.temporary is None and not self._link():
            self._copy()

    def _link(self) -> bool:
        descriptor = self._descriptors[-1]
        self.temporary = self._new_path(_TEMPORARY_NAMES[0])
        is_linked = False
        with suppress(Exception):  # of any type: Android has no os.link()
            # os.link() follows the link in /proc only if it calls linkat(2). It does so if
            # it gets src_dir_fd. Any descriptor will do, because the path is absolute.
            os.link(
                f'{_DESCRIPTORS}/{descriptor}',
                self.temporary,
                src_dir_fd=descriptor,
                follow_symlinks=True,
            )
            is_linked = True
            if _is_sound(os.stat(self.temporary), os.fstat(descriptor)):
                return True
        if is_linked:
            self._unlink()
        self.temporary = None  # a file of that name is not ours
        return False

    def _copy(self) -> None:
        source = self._descriptors[-1]
        self._create_named()
        os.lseek(source, 0, os.SEEK_SET)
        copy = self._descriptors[-1]
        with (
            _files.open_file(source, 'rb', closefd=False) as original,
            _files.open_file(copy, 'wb', closefd=False) as file,
        ):
            shutil.copyfileobj(original, file)
        self.keep_metadata()
        with suppress(OSError):
            _close(self._descriptors, 0)

    def sync(self, f: IO[Any]) -> None:
        """Sync the file, and close it."""
        _fsync(self._descriptors[-1])
        self._disarm()
        # An error counts: some network file systems store the file only now.
        _close_all(self._descriptors)

    def commit(self, f: IO[Any]) -> None:
        """Rename the file over the old one."""
        assert self.temporary is not None
        try:
            if hasattr(os, 'O_DIRECTORY'):
                os.replace(self.temporary, self._path)
            else:
                _windows.replace(self.temporary, self._path)
        except OSError as error:
            if self._old is not None and self._is_last_copy():
                stays = os.path.abspath(self.temporary)
                _notes.add(
                    error, f'the old file is gone, the new value is in {stays!r}'
                )
                self.temporary = None
            raise
        self.temporary = None

    def _is_last_copy(self) -> bool:
        """Whether a failed rename has removed the old file.

        It does so on SMB mounts before Linux 6.17, if another program has it open.
        """
        try:
            old = _files.find_status(self._path)
            return (old is None or old.st_nlink == 0) and os.path.exists(
                str(self.temporary)
            )
        except OSError:
            return False

    def sync_folder(self) -> None:
        """Sync the folder, in which the file has its new name."""
        if not hasattr(os, 'O_DIRECTORY'):
            return  # on Windows, the rename is written through
        if self._was_named and sys.platform == 'linux':
            # On FAT, which has no files without a name: until the file is synced again,
            # its name leads to what the old file held, which is free by now.
            self._sync_again(self._path, os.O_NOFOLLOW | os.O_NONBLOCK)
        self._sync_again(self._folder, os.O_DIRECTORY)

    def _sync_again(self, path: str, flags: int) -> None:
        # Nothing is lost without this sync. A folder may be writable but not readable, for
        # example, or be of a kind that cannot be synced.
        try:
            self._open_descriptor(path, os.O_RDONLY | flags)
        except Exception as error:
            if getattr(error, 'errno', None) in _SCARCE:
                _notes.add(error, _NOT_SYNCED)
                raise
            return
        try:
            _fsync(self._descriptors[-1])
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in _NO_SYNC:
                _notes.add(error, _NOT_SYNCED)
                raise
        with suppress(OSError):
            _close_all(self._descriptors)

    def rollback(self, f: IO[Any] | None = None) -> None:
        """Close the file, and remove it. Once it is renamed, there is nothing to do."""
        self._disarm()
        for descriptors in self._placeholders, self._descriptors:
            while descriptors:
                with suppress(OSError):
                    _close(descriptors)
        if os.getpid() != self._process:
            self.temporary = None  # it belongs to the process that forked this one
        self._unlink()

    def _unlink(self) -> None:
        if self.temporary is not None:
            unlink = partial(os.unlink, self.temporary)
            with suppress(OSError):
                with suppress(FileNotFoundError):
                    _windows.wait_while_in_use(unlink)
                self.temporary = None

    def _disarm(self) -> None:
        """Keep what a format has kept of the file from writing to another one.

        The next file that is opened may get the same descriptor.
        """
        if self._raw is not None:
            self._raw.close()  # not the descriptor, and nothing is flushed
        if self._buffer is not None:
            vars(self._buffer).pop('close', None)


def _open_into(descriptors: list[int], path: str, flags: int, mode: int = 0) -> None:
    # In one call: no interrupt can come between opening the descriptor and storing it.
    descriptors.extend(map(os.open, [path], [flags], [mode]))


def _close(descriptors: list[int], index: int = -1) -> None:
    # In one call, too: take the descriptor off the list and close it.
    next(map(os.close, map(descriptors.pop, [index])))


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        _close(descriptors)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except Exception:  # noqa: BLE001
        return True
    return False


def _is_sound(named: os.stat_result, unnamed: os.stat_result) -> bool:
    """Whether a name leads to the file that was to get it, and to all of it."""
    return (
        os.path.samestat(named, unnamed)
        and named.st_size == unnamed.st_size
        and named.st_nlink == 1
    )


def _fsync(descriptor: int) -> None:
    """Sync a file or folder, and on macOS the disk's cache, which fsync() does not."""
    if hasattr(fcntl, 'F_FULLFSYNC'):
        with suppress(Exception):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)
