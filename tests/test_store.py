"""The store: its attributes, when it commits, and what it does with an error."""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from support import left_alone, notes

import atomic_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'store.json'


class UsersError(Exception):
    pass


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_commit_may_be_called_any_number_of_times(path: Path) -> None:
    store = atomic_store.open(path)
    for value in range(3):
        store.value = value
        store.commit()
        assert read(path) == value
    with store:
        store.value = 'in a context'
        store.commit()
        assert read(path) == 'in a context'


def test_level_counts_the_open_contexts(path: Path) -> None:
    store = atomic_store.open(path)
    assert store.level == 0
    with store:
        assert store.level == 1
        with store:
            assert store.level == 2
        assert store.level == 1
    assert store.level == 0


def test_every_level_commits_by_default(path: Path) -> None:
    with atomic_store.open(path) as store:
        with store:
            with store:
                store.value = 3
            assert read(path) == 3
            store.value = 2
        assert read(path) == 2
        store.value = 1
    assert read(path) == 1


def test_only_the_outermost_level_commits_if_asked_to(path: Path) -> None:
    with atomic_store.open(path, ignore_inner_exits=True) as store:
        with store:
            with store:
                store.value = 3
            assert not path.exists()
        assert not path.exists()
        store.value = 1
    assert read(path) == 1


@pytest.mark.parametrize('ignore_inner_exits', [False, True])
@pytest.mark.parametrize(
    'error', [UsersError, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)
def test_leaving_by_an_exception_commits_nothing(
    path: Path, error: type[BaseException], ignore_inner_exits: bool
) -> None:
    path.write_text('"old"')
    store = atomic_store.open(path, ignore_inner_exits=ignore_inner_exits)
    with pytest.raises(error) as raised, store, store:
        store.value = 'new'
        raise error
    assert not notes(raised.value)
    assert read(path) == 'old'
    assert store.level == 0
    assert store.value == 'new'


@pytest.mark.parametrize('ignore_inner_exits', [False, True])
def test_an_inner_block_that_fails_skips_its_own_commit_only(
    path: Path, ignore_inner_exits: bool
) -> None:
    path.write_text('["old"]')
    with atomic_store.open(path, ignore_inner_exits=ignore_inner_exits) as store:
        with pytest.raises(UsersError), store:
            store.value.append('inner')
            raise UsersError
        assert read(path) == ['old']
        assert store.level == 1
        store.value.append('outer')
    assert read(path) == ['old', 'inner', 'outer']


def test_a_store_still_works_after_a_failed_commit(path: Path) -> None:
    store = atomic_store.open(path, default={})
    with left_alone(path.parent), pytest.raises(TypeError), store, store:
        store.value['a'] = object()
    assert store.level == 0
    store.value['a'] = 1
    with store:
        pass
    assert read(path) == {'a': 1}
    assert [path] == list(path.parent.iterdir())


def test_a_commit_uses_the_current_attributes(path: Path) -> None:
    store = atomic_store.open(path, default=(1,))
    store.path = path.with_name('other')
    store.format = pickle
    store.is_binary = True
    store.dump_kwargs = {'protocol': 0}
    store.commit()
    assert [path.with_name('other')] == list(path.parent.iterdir())
    assert path.with_name('other').read_bytes() == pickle.dumps((1,), protocol=0)
    assert store.path == path.with_name('other')


def test_repr_names_path_format_and_level(path: Path) -> None:
    store = atomic_store.open(path)
    with store:
        assert repr(store) == f'<AtomicStore path={path!r} format=json level=1>'
    wrapped = atomic_store.open(b'p', format=atomic_store.WrapBinaryFormat(json))
    assert repr(wrapped) == (
        f"<AtomicStore path=b'p' format=WrapBinaryFormat({json!r}) level=0>"
    )
