"""What a commit keeps from the old file, what a new file gets, and what is not kept."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from support import USER, command, fails, in_child, root

import atomic_store
from atomic_store import _metadata

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)

pytestmark = pytest.mark.usefixtures('temporary_file')

# The owner of a file, unless the test names another.
ME, MY_GROUP = (os.geteuid(), os.getegid()) if USER is None else (USER, USER)
ALICE, BOB, CAROL, DAVE, EVE = 70001, 70002, 70003, 70004, 70005
TEAM, INTERNS = 70010, 70020

ACCESS, DEFAULT = 'system.posix_acl_access', 'system.posix_acl_default'
# CAP_NET_BIND_SERVICE, permitted and effective (linux/capability.h).
CAPABILITY = {'security.capability': struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0)}
NOTE = {'user.note': b'\0 any bytes \xff'}
LIBC = ctypes.CDLL(None, use_errno=True)


class File(NamedTuple):
    """The metadata of a file."""

    mode: int
    uid: int = ME
    gid: int = MY_GROUP
    attributes: dict[str, bytes] = {}  # noqa: RUF012 - nothing changes it


def acl(text: str) -> bytes:
    """Pack an access control list (linux/posix_acl_xattr.h)."""
    packed = struct.pack('<I', 2)
    for entry in text.split():
        kind, name, permissions = entry.split(':')
        tag = {'u': 0x01, 'g': 0x04, 'm': 0x10, 'o': 0x20}[kind] << bool(name)
        bits = sum(4 >> i for i, letter in enumerate(permissions) if letter != '-')
        packed += struct.pack('<HHI', tag, bits, int(name or 0xFFFFFFFF))
    return packed


# If a file has a list, its mode is that of the owner, the mask and others.
CAROL_MAY_READ = {ACCESS: acl(f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::---')}
NOT_CAROL = {ACCESS: acl(f'u::rw- u:{CAROL}:--- g::r-x m::r-x o::r-x')}
FOR_ALL = acl(f'u::rwx u:{EVE}:rwx g::rwx m::rwx o::rwx')


def a_store(
    folder: Path, file: File, name: str = 'state.json'
) -> atomic_store.AtomicStore:
    """Make a file with metadata to keep, and a store with a value to commit."""
    path = folder / name
    store = atomic_store.open(path, 'new')  # first, because the file may be unreadable
    path.write_text('"old"')
    os.chown(path, file.uid, file.gid)
    for attribute, content in file.attributes.items():
        os.setxattr(path, attribute, content)
    path.chmod(file.mode)
    assert the_file(folder, name) == file
    return store


def the_file(folder: Path, name: str = 'state.json') -> File:
    path = folder / name
    status = path.stat()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return File(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, attributes)


# Kept


@pytest.mark.parametrize(
    'mode', [0o600, 0o644, 0o755, 0o400, 0o000, 0o4755, 0o2755, 0o1644, 0o7777], ids=oct
)
def test_permission_bits_are_kept(folder: Path, mode: int) -> None:
    store = a_store(folder, File(mode))
    in_child(store.commit, uid=USER)
    assert the_file(folder) == File(mode)


@pytest.mark.parametrize(
    'file',
    [
        pytest.param(File(0o640, attributes=CAROL_MAY_READ), id='list'),
        pytest.param(
            File(
                0o704,
                attributes={
                    ACCESS: acl(
                        f'u::rwx u:{CAROL}:rwx g::--- g:{INTERNS}:r-x m::--- o::r--'
                    )
                },
            ),
            id='long list',
        ),
        pytest.param(
            File(0o444, attributes={**NOTE, 'user.empty': b''}), id='attributes'
        ),
        pytest.param(
            File(
                0o440,
                attributes={
                    **NOTE,
                    ACCESS: acl(f'u::r-- u:{CAROL}:r-- g::r-- m::r-- o::---'),
                },
            ),
            id='attributes beside a list that forbids to write',
        ),
    ],
)
def test_lists_and_attributes_are_kept(folder: Path, file: File) -> None:
    store = a_store(folder, file)
    in_child(store.commit, uid=USER)
    assert the_file(folder) == file


@root
@pytest.mark.parametrize(
    'file',
    [
        *(File(mode, ALICE, TEAM) for mode in (0o640, 0o6755, 0o000)),
        File(0o755, ALICE, TEAM, {**CAPABILITY, 'security.note': b'any'}),
        File(0o640, ALICE, TEAM, {**CAROL_MAY_READ, 'trusted.note': b'for root only'}),
    ],
)
def test_root_keeps_owner_group_and_attributes_of_the_system(
    folder: Path, file: File
) -> None:
    a_store(folder, file).commit()
    assert the_file(folder) == file


@root
@pytest.mark.parametrize('group', [TEAM, ALICE], ids=['above its own', 'below'])
def test_the_group_is_kept_where_the_process_is_a_member(
    folder: Path, group: int
) -> None:
    store = a_store(folder, File(0o2640, ALICE, group))
    in_child(store.commit, uid=BOB, groups=[group])
    assert the_file(folder) == File(0o2640, BOB, group)


def test_nothing_is_added_that_the_folder_gives_to_new_files(folder: Path) -> None:
    store = a_store(folder, File(0o640))
    os.setxattr(folder, DEFAULT, FOR_ALL)
    in_child(store.commit, uid=USER)
    assert the_file(folder) == File(0o640)


def test_permissions_that_change_during_a_commit_are_kept(folder: Path) -> None:
    store = a_store(folder, File(0o644))

    def dump(value: str, file: Any) -> None:
        file.write(value)
        (folder / 'state.json').chmod(0o600)

    store.format = SimpleNamespace(dump=dump, load=None)
    store.commit()
    assert the_file(folder) == File(0o600)


def test_permissions_of_a_file_removed_during_a_commit_are_kept(folder: Path) -> None:
    store = a_store(folder, File(0o644))

    def dump(value: str, file: Any) -> None:
        file.write(value)
        (folder / 'state.json').unlink()

    store.format = SimpleNamespace(dump=dump, load=None)
    store.commit()
    assert the_file(folder) == File(0o644)


@root
@pytest.mark.parametrize(
    ('file', 'calls'),
    [
        pytest.param(File(0o640, 0, 0), [], id='none where nothing changes'),
        pytest.param(File(0o640, ALICE, TEAM), [(ALICE, TEAM)], id='both at once'),
        pytest.param(File(0o640, 0, TEAM), [(0, TEAM)], id='the same owner, too'),
    ],
)
def test_owner_and_group_are_set_in_one_call(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: File,
    calls: list[tuple[int, int]],
    temporary_file: str,
) -> None:
    """Otherwise, some FUSE file systems lose one of them, such as s3fs and fuseext2."""
    store = a_store(folder, file)
    fchown, made = os.fchown, []

    def note(descriptor: int, uid: int, gid: int) -> None:
        made.append((uid, gid))
        fchown(descriptor, uid, gid)

    monkeypatch.setattr(os, 'fchown', note)
    store.commit()
    assert made == calls * (2 if temporary_file == 'copied' else 1)
    assert the_file(folder) == file


# A new file


@pytest.mark.parametrize('umask', [0o022, 0o077, 0o000, 0o777], ids=oct)
@pytest.mark.parametrize(
    'default',
    [
        None,
        'u::rw- g::r-- o::---',
        f'u::rwx u:{CAROL}:rw- g::r-x m::rwx o::r--',
        f'u::r-- u:{CAROL}:--- g::rw- m::r-- o::rw-',
    ],
)
def test_a_new_file_is_as_open_makes_it(
    folder: Path, default: str | None, umask: int
) -> None:
    if default:
        os.setxattr(folder, DEFAULT, acl(default))
    store = atomic_store.open(folder / 'state.json', 'new')

    def commit() -> None:
        os.umask(umask)
        store.commit()
        (folder / 'plain').touch()

    in_child(commit)
    assert the_file(folder) == the_file(folder, 'plain')


@root
def test_a_new_file_gets_the_group_of_a_set_group_id_folder(folder: Path) -> None:
    os.chown(folder, -1, TEAM)
    folder.chmod(0o2777)
    store = atomic_store.open(folder / 'state.json', 'new')
    in_child(store.commit, uid=BOB)
    assert the_file(folder)[1:3] == (BOB, TEAM)


def test_the_umask_is_never_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, 'umask')
    store = atomic_store.open(folder / 'state.json', 'new')
    store.commit()  # a new file
    store.commit()  # an old one


# Not kept


def test_the_modification_time_is_now(folder: Path) -> None:
    store = a_store(folder, File(0o644))
    os.utime(folder / 'state.json', (0, 0))
    (folder / 'before').touch()
    store.commit()
    (folder / 'after').touch()
    before, now, after = (
        (folder / name).stat().st_mtime_ns for name in ('before', 'state.json', 'after')
    )
    assert before <= now <= after


def test_hard_links_are_broken(folder: Path) -> None:
    store = a_store(folder, File(0o644))
    os.link(folder / 'state.json', folder / 'other')
    store.commit()
    assert (folder / 'state.json').read_text() == '"new"'
    assert (folder / 'other').read_text() == '"old"'


def test_the_inode_changes_and_an_open_file_stays_the_old_one(folder: Path) -> None:
    store = a_store(folder, File(0o644))
    with open(folder / 'state.json') as file:
        store.commit()
        assert file.read() == '"old"'
        assert os.fstat(file.fileno()).st_ino != (folder / 'state.json').stat().st_ino


@command('chattr')
def test_the_flags_of_chattr_are_not_kept(folder: Path) -> None:
    store = a_store(folder, File(0o644))
    subprocess.run(['chattr', '+d', folder / 'state.json'], check=True)
    assert 'd' in flags(folder / 'state.json')
    store.commit()
    assert 'd' not in flags(folder / 'state.json')


def flags(path: Path) -> str:
    return subprocess.check_output(['lsattr', path], text=True).split()[0]


@root
@pytest.mark.parametrize('group', [BOB, INTERNS])
@pytest.mark.parametrize(
    ('mode', 'becomes'),
    [
        (0o640, 0o600),
        (0o660, 0o600),
        (0o604, 0o600),
        (0o664, 0o644),
        (0o666, 0o666),
        (0o6755, 0o755),
    ],
)
def test_without_owner_and_group_the_file_keeps_only_what_group_and_others_shared(
    folder: Path, mode: int, becomes: int, group: int
) -> None:
    store = a_store(folder, File(mode, ALICE, TEAM))
    in_child(store.commit, uid=BOB, gid=group)
    assert the_file(folder) == File(becomes, BOB, group)


@root
@pytest.mark.parametrize('owner', [ALICE, EVE])
def test_the_set_user_id_bit_goes_with_the_owner(folder: Path, owner: int) -> None:
    store = a_store(folder, File(0o6755, owner, TEAM))
    in_child(store.commit, uid=BOB, groups=[TEAM])
    assert the_file(folder) == File(0o2755, BOB, TEAM)


@root
@pytest.mark.parametrize(
    'file',
    [
        pytest.param(
            File(0o600, ALICE, TEAM, {**NOTE, 'trusted.note': b'for root'}),
            id='nor be read',
        ),
        pytest.param(File(0o644, ALICE, TEAM, CAPABILITY), id=''),
    ],
)
def test_attributes_are_not_kept_where_they_cannot_be_set(
    folder: Path, file: File
) -> None:
    store = a_store(folder, file)
    in_child(store.commit, uid=BOB)
    assert the_file(folder) == File(file.mode, BOB, BOB)


@root
def test_capabilities_of_another_namespace_are_not_kept(folder: Path) -> None:
    theirs = struct.pack('<6I', 0x03000001, 1 << 10, 0, 0, 0, ALICE)
    store = a_store(folder, File(0o640, BOB, BOB, {'security.capability': theirs}))
    in_child(lambda: in_a_namespace_without_others(store.commit), uid=BOB)
    assert the_file(folder) == File(0o640, BOB, BOB)


@root
@command('bindfs')
@pytest.mark.parametrize('option', ['--xattr-ro', '--xattr-none'])
def test_the_mode_is_kept_on_a_file_system_without_attributes(
    folder: Path, option: str
) -> None:
    (folder / 'source').mkdir()
    (folder / 'shown').mkdir()
    a_store(folder / 'source', File(0o640, attributes=NOTE))
    subprocess.run(['bindfs', option, folder / 'source', folder / 'shown'], check=True)
    try:
        atomic_store.open(folder / 'shown/state.json').commit()
    finally:
        subprocess.run(['umount', '-l', folder / 'shown'], check=True)
    assert the_file(folder / 'source') == File(0o640)


# What the system refuses


def refuse(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    """Make an os function fail: for paths, 'getxattr(path)', else 'getxattr'."""
    name = function.removesuffix('(path)')
    call, refuses_paths = getattr(os, name), name != function

    def refused(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, str) == refuses_paths:
            raise OSError(number, os.strerror(number))
        return call(file, *args, **kwargs)

    monkeypatch.setattr(os, name, refused)


@pytest.mark.parametrize('number', [errno.EIO, errno.EPERM, errno.ENOENT, 524])
@pytest.mark.parametrize(
    ('calls', 'mode', 'attributes', 'becomes', 'with_attributes'),
    [
        # An access control list may be among them.
        ('listxattr(path)', 0o644, NOTE, 0o644, {}),
        ('listxattr(path)', 0o640, {}, 0o600, {}),
        ('listxattr(path)', 0o604, {}, 0o600, {}),
        ('listxattr(path)', 0o664, {}, 0o644, {}),
        ('listxattr(path)', 0o640, CAROL_MAY_READ, 0o640, CAROL_MAY_READ),
        ('listxattr(path) getxattr(path)', 0o640, CAROL_MAY_READ, 0o600, {}),
        ('listxattr', 0o640, {}, 0o600, {}),
        ('listxattr', 0o644, NOTE, 0o644, NOTE),
        ('getxattr(path)', 0o640, CAROL_MAY_READ, 0o600, {}),
        ('getxattr(path)', 0o655, NOT_CAROL, 0o600, {}),
        ('setxattr', 0o640, CAROL_MAY_READ, 0o600, {}),
        # Other attributes do not affect access.
        ('getxattr(path)', 0o640, NOTE, 0o640, {}),
        ('setxattr', 0o640, NOTE, 0o640, {}),
        ('fstat', 0o640, NOTE, 0o600, NOTE),
        ('fstat', 0o664, NOTE, 0o644, NOTE),
        ('fchmod', 0o640, NOTE, 0o600, NOTE),
    ],
)
def test_metadata_that_is_refused_is_left_out_and_nobody_gains_access(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: str,
    mode: int,
    attributes: dict[str, bytes],
    becomes: int,
    with_attributes: dict[str, bytes],
    number: int,
) -> None:
    store = a_store(folder, File(mode, attributes=attributes))
    with monkeypatch.context() as patch:
        for function in calls.split():
            refuse(patch, function, number)
        store.commit()
    assert (folder / 'state.json').read_text() == '"new"'
    assert the_file(folder) == File(becomes, attributes=with_attributes)


@root
@pytest.mark.parametrize('uid', [None, BOB], ids=['by root', 'by another'])
@pytest.mark.parametrize('owner', [0, 1])
def test_an_owner_that_cannot_be_read_counts_as_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, owner: int, uid: int | None
) -> None:
    store = a_store(folder, File(0o6664, owner, owner))
    with monkeypatch.context() as patch:
        refuse(patch, 'fstat', errno.EIO)
        in_child(store.commit, uid=uid)
    keeper = owner if uid is None else uid
    assert the_file(folder) == File(0o644, keeper, keeper)


def test_a_list_from_the_folder_that_cannot_be_removed_gives_no_access(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(folder, File(0o640))
    os.setxattr(folder, DEFAULT, FOR_ALL)
    with monkeypatch.context() as patch:
        refuse(patch, 'removexattr', errno.EIO)
        store.commit()
    assert the_file(folder).mode == 0o600  # which is the mask: Eve has no access


def test_where_there_are_no_attributes_the_mode_means_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(folder, File(0o640))
    refuse(monkeypatch, 'listxattr(path)', errno.ENOTSUP)
    refuse(monkeypatch, 'listxattr', errno.ENOTSUP)
    store.commit()
    monkeypatch.undo()
    assert the_file(folder) == File(0o640)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    'call',
    [
        'listxattr(path)',
        'getxattr(path)',
        'listxattr',
        'setxattr',
        'removexattr',
        pytest.param('fchown', marks=root),
        'fchmod',
    ],
)
def test_a_full_disk_or_quota_is_an_error_that_costs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store = a_store(folder, File(0o640, attributes=NOTE))
    os.setxattr(folder, DEFAULT, FOR_ALL)
    refuse(monkeypatch, call, number)
    assert fails(store, number) == []


# Nobody gains access


def in_a_namespace_without_others(commit: Callable[[], None]) -> None:
    """Commit where only this user has a number, as in a container.

    There, chown(2) and setting an access control list fail with EINVAL.
    """
    uid, gid = os.getuid(), os.getgid()
    LIBC.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: otherwise, root owns /proc/self
    if LIBC.unshare(0x10000000):  # CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), 'unshare')
    Path('/proc/self/setgroups').write_text('deny')
    Path('/proc/self/uid_map').write_text(f'{uid} {uid} 1')
    Path('/proc/self/gid_map').write_text(f'{gid} {gid} 1')
    commit()


# Not Alice: she could give herself any access. Not Bob: he knows what he wrote.
PEOPLE: dict[str, tuple[int, list[int]]] = {
    'a stranger': (EVE, []),
    'Carol': (CAROL, []),
    'Carol, of the team': (CAROL, [TEAM]),
    'one of the team': (DAVE, [TEAM]),
    "one of Bob's group": (DAVE, [BOB]),
    'an intern': (DAVE, [INTERNS]),
    "an intern of Bob's group": (DAVE, [INTERNS, BOB]),
    'an intern of the team': (DAVE, [INTERNS, TEAM]),
}


def access(folder: Path) -> set[tuple[str, str, str]]:
    """Find out who may do what: ask the kernel as each user."""

    def mine() -> list[tuple[str, str]]:
        rights = {'read': os.R_OK, 'write': os.W_OK, 'execute': os.X_OK}
        return [
            (right, path.name)
            for path in folder.iterdir()
            for right, bit in rights.items()
            if os.access(path, bit)
        ]

    return {
        (who, right, name)
        for who, (uid, groups) in PEOPLE.items()
        for right, name in in_child(mine, uid=uid, groups=groups)
    }


@root
@pytest.mark.parametrize('alone', [False, True], ids=['', 'alone'])
@pytest.mark.parametrize(
    ('mode', 'entries'),
    [
        pytest.param(None, None, id='all modes'),
        pytest.param(
            0o640, f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::---', id='Carol may'
        ),
        # Some have no access, although everybody else has:
        pytest.param(
            0o655, f'u::rw- u:{CAROL}:--- g::r-x m::r-x o::r-x', id='not Carol'
        ),
        pytest.param(
            0o644, f'u::rw- g::r-- g:{INTERNS}:--- m::r-- o::r--', id='not interns'
        ),
        pytest.param(
            0o604, f'u::rw- u:{CAROL}:r-- g::r-- m::--- o::r--', id='not the team'
        ),
        pytest.param(
            0o677, f'u::rw- g::rw- g:{INTERNS}:-wx m::rwx o::rwx', id='each other'
        ),
    ],
)
def test_nobody_gains_access_where_owner_and_group_cannot_be_kept(
    folder: Path, mode: int | None, entries: str | None, alone: bool
) -> None:
    if mode is None or entries is None:  # without a list, there is nothing else
        files = [File(0o600 | bits, ALICE, TEAM) for bits in range(0o100)]
    else:
        files = [File(mode, ALICE, TEAM, {ACCESS: acl(entries)})]
    stores = [a_store(folder, file, oct(file.mode)) for file in files]
    before = access(folder)

    def commit() -> None:
        for store in stores:
            store.commit()

    in_child(
        (lambda: in_a_namespace_without_others(commit)) if alone else commit, uid=BOB
    )
    assert {path.read_text() for path in folder.iterdir()} == {'"new"'}
    assert access(folder) - before == set()
    modes = [path.stat().st_mode & 0o700 for path in folder.iterdir()]
    assert modes == [0o600] * len(stores)  # the owner's are not lost


@root
@pytest.mark.parametrize(
    ('group', 'interns', 'mask', 'others', 'common', 'mode', 'becomes'),
    [
        ('rwx', 'rw-', 'rw-', 'r-x', 'r--', 0o265, 0o264),
        ('-wx', 'r-x', 'rwx', 'rwx', '--x', 0o277, 0o271),
        ('rwx', 'rwx', '-w-', 'rwx', '-w-', 0o227, 0o222),
    ],
)
def test_a_list_is_narrowed_to_what_all_groups_and_others_may(
    folder: Path,
    group: str,
    interns: str,
    mask: str,
    others: str,
    common: str,
    mode: int,
    becomes: int,
) -> None:
    entries = f'u::-w- u:{CAROL}:-wx g::%s g:{INTERNS}:{interns} m::{mask} o::%s'
    old, narrowed = acl(entries % (group, others)), acl(entries % (common, common))
    store = a_store(folder, File(mode, ALICE, TEAM, {ACCESS: old}))
    in_child(store.commit, uid=BOB)
    assert the_file(folder) == File(becomes, BOB, BOB, {ACCESS: narrowed})


@root
@command('setpriv')
@pytest.mark.parametrize('temporary_file', ['unnamed'], indirect=True)
def test_a_file_whose_mode_cannot_be_set_after_its_owner_stays_closed(
    folder: Path,
) -> None:
    a_store(folder, File(0o664, ALICE, TEAM))
    code = 'import atomic_store, sys; atomic_store.open(sys.argv[1]).commit()'
    drop = ['setpriv', '--bounding-set', '-all,+chown,+dac_override']
    subprocess.run(
        [*drop, sys.executable, '-P', '-c', code, folder / 'state.json'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        check=True,
    )
    assert the_file(folder) == File(0o600, ALICE, TEAM)


def chmod_at_another_time(path: Path, mode: int) -> None:
    """Change permissions and ctime, which has steps of 4 ms on some file systems."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(mode)


