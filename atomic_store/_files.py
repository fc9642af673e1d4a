"""Reading a file, and replacing one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from atomicwrites import AtomicWriter, replace_atomic

# Text is UTF-8 everywhere, and no line ending is translated: newline='\n' does so
# in both directions, and ends a line at nothing but '\n' (library/functions, open).
_TEXT = {'encoding': 'utf-8', 'newline': '\n'}

# None where a temporary file always has a name.
_O_TMPFILE: int | None = getattr(os, 'O_TMPFILE', None)

# What open(2) answers to O_TMPFILE where the file system, the kernel, or an
# emulation of it cannot do that.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}

# What linkat(2) answers where hard links, or those to a file without a name, are not
# to be had: by the file system, or by a policy as on Android.
_NO_LINK = {
    errno.EPERM,
    errno.EACCES,
    errno.EXDEV,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
}

# What a process gets that may not set an owner or an attribute, or whose file
# system has no such thing. EINVAL: the user or group has no number in this user
# namespace (user_namespaces(7)). EOVERFLOW: nor has that of file capabilities
# (security/commoncap.c in Linux). ENODATA: another process took the attribute away.
_REFUSED = {
    errno.EPERM,
    errno.EACCES,
    errno.EINVAL,
    errno.EOVERFLOW,
    errno.ENOTSUP,
    errno.ENOSYS,
    getattr(errno, 'ENODATA', errno.ENOTSUP),
}

# An access control list is an extended attribute: four bytes of version, then
# entries of tag, permissions and id (linux/posix_acl_xattr.h).
_ACL = 'system.posix_acl_access'
_ACL_ENTRY = struct.Struct('<HHI')
_ACL_USERS = {0x01, 0x02}  # the owner, and others by name
_ACL_GROUP_OBJ = 0x04
_ACL_OTHER = 0x20


def open_to_read(path: str, is_binary: bool) -> IO[Any]:
    """Open the file at `path`, to load a value from it."""
    if is_binary:
        return open(path, 'rb')
    return open(path, **_TEXT)  # type: ignore[call-overload, no-any-return]


def replace(path: str, is_binary: bool, dump: Callable[[IO[Any]], object]) -> None:
    """Put a file with what `dump` writes in the place of the one at `path`."""
    replacement = _Replacement(path, is_binary)
    try:
        with replacement.open() as file:
            dump(file)
    finally:
        # AtomicWriter rolls back too, but an interrupt between its lines can pass
        # that by.
        replacement.rollback()


class _Metadata(NamedTuple):
    """What a file keeps when its content is replaced."""

    mode: int
    uid: int
    gid: int
    attributes: dict[str, bytes]


class _Replacement(AtomicWriter):
    """A new file, and the way it takes the place of the old one.

    AtomicWriter calls `get_fileobject`, then, once all is written, `sync`, closes the
    file, and calls `commit`; after an error, it calls `rollback`.
    """

    _path: str  # these two are AtomicWriter's
    _mode: str
    _open_folder: int | None = None
    _file: IO[Any] | None = None
    _temporary: str | None = None

    def __init__(self, path: str, is_binary: bool) -> None:
        target = _follow_links(path)
        if is_binary:
            super().__init__(target, 'wb')
        else:
            super().__init__(target, 'w', **_TEXT)  # type: ignore[arg-type]
        self._folder = os.path.dirname(target)
        self._old = _metadata(target)
        # A new file gets what open() gives it: the kernel applies the umask, or the
        # folder's default ACL. One that is to become like an old file is closed to
        # everybody else until it has the old one's permissions.
        self._first_mode = 0o666 if self._old is None else 0o600

    def get_fileobject(self, **kwargs: Any) -> IO[Any]:  # type: ignore[override]
        if hasattr(os, 'O_DIRECTORY'):
            # Now, so that nothing but the sync can fail once the file is in place.
            self._open_folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        # '' is what a format finds as the name of the file, which may have none.
        self._file = open(  # noqa: SIM115 - AtomicWriter closes it
            '', self._mode, opener=self._create, **kwargs
        )
        return self._file

    def _create(self, _: str, flags: int) -> int:
        """Create the temporary file, without a name if that can be."""
        # A name can be given to the file later only through /proc.
        if _O_TMPFILE is not None and os.path.exists('/proc/self/fd'):
            try:
                return os.open(self._folder, _O_TMPFILE | os.O_RDWR, self._first_mode)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
        self._temporary = self._new_name()
        return self._create_named(self._temporary, flags)

    def _create_named(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL, self._first_mode)

    def _new_name(self) -> str:
        # Short, so that it fits beside a name as long as the file system allows.
        return os.path.join(self._folder, f'.atomic_store-{os.urandom(16).hex()}.tmp')

    def sync(self, f: IO[Any]) -> None:
        """Sync the file and, if it has no name, let it take the old one's place.

        It would be gone once it is closed, which AtomicWriter does before it commits.
        """
        f.flush()
        self._complete(f)
        if self._temporary is None:
            self._temporary = name = self._new_name()
            # os.link() follows /proc/self/fd/N only when it uses linkat(2), which
            # takes a directory's descriptor: any one, as both paths are absolute.
            source = f'/proc/self/fd/{f.fileno()}'
            try:
                os.link(source, name, src_dir_fd=f.fileno(), follow_symlinks=True)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._copy(f, name)
            self._take_place(name)

    def _complete(self, f: IO[Any]) -> None:
        # As the old file is now, since writing may have taken long.
        old = _metadata(self._path) or self._old
        if old is not None:
            # After the last write, because a write takes away the set-user-ID bit and
            # file capabilities (chmod(2), capabilities(7)).
            _restore(f.fileno(), old)
        super().sync(f)

    def _copy(self, f: IO[Any], name: str) -> None:
        """Make a file with a name of the one without."""
        with (
            open(f.fileno(), 'rb', closefd=False) as source,
            open(name, 'wb', opener=self._create_named) as copy,
        ):
            source.seek(0)
            shutil.copyfileobj(source, copy)
            copy.flush()
            self._complete(copy)

    def commit(self, f: IO[Any]) -> None:
        if self._temporary is not None:
            self._take_place(self._temporary)

    def _take_place(self, temporary: str) -> None:
        if self._open_folder is None:
            # Windows opens no folders, and has a way to write them through.
            replace_atomic(temporary, self._path)
        else:
            os.replace(temporary, self._path)
            # AtomicWriter.sync() knows what a system needs, and looks for a file.
            super().sync(_Opened(self._open_folder))  # type: ignore[arg-type]
        self._temporary = None
        self._release_folder()

    def rollback(self, f: IO[Any] | None = None) -> None:
        try:
            if self._file is not None:
                self._file.close()
        finally:
            if self._temporary is not None:
                # What led here says more than why this fails, if only because there
                # is no such file.
                with contextlib.suppress(OSError):
                    os.unlink(self._temporary)
            self._release_folder()

    def _release_folder(self) -> None:
        if self._open_folder is not None:
            # In one line, because an interrupt can come between lines.
            os.close(self.__dict__.pop('_open_folder'))


class _Opened(NamedTuple):
    """An open folder, for a function that syncs files."""

    descriptor: int

    def fileno(self) -> int:
        return self.descriptor

    def flush(self) -> None:
        pass


def _follow_links(path: str) -> str:
    """Return the path of the file itself, which is replaced in its own folder."""
    target = path
    for _ in range(41):  # Linux follows 40 (path_resolution(7)), the next is no link
        try:
            link = os.readlink(target)
        except OSError as error:
            # EINVAL: this is no link.
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
            break
        target = os.path.join(os.path.dirname(target), link)
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    if target != path:
        # By itself the kernel follows no link that somebody may have planted (proc(5),
        # fs.protected_symlinks), and some that have no path (proc(5), /proc/pid/fd).
        try:
            os.stat(path)
        except FileNotFoundError:
            return target  # which is to be created
        os.stat(target)
    return target


def _metadata(path: str) -> _Metadata | None:
    """Return what the file at `path` must keep, or None where there is none."""
    try:
        while True:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(
                    errno.EINVAL, 'Not a regular file, so it is not replaced', path
                )
            mode, attributes = stat.S_IMODE(status.st_mode), _attributes(path)
            # Permission bits of one moment mean something else with another's ACL.
            if os.stat(path).st_ctime_ns == status.st_ctime_ns:
                return _Metadata(mode, status.st_uid, status.st_gid, attributes)
    except FileNotFoundError:
        return None


def _attributes(path: str) -> dict[str, bytes]:
    """Return the extended attributes, an ACL among them, that can be read."""
    attributes = {}
    if hasattr(os, 'listxattr'):
        names = []
        with _where_allowed({errno.ENOTSUP}):
            names = os.listxattr(path)
        for name in names:
            # A file whose ACL is unknown cannot be kept as closed as it is.
            with _where_allowed({errno.ENODATA} if name == _ACL else _REFUSED):
                attributes[name] = os.getxattr(path, name)
    return attributes


def _restore(file: int, old: _Metadata) -> None:
    """Give a file what the old one had, and let nobody read it who could not."""
    if not hasattr(os, 'fchown'):  # on Windows, which has none of this
        return
    for uid, gid in (-1, old.gid), (old.uid, -1):
        with _where_allowed():
            os.fchown(file, uid, gid)
    status = os.fstat(file)
    mode, attributes = old.mode, old.attributes
    if status.st_uid != old.uid:
        mode &= ~stat.S_ISUID
    if status.st_gid != old.gid:
        mode, attributes = _for_another_group(mode, attributes)
    if hasattr(os, 'listxattr'):
        names = set(attributes)
        with _where_allowed():
            names.update(os.listxattr(file))
        # The ACL last: with it the file may already be closed to other attributes.
        for name in sorted(names, key=lambda name: (name == _ACL, name)):
            try:
                if name in attributes:
                    os.setxattr(file, name, attributes[name])
                else:
                    # The folder gave it to the file, the old one has it not.
                    os.removexattr(file, name)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                if name == _ACL:
                    # The bits mean something else without it.
                    mode &= ~(stat.S_IRWXG | stat.S_IRWXO)
    with _where_allowed():
        os.fchmod(file, mode)


def _for_another_group(
    mode: int, attributes: dict[str, bytes]
) -> tuple[int, dict[str, bytes]]:
    """Leave to all but the owner what all could do: who is in the group has changed."""
    mode &= ~stat.S_ISGID
    if _ACL not in attributes:
        common = (mode >> 3) & mode & 0o7
        return (mode & ~0o77) | (common << 3) | common, attributes
    version, entries = attributes[_ACL][:4], attributes[_ACL][4:]
    acl = list(_ACL_ENTRY.iter_unpack(entries))
    common = 0o7
    for tag, permissions, _ in acl:
        if tag not in _ACL_USERS:
            common &= permissions
    changed = {_ACL_GROUP_OBJ: common, _ACL_OTHER: common}
    narrowed = version + b''.join(
        _ACL_ENTRY.pack(tag, changed.get(tag, permissions), identity)
        for tag, permissions, identity in acl
    )
    # Of a file with an ACL, the group's bits are the mask, which stays.
    return (mode & ~0o7) | common, {**attributes, _ACL: narrowed}


@contextlib.contextmanager
def _where_allowed(refusals: set[int] = _REFUSED) -> Iterator[None]:
    """Do without what this process may not do, or this file system cannot."""
    try:
        yield
    except OSError as error:
        if error.errno not in refusals:
            raise
