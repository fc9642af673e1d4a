"""A commit that fails for lack of space or permission loses nothing."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import (
    USER,
    a_store,
    command,
    commits,
    fails,
    in_child,
    mounted,
    root,
)

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)
import resource

pytestmark = pytest.mark.usefixtures('temporary_file')


# Space


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Leave no space on the file system."""
    files = [folder / str(number) for number in range(100)]
    with pytest.raises(OSError, match='No space left'):
        for file in files:
            file.write_bytes(bytes(50_000))
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


@root
@pytest.mark.parametrize('size', ['size=200k', 'nr_inodes=8'])
def test_a_full_file_system(tmp_path: Path, size: str) -> None:
    with mounted(tmp_path, '-t', 'tmpfs', '-o', size, 'tmpfs'):
        (tmp_path / 'store').mkdir()
        (tmp_path / 'others').mkdir()
        store = a_store(tmp_path / 'store')
        assert fails(store, errno.ENOSPC, full(tmp_path / 'others')) == []
        commits(store)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Forbid larger files. Python ignores the signal that the kernel sends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_size_limit(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    assert fails(store, errno.EFBIG, file_size_limit(1000)) == []
    commits(store)


# Permission


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o777)


def test_a_read_only_folder(folder: Path) -> None:
    store = a_store(folder)
    with forbidden(folder):
        in_child(lambda: fails(store, errno.EACCES), uid=USER)
    in_child(lambda: commits(store), uid=USER)


@root
def test_another_users_file_in_a_sticky_folder(folder: Path) -> None:
    folder.chmod(0o1777)
    store = a_store(folder)
    in_child(lambda: fails(store, errno.EPERM), uid=USER)
    folder.chmod(0o777)
    in_child(lambda: commits(store), uid=USER)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    subprocess.run(['mount', '-o', 'remount,bind,ro', folder], check=True)
    try:
        yield
    finally:
        subprocess.run(['mount', '-o', 'remount,bind,rw', folder], check=True)


@root
def test_a_read_only_mount(tmp_path: Path) -> None:
    with mounted(tmp_path, '--bind', tmp_path):
        store = a_store(tmp_path)
        assert fails(store, errno.EROFS, read_only(tmp_path)) == []
        commits(store)


@root
def test_a_file_that_is_mounted_itself(tmp_path: Path) -> None:
    """Containers mount single files like this. They cannot be replaced from inside."""
    (tmp_path / 'elsewhere').mkdir()
    store = a_store(tmp_path)
    (tmp_path / 'state.json').rename(tmp_path / 'elsewhere/state.json')
    (tmp_path / 'state.json').touch()
    mount = mounted(
        tmp_path / 'state.json', '--bind', tmp_path / 'elsewhere/state.json'
    )
    with mount:
        (hint,) = fails(store, errno.EBUSY)
    assert hint == 'the file is a mount point, as in containers: mount its folder'
    commits(store)


@contextmanager
def flagged(path: Path, flag: str) -> Iterator[None]:
    subprocess.run(['chattr', f'+{flag}', path], check=True)
    try:
        yield
    finally:
        subprocess.run(['chattr', f'-{flag}', path], check=True)


@root
@command('chattr')
@pytest.mark.parametrize('flag', ['i', 'a'], ids=['immutable', 'append-only'])
def test_a_file_that_must_not_be_replaced(tmp_path: Path, flag: str) -> None:
    store = a_store(tmp_path)
    assert fails(store, errno.EPERM, flagged(tmp_path / 'state.json', flag)) == []
    commits(store)
