"""What a commit keeps from the old file, what a new file gets, and what is not kept."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from people import (
    ACCESS,
    ALICE,
    ALL,
    ALONE,
    BOB,
    CAROL,
    CAROL_MAY_NOT,
    CAROL_MAY_READ,
    CONTAINER,
    DAVE,
    DEFAULT,
    EVE,
    FOR_ALL,
    INTERNS,
    TEAM,
    acl,
    in_a_namespace,
    who_may,
)
from support import (
    NOBODY,
    USER,
    call_libc,
    command,
    hide_proc,
    in_child,
    mounted,
    root,
)

import atomic_store
from atomic_store import _files, _metadata

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)

pytestmark = pytest.mark.usefixtures('temporary_file')

# The owner of a file, unless the test names another.
ME, MY_GROUP = (os.geteuid(), os.getegid()) if USER is None else (USER, USER)
# CAP_NET_BIND_SERVICE, permitted and effective (linux/capability.h).
CAPABILITY = {'security.capability': struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0)}
NOTE = {'user.note': b'\0 any bytes \xff'}
# Lists that let Carol do more or less than others.
CAROL_TOO = acl(f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::r-x')
NOBODY_WRITES = acl(f'u::r-- u:{CAROL}:r-- g::r-- m::r-- o::---')
MASKED = acl(f'u::rwx u:{CAROL}:rwx g::--- g:{INTERNS}:r-x m::--- o::r--')


class File(NamedTuple):
    """The metadata of a file."""

    mode: int
    uid: int = ME
    gid: int = MY_GROUP
    attributes: dict[str, bytes] = {}  # noqa: RUF012 - nothing changes it


def store_on(
    folder: Path, file: File, name: str = 'state.json'
) -> atomic_store.AtomicStore:
    """Make a file with this metadata, and a store with a value to commit."""
    path = folder / name
    store = atomic_store.open(path, 'new')  # first, because the file may be unreadable
    path.write_text('"old"')
    os.chown(path, file.uid, file.gid)
    for attribute, content in file.attributes.items():
        path.chmod(0o600)  # a list that is there already may forbid to write
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
    'file',
    [
        *map(File, [0o600, 0o644, 0o755, 0o400, 0o000, 0o4755, 0o2755, 0o1644, 0o7777]),
        File(0o640, attributes={ACCESS: CAROL_MAY_READ}),
        File(0o704, attributes={ACCESS: MASKED}),
        File(0o444, attributes={**NOTE, 'user.empty': b''}),
        File(0o440, attributes={ACCESS: NOBODY_WRITES, **NOTE}),
    ],
    ids=lambda file: oct(file.mode),
)
def test_mode_list_and_attributes_are_kept(folder: Path, file: File) -> None:
    store = store_on(folder, file)
    in_child(store.commit, uid=USER)
    assert the_file(folder) == file


@root
@pytest.mark.parametrize(
    'file',
    [
        *(File(mode, ALICE, TEAM) for mode in (0o640, 0o6755, 0o000)),
        File(0o6755, NOBODY, NOBODY),
        File(0o755, ALICE, TEAM, {**CAPABILITY, 'security.note': b'any'}),
        File(0o640, ALICE, TEAM, {ACCESS: CAROL_MAY_READ, 'trusted.note': b'any'}),
    ],
)
def test_root_keeps_owner_group_and_attributes_of_the_system(
    folder: Path, file: File
) -> None:
    store_on(folder, file).commit()
    assert the_file(folder) == file


@root
@pytest.mark.parametrize(
    ('group', 'own'),
    [(TEAM, BOB), (ALICE, BOB), (BOB, TEAM)],
    ids=['above its own', 'below', 'with the number of its user'],
)
def test_the_group_is_kept_where_the_process_is_a_member(
    folder: Path, group: int, own: int
) -> None:
    store = store_on(folder, File(0o2640, ALICE, group))
    in_child(store.commit, uid=BOB, gid=own, groups=[group])
    assert the_file(folder) == File(0o2640, BOB, group)


@root
@command('mkfs.ext4')
def test_attributes_that_fit_only_in_their_order_are_kept(
    folder: Path, tmp_path: Path
) -> None:
    """On ext4, some fit into the inode, and the others must fit into one block.

    Here, either of two fits into the inode. But if the smaller one is there, the block
    has no room for the larger one.
    """
    image = tmp_path / 'image'
    options = ['-q', '-b', '1024', '-I', '256', str(image), '2M']
    subprocess.run(['mkfs.ext4', *options], check=True, capture_output=True)
    with mounted(folder, '-o', 'loop', image):
        files: dict[str, File] = {}
        for larger, block, smaller in itertools.permutations('abc'):
            sizes = {larger: 60, block: 908, smaller: 20}
            attributes = {f'user.{name}': bytes(sizes[name]) for name in sizes}
            files[larger + block + smaller] = File(0o640, attributes=attributes)
        stores = [store_on(folder, file, name) for name, file in files.items()]
        # What the folder gives to new files takes the room in the inode.
        os.setxattr(folder, DEFAULT, FOR_ALL)
        for store in stores:
            store.commit()
        assert {name: the_file(folder, name) for name in files} == files


def test_nothing_is_added_that_the_folder_gives_to_new_files(folder: Path) -> None:
    store = store_on(folder, File(0o640))
    os.setxattr(folder, DEFAULT, FOR_ALL)
    in_child(store.commit, uid=USER)
    assert the_file(folder) == File(0o640)


@pytest.mark.parametrize(
    ('change', 'mode'),
    [
        pytest.param(lambda path, _: path.chmod(0o600), 0o600, id='changed'),
        pytest.param(lambda path, _: path.unlink(), 0o644, id='removed'),
        pytest.param(
            lambda _, patch: let_fail(patch, 'lstat', errno.EIO, str),
            0o644,
            id='hidden',
        ),
    ],
)
def test_permissions_are_looked_at_again_after_the_write(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], None],
    mode: int,
) -> None:
    def dump(value: str, file: Any) -> None:
        file.write(value)
        change(folder / 'state.json', monkeypatch)

    store = store_on(folder, File(0o644))
    store.format = SimpleNamespace(dump=dump, load=None)
    store.commit()
    monkeypatch.undo()
    assert the_file(folder) == File(mode)


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
    store = store_on(folder, file)
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


def test_a_new_file_follows_the_umask_where_files_without_a_name_ignore_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZFS does so, and Linux before 5.19 on file systems without ACLs."""
    open_file = os.open

    def open_without_umask(path: Any, flags: int, mode: int = 0) -> int:
        descriptor = open_file(path, flags, mode)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            os.fchmod(descriptor, mode)
        return descriptor

    def commit() -> None:
        monkeypatch.setattr(os, 'open', open_without_umask)
        os.umask(0o077)
        store.commit()

    store = atomic_store.open(folder / 'state.json', 'new')
    in_child(commit)
    assert the_file(folder).mode == 0o600


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
    store = store_on(folder, File(0o644))
    os.utime(folder / 'state.json', (0, 0))
    (folder / 'before').touch()
    store.commit()
    (folder / 'after').touch()
    before, now, after = (
        (folder / name).stat().st_mtime_ns for name in ('before', 'state.json', 'after')
    )
    assert before <= now <= after


