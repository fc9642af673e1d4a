"""A commit works without what other systems lack. Here, they are only imitated."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from support import a_store, commits, fails, linux, posix

import atomic_store
from atomic_store import _replacement


@pytest.mark.parametrize(
    'lacks',
    [
        pytest.param(['listxattr'], id='macOS'),
        pytest.param(['listxattr', 'fchown', 'fchmod', 'O_DIRECTORY'], id='Windows'),
    ],
)
def test_a_commit_works_without_what_a_system_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: list[str]
) -> None:
    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    for name in lacks:
        monkeypatch.delattr(os, name, raising=False)
    store = atomic_store.open(tmp_path / 'state.json', 'first')
    commits(store)
    store.value = 'second'
    commits(store)


@posix
def test_permissions_are_kept_on_a_system_without_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    monkeypatch.delattr(os, 'listxattr', raising=False)
    store = a_store(tmp_path)
    (tmp_path / 'state.json').chmod(0o640)
    commits(store)
    assert (tmp_path / 'state.json').stat().st_mode & 0o7777 == 0o640


# Termux: Android forbids hard links, so its CPython lacks what makes them


@linux
@pytest.mark.parametrize('error', [AttributeError, NotImplementedError])
def test_a_file_is_copied_where_python_cannot_link(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Older ones have no os.link(), newer ones have it without linkat(2)."""
    store = a_store(folder)
    (folder / 'state.json').chmod(0o640)
    if error is AttributeError:
        monkeypatch.delattr(os, 'link')
    else:

        def link(*args: object, **kwargs: object) -> None:
            raise NotImplementedError('src_dir_fd unavailable on this platform')

        monkeypatch.setattr(os, 'link', link)
    for value in 'new', 'new' * 1_000_000, '':
        store.value = value
        assert commits(store) == []  # a kill during the write still leaves nothing
    assert (folder / 'state.json').stat().st_mode & 0o7777 == 0o640


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
def test_macos_syncs_file_and_folder_with_f_fullfsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    syncs = imitate_macos(monkeypatch)
    commits(store)
    assert syncs == ['F_FULLFSYNC', 'F_FULLFSYNC']


@posix
@pytest.mark.parametrize(
    'number',
    [
        errno.ENOTTY,  # exFAT
        errno.ENOTSUP,  # SMB
        errno.EINVAL,  # macFUSE
        errno.EIO,
    ],
)
def test_macos_syncs_with_fsync_if_f_fullfsync_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = a_store(tmp_path)
    syncs = imitate_macos(monkeypatch, number)
    commits(store)
    assert syncs == ['F_FULLFSYNC', 'fsync'] * 2


@posix
def test_an_error_of_both_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store = a_store(tmp_path)
    imitate_macos(monkeypatch, errno.ENOTTY)
    monkeypatch.setattr(os, 'fsync', fsync)
    assert fails(store, errno.EIO) == []
