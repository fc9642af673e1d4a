"""Read a file, and replace one.

`replace` lists the steps of a commit, and `_Replacement` has a method for each. Their
order keeps the value safe in a crash: the content is synced before the new file
replaces the old one, and the folder is synced after that. A commit needs only a plain
temporary file and a rename. The rest (a file without a name, `_metadata`, the sync of
the folder) must never make a commit fail that would succeed without it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import IO, Any, TypeVar

from atomicwrites import AtomicWriter, replace_atomic

from . import _metadata

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_T = TypeVar('_T')

# While a program shuts down, a `__del__` may still commit. By then, `open` is no longer
# in the builtins.
_open = io.open

# Text is UTF-8 everywhere. With newline='\n', no line ending is translated when reading
# or writing, and only '\n' ends a line (library/functions, open).
_TEXT: dict[str, Any] = {'encoding': 'utf-8', 'newline': '\n'}

_TEXT_TO_WRITE = {'mode': 'w', **_TEXT}

# None where a temporary file always has a name.
_O_TMPFILE: int | None = getattr(os, 'O_TMPFILE', None)

# If a leading dot is refused, as by Samba's `veto files`, the second name is used. If
# only short names fit, as on minix or in a folder whose own path is nearly as long as
# Windows allows, the last one is used.
_TEMPORARY_NAMES = ('.atomic_store-{}.tmp', '{}-atomic_store.tmp', '{:.8}')

# The errors of fsync(2) if a file system cannot sync a folder, and of fcntl(2) if it
# has no F_FULLFSYNC.
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}

_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}
_NOT_SYNCED = 'the file already holds the new value, but a power cut may undo that'

# How long to retry on Windows, in seconds.
_PATIENCE = 5.0
_IN_USE = {5, 32, 33}  # access denied, sharing violation, lock violation


def open_to_read(path: str, is_binary: bool) -> IO[Any] | None:
    """Open the file at `path` to load a value, or return None if there is none."""
    options: dict[str, Any] = {'mode': 'rb'} if is_binary else _TEXT
    open_file: Callable[[], IO[Any]] = partial(_open, path, **options)

    def why_in_vain() -> str | None:
        return 'it is a folder' if os.path.isdir(path) else None

    absent = 0
    for _ in range(1000):
        try:
            return _patiently(open_file, why_in_vain)
        except FileNotFoundError as error:
            missing = error
        if os.path.basename(path) in ('', os.curdir, os.pardir):
            break  # that is the name of a folder
        # On some FUSE file systems, a file seems to be missing at the moment when it is
        # replaced: on most, to open() alone (libfuse issue 637), on ntfs-3g also to
        # stat(). If the default were loaded then, a commit would destroy the value.
        absent += not os.path.exists(path)
        if absent > 2 and not _is_listed(path):
            _refuse_a_path_through_a_file(path)
            return None
        time.sleep(0.001)
    raise missing


def _is_listed(path: str) -> bool:
    """Whether a file is listed in its folder. Links are followed."""
    # For links only: realpath() finds `missing/../file`, which the system does not.
    target = os.path.realpath(path) if os.path.islink(path) else path
    folder, name = os.path.split(target)
    try:
        return name in os.listdir(folder)
    except OSError:
        return False


def replace(path: str, is_binary: bool, dump: Callable[[IO[Any]], object]) -> None:
    """Replace the file at `path` with what `dump` writes."""
    replacement = _Replacement(path, is_binary)
    try:
        file = replacement.get_fileobject()
        dump(file)
        replacement.sync(file)
        replacement.commit(file)
    except BaseException as error:
        replacement.rollback()
        temporary = replacement.temporary
        if replacement.is_last_copy:
            add_note(error, f'the old file is gone, the new value is in {temporary!r}')
        elif temporary is not None:
            add_note(error, f'the temporary file stays: {temporary!r}')
        raise


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error if it accepts one. A frozen dataclass does not."""
    with contextlib.suppress(Exception):
        BaseException.add_note(error, note)


