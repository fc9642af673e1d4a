"""The temporary file: its name, who may read it, and that it does not stay."""

from __future__ import annotations

import _thread
import contextlib
import errno
import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from support import (
    USER,
    a_store,
    call_libc,
    command,
    commits,
    descriptors,
    fails,
    hide_proc,
    in_child,
    left_alone,
    linux,
    names,
    posix,
    raising,
    root,
)

import atomic_store
from atomic_store import _replacement

HIDDEN = r'\.atomic_store-[0-9a-f]{12}\.tmp'
WITHOUT_A_DOT = r'[0-9a-f]{12}-atomic_store\.tmp'
SHORT = r'[0-9a-f]{8}'


def a_format(dump: Callable[[IO[str]], object]) -> Any:
    """Make a JSON format that first does something else with the file."""

    def dump_after(value: object, file: IO[str]) -> None:
        dump(file)
        json.dump(value, file)

    return SimpleNamespace(dump=dump_after, load=json.load)


# What it is


@pytest.mark.parametrize('is_new', [False, True])
def test_it_has_no_name_if_possible(
    tmp_path: Path, temporary_file: str, is_new: bool
) -> None:
    store = a_store(tmp_path)
    if is_new:
        os.unlink(tmp_path / 'state.json')
    umask = os.umask(0o022)  # if it is 0, a new file has a name
    try:
        found = commits(store)
    finally:
        os.umask(umask)
    assert len(found) == (1 if temporary_file == 'named' else 0)


def test_it_becomes_the_file_itself_unless_it_cannot_get_a_name(
    tmp_path: Path, temporary_file: str
) -> None:
    store = a_store(tmp_path)
    inodes: list[int] = []
    store.format = a_format(lambda file: inodes.append(os.fstat(file.fileno()).st_ino))
    store.commit()
    is_itself = inodes == [(tmp_path / 'state.json').stat().st_ino]
    assert is_itself == (temporary_file != 'copied')


@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('is_binary', [False, True])
def test_a_format_sees_a_number_instead_of_a_name(
    tmp_path: Path, is_binary: bool
) -> None:
    """If it is a name, pandas' to_parquet() writes to the file of that name."""
    found: list[object] = []
    format = SimpleNamespace(
        dump=lambda value, file: found.extend([file.name, file.fileno()]),
        load=lambda file: None,
    )
    atomic_store.open(tmp_path / 'state', None, format, is_binary).commit()
    name, descriptor = found
    assert name == descriptor


# A full disk is an error only if a file with a name cannot be had there, either.
REFUSALS = pytest.mark.parametrize(
    'error',
    [
        *(
            OSError(getattr(errno, name), 'refused')
            for name in (
                *('EOPNOTSUPP', 'EISDIR', 'EINVAL', 'ENOENT', 'EIO', 'EPERM'),
                *('EACCES', 'EXDEV', 'ENOSPC', 'EDQUOT'),
            )
        ),
        AttributeError('link'),  # CPython on Termux has no os.link
        NotImplementedError('src_dir_fd unavailable on this platform'),
        RuntimeError('any other'),
    ],
    ids=repr,
)