def test_an_open_file_and_a_hard_link_stay_the_old_one(folder: Path) -> None:
    path, other = folder / 'state.json', folder / 'other'
    store = store_on(folder, File(0o644))
    os.link(path, other)
    with open(path) as file:
        store.commit()
        assert (path.read_text(), file.read()) == ('"new"', '"old"')
    assert other.read_text() == '"old"'


@command('chattr')
def test_the_flags_of_chattr_are_not_kept(folder: Path) -> None:
    store = store_on(folder, File(0o644))
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
    store = store_on(folder, File(mode, ALICE, TEAM))
    in_child(store.commit, uid=BOB, gid=group)
    assert the_file(folder) == File(becomes, BOB, group)


@root
@pytest.mark.parametrize('owner', [ALICE, EVE])
def test_the_set_user_id_bit_goes_with_the_owner(folder: Path, owner: int) -> None:
    store = store_on(folder, File(0o6755, owner, TEAM))
    in_child(store.commit, uid=BOB, groups=[TEAM])
    assert the_file(folder) == File(0o2755, BOB, TEAM)


@root
@pytest.mark.parametrize(
    'file',
    [
        File(0o600, ALICE, TEAM, {**NOTE, 'trusted.note': b'for root'}),
        File(0o644, ALICE, TEAM, CAPABILITY),
        File(0o644, ALICE, TEAM, {'security.oracle': b'no list, but has acl in it'}),
    ],
)
def test_attributes_are_not_kept_where_they_cannot_be_set(
    folder: Path, file: File
) -> None:
    store = store_on(folder, file)
    in_child(store.commit, uid=BOB)
    assert the_file(folder) == File(file.mode, BOB, BOB)


@root
def test_capabilities_of_another_namespace_are_not_kept(folder: Path) -> None:
    theirs = struct.pack('<6I', 0x03000001, 1 << 10, 0, 0, 0, ALICE)
    store = store_on(folder, File(0o640, BOB, BOB, {'security.capability': theirs}))
    in_a_namespace(store.commit, ALONE, BOB)
    assert the_file(folder) == File(0o640, BOB, BOB)


