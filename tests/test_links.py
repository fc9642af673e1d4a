"""Symbolic links are followed, and anything but a regular file is left alone."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import fails, left_alone, linux, mounted, names, posix, root

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


def test_a_link_into_a_missing_folder_is_an_error_of_the_commit(folders: Path) -> None:
    missing = folders / 'missing'
    (folders / 'links/state').symlink_to('../missing/state')
    store = atomic_store.open(folders / 'links/state', 'new')
    (hint,) = fails(store, errno.ENOENT)
    assert hint.startswith(f'the folder {os.fspath(missing)!r} does not exist')
    missing.mkdir()
    store.commit()
    assert (missing / 'state').read_text() == '"new"'


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


def a_device(kind: int, major: int, minor: int) -> Callable[[Path], None]:
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


@pytest.mark.parametrize('through_a_link', [False, True], ids=['', 'through a link'])
@pytest.mark.parametrize(
    ('make', 'number'),
    [
        pytest.param(Path.mkdir, errno.EISDIR, id='folder'),
        pytest.param(lambda path: os.mkfifo(path), errno.EINVAL, id='FIFO'),
        pytest.param(
            lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
            errno.EINVAL,
            id='socket',
        ),
        # The same device as /dev/null, but with its own node.
        pytest.param(
            a_device(stat.S_IFCHR, 1, 3), errno.EINVAL, id='null device', marks=root
        ),
        pytest.param(
            a_device(stat.S_IFBLK, 7, 250), errno.EINVAL, id='block device', marks=root
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
