"""On Windows, nobody can replace or remove a file that is open, so the package waits.

Everything that can be imitated is tested on all systems, the rest only on Windows.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import freezegun
import pytest
from atomicwrites import replace_atomic
from support import (
    a_store,
    commits,
    fails,
    left_alone,
    names,
    notes,
    posix,
    raising,
    start_process,
    windows,
)

import atomic_store
from atomic_store import _files, _replacement, _windows

ACCESS_DENIED, SHARING_VIOLATION, LOCK_VIOLATION = 5, 32, 33
DISK_FULL = 112


# Imitated


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> atomic_store.AtomicStore:
    """A store that commits as on Windows."""
    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    monkeypatch.delattr(os, 'O_DIRECTORY', raising=False)
    return a_store(tmp_path)


@pytest.fixture
def waits(
    store: atomic_store.AtomicStore, monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """The length of each wait from now on. The waits only advance an imitated clock."""
    found: list[float] = []
    monkeypatch.setattr(time, 'sleep', found.append)
    monkeypatch.setattr(time, 'monotonic', lambda: 1_000_000 + sum(found))
    return found


def refuse(
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    winerror: int = SHARING_VIOLATION,
    times: int = 1_000_000,
) -> list[Any]:
    """Make a function fail this many times, like Windows. Return the calls."""
    call, calls = getattr(module, name), []

    def refused(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) > times:
            return call(*args, **kwargs)
        error = OSError(errno.EACCES, 'refused', args[0], winerror)
        error.winerror = winerror  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(module, name, refused)
    return calls


IN_USE = pytest.mark.parametrize(
    'winerror', [ACCESS_DENIED, SHARING_VIOLATION, LOCK_VIOLATION]
)


@IN_USE
@pytest.mark.parametrize('is_new', [False, True])
def test_a_file_in_use_is_replaced_when_it_is_free(
    store: atomic_store.AtomicStore,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
    winerror: int,
    is_new: bool,
) -> None:
    if is_new:  # then the temporary file is in use
        os.unlink(os.fsdecode(store.path))
    calls = refuse(monkeypatch, _windows, 'replace_atomic', winerror, times=9)
    commits(store)
    assert (len(calls), len(waits)) == (10, 9)


@IN_USE
def test_a_file_in_use_is_loaded_when_it_is_free(
    store: atomic_store.AtomicStore,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
    winerror: int,
) -> None:
    calls = refuse(monkeypatch, _files, 'open_file', winerror, times=9)
    assert atomic_store.open(store.path, 'default').value == 'old'
    assert (len(calls), len(waits)) == (10, 9)


@IN_USE
def test_a_file_in_use_that_is_then_missing_for_a_moment_is_loaded(
    store: atomic_store.AtomicStore,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
    winerror: int,
) -> None:
    """Another program replaces it. With the default, the next commit would lose it."""

    def is_missing(path: str, **options: Any) -> Any:
        monkeypatch.setattr(_files, 'open_file', open_file)
        raise FileNotFoundError(errno.ENOENT, 'missing', path)

    open_file = _files.open_file
    monkeypatch.delattr(os, 'statvfs', raising=False)  # as on Windows
    monkeypatch.setattr(_files, 'open_file', is_missing)
    calls = refuse(monkeypatch, _files, 'open_file', winerror, times=1)
    assert atomic_store.open(store.path, 'default').value == 'old'
    assert (len(calls), len(waits)) == (2, 1)


@IN_USE
def test_a_temporary_file_in_use_is_removed_when_it_is_free(
    store: atomic_store.AtomicStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
    winerror: int,
) -> None:
    store.value = object()
    calls = refuse(monkeypatch, os, 'unlink', winerror, times=9)
    with left_alone(tmp_path), pytest.raises(TypeError):
        store.commit()
    assert (len(calls), len(waits)) == (10, 9)


def test_a_file_that_stays_in_use_is_an_error_after_some_seconds_of_short_waits(
    store: atomic_store.AtomicStore,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
) -> None:
    refuse(monkeypatch, _windows, 'replace_atomic')
    (note,) = fails(store, errno.EACCES)
    assert note.startswith('another program has the file open')
    assert note.endswith('5 seconds')
    assert 5 < sum(waits) < 5.1
    assert max(waits) <= 0.01

    refuse(monkeypatch, _files, 'open_file')
    with pytest.raises(PermissionError) as raised:
        atomic_store.open(store.path, 'default')
    assert notes(raised.value)[1:] == [note]


def test_waiting_ends_even_if_a_test_has_stopped_the_clock(
    store: atomic_store.AtomicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, 'sleep', waits.append)
    refuse(monkeypatch, _windows, 'replace_atomic')
    with freezegun.freeze_time('2000-01-01'):
        (note,) = fails(store, errno.EACCES)
    assert note.startswith('another program has the file open')
    assert 5 < sum(waits) < 5.1


def test_waiting_ends_by_the_clock_if_each_try_takes_long(
    store: atomic_store.AtomicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(1_000_000, 1.5)
    monkeypatch.setattr(time, 'sleep', lambda _: None)
    monkeypatch.setattr(time, 'monotonic', lambda: next(seconds))
    calls = refuse(monkeypatch, _windows, 'replace_atomic')
    fails(store, errno.EACCES)
    assert len(calls) == 4


@pytest.mark.usefixtures('waits')
def test_a_note_names_a_temporary_file_that_stays_in_use(
    store: atomic_store.AtomicStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.value = object()
    refuse(monkeypatch, os, 'unlink')
    with pytest.raises(TypeError) as raised:
        store.commit()
    (name,) = set(names(tmp_path)) - {'state.json'}
    stays = f'the temporary file stays: {os.fspath(tmp_path / name)!r}'
    assert stays in notes(raised.value)


def test_nobody_waits_for_a_read_only_file(
    store: atomic_store.AtomicStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
) -> None:
    (tmp_path / 'state.json').chmod(0o444)
    refuse(monkeypatch, _windows, 'replace_atomic', ACCESS_DENIED)
    assert fails(store, errno.EACCES) == ['the file is read-only']
    assert waits == []


def test_nobody_waits_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    refuse(monkeypatch, _files, 'open_file', ACCESS_DENIED)
    with pytest.raises(PermissionError) as raised:
        atomic_store.open(tmp_path, 'default')
    assert notes(raised.value)[1:] == ['it is a folder']
    assert waits == []


def test_nobody_waits_after_another_error(
    store: atomic_store.AtomicStore,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
) -> None:
    refuse(monkeypatch, _windows, 'replace_atomic', DISK_FULL)
    assert fails(store, errno.ENOSPC if os.name == 'nt' else errno.EACCES) == []
    assert waits == []


@pytest.mark.parametrize(
    ('system', 'number', 'is_in_use'),
    [
        ('nt', errno.EACCES, True),
        ('nt', errno.EIO, False),
        ('nt', errno.EINVAL, False),
        ('posix', errno.EACCES, False),
    ],
)
def test_an_error_of_the_c_library_means_in_use_only_on_windows(
    store: atomic_store.AtomicStore,
    monkeypatch: pytest.MonkeyPatch,
    waits: list[float],
    system: str,
    number: int,
    is_in_use: bool,
) -> None:
    """The errors of open() have no winerror there."""

    path = os.fspath(store.path)
    monkeypatch.setattr(_files, 'open_file', raising(OSError(number, 'refused')))
    with monkeypatch.context() as patch, pytest.raises(OSError, match='refused'):
        patch.setattr(os, 'name', system)
        atomic_store.open(path, 'default')
    assert bool(waits) == is_in_use


def test_a_path_through_a_file_is_an_error_at_open_where_the_system_finds_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setattr(_files, 'open_file', raising(FileNotFoundError('nothing')))
    for path in 'file/state.json', 'file/folder/state.json':
        with pytest.raises(NotADirectoryError):
            atomic_store.open(tmp_path / path, 'default')
    assert atomic_store.open(tmp_path / 'folder/state.json', 'default').value


def test_the_search_for_a_file_on_the_way_ends_on_a_missing_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, 'lexists', lambda path: False)
    path = tmp_path / 'folder/state.json'
    assert atomic_store.open(path, 'default').value == 'default'


def test_a_path_through_a_file_is_an_error_at_commit_where_the_system_finds_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing(call: Callable[..., Any], path: str, *args: Any) -> Any:
        try:
            return call(path, *args)
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, 'refused', path) from None

    store = atomic_store.open(tmp_path / 'file/state.json', 'new')
    (tmp_path / 'file').touch()
    with monkeypatch.context() as patch, pytest.raises(NotADirectoryError):
        patch.setattr(os, 'lstat', partial(find_nothing, os.lstat))
        patch.setattr(os, 'open', partial(find_nothing, os.open))
        store.commit()


@posix
def test_the_target_of_a_link_is_a_path_without_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r"""After the prefix of an absolute path, `\\?\`, dots are ordinary names."""
    (tmp_path / 'one/folder').mkdir(parents=True)
    (tmp_path / 'two').mkdir()
    (tmp_path / 'two/folder').symlink_to('../one/folder')
    (tmp_path / 'two/state.json').symlink_to('folder/../file')
    store = atomic_store.open(tmp_path / 'two/state.json', 'new')
    with monkeypatch.context() as patch:
        patch.setattr(os, 'name', 'nt')
        patch.delattr(os, 'geteuid')
        store.commit()
    assert (names(tmp_path / 'one'), names(tmp_path / 'two')) == (
        ['folder'],
        ['file', 'folder', 'state.json'],
    )


# On Windows itself


def close_soon(close: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(0.3, close)
    timer.start()
    return timer


@windows
def test_a_reader_that_closes_the_file_soon_is_waited_for(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with open(tmp_path / 'state.json') as reader:
        timer = close_soon(reader.close)
        commits(store)
        assert reader.closed
    timer.join()


@windows
def test_a_reader_that_never_closes_the_file_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_windows, '_PATIENCE', 0.5)
    store = a_store(tmp_path)
    with open(tmp_path / 'state.json'):
        (note,) = fails(store, errno.EACCES)
    assert note.startswith('another program has the file open')
    commits(store)


def scan(folder: Path, sharing: int) -> threading.Timer:
    """Open the temporary file for a moment, like a virus scanner."""
    import ctypes
    from ctypes import wintypes

    kernel: Any = ctypes.WinDLL('kernel32')  # type: ignore[attr-defined]
    kernel.CreateFileW.restype = wintypes.HANDLE
    kernel.CloseHandle.argtypes = [wintypes.HANDLE]
    (name,) = set(names(folder)) - {'state.json'}
    generic_read, open_existing = 0x80000000, 3
    handle = kernel.CreateFileW(
        str(folder / name), generic_read, sharing, None, open_existing, 0, None
    )
    assert handle != wintypes.HANDLE(-1).value
    return close_soon(lambda: kernel.CloseHandle(handle))


NOTHING, READING_AND_WRITING = 0, 3  # what others may do (CreateFileW)


@windows
@pytest.mark.parametrize('sharing', [NOTHING, READING_AND_WRITING])
def test_a_scanner_of_the_temporary_file_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharing: int
) -> None:
    store = a_store(tmp_path)
    scanners: list[threading.Timer] = []

    def scan_first(source: str, target: str) -> None:
        if not scanners:
            scanners.append(scan(tmp_path, sharing))
        replace_atomic(source, target)

    monkeypatch.setattr(_windows, 'replace_atomic', scan_first)
    commits(store)
    assert not scanners[0].is_alive()


@windows
@pytest.mark.parametrize('sharing', [NOTHING, READING_AND_WRITING])
def test_a_scanner_of_the_temporary_file_is_waited_for_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharing: int
) -> None:
    store = a_store(tmp_path)
    scanners: list[threading.Timer] = []
    unlink = os.unlink

    def scan_first(path: str) -> None:
        if not scanners:
            scanners.append(scan(tmp_path, sharing))
        unlink(path)

    def dump(value: object, file: IO[str]) -> None:
        raise ZeroDivisionError

    store.format = SimpleNamespace(dump=dump, load=json.load)
    monkeypatch.setattr(os, 'unlink', scan_first)
    with left_alone(tmp_path), pytest.raises(ZeroDivisionError):
        store.commit()
    scanners[0].join()


@windows
def test_a_folder_at_the_path_is_an_error_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    (tmp_path / 'state.json').unlink()
    (tmp_path / 'state.json').mkdir()
    monkeypatch.delattr(time, 'sleep')
    with pytest.raises(PermissionError):
        atomic_store.open(tmp_path / 'state.json', 'default')
    assert fails(store, errno.EISDIR) == []


# Several processes. Each reports that it has started, and waits for the others. It is
# more patient than usual: on a busy machine, five seconds may not be enough.
WORKER = """
import atomic_store, os, sys
atomic_store._windows._PATIENCE = 60.0
path, stop, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
store = atomic_store.open(path)
print('ready', flush=True)
sys.stdin.readline()
"""
WRITER = (
    WORKER
    + """
for number in range(150):
    store.value = [number] * (1, 2000, 60000)[number % 3]
    store.commit()
print(150)
"""
)
READER = (
    WORKER
    + """
import time
reads = 0
while not os.path.exists(stop):
    value = atomic_store.open(path).value
    assert value == [value[0]] * (1, 2000, 60000)[value[0] % 3], 'torn'
    reads += 1
    time.sleep(pause)
print(reads)
"""
)


@windows
@pytest.mark.parametrize(
    ('writers', 'readers', 'pause'), [(2, 0, 0.0), (1, 1, 0.05), (4, 3, 0.01)]
)
def test_writers_without_pause_and_readers_all_succeed(
    tmp_path: Path, writers: int, readers: int, pause: float
) -> None:
    path, stop = tmp_path / 'folder/state.json', tmp_path / 'stop'
    path.parent.mkdir()
    atomic_store.open(path, [0]).commit()

    def start(code: str) -> subprocess.Popen[str]:
        return start_process(
            [sys.executable, '-P', '-c', code, path, stop, str(pause)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    writing = [start(WRITER) for _ in range(writers)]
    reading = [start(READER) for _ in range(readers)]
    for process in writing + reading:
        assert process.stdout
        assert process.stdout.readline() == 'ready\n'
    for process in writing + reading:
        assert process.stdin
        process.stdin.write('go\n')
        process.stdin.flush()
    results = [process.communicate() for process in writing]
    stop.touch()
    results += [process.communicate() for process in reading]
    assert [errors for _, errors in results] == [''] * len(results)
    counts = [int(output) for output, _ in results]
    assert min(counts) > 0
    assert names(path.parent) == ['state.json']
    print(f'\n{writers} writers, {readers} readers: {counts}, torn 0, left 0')


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders on drive C:. The first one is the drive's working folder."""
    here, there = tmp_path / 'here', tmp_path / 'there'
    here.mkdir()
    there.mkdir()
    assert here.drive == 'C:'
    monkeypatch.chdir(here)
    return here, there


@windows
@pytest.mark.parametrize('drive', ['C:', 'Z:'])
def test_a_path_with_a_drive_means_the_same_after_the_drives_folder_has_changed(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, drive: str
) -> None:
    here, there = folders
    if drive == 'Z:':
        monkeypatch.chdir('Z:\\')  # C: keeps its working folder
    store = atomic_store.open('C:state.json', 'new')
    monkeypatch.chdir(there)
    store.commit()
    assert (names(here), names(there)) == (['state.json'], [])
    assert store.path == 'C:state.json'


@windows
def test_a_path_without_a_drive_means_the_same_after_the_drive_has_changed(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = folders
    path = str(here / 'state.json').removeprefix('C:')
    store = atomic_store.open(path, 'new')
    monkeypatch.chdir('Z:\\')
    store.commit()
    assert names(here) == ['state.json']
