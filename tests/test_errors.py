"""An error keeps its type, says which file it is about, and costs no data."""

from __future__ import annotations

import io
import json
import pickle
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import atomic_store


def notes(error: BaseException) -> list[str]:
    return getattr(error, '__notes__', [])


@pytest.mark.parametrize('content', ['', '{"a": 1', '{"a": 1}}', "{'a': 1}", '\ufeff1'])
def test_a_broken_file_is_an_error_of_the_format(tmp_path: Path, content: str) -> None:
    path = tmp_path / 'store'
    path.write_text(content, encoding='utf-8')
    with pytest.raises(json.JSONDecodeError) as raised:
        atomic_store.open(path, default=1)
    assert notes(raised.value) == [f"while loading '{path}'"]
    assert path.read_text(encoding='utf-8') == content


@pytest.mark.parametrize('content', [b'', pickle.dumps([1])[:-1]])
def test_a_broken_pickle_is_an_error_of_pickle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'store'
    path.write_bytes(content)
    with pytest.raises((EOFError, pickle.UnpicklingError)) as raised:
        atomic_store.open(path, default=1, format='pickle')
    assert notes(raised.value) == [f"while loading '{path}'"]
    assert path.read_bytes() == content


def test_a_file_that_is_not_utf_8_is_a_unicode_decode_error(tmp_path: Path) -> None:
    path = tmp_path / 'store'
    path.write_bytes(b'"\xff"')
    with pytest.raises(UnicodeDecodeError) as raised:
        atomic_store.open(path, default=1)
    assert notes(raised.value) == [f"while loading '{path}'"]


def test_a_missing_file_within_a_format_is_not_a_missing_store(tmp_path: Path) -> None:
    class Includes(atomic_store.AbstractFormatFile):
        def load(self, file: Any) -> Any:
            return Path(file.read().decode()).read_text()

    path = tmp_path / 'store'
    path.write_text(str(tmp_path / 'missing'))
    with pytest.raises(FileNotFoundError) as raised:
        atomic_store.open(path, default=1, format=Includes())
    assert raised.value.filename == str(tmp_path / 'missing')
    assert notes(raised.value) == [f"while loading '{path}'"]


@pytest.mark.parametrize(
    ('loads', 'is_binary'),
    [
        (lambda data: data.decode().split(), False),
        (lambda data: data.encode().split(), True),
        (lambda data: data.split(' '), True),
        (lambda data: tomllib.load(io.StringIO(data)), False),  # type: ignore[arg-type]
    ],
)
def test_the_wrong_kind_of_string_is_an_error_that_names_is_binary(
    tmp_path: Path, loads: Callable[[Any], Any], is_binary: bool
) -> None:
    path = tmp_path / 'store'
    path.write_text('content')
    format = SimpleNamespace(dumps=str, loads=loads)
    with pytest.raises((TypeError, AttributeError)) as raised:
        atomic_store.open(path, format=format, is_binary=is_binary)
    where, what = notes(raised.value)
    assert where == f"while loading '{path}'"
    assert what.endswith(f'does the format need is_binary={not is_binary}?')


class FileMethods:
    def dump(self, value: Any, file: Any) -> None:
        raise TypeError('the value is missing')

    def load(self, file: Any) -> Any:
        raise TypeError('the value is missing')


class Methods:
    def dumps(self, value: Any) -> bytes:
        raise TypeError('the value is missing')

    def loads(self, data: bytes) -> Any:
        raise TypeError('the value is missing')


@pytest.mark.parametrize('format', [FileMethods, Methods])
def test_a_class_given_for_an_instance_is_an_error_that_says_so(
    tmp_path: Path, format: type
) -> None:
    def errors(format: Any) -> tuple[TypeError, TypeError]:
        path = tmp_path / format.__class__.__name__
        store = atomic_store.open(path, format=format)
        with pytest.raises(TypeError, match='missing') as committing:
            store.commit()
        path.write_text('content')
        with pytest.raises(TypeError, match='missing') as loading:
            atomic_store.open(path, format=format)
        return committing.value, loading.value

    for error in errors(format):
        assert notes(error)[1:] == [
            f'the format is a class: is {format.__name__}() meant?'
        ]
    for error in errors(format()):
        assert not notes(error)[1:]


class Text(str):
    __slots__ = ()


class Bytes(bytes):
    pass