@root
@command('bindfs')
@pytest.mark.parametrize('option', ['--xattr-ro', '--xattr-none'])
def test_the_mode_is_kept_on_a_file_system_without_attributes(
    folder: Path, option: str
) -> None:
    (folder / 'source').mkdir()
    (folder / 'shown').mkdir()
    store_on(folder / 'source', File(0o640, attributes=NOTE))
    subprocess.run(['bindfs', option, folder / 'source', folder / 'shown'], check=True)
    try:
        atomic_store.open(folder / 'shown/state.json').commit()
    finally:
        subprocess.run(['umount', '-l', folder / 'shown'], check=True)
    assert the_file(folder / 'source') == File(0o640)


# What the system refuses


def let_fail(
    patch: pytest.MonkeyPatch, function: str, number: int, kind: type = int
) -> None:
    """Make a function of `os` fail for descriptors, or for paths if `kind` is str."""
    call = getattr(os, function)

    def refused(file: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, kind):
            raise OSError(number, os.strerror(number))
        return call(file, *args, **kwargs)

    patch.setattr(os, function, refused)


@pytest.mark.parametrize('number', [errno.EIO, errno.EPERM, errno.ENOENT, 524])
@pytest.mark.parametrize(
    ('call', 'mode', 'becomes'),
    [
        # The new file may have an access control list, from its folder.
        ('listxattr', 0o640, 0o600),
        ('listxattr', 0o644, 0o644),
        ('fstat', 0o640, 0o600),
        ('fstat', 0o664, 0o644),
        ('fchmod', 0o640, 0o600),
    ],
)
def test_metadata_that_is_refused_is_left_out_and_nobody_gains_access(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    mode: int,
    becomes: int,
    number: int,
) -> None:
    """Of the calls that test_refusals cannot tell apart."""
    store = store_on(folder, File(mode, attributes=NOTE))
    with monkeypatch.context() as patch:
        let_fail(patch, call, number)
        store.commit()
    assert (folder / 'state.json').read_text() == '"new"'
    assert the_file(folder) == File(becomes, attributes=NOTE)


@pytest.mark.parametrize('uid', [USER, pytest.param(BOB, marks=root)])
def test_a_malformed_list_closes_the_file_to_all_but_its_owner(
    folder: Path, monkeypatch: pytest.MonkeyPatch, uid: int | None
) -> None:
    store = store_on(
        folder, File(0o644, attributes={ACCESS: acl('u::rw- g::r-- m::r-- o::r--')})
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, 'getxattr', lambda *args, **kwargs: b'malformed')
        patch.setattr(os, 'listxattr', lambda *args, **kwargs: [ACCESS])
        in_child(store.commit, uid=uid)
    assert the_file(folder) == File(0o600, uid or ME, uid or MY_GROUP)


@root
@pytest.mark.parametrize('uid', [None, BOB], ids=['by root', 'by another'])
@pytest.mark.parametrize('owner', [0, 1])
def test_an_owner_that_cannot_be_read_counts_as_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, owner: int, uid: int | None
) -> None:
    store = store_on(folder, File(0o6664, owner, owner))
    with monkeypatch.context() as patch:
        let_fail(patch, 'fstat', errno.EIO)
        in_child(store.commit, uid=uid)
    keeper = owner if uid is None else uid
    assert the_file(folder) == File(0o644, keeper, keeper)


