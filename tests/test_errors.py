"""An error keeps its type and identity, says what to do, and costs no data.

Notes on system errors are tested with those errors: see test_limits, test_temporary
and test_windows.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime
import errno
import io
import json
import os
import pickle
import plistlib
import subprocess
import sys
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
from support import USER, in_child, left_alone, notes, posix, raising

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


def test_the_notes_of_a_format_come_after_the_name_of_the_file(path: Path) -> None:
    error = ValueError()
    error.add_note('in line 1')
    error.add_note('in column 2')
    path.touch()
    format = SimpleNamespace(dumps=bytes, loads=raising(error))
    *notes_of_format, empty = hints_of_loading(path, ValueError, format)
    assert notes_of_format == ['in line 1', 'in column 2']
    assert 'empty' in empty


def test_nothing_is_printed_or_logged(
    path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    hints_of_committing(atomic_store.open(path, object()), TypeError)
    assert capfd.readouterr() == ('', '')
    assert not caplog.records


# Loading


@pytest.mark.parametrize(
    ('format', 'content', 'error'),
    [
        ('json', b'{"a": 1', json.JSONDecodeError),
        ('json', b'{"a": 1}}', json.JSONDecodeError),
        ('json', b"{'a': 1}", json.JSONDecodeError),
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
    ('format', 'content', 'what'),
    [
        ('json', b'', 'is empty'),
        ('pickle', b'', 'is empty'),
        *(
            ('json', content, 'holds nothing but white space')
            for content in (b' ', b'\n', b'\r\n', b'\xef\xbb\xbf\r\n')
        ),
    ],
)
def test_a_file_without_content_is_an_error_that_says_so(
    path: Path, format: str, content: bytes, what: str
) -> None:
    path.write_bytes(content)
    error = EOFError if format == 'pickle' else json.JSONDecodeError
    assert hints_of_loading(path, error, format) == [
        f'the file {what}: delete it to start from the default'
    ]


@posix
def test_an_empty_file_without_permission_is_not_called_empty(folder: Path) -> None:
    path = folder / 'state.json'
    path.touch(mode=0)

    def load() -> list[str]:
        with pytest.raises(PermissionError) as raised:
            atomic_store.open(path)
        return hints(raised.value, 'loading', path)

    assert in_child(load, uid=USER) == []


@pytest.mark.parametrize('encoding', ['utf-16-le', 'utf-16-be'])
@pytest.mark.parametrize('mark', ['\ufeff', ''])
@pytest.mark.parametrize('text', ['{"name": "Zoë ♥"}\r\n', '1', '["♥"]', '1 ' * 9999])
def test_text_in_utf_16_is_an_error_that_says_so(
    path: Path, encoding: str, mark: str, text: str
) -> None:
    path.write_bytes((mark + text).encode(encoding))
    hint = 'the file looks like UTF-16: save it as UTF-8'
    assert hints_of_loading(path, ValueError) == [hint]
    format = SimpleNamespace(dumps=str, loads=ast.literal_eval)
    assert hints_of_loading(path, Exception, format, False) == [hint]


BINARY = bytes(range(256))


@pytest.mark.parametrize(
    'content',
    [
        b' ' * 5000 + b'x',
        b'\0',
        b'\n\0\0\0',
        b'\xff\xfe' + BINARY,
        b'\xfe\xff' + BINARY,
        b'\xff\xfe1',
        '\ufeff{}'.encode('utf-32'),
        '{}'.encode('utf-32-le'),
        b'\0' * 64,  # as some file systems leave a file after a power cut
        b'"text"' + b'\0' * 64,
        b'"' + BINARY + b'"',
        b'{"a": "x\0y"}',
        b'1\0abcd',
        b'a\0bcde',
        b'\0001abcd',
    ],
)
def test_other_content_is_called_neither_white_space_nor_utf_16(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    assert hints_of_loading(path, ValueError) == []


# The first one is 10 in MessagePack.
@pytest.mark.parametrize(
    'content', [b'\n', *map('text'.encode, ('utf-16', 'utf-16-le', 'utf-16-be'))]
)
def test_white_space_or_utf_16_is_content_of_a_binary_file(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    assert hints_of_loading(path, pickle.UnpicklingError, 'pickle') == []


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
    path.write_bytes(b'')
    assert hints_of_loading(path, OSError, Includes) == []


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
    ('value', 'advice'),
    [
        *(
            (value, "dump_kwargs={'default': ...}")
            for value in ({1, 2}, datetime.date(2000, 1, 1), b'', [{'key': object()}])
        ),
        *(([{key: 1}], 'str(key)') for key in ((1, 2), b'bytes')),
    ],
)
def test_what_json_does_not_know_is_an_error_that_says_what_to_use(
    path: Path, value: Any, advice: str
) -> None:
    (hint,) = hints_of_committing(atomic_store.open(path, value), TypeError)
    assert advice in hint
    assert "format='pickle'" in hint


@dataclass
class Point:
    x: int = 0


def test_a_dataclass_in_json_is_an_error_that_says_how_it_comes_back(
    path: Path,
) -> None:
    store = atomic_store.open(path, {'points': [Point(1)]})
    (hint,) = hints_of_committing(store, TypeError)
    assert "dump_kwargs={'default': dataclasses.asdict} (it comes back as a" in hint
    assert "format='pickle'" in hint
    store.dump_kwargs = {'default': dataclasses.asdict}
    store.commit()
    assert atomic_store.open(path).value == {'points': [{'x': 1}]}


def test_another_type_beside_a_dataclass_is_not_called_one(path: Path) -> None:
    (hint,) = hints_of_committing(atomic_store.open(path, [{1}, Point()]), TypeError)
    assert 'dataclasses' not in hint
    store = atomic_store.open(path, Point(), dump_kwargs={'default': a_set})
    (hint,) = hints_of_committing(store, TypeError)
    assert 'dataclasses' not in hint


def a_set(value: object) -> Any:
    return {1} if isinstance(value, Point) else json.JSONEncoder().default(value)


class Refusing(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        raise TypeError(f'Object of type {type(o).__name__} is not JSON serializable')


@pytest.mark.parametrize(
    'dump_kwargs',
    [
        {'default': raising(TypeError('keys must be str'))},
        {'default': Refusing().default},
        {'cls': Refusing},
    ],
)
def test_an_own_default_that_fails_is_not_told_to_be_given(
    path: Path, dump_kwargs: Any
) -> None:
    store = atomic_store.open(path, object(), dump_kwargs=dump_kwargs)
    assert hints_of_committing(store, TypeError) == []


def simplejson() -> Any:
    return pytest.importorskip('simplejson', reason='needs simplejson')


def keys_as_json_says(value: Any) -> bytes:
    json.dumps({(1, 2): 3})
    raise AssertionError


@pytest.mark.parametrize(
    ('format', 'value'),
    [
        (lambda: plistlib, {1: 2}),
        (lambda: plistlib, {(1, 2): 3}),
        (lambda: plistlib, object()),
        (simplejson, {(1, 2): 3}),
        (simplejson, {1, 2}),
        (simplejson, Point()),
        (lambda: SimpleNamespace(dumps=json.dumps, loads=json.loads), {1, 2}),
        (lambda: SimpleNamespace(dumps=keys_as_json_says, loads=id), {}),
    ],
)
def test_a_value_that_another_format_does_not_know_has_no_note_on_json(
    path: Path, format: Callable[[], Any], value: Any
) -> None:
    store = atomic_store.open(path, value, format())
    assert hints_of_committing(store, TypeError) == []


@pytest.mark.parametrize(
    ('default', 'example'),
    [(dict, '{}'), (list, '[]'), (set, 'set()'), (Point, 'Point()')],
)
def test_a_class_given_as_the_default_is_an_error_that_asks_for_an_object(
    path: Path, default: type, example: str
) -> None:
    for format in None, plistlib:
        store = atomic_store.open(path, default, format)
        assert hints_of_committing(store, TypeError) == [
            f'the value is a class: give an object, such as {example}'
        ]


def test_a_class_that_a_format_knows_or_that_is_not_the_reason_has_no_such_note(
    path: Path,
) -> None:
    atomic_store.open(path, dict, 'pickle').commit()
    assert atomic_store.open(path, None, 'pickle').value is dict
    path.unlink()
    (hint,) = hints_of_committing(atomic_store.open(path, [dict]), TypeError)
    assert 'the value' not in hint
    store = atomic_store.open(path, dict, SimpleNamespace(dumps=str, loads=str))
    (hint,) = hints_of_committing(store, TypeError)
    assert 'is_binary' in hint
    store = atomic_store.open(path, dict, SimpleNamespace(dumps=id, loads=str))
    (hint,) = hints_of_committing(store, TypeError)
    assert hint == 'dumps returned int, not bytes or str'
    store.path = path / 'missing' / 'state.json'
    (hint,) = hints_of_committing(store, FileNotFoundError)
    assert 'does not exist' in hint


EXPAND = ': Python does not expand ~ in a path, use os.path.expanduser()'


@pytest.mark.parametrize(
    ('path', 'advice'),
    [
        ("it's ~/missing/state.json", ''),
        ('~/state.json', EXPAND),
        (b'~/state.json', EXPAND),
        (Path('~/a/b'), EXPAND),
    ],
)
def test_a_missing_folder_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = atomic_store.open(path)
    folder = (tmp_path / os.fsdecode(path)).parent
    assert hints_of_committing(store, FileNotFoundError) == [
        f'the folder {str(folder)!r} does not exist, and is not created{advice}'
    ]
    folder.mkdir(parents=True)
    store.commit()


def test_a_file_in_the_place_of_a_folder_is_not_called_a_missing_folder(
    path: Path,
) -> None:
    store = atomic_store.open(path / 'state.json')
    path.touch()
    assert hints_of_committing(store, NotADirectoryError) == []


@posix  # Wine does not show symbolic links
def test_a_link_into_a_missing_folder_is_an_error_that_names_that_folder(
    path: Path,
) -> None:
    path.symlink_to('missing/state.json')
    (hint,) = hints_of_committing(atomic_store.open(path), FileNotFoundError)
    folder = path.with_name('missing')
    assert f'{str(folder)!r}, to which the link {str(path)!r} leads, does not' in hint


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
        ('', True),
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


class Misused:
    """Whose methods, called on the class, fail with another message."""

    def dump(self, value: Any, file: Any = None) -> None:
        file.write(b'')

    def load(self, file: Any = None) -> None:
        file.read()


@pytest.mark.parametrize('format', [Files, Strings, Codec, Misused])
def test_a_class_given_for_an_instance_is_an_error_that_names_the_instance(
    path: Path, format: Any
) -> None:
    hint = f'the format is a class: is {format.__name__}() meant?'
    error = AttributeError if format is Misused else TypeError
    assert hints_of_committing(atomic_store.open(path, None, format), error) == [hint]
    path.write_text('content')
    assert hints_of_loading(path, error, format) == [hint]


class Static:
    @staticmethod
    def dumps(value: Any) -> bytes:
        raise TypeError('the value is no number')

    @staticmethod
    def loads(data: Any) -> Any:
        raise TypeError('the value is no number')


MODULE = ModuleType('a_module')
MODULE.dumps = MODULE.loads = Strings().dumps  # type: ignore[attr-defined]


class Namespace:
    """Works as it is, without an instance."""

    def dumps(value: Any) -> bytes:  # noqa: N805
        raise TypeError('the value is missing')

    loads = dumps


class Unusual:
    def dumps(this, value: Any) -> bytes:  # noqa: N805
        return b''

    loads = dumps


@pytest.mark.parametrize(
    'format', [Strings(), Codec(), MODULE, Static, Namespace, Unusual]
)
def test_an_instance_with_the_same_error_or_a_class_with_another_has_no_such_note(
    path: Path, format: Any
) -> None:
    assert hints_of_committing(atomic_store.open(path, None, format), TypeError) == []
    path.write_text('content')
    assert hints_of_loading(path, TypeError, format) == []


# Arguments


def test_yaml_without_a_loader_is_an_error_that_names_the_safe_one(path: Path) -> None:
    yaml = pytest.importorskip('yaml', reason='needs yaml')
    atomic_store.open(path, {'a': 1}, yaml, is_binary=False).commit()
    (hint,) = hints_of_loading(path, TypeError, yaml, False)
    assert hint == "load needs Loader: give load_kwargs={'Loader': yaml.SafeLoader}"
    load_kwargs = {'Loader': yaml.SafeLoader}
    assert atomic_store.open(path, None, yaml, False, load_kwargs).value == {'a': 1}


class Keyed(atomic_store.AbstractFormatBstr):
    def dumps(self, value: Any, key: Any) -> None: ...
    def loads(self, data: Any, key: Any) -> None: ...


@pytest.mark.parametrize(
    ('format', 'dump_kwargs', 'of_dumping', 'of_loading'),
    [
        (
            SimpleNamespace(
                dump=lambda value, file, indent, *, sort: None,
                load=lambda file, Loader: None,  # noqa: N803
            ),
            {'sort': 1},
            "dump needs indent: give dump_kwargs={'indent': ...}",
            "load needs Loader: give load_kwargs={'Loader': ...}",
        ),
        (
            Keyed(),
            {},
            "dumps needs key: give dump_kwargs={'key': ...}",
            "loads needs key: give load_kwargs={'key': ...}",
        ),
        (
            SimpleNamespace(
                encode=lambda value, key, salt, rounds=ANY: None,
                decode=lambda data, *, key, salt: None,
            ),
            {},
            "encode needs key and salt: give dump_kwargs={'key': ..., 'salt': ...}",
            "decode needs key and salt: give load_kwargs={'key': ..., 'salt': ...}",
        ),
    ],
)
def test_arguments_that_a_format_lacks_are_named_with_where_to_give_them(
    path: Path, format: Any, dump_kwargs: Any, of_dumping: str, of_loading: str
) -> None:
    store = atomic_store.open(path, None, format, dump_kwargs=dump_kwargs)
    assert hints_of_committing(store, TypeError) == [of_dumping]
    path.write_bytes(b'')
    assert hints_of_loading(path, TypeError, format) == [of_loading]


def needs(data: Any, key: Any) -> Any: ...


@wraps(needs)
def gives(data: Any) -> Any:
    needs(data, key=1)
    needs(data)  # type: ignore[call-arg]


def shows_another_signature(data: Any) -> Any:
    raise TypeError


shows_another_signature.__signature__ = signature(needs)  # type: ignore[attr-defined]


def takes_no_name(data: Any, key: Any, /) -> Any: ...


@pytest.mark.parametrize(
    'function',
    [
        lambda data: needs(data),  # type: ignore[call-arg]  # its own mistake
        lambda data, key=None: needs(data),  # type: ignore[call-arg]
        lambda *args, **kwargs: needs(*args, **kwargs),
        gives,
        shows_another_signature,
        takes_no_name,
        lambda: None,  # takes too few, not too many
        lambda data: next(),  # type: ignore[call-overload]
    ],
)
def test_an_argument_that_is_missing_elsewhere_is_not_named(
    path: Path, function: Any
) -> None:
    format = SimpleNamespace(dumps=function, loads=function)
    store = atomic_store.open(path, 1.5, format)
    assert hints_of_committing(store, TypeError) == []
    path.write_bytes(b'1')
    assert hints_of_loading(path, TypeError, format) == []


def test_an_argument_that_a_format_inside_the_format_lacks_is_not_named(
    path: Path,
) -> None:
    def loads(data: bytes, key: Any) -> None: ...

    class Outer(atomic_store.AbstractFormatBstr):
        def loads(self, data: bytes) -> Any:
            inner = SimpleNamespace(dumps=None, loads=loads)
            return atomic_store.WrapBinaryFormat(inner).load(io.BytesIO(data))

    path.touch()
    assert hints_of_loading(path, TypeError, Outer()) == [
        'the file is empty: delete it to start from the default'
    ]


def test_a_file_that_dumps_expects_is_not_to_be_given_in_dump_kwargs(
    path: Path,
) -> None:
    class Confused(atomic_store.AbstractFormatBstr):
        def dumps(self, value: Any, file: Any) -> None: ...

    store = atomic_store.open(path, None, Confused())
    assert hints_of_committing(store, TypeError) == []


# Formats that are refused


@pytest.mark.parametrize(
    ('name', 'base'), [('load', 'File'), ('loads', 'Bstr'), ('decode', 'Bstr')]
)
def test_a_format_that_can_only_read_is_refused_with_how_to_read(
    path: Path, name: str, base: str
) -> None:
    advice = f'to read only, call {name} in a subclass of AbstractFormat{base}'
    with pytest.raises(ValueError, match=advice):
        atomic_store.open(path, format=SimpleNamespace(**{name: id}))


@pytest.mark.parametrize('name', ['dump', 'dumps', 'encode'])
def test_a_format_that_can_only_write_is_refused_without_how_to_read(
    path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match='unknown format') as raised:
        atomic_store.open(path, format=SimpleNamespace(**{name: id}))
    assert 'to read only' not in str(raised.value)


# Errors that are hard to handle


@pytest.mark.parametrize('kind', [0, 1, 2], ids=['dump', 'dumps', 'encode'])
def test_an_error_that_is_raised_again_and_again_has_each_note_once(
    path: Path, kind: int
) -> None:
    error = TypeError('write() argument must be str, not bytes')
    fail = raising(error)
    format = formats(fail)[kind]
    format.load = format.loads = format.decode = fail
    store = atomic_store.open(path, None, format, is_binary=False)
    path.write_text('content')
    for _ in range(3):
        with pytest.raises(TypeError):
            store.commit()
        with pytest.raises(TypeError):
            atomic_store.open(path, format=format, is_binary=False)
    assert notes(error) == [
        f'while loading {str(path)!r}',
        f'while committing {str(path)!r}',
        'the store has is_binary=False: does the format need is_binary=True?',
    ]


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
        OSError(errno.EACCES, 'refused', 'a file of the format'),
    ],
)
def test_an_error_of_the_format_is_raised_as_it_is(
    path: Path, error: BaseException
) -> None:
    format = SimpleNamespace(dumps=raising(error), loads=raising(error))
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
    ('error', 'is_binary'),
    [
        *product(
            [
                UnrelatedError("'str' object has no attribute 'decode'"),
                AttributeError("'str' object has no attribute 'encrypt'"),
                FileNotFoundError(errno.ENOENT, 'of the format', 'missing'),
            ],
            [True, False],
        ),
        # What a format gets in a store of the other kind does not cause these.
        (AttributeError("'str' object has no attribute 'decode'"), True),
        (AttributeError("'bytes' object has no attribute 'encode'"), False),
    ],
)
def test_an_error_that_only_looks_like_a_known_one_has_no_note_but_the_file(
    path: Path, error: Exception, is_binary: bool
) -> None:
    format = SimpleNamespace(dumps=raising(error), loads=raising(error))
    error.__notes__ = []
    store = atomic_store.open(path, dict, format, is_binary)
    assert hints_of_committing(store, type(error)) == []
    error.__notes__ = []
    path.write_text('content')
    assert hints_of_loading(path, type(error), format, is_binary) == []


BASES = pytest.mark.parametrize(
    'base', [atomic_store.AbstractFormatFile, atomic_store.AbstractFormatBstr]
)


@BASES
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


@BASES
def test_a_class_that_fails_without_lacking_arguments_has_no_such_note(
    tmp_path: Path, base: type
) -> None:
    class Broken(base):  # type: ignore[misc]
        def __init__(self, indent: int = 0) -> None:
            raise TypeError('indent')

    class Abstract(base, ABC):  # type: ignore[misc]
        @abstractmethod
        def method(self) -> None: ...

    for format in Broken, Abstract:
        with pytest.raises(TypeError) as raised:
            atomic_store.open(tmp_path / 'state', format=format)
        assert notes(raised.value) == []
