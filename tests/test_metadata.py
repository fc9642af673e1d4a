"""What a commit keeps of a file, what it gives to a new one, and what it cannot keep."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import command, in_child, root

import atomic_store

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)

pytestmark = pytest.mark.usefixtures('temporary_file')

ALICE, BOB, CAROL, DAVE, EVE = 70001, 70002, 70003, 70004, 70005
TEAM, INTERNS = 70010, 70020
# Somebody who is not root, to commit files that are their own.
USER = BOB if os.geteuid() == 0 else None

ACCESS, DEFAULT = 'system.posix_acl_access', 'system.posix_acl_default'
# CAP_NET_BIND_SERVICE, permitted and effective (linux/capability.h).
CAPABILITY = struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0)
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which everybody may write; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def a_store(
    folder: Path,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    attributes: dict[str, bytes] | None = None,
    name: str = 'state.json',
) -> atomic_store.AtomicStore:
    """Make a store with something to commit, and a file with something to keep."""
    path = folder / name
    store = atomic_store.open(path, 'new')  # before there is a file to be readable
    path.write_text('"old"')
    os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
    for attribute, content in (attributes or {}).items():
        os.setxattr(path, attribute, content)
    if mode is not None:
        path.chmod(mode)
    return store


def metadata(path: Path) -> tuple[int, int, int, dict[str, bytes]]:
    status = path.stat()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, attributes


def acl(text: str) -> bytes:
    """Pack an access control list (linux/posix_acl_xattr.h)."""
    packed = struct.pack('<I', 2)
    for entry in text.split():
        kind, name, permissions = entry.split(':')
        tag = {'u': 0x01, 'g': 0x04, 'm': 0x10, 'o': 0x20}[kind] << bool(name)
        bits = sum(
            bit for bit, c in zip((4, 2, 1), permissions, strict=True) if c != '-'
        )
        packed += struct.pack('<HHI', tag, bits, int(name or 0xFFFFFFFF))
    return packed


# Kept


@pytest.mark.parametrize(
    'mode', [0o600, 0o644, 0o755, 0o400, 0o000, 0o4755, 0o2755, 0o1644, 0o7777], ids=oct
)
def test_permission_bits_are_kept(folder: Path, mode: int) -> None:
    store = a_store(folder, mode, USER, USER)
    in_child(store.commit, uid=USER)
    assert metadata(folder / 'state.json')[0] == mode


@root
@pytest.mark.parametrize('mode', [0o640, 0o6755, 0o000], ids=oct)
def test_owner_and_group_are_kept(folder: Path, mode: int) -> None:
    a_store(folder, mode, ALICE, TEAM).commit()
    assert metadata(folder / 'state.json') == (mode, ALICE, TEAM, {})


@root
def test_the_group_is_kept_where_the_process_is_a_member(folder: Path) -> None:
    store = a_store(folder, 0o2640, ALICE, TEAM)
    in_child(store.commit, uid=BOB, groups=[TEAM])
    assert metadata(folder / 'state.json') == (0o2640, BOB, TEAM, {})


@pytest.mark.parametrize(
    'entries',
    [
        f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::---',
        f'u::rwx u:{CAROL}:rwx g::--- g:{INTERNS}:r-x m::--- o::r--',
    ],
)
def test_an_access_control_list_is_kept(folder: Path, entries: str) -> None:
    store = a_store(folder, None, USER, USER, {ACCESS: acl(entries)})
    before = metadata(folder / 'state.json')
    in_child(store.commit, uid=USER)
    assert metadata(folder / 'state.json') == before
    assert before[3][ACCESS] == acl(entries)


def test_extended_attributes_are_kept(folder: Path) -> None:
    attributes = {'user.note': b'\0 any bytes \xff', 'user.empty': b''}
    store = a_store(folder, 0o444, USER, USER, attributes)
    in_child(store.commit, uid=USER)
    assert metadata(folder / 'state.json')[3] == attributes


def test_attributes_are_kept_beside_an_access_control_list_that_forbids_to_write(
    folder: Path,
) -> None:
    entries = acl(f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::---')
    store = a_store(folder, 0o440, USER, USER, {ACCESS: entries, 'user.note': b'kept'})
    before = metadata(folder / 'state.json')
    in_child(store.commit, uid=USER)
    assert metadata(folder / 'state.json') == before


@root
def test_attributes_of_the_system_are_kept_by_root(folder: Path) -> None:
    attributes = {
        'trusted.note': b'for root only',
        'security.note': b'any',
        'security.capability': CAPABILITY,
    }
    a_store(folder, 0o755, ALICE, TEAM, attributes).commit()
    assert metadata(folder / 'state.json') == (0o755, ALICE, TEAM, attributes)


def test_nothing_is_added_that_the_folder_hands_to_a_new_file(folder: Path) -> None:
    store = a_store(folder, 0o640)
    before = metadata(folder / 'state.json')
    entries = f'u::rw- u:{CAROL}:rw- g::rw- m::rw- o::r--'
    os.setxattr(folder, DEFAULT, acl(entries))
    store.commit()
    assert metadata(folder / 'state.json') == before
    assert not before[3]


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
    assert metadata(folder / 'state.json') == metadata(folder / 'plain')


@root
def test_a_new_file_gets_the_group_of_a_set_group_id_folder(folder: Path) -> None:
    os.chown(folder, -1, TEAM)
    folder.chmod(0o2777)
    store = atomic_store.open(folder / 'state.json', 'new')
    in_child(store.commit, uid=BOB)
    assert metadata(folder / 'state.json')[1:3] == (BOB, TEAM)


def test_the_umask_is_never_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, 'umask')
    store = atomic_store.open(folder / 'state.json', 'new')
    store.commit()  # a new file
    store.commit()  # an old one


# Not kept


def test_the_modification_time_is_now(folder: Path) -> None:
    store = a_store(folder)
    os.utime(folder / 'state.json', (0, 0))
    (folder / 'before').touch()
    store.commit()
    (folder / 'after').touch()
    before, now, after = (
        (folder / name).stat().st_mtime_ns for name in ('before', 'state.json', 'after')
    )
    assert before <= now <= after


def test_hard_links_are_cut(folder: Path) -> None:
    store = a_store(folder)
    os.link(folder / 'state.json', folder / 'other')
    store.commit()
    assert (folder / 'state.json').read_text() == '"new"'
    assert (folder / 'other').read_text() == '"old"'


def test_the_inode_changes_and_who_has_the_old_file_open_keeps_it(folder: Path) -> None:
    store = a_store(folder)
    with open(folder / 'state.json') as file:
        store.commit()
        assert file.read() == '"old"'
        assert os.fstat(file.fileno()).st_ino != (folder / 'state.json').stat().st_ino


@command('chattr')
def test_the_flags_of_chattr_are_not_kept(folder: Path) -> None:
    store = a_store(folder)
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
def test_owner_and_group_are_not_kept_where_that_is_not_allowed(
    folder: Path, mode: int, becomes: int, group: int
) -> None:
    """Group and others keep what both had: who belongs to which has changed."""
    store = a_store(folder, mode, ALICE, TEAM)
    in_child(store.commit, uid=BOB, gid=group)
    assert metadata(folder / 'state.json') == (becomes, BOB, group, {})
    assert (folder / 'state.json').read_text() == '"new"'


@root
@pytest.mark.parametrize('owner', [ALICE, EVE])
def test_the_set_user_id_bit_goes_with_the_owner(folder: Path, owner: int) -> None:
    store = a_store(folder, 0o6755, owner, TEAM)
    in_child(store.commit, uid=BOB, groups=[TEAM])
    assert metadata(folder / 'state.json') == (0o2755, BOB, TEAM, {})


@root
@command('setpriv')
def test_a_file_that_may_be_given_to_its_owner_but_then_not_be_opened_is_closed(
    folder: Path,
) -> None:
    a_store(folder, 0o664, ALICE, TEAM)
    code = 'import atomic_store, sys; atomic_store.open(sys.argv[1]).commit()'
    drop = ['setpriv', '--bounding-set', '-all,+chown,+dac_override']
    subprocess.run(
        [*drop, sys.executable, '-P', '-c', code, folder / 'state.json'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        check=True,
    )
    assert metadata(folder / 'state.json') == (0o600, ALICE, TEAM, {})


@root
def test_attributes_are_not_kept_where_they_cannot_be_read(folder: Path) -> None:
    attributes = {'user.note': b'for Alice', 'trusted.note': b'for root'}
    store = a_store(folder, 0o600, ALICE, TEAM, attributes)
    in_child(store.commit, uid=BOB)
    assert metadata(folder / 'state.json') == (0o600, BOB, BOB, {})


def test_what_lies_in_the_way_of_the_temporary_file_is_not_written_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(folder)
    (folder / 'other').write_text('other')
    monkeypatch.setattr(os, 'urandom', bytes)
    (folder / f'.atomic_store-{"0" * 32}.tmp').symlink_to('other')
    with pytest.raises(FileExistsError):
        store.commit()
    assert (folder / 'other').read_text() == 'other'
    assert (folder / 'state.json').read_text() == '"old"'


def test_permissions_that_change_during_a_commit_are_kept(folder: Path) -> None:
    path = folder / 'state.json'
    store = a_store(folder, 0o644)

    def dump(value: str, file: Any) -> None:
        file.write(value)
        path.chmod(0o600)

    store.format = SimpleNamespace(dump=dump, load=None)
    store.commit()
    assert (metadata(path)[0], path.read_text()) == (0o600, 'new')


@root
def test_attributes_are_not_kept_where_they_cannot_be_set(folder: Path) -> None:
    store = a_store(folder, 0o644, ALICE, TEAM, {'security.capability': CAPABILITY})
    in_child(store.commit, uid=BOB)
    assert metadata(folder / 'state.json') == (0o644, BOB, BOB, {})


# Nobody gains access


def in_a_namespace_without_others(commit: Callable[[], None]) -> None:
    """Commit where no user but this one has a number, as in a container.

    There, chown(2) and setting an access control list fail with EINVAL.
    """
    uid, gid = os.getuid(), os.getgid()
    LIBC.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, else /proc/self belongs to root
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
    """Find out who may do what, by asking the kernel as each of them."""

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
def test_capabilities_of_another_namespace_are_not_kept(folder: Path) -> None:
    theirs = struct.pack('<6I', 0x03000001, 1 << 10, 0, 0, 0, ALICE)
    store = a_store(folder, 0o640, BOB, BOB, {'security.capability': theirs})
    in_child(lambda: in_a_namespace_without_others(store.commit), uid=BOB)
    assert metadata(folder / 'state.json') == (0o640, BOB, BOB, {})


@root
@pytest.mark.parametrize('alone', [False, True], ids=['', 'alone'])
@pytest.mark.parametrize(
    'entries',
    [
        pytest.param(None, id='all modes'),
        pytest.param(f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::---', id='Carol may'),
        # Those who may not, although everybody else may:
        pytest.param(f'u::rw- u:{CAROL}:--- g::r-x m::r-x o::r-x', id='not Carol'),
        pytest.param(f'u::rw- g::r-- g:{INTERNS}:--- m::r-- o::r--', id='not interns'),
        pytest.param(f'u::rw- u:{CAROL}:r-- g::r-- m::--- o::r--', id='not the team'),
        pytest.param(f'u::rw- g::rw- g:{INTERNS}:-wx m::rwx o::rwx', id='each other'),
    ],
)
def test_nobody_gains_access_where_owner_and_group_cannot_be_kept(
    folder: Path, entries: str | None, alone: bool
) -> None:
    if entries is None:  # all that group and others may have without a list
        modes = [0o600 | bits for bits in range(0o100)]
        stores = [a_store(folder, mode, ALICE, TEAM, name=oct(mode)) for mode in modes]
    else:
        stores = [a_store(folder, None, ALICE, TEAM, {ACCESS: acl(entries)})]
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
    ('group', 'interns', 'mask', 'others', 'common', 'mode'),
    [
        ('rwx', 'rw-', 'rw-', 'r-x', 'r--', 0o264),
        ('-wx', 'r-x', 'rwx', 'rwx', '--x', 0o271),
        ('rwx', 'rwx', '-w-', 'rwx', '-w-', 0o222),
    ],
)
def test_a_list_is_narrowed_to_what_all_but_its_users_may(
    folder: Path,
    group: str,
    interns: str,
    mask: str,
    others: str,
    common: str,
    mode: int,
) -> None:
    entries = f'u::-w- u:{CAROL}:-wx g::%s g:{INTERNS}:{interns} m::{mask} o::%s'
    old, narrowed = acl(entries % (group, others)), acl(entries % (common, common))
    store = a_store(folder, None, ALICE, TEAM, {ACCESS: old})
    in_child(store.commit, uid=BOB)
    assert metadata(folder / 'state.json') == (mode, BOB, BOB, {ACCESS: narrowed})


def chmod_at_another_time(path: Path, mode: int) -> None:
    """Change permissions and the ctime, of which some file systems have 4 ms steps."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(mode)


