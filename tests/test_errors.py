"""An error keeps its type and identity, says what to do, and costs no data.

Notes on system errors are tested with those errors: see test_limits, test_temporary
and test_windows.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support import left_alone, notes, posix

import atomic_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "it's.json"  # whose repr is not in single quotes


def hints(error: BaseException, action: str, path: str | Path) -> list[str]:
    """The package's notes except the first one, which names the file."""
    first, *others = notes(error)
    assert first == f'while {action} {str(path)!r}'
    # From Python 3.14 on, json and pickle add their own notes.
    return [note for note in others if not note.startswith('when serializing ')]


def hints_of_loading(path: Path, error: Any, *options: Any) -> list[str]:
    with left_alone(path.parent), pytest.raises(error) as raised:
        atomic_store.open(path, 'default', *options)
    return hints(raised.value, 'loading', path)


def hints_of_committing(
    store: atomic_store.AtomicStore, error: type[Exception]
) -> list[str]:
    path = os.path.join(os.getcwd(), os.fsdecode(store.path))
    with left_alone(Path(path).parent), pytest.raises(error) as raised:
        store.commit()
    return hints(raised.value, 'committing', path)


# What a user reads


def test_a_traceback_says_after_the_error_which_file_and_what_to_do(path: Path) -> None:
    program = (
        'import atomic_store, sys\n'
        'with atomic_store.open(sys.argv[1]) as store: store.value = [{1}]'
    )
    done = subprocess.run(
        [sys.executable, '-P', '-c', program, path],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = done.stderr.splitlines()
    start = lines.index('TypeError: Object of type set is not JSON serializable')
    assert lines[start + 1] == f'while committing {str(path)!r}'
    assert lines[-1].startswith('JSON does not know this type')


def test_the_notes_of_a_format_come_after_the_name_of_the_file(
    path: Path,
) -> None:
    def loads(data: bytes) -> None:
        error = ValueError()
        error.add_note('in line 1')
        error.add_note('in column 2')
        raise error

    path.touch()
    in_line, in_column, empty = hints_of_loading(
        path, ValueError, SimpleNamespace(dumps=bytes, loads=loads)
    )
    assert (in_line, in_column) == ('in line 1', 'in column 2')
    assert 'empty' in empty


def test_nothing_is_printed_or_logged(
    path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = atomic_store.open(path, 'old')
    store.commit()
    store.value = object()
    hints_of_committing(store, TypeError)
    assert capfd.readouterr() == ('', '')
    assert not caplog.records


# Loading


@pytest.mark.parametrize(
    ('format', 'content', 'error'),
    [
        ('json', b'{"a": 1', json.JSONDecodeError),
        ('json', b'{"a": 1}}', json.JSONDecodeError),
        ('json', b"{'a': 1}", json.JSONDecodeError),
        ('json', b' ', json.JSONDecodeError),
        ('json', b'"\xff"', UnicodeDecodeError),
        ('pickle', pickle.dumps([1])[:-1], pickle.UnpicklingError),
    ],
)
def test_a_file_that_cannot_be_loaded_is_an_error_and_never_the_default(
    path: Path, format: str, content: bytes, error: type[Exception]
) -> None:
    path.write_bytes(content)
    assert hints_of_loading(path, error, format) == []


@pytest.mark.parametrize(
    ('format', 'error'), [('json', json.JSONDecodeError), ('pickle', EOFError)]
)
def test_an_empty_file_is_an_error_that_says_so(
    path: Path, format: str, error: type[Exception]
) -> None:
    path.touch()
    (hint,) = hints_of_loading(path, error, format)
    assert 'the file is empty' in hint
    assert 'delete it to start from the default' in hint


@posix
def test_a_device_without_content_is_an_error_that_does_not_say_to_delete_it() -> None:
    with pytest.raises(json.JSONDecodeError) as raised:
        atomic_store.open(os.devnull)
    assert hints(raised.value, 'loading', Path(os.devnull)) == []


def test_a_file_that_a_format_misses_does_not_give_the_default(path: Path) -> None:
    class Includes(atomic_store.AbstractFormatBstr):
        def loads(self, data: bytes) -> bytes:
            return Path(os.fsdecode(data)).read_bytes()

    path.write_bytes(os.fsencode(path.with_name('missing')))
    assert hints_of_loading(path, FileNotFoundError, Includes) == []


# Committing


@pytest.mark.parametrize(
    ('format', 'value', 'dump_kwargs', 'error'),
    [
        ('json', 1, {'no_such_argument': 1}, TypeError),
        ('json', float('nan'), {'allow_nan': False}, ValueError),
        ('pickle', lambda: None, {}, (pickle.PicklingError, AttributeError)),
    ],
)
def test_a_value_that_cannot_be_written_leaves_the_file_alone_and_the_store_usable(
    path: Path,
    format: Any,
    value: Any,
    dump_kwargs: dict[str, Any],
    error: type[Exception],
) -> None:
    store = atomic_store.open(path, 'old', format)
    store.commit()
    store.value, store.dump_kwargs = value, dump_kwargs
    assert hints_of_committing(store, error) == []
    store.value, store.dump_kwargs = 'new', {}
    store.commit()
    assert atomic_store.open(path, format=format).value == 'new'


@pytest.mark.parametrize(
    'value', [{1, 2}, datetime.date(2000, 1, 1), b'bytes', [{'key': object()}]]
)
def test_a_value_that_json_does_not_know_is_an_error_that_says_what_to_use(
    path: Path, value: Any
) -> None:
    (hint,) = hints_of_committing(atomic_store.open(path, value), TypeError)
    assert "dump_kwargs={'default': ...}" in hint
    assert "format='pickle'" in hint


@pytest.mark.parametrize('key', [(1, 2), b'bytes'])
def test_a_key_that_json_does_not_know_is_an_error_that_says_what_to_use(
    path: Path, key: Any
) -> None:
    (hint,) = hints_of_committing(atomic_store.open(path, [{key: 1}]), TypeError)
    assert 'str(key)' in hint
    assert "format='pickle'" in hint


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "it's" / 'missing'
    store = atomic_store.open(folder / 'state.json')
    (hint,) = hints_of_committing(store, FileNotFoundError)
    assert hint == f'the folder {str(folder)!r} does not exist, and is not created'
    folder.mkdir(parents=True)
    store.commit()


@posix  # Wine does not show symbolic links
def test_a_link_into_a_missing_folder_is_an_error_that_names_that_folder(
    path: Path,
) -> None:
    path.symlink_to('missing/state.json')
    (hint,) = hints_of_committing(atomic_store.open(path), FileNotFoundError)
    assert repr(str(path.with_name('missing'))) in hint


@pytest.mark.parametrize('path', ['~/state.json', b'~/state.json', Path('~/a/b')])
def test_a_tilde_that_is_not_a_folder_is_an_error_that_names_expanduser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    store = atomic_store.open(path)
    missing, tilde = hints_of_committing(store, FileNotFoundError)
    assert repr(str((tmp_path / os.fsdecode(path)).parent)) in missing
    assert 'os.path.expanduser()' in tilde
    (tmp_path / '~' / 'a').mkdir(parents=True)
    store.commit()


@pytest.mark.parametrize('content', ['returned', b'returned'])
def test_a_dump_that_returns_what_it_should_write_is_an_error(
    path: Path, content: str | bytes
) -> None:
    format = SimpleNamespace(dump=lambda value, file: content, load=None)
    format.load = format.dump
    store = atomic_store.open(path, None, format)
    with pytest.raises(TypeError, match='instead of writing it') as raised:
        store.commit()
    assert hints(raised.value, 'committing', path) == []


def test_a_dump_may_return_what_it_has_written(path: Path) -> None:
    class Both(atomic_store.AbstractFormatFile):
        def dump(self, value: bytes, file: Any) -> bytes:
            file.write(value)
            return value

    atomic_store.open(path, b'value', Both).commit()
    assert path.read_bytes() == b'value'


@pytest.mark.parametrize('status', [True, 1, '', b'', None, [b'bytes']])
def test_a_dump_may_write_nothing_and_return_no_content(
    path: Path, status: Any
) -> None:
    format = SimpleNamespace(dump=lambda value, file: status, load=id)
    atomic_store.open(path, format=format).commit()
    assert path.read_bytes() == b''


# Formats that do not fit


def formats(dumps: Callable[[Any], Any]) -> list[Any]:
    """A format of each of the three kinds. Each writes what the function returns."""
    return [
        SimpleNamespace(dump=lambda value, file: file.write(dumps(value)), load=id),
        SimpleNamespace(dumps=dumps, loads=id),
        SimpleNamespace(encode=dumps, decode=id),
    ]


class Text(str):
    __slots__ = ()


class Bytes(bytes):
    pass


@pytest.mark.parametrize('kind', [0, 1, 2], ids=['dump', 'dumps', 'encode'])
@pytest.mark.parametrize(
    ('data', 'is_binary'),
    [
        ('text', True),
        (Text('text'), True),
        (b'bytes', False),
        (Bytes(b'bytes'), False),
        (bytearray(b'bytes'), False),
    ],
)
def test_writing_the_wrong_kind_of_string_is_an_error_that_names_is_binary(
    path: Path, kind: int, data: Any, is_binary: bool
) -> None:
    format = formats(lambda value: data)[kind]
    store = atomic_store.open(path, None, format, is_binary)
    (hint,) = hints_of_committing(store, TypeError)
    assert f'the store has is_binary={is_binary}' in hint
    assert hint.endswith(f'is_binary={not is_binary}?')


@pytest.mark.parametrize(
    ('loads', 'is_binary'),
    [
        (lambda data: data.decode(), False),
        (lambda data: data.encode(), True),
        (lambda data: data.split(' '), True),
        (lambda data: tomllib.load(io.StringIO(data)), False),  # type: ignore[arg-type]
        (pickle.loads, False),
    ],
)
def test_reading_the_wrong_kind_of_string_is_an_error_that_names_is_binary(
    path: Path, loads: Callable[[Any], Any], is_binary: bool
) -> None:
    path.write_text('content')
    for format in (
        SimpleNamespace(dump=id, load=lambda file: loads(file.read())),
        SimpleNamespace(dumps=id, loads=loads),
        SimpleNamespace(encode=id, decode=loads),
    ):
        error = (TypeError, AttributeError)
        (hint,) = hints_of_loading(path, error, format, is_binary)
        assert f'the store has is_binary={is_binary}' in hint
        assert hint.endswith(f'is_binary={not is_binary}?')


@pytest.mark.parametrize('is_binary', [True, False])
@pytest.mark.parametrize('data', [None, 1, ['text'], {}, object(), Path('path')])
def test_returning_no_string_is_an_error_that_names_the_type_and_not_is_binary(
    path: Path, data: Any, is_binary: bool
) -> None:
    of_dumps, of_encode = (
        hints_of_committing(atomic_store.open(path, None, format, is_binary), TypeError)
        for format in formats(lambda value: data)[1:]
    )
    kind = type(data).__name__
    assert of_dumps == [f'dumps returned {kind}, not bytes or str']
    assert of_encode == [f'encode returned {kind}, not bytes or str']


@pytest.mark.parametrize('is_binary', [True, False])
@pytest.mark.parametrize('data', [None, 1, 1.5, True, [], (), {}, set()])
def test_writing_no_string_is_an_error_that_does_not_name_is_binary(
    path: Path, data: Any, is_binary: bool
) -> None:
    format = formats(lambda value: data)[0]
    store = atomic_store.open(path, None, format, is_binary)
    assert hints_of_committing(store, TypeError) == []


@pytest.mark.parametrize(
    ('loads', 'is_binary'),
    [
        (lambda data: data.decode().decode(), True),
        (lambda data: data.encode().encode(), False),
    ],
)
def test_an_error_in_reading_that_is_binary_cannot_fix_does_not_name_it(
    path: Path, loads: Callable[[Any], Any], is_binary: bool
) -> None:
    path.write_text('content')
    format = SimpleNamespace(dumps=id, loads=loads)
    assert hints_of_loading(path, AttributeError, format, is_binary) == []


class Files:
    def dump(self, value: Any, file: Any) -> None:
        raise TypeError('the value is missing')

    load = dump


class Strings:
    def dumps(self, value: Any) -> bytes:
        raise TypeError('the value is missing')

    loads = dumps


class Codec:
    def encode(self, value: Any) -> bytes:
        raise TypeError('the value is missing')

    decode = encode


@pytest.mark.parametrize('format', [Files, Strings, Codec])
def test_a_class_given_for_an_instance_is_an_error_that_names_the_instance(
    path: Path, format: Any
) -> None:
    (hint,) = hints_of_committing(atomic_store.open(path, None, format), TypeError)
    assert f'{format.__name__}()' in hint
    path.write_text('content')
    assert hints_of_loading(path, TypeError, format) == [hint]


class Static:
    @staticmethod
    def dumps(value: Any) -> bytes:
        raise TypeError('the value is no number')

    loads = dumps


MODULE = ModuleType('a_module')
MODULE.dumps = MODULE.loads = Strings().dumps  # type: ignore[attr-defined]


@pytest.mark.parametrize('format', [Strings(), Codec(), MODULE, Static])
def test_an_instance_with_the_same_error_or_a_class_with_another_has_no_such_note(
    path: Path, format: Any
) -> None:
    assert hints_of_committing(atomic_store.open(path, None, format), TypeError) == []
    path.write_text('content')
    assert hints_of_loading(path, TypeError, format) == []


# Errors that are hard to handle


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses to set any attribute, even `__notes__`."""

    reason: str = ''


class OwnNotesError(Exception):
    def add_note(self) -> None:  # type: ignore[override]
        raise AssertionError('called by the package')


class TupleOfNotesError(Exception):
    __notes__ = ()  # type: ignore[assignment]


class UnprintableError(TypeError):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    'error',
    [
        FrozenError(),
        OwnNotesError(),
        TupleOfNotesError(),
        UnprintableError(),
        ExceptionGroup('several', [ValueError()]),
        StopIteration(),
        KeyboardInterrupt(),
        SystemExit(0),
        GeneratorExit(),
    ],
)
def test_an_error_of_the_format_is_raised_as_it_is(
    path: Path, error: BaseException
) -> None:
    def fail(argument: Any) -> Any:
        raise error

    format = SimpleNamespace(dumps=fail, loads=fail)
    store = atomic_store.open(path, format=format)
    with left_alone(path.parent), pytest.raises(type(error)) as raised, store:
        pass
    assert raised.value is error
    path.touch()
    with left_alone(path.parent), pytest.raises(type(error)) as raised:
        atomic_store.open(path, format=format)
    assert raised.value is error


class UnrelatedError(Exception):
    pass


@pytest.mark.parametrize(
    'error',
    [
        UnrelatedError("'str' object has no attribute 'decode'"),
        AttributeError("'str' object has no attribute 'encrypt'"),
        FileNotFoundError('of the format'),
    ],
)
def test_an_error_that_only_looks_like_a_known_one_has_no_note_but_the_file(
    path: Path, error: Exception
) -> None:
    def fail(argument: Any) -> Any:
        raise error

    store = atomic_store.open(path, format=SimpleNamespace(dumps=fail, loads=fail))
    assert hints_of_committing(store, type(error)) == []
    del error.__notes__
    path.write_text('content')
    assert hints_of_loading(path, type(error), store.format) == []


@pytest.mark.parametrize(
    'base', [atomic_store.AbstractFormatFile, atomic_store.AbstractFormatBstr]
)
def test_a_class_that_needs_arguments_is_an_error_that_names_the_instance(
    tmp_path: Path, base: type
) -> None:
    class Indented(base):  # type: ignore[misc]
        def __init__(self, indent: int) -> None: ...

    with pytest.raises(TypeError, match='indent') as raised:
        atomic_store.open(tmp_path / 'state', format=Indented)
    assert raised.value.__notes__ == [
        'the format is a class: give an instance of Indented'
    ]