class _Replacement(AtomicWriter):
    """A new file, and the steps by which it replaces the old one."""

    _path: str  # AtomicWriter's
    _file: Any = None
    temporary: str | None = None
    is_last_copy = False

    def __init__(self, path: str, is_binary: bool) -> None:
        target, self._old = _follow_links(path)
        super().__init__(target, 'wb')
        self._folder = os.path.dirname(target)
        self._options: dict[str, Any] = {'mode': 'wb'} if is_binary else _TEXT_TO_WRITE
        # File objects do not close these descriptors: an interrupt could come between
        # opening one and handing it over. Close the file object first: it could write
        # to another file that gets the same descriptor.
        self._descriptors: list[int] = []

    def get_fileobject(self) -> IO[Any]:  # type: ignore[override]
        """Create the temporary file, without a name if possible."""
        # Without /proc, it could not be given a name later.
        if _O_TMPFILE is not None and os.path.exists('/proc/self/fd'):
            try:
                return self._create(self._folder, _O_TMPFILE, self._options)
            except OSError as error:
                _metadata.raise_if_full(error)
        return self._create_named(self._options)

    def _create_named(self, options: dict[str, Any]) -> IO[Any]:
        refusal = OSError()
        for name in _TEMPORARY_NAMES * 2:
            self.temporary = self._new_path(name)
            try:
                return self._create(self.temporary, os.O_CREAT | os.O_EXCL, options)
            except FileExistsError as error:
                refusal = error
            except OSError as error:
                refusal = error
                with contextlib.suppress(OSError):
                    os.unlink(self.temporary)
            self.temporary = None  # a file of that name is not ours
        refusal.filename = self._folder
        raise refusal

    def _new_path(self, name: str) -> str:
        return os.path.join(self._folder, name.format(os.urandom(6).hex()))

    def _create(self, path: str, flags: int, options: dict[str, Any]) -> IO[Any]:
        # If there is no old file, do as open() does: the kernel applies the umask or
        # the folder's default ACL. If there is one, nobody else may open the new file
        # until it has the permissions of the old one.
        mode = 0o666 if self._old is None else 0o600
        others = len(self._descriptors)
        self._open_descriptor(path, flags | os.O_RDWR, mode)
        try:
            file: IO[Any] = _open(self._descriptors[-1], closefd=False, **options)
        except OSError:
            with contextlib.suppress(OSError):
                self._close(others)
            raise
        # Not the text file: a format might detach it from its buffer.
        self._file = getattr(file, 'buffer', file)
        self._file.raw.name = ''  # formats see this name; the file may have none
        return file

    def _open_descriptor(self, path: str, flags: int, mode: int = 0) -> None:
        # The interpreter opens and stores it in one call. So no interrupt can come in
        # between and leak it.
        self._descriptors.extend(map(os.open, [path], [flags], [mode]))

    def _close(self, others: int = 0) -> None:
        while len(self._descriptors) > others:
            # One call again: take the descriptor off the list and close it.
            next(map(os.close, map(list.pop, [self._descriptors])))

    def sync(self, f: IO[Any]) -> None:
        """Flush the file, give it the metadata of the old one, and sync it."""
        f.flush()
        # Look again: the old file may have changed during a long write.
        self._old = _metadata.of_file(self._path) or self._old
        if self._old is not None:
            # After the last write, because a write removes the set-user-ID bit and file
            # capabilities (chmod(2), capabilities(7)).
            _metadata.restore(f.fileno(), self._old)
        _fsync(f.fileno())

    def commit(self, f: IO[Any]) -> None:
        """Replace the old file with the new one, and sync the folder."""
        if self.temporary is None:
            self._name(f)
        else:
            # Windows cannot rename an open file. Some network file systems store the
            # file only now, and this may fail.
            f.close()
            self._close()
        self._rename()
        f.close()
        with contextlib.suppress(OSError):
            self._close()  # to free its descriptor for the folder
        if hasattr(os, 'O_DIRECTORY'):  # on Windows, the rename is written through
            self._sync_folder()

    def _name(self, f: IO[Any]) -> None:
        """Give a name to a file without one, or copy it to a file with one."""
        syncs_again = _may_be_btrfs(self._folder)
        self.temporary = self._new_path(_TEMPORARY_NAMES[0])
        try:
            # os.link() follows /proc/self/fd/N only if it calls linkat(2). It does so
            # if it gets src_dir_fd. Any descriptor will do, because both paths are
            # absolute.
            os.link(
                f'/proc/self/fd/{f.fileno()}',
                self.temporary,
                src_dir_fd=f.fileno(),
                follow_symlinks=True,
            )
        except OSError as error:
            self.temporary = None
            _metadata.raise_if_full(error)
            self._copy(f)
        else:
            if syncs_again:
                _fsync(f.fileno())

    def _copy(self, f: IO[Any]) -> None:
        with f, _open(f.fileno(), 'rb', closefd=False) as source:
            copy = self._create_named({'mode': 'wb'})
            source.seek(0)
            shutil.copyfileobj(source, copy)
        self.sync(copy)
        copy.close()
        self._close()

    def _rename(self) -> None:
        assert self.temporary is not None
        try:
            if hasattr(os, 'O_DIRECTORY'):
                os.replace(self.temporary, self._path)
            else:
                move = partial(replace_atomic, self.temporary, self._path)
                _patiently(move, self._why_in_vain)
        except OSError as error:
            if error.errno == errno.EBUSY:
                note = 'the file is a mount point, as in containers: mount its folder'
                add_note(error, note)
            # On an SMB mount, a rename that fails may remove the target (Linux before
            # 6.17, while another program has the file open).
            self.is_last_copy = self._old is not None and _is_gone(self._path)
            raise
        self.temporary = None

    def _why_in_vain(self) -> str | None:
        with contextlib.suppress(OSError):
            if not os.stat(self._path).st_mode & stat.S_IWRITE:
                return 'the file is read-only'
        return None

    def _sync_folder(self) -> None:
        try:
            self._open_descriptor(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            # A folder may be writable but not readable: its sync is skipped. But if
            # descriptors or memory are scarce, a later commit may succeed.
            if error.errno in _SCARCE:
                add_note(error, _NOT_SYNCED)
                raise
            return
        try:
            _fsync(self._descriptors[-1])
        except OSError as error:
            if error.errno not in _NO_SYNC:
                add_note(error, _NOT_SYNCED)
                raise
        with contextlib.suppress(OSError):
            self._close()

    def rollback(self, f: IO[Any] | None = None) -> None:
        """Close the file, and remove it unless it is the last copy of the value."""
        if self._file is not None:
            # The first error matters more. ValueError: the format has detached it.
            with contextlib.suppress(OSError, ValueError):
                self._file.close()
        while self._descriptors:
            with contextlib.suppress(OSError):
                self._close()
        if self.temporary is not None and not self.is_last_copy:
            unlink = partial(os.unlink, self.temporary)
            with contextlib.suppress(OSError):
                with contextlib.suppress(FileNotFoundError):
                    _patiently(unlink)
                self.temporary = None


def _may_be_btrfs(folder: str) -> bool:
    """Whether a file that was synced without a name must be synced again with one.

    btrfs ignores the sync of a file without a name, at least up to Linux 6.12
    (btrfs_log_inode_parent() skips inodes that have no links): after a power cut, the
    file is empty. Other file systems count a folder's subfolders in its links. btrfs
    does not, so its folders have one link. A merged folder of overlayfs has one link,
    too, and it may lie on btrfs. It is merged only when a file is created in it, so
    call this later.
    """
    try:
        return os.stat(folder).st_nlink < 2
    except OSError:
        return True


def _fsync(descriptor: int) -> None:
    """Sync a file or folder, and on macOS the disk's cache, which fsync() does not."""
    if hasattr(fcntl, 'F_FULLFSYNC'):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
    os.fsync(descriptor)


def _is_gone(path: str) -> bool:
    try:
        return os.stat(path).st_nlink == 0
    except OSError:
        return True


def _patiently(
    action: Callable[[], _T], why_in_vain: Callable[[], str | None] = lambda: None
) -> _T:
    """Call `action`, and retry while Windows refuses because the file is open."""
    end = 0.0
    while True:
        try:
            return action()
        except OSError as error:
            if not _is_in_use(error):
                raise
            reason = why_in_vain()
            if end and time.monotonic() > end:
                reason = reason or (
                    'another program has the file open, or you have no access to it: '
                    f'tried for {_PATIENCE:.0f} seconds'
                )
            if reason:
                add_note(error, reason)
                raise
        end = end or time.monotonic() + _PATIENCE
        # A random pause, so that two waiting programs do not collide again and again.
        time.sleep(0.01 * os.urandom(1)[0] / 255)


def _is_in_use(error: OSError) -> bool:
    winerror = getattr(error, 'winerror', None)
    if winerror is not None:
        return winerror in _IN_USE
    # open() gets its errors from the C library, which sets no winerror.
    return os.name == 'nt' and error.errno == errno.EACCES


def _refuse_a_path_through_a_file(path: str) -> None:
    """Raise NotADirectoryError, as POSIX does. On Windows, the file is just missing."""
    parent = os.path.dirname(path)
    while parent != os.path.dirname(parent) and not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if os.path.isfile(parent):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)