@linux
@REFUSALS
def test_it_has_a_name_where_every_file_must_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    open_file = os.open

    def refuse(path: Any, flags: int, *args: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise error
        return open_file(path, flags, *args)

    store = a_store(tmp_path)
    monkeypatch.setattr(os, 'open', refuse)
    assert len(commits(store)) == 1


@linux
@REFUSALS
def test_it_is_copied_where_it_cannot_get_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = a_store(tmp_path)
    monkeypatch.setattr(os, 'link', raising(error))
    assert commits(store) == []


@linux
@pytest.mark.parametrize(
    'wrong', ['st_dev', 'st_ino', 'st_size', 'st_nlink', 'st_nlink of both']
)
def test_it_is_copied_where_its_name_does_not_show_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    inodes: list[int] = []

    def altered(status: os.stat_result, **changes: int) -> Any:
        values = {name: getattr(status, name) for name in dir(status) if 'st_' in name}
        return SimpleNamespace(**values | changes)

    def stat_of_another(path: Any, **kwargs: Any) -> Any:
        status = stat(path, **kwargs)
        if not re.search(HIDDEN, str(path)):
            return status
        if wrong == 'st_nlink of both':
            return altered(status, st_nlink=0)
        return altered(status, **{wrong: getattr(status, wrong) + 1})

    store, stat, fstat = a_store(tmp_path), os.stat, os.fstat
    store.format = a_format(lambda file: inodes.append(fstat(file.fileno()).st_ino))
    with monkeypatch.context() as patch:
        patch.setattr(os, 'stat', stat_of_another)
        if wrong == 'st_nlink of both':
            patch.setattr(os, 'fstat', lambda file: altered(fstat(file), st_nlink=0))
        store.commit()
    assert atomic_store.open(store.path).value == store.value
    assert inodes != [(tmp_path / 'state.json').stat().st_ino]
    assert names(tmp_path) == ['state.json']


@linux
def test_in_a_thread_with_its_own_descriptors_it_becomes_the_file_itself(
    tmp_path: Path,
) -> None:
    """/proc/self/fd is the table of the main thread (unshare(2), CLONE_FILES)."""
    store, found = a_store(tmp_path), list[os.stat_result]()
    store.format = a_format(lambda file: found.append(os.fstat(file.fileno())))

    def commit() -> os.stat_result:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(call_libc, 'unshare', 0x400).result()  # CLONE_FILES
            with (tmp_path / 'other').open('w') as other:
                # What the thread opens has the number of one of these.
                for _ in range(10):
                    os.dup(other.fileno())
                thread.submit(store.commit).result()
        return found[0]

    assert os.path.samestat(in_child(commit), (tmp_path / 'state.json').stat())
    assert (tmp_path / 'other').stat().st_nlink == 1
    assert names(tmp_path) == ['other', 'state.json']


@linux
@root
@pytest.mark.parametrize('directory', ['self', 'thread-self'])
def test_where_proc_is_a_plain_copy_its_files_do_not_get_the_name(
    tmp_path: Path, directory: str
) -> None:
    copy = tmp_path / f'proc/{directory}/fd'
    copy.mkdir(parents=True)
    for number in range(100):
        (copy / f'{number}').write_text(f'{number}')
    (tmp_path / 'folder').mkdir()
    store = a_store(tmp_path / 'folder')

    def commit() -> None:
        os.chroot(tmp_path)
        store.path = '/folder/state.json'
        commits(store)

    in_child(commit)
    assert [path.stat().st_nlink for path in copy.iterdir()] == [1] * 100


@linux
@root
@command('bindfs')
def test_each_commit_decides_again_whether_it_has_a_name(
    tmp_path: Path, temporary_file: str
) -> None:
    source, target = tmp_path / 'source', tmp_path / 'target'
    source.mkdir()
    target.mkdir()
    store = a_store(source)
    subprocess.run(['bindfs', source, target], check=True)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            os.open(target, os.O_TMPFILE | os.O_WRONLY)
        for _ in range(2):
            store.path = target / 'state.json'
            assert len(commits(store)) == 1
            store.path = source / 'state.json'
            assert len(commits(store)) == (1 if temporary_file == 'named' else 0)
    finally:
        subprocess.run(['umount', '-l', target], check=True)


@linux
@root
def test_it_has_a_name_where_there_is_no_proc(tmp_path: Path) -> None:
    store = a_store(tmp_path)

    def commit() -> list[str]:
        hide_proc()
        assert not os.path.exists('/proc/self')
        return commits(store)

    assert len(in_child(commit)) == 1
    assert os.path.exists('/proc/self')


# Its name


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names under which commits try to create or link a file, one per attempt."""
    found: list[str] = []

    def note(name: str) -> bool:
        found.append(name)
        return False

    refuse_names(monkeypatch, note, 0)
    return found


def refuse_names(
    monkeypatch: pytest.MonkeyPatch, is_refused: Callable[[str], bool], number: int
) -> None:
    """Refuse to create or link a file under some names."""
    open_file, link = os.open, os.link

    def check(path: Any) -> None:
        if is_refused(os.path.basename(path)):
            raise OSError(number, os.strerror(number))

    def refuse_to_open(path: Any, flags: int, *args: Any) -> int:
        if flags & os.O_CREAT:
            check(path)
        return open_file(path, flags, *args)

    def refuse_to_link(source: Any, path: Any, **kwargs: Any) -> None:
        check(path)
        link(source, path, **kwargs)

    monkeypatch.setattr(os, 'open', refuse_to_open)
    monkeypatch.setattr(os, 'link', refuse_to_link)


@pytest.mark.usefixtures('temporary_file')
def test_its_name_is_hidden_and_short_and_names_the_package(
    tmp_path: Path, tried: list[str]
) -> None:
    commits(a_store(tmp_path))
    assert len(set(tried)) == len(tried) >= 2  # a new one for each commit
    for name in tried:
        assert re.fullmatch(HIDDEN, name)
        assert len(name) <= 32


@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize(
    ('is_refused', 'number', 'becomes'),
    [
        # Samba (`veto files`) and msdos, each with its own error
        (lambda name: name.startswith('.'), errno.EACCES, WITHOUT_A_DOT),
        (lambda name: name.startswith('.'), errno.ENOENT, WITHOUT_A_DOT),
        (lambda name: name.startswith('.'), errno.EINVAL, WITHOUT_A_DOT),
        (lambda name: len(name) > 14, errno.ENAMETOOLONG, SHORT),  # minix
    ],
)
def test_if_its_name_is_refused_it_gets_another(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: list[str],
    is_refused: Callable[[str], bool],
    number: int,
    becomes: str,
) -> None:
    store = a_store(tmp_path)
    refuse_names(monkeypatch, is_refused, number)
    tried.clear()
    commits(store)
    (name,) = tried
    assert re.fullmatch(becomes, name)


@pytest.mark.usefixtures('temporary_file')
def test_if_every_name_is_refused_the_error_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    refuse_names(monkeypatch, lambda name: True, errno.EROFS)
    fails(store, errno.EROFS)
    with pytest.raises(OSError, match='Read-only') as raised:
        store.commit()
    assert raised.value.filename == os.fspath(tmp_path)


@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('taken', [1, 2, 3])
def test_a_name_that_is_taken_stays_and_another_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    store = a_store(tmp_path)
    taken_names = take_names(tmp_path, monkeypatch, taken)
    store.commit()
    assert atomic_store.open(store.path).value == store.value
    assert names(tmp_path) == sorted(['state.json', *taken_names])
    assert {(tmp_path / name).read_text() for name in taken_names} == {'taken'}


@pytest.mark.usefixtures('temporary_file')
def test_if_all_names_are_taken_that_is_an_error_and_they_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    take_names(tmp_path, monkeypatch, 1000)
    assert fails(store, errno.EEXIST) == []


def take_names(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """Create other files under this many of the names that are tried."""
    urandom, calls = os.urandom, iter(range(count))

    def as_expected(size: int) -> bytes:
        return urandom(size) if next(calls, None) is None else bytes(size)

    monkeypatch.setattr(os, 'urandom', as_expected)
    found = [name.format('0' * 12) for name in _replacement._TEMPORARY_NAMES]
    for name in found:
        (folder / name).write_text('taken')
    return found


# Who may read it


@posix
@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('mode', [0o644, 0o640, 0o666], ids=oct)
def test_nobody_else_may_read_it_before_it_has_the_permissions_of_the_file(
    tmp_path: Path, mode: int
) -> None:
    store = a_store(tmp_path)
    (tmp_path / 'state.json').chmod(mode)
    modes: list[int] = []
    store.format = a_format(
        lambda file: modes.append(os.fstat(file.fileno()).st_mode & 0o777)
    )
    store.commit()
    assert modes == [0o600]
    assert (tmp_path / 'state.json').stat().st_mode & 0o777 == mode


# It does not stay


class Failure(BaseException):
    """An error that no code expects."""


@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize(
    'use',
    [
        lambda file: None,
        lambda file: file.write('half' * 10_000),
        lambda file: file.close(),
        lambda file: file.detach().close(),
    ],
)
def test_it_does_not_stay_after_an_error_of_the_format(
    tmp_path: Path, use: Callable[[IO[str]], object]
) -> None:
    def dump(value: object, file: IO[str]) -> None:
        use(file)
        raise Failure

    store = a_store(tmp_path)
    store.format = SimpleNamespace(dump=dump, load=json.load)
    with left_alone(tmp_path), pytest.raises(Failure):
        store.commit()


@posix
@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('leave', [sys.exit, json.loads], ids=['exit', 'error'])
def test_a_child_that_is_forked_while_a_format_writes_leaves_it_to_its_parent(
    tmp_path: Path, leave: Callable[[str], object]
) -> None:
    is_child = False

    def fork(file: IO[str]) -> None:
        nonlocal is_child
        # Both stay in memory, of which the child has a copy.
        file.write(' ')
        file.buffer.write(b' ')  # type: ignore[attr-defined]
        child = os.fork()
        is_child = not child
        if is_child:
            leave('no JSON')
        os.waitpid(child, 0)

    store = a_store(tmp_path)
    store.format = a_format(fork)
    try:
        with contextlib.suppress(SystemExit, json.JSONDecodeError):
            store.commit()
        gc.collect()
    finally:
        if is_child:
            os._exit(0)
    assert (tmp_path / 'state.json').read_text() == f'  {json.dumps(store.value)}'
    assert names(tmp_path) == ['state.json']


@linux
@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('number', [errno.EIO, errno.EDQUOT])
def test_it_does_not_stay_after_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store = a_store(tmp_path)
    monkeypatch.setattr(os, call, raising(OSError(number, os.strerror(number))))
    assert fails(store, number) == []


@pytest.fixture
def _interrupts() -> Iterator[None]:
    """Let each interrupt raise KeyboardInterrupt.

    A shell may have told its background jobs to ignore it. Hypothesis's callback of the
    garbage collector may lose it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    yield
    gc.enable()
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('temporary_file', '_interrupts')
def test_neither_it_nor_a_descriptor_stays_after_interrupts_at_random_moments(
    tmp_path: Path,
) -> None:
    store = a_store(tmp_path)
    chance = random.Random(0)
    before = descriptors()
    for number in range(500):
        interrupt_commits(store, after=chance.uniform(0, 0.003))
        assert names(tmp_path) == ['state.json'], number
        assert descriptors() == before, number
        assert atomic_store.open(store.path).value in ('old', store.value), number


def interrupt_commits(store: atomic_store.AtomicStore, after: float) -> None:
    """Commit again and again until an interrupt comes, like that of Ctrl-C."""
    is_over: list[bool] = []

    def interrupt() -> None:
        time.sleep(after)
        _thread.interrupt_main()
        is_over.append(True)

    # Not with the module threading: interrupts break its locks.
    with contextlib.suppress(KeyboardInterrupt):
        _thread.start_new_thread(interrupt, ())
        while not is_over:
            store.commit()
        pytest.fail('the interrupt is lost')


@posix
@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('is_seen', [False, True], ids=['gone', 'without links'])
def test_it_stays_if_it_is_the_only_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    """SMB on Linux before 6.17: a rename that fails may remove the target."""
    store = a_store(tmp_path)
    path = tmp_path / 'state.json'
    lstat = os.lstat
    with open(path) as reader:

        def unlink_the_target(source: str, target: str) -> None:
            os.unlink(target)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        def see_what_has_no_links(file: Any, **kwargs: Any) -> os.stat_result:
            if is_seen and file == os.fspath(path) and not path.exists():
                return os.fstat(reader.fileno())
            return lstat(file, **kwargs)

        monkeypatch.setattr(os, 'replace', unlink_the_target)
        with monkeypatch.context() as patch, pytest.raises(PermissionError) as raised:
            patch.setattr(os, 'lstat', see_what_has_no_links)
            store.commit()
    (name,) = names(tmp_path)
    assert json.loads((tmp_path / name).read_text()) == store.value
    _, note = raised.value.__notes__
    path = tmp_path / name
    assert note == f'the old file is gone, the new value is in {os.fspath(path)!r}'


@posix
@pytest.mark.usefixtures('temporary_file')
def test_it_is_not_called_the_only_copy_after_its_folder_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'folder'
    folder.mkdir()
    store, replace = a_store(folder), os.replace

    def remove_the_folder_first(*args: Any) -> None:
        shutil.rmtree(folder)
        replace(*args)

    monkeypatch.setattr(os, 'replace', remove_the_folder_first)
    with pytest.raises(FileNotFoundError) as raised:
        store.commit()
    _, note = raised.value.__notes__
    path = os.fspath(folder)
    assert note == f'the folder {path!r} does not exist, and is not created'


@posix
@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('number', [errno.EHOSTDOWN, errno.ENOTCONN, errno.EACCES])
def test_it_is_not_called_the_only_copy_after_the_connection_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse = raising(OSError(number, os.strerror(number)))

    def break_the_connection(*args: Any) -> None:
        for call in 'lstat', 'stat', 'unlink':
            patch.setattr(os, call, refuse)
        refuse()

    store = a_store(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError) as raised:  # noqa: PT011
        patch.setattr(os, 'replace', break_the_connection)
        store.commit()
    assert raised.value.errno == number
    _, note = raised.value.__notes__
    assert note.startswith('the temporary file stays: ')
    assert atomic_store.open(store.path).value == 'old'


@posix
@pytest.mark.usefixtures('temporary_file')
def test_it_does_not_stay_if_there_was_no_file_to_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = atomic_store.open(tmp_path / 'state.json', 'new')
    monkeypatch.setattr(os, 'replace', raising(OSError(errno.EACCES, 'refused')))
    assert fails(store, errno.EACCES) == []


@posix
@pytest.mark.usefixtures('temporary_file')
def test_if_it_cannot_be_removed_a_note_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = raising(OSError(errno.EPERM, 'refused'))
    store = a_store(tmp_path)
    monkeypatch.setattr(os, 'replace', refuse)
    with monkeypatch.context() as patch, pytest.raises(PermissionError) as raised:
        patch.setattr(os, 'unlink', refuse)
        store.commit()
    (name,) = set(names(tmp_path)) - {'state.json'}
    _, note = raised.value.__notes__
    assert note == f'the temporary file stays: {os.fspath(tmp_path / name)!r}'


@posix
@pytest.mark.usefixtures('temporary_file')
def test_if_somebody_else_has_removed_it_no_note_says_that_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def replace_nothing(source: str, target: str) -> None:
        os.unlink(source)
        replace(source, target)

    store = a_store(tmp_path)
    monkeypatch.setattr(os, 'replace', replace_nothing)
    assert fails(store, errno.ENOENT) == []


# What is synced


def name_of(descriptor: int, folder: Path) -> str:
    """The name in the folder of what is open, or a dot for the folder itself."""
    opened = os.fstat(descriptor)
    for name in [os.curdir, *names(folder)]:
        if os.path.samestat(os.stat(folder / name), opened):
            return re.sub(HIDDEN, 'temporary', name)
    return 'a file without a name'


STEPS = {
    'unnamed': ['link', 'sync temporary', 'rename', 'sync .'],
    # A file on FAT needs another sync, see _replacement.sync_folder.
    'named': ['sync temporary', 'rename', 'sync state.json', 'sync .'],
    'copied': ['sync temporary', 'rename', 'sync .'],
}


@linux
def test_it_is_synced_when_it_has_a_name_and_renamed_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary_file: str
) -> None:
    store, before = a_store(tmp_path), descriptors()
    found: list[str] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        found.append(f'sync {name_of(descriptor, tmp_path)}')

    def note_link(*args: Any, **kwargs: Any) -> None:
        link(*args, **kwargs)
        found.append('link')

    def note_replace(*args: Any) -> None:
        assert descriptors() == before
        found.append('rename')
        replace(*args)

    monkeypatch.setattr(os, 'fsync', note_fsync)
    monkeypatch.setattr(os, 'link', note_link)
    monkeypatch.setattr(os, 'replace', note_replace)
    store.commit()
    assert found == STEPS[temporary_file]


