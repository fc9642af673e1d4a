"""At whichever line of a commit an interrupt comes, the value is whole."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import atomicwrites
import pytest
from support import linux

import atomic_store
from atomic_store import AtomicStore

FILES = {
    *map(str, Path(atomic_store.__file__).parent.glob('*.py')),
    atomicwrites.__file__,
    contextlib.__file__,
}

Act = Callable[[AtomicStore, Callable[[], None]], None]

pytestmark = linux  # which has /proc/self/fd and /dev/shm


def commit(store: AtomicStore, start: Callable[[], None]) -> None:
    start()
    store.commit()


def leave_two_contexts(store: AtomicStore, start: Callable[[], None]) -> None:
    with store, store:
        start()


def leave_with_inner_exits_ignored(
    store: AtomicStore, start: Callable[[], None]
) -> None:
    store.ignore_inner_exits = True
    with store, store:
        start()


class FailureError(Exception):
    """An error of a format."""


def fail(*args: Any) -> None:
    raise FailureError


def fail_to_dump(store: AtomicStore, start: Callable[[], None]) -> None:
    """An interrupt comes before the error, or while it is handled."""
    format, store.format = store.format, SimpleNamespace(dump=fail, load=None)
    try:
        start()
        with contextlib.suppress(FailureError):
            store.commit()
    finally:
        store.format = format


FORMATS: dict[str, Any] = {
    'text': json,
    'binary': SimpleNamespace(dumps=str.encode, loads=bytes.decode),
}


def interrupt(
    act: Act,
    store: AtomicStore,
    number: int,
    error_type: type[BaseException] = KeyboardInterrupt,
) -> tuple[str | None, BaseException | None]:
    """Interrupt at the line with this number. Return the place and the result.

    Both are None if there are fewer lines.
    """
    lines = itertools.count(1)
    place = None

    def on_line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal place
        if event == 'line' and next(lines) == number:
            file, function = frame.f_code.co_filename, frame.f_code.co_qualname
            place = f'{file}:{frame.f_lineno} in {function}'
            raise error_type
        return on_line

    def before_first_line(frame: FrameType, event: str, arg: object) -> Any:
        return on_line

    def on_call(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code is AtomicStore.__exit__.__code__:
            # An interrupt at its first line comes before any code that could lower the
            # level. `with` does not prevent that (https://bugs.python.org/issue29988).
            return before_first_line
        return on_line if frame.f_code.co_filename in FILES else None

    tracer = sys.gettrace()
    try:
        act(store, lambda: sys.settrace(on_call))
    except error_type as error:
        if place is None:
            raise  # it is from the keyboard
        return place, error
    finally:
        sys.settrace(tracer)
    # Where a commit can go on without something, it goes on after any `Exception`.
    assert place is None or issubclass(error_type, Exception), f'swallowed: {place}'
    return place, None


@pytest.mark.usefixtures('quick_collections', 'temporary_file')
@pytest.mark.parametrize(
    ('act', 'format'),
    [
        (commit, 'text'),
        (commit, 'binary'),
        (fail_to_dump, 'text'),
        (fail_to_dump, 'binary'),
        (leave_two_contexts, 'text'),
        (leave_with_inner_exits_ignored, 'text'),
    ],
)
@pytest.mark.parametrize('target', ['existing', 'new'])
def test_an_interrupt_at_any_line_leaves_a_whole_value_and_a_usable_store(
    memory: Path, format: str, target: str, act: Act
) -> None:
    path = memory / 'value'

    def open_store() -> AtomicStore:
        return atomic_store.open(path, 'old', FORMATS[format])

    open_store().commit()
    tally: Counter[str] = Counter()
    for number in itertools.count(1):
        if target == 'new':
            path.unlink()
        store = open_store()
        old, store.value = store.value, f'new {number}' * 2000
        descriptors = os.listdir('/proc/self/fd')

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            place, error = interrupt(act, store, number)
            # The error keeps the files alive, so Python has not closed them by itself.
            assert os.listdir('/proc/self/fd') == descriptors, place
            assert os.listdir(memory) == ['value'] * path.exists(), place
            del error
            gc.collect()

        assert not [warning.message for warning in caught], place
        value = open_store().value
        assert value in (old, store.value), place
        assert store.level == 0, place
        store.value = f'next {number}'
        store.commit()
        assert open_store().value == store.value, place
        assert os.listdir(memory) == ['value'], place
        if place is None:
            break
        tally['old' if value == old else 'new'] += 1
    print(f'{number - 1} lines: {dict(tally)}, 0 left behind')
    assert set(tally) == ({'old'} if act is fail_to_dump else {'old', 'new'})


@pytest.mark.usefixtures('temporary_file')
def test_an_error_of_a_signal_handler_at_any_line_leaves_nothing_behind(
    memory: Path,
) -> None:
    path = memory / 'value'
    atomic_store.open(path, 'old').commit()
    for number in itertools.count(1):
        store = atomic_store.open(path)
        old, store.value = store.value, number
        descriptors = os.listdir('/proc/self/fd')
        place = interrupt(commit, store, number, TimeoutError)[0]
        assert os.listdir('/proc/self/fd') == descriptors, place
        assert os.listdir(memory) == ['value'], place
        assert atomic_store.open(path).value in (old, number), place
        if place is None:
            break


def test_an_interrupt_at_any_line_never_removes_the_last_copy(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMB on Linux before 6.17: a rename that fails may remove the old file."""

    def remove_the_target(source: str, target: str) -> None:
        os.unlink(target)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = memory / 'value'
    for _ in range(2):  # what is read once is read now
        atomic_store.open(path, 'old').commit()
    outcomes: Counter[str] = Counter()
    for number in itertools.count(1):
        atomic_store.open(path, 'old').commit()
        store = atomic_store.open(path)
        store.value = 'new'
        place = None  # if the commit ends without an interrupt
        with monkeypatch.context() as patch, contextlib.suppress(PermissionError):
            patch.setattr(os, 'replace', remove_the_target)
            place = interrupt(commit, store, number)[0]
        (left,) = memory.iterdir()
        outcomes[left.read_text()] += 1
        left.unlink()
        if place is None:
            break
    assert set(outcomes) == {'"old"', '"new"'}
