"""What a commit does without room, descriptors, permission, O_TMPFILE or /proc."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from support import NOBODY, command, in_child, linux, mounted, root

import atomic_store

resource = pytest.importorskip('resource', reason='needs POSIX')
pytestmark = [linux, pytest.mark.usefixtures('temporary_file')]

USER = NOBODY if os.geteuid() == 0 else None  # somebody who is not root
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the user's; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name, 'folder')
        folder.mkdir()
        if USER is not None:
            os.chown(folder, USER, USER)
        yield folder


def a_store(folder: Path) -> atomic_store.AtomicStore:
    """Make a store with an old value in its file, and a long new one to commit."""
    store = atomic_store.open(folder / 'state.json', 'old')
    store.commit()
    store.value = 'new' * 10_000
    return store


def fails(
    store: atomic_store.AtomicStore,
    number: int,
    obstacle: AbstractContextManager[None] | None = None,
) -> None:
    """Commit, which is to end in this error and to leave everything as it was."""
    path = Path(os.fsdecode(store.path))

    def state() -> tuple[object, ...]:
        descriptors = len(os.listdir('/proc/self/fd'))
        return (
            path.read_text(),
            path.stat().st_ino,
            os.listdir(path.parent),
            descriptors,
        )

    before = state()
    its_own_type = type(OSError(number, ''))
    with (
        obstacle or nullcontext(),
        pytest.raises(its_own_type, match=os.strerror(number)) as raised,
    ):
        store.commit()
    assert raised.value.__notes__ == [f'while committing {os.fspath(path)!r}']
    assert state() == before
    assert path.read_text() == '"old"'


def works(store: atomic_store.AtomicStore) -> None:
    store.commit()
    path = Path(os.fsdecode(store.path))
    assert path.read_text() == json.dumps(store.value)
    assert os.listdir(path.parent) == [path.name]


def named_during_commit(store: atomic_store.AtomicStore) -> bool:
    """Commit, and find out whether there is a temporary file to be seen meanwhile."""
    names: list[str] = []

    def dump(value: object, file: IO[str]) -> None:
        names.extend(os.listdir(os.path.dirname(os.fsdecode(store.path))))
        json.dump(value, file)

    store.format = SimpleNamespace(dump=dump, load=json.load)
    works(store)
    return len(names) > 1


# Room


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Have no room left on the file system."""
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
        fails(store, errno.ENOSPC, full(tmp_path / 'others'))
        works(store)


@contextmanager
def limited(limit: int, to: int) -> Iterator[None]:
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (to, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit, before)


def test_a_file_size_limit(tmp_path: Path) -> None:
    """The signal that goes with it, SIGXFSZ, is ignored by Python."""
    store = a_store(tmp_path)
    fails(store, errno.EFBIG, limited(resource.RLIMIT_FSIZE, 1000))
    works(store)


# Descriptors


def lowest_free_descriptor() -> int:
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor


@pytest.mark.parametrize('left', [0, 1])
def test_too_few_descriptors_left(tmp_path: Path, left: int) -> None:
    """A commit needs one for the file and one for its folder, which it syncs."""
    store = a_store(tmp_path)
    limit = lowest_free_descriptor() + left
    fails(store, errno.EMFILE, limited(resource.RLIMIT_NOFILE, limit))
    works(store)


# Permission


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_a_read_only_folder(folder: Path) -> None:
    def commit() -> None:
        store = a_store(folder)
        fails(store, errno.EACCES, forbidden(folder))
        works(store)

    in_child(commit, uid=USER)


@root
def test_another_users_file_in_a_sticky_folder(folder: Path) -> None:
    os.chown(folder, 0, 0)
    folder.chmod(0o1777)
    store = a_store(folder)
    in_child(lambda: fails(store, errno.EPERM), uid=USER)
    folder.chmod(0o777)
    in_child(lambda: works(store), uid=USER)


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
        fails(store, errno.EROFS, read_only(tmp_path))
        works(store)


@root
def test_a_file_that_is_mounted_itself(tmp_path: Path) -> None:
    """As containers do with a single file; it cannot be replaced from in there."""
    store = a_store(tmp_path)
    (tmp_path / 'state.json').rename(tmp_path / 'elsewhere')
    (tmp_path / 'state.json').touch()
    with mounted(tmp_path / 'state.json', '--bind', tmp_path / 'elsewhere'):
        fails(store, errno.EBUSY)
    (tmp_path / 'elsewhere').unlink()
    works(store)


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
    fails(store, errno.EPERM, flagged(tmp_path / 'state.json', flag))
    works(store)


# Unnamed files


@contextmanager
def mounted_without_o_tmpfile(
    source: Path, target: Path, *options: str
) -> Iterator[None]:
    target.mkdir()
    subprocess.run(['bindfs', *options, source, target], check=True)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            os.open(target, os.O_TMPFILE | os.O_WRONLY)
        yield
    finally:
        subprocess.run(['umount', '-l', target], check=True)


@root
@command('bindfs')
def test_each_file_system_gets_the_kind_of_temporary_file_that_it_can(
    tmp_path: Path, temporary_file: str
) -> None:
    for name in 'plain', 'source':
        (tmp_path / name).mkdir()
    with mounted_without_o_tmpfile(tmp_path / 'source', tmp_path / 'target'):
        plain, other = a_store(tmp_path / 'plain'), a_store(tmp_path / 'target')
        for _ in range(2):
            assert named_during_commit(plain) == (temporary_file == 'named')
            assert named_during_commit(other)
        # The same store, moved from one to the other and back.
        plain.path, other.path = other.path, plain.path
        assert named_during_commit(plain)
        assert named_during_commit(other) == (temporary_file == 'named')
    assert os.listdir(tmp_path / 'source') == ['state.json']


@root
@command('bindfs')
@pytest.mark.parametrize('option', ['--xattr-ro', '--xattr-none'])
def test_a_file_system_that_sets_no_attributes(tmp_path: Path, option: str) -> None:
    """The mode is kept nonetheless, since it means the same without them."""
    (tmp_path / 'source').mkdir()
    with mounted_without_o_tmpfile(tmp_path / 'source', tmp_path / 'target', option):
        store = a_store(tmp_path / 'target')
        file = tmp_path / 'source/state.json'
        file.chmod(0o640)
        os.setxattr(file, 'user.note', b'any')
        works(store)
    assert file.stat().st_mode & 0o777 == 0o640
    assert not os.listxattr(file)


def hide_proc() -> None:
    """Be without /proc, in a mount namespace of this process's own."""

    def call(name: str, *arguments: object) -> None:
        if getattr(LIBC, name)(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    call('unshare', 0x00020000)  # CLONE_NEWNS
    call(
        'mount', None, b'/', None, ctypes.c_ulong(0x44000), None
    )  # MS_REC | MS_PRIVATE
    call('umount2', b'/proc', 2)  # MNT_DETACH


@root
def test_without_proc_the_temporary_file_is_named(tmp_path: Path) -> None:
    store = a_store(tmp_path)

    def commit() -> bool:
        hide_proc()
        assert not os.path.exists('/proc/self')
        return named_during_commit(store)

    assert in_child(commit)
    assert os.path.exists('/proc/self')
    assert atomic_store.open(store.path).value == store.value
