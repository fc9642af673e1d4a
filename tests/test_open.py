"""The arguments of `open`, and what it returns."""

from __future__ import annotations

import errno
import inspect
import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import freezegun
import pytest
from support import raising

import atomic_store
from atomic_store import _files


def test_public_names() -> None:
    assert sorted(atomic_store.__all__) == [
        'AbstractFormatBstr',
        'AbstractFormatFile',
        'AtomicStore',
        'WrapBinaryFormat',
        'open',
    ]


def test_parameters_work_by_name_and_by_position_in_this_order(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        'path': tmp_path / 'store',
        'default': 1,
        'format': pickle,
        'is_binary': True,
        'load_kwargs': {'encoding': 'ASCII'},
        'dump_kwargs': {'protocol': 4},
        'ignore_inner_exits': True,
    }
    assert list(inspect.signature(atomic_store.open).parameters) == list(arguments)
    assert list(inspect.signature(atomic_store.AtomicStore).parameters) == list(
        arguments
    )
    stores = [
        atomic_store.open(**arguments),
        atomic_store.open(*arguments.values()),
        atomic_store.AtomicStore(**arguments),
        atomic_store.AtomicStore(*arguments.values()),
    ]
    for store in stores:
        assert store.value == arguments.pop('default', 1)
        for name, given in arguments.items():
            assert getattr(store, name) is given


def test_only_the_path_is_required(tmp_path: Path) -> None:
    store = atomic_store.open(tmp_path / 'store')
    assert store.value is None
    assert store.is_binary is False
    assert store.load_kwargs == store.dump_kwargs == {}
    assert store.ignore_inner_exits is False
    assert store.level == 0


def test_none_means_the_default_of_each_parameter(tmp_path: Path) -> None:
    store = atomic_store.open(tmp_path / 'store', None, None, None, None, None, None)
    with store, store:
        store.value = 1
        store.dump_kwargs = None  # type: ignore[assignment]
    assert (tmp_path / 'store').read_text() == '1'


def test_a_missing_file_gives_the_default_object_itself(tmp_path: Path) -> None:
    default: list[int] = []
    assert atomic_store.open(tmp_path / 'store', default).value is default


def test_the_given_dicts_are_kept(tmp_path: Path) -> None:
    load_kwargs: dict[str, Any] = {}
    dump_kwargs: dict[str, Any] = {}
    store = atomic_store.open(
        tmp_path / 'store', load_kwargs=load_kwargs, dump_kwargs=dump_kwargs
    )
    assert store.load_kwargs is load_kwargs
    assert store.dump_kwargs is dump_kwargs
    store.value = [1]
    dump_kwargs['indent'] = 1
    store.commit()
    assert (tmp_path / 'store').read_text() == '[\n 1\n]'


def test_the_value_of_a_file_may_be_none(tmp_path: Path) -> None:
    (tmp_path / 'store').write_text('null')
    assert atomic_store.open(tmp_path / 'store', default=1).value is None


def test_open_creates_and_writes_nothing(tmp_path: Path) -> None:
    atomic_store.open(tmp_path / 'store', default=1)
    with pytest.raises(ValueError, match='unknown format'):
        atomic_store.open(tmp_path / 'store', format='yaml')  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_open_reads_once_and_the_store_never_again(tmp_path: Path) -> None:
    path = tmp_path / 'store'
    path.write_text('"old"')
    store = atomic_store.open(path)
    path.write_text('"from elsewhere"')
    with store:
        assert store.value == 'old'
    assert path.read_text() == '"old"'


@pytest.mark.parametrize('path', [3, None, 1.5, ['a'], True])
def test_a_path_of_another_type_is_refused_at_once(path: Any) -> None:
    with pytest.raises(TypeError):
        atomic_store.open(path)


# A file that is missing, or only seems to be


def on_fuse(monkeypatch: pytest.MonkeyPatch, is_on_fuse: bool = True) -> None:
    """Imitate a file system by the id that it has: FUSE gives zero."""

    def statvfs(path: object) -> SimpleNamespace:
        return SimpleNamespace(f_fsid=0 if is_on_fuse else 1)

    monkeypatch.setattr(os, 'statvfs', statvfs, raising=False)


def test_a_new_store_neither_waits_nor_lists_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that ten thousand of them cost ten thousand times what one costs."""

    def refused(*args: object) -> None:
        raise AssertionError

    on_fuse(monkeypatch, False)
    for module, name in (time, 'sleep'), (os, 'scandir'), (os, 'listdir'):
        monkeypatch.setattr(module, name, refused)
    for path in tmp_path / 'state', tmp_path / 'missing/state':
        store = atomic_store.open(path, 'default')
        path.parent.mkdir(exist_ok=True)
        store.commit()
        store.commit()


@pytest.mark.parametrize('is_slow', [True, False])
def test_a_file_that_is_listed_but_never_found_is_an_error_after_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    clock = [0.0]

    def wait(seconds: float) -> None:
        clock.append(seconds)

    def miss(*args: object, **kwargs: object) -> None:
        wait(0.3 if is_slow else 0.0)  # a look takes long on a network
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    (tmp_path / 'state').write_text('"value"')
    on_fuse(monkeypatch)
    monkeypatch.setattr(time, 'sleep', wait)
    monkeypatch.setattr(time, 'monotonic', lambda: sum(clock))
    monkeypatch.setattr(_files, 'open_file', miss)
    with pytest.raises(FileNotFoundError):
        atomic_store.open(tmp_path / 'state', 'default')
    assert 0.9 < sum(clock) < 2


def test_looking_for_a_file_ends_even_if_a_test_has_stopped_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    (tmp_path / 'state').write_text('"value"')
    on_fuse(monkeypatch)
    monkeypatch.setattr(time, 'sleep', waits.append)
    monkeypatch.setattr(_files, 'open_file', raising(FileNotFoundError()))
    with freezegun.freeze_time('2000-01-01'), pytest.raises(FileNotFoundError):
        atomic_store.open(tmp_path / 'state', 'default')
    assert sum(waits) < 2