def before_each_look(
    monkeypatch: pytest.MonkeyPatch, path: Path, change: Callable[[int], None]
) -> None:
    """Call a function with 1, 2, ... whenever the old file's attributes are listed.

    At that time, its mode has been read.
    """
    listxattr, looks = os.listxattr, 0

    def change_first(file: Any, **kwargs: Any) -> list[str]:
        nonlocal looks
        if file == str(path):
            looks += 1
            change(looks)
        return listxattr(file, **kwargs)

    monkeypatch.setattr(os, 'listxattr', change_first)


def take_the_list_away(path: Path) -> None:
    os.removexattr(path, ACCESS)
    # Like setfacl -b, which leaves the group's own permissions.
    chmod_at_another_time(path, 0o600)


def put_an_older_folder_there(path: Path) -> None:
    path.parent.rename(path.parent.with_name('newer'))
    path.parent.with_name('older').rename(path.parent)


def stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything happen within one step of the ctime, as before Linux 6.13."""
    stat = os.stat

    def stat_at_the_same_time(path: Any, **kwargs: Any) -> os.stat_result:
        return os.stat_result(stat(path, **kwargs)[:10], {'st_ctime_ns': 0})

    monkeypatch.setattr(os, 'stat', stat_at_the_same_time)


@pytest.mark.parametrize(
    ('change', 'temporary_file', 'is_quick'),
    [
        (take_the_list_away, 'unnamed', False),
        (take_the_list_away, 'named', False),
        (take_the_list_away, 'copied', False),
        (put_an_older_folder_there, 'unnamed', False),
        (put_an_older_folder_there, 'unnamed', True),
    ],
    indirect=['temporary_file'],
)
def test_a_list_that_is_removed_between_two_looks_gives_no_access(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    is_quick: bool,
) -> None:
    (folder / 'older').mkdir()
    a_store(folder / 'older', File(0o600))
    (folder / 'folder').mkdir()
    path = folder / 'folder/state.json'
    entries = {ACCESS: acl(f'u::rw- u:{CAROL}:rw- g::--- m::rw- o::---')}
    store = a_store(path.parent, File(0o660, attributes=entries))
    chmod_at_another_time(path, 0o660)
    before_each_look(
        monkeypatch, path, lambda look: change(path) if look == 1 else None
    )
    if is_quick:
        stop_the_clock(monkeypatch)
    store.commit()
    monkeypatch.undo()
    assert the_file(path.parent) == File(0o600)


@pytest.mark.parametrize('temporary_file', ['unnamed'], indirect=True)
@pytest.mark.parametrize(
    ('changes', 'looks', 'mode'),
    [
        # The file is unchanged if two looks in a row find the same.
        pytest.param(_metadata._LOOKS - 2, _metadata._LOOKS - 1, 0o645, id='ends'),
        pytest.param(10_000, _metadata._LOOKS, 0o600, id='does not end'),
    ],
)
def test_a_file_that_keeps_changing_is_looked_at_a_few_times_then_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: int, looks: int, mode: int
) -> None:
    store = a_store(folder, File(0o645))
    path, seen = folder / 'state.json', []

    def change(look: int) -> None:
        seen.append(look)
        if look <= changes:
            chmod_at_another_time(path, 0o645)

    before_each_look(monkeypatch, path, change)
    store.commit()
    monkeypatch.undo()
    assert len(seen) == looks
    assert the_file(folder) == File(mode)


def seen_at_every_step(folder: Path, commit: Callable[[], None]) -> list[File]:
    """Commit, and look at each temporary file before each call of the commit."""
    seen: list[File] = []

    def look(_frame: Any, event: str, _function: Any) -> None:
        if event != 'c_call':
            return
        seen.extend(
            the_file(path.parent, path.name)
            for path in [*folder.glob('.*'), *Path('/proc/self/fd').glob('*')]
            if os.path.realpath(path).startswith(f'{folder}/') and path.is_file()
        )

    sys.setprofile(look)
    try:
        commit()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize(
    ('file', 'uid'),
    [
        pytest.param(File(0o640), USER, id='own file'),
        pytest.param(
            File(0o640, attributes=CAROL_MAY_READ), USER, id='own file with a list'
        ),
        pytest.param(
            File(0o640, ALICE, TEAM), None, id="another's, by root", marks=root
        ),
        pytest.param(File(0o664, ALICE, TEAM), DAVE, id="another's", marks=root),
        pytest.param(
            File(
                0o645,
                ALICE,
                TEAM,
                {ACCESS: acl(f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::r-x')},
            ),
            DAVE,
            id="another's, with a list",
            marks=root,
        ),
    ],
)
def test_the_content_is_never_open_to_more_people(
    folder: Path, file: File, uid: int | None
) -> None:
    store = a_store(folder, file)
    os.setxattr(folder, DEFAULT, FOR_ALL)
    seen = in_child(lambda: seen_at_every_step(folder, store.commit), uid=uid)
    now = the_file(folder)
    # Until it has its final permissions, no group, list or others may open it.
    assert [each for each in seen if each.mode & 0o077 and each != now] == []
    assert any(each.mode & 0o077 == 0 for each in seen)
