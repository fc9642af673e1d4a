"""Symbolic links are followed, and anything but a regular file is left alone."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from people import ALICE, BOB, CONTAINER, in_a_namespace
from support import (
    beside,
    call_libc,
    fails,
    in_child,
    left_alone,
    linux,
    mounted,
    names,
    posix,
    root,
)

import atomic_store

pytestmark = posix


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder that contains one folder for links and one for their targets."""
    (tmp_path / 'links').mkdir()
    (tmp_path / 'files').mkdir()
    return tmp_path


LINKS: dict[str, list[tuple[str, str]]] = {
    'relative': [('links/state', '../files/state')],
    'absolute': [('links/state', '{folder}/files/state')],
    'chain': [('links/state', 'next'), ('links/next', '../files/state')],
    'chain through folders': [
        ('links/state', '{folder}/files/next'),
        ('files/next', '../links/last'),
        ('links/last', '../files/state'),
    ],
    'to a folder': [('links/folder', '../files'), ('links/state', 'folder/state')],
    'through a folder and back': [
        ('links/folder', '../files'),
        ('links/state', 'folder/../files/state'),
    ],
}


@linux
@pytest.mark.parametrize('name', ['a file', 'the file'])  # one sorts before the link
def test_a_link_to_a_file_without_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with open(tmp_path / name, 'w+') as file:
        file.write('"old"')
        file.flush()
        (tmp_path / 'link').symlink_to(f'/proc/self/fd/{file.fileno()}')
        store = atomic_store.open(tmp_path / 'link')
        (tmp_path / name).unlink()
        assert fails(store, errno.ENOENT) == []


@pytest.mark.parametrize('dangling', [False, True], ids=['', 'dangling'])
@pytest.mark.parametrize('links', LINKS.values(), ids=LINKS)
def test_links_stay_and_their_targets_are_replaced(
    folders: Path, links: list[tuple[str, str]], dangling: bool
) -> None:
    for link, target in links:
        (folders / link).symlink_to(target.format(folder=folders))
    if not dangling:
        (folders / 'files/state').write_text('"old"')
    store = atomic_store.open(folders / 'links/state', default='default')
    assert store.value == ('default' if dangling else 'old')
    before = {link: os.readlink(folders / link) for link, _ in links}
    store.value = 'new'
    store.commit()
    assert {link: os.readlink(folders / link) for link, _ in links} == before
    assert (folders / 'files/state').read_text() == '"new"'
    assert not (folders / 'files/state').is_symlink()
    assert {f'{path.parent.name}/{path.name}' for path in folders.glob('*/*')} == {
        *before,
        'files/state',
    }


@linux
@root
def test_a_link_that_the_kernel_does_not_follow_is_not_followed(folders: Path) -> None:
    links = folders / 'links'
    with mounted(links, '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs'):
        (links / 'state').symlink_to(folders / 'files/state')
        (folders / 'files/state').write_text('"old"')
        store = atomic_store.open(links / 'state')
        subprocess.run(['mount', '-o', 'remount,nosymfollow', links], check=True)
        with left_alone(folders):
            assert fails(store, errno.ELOOP) == []


def plant(link: Path, target: Path, owner: int) -> None:
    link.symlink_to(target)
    os.lchown(link, owner, owner)


@linux
@root
@pytest.mark.parametrize('is_direct', [True, False], ids=['', 'through another link'])
@pytest.mark.parametrize(
    ('folder_owner', 'mode', 'link_owner', 'uid', 'is_followed'),
    [
        pytest.param(0, 0o1777, ALICE, 0, False, id='of another user'),
        pytest.param(ALICE, 0o1777, BOB, 0, False, id='of a third user'),
        pytest.param(0, 0o1777, ALICE, BOB, False, id='not by root'),
        pytest.param(ALICE, 0o1777, ALICE, 0, True, id="of the folder's owner"),
        pytest.param(0, 0o1777, 0, BOB, True, id="of the folder's owner, root"),
        pytest.param(ALICE, 0o1777, BOB, BOB, True, id='own'),
        pytest.param(0, 0o777, ALICE, 0, True, id='not sticky'),
        pytest.param(0, 0o1775, ALICE, 0, True, id='not for all'),
    ],
)
def test_a_link_is_followed_where_the_kernel_protects_nobody_from_it(
    folder: Path,
    folder_owner: int,
    mode: int,
    link_owner: int,
    uid: int,
    is_followed: bool,
    is_direct: bool,
) -> None:
    """See proc(5), fs.protected_symlinks. It holds wherever that is set or not."""
    links, target = folder / 'links', folder / 'state'
    links.mkdir()
    os.chown(links, folder_owner, folder_owner)
    links.chmod(mode)
    (folder / 'way').symlink_to('links/state')
    store = atomic_store.open(links / 'state' if is_direct else folder / 'way', 'new')
    plant(links / 'state', target, link_owner)
    if is_followed:
        in_child(store.commit, uid=uid)
        assert target.read_text() == '"new"'
    else:
        assert in_child(lambda: fails(store, errno.EACCES), uid=uid) == []
        assert not target.exists()


@linux
@root
def test_in_a_container_a_link_of_an_unknown_user_is_not_followed(folder: Path) -> None:
    """There, neither the owner of the folder nor that of the link has a number."""
    links = folder / 'links'
    links.mkdir()
    os.chown(links, ALICE, ALICE)
    links.chmod(0o1777)
    store = atomic_store.open(links / 'state', 'new')
    plant(links / 'state', folder / 'state', ALICE - 1)
    assert in_a_namespace(lambda: fails(store, errno.EACCES), CONTAINER) == []
    assert not (folder / 'state').exists()


