"""JSON: byte for byte what `json.dump` writes, made by the C encoder."""

from __future__ import annotations

import enum
import io
import json
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import atomic_store

Case = tuple[Any, dict[str, Any]]  # a value and dump_kwargs


def dumped(value: Any, kwargs: dict[str, Any]) -> bytes | type[Exception]:
    """What `json.dump` writes into a file of UTF-8, or the type of what it raises."""
    content = io.BytesIO()
    try:
        with io.TextIOWrapper(content, encoding='utf-8', newline='\n') as file:
            json.dump(value, file, **kwargs)
            file.flush()
            return content.getvalue()
    except Exception as error:  # noqa: BLE001 - the caller compares it
        return type(error)


def committed(value: Any, kwargs: dict[str, Any]) -> bytes | type[Exception]:
    """What a commit makes of a file, or the type of what it raises."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'store')
        path.write_bytes(b'"old"')
        store = atomic_store.open(path, dump_kwargs=kwargs)
        store.value = value
        try:
            store.commit()
        except Exception as error:  # noqa: BLE001 - the caller compares it
            assert path.read_bytes() == b'"old"'
            assert list(Path(folder).iterdir()) == [path]
            return type(error)
        return path.read_bytes()


class Colour(enum.IntEnum):
    RED = 1


class Suit(enum.StrEnum):
    HEARTS = '♥'


class Range(tuple[int, int], enum.Enum):  # whose metaclass has a __bool__
    SMALL = (1, 2)


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


class Real(float):
    def __repr__(self) -> str:
        return 'not this'


class Array(list[Any]): ...


class Renamed(dict[Any, Any]):
    def items(self) -> Any:
        return [(f'{key}!', value) for key, value in super().items()]


class WithDefault(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        return (
            ['by default', *o] if isinstance(o, bytes | tuple) else super().default(o)
        )


class WithIterencode(WithDefault):
    def iterencode(self, o: Any, _one_shot: bool = False) -> Iterator[str]:
        yield f'/* {_one_shot} */'
        yield from super().iterencode(o, _one_shot)


class WithEncode(WithDefault):
    def encode(self, o: Any) -> str:
        return 'json.dump does not ask for this'


class WithArguments(WithDefault):
    item_separator = ' ; '

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, 'ensure_ascii': False, 'sort_keys': True})


texts = st.text(st.characters(), max_size=8)  # surrogates, too
floats = st.floats()
integers = st.integers() | st.sampled_from([2**64, -(10**400)])
keys = (
    texts
    | texts.map(Text)
    | integers
    | integers.map(Whole)
    | floats
    | floats.map(Real)
    | st.booleans()
    | st.none()
    | st.sampled_from([Colour.RED, Suit.HEARTS])
)
values = st.recursive(
    keys | st.binary(max_size=3) | st.just(1j),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(Array),
        st.builds(Point, inner, inner),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(keys | st.tuples(integers), inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4).map(OrderedDict),
        st.dictionaries(keys, inner, max_size=4).map(Renamed),
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
        'default': st.sampled_from([None, repr, WithDefault().default]),
        'skipkeys': st.booleans(),
        'allow_nan': st.booleans(),
        'check_circular': st.booleans(),
        'cls': st.sampled_from(
            [None, WithDefault, WithIterencode, WithEncode, WithArguments]
        ),
    },
)


@settings(deadline=None)  # a commit waits for the disk
@given(value=values, kwargs=arguments)
@example(value=[b'1'], kwargs={'cls': WithDefault})
@example(value=[b'1'], kwargs={'cls': WithIterencode})
@example(value=[b'1'], kwargs={'cls': WithEncode})
@example(value=[b'1'], kwargs={'cls': WithArguments, 'skipkeys': True})
def test_a_commit_writes_what_json_dump_writes(
    value: Any, kwargs: dict[str, Any]
) -> None:
    ours, theirs = committed(value, kwargs), dumped(value, kwargs)
    if theirs is UnicodeEncodeError:
        # json.dump() writes as it goes along, so it may find this before another error.
        assert isinstance(ours, type)
    else:
        assert ours == theirs


KWARGS: list[dict[str, Any]] = [
    {},
    {'sort_keys': True},
    {'ensure_ascii': False},
    {'separators': (',', ':')},
    {'skipkeys': True, 'allow_nan': False, 'check_circular': False},
    {'indent': 2},  # which CPython's C encoder does from 3.13 on
    {'cls': WithEncode},
    {'cls': WithArguments},
    {'default': repr},
]


@pytest.mark.parametrize('number', range(len(KWARGS)))
def test_the_c_encoder_is_used_wherever_json_dumps_uses_it(number: int) -> None:
    in_new_process(f'check_the_c_encoder({number})')


def check_the_c_encoder(number: int) -> None:
    del json.encoder._make_iterencode  # type: ignore[attr-defined]
    value: dict[str, Any] = {
        'a': [1, 2.5, None, 'é', (True, {})],
        'b': OrderedDict(c=Colour.RED),
    }
    kwargs = KWARGS[number]
    if 'default' in kwargs:
        value['c'] = Unknown
    try:
        json.dumps(value, **kwargs)
    except NameError:
        assert committed(value, kwargs) is NameError
    else:
        assert isinstance(committed(value, kwargs), bytes)


def test_the_c_encoder_is_used_where_a_class_that_it_will_not_do_for_is_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(list[Any]):
        def __bool__(self) -> bool:
            return False

    monkeypatch.delattr('json.encoder._make_iterencode')
    store = atomic_store.open(tmp_path / 'store', [1, {'a': ({},)}])
    store.commit()
    store.value[1]['a'] = [Elsewhere()]
    with pytest.raises(NameError, match='_make_iterencode'):
        store.commit()


# What follows the C encoder writes differently, or refuses to write. Each case has a
# process of its own, where no class of another test can turn the C encoder off.


class Unknown: ...


def a_list_that_makes_its_items() -> Case:
    class Own(list[int]):
        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

    return [Own()], {}


def a_list_with_its_own_length() -> Case:
    class Own(list[int]):
        def __len__(self) -> int:
            return 0

    return [Own([1, 2])], {}


def a_tuple_with_its_own_truth() -> Case:
    class Own(tuple[int, ...]):
        __slots__ = ()

        def __bool__(self) -> bool:
            return False

    return [Own((1, 2))], {}


def a_dict_that_makes_its_items() -> Case:
    class Own(dict[str, int]):
        def items(self) -> Any:
            return iter([('a', 1)])

        def __len__(self) -> int:
            return 1

    return [Own()], {}


def a_dict_whose_items_are_lists() -> Case:
    class Pairs(dict[str, int]):
        def items(self) -> Any:
            return [['a', 1]]

    return Pairs(a=1), {'sort_keys': True}


def default_gives_one_that_makes_its_items() -> Case:
    own, _ = a_dict_that_makes_its_items()
    return Unknown(), {'default': lambda o: [own]}


def default_gives_one_to_be_indented() -> Case:
    value, kwargs = default_gives_one_that_makes_its_items()
    return value, kwargs | {'indent': 1}


def default_gives_one_after_what_it_can_give_but_once() -> Case:
    own, _ = a_dict_that_makes_its_items()
    return [iter('ab'), Unknown()], {
        'default': lambda o: own if isinstance(o, Unknown) else list(o)
    }


def default_gives_one_in_the_dict_of_an_object() -> Case:
    holder = Unknown()
    holder.own, _ = a_list_that_makes_its_items()  # type: ignore[attr-defined]
    return [holder], {'default': vars}


def default_fails() -> Case:
    return Unknown(), {'default': lambda o: 1 // 0}


def default_fails_the_first_time() -> Case:
    divisors = iter([0, 1])
    return Unknown(), {'default': lambda o: 1 // next(divisors)}


def a_proxy_and_a_default() -> Case:
    (proxy,), _ = a_proxy()
    return [Unknown(), proxy], {'default': lambda o: f'default of {type(o).__name__}'}


def a_proxy_after_what_default_can_give_but_once() -> Case:
    (proxy,), _ = a_proxy()
    return [iter('ab'), proxy], {'default': list}


def proxies_of_all_kinds_and_a_default() -> Case:
    def proxy(value: Any) -> Any:
        class Proxy:
            __class__ = type(value)

            def __bool__(self) -> bool:
                return bool(value)

            def __iter__(self) -> Any:
                return iter(value)

            def items(self) -> Any:
                return value.items()

        return Proxy()

    proxies = [proxy(value) for value in ([], [1], (), (1, [2]), {}, {'a': 1})]
    return [Unknown(), proxies], {'default': lambda o: 'default'}


def a_proxy_that_is_false_and_a_default() -> Case:
    class Proxy:
        def __bool__(self) -> bool:
            return False

        def __iter__(self) -> Iterator[int]:
            return iter([1])

        def items(self) -> Any:
            return [('a', 1)]

    class List(Proxy):
        __class__ = list  # type: ignore[assignment]

    class Dict(Proxy):
        __class__ = dict  # type: ignore[assignment]

    return [List(), Dict()], {'default': repr}


def a_proxy_of_a_scalar_and_a_default() -> Case:
    class Proxy:
        __class__ = str  # type: ignore[assignment]

    return [Proxy()], {'default': repr}


def separators_that_are_never_used_and_a_default() -> Case:
    return [1], {'separators': (None, None), 'default': repr}


def a_dict_whose_items_are_lists_and_a_default() -> Case:
    value, kwargs = a_dict_whose_items_are_lists()
    return value, kwargs | {'default': repr}


def an_encoder_that_lets_nothing_be_changed() -> Case:
    class Own(json.JSONEncoder):
        @property
        def default(self) -> Any:
            return lambda o: 'default'

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError

    return [Unknown()], {'cls': Own}


def a_class_made_by_exec() -> Case:
    class Own(dict[str, int]):
        __module__ = 'builtins'  # as where the globals have no __name__

        def items(self) -> Any:
            return [('a', 1)]

        def __len__(self) -> int:
            return 1

    return [Own()], {}


def a_class_of_no_module() -> Case:
    class Own(dict[str, int]):
        __module__ = None  # type: ignore[assignment]

        def __len__(self) -> int:
            return 1

    return [Own()], {}


def a_dict_that_gives_its_items_once() -> Case:
    class Once(dict[str, int]):
        once = iter([('a', 1)])

        def items(self) -> Any:
            return self.once

    a_list_that_makes_its_items()
    return [Once(a=0)], {}


def a_proxy() -> Case:
    class Proxy:
        __class__ = dict  # type: ignore[assignment]

        def __len__(self) -> int:
            return 1

        def items(self) -> Any:
            return [('a', 1)]

    return [Proxy()], {}


def separators_that_are_never_used() -> Case:
    return [1], {'separators': (None, None)}


@pytest.mark.parametrize(
    'case',
    [
        'a_list_that_makes_its_items',
        'a_list_with_its_own_length',
        'a_tuple_with_its_own_truth',
        'a_dict_that_makes_its_items',
        'a_dict_whose_items_are_lists',
        'default_gives_one_that_makes_its_items',
        'default_gives_one_to_be_indented',
        'default_gives_one_after_what_it_can_give_but_once',
        'default_gives_one_in_the_dict_of_an_object',
        'a_proxy',
        'default_fails',
        'default_fails_the_first_time',
        'a_proxy_and_a_default',
        'a_proxy_after_what_default_can_give_but_once',
        'proxies_of_all_kinds_and_a_default',
        'a_proxy_that_is_false_and_a_default',
        'a_proxy_of_a_scalar_and_a_default',
        'separators_that_are_never_used_and_a_default',
        'a_dict_whose_items_are_lists_and_a_default',
        'an_encoder_that_lets_nothing_be_changed',
        'a_class_made_by_exec',
        'a_class_of_no_module',
        'a_dict_that_gives_its_items_once',
        'separators_that_are_never_used',
    ],
)
def test_what_the_c_encoder_does_otherwise_is_done_as_by_json_dump(case: str) -> None:
    in_new_process(f'check(t.{case})')


def in_new_process(call: str) -> None:
    """Call a function of this file where no class of another test is known."""
    done = subprocess.run(
        [sys.executable, '-c', f'import test_json as t; t.{call}'],
        cwd=Path(__file__).parent,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert not done.returncode, done.stderr


def check(case: Callable[[], Case]) -> None:
    ours, theirs = committed(*case()), dumped(*case())
    assert ours == theirs, (ours, theirs)


def test_a_cls_may_give_the_same_encoder_each_time(tmp_path: Path) -> None:
    encoder = WithDefault()
    before = dict(vars(encoder))
    kwargs = {'cls': lambda **kwargs: encoder}
    store = atomic_store.open(tmp_path / 'store', [b'1'], dump_kwargs=kwargs)
    store.commit()
    assert (tmp_path / 'store').read_bytes() == dumped([b'1'], kwargs)
    assert vars(encoder) == before


@pytest.mark.parametrize('kwargs', [{}, {'default': repr}], ids=['', 'default'])
def test_a_value_may_be_as_deep_as_json_dump_allows(kwargs: dict[str, Any]) -> None:
    value: list[Any] = []
    for _ in range(5_000):  # more than the C encoder of Python 3.12 can go down
        value = [value]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        assert committed(value, kwargs) == b'[' * 5_001 + b']' * 5_001
    finally:
        sys.setrecursionlimit(limit)


CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    ('value', 'kwargs'),
    [
        (object(), {}),
        ([{(): 1}], {}),
        ({1: 1, 'a': 1}, {'sort_keys': True}),
        ([1, float('nan')], {'allow_nan': False}),
        pytest.param(10**5000, {}, id='more digits than int allows'),
        ('\ud800', {'ensure_ascii': False}),
        (['\ud800', object()], {'ensure_ascii': False}),
        (CIRCULAR, {}),
        (CIRCULAR, {'check_circular': False}),
        (object(), {'default': lambda o: o}),
        (object(), {'default': lambda o: 1 // 0}),
        (1, {'no_such_argument': 1}),
        (1, {'indent': 1.5}),
        (1, {'separators': ','}),
    ],
)
def test_a_commit_raises_what_json_dump_raises(
    value: Any, kwargs: dict[str, Any]
) -> None:
    raised = dumped(value, kwargs)
    assert isinstance(raised, type)
    assert committed(value, kwargs) is raised


class Decoder(json.JSONDecoder):
    def decode(self, s: str, *args: Any) -> Any:
        return ['decoded', super().decode(s, *args)]


plain_values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    text=st.builds(
        json.dumps,
        plain_values,
        ensure_ascii=st.booleans(),
        indent=st.sampled_from([None, '\r\n']),
    ),
    kwargs=st.fixed_dictionaries(
        {},
        optional={
            'object_hook': st.sampled_from([None, list]),
            'object_pairs_hook': st.sampled_from([None, OrderedDict, tuple]),
            'parse_float': st.sampled_from([None, str]),
            'parse_int': st.sampled_from([None, float]),
            'parse_constant': st.sampled_from([None, str]),
            'cls': st.sampled_from([None, Decoder]),
        },
    ),
)
def test_open_loads_what_json_load_loads(text: str, kwargs: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'store')
        path.write_bytes(text.encode(errors='replace'))
        store = atomic_store.open(path, load_kwargs=kwargs)
    expected = json.loads(text.encode(errors='replace'), **kwargs)
    assert repr(store.value) == repr(expected)
