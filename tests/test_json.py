"""JSON is byte for byte what the standard library writes for the same value."""

from __future__ import annotations

import builtins
import enum
import io
import json
import subprocess
import sys
import tempfile
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import left_alone, linux

import atomic_store
from atomic_store import _formats


class Colour(enum.IntEnum):
    RED = 1


class Suit(enum.StrEnum):
    HEARTS = '♥'


class Point(NamedTuple):
    x: Any
    y: Any


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return 'not this'


class Whole(int):
    def __repr__(self) -> str:
        return 'not this'


class Falsy(list[Any]):
    """Empty for `json.dump`, which asks for its truth, but not for `json.dumps`."""

    def __bool__(self) -> bool:
        return False


class WithDefault(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        return ['default', o.decode()] if isinstance(o, bytes) else super().default(o)


class WithArguments(WithDefault):
    item_separator = ' ; '

    # All arguments are required: json.dumps() gives them all.
    def __init__(self, *, ensure_ascii: bool, sort_keys: bool, **kwargs: Any) -> None:
        assert kwargs.keys() >= {'skipkeys', 'indent', 'separators', 'default'}
        super().__init__(ensure_ascii=False, sort_keys=True, **kwargs)


class WithIterencode(WithDefault):
    def iterencode(self, o: Any, _one_shot: bool = False) -> Iterator[str]:
        yield f'/* one_shot={_one_shot} */'
        yield from super().iterencode(o, _one_shot)


class WithEncode(WithDefault):
    def encode(self, o: Any) -> str:
        return 'json.dump does not ask for this'


class WithEncodeInherited(WithEncode):
    pass


def make_encoder(**kwargs: Any) -> json.JSONEncoder:
    return WithEncode(**kwargs)


def expected(value: Any, kwargs: dict[str, Any]) -> bytes:
    if kwargs.get('cls') in (None, WithDefault, WithArguments):
        return json.dumps(value, **kwargs).encode()
    content = io.BytesIO()
    with io.TextIOWrapper(content, encoding='utf-8', newline='\n') as file:
        json.dump(value, file, **kwargs)
        file.flush()
        return content.getvalue()


def result(function: Callable[[], Any]) -> Any:
    """What a function returns, or the type of the error that it raises."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - the caller compares it
        return type(error)


CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)
DICTS = [dict, OrderedDict, *filter(None, [getattr(builtins, 'frozendict', None)])]

texts = st.text(st.characters(), max_size=8)  # surrogates, too
integers = st.integers() | st.sampled_from([2**64, -(10**400)])
keys = st.one_of(
    texts,
    texts.map(Text),
    integers,
    integers.map(Whole),
    st.floats(),
    st.booleans(),
    st.none(),
    st.sampled_from([Colour.RED, Suit.HEARTS]),
)
values = st.recursive(
    keys | st.binary(max_size=3) | st.just(1j),
    lambda inner: st.one_of(
        *(st.lists(inner, max_size=4).map(kind) for kind in (list, tuple, Falsy)),
        st.builds(Point, inner, inner),
        st.dictionaries(keys | st.tuples(integers), inner, max_size=4),
        *(st.dictionaries(texts, inner, max_size=4).map(kind) for kind in DICTS),
    ),
    max_leaves=12,
)
arguments = st.fixed_dictionaries(
    {},
    optional={
        'indent': st.none() | st.integers(-1, 4) | st.sampled_from(['', '\t', '→']),
        'separators': st.sampled_from([None, (',', ':'), (' ,\r\n', ' = ')]),
        'sort_keys': st.booleans(),
        'ensure_ascii': st.booleans(),
        'default': st.sampled_from([None, repr, lambda o: o]),
        'skipkeys': st.booleans(),
        'allow_nan': st.booleans(),
        'check_circular': st.booleans(),
        'cls': st.sampled_from(
            [
                None,
                WithDefault,
                WithArguments,
                WithIterencode,
                WithEncode,
                WithEncodeInherited,
                make_encoder,
            ]
        ),
    },
)


@settings(deadline=None)  # a commit waits for the disk
@given(value=values, kwargs=arguments)
@example(value=Falsy([1]), kwargs={})
@example(value=Falsy([b'1']), kwargs={'cls': WithDefault})
@example(value=Falsy([b'1']), kwargs={'cls': WithIterencode})
@example(value=[b'1'], kwargs={'cls': WithEncode})
@example(value=[b'1'], kwargs={'cls': WithEncodeInherited})
@example(value=[b'1'], kwargs={'cls': make_encoder})
@example(value={b'1': 1, 'é': b'1'}, kwargs={'cls': WithArguments, 'skipkeys': True})
@example(value=DICTS[-1](a=DICTS[-1]()), kwargs={})
@example(value=CIRCULAR, kwargs={})
@example(value=CIRCULAR, kwargs={'check_circular': False})
@example(value=1, kwargs={'no_such_argument': 1})
@example(value='\ud800', kwargs={'ensure_ascii': False})
def test_a_commit_writes_or_raises_the_same_as_the_standard_library(
    value: Any, kwargs: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'state.json')
        path.write_bytes(b'"old"')
        store = atomic_store.open(path, dump_kwargs=kwargs)
        store.value = value
        raised = result(store.commit)
        written = path.read_bytes()
        assert list(Path(folder).iterdir()) == [path]
    if raised is None:
        assert written == expected(value, kwargs)
    else:
        assert raised == result(lambda: expected(value, kwargs))
        assert written == b'"old"'


class Decoder(json.JSONDecoder):
    def decode(self, s: str, *args: Any) -> Any:
        return ['decoded', super().decode(s, *args)]


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        {'object_hook': list},
        {'object_pairs_hook': tuple},
        {'parse_float': str, 'parse_int': float, 'parse_constant': str},
        {'cls': Decoder},
    ],
)
def test_open_loads_what_json_loads_returns(
    tmp_path: Path, kwargs: dict[str, Any]
) -> None:
    text = ' {"a": [1, 2.5, NaN, "é\\u00e9"],\r\n "b": {"a": null}, "a": 2}\n'
    path = tmp_path / 'state.json'
    path.write_bytes(text.encode())
    store = atomic_store.open(path, load_kwargs=kwargs)
    assert repr(store.value) == repr(json.loads(text, **kwargs))


@pytest.mark.parametrize('is_binary', [None, True])
def test_one_byte_order_mark_is_dropped(tmp_path: Path, is_binary: bool | None) -> None:
    path = tmp_path / 'state.json'
    path.write_text('{"a": "\ufeff"}', encoding='utf-8-sig')
    store = atomic_store.open(path, is_binary=is_binary)
    assert store.value == {'a': '\ufeff'}
    store.is_binary = False
    store.commit()
    assert path.read_bytes() == b'{"a": "\\ufeff"}'
    path.write_text('\ufeff1', encoding='utf-8-sig')
    with pytest.raises(json.JSONDecodeError):
        atomic_store.open(path, is_binary=is_binary)


# Memory


def text_values() -> dict[str, Any]:
    return {'é': ['♥' * 100_000, 1.5, None, {'a': [True] * 1000}]}


@pytest.mark.parametrize(
    'kwargs', [{}, {'ensure_ascii': False}, {'indent': 1, 'sort_keys': True}]
)
def test_json_is_the_same_where_memory_for_the_whole_text_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any]
) -> None:
    encode = json.JSONEncoder.iterencode

    def encode_in_pieces(
        self: json.JSONEncoder, value: Any, _one_shot: bool = False
    ) -> Iterator[str]:
        if _one_shot:  # as json.dumps() does
            raise MemoryError
        return encode(self, value)

    text = json.dumps(text_values(), **kwargs)
    store = atomic_store.open(tmp_path / 'state', text_values(), dump_kwargs=kwargs)
    monkeypatch.setattr(json.JSONEncoder, 'iterencode', encode_in_pieces)
    store.commit()
    assert (tmp_path / 'state').read_bytes() == text.encode()


@pytest.mark.parametrize('size', [1 << 20, (1 << 20) + 1, 5_000_000])
def test_json_is_the_same_where_it_is_written_in_slices(
    tmp_path: Path, size: int
) -> None:
    value = '♥é' * (size // 2)
    kwargs = {'ensure_ascii': False}
    atomic_store.open(tmp_path / 'state', value, dump_kwargs=kwargs).commit()
    text = json.dumps(value, ensure_ascii=False)
    assert (tmp_path / 'state').read_bytes() == text.encode()


def test_a_commit_needs_the_text_in_memory_once(tmp_path: Path) -> None:
    # A string, because for others json.dumps() itself needs up to twice their text.
    store = atomic_store.open(tmp_path / 'state', 'x' * 20_000_000)
    tracemalloc.start()
    try:
        store.commit()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.3 * (tmp_path / 'state').stat().st_size


def test_if_memory_runs_out_in_the_middle_of_writing_nothing_is_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks_memory = iter([False, True, False])

    class Output(io.StringIO):
        def write(self, text: str) -> int:
            if next(lacks_memory):
                raise MemoryError
            return super().write(text)

    monkeypatch.setattr(_formats, '_SLICE', 4)
    output = Output()
    with pytest.raises(MemoryError):
        atomic_store.open(tmp_path / 'state').format.dump('some text', output)
    assert output.getvalue() == '"som'


MEMORY_FOR_HALF_THE_TEXT = """
import resource, sys
import atomic_store
value = {str(i): {'text': 'x' * 60, 'a': i} for i in range(20)}
store = atomic_store.open(sys.argv[1], [value] * 20_000, dump_kwargs={'sort_keys': True})
store.commit()
with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
limit = used + 20_000_000  # of 40 MB of text
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
store.value.append('the end')
store.commit()
"""


@linux
def test_json_is_the_same_where_the_whole_text_does_not_fit_in_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'state'
    program = [sys.executable, '-P', '-c', MEMORY_FOR_HALF_THE_TEXT, str(path)]
    subprocess.run(program, check=True)
    value = json.loads(path.read_bytes())
    assert value == [value[0]] * 20_000 + ['the end']
    assert path.read_text() == json.dumps(value, sort_keys=True)
    assert path.stat().st_size > 35_000_000


def test_objects_are_not_asked_again_where_memory_runs_out(tmp_path: Path) -> None:
    """What gives its content only once, such as an iterator, would be empty by then."""
    asked: list[object] = []

    def default(value: object) -> object:
        asked.append(value)
        raise MemoryError

    store = atomic_store.open(tmp_path / 'state', iter([1]))
    store.dump_kwargs = {'default': default}
    with left_alone(tmp_path), pytest.raises(MemoryError):
        store.commit()
    assert len(asked) == 1


def test_a_format_may_pass_on_what_is_left_of_its_file(tmp_path: Path) -> None:
    class WithHeader(atomic_store.AbstractFormatFile):
        def load(self, file: IO[str]) -> Any:
            assert file.readline() == 'version 1\n'
            return json_format.load(file)

    path = tmp_path / 'state'
    json_format = atomic_store.open(path).format
    path.write_bytes(b'version 1\n{"a": 1}')
    assert atomic_store.open(path, None, WithHeader(), False).value == {'a': 1}
