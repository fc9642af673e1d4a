"""Stores on one file do random things, and a simple model says what should come out."""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import pickle
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support import notes

import atomic_store


class Texts(atomic_store.AbstractFormatFile):
    """A list of ``str``, with separators. A bad item leaves the file half written."""

    def dump(self, value: list[str], file: Any) -> None:
        for text in value:
            file.write(text + '\x1e')

    def load(self, file: Any) -> list[str]:
        return [*file.read().split('\x1e')[:-1]]


class Chunks(atomic_store.AbstractFormatBstr):
    """A list of ``bytes``, each in hexadecimal digits on a line of its own."""

    def dumps(self, value: list[bytes]) -> bytes:
        return b''.join(binascii.hexlify(chunk) + b'\n' for chunk in value)

    def loads(self, data: bytes) -> list[bytes]:
        return [binascii.unhexlify(line) for line in data.splitlines()]


class Kind(NamedTuple):
    """The arguments of `open`, items for a value, and how to make a file by hand."""

    format: Any
    is_binary: bool | None
    items: st.SearchStrategy[Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    dump_kwargs: dict[str, Any] | None = None


KINDS = {
    'json': Kind(
        'json',
        None,
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False)
            | st.text(),
            lambda items: st.lists(items) | st.dictionaries(st.text(), items),
            max_leaves=3,
        ),
        lambda value: json.dumps(value, ensure_ascii=False).encode(),
        json.loads,
        {'ensure_ascii': False},
    ),
    'pickle': Kind(
        'pickle',
        True,
        st.tuples(
            st.binary(),
            st.frozensets(st.integers()) | st.complex_numbers(allow_nan=False),
        ),
        pickle.dumps,
        pickle.loads,
    ),
    'text': Kind(
        Texts,
        False,
        # With line endings of every kind, which must not be translated.
        st.text('a\n\r\u2028\N{SNOWMAN}'),
        lambda value: ''.join(f'{text}\x1e' for text in value).encode(),
        lambda data: data.decode().split('\x1e')[:-1],
    ),
    'binary': Kind(
        Chunks(),
        None,
        st.binary(max_size=9),
        Chunks().dumps,
        Chunks().loads,
    ),
}

# An item that no format here can write, and a content that none can load.
UNWRITABLE = threading.Lock()
BROKEN = b'\xff'
LOAD_ERRORS = (ValueError, pickle.UnpicklingError)
FOLDER_ERRORS = (IsADirectoryError, PermissionError)  # the latter on Windows

ITEMS = st.runner().flatmap(lambda machine: machine.kind.items)
VALUES = st.runner().flatmap(lambda machine: st.lists(machine.kind.items, max_size=3))
INNER_EXITS = st.sampled_from([False, True, None])


class Twin:
    """A store, and what its attributes should be."""

    def __init__(
        self, store: atomic_store.AtomicStore, value: list[Any], ignore: bool
    ) -> None:
        self.store = store
        self.value = value
        self.level = 0
        self.ignore_inner_exits = ignore


