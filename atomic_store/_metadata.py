"""What a file keeps when its content is replaced: mode, owner, group, ACL, attributes.

Two rules, and whoever changes a line here should hold it against both:

- Nobody gains access. What cannot be kept is left out, and where somebody might get in
  because it is missing, the mode is narrowed:

  =========================================  =============================
  what cannot be kept, or not be known       what the new file's mode says
  =========================================  =============================
  owner                                      no set-user-ID
  group                                      no set-group-ID; group and
                                             others: only what both had
  which attributes there are (one of them    group and others: only what
  might be an ACL)                           both had
  ACL                                        group and others: nothing
  anything, of a file that keeps changing    group and others: nothing
  mode                                       as created: owner only
  =========================================  =============================

- Nothing here makes a commit fail, except a full disk or quota. Plain replacement keeps
  none of this, so it cannot fail on it.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import NamedTuple

# An access control list is an extended attribute: four bytes of version, then
# entries of tag, permissions and id (linux/posix_acl_xattr.h).
_ACL = 'system.posix_acl_access'
_ACL_ENTRY = struct.Struct('<HHI')
_ACL_USERS = {0x01, 0x02}  # the owner, and others by name
_ACL_GROUP_OBJ = 0x04
_ACL_OTHER = 0x20

_UNKNOWN = -1  # which no user or group has

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO

# A look costs some microseconds. Even a file that eight processes replace in a tight
# loop stands still for that long, mostly.
_LOOKS = 10


class Metadata(NamedTuple):
    """What a file has. Its attributes are None where they cannot be listed."""

    mode: int
    uid: int
    gid: int
    attributes: dict[str, bytes] | None


def of_status(path: str, status: os.stat_result) -> Metadata:
    """Return what `status` tells, and refuse what is no regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, 'Not a regular file, so it is not replaced', path)
    return Metadata(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, None)


def of_file(path: str) -> Metadata | None:
    """Return what the file at `path` has, or None where that cannot be found out."""
    old: Metadata | None = None
    last: tuple[int, ...] = ()
    for _ in range(_LOOKS):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue  # perhaps for a moment: see open_to_read()
        except OSError:
            return None
        # The permission bits of one moment mean something else with the ACL of another.
        now = (status.st_ctime_ns, *status[:3])
        if now == last:
            return old
        last, old = now, _with_attributes(path, of_status(path, status))
    return old and old._replace(mode=old.mode & ~_GROUP_AND_OTHERS)


def _with_attributes(path: str, old: Metadata) -> Metadata:
    if not hasattr(os, 'listxattr'):
        return old._replace(attributes={})
    is_listed = True
    try:
        names = os.listxattr(path)
    except OSError as error:
        raise_if_full(error)
        if error.errno == errno.ENOTSUP:  # the file system has no attributes
            return old._replace(attributes={})
        names, is_listed = [_ACL], False
    attributes = {}
    for name in names:
        try:
            attributes[name] = os.getxattr(path, name)
        except OSError as error:
            raise_if_full(error)
            if name == _ACL and is_listed:
                old = old._replace(mode=old.mode & ~_GROUP_AND_OTHERS)
    return old._replace(attributes=attributes) if is_listed or attributes else old


def restore(file: int, old: Metadata) -> None:
    """Give a file, which only its owner may read yet, what the old one had."""
    if not hasattr(os, 'fchown'):  # on Windows, which has none of this
        return
    uid, gid = _restore_owner(file, old)
    mode, attributes = old.mode, old.attributes or {}
    if uid != old.uid:
        mode &= ~stat.S_ISUID
    if gid != old.gid:
        mode &= ~stat.S_ISGID
    if gid != old.gid or old.attributes is None:
        mode, attributes = _common(mode, attributes)
    mode = _restore_attributes(file, mode, attributes)
    try:
        os.fchmod(file, mode)
    except OSError as error:
        raise_if_full(error)


def raise_if_full(error: OSError) -> None:
    """Raise the only errors that matter when something cannot be kept."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise error


def _restore_owner(file: int, old: Metadata) -> tuple[int, int]:
    """Restore owner and group, else the group; return what the file then has."""
    uid, gid = _owner(file)
    # Always both: some FUSE file systems take the -1 that leaves one alone for an id.
    for new_uid in old.uid, uid:
        if (new_uid, old.gid) != (uid, gid) and new_uid != _UNKNOWN:
            try:
                os.fchown(file, new_uid, old.gid)
            except OSError as error:
                raise_if_full(error)
            else:
                return _owner(file)
    return uid, gid


def _owner(file: int) -> tuple[int, int]:
    try:
        status = os.fstat(file)
    except OSError:
        return _UNKNOWN, _UNKNOWN
    return status.st_uid, status.st_gid


def _restore_attributes(file: int, mode: int, attributes: dict[str, bytes]) -> int:
    """Restore the attributes, and return the mode that goes with those it then has."""
    if not hasattr(os, 'listxattr'):
        return mode
    names = set(attributes)
    try:
        names.update(os.listxattr(file))
    except OSError as error:
        raise_if_full(error)
        if error.errno != errno.ENOTSUP:
            # The folder may have given the file an ACL. Its mask will be these bits.
            mode, attributes = _common(mode, attributes)
    # The ACL last: with it the file may already be closed to other attributes.
    for name in sorted(names, key=_ACL.__eq__):
        try:
            if name in attributes:
                os.setxattr(file, name, attributes[name])
            else:
                os.removexattr(file, name)  # the folder gave it to the new file
        except OSError as error:
            raise_if_full(error)
            if name == _ACL:
                # The bits of the group are the ACL's mask, and mean more without it.
                mode &= ~_GROUP_AND_OTHERS
    return mode


def _common(mode: int, attributes: dict[str, bytes]) -> tuple[int, dict[str, bytes]]:
    """Leave group and others what all of them had, whoever belongs to which."""
    if _ACL not in attributes:
        common = (mode >> 3) & mode & 0o7
        return (mode & ~_GROUP_AND_OTHERS) | (common << 3) | common, attributes
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
