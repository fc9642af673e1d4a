"""A store keeps to one file, whatever its name and wherever the process goes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from support import USER, in_child, left_alone, linux, names, notes, posix

import atomic_store

# The working folder


@pytest.fixture(params=['one', 'two'])
def here(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder. It must not matter which one has the higher inode number."""
    for name in 'one', 'two':
        (tmp_path / name).mkdir()
    path = tmp_path / str(request.param)
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def there(here: Path) -> Path:
    """Another folder beside it."""
    return here.with_name('two' if here.name == 'one' else 'one')


def a_format_that_goes_to(folder: Path) -> Any:
    def dump(value: object, file: IO[str]) -> None:
        os.chdir(folder)
        json.dump(value, file)

    return SimpleNamespace(dump=dump, load=json.load)


@pytest.mark.parametrize('name', ['state.json', 'sub/../state.json', b'./state.json'])
def test_a_relative_path_means_the_same_file_after_the_working_folder_has_changed(
    here: Path, there: Path, name: str | bytes
) -> None:
    (here / 'sub').mkdir()
    store = atomic_store.open(name, 'new')
    os.chdir(there)
    store.commit()
    assert (here / 'state.json').read_text() == '"new"'
    assert names(there) == []
    assert store.path == name


def test_a_relative_path_means_the_same_file_if_dump_changes_the_working_folder(
    here: Path, there: Path
) -> None:
    store = atomic_store.open('state.json', 'new', a_format_that_goes_to(there), False)
    store.commit()
    assert (names(here), names(there)) == (['state.json'], [])


@linux
def test_a_relative_path_leads_to_no_other_working_folder_if_its_own_was_replaced(
    here: Path, there: Path
) -> None:
    store = atomic_store.open('state.json', 'new')
    os.chdir(there)
    here.rename(here.with_name('renamed'))
    here.mkdir()
    store.commit()
    assert list(here.parent.rglob('*.json')) == [here / 'state.json']


def test_a_relative_path_is_resolved_on_assignment(here: Path, there: Path) -> None:
    store = atomic_store.open('state.json', 'new')
    os.chdir(there)
    store.path = 'other.json'
    os.chdir(here.parent)
    store.commit()
    assert list(here.parent.rglob('*.json')) == [there / 'other.json']
    assert (there / 'other.json').read_text() == '"new"'


@posix
def test_a_relative_path_works_in_a_folder_whose_path_cannot_be_had(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'getcwd', refuse)
        store = atomic_store.open('state.json', 'new')
        store.commit()
        assert atomic_store.open('state.json').value == 'new'
        os.chdir(there)
        with left_alone(here.parent), pytest.raises(OSError, match='has changed'):
            store.commit()


