"""Symbolic links are followed, and what is no regular file is left alone."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import linux, mounted, root

import atomic_store

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a link in it, and another one for what the link leads to."""
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
def test_a_link_to_a_file_that_has_no_path_any_more_is_refused(
    tmp_path: Path, name: str
) -> None:
    with open(tmp_path / name, 'w+') as file:
        file.write('"old"')
        file.flush()
        (tmp_path / 'link').symlink_to(f'/proc/self/fd/{file.fileno()}')
        store = atomic_store.open(tmp_path / 'link')
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError):
            store.commit()
    assert os.listdir(tmp_path) == ['link']


@pytest.mark.parametrize('dangling', [False, True], ids=['', 'dangling'])
@pytest.mark.parametrize('links', LINKS.values(), ids=LINKS)
def test_links_stay_and_what_they_lead_to_is_replaced(
    folder: Path, links: list[tuple[str, str]], dangling: bool
) -> None:
    for link, target in links:
        (folder / link).symlink_to(target.format(folder=folder))
    if not dangling:
        (folder / 'files/state').write_text('"old"')
    store = atomic_store.open(folder / 'links/state', default='default')
    assert store.value == ('default' if dangling else 'old')
    before = {link: os.readlink(folder / link) for link, _ in links}
    store.value = 'new'
    store.commit()
    assert {link: os.readlink(folder / link) for link, _ in links} == before
    assert (folder / 'files/state').read_text() == '"new"'
    assert not (folder / 'files/state').is_symlink()
    assert {f'{path.parent.name}/{path.name}' for path in folder.glob('*/*')} == {
        *before,
        'files/state',
    }


@linux
@root
def test_a_link_that_the_kernel_does_not_follow_is_not_followed(folder: Path) -> None:
    links = folder / 'links'
    with mounted(links, '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs'):
        (links / 'state').symlink_to(folder / 'files/state')
        (folder / 'files/state').write_text('"old"')
        store = atomic_store.open(links / 'state')
        subprocess.run(['mount', '-o', 'remount,nosymfollow', links], check=True)
        with pytest.raises(OSError, match='links/state') as raised:
            store.commit()
    assert raised.value.errno == errno.ELOOP
    assert os.listdir(folder / 'files') == ['state']


def test_a_link_changed_between_open_and_commit_is_followed_to_where_it_leads_then(
    folder: Path,
) -> None:
    link = folder / 'links/state'
    link.symlink_to('../files/one')
    store = atomic_store.open(link, 'new')
    link.unlink()
    link.symlink_to('../files/two')
    store.commit()
    assert os.listdir(folder / 'files') == ['two']


def test_a_link_into_a_missing_folder_is_an_error_of_the_commit(folder: Path) -> None:
    (folder / 'links/state').symlink_to('../missing/state')
    store = atomic_store.open(folder / 'links/state', 'new')
    with pytest.raises(FileNotFoundError, match='missing'):
        store.commit()
    assert os.readlink(folder / 'links/state') == '../missing/state'
    (folder / 'missing').mkdir()
    store.commit()
    assert (folder / 'missing/state').read_text() == '"new"'


@linux
@pytest.mark.parametrize('dangling', [False, True], ids=['', 'dangling'])
def test_a_chain_of_links_is_followed_as_far_as_the_kernel_does(
    folder: Path, dangling: bool
) -> None:
    for number in range(1, 42):
        (folder / f'links/{number}').symlink_to(str(number - 1))
    if not dangling:
        (folder / 'links/0').write_text('"old"')
    too_long = atomic_store.open(folder / 'links/40', 'default')
    too_long.path = folder / 'links/41'
    with pytest.raises(OSError, match='41') as raised:
        too_long.commit()
    assert raised.value.errno == errno.ELOOP
    with atomic_store.open(folder / 'links/40', 'default') as store:
        store.value = 'new'
    assert (folder / 'links/0').read_text() == '"new"'
    assert not (folder / 'links/0').is_symlink()


def test_a_loop_is_an_error_at_open_and_at_commit(folder: Path) -> None:
    store = atomic_store.open(folder / 'links/one', 'new')
    (folder / 'links/one').symlink_to('two')
    (folder / 'links/two').symlink_to('one')
    for action in lambda: atomic_store.open(store.path, 'default'), store.commit:
        with pytest.raises(OSError, match='one') as raised:
            action()
        assert raised.value.errno == errno.ELOOP
    assert sorted(os.listdir(folder / 'links')) == ['one', 'two']
    assert os.readlink(folder / 'links/one') == 'two'


def a_device(kind: int, major: int, minor: int) -> Callable[[Path], None]:
    return lambda path: os.mknod(path, kind | 0o666, os.makedev(major, minor))


@pytest.mark.parametrize('through_a_link', [False, True], ids=['', 'through a link'])
@pytest.mark.parametrize(
    'make',
    [
        pytest.param(Path.mkdir, id='folder'),
        pytest.param(os.mkfifo, id='FIFO'),
        pytest.param(lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), id='socket'),
        # A node of one's own for what is behind /dev/null.
        pytest.param(a_device(stat.S_IFCHR, 1, 3), id='null device', marks=root),
        pytest.param(a_device(stat.S_IFBLK, 7, 250), id='block device', marks=root),
    ],
)
def test_what_is_no_regular_file_is_refused_and_left_as_it_is(
    folder: Path, make: Callable[[Path], None], through_a_link: bool
) -> None:
    path = folder / 'files/state'
    if through_a_link:
        (folder / 'links/state').symlink_to(path)
    # Opened before there is something: to open a FIFO waits for somebody to write.
    store = atomic_store.open(
        folder / 'links/state' if through_a_link else path, default='new'
    )
    make(path)
    before = path.lstat()
    with pytest.raises(OSError, match=r'regular file|directory') as raised:
        store.commit()
    assert raised.value.errno in {errno.EINVAL, errno.EISDIR}
    assert raised.value.__notes__ == [f'while committing {os.fspath(store.path)!r}']
    assert path.lstat() == before
    assert os.listdir(folder / 'files') == ['state']


def test_a_folder_is_refused_at_open(folder: Path) -> None:
    with pytest.raises(IsADirectoryError):
        atomic_store.open(folder, 'default')