def test_a_list_from_the_folder_that_cannot_be_removed_gives_no_access(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_on(folder, File(0o640))
    os.setxattr(folder, DEFAULT, FOR_ALL)
    with monkeypatch.context() as patch:
        let_fail(patch, 'removexattr', errno.EIO)
        store.commit()
    assert the_file(folder).mode == 0o600  # which is the mask: Eve has no access


# Nobody gains access


@root
def test_a_group_that_has_no_number_in_a_container_is_unknown(folder: Path) -> None:
    """There, it cannot be told from the group that the folder gives to new files."""
    store = store_on(folder, File(0o660, BOB, TEAM))
    os.chown(folder, -1, INTERNS)
    folder.chmod(0o2777)
    in_a_namespace(store.commit, ALONE, BOB)
    assert the_file(folder) == File(0o600, BOB, INTERNS)


@root
@pytest.mark.parametrize(
    ('numbers', 'file', 'becomes'),
    [
        (CONTAINER, File(0o4755, ALICE, TEAM), File(0o755, BOB, TEAM)),
        (CONTAINER, File(0o2664, BOB, ALICE), File(0o644, BOB, BOB)),
        (ALL, File(0o6755, NOBODY, NOBODY), File(0o6755, NOBODY, NOBODY)),
    ],
)
def test_in_a_container_who_has_a_number_is_kept_and_nobody_stands_for_no_other(
    folder: Path, numbers: str, file: File, becomes: File
) -> None:
    store = store_on(folder, file)
    in_a_namespace(store.commit, numbers)
    assert the_file(folder) == becomes


@root
def test_where_nobody_can_tell_who_has_a_number_nobody_is_unknown(folder: Path) -> None:
    def commit() -> None:
        hide_proc()
        _files._overflow_id.cache_clear()
        store.commit()

    store = store_on(folder, File(0o6754, NOBODY, NOBODY))
    in_child(commit)
    assert the_file(folder) == File(0o744, 0, 0)


@root
@pytest.mark.parametrize(
    'group', [BOB, INTERNS, None], ids=['', 'group with a higher number', 'alone']
)
@pytest.mark.parametrize(
    ('mode', 'entries'),
    [
        (None, None),  # all modes
        (0o640, f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::---'),
        # Some have no access, although everybody else has.
        (0o655, f'u::rw- u:{CAROL}:--- g::r-x m::r-x o::r-x'),
        (0o644, f'u::rw- g::r-- g:{INTERNS}:--- m::r-- o::r--'),
        (0o604, f'u::rw- u:{CAROL}:r-- g::r-- m::--- o::r--'),
        (0o677, f'u::rw- g::rw- g:{INTERNS}:-wx m::rwx o::rwx'),
    ],
)
def test_nobody_gains_access_where_owner_and_group_cannot_be_kept(
    folder: Path, mode: int | None, entries: str | None, group: int | None
) -> None:
    if mode is None or entries is None:  # without a list, there is nothing else
        files = [File(0o600 | bits, ALICE, TEAM) for bits in range(0o100)]
    else:
        files = [File(mode, ALICE, TEAM, {ACCESS: acl(entries)})]
    stores = [store_on(folder, file, oct(file.mode)) for file in files]
    before = who_may(folder.iterdir())

    def commit() -> None:
        for store in stores:
            store.commit()

    if group is None:
        in_a_namespace(commit, ALONE, BOB)
    else:
        in_child(commit, uid=BOB, gid=group)
    assert {path.read_text() for path in folder.iterdir()} == {'"new"'}
    assert who_may(folder.iterdir()) - before == set()
    modes = {
        path.stat().st_mode & (0o777 if entries else 0o700) for path in folder.iterdir()
    }
    assert modes == {0o600}  # the owner loses nothing


@root
@command('setpriv')
@pytest.mark.parametrize('temporary_file', ['unnamed'], indirect=True)
@pytest.mark.parametrize('others', ['+dac_override', '+setuid,+setgid'])
@pytest.mark.parametrize(
    'attributes', [NOTE, {ACCESS: CAROL_MAY_NOT}], ids=['attribute', 'list']
)
def test_a_program_that_may_not_set_the_mode_of_a_file_it_gave_away_keeps_it(
    folder: Path, attributes: dict[str, bytes], others: str
) -> None:
    """In many containers, root has CAP_CHOWN, but neither CAP_FOWNER nor all others."""
    store_on(folder, File(0o644, ALICE, TEAM, attributes))
    code = (
        'import atomic_store, sys; atomic_store.open(sys.argv[1]).commit();'
        'atomic_store.open(sys.argv[1])'
    )
    drop = ['setpriv', f'--bounding-set=-all,+chown,{others}']
    subprocess.run(
        [*drop, sys.executable, '-P', '-c', code, folder / 'state.json'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        check=True,
    )
    assert the_file(folder) == File(0o644, 0, TEAM, attributes)


# The number of the system call fchmod.
FCHMOD = {'x86_64': 91, 'aarch64': 52, 'riscv64': 52}.get(platform.machine())


def refuse_set_id_bits() -> None:
    """Make fchmod refuse them from now on, as systemd's RestrictSUIDSGID= does."""
    code = b''.join(
        struct.pack('HBBI', *instruction)  # linux/filter.h, linux/seccomp.h
        for instruction in [
            (0x20, 0, 0, 0),  # load the number of the call
            (0x15, 0, 3, FCHMOD),  # if it is another, allow it
            (0x20, 0, 0, 24),  # load the mode, which is the second argument
            (0x45, 0, 1, stat.S_ISUID | stat.S_ISGID),  # if it has neither, allow it
            (0x06, 0, 0, 0x50000 | errno.EPERM),
            (0x06, 0, 0, 0x7FFF0000),  # allow
        ]
    )
    instructions = ctypes.create_string_buffer(code)
    program = struct.pack('HP', len(code) // 8, ctypes.addressof(instructions))
    call_libc('prctl', 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    call_libc('prctl', 22, 2, program)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


@pytest.mark.skipif(FCHMOD is None, reason='needs another number')
@pytest.mark.parametrize('mode', [0o2664, 0o4755, 0o6755], ids=oct)
def test_where_set_id_bits_are_refused_the_others_are_kept(
    folder: Path, mode: int
) -> None:
    def commit() -> None:
        refuse_set_id_bits()
        with pytest.raises(PermissionError):
            os.fchmod(os.open(folder / 'state.json', os.O_RDONLY), mode)
        store.commit()

    store = store_on(folder, File(mode))
    in_child(commit, uid=USER)
    assert the_file(folder) == File(mode & 0o777)


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
    lstat = os.lstat

    def lstat_at_the_same_time(path: Any, **kwargs: Any) -> os.stat_result:
        return os.stat_result(lstat(path, **kwargs)[:10], {'st_ctime_ns': 0})

    monkeypatch.setattr(os, 'lstat', lstat_at_the_same_time)


@pytest.mark.parametrize(
    ('change', 'temporary_file', 'is_quick'),
    [
        (take_the_list_away, 'unnamed', False),
        (take_the_list_away, 'named', False),
        (take_the_list_away, 'copied', False),
        (put_an_older_folder_there, 'unnamed', False),
        pytest.param(put_an_older_folder_there, 'unnamed', True, marks=root),
    ],
    indirect=['temporary_file'],
)
def test_a_list_that_is_removed_between_two_looks_gives_no_access(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    is_quick: bool,
) -> None:
    # If the clock stands still, its inode alone tells it from the other file.
    older = File(0o660, ALICE, INTERNS) if is_quick else File(0o600)
    (folder / 'older').mkdir()
    store_on(folder / 'older', older)
    (folder / 'folder').mkdir()
    path = folder / 'folder/state.json'
    entries = {ACCESS: acl(f'u::rw- u:{CAROL}:rw- g::--- m::rw- o::---')}
    store = store_on(path.parent, File(0o660, attributes=entries))
    chmod_at_another_time(path, 0o660)
    before_each_look(
        monkeypatch, path, lambda look: change(path) if look == 1 else None
    )
    if is_quick:
        stop_the_clock(monkeypatch)
    store.commit()
    monkeypatch.undo()
    assert the_file(path.parent) == older


RESTLESS = File(0o645, attributes={ACCESS: CAROL_TOO})


@pytest.mark.parametrize('temporary_file', ['unnamed'], indirect=True)
@pytest.mark.parametrize(
    ('changes', 'looks', 'becomes'),
    [
        # The file is unchanged if two looks in a row find the same.
        (_metadata._LOOKS - 2, _metadata._LOOKS - 1, RESTLESS),
        (10_000, _metadata._LOOKS, File(0o600)),
    ],
    ids=['ends', 'does not end'],
)
def test_a_file_that_keeps_changing_is_looked_at_a_few_times_then_closed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: int,
    looks: int,
    becomes: File,
) -> None:
    store = store_on(folder, RESTLESS)
    path, seen = folder / 'state.json', []

    def change(look: int) -> None:
        seen.append(look)
        if look <= changes:
            chmod_at_another_time(path, RESTLESS.mode)

    before_each_look(monkeypatch, path, change)
    store.commit()
    monkeypatch.undo()
    assert len(seen) == looks
    assert the_file(folder) == becomes


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
        (File(0o640), USER),
        (File(0o640, attributes={ACCESS: CAROL_MAY_READ}), USER),
        pytest.param(File(0o640, ALICE, TEAM), None, marks=root),
        pytest.param(File(0o664, ALICE, TEAM), DAVE, marks=root),
        pytest.param(File(0o645, ALICE, TEAM, {ACCESS: CAROL_TOO}), DAVE, marks=root),
    ],
)
def test_the_content_is_never_open_to_more_people(
    folder: Path, file: File, uid: int | None
) -> None:
    store = store_on(folder, file)
    os.setxattr(folder, DEFAULT, FOR_ALL)
    seen = in_child(lambda: seen_at_every_step(folder, store.commit), uid=uid)
    now = the_file(folder)
    # Until it has its final permissions, no group, list or others may open it.
    assert [each for each in seen if each.mode & 0o077 and each != now] == []
    assert any(each.mode & 0o077 == 0 for each in seen)