def take_the_list_away(path: Path) -> None:
    os.removexattr(path, ACCESS)
    # As setfacl -b does: to the group's own permissions.
    chmod_at_another_time(path, 0o600)


def put_an_older_folder_there(path: Path) -> None:
    path.parent.rename(path.parent.with_name('newer'))
    path.parent.with_name('older').rename(path.parent)


@pytest.mark.parametrize(
    ('change', 'temporary_file'),
    [
        (take_the_list_away, 'unnamed'),
        (take_the_list_away, 'named'),
        (take_the_list_away, 'copied'),
        (put_an_older_folder_there, 'unnamed'),
    ],
    indirect=['temporary_file'],
)
def test_a_list_that_goes_between_two_looks_opens_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    (folder / 'older').mkdir()
    (folder / 'older/state.json').touch(0o600)
    (folder / 'folder').mkdir()
    path = folder / 'folder/state.json'
    entries = acl(f'u::rw- u:{CAROL}:rw- g::--- m::rw- o::---')
    store = a_store(path.parent, None, attributes={ACCESS: entries})
    chmod_at_another_time(path, 0o660)
    listxattr, looks = os.listxattr, []

    def change_before_the_second_look(file: Any) -> list[str]:
        looks.append(file)
        if looks.count(str(path)) == 2 and ACCESS in listxattr(path):
            change(path)
        return listxattr(file)

    monkeypatch.setattr(os, 'listxattr', change_before_the_second_look)
    store.commit()
    assert looks.count(str(path)) > 2
    assert metadata(path) == (0o600, path.stat().st_uid, path.stat().st_gid, {})