def refuse_after_the_rename(
    monkeypatch: pytest.MonkeyPatch, call: str, name: str, error: Exception
) -> None:
    """Refuse to sync or to open the file ('state.json') or its folder ('.')."""
    replace, function, target = os.replace, getattr(os, call), ''

    def refuse(file: Any, *args: Any) -> Any:
        folder = Path(target).parent
        is_named = (
            name_of(file, folder) == name
            if isinstance(file, int)
            else os.path.samefile(file, folder / name)
        )
        if is_named:
            if call == 'close':
                function(file)  # it is closed despite the error
            raise error
        return function(file, *args)

    def replace_first(source: str, path: str) -> None:
        nonlocal target
        target = path
        replace(source, path)
        monkeypatch.setattr(os, call, refuse)

    monkeypatch.setattr(os, 'replace', replace_first)


# Without a name at first, a file is not synced again.
WHICH = pytest.mark.parametrize(
    ('temporary_file', 'which'),
    [('unnamed', '.'), ('named', '.'), ('copied', '.'), ('named', 'state.json')],
    indirect=['temporary_file'],
)


@linux
@pytest.mark.usefixtures('temporary_file')
@WHICH
@pytest.mark.parametrize(
    ('call', 'error'),
    [
        *(
            ('fsync', OSError(getattr(errno, name), 'refused'))
            for name in ('EINVAL', 'EOPNOTSUPP', 'ENOSYS', 'EBADF')
        ),
        ('fsync', RuntimeError('any other')),
        ('open', OSError(errno.EACCES, 'refused')),
        ('open', OSError(errno.EIO, 'refused')),
        ('open', RuntimeError('any other')),
        ('close', OSError(errno.EIO, 'refused')),
    ],
)
def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    call: str,
    error: Exception,
) -> None:
    store, before = a_store(tmp_path), descriptors()
    refuse_after_the_rename(monkeypatch, call, which, error)
    store.commit()
    monkeypatch.undo()
    assert atomic_store.open(store.path).value == store.value
    assert descriptors() == before


