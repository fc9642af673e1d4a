"""A program that uses stores can be tested with pyfakefs, which keeps files in memory.

It imitates each system call in its own way. Its files have no descriptor of the system,
its file objects no `raw`, and its os.open() sets the mode even of an existing file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem, OSType
from pyfakefs.helpers import set_uid
from support import names, notes, posix

import atomic_store

pytestmark = posix  # on Windows, atomicwrites bypasses it: it calls MoveFileExW


@pytest.fixture(params=list(OSType), ids=lambda system: system.value)
def folder(request: pytest.FixtureRequest, fs: FakeFilesystem) -> Path:
    """A folder on an imitated file system of Linux, macOS or Windows."""
    fs.os = request.param
    set_uid(1000)  # pyfakefs lets root do everything
    path = Path('C:\\data' if request.param is OSType.WINDOWS else '/data')
    fs.create_dir(path)
    return path


@pytest.mark.parametrize('format', ['json', 'pickle'])
def test_a_store_is_opened_and_committed(folder: Path, format: str) -> None:
    path = folder / 'state'
    store = atomic_store.open(path, ['default'], format)  # type: ignore[arg-type]
    assert names(folder) == []
    store.commit()
    with atomic_store.open(path, None, format) as store:  # type: ignore[arg-type]
        store.value.append('with')
    store.value.append('again')
    store.commit()
    read = atomic_store.open(path, None, format)  # type: ignore[arg-type]
    assert read.value == ['default', 'with', 'again']
    assert names(folder) == ['state']


def test_a_relative_path_and_a_link_lead_to_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink('state', folder / 'link')
    monkeypatch.chdir(folder)
    store = atomic_store.open('link', 'new')
    monkeypatch.chdir('/')
    store.commit()
    assert (folder / 'state').read_text() == '"new"'
    assert (folder / 'link').is_symlink()
    assert names(folder) == ['link', 'state']


def test_the_mode_is_kept(folder: Path) -> None:
    path = folder / 'state'
    store = atomic_store.open(path, 'new')
    store.commit()
    for mode in path.stat().st_mode, 0o640, 0o666:
        path.chmod(mode)
        mode = path.stat().st_mode
        store.commit()
        assert path.stat().st_mode == mode


def test_an_error_of_the_format_leaves_the_old_value(folder: Path) -> None:
    store = atomic_store.open(folder / 'state', 'old')
    store.commit()
    with pytest.raises(TypeError) as raised, store:
        store.value = object()
    assert notes(raised.value)[0] == f'while committing {os.fspath(folder / "state")!r}'
    assert (folder / 'state').read_text() == '"old"'
    assert names(folder) == ['state']


def test_a_full_disk_leaves_the_old_value(folder: Path, fs: FakeFilesystem) -> None:
    store = atomic_store.open(folder / 'state', 'old')
    store.commit()
    fs.set_disk_usage(1000, folder.anchor)
    store.value = 'new' * 1000
    with pytest.raises(OSError, match='space'):
        store.commit()
    assert (folder / 'state').read_text() == '"old"'
    assert names(folder) == ['state']


def test_a_missing_folder_and_a_folder_at_the_path_are_errors(folder: Path) -> None:
    store = atomic_store.open(folder / 'missing/state', 'new')
    with pytest.raises(FileNotFoundError):
        store.commit()
    with pytest.raises((IsADirectoryError, PermissionError)):
        atomic_store.open(folder, 'default')
    store = atomic_store.open(folder / 'state', 'new')
    (folder / 'state').mkdir()
    with pytest.raises(IsADirectoryError):
        store.commit()
    assert names(folder) == ['state']


def test_a_folder_without_permission_is_an_error(folder: Path) -> None:
    if folder.drive:
        return  # pyfakefs imitates no permissions on Windows
    store = atomic_store.open(folder / 'state', 'new')
    folder.chmod(0o500)
    with pytest.raises(PermissionError):
        store.commit()
    assert names(folder) == []