@pytest.mark.parametrize('temporary_file', ['unnamed'], indirect=True)
def test_a_file_that_keeps_changing_is_looked_at_until_it_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / 'state.json'
    store = a_store(folder, 0o600)
    listxattr, changes = os.listxattr, iter(range(sys.getrecursionlimit()))

    def change_before_each_look(file: Any) -> list[str]:
        if file == str(path) and next(changes, None) is not None:
            chmod_at_another_time(path, path.stat().st_mode ^ 0o040)
        return listxattr(file)

    monkeypatch.setattr(os, 'listxattr', change_before_each_look)
    store.commit()
    assert next(changes, None) is None
    assert metadata(path)[0] == 0o600


def seen_at_every_step(folder: Path, commit: Callable[[], None]) -> list[Any]:
    """Commit, and look at each temporary file before each call that the commit makes."""
    seen: list[Any] = []

    def look(_frame: Any, event: str, _function: Any) -> None:
        if event != 'c_call':
            return
        seen.extend(
            metadata(path)
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
    ('mode', 'entries', 'uid'),
    [
        pytest.param(0o640, None, USER, id='own file'),
        pytest.param(0o640, None, None, id="another's, by root", marks=root),
        pytest.param(0o664, None, DAVE, id="another's", marks=root),
        pytest.param(
            None,
            f'u::rw- u:{CAROL}:r-- g::r-- m::r-- o::r-x',
            DAVE,
            id="another's, with a list",
            marks=root,
        ),
        pytest.param(
            None, f'u::rw- u:{CAROL}:r-- g::--- m::r-- o::---', USER, id='list'
        ),
    ],
)
def test_the_content_is_at_no_moment_open_to_more_people(
    folder: Path, mode: int | None, entries: str | None, uid: int | None
) -> None:
    owner, group = (uid, uid) if uid == USER else (ALICE, TEAM)
    attributes = {ACCESS: acl(entries)} if entries else {}
    store = a_store(folder, mode, owner, group, attributes)
    os.setxattr(folder, DEFAULT, acl(f'u::rwx u:{EVE}:rwx g::rwx m::rwx o::rwx'))
    seen = in_child(lambda: seen_at_every_step(folder, store.commit), uid=uid)
    now = metadata(folder / 'state.json')
    # Closed to group and others, those of a list included, until it is as it will be.
    assert [each for each in seen if each[0] & 0o077 and each != now] == []
    assert any(each[0] & 0o077 == 0 for each in seen)


# The temporary file


def test_the_temporary_file_has_no_name_or_is_hidden_and_says_whose_it_is(
    folder: Path, temporary_file: str
) -> None:
    seen: list[Path] = []
    store = a_store(folder)
    store.format = SimpleNamespace(
        dump=lambda value, file: seen.extend(folder.iterdir()), load=lambda file: None
    )
    store.commit()
    names = [path.name for path in seen if path.name != 'state.json']
    if temporary_file != 'named':
        assert names == []
    else:
        assert [name.startswith('.atomic_store-') for name in names] == [True]
    assert os.listdir(folder) == ['state.json']


def test_the_temporary_file_itself_takes_the_place_where_that_can_be(
    folder: Path, temporary_file: str
) -> None:
    files: list[tuple[str, int]] = []
    store = a_store(folder)
    store.format = SimpleNamespace(
        dump=lambda value, file: files.append(
            (file.name, os.stat(file.fileno()).st_ino)
        ),
        load=lambda file: None,
    )
    store.commit()
    ((name, inode),) = files
    assert name == ''  # to a format it never has a name
    is_itself = inode == (folder / 'state.json').stat().st_ino
    assert is_itself == (temporary_file != 'copied')