@pytest.mark.parametrize(
    'content', ['str', Text('of its own'), b'bytes', Bytes(b'own')]
)
def test_content_of_the_wrong_kind_is_an_error_that_names_is_binary(
    tmp_path: Path, content: str | bytes
) -> None:
    is_binary = isinstance(content, str)
    format = SimpleNamespace(dumps=lambda value: content, loads=str)
    store = atomic_store.open(tmp_path / 'store', None, format, is_binary=is_binary)
    with pytest.raises(TypeError) as raised:
        store.commit()
    assert f'is_binary={is_binary}' in notes(raised.value)[1]


class UnrelatedError(Exception):
    """Says the same, but not of the format."""


@pytest.mark.parametrize(
    'error',
    [
        UnrelatedError("'str' object has no attribute 'decode'"),
        TypeError('keys must be str, int, float, bool or None, not bytes'),
        AttributeError("'str' object has no attribute 'encrypt'"),
    ],
)
def test_another_error_names_the_file_alone(tmp_path: Path, error: Exception) -> None:
    def dumps(value: Any) -> bytes:
        raise error

    store = atomic_store.open(
        tmp_path / 'store', format=SimpleNamespace(dumps=dumps, loads=bytes)
    )
    with pytest.raises(type(error)):
        store.commit()
    assert notes(error) == [f"while committing '{tmp_path / 'store'}'"]


LONE_SURROGATE = '\ud800'  # for which UTF-8 has no bytes


@pytest.mark.parametrize(
    ('format', 'value', 'dump_kwargs', 'error'),
    [
        ('json', {1, 2}, {}, TypeError),
        ('json', {'key': {(1, 2): 3}}, {}, TypeError),
        ('json', LONE_SURROGATE, {'ensure_ascii': False}, UnicodeEncodeError),
        ('json', 1, {'no_such_argument': 1}, TypeError),
        ('pickle', lambda: None, {}, (pickle.PicklingError, AttributeError)),
    ],
)
def test_a_value_that_cannot_be_written_leaves_the_file_alone(
    tmp_path: Path,
    format: Any,
    value: Any,
    dump_kwargs: dict[str, Any],
    error: type[Exception],
) -> None:
    path = tmp_path / 'store'
    store = atomic_store.open(path, 'old', format)
    store.commit()
    old = path.read_bytes()
    store.value, store.dump_kwargs = value, dump_kwargs
    with pytest.raises(error) as raised:
        store.commit()
    assert notes(raised.value) == [f"while committing '{path}'"]
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    store.value, store.dump_kwargs = 'new', {}
    store.commit()
    assert atomic_store.open(path, format=format).value == 'new'


def test_a_circular_value_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / 'store'
    path.write_text('["old"]')
    store = atomic_store.open(path)
    store.value.append(store.value)
    with pytest.raises(ValueError, match='Circular') as raised:
        store.commit()
    assert f"while committing '{path}'" in notes(raised.value)
    assert path.read_text() == '["old"]'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('content', ['returned', b'returned'])
def test_a_dump_that_returns_what_it_should_write_is_an_error(
    tmp_path: Path, content: str | bytes
) -> None:
    class Returns(atomic_store.AbstractFormatFile):
        def dump(self, value: Any, file: Any) -> str | bytes:
            return content

        def load(self, file: Any) -> Any:
            return file.read()

    path = tmp_path / 'store'
    path.write_text('old')
    store = atomic_store.open(path, format=Returns())
    with pytest.raises(TypeError, match='instead of writing it') as raised:
        store.commit()
    assert notes(raised.value) == [f"while committing '{path}'"]
    assert path.read_text() == 'old'


def test_a_dump_may_return_what_it_has_written(tmp_path: Path) -> None:
    class Both(atomic_store.AbstractFormatFile):
        def dump(self, value: bytes, file: Any) -> bytes:
            file.write(value)
            return value

    store = atomic_store.open(tmp_path / 'store', b'value', Both)
    store.commit()
    assert (tmp_path / 'store').read_bytes() == b'value'


def test_an_interrupt_in_the_format_passes_as_it_is(tmp_path: Path) -> None:
    class Interrupted(atomic_store.AbstractFormatBstr):
        def dumps(self, value: Any) -> bytes:
            raise KeyboardInterrupt

    store = atomic_store.open(tmp_path / 'store', 1, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        store.commit()
    assert not list(tmp_path.iterdir())


def test_nothing_is_printed_or_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = atomic_store.open(tmp_path / 'store')
    store.commit()
    store.value = object()
    with pytest.raises(TypeError):
        store.commit()
    assert capfd.readouterr() == ('', '')
    assert not caplog.records