class Machine(RuleBasedStateMachine):
    kind: Kind
    twins: Bundle[Twin] = Bundle('twins')
    contexts: Bundle[Twin] = Bundle('contexts')  # each twin as often as it is entered

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / 'file'
        self.content: bytes | None = None
        self.opened: list[Twin] = []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @contextlib.contextmanager
    def fails(self, action: str, *errors: type[Exception]) -> Iterator[None]:
        with pytest.raises(errors) as caught:
            yield
        assert notes(caught.value)[0] == f'while {action} {str(self.path)!r}'

    def commits(self, twin: Twin, commit: Callable[[], object]) -> None:
        if self.path.is_dir() or UNWRITABLE in twin.value:
            with self.fails('committing', *FOLDER_ERRORS, TypeError):
                commit()
        else:
            commit()
            self.content = self.kind.encode(twin.value)

    # Always make the first one: Hypothesis often leaves out a rule or two.
    @initialize(target=twins, default=VALUES, ignore=INNER_EXITS)
    def open_first(self, default: list[Any], ignore: bool | None) -> Any:
        return self.open(default, ignore)

    @precondition(lambda self: len(self.opened) < 3)
    @rule(target=twins, default=VALUES, ignore=INNER_EXITS)
    def open(self, default: list[Any], ignore: bool | None) -> Any:
        kind = self.kind
        options = (kind.format, kind.is_binary, None, kind.dump_kwargs, ignore)
        if self.path.is_dir() or self.content == BROKEN:
            with self.fails('loading', *FOLDER_ERRORS, *LOAD_ERRORS):
                atomic_store.open(self.path, default, *options)
            return multiple()
        store = atomic_store.open(self.path, default, *options)
        if self.content is None:
            assert store.value is default
            twin = Twin(store, default.copy(), bool(ignore))
        else:
            twin = Twin(store, kind.decode(self.content), bool(ignore))
        self.opened.append(twin)
        return twin

    @precondition(lambda self: len(self.opened) > 1)
    @rule(twin=consumes(twins))
    def drop(self, twin: Twin) -> None:
        """Make room for another one."""
        self.opened.remove(twin)

    @rule(twin=twins, value=VALUES)
    def set(self, twin: Twin, value: list[Any]) -> None:
        twin.store.value = value
        twin.value = value.copy()

    @rule(twin=twins, item=ITEMS)
    def append(self, twin: Twin, item: Any) -> None:
        twin.store.value.append(item)
        twin.value.append(item)

    @rule(twin=twins)
    def make_unwritable(self, twin: Twin) -> None:
        self.append(twin, UNWRITABLE)

    @rule(twin=twins)
    def take_away(self, twin: Twin) -> None:
        """Fix a value that cannot be written, for example."""
        del twin.store.value[-1:], twin.value[-1:]

    @rule(twin=twins, ignore=st.booleans())
    def assign_ignore_inner_exits(self, twin: Twin, ignore: bool) -> None:
        twin.store.ignore_inner_exits = twin.ignore_inner_exits = ignore

    @rule(twin=twins)
    def commit(self, twin: Twin) -> None:
        self.commits(twin, twin.store.commit)

    @rule(target=contexts, twin=twins, times=st.integers(1, 3))
    def enter(self, twin: Twin, times: int) -> Any:
        for _ in range(times):
            assert twin.store.__enter__() is twin.store
        twin.level += times
        return multiple(*[twin] * times)

    @rule(twin=consumes(contexts), end=st.sampled_from([None, SystemExit]))
    def leave(self, twin: Twin, end: type[SystemExit] | None) -> None:
        twin.level -= 1

        def leave() -> None:
            with contextlib.suppress(SystemExit), contextlib.ExitStack() as stack:
                stack.push(twin.store)
                if end is not None:
                    raise end

        if twin.level and twin.ignore_inner_exits:
            leave()
        else:
            self.commits(twin, leave)

    @rule(
        twin=consumes(contexts),
        error=st.sampled_from([ValueError(), KeyboardInterrupt(), SystemExit(1)]),
    )
    def leave_by_exception(self, twin: Twin, error: BaseException) -> None:
        twin.level -= 1
        with pytest.raises(type(error)) as caught, contextlib.ExitStack() as stack:
            stack.push(twin.store)
            raise error
        assert caught.value is error

    @rule(value=st.none() | VALUES | st.sampled_from(['broken', 'folder']))
    def change_from_outside(self, value: Any) -> None:
        """Delete the file, or replace it with a value or with anything else."""
        if self.path.is_dir():
            self.path.rmdir()
        self.path.unlink(missing_ok=True)
        self.content = None
        if value == 'folder':
            self.path.mkdir()
        elif value is not None:
            self.content = BROKEN if value == 'broken' else self.kind.encode(value)
            self.path.write_bytes(self.content)

    @invariant()
    def the_file_is_as_it_should_be(self) -> None:
        content = self.path.read_bytes() if self.path.is_file() else None
        assert content == self.content
        assert os.listdir(self.folder) == ['file'] * self.path.exists()

    @invariant()
    def the_stores_are_as_they_should_be(self) -> None:
        for twin in self.opened:
            assert twin.store.value == twin.value
            assert twin.store.level == twin.level
            assert twin.store.ignore_inner_exits is twin.ignore_inner_exits


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS.keys())
def test_stores_and_their_file_agree_with_a_simple_model(kind: Kind) -> None:
    machine: type[Machine] = type('Machine', (Machine,), {'kind': kind})
    steps = settings(max_examples=80, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(machine, settings=steps)
