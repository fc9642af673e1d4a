"""What a file keeps when its content is replaced: mode, owner, group, ACL, attributes.

Check every change to this module against two rules:

- Nobody gains access. What cannot be kept is left out. If that could let somebody in,
  the mode is narrowed:

  =========================================  =============================
  what cannot be kept or found out           what the new file's mode says
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

- Nothing here makes a commit fail, except a full disk or quota. A plain replacement
  keeps none of this, so it would not fail either.
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

# A look takes some microseconds. A file usually stays unchanged for that long, even if
# eight processes replace it in a tight loop.
_LOOKS = 10


class Metadata(NamedTuple):
    """The metadata of a file. `attributes` is None if they cannot be listed."""

    mode: int
    uid: int
    gid: int
    attributes: dict[str, bytes] | None


def of_status(path: str, status: os.stat_result) -> Metadata:
    """Return the metadata in `status`, and refuse anything but a regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, 'Not a regular file, so it is not replaced', path)
    return Metadata(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, None)


def of_file(path: str) -> Metadata | None:
    """Return the metadata of the file at `path`, or None if it cannot be read."""
    old: Metadata | None = None
    last: tuple[int, ...] = ()
    for _ in range(_LOOKS):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue  # perhaps only for a moment: see open_to_read()
        except OSError:
            return None
        # Mode and ACL must be of one moment: each changes what the other means.
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
    """Give a file, which so far only its owner may read, the old file's metadata."""
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
    """Raise an error that says that the disk or quota is full, and no other."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise error


def _restore_owner(file: int, old: Metadata) -> tuple[int, int]:
    """Restore owner and group, or only the group; return the file's new ones."""
    uid, gid = _owner(file)
    # Always set both: some FUSE file systems take -1 (leave it unchanged) for an id.
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
    """Restore the attributes, and return the mode to set along with them."""
    if not hasattr(os, 'listxattr'):
        return mode
    names = set(attributes)
    try:
        names.update(os.listxattr(file))
    except OSError as error:
        raise_if_full(error)
        if error.errno != errno.ENOTSUP:
            # The file may have an ACL from its folder. These bits will be its mask.
            mode, attributes = _common(mode, attributes)
    # The ACL last: it may forbid setting other attributes.
    for name in sorted(names, key=_ACL.__eq__):
        try:
            if name in attributes:
                os.setxattr(file, name, attributes[name])
            else:
                os.removexattr(file, name)  # the folder gave it to the new file
        except OSError as error:
            raise_if_full(error)
            if name == _ACL:
                # The group bits are the ACL's mask. Without the ACL, they grant more.
                mode &= ~_GROUP_AND_OTHERS
    return mode


def _common(mode: int, attributes: dict[str, bytes]) -> tuple[int, dict[str, bytes]]:
    """Leave group and others only the permissions that all of them had."""
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
    # With an ACL, the group bits are its mask, which stays.
    return (mode & ~0o7) | common, {**attributes, _ACL: narrowed}