@linux
@root
def test_a_link_that_is_swapped_all_the_time_is_not_followed(folder: Path) -> None:
    """Somebody exchanges the link for a file of their own while root looks at it."""
    links, ours = folder / 'links', folder / 'ours'
    state, planted = links / 'state', links / 'planted'
    links.mkdir()
    links.chmod(0o1777)
    ours.write_text('"ours"')
    plant(planted, ours, ALICE)
    state.write_text('"theirs"')
    os.chown(state, ALICE, ALICE)

    def swap(pipe: Connection) -> None:
        os.setresgid(ALICE, ALICE, ALICE)
        os.setresuid(ALICE, ALICE, ALICE)
        here = ctypes.c_int(-100)  # AT_FDCWD, which is not used
        paths = here, bytes(planted), here, bytes(state)
        pipe.send('ready')
        while True:
            call_libc('renameat2', *paths, 2)  # RENAME_EXCHANGE
            if not planted.is_symlink() and not state.is_symlink():  # root replaced it
                planted.unlink()
                planted.symlink_to(ours)

    store = atomic_store.open(state, 'new')
    tally: Counter[str] = Counter()
    with beside(swap):
        for _ in range(500):
            try:
                store.commit()
                tally['commits'] += 1
            except OSError as error:
                tally[type(error).__name__] += 1
            assert ours.read_text() == '"ours"', tally
    print(f'\n{dict(tally)}')


@linux
@root
def test_a_file_of_another_mount_namespace_is_not_taken_for_ours(folder: Path) -> None:
    """Its path, as /proc/PID/fd has it, leads to a file of ours."""
    (folder / 'state.json').write_text('"ours"')

    def open_theirs(pipe: Connection) -> None:
        private = ctypes.c_ulong(0x44000)  # MS_REC | MS_PRIVATE
        call_libc('unshare', 0x00020000)  # CLONE_NEWNS
        call_libc('mount', None, b'/', None, private, None)
        call_libc('mount', b'tmpfs', bytes(folder), b'tmpfs', 0, None)
        (folder / 'state.json').write_text('"theirs"')
        with open(folder / 'state.json') as file:
            pipe.send(file.fileno())
            pipe.recv()

    with beside(open_theirs) as (process, descriptor):
        path = f'/proc/{process}/fd/{descriptor}'
        store = atomic_store.open(path)
        assert store.value == 'theirs'
        with left_alone(folder), pytest.raises(FileNotFoundError):
            store.commit()
        assert Path(path).read_text() == '"theirs"'


def test_a_link_changed_after_open_is_followed_to_its_new_target(
    folders: Path,
) -> None:
    link = folders / 'links/state'
    link.symlink_to('../files/one')
    store = atomic_store.open(link, 'new')
    link.unlink()
    link.symlink_to('../files/two')
    store.commit()
    assert names(folders / 'files') == ['two']


@linux
@pytest.mark.parametrize('dangling', [False, True], ids=['', 'dangling'])
def test_a_chain_of_links_is_followed_as_far_as_the_kernel_does(
    folders: Path, dangling: bool
) -> None:
    for number in range(1, 42):
        (folders / f'links/{number}').symlink_to(str(number - 1))
    if not dangling:
        (folders / 'links/0').write_text('"old"')
    too_long = atomic_store.open(folders / 'links/40', 'default')
    too_long.path = folders / 'links/41'
    assert fails(too_long, errno.ELOOP) == []
    with atomic_store.open(folders / 'links/40', 'default') as store:
        store.value = 'new'
    assert (folders / 'links/0').read_text() == '"new"'
    assert not (folders / 'links/0').is_symlink()


def test_a_loop_is_an_error_at_open_and_at_commit(folders: Path) -> None:
    store = atomic_store.open(folders / 'links/one', 'new')
    (folders / 'links/one').symlink_to('two')
    (folders / 'links/two').symlink_to('one')
    assert fails(store, errno.ELOOP) == []
    with pytest.raises(OSError, match='one') as raised:
        atomic_store.open(folders / 'links/one', 'default')
    assert raised.value.errno == errno.ELOOP


def a_node(kind: int, major: int = 0, minor: int = 0) -> Callable[[Path], None]:
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


@pytest.mark.parametrize('through_a_link', [False, True], ids=['', 'through a link'])
@pytest.mark.parametrize(
    ('make', 'number'),
    [
        pytest.param(Path.mkdir, errno.EISDIR, id='folder'),
        pytest.param(lambda path: os.mkfifo(path), errno.EINVAL, id='FIFO'),
        pytest.param(a_node(stat.S_IFSOCK), errno.EINVAL, id='socket'),
        # The same device as /dev/null, but with its own node.
        pytest.param(a_node(stat.S_IFCHR, 1, 3), errno.EINVAL, id='null', marks=root),
        pytest.param(
            a_node(stat.S_IFBLK, 7, 250), errno.EINVAL, id='block', marks=root
        ),
    ],
)
def test_anything_but_a_regular_file_is_refused_and_left_as_it_is(
    folders: Path, make: Callable[[Path], None], number: int, through_a_link: bool
) -> None:
    path, link = folders / 'files/state', folders / 'links/state'
    link.symlink_to(path)
    # Opened before the file exists: opening a FIFO waits for a writer.
    store = atomic_store.open(link if through_a_link else path, 'new')
    make(path)
    with left_alone(folders):
        assert fails(store, number) == []


def test_a_folder_is_refused_at_open(folders: Path) -> None:
    with pytest.raises(IsADirectoryError):
        atomic_store.open(folders, 'default')
