"""Helpers for several test files: skips, stores, folders, mounts, other users."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

import atomic_store

linux = pytest.mark.skipif(sys.platform != 'linux', reason='needs Linux')
posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')
windows = pytest.mark.skipif(os.name != 'nt', reason='needs Windows')
root = pytest.mark.skipif(
    not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs root'
)


def command(name: str) -> pytest.MarkDecorator:
    """Skip a test if a Linux program is missing."""
    missing = name if sys.platform == 'linux' else 'Linux'
    return pytest.mark.skipif(shutil.which(name) is None, reason=f'needs {missing}')


# Stores


def a_store(folder: Path, name: str = 'state.json') -> atomic_store.AtomicStore:
    """Make a store with an old value in its file and a long new value to commit."""
    store = atomic_store.open(folder / name, 'old')
    store.commit()
    store.value = 'new' * 10_000
    return store


def commits(store: atomic_store.AtomicStore) -> list[str]:
    """Commit. Check that this leaves the new value and nothing else.

    Returns the names that the temporary file had during the write: one or none.
    """
    path, format = Path(os.fsdecode(store.path)), store.format
    before = set(names(path.parent))
    meanwhile: set[str] = set()

    def dump(value: object, file: IO[Any], **kwargs: Any) -> None:
        meanwhile.update(names(path.parent))
        format.dump(value, file, **kwargs)

    store.format = SimpleNamespace(dump=dump, load=format.load)
    store.commit()
    store.format = format
    is_binary = store.is_binary
    read = atomic_store.open(path, None, format, is_binary, store.load_kwargs)
    assert read.value == store.value
    assert set(names(path.parent)) == before | {path.name}
    return sorted(meanwhile - before)


def fails(
    store: atomic_store.AtomicStore,
    number: int,
    obstacle: AbstractContextManager[object] | None = None,
) -> list[str]:
    """Commit. Check that this raises the error and leaves everything as it was.

    Returns the notes of the error except the first one, which names the file.
    """
    path = Path(os.fsdecode(store.path))
    its_own_type = type(OSError(number, ''))
    with (
        left_alone(path.parent),
        obstacle or nullcontext(),
        pytest.raises(its_own_type) as raised,
    ):
        store.commit()
    assert raised.value.errno == number
    first, *others = notes(raised.value)
    assert first == f'while committing {os.fspath(path)!r}'
    return others


def notes(error: BaseException) -> list[str]:
    return getattr(error, '__notes__', [])


def raising(error: BaseException) -> Callable[..., Any]:
    """Make a function that takes any arguments and raises the error."""

    def fail(*args: object, **kwargs: object) -> Any:
        raise error

    return fail


# Folders


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextmanager
def left_alone(folder: Path) -> Iterator[None]:
    """Check that a folder is unchanged, and that no descriptor stays open."""
    before = _contents(folder), descriptors()
    yield
    assert (_contents(folder), descriptors()) == before


def _contents(folder: Path) -> dict[str, tuple[object, ...]]:
    return {
        # Mode, inode, device, links, owner and group, and what can be read.
        str(path): (*path.lstat()[:6], path.read_bytes() if path.is_file() else None)
        for path in folder.rglob('*')
    }


def descriptors() -> list[int]:
    """Return the open descriptors."""
    found = []
    for descriptor in range(256):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            found.append(descriptor)
    return found


@contextmanager
def mounted(folder: Path, *options: str | Path) -> Iterator[None]:
    subprocess.run(['mount', *options, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


# Other users

NOBODY = 65534
# Somebody who is not root, for `in_child`: the tests' own user if possible.
USER = NOBODY if hasattr(os, 'geteuid') and os.geteuid() == 0 else None


def in_child(
    function: Callable[[], Any],
    uid: int | None = None,
    gid: int | None = None,
    groups: list[int] | None = None,
) -> Any:
    """Call a function in a forked child, as another user if one is given.

    Returns what it returns, or raises what it raises. Either must be picklable.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            if uid is not None:
                os.setgroups(groups or [])
                os.setresgid(gid or uid, gid or uid, gid or uid)
                os.setresuid(uid, uid, uid)
            answer: tuple[Any, BaseException | None]
            try:
                answer = (function(), None)
            except BaseException as error:  # noqa: BLE001 - the parent raises it
                answer = (None, error)
            with open(write, 'wb') as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, 'rb') as pipe:
        value, failure = pickle.load(pipe)
    os.waitpid(child, 0)
    if failure is not None:
        raise failure
    return value


@contextmanager
def beside(function: Callable[[Connection], object]) -> Iterator[tuple[int, Any]]:
    """Run a function in a child until the end of the block.

    It gets one end of a pipe. The block gets the child's number, and what it sends first.
    """
    fork = multiprocessing.get_context('fork')
    ours, theirs = fork.Pipe()
    child = fork.Process(target=function, args=(theirs,), daemon=True)
    child.start()
    theirs.close()
    try:
        assert child.pid is not None
        yield child.pid, ours.recv()
        assert child.is_alive()
    finally:
        child.kill()
        child.join()
        ours.close()


def call_libc(name: str, *arguments: object) -> None:
    """Call a function of the C library, for what Python does not offer."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def hide_proc() -> None:
    """Remove /proc, in this process's own mount namespace."""
    private = ctypes.c_ulong(0x44000)  # MS_REC | MS_PRIVATE
    call_libc('unshare', 0x00020000)  # CLONE_NEWNS
    call_libc('mount', None, b'/', None, private, None)
    call_libc('umount2', b'/proc', 2)  # MNT_DETACH


def start_process(
    command: Sequence[str | Path], **options: Any
) -> subprocess.Popen[Any]:
    """Start a process, and try again if Wine fails to."""
    for _ in range(10):
        try:
            return subprocess.Popen(command, **options)
        except OSError as error:
            # ERROR_INTERNAL_ERROR, seen where many processes come and go.
            if getattr(error, 'winerror', None) != 1359:
                raise
    return subprocess.Popen(command, **options)
