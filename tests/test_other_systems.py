"""A commit works without what other systems lack. Here, they are only imitated."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import a_store, commits, fails, linux, posix, raising

import atomic_store
from atomic_store import _replacement


def test_a_commit_works_without_what_windows_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    for name in 'listxattr', 'fchown', 'fchmod', 'O_DIRECTORY':
        monkeypatch.delattr(os, name, raising=False)
    store = atomic_store.open(tmp_path / 'state.json', 'first')
    commits(store)
    store.value = 'second'
    commits(store)


@posix
def test_permissions_are_kept_on_a_system_without_attributes_such_as_macos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    monkeypatch.delattr(os, 'listxattr', raising=False)
    store = atomic_store.open(tmp_path / 'state.json', 'first')
    commits(store)
    (tmp_path / 'state.json').chmod(0o640)
    store.value = 'second'
    commits(store)
    assert (tmp_path / 'state.json').stat().st_mode & 0o7777 == 0o640


# Termux: Android forbids hard links, so its CPython lacks what makes them


@linux
def test_a_file_is_copied_where_python_cannot_link(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer ones have os.link(), but without linkat(2): see test_temporary."""
    store = a_store(folder)
    (folder / 'state.json').chmod(0o640)
    monkeypatch.delattr(os, 'link')
    for value in 'new', 'new' * 1_000_000, '':
        store.value = value
        assert commits(store) == []  # a kill during the write still leaves nothing
    assert (folder / 'state.json').stat().st_mode & 0o7777 == 0o640


def test_the_package_can_be_imported_where_python_has_no_link(tmp_path: Path) -> None:
    code = (
        "import os; del os.link; import atomic_store; atomic_store.open('f').commit()"
    )
    subprocess.run([sys.executable, '-P', '-c', code], cwd=tmp_path, check=True)
    assert (tmp_path / 'f').read_text() == 'null'


# macOS: a sync of the disk's own cache, which not every file system has


def imitate_macos(monkeypatch: pytest.MonkeyPatch, number: int = 0) -> list[str]:
    """Add F_FULLFSYNC, which fails if an error is given. Return the later syncs."""
    import fcntl

    fsync = os.fsync
    syncs: list[str] = []

    def note_full_sync(descriptor: int, request: int) -> None:
        assert request == 51
        syncs.append('F_FULLFSYNC')
        if number:
            raise OSError(number, os.strerror(number))

    def note_fsync(descriptor: int) -> None:
        syncs.append('fsync')
        fsync(descriptor)

    # On Linux, a file that has always had a name is synced once more.
    monkeypatch.setattr(sys, 'platform', 'darwin')
    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    monkeypatch.setattr(fcntl, 'F_FULLFSYNC', 51, raising=False)
    monkeypatch.setattr(fcntl, 'fcntl', note_full_sync)
    monkeypatch.setattr(os, 'fsync', note_fsync)
    return syncs


@posix
@pytest.mark.parametrize(
    ('number', 'calls'),
    [
        (0, ['F_FULLFSYNC']),
        *(
            (number, ['F_FULLFSYNC', 'fsync'])
            # of exFAT, SMB, macFUSE, and any other
            for number in (errno.ENOTTY, errno.ENOTSUP, errno.EINVAL, errno.EIO)
        ),
    ],
)
def test_macos_syncs_file_and_folder_with_f_fullfsync_or_else_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, calls: list[str]
) -> None:
    store = a_store(tmp_path)
    syncs = imitate_macos(monkeypatch, number)
    commits(store)
    assert syncs == calls * 2


@posix
def test_an_error_of_both_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    imitate_macos(monkeypatch, errno.ENOTTY)
    monkeypatch.setattr(os, 'fsync', raising(OSError(errno.EIO, 'refused')))
    assert fails(store, errno.EIO) == []
