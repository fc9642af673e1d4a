"""What a file keeps when its content is replaced: mode, owner, group, ACL, attributes.

Metadata that cannot be kept never makes a commit fail: a plain replacement keeps none.
And nobody gains access: what cannot be kept is left out, and where that could let
somebody in, the mode is narrowed:

====================================  ====================================================
what cannot be kept or found out      what the new file's mode allows
====================================  ====================================================
owner                                 no set-user-ID
group                                 no set-group-ID; group and others: only what both
                                      had, or nothing if there is an access list
the names of the attributes, because  group and others: only what both had
one may be an access list
an access list                        group and others: nothing
anything, because the file changes    group and others: nothing
at each look
set-user-ID or set-group-ID           neither
mode, once the old owner has it       as it should, but the process is the owner
mode at all                           as created: owner only
====================================  ====================================================
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from . import _files

# If a file has one, the mode's group bits are its mask (acl(5)). NFS, ZFS and others
# have lists of their own, such as `system.nfs4_acl`.
_POSIX_ACL = 'system.posix_acl_access'

_UNKNOWN = -1  # no user or group has this number, and chown(2) takes it for no change

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SET_ID = stat.S_ISUID | stat.S_ISGID

# A look takes a few microseconds. A file usually stays unchanged for that long, even if
# eight processes replace it in a tight loop.
_LOOKS = 10


class Metadata(NamedTuple):
    """The metadata of a file. `attributes` is None if they cannot be listed."""

    mode: int
    uid: int
    gid: int
    attributes: dict[str, bytes] | None = None


def of_status(path: str, status: os.stat_result) -> Metadata:
    """Return the metadata in a file's status: all but the attributes.

    Raise an OSError for a folder, a device, a FIFO or a socket.
    """
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, 'Not a regular file, so it is not replaced', path)
    return Metadata(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def of_file(path: str) -> Metadata | None:
    """Return the metadata of the file at `path`, or None if it cannot be read."""
    old: Metadata | None = None
    last: tuple[int, ...] = ()
    for _ in range(_LOOKS):
        try:
            status = _files.find_status(path)
        except OSError:
            return None
        if status is None:
            return None
        # Mode and ACL must be from the same moment: each changes what the other means.
        now = (status.st_ctime_ns, status.st_mode, status.st_ino, status.st_dev)
        if now == last:
            return old
        last, old = now, _with_attributes(path, of_status(path, status))
    return old and _closed(old)


def _with_attributes(path: str, old: Metadata) -> Metadata:
    if not hasattr(os, 'listxattr'):
        return old._replace(attributes={})
    is_listed = True
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except Exception as error:  # noqa: BLE001
        if _means_none(error):
            return old._replace(attributes={})
        names, is_listed = [_POSIX_ACL], False
    attributes = {}
    for name in names:
        try:
            attributes[name] = os.getxattr(path, name, follow_symlinks=False)
        except Exception:  # noqa: BLE001
            if _is_acl(name) and is_listed:
                old = _closed(old)
    return old._replace(attributes=attributes if is_listed or attributes else None)


def restore(file: int, old: Metadata) -> None:
    """Give the old file's metadata to a file that only its owner may read so far."""
    if not hasattr(os, 'fchown'):  # on Windows, where a file has none of this
        return
    own_uid, own_gid = now_uid, now_gid = _known_owner(file)
    uid = old.uid if _files.is_known('uid', old.uid) else own_uid
    gid = old.gid if _files.is_known('gid', old.gid) else own_gid
    # Without CAP_FOWNER, which root lacks in many containers, a process may set neither
    # mode nor ACL of a file that it has given away. Then take the file back, and keep
    # only the group. If that does not help, give the file to the old owner after all.
    for new_uid in [uid] if uid == own_uid else [uid, own_uid, uid]:
        is_owned = new_uid in (now_uid, _UNKNOWN) and gid in (now_gid, _UNKNOWN)
        if not is_owned:
            with suppress(Exception):
                # Both at once: some FUSE file systems take -1, for no change, as an id.
                os.fchown(file, new_uid, gid)
                is_owned = True
        now_uid, now_gid = _known_owner(file)
        if not is_owned and new_uid != own_uid:
            continue
        if _restore_permissions(file, old, now_uid, now_gid):
            break


