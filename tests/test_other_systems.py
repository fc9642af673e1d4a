"""What another system lacks is done without. Here it is imitated, not tested."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from support import linux

import atomic_store
from atomic_store import _files


@pytest.mark.parametrize(
    'lacks',
    [
        pytest.param(['listxattr'], id='macOS'),
        pytest.param(['listxattr', 'fchown', 'O_DIRECTORY'], id='Windows'),
    ],
)
def test_a_commit_does_without_what_a_system_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: list[str]
) -> None:
    monkeypatch.setattr(_files, '_O_TMPFILE', None)
    for name in lacks:
        monkeypatch.delattr(os, name, raising=False)
    path = tmp_path / 'state.json'
    for value in 'first', 'second':
        with atomic_store.open(path) as store:
            store.value = value
        assert path.read_text() == f'"{value}"'
        assert list(tmp_path.iterdir()) == [path]


class Names(atomic_store.AbstractFormatFile):
    """Writes which names the folder has while it is written."""

    def dump(self, folder: Path, file: Any) -> None:
        file.write(repr(os.listdir(folder)).encode())


@linux
@pytest.mark.parametrize('error', ['EOPNOTSUPP', 'EISDIR', 'EINVAL', 'ENOSYS'])
def test_where_no_file_can_be_without_a_name_the_temporary_file_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    open_file = os.open

    def refuse(path: Any, flags: int, *args: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(getattr(errno, error), 'refused')
        return open_file(path, flags, *args)

    monkeypatch.setattr(os, 'open', refuse)
    atomic_store.open(tmp_path / 'store', tmp_path, Names).commit()
    assert '.atomic_store-' in (tmp_path / 'store').read_text()
    assert os.listdir(tmp_path) == ['store']


@linux
@pytest.mark.parametrize('error', ['EPERM', 'EACCES', 'EXDEV', 'EOPNOTSUPP', 'ENOSYS'])
def test_where_no_file_can_be_given_a_name_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(getattr(errno, error), 'refused')

    monkeypatch.setattr(os, 'link', refuse)
    atomic_store.open(tmp_path / 'store', tmp_path, Names).commit()
    assert (tmp_path / 'store').read_text() == '[]'
    assert os.listdir(tmp_path) == ['store']
