"""What a format is, and how it is found and called."""

from __future__ import annotations

import ast
import io
import json
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support import left_alone, notes

import atomic_store
from atomic_store import _formats

VALUE = {'name': 'Zoë ♥', 'numbers': [1, 2.5, -3, True], 'nested': {'key': ''}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'store'


@pytest.mark.parametrize('format', [None, 'json', json])
def test_json_is_text_and_the_default(path: Path, format: Any) -> None:
    with atomic_store.open(path, VALUE, format) as store:
        assert not store.is_binary
    assert path.read_text(encoding='utf-8') == json.dumps(VALUE)
    assert atomic_store.open(path, format=format).value == VALUE


@pytest.mark.parametrize('format', ['pickle', pickle])
def test_pickle_is_binary(path: Path, format: Any) -> None:
    with atomic_store.open(path, {1, 2}, format) as store:
        assert store.is_binary
    assert pickle.loads(path.read_bytes()) == {1, 2}
    assert atomic_store.open(path, format=format).value == {1, 2}


# The three pairs. Each writes its name and its arguments to the file.


def dump(value: Any, file: Any, **kwargs: Any) -> None:
    file.write(repr(('dump', value, kwargs)).encode())


def load(file: Any, **kwargs: Any) -> Any:
    return 'load', file.read().decode(), kwargs


def dumps(value: Any, **kwargs: Any) -> bytes:
    return repr(('dumps', value, kwargs)).encode()


def loads(data: bytes, **kwargs: Any) -> Any:
    return 'loads', data.decode(), kwargs


def encode(value: Any, **kwargs: Any) -> bytes:
    return repr(('encode', value, kwargs)).encode()


def decode(data: bytes, **kwargs: Any) -> Any:
    return 'decode', data.decode(), kwargs


FUNCTIONS = {f.__name__: f for f in (dump, load, dumps, loads, encode, decode)}


def an_instance(names: str) -> Any:
    return SimpleNamespace(**{name: FUNCTIONS[name] for name in names.split()})


def a_module(names: str) -> ModuleType:
    module = ModuleType('format')
    vars(module).update(vars(an_instance(names)))
    return module


def a_class_with_static_methods(names: str) -> type:
    functions = vars(an_instance(names)).items()
    return type('Format', (), {name: staticmethod(f) for name, f in functions})


def a_class_with_class_methods(names: str) -> type:
    def method(function: Callable[..., Any]) -> Any:
        return classmethod(lambda cls, *args, **kwargs: function(*args, **kwargs))

    functions = vars(an_instance(names)).items()
    return type('Format', (), {name: method(f) for name, f in functions})


@pytest.mark.parametrize(
    'made',
    [an_instance, a_module, a_class_with_static_methods, a_class_with_class_methods],
)
@pytest.mark.parametrize(
    ('names', 'used'),
    [
        ('dump load', ('dump', 'load')),
        ('dumps loads', ('dumps', 'loads')),
        ('encode decode', ('encode', 'decode')),
        ('encode decode dumps loads dump load', ('dump', 'load')),
        ('encode decode dumps loads', ('dumps', 'loads')),
        ('dump dumps loads', ('dumps', 'loads')),
        ('load dumps encode decode', ('encode', 'decode')),
    ],
)
def test_the_first_whole_pair_counts_and_gets_the_kwargs(
    path: Path, made: Callable[[str], Any], names: str, used: tuple[str, str]
) -> None:
    with atomic_store.open(path, [1], made(names), dump_kwargs={'a': 2}) as store:
        assert store.is_binary
    content = path.read_text()
    assert content == repr((used[0], [1], {'a': 2}))
    store = atomic_store.open(path, format=made(names), load_kwargs={'b': 3})
    assert store.value == (used[1], content, {'b': 3})


@pytest.mark.parametrize(
    ('format', 'what_is_missing'),
    [
        ('yaml', ' (for another module, give the module itself, not its name)'),
        ('JSON', ' (for another module, give the module itself, not its name)'),
        ('', ' (for another module, give the module itself, not its name)'),
        *((format, ': give') for format in (5, io, dict, list[str]())),
        (b'json', ', which has decode but no encode'),
        (tomllib, ', which has load but no dump'),
        (an_instance('dump'), ', which has dump but no load'),
        (an_instance('dumps'), ', which has dumps but no loads'),
        (an_instance('loads'), ', which has loads but no dumps'),
        (an_instance('encode'), ', which has encode but no decode'),
        (an_instance('decode'), ', which has decode but no encode'),
        (an_instance('dump loads decode'), ', which has dump but no load'),
        (an_instance('load dumps encode'), ', which has load but no dump'),
        (SimpleNamespace(dump=1, load=2), ': give'),
    ],
)
def test_an_unknown_format_is_refused_with_what_it_lacks_and_the_known_ones(
    path: Path, format: Any, what_is_missing: str
) -> None:
    with pytest.raises(ValueError, match='unknown format') as raised:
        atomic_store.open(path, format=format)
    message = str(raised.value)
    assert message.startswith(f'unknown format {format!r}{what_is_missing}')
    message = message.replace(repr(format), '')
    assert 'None' not in message
    for name in "'json'", "'pickle'", "'bson'", *FUNCTIONS:
        assert name in message


class Reader(atomic_store.AbstractFormatFile):
    def load(self, file: Any) -> Any:
        return file.read().split()


class BstrReader(atomic_store.AbstractFormatBstr):
    def loads(self, data: Any) -> Any:
        return data.split()


class Writer(Reader):
    def dump(self, value: Any, file: Any) -> None:
        file.write(b' '.join(value))


class BstrWriter(BstrReader):
    def dumps(self, value: Any) -> Any:
        return b' '.join(value)


@pytest.mark.parametrize('format', [Writer, Writer(), BstrWriter, BstrWriter()])
def test_a_base_class_may_be_given_as_a_class_or_an_instance(
    path: Path, format: Any
) -> None:
    with atomic_store.open(path, [], format) as store:
        store.value += [b'one', b'two']
    assert path.read_bytes() == b'one two'
    assert atomic_store.open(path, None, format).value == [b'one', b'two']


@pytest.mark.parametrize('format', [Reader, Reader(), BstrReader, BstrReader()])
def test_a_subclass_that_only_loads_can_read(path: Path, format: Any) -> None:
    path.write_bytes(b'one two')
    store = atomic_store.open(path, format=format)
    assert store.value == [b'one', b'two']
    with left_alone(path.parent), pytest.raises(NotImplementedError):
        store.commit()


@pytest.mark.parametrize(
    'call',
    [
        lambda: atomic_store.AbstractFormatFile().dump(1, io.BytesIO(), key=1),
        lambda: atomic_store.AbstractFormatFile().load(io.BytesIO(), key=1),
        lambda: atomic_store.AbstractFormatBstr().dumps(1, key=1),
        lambda: atomic_store.AbstractFormatBstr().loads(b'', key=1),
    ],
)
def test_the_base_classes_implement_nothing(call: Callable[[], Any]) -> None:
    with pytest.raises(NotImplementedError):
        call()


def test_wrap_binary_format_makes_a_file_format_of_dumps_and_loads(path: Path) -> None:
    wrapped = an_instance('dumps loads')
    format = atomic_store.WrapBinaryFormat(wrapped)
    assert format.format_bstr is wrapped
    assert isinstance(format, atomic_store.AbstractFormatFile)
    with path.open('wb') as file:
        format.dump([1], file, a=2)
    assert path.read_text() == "('dumps', [1], {'a': 2})"
    with path.open('rb') as file:
        assert format.load(file, b=3) == ('loads', path.read_text(), {'b': 3})
    assert atomic_store.open(path, format=format).format is format


def test_is_binary_says_what_a_format_gets(path: Path) -> None:
    handed = []
    format = SimpleNamespace(
        dump=lambda value, file: handed.append(isinstance(file, io.TextIOBase)),
        load=lambda file: handed.append(isinstance(file, io.TextIOBase)),
    )
    for is_binary in None, True, False:
        path.unlink(missing_ok=True)
        atomic_store.open(path, format=format, is_binary=is_binary).commit()
        atomic_store.open(path, format=format, is_binary=is_binary)
    assert handed == [False, False, False, False, True, True]


@pytest.mark.parametrize(
    'format',
    [SimpleNamespace(dumps=str, loads=str), SimpleNamespace(encode=str, decode=str)],
)
def test_a_text_store_takes_and_gives_str_as_it_is(path: Path, format: Any) -> None:
    text = 'Zoë ♥\r\n\n\r\u2028\0'
    atomic_store.open(path, text, format, is_binary=False).commit()
    assert path.read_bytes() == text.encode()
    assert atomic_store.open(path, None, format, is_binary=False).value == text


# ruamel.yaml writes to both kinds of file. cbor2 before version 6 turns an error of the
# file into a SystemError. jsonpickle warns that its default will change.
@pytest.mark.filterwarnings('ignore:keys will default:DeprecationWarning')
@pytest.mark.parametrize(
    ('library', 'is_binary'),
    [
        ('cloudpickle', True),
        ('dill', True),
        ('joblib', True),
        ('json', False),
        ('jsonpickle', False),
        ('marshal', True),
        ('msgpack', True),
        ('msgspec.json', True),
        ('msgspec.msgpack', True),
        ('orjson', True),
        ('pickle', True),
        ('plistlib', True),
        ('simplejson', False),
        ('tomlkit', False),
        ('ujson', False),
        ('yaml', False),
    ],
)
def test_the_wrong_kind_of_file_is_an_error_that_names_is_binary(
    path: Path, library: str, is_binary: bool
) -> None:
    format = pytest.importorskip(library, reason=f'needs {library}')
    store = atomic_store.open(path, VALUE, format, not is_binary)
    with left_alone(path.parent), pytest.raises(TypeError) as raised:
        store.commit()
    (hint,) = notes(raised.value)[1:]
    assert hint.endswith(f'is_binary={is_binary}?')


def test_tools_that_freeze_programs_see_that_bson_may_be_imported() -> None:
    tree = ast.parse(Path(_formats.__file__).read_bytes())
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert 'bson' in {alias.name for node in statements for alias in node.names}


def test_importing_the_package_imports_no_format_but_the_standard_librarys() -> None:
    program = (
        'import sys; before = set(sys.modules); import atomic_store;'
        'print(*{name.partition(".")[0] for name in set(sys.modules) - before})'
    )
    printed = subprocess.check_output([sys.executable, '-P', '-c', program], text=True)
    modules = set(printed.split())
    assert modules - sys.stdlib_module_names == {'atomic_store', 'atomicwrites'}
