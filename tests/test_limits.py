"""A commit that fails for lack of space or permission loses nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support import (
    NOBODY,
    USER,
    a_store,
    command,
    commits,
    fails,
    in_child,
    mounted,
    notes,
    root,
)

import atomic_store

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)
import fcntl
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


# No new file in the folder


def says_that_the_folder_must_be_writable(hint: str, folder: Path) -> bool:
    return f'makes a new file in the folder {str(folder)!r} but' in hint and (
        hint.endswith('In a service or container, make the whole folder writable')
    )


def forbidden_commit(store: atomic_store.AtomicStore) -> list[str]:
    """Commit as another user, who may not. Return the notes after the first one.

    Unlike `fails`, this reads nothing in the folder: that user may not do that either.
    """

    def commit() -> list[str]:
        with pytest.raises(PermissionError) as raised:
            store.commit()
        first, *others = notes(raised.value)
        assert first == f'while committing {str(store.path)!r}'
        return others

    found: list[str] = in_child(commit, uid=USER)
    return found


@contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o777)


def test_a_read_only_folder(folder: Path) -> None:
    store = a_store(folder)
    (folder / 'state.json').chmod(0o666)
    with forbidden(folder):
        (hint,) = in_child(lambda: fails(store, errno.EACCES), uid=USER)
    assert says_that_the_folder_must_be_writable(hint, folder)
    in_child(lambda: commits(store), uid=USER)


def test_a_folder_that_may_not_be_entered_is_not_called_read_only(folder: Path) -> None:
    (folder / 'store').mkdir(mode=0o700)
    os.chmod(folder / 'store', 0o666)
    store = a_store(folder)
    store.path = folder / 'store/state.json'
    assert forbidden_commit(store) == []


@contextmanager
def between(*commands: list[str | Path]) -> Iterator[None]:
    """Run one command before the block and one after it."""
    before, after = commands
    subprocess.run(before, check=True)
    try:
        yield
    finally:
        subprocess.run(after, check=True)


def read_only(folder: Path) -> AbstractContextManager[None]:
    remount: list[str | Path] = ['mount', folder, '-o']
    return between([*remount, 'remount,bind,ro'], [*remount, 'remount,bind,rw'])


@root
def test_a_read_only_mount(tmp_path: Path) -> None:
    with mounted(tmp_path, '--bind', tmp_path):
        store = a_store(tmp_path)
        (hint,) = fails(store, errno.EROFS, read_only(tmp_path))
        assert says_that_the_folder_must_be_writable(hint, tmp_path)
        commits(store)


@root
def test_a_read_only_mount_with_one_writable_file(tmp_path: Path) -> None:
    """The setting ReadWritePaths= of systemd.exec(5) makes this of a file's path."""
    (tmp_path / 'store').mkdir()
    store = a_store(tmp_path / 'store')
    path = tmp_path / 'store/state.json'
    with (
        mounted(path, '--bind', path),
        mounted(tmp_path / 'store', '--rbind', tmp_path / 'store'),
    ):
        (hint,) = fails(store, errno.EROFS, read_only(tmp_path / 'store'))
        path.write_text('"old"')
    assert says_that_the_folder_must_be_writable(hint, tmp_path / 'store')


def flagged(path: Path, flag: str) -> AbstractContextManager[None]:
    return between(['chattr', f'+{flag}', path], ['chattr', f'-{flag}', path])