def _follow_links(path: str) -> tuple[str, _metadata.Metadata | None]:
    """Return the path of the file itself, and its metadata if it exists."""
    target, status = path, _status(path)
    links = 0
    while status is not None and stat.S_ISLNK(status.st_mode):
        links += 1
        if links > 40:  # the limit of Linux (path_resolution(7))
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.path.join(os.path.dirname(target), os.readlink(target))
        if os.name == 'nt':
            # After the prefix of an absolute link, `..` would be an ordinary name.
            target = os.path.normpath(target)
        status = _status(target)
    if links:
        # Ask the kernel, too. It refuses links that somebody may have planted (proc(5),
        # fs.protected_symlinks), and follows some without a path (proc(5),
        # /proc/pid/fd).
        try:
            os.stat(path)
        except FileNotFoundError:
            pass  # the last link dangles
        else:
            status = status or os.lstat(target)
    if status is None:
        _refuse_a_path_through_a_file(target)
    return target, None if status is None else _metadata.of_status(target, status)


def _status(path: str) -> os.stat_result | None:
    for _ in range(1000):
        try:
            return os.lstat(path)
        except FileNotFoundError as error:
            missing = error
        # As in open_to_read(): if it were taken for a new file, it would be open to more
        # people than the old one.
        if not _is_listed(path):
            return None
        time.sleep(0.001)
    raise missing