def _known_owner(file: int) -> tuple[int, int]:
    """Return a file's owner and group, each of them -1 if it is not known."""
    try:
        status = os.fstat(file)
    except Exception:  # noqa: BLE001
        return _UNKNOWN, _UNKNOWN
    uid, gid = status.st_uid, status.st_gid
    return (
        uid if _files.is_known('uid', uid) else _UNKNOWN,
        gid if _files.is_known('gid', gid) else _UNKNOWN,
    )


def _restore_permissions(file: int, old: Metadata, uid: int, gid: int) -> bool:
    """Restore attributes and mode of a file that now belongs to `uid` and `gid`.

    Return whether the mode is what it should be.
    """
    if uid != old.uid:
        old = old._replace(mode=old.mode & ~stat.S_ISUID)
    if gid != old.gid:
        old = old._replace(mode=old.mode & ~stat.S_ISGID)
    if gid != old.gid and any(map(_is_acl, old.attributes or ())):
        old = _closed(old)
    elif gid != old.gid or old.attributes is None:
        old = _common(old)
    mode = old.mode
    old = _restore_attributes(file, old)
    is_set = _set_mode(file, old.mode) and old.mode == mode
    if not _has_lists(file, old):
        is_set = _set_mode(file, _closed(old).mode)
    return is_set


def _restore_attributes(file: int, old: Metadata) -> Metadata:
    """Restore the attributes. Return `old`, with less access if that has failed."""
    if not hasattr(os, 'listxattr'):
        return old
    attributes = old.attributes or {}
    new: list[str] = []
    try:
        new = os.listxattr(file)
    except Exception as error:  # noqa: BLE001
        if not _means_none(error) and _POSIX_ACL not in attributes:
            # The file may have an ACL from its folder. The group bits will be its mask.
            old = _common(old)
    # First remove what the folder gave the new file. Otherwise, the rest may not fit.
    for name in new:
        if name not in attributes:
            try:
                os.removexattr(file, name)
            except Exception:  # noqa: BLE001
                old = _closed(old) if _is_acl(name) else old
    # Then keep the old file's order, in which they fit. But if the owner may not write,
    # an ACL comes last, because it would forbid setting the others.
    is_writable = old.mode & stat.S_IWUSR
    for name in sorted(attributes, key=lambda name: not is_writable and _is_acl(name)):
        try:
            os.setxattr(file, name, attributes[name])
        except Exception:  # noqa: BLE001
            old = _closed(old) if _is_acl(name) else old
    return old


def _has_lists(file: int, old: Metadata) -> bool:
    """Whether the file still has its lists: on ZFS, chmod may drop them."""
    with suppress(Exception):
        return all(
            os.getxattr(file, name) == content
            for name, content in (old.attributes or {}).items()
            if _is_acl(name) and name != _POSIX_ACL
        )
    return False


def _set_mode(file: int, mode: int) -> bool:
    # A set-ID bit may be refused (systemd.exec(5), RestrictSUIDSGID=).
    for each in dict.fromkeys([mode, mode & ~_SET_ID]):
        if _mode(file) == each:
            return True
        with suppress(Exception):
            os.fchmod(file, each)
            return True
    return False


def _mode(file: int) -> int | None:
    with suppress(Exception):
        return stat.S_IMODE(os.fstat(file).st_mode)
    return None


def _is_acl(name: str) -> bool:
    return name.startswith('system.') and 'acl' in name


def _means_none(error: Exception) -> bool:
    """Whether an error says that the file system has no attributes."""
    return isinstance(error, OSError) and error.errno == errno.ENOTSUP


def _common(old: Metadata) -> Metadata:
    """Leave group and others only what both had."""
    common = (old.mode >> 3) & old.mode & 0o7
    return old._replace(mode=old.mode & ~_GROUP_AND_OTHERS | common << 3 | common)


def _closed(old: Metadata) -> Metadata:
    """Leave access to the owner only, without any list."""
    attributes = old.attributes and {
        name: content for name, content in old.attributes.items() if not _is_acl(name)
    }
    return old._replace(mode=old.mode & ~_GROUP_AND_OTHERS, attributes=attributes)