@root
@command('chattr')
def test_an_immutable_folder(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    (hint,) = fails(store, errno.EPERM, flagged(tmp_path, 'i'))
    assert says_that_the_folder_must_be_writable(hint, tmp_path)
    commits(store)


@contextmanager
def creating_fails(number: int) -> Iterator[None]:
    """Let creating a file fail for a reason that the file system does not show."""
    open_file = os.open

    def refuse(path: str, flags: int, *args: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(number, os.strerror(number), path)
        return open_file(path, flags, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'open', refuse)
        yield


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_folder_that_cannot_have_a_new_file_is_not_called_read_only(
    tmp_path: Path, number: int
) -> None:
    assert fails(a_store(tmp_path), number, creating_fails(number)) == []


@pytest.mark.parametrize('is_relative', [False, True])
def test_a_link_into_a_read_only_folder(folder: Path, is_relative: bool) -> None:
    (folder / 'target').mkdir()
    a_store(folder / 'target')
    link = folder / 'link.json'
    link.symlink_to((Path() if is_relative else folder) / 'target/state.json')
    store = atomic_store.open(link)
    with forbidden(folder / 'target'):
        (hint,) = in_child(lambda: fails(store, errno.EACCES), uid=USER)
    place = f'{str(folder / "target")!r}, to which the link {str(link)!r} leads'
    assert f'makes a new file in the folder {place}, but' in hint


@pytest.mark.parametrize('action', ['list the folder', 'open a file of its own'])
def test_a_format_without_permission_is_not_a_read_only_folder(
    folder: Path, action: str
) -> None:
    def dump(value: object, file: object) -> None:
        if action == 'list the folder':
            os.listdir(folder)
        else:
            os.open(folder / 'secret', os.O_RDONLY)

    (folder / 'secret').touch(mode=0)
    store = atomic_store.open(folder / 'state', format=Format(dump))
    folder.chmod(0o333)
    assert forbidden_commit(store) == []


class Format(atomic_store.AbstractFormatFile):
    def __init__(self, dump: Callable[[object, object], None]) -> None:
        self.dump = dump  # type: ignore[method-assign]


# A file that must not be replaced

IMMUTABLE = 'the file is immutable: see chattr(1)'


def says_that_the_file_is_anothers(hint: str, folder: Path) -> bool:
    return hint.startswith(
        f"the file is another user's, and the folder {str(folder)!r} is sticky"
    )


@root
@command('chattr')
@pytest.mark.parametrize(
    ('flag', 'note'),
    [('i', IMMUTABLE), ('a', 'the file is append-only: see chattr(1)')],
)
def test_a_file_that_must_not_be_replaced(tmp_path: Path, flag: str, note: str) -> None:
    store = a_store(tmp_path)
    assert fails(store, errno.EPERM, flagged(tmp_path / 'state.json', flag)) == [note]
    commits(store)


@root
def test_another_users_file_in_a_sticky_folder(folder: Path) -> None:
    folder.chmod(0o1777)
    store = a_store(folder)
    (hint,) = in_child(lambda: fails(store, errno.EPERM), uid=USER)
    assert says_that_the_file_is_anothers(hint, folder)
    folder.chmod(0o777)
    assert fails_to_rename(store, errno.EPERM, uid=USER) == []
    in_child(lambda: commits(store), uid=USER)


@root
def test_another_users_file_that_cannot_be_read(folder: Path) -> None:
    folder.chmod(0o1777)
    store = a_store(folder)
    (folder / 'state.json').chmod(0o600)
    (hint,) = forbidden_commit(store)
    assert says_that_the_file_is_anothers(hint, folder)


@root
@command('chattr')
def test_an_immutable_file_of_ones_own_in_a_sticky_folder(folder: Path) -> None:
    folder.chmod(0o1777)
    store = a_store(folder)
    os.chown(folder / 'state.json', NOBODY, NOBODY)
    with flagged(folder / 'state.json', 'i'):
        found = in_child(lambda: fails(store, errno.EPERM), uid=NOBODY)
    assert found == [IMMUTABLE]
    in_child(lambda: commits(store), uid=NOBODY)


@contextmanager
def renaming_fails(number: int) -> Iterator[None]:
    """Let renaming fail for a reason that the file system does not show."""

    def refuse(source: str, target: str) -> None:
        raise OSError(number, os.strerror(number), source, None, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', refuse)
        yield


def fails_to_rename(
    store: atomic_store.AtomicStore, *numbers: int, uid: int | None
) -> list[str]:
    def commit() -> list[str]:
        return [
            note
            for number in numbers
            for note in fails(store, number, renaming_fails(number))
        ]

    found: list[str] = in_child(commit, uid)
    return found


@root
@pytest.mark.parametrize('mode', [0o777, 0o1777])
@pytest.mark.parametrize(
    ('uid', 'owner', 'owner_of_folder'),
    [
        (NOBODY, NOBODY, NOBODY),
        (NOBODY, NOBODY, 12345),
        (NOBODY, 12345, NOBODY),
        (None, 12345, 12345),  # root
    ],
)
def test_an_unknown_reason_is_not_guessed(
    folder: Path, mode: int, uid: int | None, owner: int, owner_of_folder: int
) -> None:
    store = a_store(folder)
    os.chown(folder / 'state.json', owner, owner)
    os.chown(folder, owner_of_folder, owner_of_folder)
    folder.chmod(mode)
    numbers = errno.EPERM, errno.EACCES, errno.ENOENT
    assert fails_to_rename(store, *numbers, uid=uid) == []


@root
@command('chattr')
def test_a_flag_or_an_owner_that_is_not_the_reason_is_not_named(folder: Path) -> None:
    folder.chmod(0o1777)
    store = a_store(folder)
    with flagged(folder / 'state.json', 'i'):
        assert fails_to_rename(store, errno.EACCES, errno.EIO, uid=USER) == []


def test_a_flag_that_forbids_nothing_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = (0xFFFFFFFF & ~0x30).to_bytes(4, sys.byteorder)  # all but i and a
    store = a_store(tmp_path)
    monkeypatch.setattr(fcntl, 'ioctl', lambda *args: others)
    assert fails_to_rename(store, errno.EPERM, uid=None) == []


@root
@pytest.mark.parametrize('name', ['state.json', 'a b\tc\nd\\e#é'])
def test_a_file_that_is_mounted_itself(tmp_path: Path, name: str) -> None:
    """Containers mount single files like this. They cannot be replaced from inside."""
    (tmp_path / 'elsewhere').mkdir()
    store = a_store(tmp_path, name)
    (tmp_path / name).rename(tmp_path / 'elsewhere/state.json')
    (tmp_path / name).touch()
    with mounted(tmp_path / name, '--bind', tmp_path / 'elsewhere/state.json'):
        (hint,) = fails(store, errno.EBUSY)
        for number in errno.EIO, errno.ENOSPC:
            assert fails(store, number, renaming_fails(number)) == []
    assert hint == 'the file is a mount point, as in containers: mount its folder'
    commits(store)


@root
def test_a_file_that_is_busy_for_another_reason_is_not_called_a_mount_point(
    tmp_path: Path,
) -> None:
    """On SMB mounts, that is one that another client has open."""
    store = a_store(tmp_path)
    (tmp_path / 'state.json.2').touch()
    with mounted(tmp_path / 'state.json.2', '--bind', tmp_path / 'state.json.2'):
        assert fails(store, errno.EBUSY, renaming_fails(errno.EBUSY)) == []


@root
def test_a_mounted_file_that_a_format_cannot_replace_is_not_that_of_the_store(
    tmp_path: Path,
) -> None:
    def dump(value: object, file: object) -> None:
        (tmp_path / 'source').touch()
        os.replace(tmp_path / 'source', tmp_path / 'mounted')

    (tmp_path / 'mounted').touch()
    store = atomic_store.open(tmp_path / 'state', format=Format(dump))
    with (
        mounted(tmp_path / 'mounted', '--bind', tmp_path / 'mounted'),
        pytest.raises(OSError, match='busy') as raised,
    ):
        store.commit()
    assert notes(raised.value) == [f'while committing {str(store.path)!r}']