@pytest.fixture
def inner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, which is in one that nobody may enter but root."""
    path = folder / 'outer/inner'
    path.mkdir(parents=True)
    path.chmod(0o777)
    monkeypatch.chdir(path)
    (folder / 'outer').chmod(0o000)
    yield path
    if (folder / 'outer').exists():
        (folder / 'outer').chmod(0o777)


@linux
@pytest.mark.parametrize('name', ['state.json', './state.json', 'sub/state.json'])
def test_a_relative_path_works_below_a_folder_that_may_not_be_entered(
    inner: Path, name: str
) -> None:
    """A daemon starts in a folder, and then becomes another user."""

    def work() -> None:
        os.makedirs('sub', exist_ok=True)
        store = atomic_store.open(name, 'new')
        store.commit()
        os.symlink(name, 'link')
        with atomic_store.open('link') as store:
            store.value += 'er'
        os.chdir('/')
        with pytest.raises(PermissionError):
            store.commit()
        assert not os.path.exists('/state.json')

    in_child(work, uid=USER)
    inner.parent.chmod(0o777)
    assert (inner / name).read_text() == '"newer"'
    assert names(inner) == sorted({'link', 'sub', Path(name).parts[0]})


@linux
def test_a_relative_path_never_leads_to_a_folder_that_dump_has_gone_to(
    inner: Path, folder: Path
) -> None:
    (folder / 'there').mkdir()
    (folder / 'there').chmod(0o777)
    (folder / 'there/state.json').write_text('"another"')

    def work() -> None:
        format = a_format_that_goes_to(folder / 'there')
        store = atomic_store.open('state.json', 'new', format, False)
        with pytest.raises(OSError, match='has changed'):
            store.commit()

    in_child(work, uid=USER)
    assert (folder / 'there/state.json').read_text() == '"another"'
    assert names(folder / 'there') == ['state.json']
    inner.parent.chmod(0o777)
    assert names(inner) == []


@linux
def test_a_relative_path_means_the_same_file_after_its_folders_were_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'outer/inner').mkdir(parents=True)
    monkeypatch.chdir(tmp_path / 'outer/inner')
    store = atomic_store.open('state.json', 'old')
    store.commit()
    (tmp_path / 'outer').rename(tmp_path / 'renamed')
    store.value = 'new'
    store.commit()
    assert names(tmp_path) == ['renamed']
    assert names(tmp_path / 'renamed/inner') == ['state.json']
    assert atomic_store.open('state.json').value == 'new'
    # Another folder in its old place is another one.
    (tmp_path / 'outer/inner').mkdir(parents=True)
    store.commit()
    assert names(tmp_path / 'outer/inner') == []


def enter_a_folder_and_delete_it(folder: Path) -> None:
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()


@linux
def test_an_absolute_path_works_in_a_deleted_working_folder(tmp_path: Path) -> None:
    def commit() -> None:
        enter_a_folder_and_delete_it(tmp_path / 'deleted')
        atomic_store.open(tmp_path / 'state.json', 'new').commit()

    in_child(commit)
    assert (tmp_path / 'state.json').read_text() == '"new"'
    assert names(tmp_path) == ['state.json']


@linux
def test_a_relative_path_in_a_deleted_working_folder_is_an_error_that_names_it(
    tmp_path: Path,
) -> None:
    def open_relative() -> None:
        enter_a_folder_and_delete_it(tmp_path / 'deleted')
        atomic_store.open('state.json', 'default')

    with pytest.raises(FileNotFoundError) as raised:
        in_child(open_relative)
    assert 'state.json' in ''.join(raised.value.__notes__)


# Names


class BytesPath:
    def __init__(self, path: bytes) -> None:
        self.path = path

    def __fspath__(self) -> bytes:
        return self.path


@linux
@pytest.mark.parametrize(
    'kind', [bytes, os.fsdecode, lambda path: Path(os.fsdecode(path)), BytesPath]
)
@pytest.mark.parametrize(
    'name',
    [
        b'x' * 255,
        b'\x80' * 255,  # three times as long if it is decoded as text
        b'\xff\xfe',
        'äß 日本 🎉'.encode(),
        b'a\nb\r\n',
        b' ',
        b'-rf',
        b'~',
        b'a\\b:c*?"<>|',
    ],
    ids=lambda name: ascii(name[:9]),
)
def test_a_name_may_be_anything_that_the_file_system_allows(
    tmp_path: Path,
    name: bytes,
    kind: Callable[[bytes], str | bytes | os.PathLike[str] | os.PathLike[bytes]],
) -> None:
    path = kind(os.path.join(os.fsencode(tmp_path), name))
    store = atomic_store.open(path, 'old')
    store.commit()
    store.value = 'new'
    store.commit()
    assert atomic_store.open(path).value == 'new'
    assert os.listdir(os.fsencode(tmp_path)) == [name]
    assert store.path is path


@posix
def test_a_name_that_is_too_long_is_an_error_at_open(tmp_path: Path) -> None:
    with pytest.raises(OSError, match='too long'):
        atomic_store.open(tmp_path / ('x' * 256), 'default')


@pytest.mark.parametrize('name', ['a\0b', b'a\0b', '\0'])
def test_a_nul_is_an_error_at_open(name: str | bytes) -> None:
    with pytest.raises(ValueError, match='null') as raised:
        atomic_store.open(name, 'default')
    assert 'loading' in raised.value.__notes__[0]


@pytest.mark.parametrize(
    'path', ['', b'', 'folder/', 'file/', 'missing/', 'missing/.', 'missing/..']
)
def test_an_impossible_path_is_an_error_at_open_and_at_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    reason = (
        'directory'
        if os.name == 'posix'
        else 'directory|denied|Invalid|syntax|[nN]ot f'
    )
    with pytest.raises(OSError, match=reason):
        atomic_store.open(path, 'default')
    store = atomic_store.open('other', 'new')
    store.path = path
    with left_alone(tmp_path), pytest.raises(OSError, match=reason):
        store.commit()


# Folders


def test_a_missing_folder_gives_the_default_and_may_be_made_before_any_commit(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'missing/folder/state.json'
    store = atomic_store.open(path, default='default')
    assert store.value == 'default'
    for value in 'default', 'new':
        store.value = value
        with left_alone(tmp_path), pytest.raises(FileNotFoundError) as raised:
            store.commit()
        assert notes(raised.value) == [
            f'while committing {os.fspath(path)!r}',
            f'the folder {os.fspath(path.parent)!r} does not exist, and is not created',
        ]
        path.parent.mkdir(parents=True)
        store.commit()
        assert path.read_text() == f'"{value}"'
        shutil.rmtree(tmp_path / 'missing')


@posix
def test_a_path_through_a_missing_folder_and_back_leads_nowhere(
    tmp_path: Path,
) -> None:
    """The system finds no file, although the names cancel each other out."""
    (tmp_path / 'state.json').write_text('"another file"')
    store = atomic_store.open(tmp_path / 'missing/../state.json', 'default')
    assert store.value == 'default'
    with left_alone(tmp_path), pytest.raises(FileNotFoundError):
        store.commit()


def test_a_path_through_a_file_is_an_error_at_open_and_at_commit(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'file/state.json'
    store = atomic_store.open(path, 'new')
    (tmp_path / 'file').write_text('no folder')
    with pytest.raises(NotADirectoryError):
        atomic_store.open(path, 'default')
    with left_alone(tmp_path), pytest.raises(NotADirectoryError):
        store.commit()


@linux
def test_a_folder_that_may_not_be_entered_is_an_error_at_open_and_at_commit(
    folder: Path,
) -> None:
    (folder / 'closed').mkdir()
    path = folder / 'closed/state.json'
    store = atomic_store.open(path, 'new')
    (folder / 'closed').chmod(0o000)
    for action in lambda: atomic_store.open(path, 'default'), store.commit:
        with pytest.raises(PermissionError):
            in_child(action, uid=USER)
    (folder / 'closed').chmod(0o700)
    assert names(folder / 'closed') == []
