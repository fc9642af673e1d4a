"""A commit works without what other systems lack. Here, they are only imitated."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from support import a_store, commits, fails, posix

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


def imitate_macos(monkeypatch: pytest.MonkeyPatch, number: int = 0) -> list[str]:
    """Add F_FULLFSYNC, which fails if an error is given. Return the later syncs."""
    assert sys.platform != 'win32'
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

    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    monkeypatch.setattr(fcntl, 'F_FULLFSYNC', 51, raising=False)
    monkeypatch.setattr(fcntl, 'fcntl', note_full_sync)
    monkeypatch.setattr(os, 'fsync', note_fsync)
    return syncs


@posix
@pytest.mark.parametrize(
    ('number', 'syncs'),
    [
        (0, ['F_FULLFSYNC']),
        (errno.ENOTSUP, ['F_FULLFSYNC', 'fsync']),  # SMB
        (errno.EINVAL, ['F_FULLFSYNC', 'fsync']),  # macFUSE
    ],
)
def test_macos_syncs_with_f_fullfsync_or_if_that_is_refused_with_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, syncs: list[str]
) -> None:
    store = a_store(tmp_path)
    found = imitate_macos(monkeypatch, number)
    commits(store)
    assert found == syncs * 2  # of the file and of its folder


@posix
def test_another_error_of_f_fullfsync_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    imitate_macos(monkeypatch, errno.EIO)
    assert fails(store, errno.EIO) == []
