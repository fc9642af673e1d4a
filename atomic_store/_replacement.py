"""Replace a file: the steps of a commit.

`replace` lists the steps, and `_Replacement` has a method for each. Two things go
beyond a plain replacement: the file has no name while the format writes, so a kill
leaves nothing, and it gets the old file's metadata. Neither may cost a value or commit:

- The file is synced after it is named. An earlier sync may be worth nothing: a power
  cut then costs both values on ext2, udf, minix and ext4 without a journal, empties the
  file on btrfs up to Linux 6.12, and breaks an ext4 with `fast_commit`.
- It is renamed after it is closed. On SMB mounts since Linux 7.1, renaming an open file
  that had no name at first removes the old file.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any

from atomicwrites import AtomicWriter

from . import _files, _metadata, _notes, _windows

# None if files need names. Android's Python cannot link, or only by names.
_CAN_LINK = getattr(os, 'link', None) in os.supports_dir_fd
_O_TMPFILE: int | None = getattr(os, 'O_TMPFILE', None) if _CAN_LINK else None

# Not /proc/self: a thread may have descriptors of its own (unshare(2), CLONE_FILES).
_DESCRIPTORS = '/proc/thread-self/fd'

# This can be opened anywhere, even in a chroot without /dev/null, but not written to.
_PLACEHOLDER = ('/', os.O_PATH) if hasattr(os, 'O_PATH') else (os.devnull, os.O_RDONLY)

# The second one is for where a leading dot is refused, as by Samba's `veto files`. The
# third is for where names must be short, as on minix, or paths, as on Windows.
_TEMPORARY_NAMES = ('.atomic_store-{}.tmp', '{}-atomic_store.tmp', '{:.8}')

# What fsync(2) says if the file system cannot sync a folder.
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}

# A later commit may find what this one lacks.
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}


def replace(path: str, is_binary: bool, dump: Callable[[IO[Any]], object]) -> None:
    """Replace the file at `path` with what `dump` writes."""
    replacement = _Replacement(path)
    try:
        try:
            output = replacement.create(is_binary)
            dump(output.file)
            output.flush()
            output.disarm()
            replacement.keep_metadata()
            replacement.give_name()
            replacement.sync(output.file)
            replacement.commit(output.file)
            replacement.sync_folder()
        finally:
            replacement.rollback()
    except BaseException as error:
        replacement.rollback()  # an interrupt may have cut the first one short
        if replacement.temporary is not None:
            note = 'the temporary file stays:'
            if replacement.is_last_copy():
                note = 'the old file is gone, the new value is in'
            _notes.add(error, f'{note} {os.path.abspath(replacement.temporary)!r}')
        raise


class _Replacement(AtomicWriter):
    """A new file, and the steps by which it replaces the old one."""

    _path: str  # AtomicWriter's
    _output: _files.Output | None = None
    _links = 0  # of the old file
    _is_renaming = _is_over = False
    temporary: str | None = None  # its name, if it has one and is ours to remove

    def __init__(self, path: str) -> None:
        target, status = _files.find(path)
        super().__init__(target, 'wb')
        self._folder = os.path.dirname(target) or os.curdir
        self._old: _metadata.Metadata | None = None
        if status is not None:
            self._old = _metadata.of_status(target, status)
            self._links = status.st_nlink
        self._process = os.getpid()
        # No file object owns these: an interrupt could come before it does.
        self._descriptors: list[int] = []

    def create(self, is_binary: bool) -> _files.Output:
        """Create the temporary file, without a name if possible."""
        if not self._create_unnamed():
            self._create_named()
        self._was_named = self.temporary is not None
        self._output = _files.Output(self._descriptors[-1], is_binary)
        return self._output

    def _create_unnamed(self) -> bool:
        # Without /proc, the file could not get a name later.
        if _O_TMPFILE is None or not os.path.exists(_DESCRIPTORS):
            return False
        with suppress(Exception):
            self._create(self._folder, _O_TMPFILE)
            # ZFS ignores the umask, and so does Linux before 5.19 if there are no ACLs.
            if self._old or os.fstat(self._descriptors[-1]).st_mode & 0o666 != 0o666:
                return True
        _files.close_all(self._descriptors)
        return False

    def _create_named(self) -> None:
        tries = 0
        while True:
            tries += 1
            name = _TEMPORARY_NAMES[(tries - 1) % len(_TEMPORARY_NAMES)]
            self.temporary = self._new_path(name)
            try:
                self._create(self.temporary, os.O_CREAT | os.O_EXCL)
                return
            except OSError as error:
                if not isinstance(error, FileExistsError):  # which is not ours
                    with suppress(OSError):
                        os.unlink(self.temporary)
                self.temporary = None
                if tries == 2 * len(_TEMPORARY_NAMES):
                    error.filename = self._folder
                    raise

    def _new_path(self, name: str) -> str:
        return os.path.join(self._folder, name.format(os.urandom(6).hex()))

    def _create(self, path: str, flags: int) -> None:
        # A new file is created as by open(). Otherwise, nobody else may open it yet.
        mode = 0o666 if self._old is None else 0o600
        held: list[int] = []
        try:
            # Take no number of a standard stream that is closed: the program may print.
            with suppress(Exception):
                while not held or held[-1] < 3:
                    _files.open_into(held, *_PLACEHOLDER)
                _files.close(held)
            _files.open_into(self._descriptors, path, flags | os.O_RDWR, mode)
        finally:
            _files.close_all(held)

    def keep_metadata(self) -> None:
        # Look again: the old file may have changed during a long write.
        self._old = _metadata.of_file(self._path) or self._old
        if self._old is not None:
            # Now, because a write clears set-user-ID (chmod(2)) and capabilities(7).
            _metadata.restore(self._descriptors[-1], self._old)

    def give_name(self) -> None:
        """Give a name to a file without one, or copy it to a file with one."""
        if self.temporary is None and not self._link():
            self._copy()

    def _link(self) -> bool:
        file = self._descriptors[-1]
        self.temporary = self._new_path(_TEMPORARY_NAMES[0])
        linked: list[None] = []
        with suppress(Exception):  # whatever the error is: the file can be copied
            # With any src_dir_fd, os.link() calls linkat(2), and so follows the link.
            link = partial(os.link, src_dir_fd=file, follow_symlinks=True)
            # A single call, so that a link is never made without being recorded.
            linked.extend(map(link, [f'{_DESCRIPTORS}/{file}'], [self.temporary]))
            # Is it this file, and whole? (On SMB, its link count is two by now.)
            named, unnamed = (
                (status.st_dev, status.st_ino, status.st_size, status.st_nlink)
                for status in (os.stat(self.temporary), os.fstat(file))
            )
            if named == unnamed and named[-1]:
                return True
        if linked:
            self._unlink()
        self.temporary = None  # a file of that name is not ours
        return False

    def _copy(self) -> None:
        source = self._descriptors[-1]
        self._create_named()
        os.lseek(source, 0, os.SEEK_SET)
        while part := os.read(source, 1 << 20):
            while part:
                part = part[os.write(self._descriptors[-1], part) :]
        self.keep_metadata()
        with suppress(OSError):
            _files.close(self._descriptors, 0)

    def sync(self, f: IO[Any]) -> None:
        """Sync the file, and close it."""
        _fsync(self._descriptors[-1])
        # Errors count: some network file systems store the file only now.
        _files.close(self._descriptors)

    def commit(self, f: IO[Any]) -> None:
        """Rename the file over the old one."""
        assert self.temporary is not None
        self._is_renaming = True
        if hasattr(os, 'O_DIRECTORY'):
            os.replace(self.temporary, self._path)
        else:
            _windows.replace(self.temporary, self._path)
        self.temporary = None

    def is_last_copy(self) -> bool:
        """Whether a failed rename has removed the old file.

        On SMB before Linux 6.17, it does so while another program has the file open.
        """
        with suppress(OSError):
            was_there = self._is_renaming and self._links
            if was_there and os.path.exists(self.temporary or ''):
                status = _files.find_status(self._path)
                return status is None or status.st_nlink == 0
        return False

    def sync_folder(self) -> None:
        """Sync the folder and, on file systems like FAT, once more the file."""
        if not hasattr(os, 'O_DIRECTORY'):
            return  # on Windows, the rename is written through
        # For FAT, which has no unnamed files: until a second sync, the name leads to
        # the old file's blocks, which are free now. exFAT needs none. It would rewrite
        # the name's entry. If that spans two sectors, a power cut may lose the file.
        is_like_fat = self._was_named and sys.platform == 'linux'
        if is_like_fat and not _files.is_on_exfat(self._path, self._descriptors):
            self._sync_again(self._path, os.O_NOFOLLOW | os.O_NONBLOCK)
        self._sync_again(self._folder, os.O_DIRECTORY)

    def _sync_again(self, path: str, flags: int) -> None:
        # If this is refused, nothing is lost: some folders cannot be read or synced.
        try:
            # If the file exists, the system ignores the mode, but pyfakefs sets it.
            mode = 0o666 if self._old is None else self._old.mode
            _files.open_into(self._descriptors, path, os.O_RDONLY | flags, mode)
            _fsync(self._descriptors[-1])
        except Exception as error:
            number = getattr(error, 'errno', None)
            is_open = bool(self._descriptors)
            if number and (number not in _NO_SYNC if is_open else number in _SCARCE):
                note = 'the file already holds the new value, but a power cut may undo that'
                _notes.add(error, note)
                raise
        _files.close_all(self._descriptors)

    def rollback(self, f: IO[Any] | None = None) -> None:
        """Close the file, and remove it, unless it has been renamed."""
        if self._is_over:
            return
        if self._output is not None:
            self._output.disarm()
        _files.close_all(self._descriptors)
        if os.getpid() != self._process:
            self.temporary = None  # it belongs to the process that forked this one
        self._unlink()
        self._is_over = True

    def _unlink(self) -> None:
        if self.temporary is not None and not self.is_last_copy():
            unlink = partial(os.unlink, self.temporary)
            with suppress(OSError):
                with suppress(FileNotFoundError):
                    _windows.wait_while_in_use(unlink)
                self.temporary = None


def _fsync(descriptor: int) -> None:
    if sys.platform == 'darwin':
        with suppress(Exception):
            # There, fsync() leaves the content in the disk's cache (fsync(2)).
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)