@linux
@pytest.mark.usefixtures('temporary_file')
@WHICH
@pytest.mark.parametrize(
    ('call', 'number'),
    [
        *(('fsync', number) for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT)),
        # A later commit may find what this one lacks.
        *(('open', number) for number in _replacement._SCARCE),
    ],
)
def test_if_the_sync_of_the_folder_fails_a_note_says_that_the_value_is_new(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    call: str,
    number: int,
) -> None:
    store, before = a_store(tmp_path), descriptors()
    error = OSError(number, os.strerror(number))
    refuse_after_the_rename(monkeypatch, call, which, error)
    monkeypatch.delattr(os, 'unlink')  # there is nothing to remove
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        store.commit()
    monkeypatch.undo()
    _, note = raised.value.__notes__
    assert note == 'the file already holds the new value, but a power cut may undo that'
    assert atomic_store.open(store.path).value == store.value
    assert names(tmp_path) == ['state.json']
    assert descriptors() == before


@linux
def test_a_fifo_that_has_just_replaced_the_new_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def replace_and_swap(source: str, target: str) -> None:
        replace(source, target)
        os.unlink(target)
        os.mkfifo(target)

    def commit() -> None:
        signal.alarm(10)  # this ends the child
        store.commit()

    store = a_store(tmp_path)
    monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    monkeypatch.setattr(os, 'replace', replace_and_swap)
    in_child(commit)
    assert names(tmp_path) == ['state.json']


@linux
@pytest.mark.usefixtures('temporary_file')
def test_a_folder_that_is_writable_but_not_readable_is_no_error(folder: Path) -> None:
    store = a_store(folder)
    folder.chmod(0o333)
    in_child(store.commit, uid=USER)
    assert atomic_store.open(store.path).value == store.value


# Descriptors


@contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@linux
@pytest.mark.usefixtures('temporary_file')
def test_if_no_descriptor_is_free_that_is_an_error(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    assert fails(store, errno.EMFILE, free_descriptors(0)) == []


@linux
def test_one_free_descriptor_is_enough_or_two_for_a_copy(
    tmp_path: Path, temporary_file: str
) -> None:
    store = a_store(tmp_path)
    with free_descriptors(2 if temporary_file == 'copied' else 1):
        store.commit()
    assert atomic_store.open(store.path).value == store.value
    assert names(tmp_path) == ['state.json']
