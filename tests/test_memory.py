"""A call that returns or raises an error leaves nothing in memory.

An error in a local variable makes a cycle: the error refers to the frame, and the frame
to the error. Until the next cyclic collection, this keeps alive all that the callers
hold: large values, open files.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import posix

import atomic_store


@pytest.fixture(autouse=True)
def without_collections(quick_collections: None) -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def keeps_nothing(work: Callable[[], object]) -> bool:
    """Whether a call leaves nothing in memory, not even what its caller holds."""

    class Value:
        pass

    def caller() -> weakref.ref[Value]:
        value = Value()
        with suppress(OSError, ValueError, TypeError, EOFError, ZeroDivisionError):
            work()
        return weakref.ref(value)

    caller()  # the first call may import modules
    gc.collect()
    value = caller()
    return value() is None and gc.collect() == 0


@pytest.mark.parametrize('name', ['state', 'missing', 'missing/state', 'bad', '', '.'])
@pytest.mark.parametrize('format', ['json', 'pickle'])
def test_a_load_keeps_nothing(tmp_path: Path, name: str, format: Any) -> None:
    atomic_store.open(tmp_path / 'state', 'value', format).commit()
    (tmp_path / 'bad').write_bytes(b'')
    assert keeps_nothing(lambda: atomic_store.open(tmp_path / name, None, format))


@pytest.mark.parametrize('path', [None, 'a\0b'])
def test_an_impossible_path_keeps_nothing(path: Any) -> None:
    assert keeps_nothing(lambda: atomic_store.open(path))


@pytest.mark.parametrize('format', ['yaml', 'bson', 5])
def test_an_unknown_format_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    monkeypatch.setitem(sys.modules, 'bson', None)  # so that it cannot be imported
    assert keeps_nothing(lambda: atomic_store.open(tmp_path / 'state', format=format))


def fails_in_a_format(file: Any) -> None:
    file.write(b'new')
    raise ZeroDivisionError


def leaves_a_wrapper(file: Any) -> None:
    io.TextIOWrapper(file).write('new')


@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize(
    'dump',
    [
        lambda file: file.write(b'new'),
        lambda file: file.write('not bytes'),
        lambda file: 'not written',
        lambda file: file.close(),
        lambda file: file.detach(),
        lambda file: os.close(file.fileno()),
        fails_in_a_format,
        leaves_a_wrapper,
    ],
)
def test_a_commit_keeps_nothing(tmp_path: Path, dump: Callable[[Any], object]) -> None:
    format = SimpleNamespace(dump=lambda value, file: dump(file), load=id)
    store = atomic_store.open(tmp_path / 'state', None, format)
    assert keeps_nothing(store.commit)


@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('path', ['missing/state', '.', 'file/state', 'state'])
def test_a_commit_to_any_path_keeps_nothing(tmp_path: Path, path: str) -> None:
    store = atomic_store.open(tmp_path / 'other', 'value')
    (tmp_path / 'file').touch()
    store.path = tmp_path / path
    assert keeps_nothing(store.commit)


@posix
@pytest.mark.parametrize('target', ['file', 'missing', 'link'])
def test_a_link_keeps_nothing(tmp_path: Path, target: str) -> None:
    store = atomic_store.open(tmp_path / 'file', 'value')
    store.commit()
    (tmp_path / 'link').symlink_to(target)
    store.path = tmp_path / 'link'
    assert keeps_nothing(lambda: atomic_store.open(tmp_path / 'link'))
    assert keeps_nothing(store.commit)


@posix
@pytest.mark.parametrize('number', [errno.EACCES, errno.ENOENT])
@pytest.mark.parametrize(
    'function',
    [
        'open',
        'link',
        'lstat',
        'stat',
        'statvfs',
        'scandir',
        'listxattr',
        'fchown',
        'fchmod',
        'fsync',
        'replace',
        'unlink',
    ],
)
def test_a_call_of_the_system_that_fails_keeps_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    temporary_file: str,
    function: str,
    number: int,
) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    store = atomic_store.open(tmp_path / 'state', 'old')
    store.commit()
    monkeypatch.setattr(os, function, refused, raising=False)
    assert keeps_nothing(store.commit)
    assert keeps_nothing(lambda: atomic_store.open(tmp_path / 'missing'))
