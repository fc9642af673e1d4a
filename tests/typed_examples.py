# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Calls that a type checker must accept, and marked ones that it must reject.

    mypy --strict tests/typed_examples.py
    pyright tests/typed_examples.py

Nothing runs this file. Both report a mark that is not needed as an error.
"""

from __future__ import annotations

import json
import marshal
import os
import pickle
import plistlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any, TypedDict, assert_type

import msgspec

import atomic_store
from atomic_store import AtomicStore


class BytesPath(os.PathLike[bytes]):
    def __fspath__(self) -> bytes:
        return b'state.json'


class WithPath:
    def __fspath__(self) -> str:
        return 'state.json'


def paths(entry: os.DirEntry[str]) -> None:
    atomic_store.open('state.json')
    atomic_store.open(b'state.json')
    atomic_store.open(Path('state.json'))
    atomic_store.open(PurePath('state.json'))
    atomic_store.open(BytesPath())
    atomic_store.open(WithPath())
    atomic_store.open(entry)
    atomic_store.open()  # type: ignore[call-arg]
    atomic_store.open(None)  # type: ignore[arg-type]
    atomic_store.open(3)  # type: ignore[arg-type]
    atomic_store.open(['state.json'])  # type: ignore[arg-type]
    atomic_store.open(bytearray(b'state.json'))  # type: ignore[arg-type]
    with open('state.json') as file:
        atomic_store.open(file)  # type: ignore[arg-type]


def options() -> None:
    atomic_store.open('f', {}, 'json', True, {}, {}, True)
    atomic_store.open('f', None, None, None, None, None, None)
    atomic_store.open(
        path='f',
        default=[],
        format=None,
        is_binary=False,
        load_kwargs={'parse_float': str},
        dump_kwargs={'indent': 1, 'sort_keys': True},
        ignore_inner_exits=True,
    )
    kwargs: dict[str, int] = {'indent': 1}
    atomic_store.open('f', dump_kwargs=kwargs)
    atomic_store.open('f', is_binary='yes')  # type: ignore[arg-type]
    atomic_store.open('f', load_kwargs=[])  # type: ignore[arg-type]
    atomic_store.open('f', dump_kwargs={1: 2})  # type: ignore[dict-item]
    atomic_store.open('f', mode='r')  # type: ignore[call-arg]
    atomic_store.open('f', {}, None, None, None, None, None, 1)  # type: ignore[call-arg]


def names_of_formats() -> None:
    atomic_store.open('f', format='json')
    atomic_store.open('f', format='pickle')
    atomic_store.open('f', format='bson')
    atomic_store.open('f', format='yaml')  # type: ignore[arg-type]
    atomic_store.open('f', format='JSON')  # type: ignore[arg-type]
    atomic_store.open('f', format=b'json')  # type: ignore[arg-type]


def modules() -> None:
    atomic_store.open('f', format=json)
    atomic_store.open('f', format=pickle)
    atomic_store.open('f', format=marshal)
    atomic_store.open('f', format=plistlib, dump_kwargs={'fmt': plistlib.FMT_BINARY})
    atomic_store.open('f', format=msgspec.json)
    atomic_store.open('f', format=msgspec.msgpack)
    atomic_store.open('f', format=os)  # type: ignore[arg-type]


class FilesWithoutBase:
    def dump(self, value: list[str], file: IO[str], *, end: str = '\n') -> None: ...
    def load(self, file: IO[str]) -> list[str]:
        return []


class StringsWithoutBase:
    def dumps(self, value: object) -> bytes:
        return b''

    def loads(self, data: bytes) -> object: ...


class CodecWithoutBase:
    def encode(self, value: object) -> bytes:
        return b''

    def decode(self, data: bytes) -> object: ...


class StaticMethods:
    @staticmethod
    def dumps(value: object) -> bytes:
        return b''

    @staticmethod
    def loads(data: bytes) -> object: ...


class ClassMethods:
    @classmethod
    def dump(cls, value: object, file: IO[bytes]) -> None: ...
    @classmethod
    def load(cls, file: IO[bytes]) -> object: ...


@dataclass(frozen=True)
class Functions:
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


class HalfAPair:
    def dump(self, value: object, file: IO[bytes]) -> None: ...
    def loads(self, data: bytes) -> object: ...


class NotFunctions:
    dump = 1
    load = 2


def instances_and_classes() -> None:
    atomic_store.open('f', format=FilesWithoutBase(), is_binary=False)
    atomic_store.open('f', format=StringsWithoutBase())
    atomic_store.open('f', format=CodecWithoutBase())
    atomic_store.open('f', format=Functions(pickle.dumps, pickle.loads))
    atomic_store.open('f', format=StaticMethods())
    atomic_store.open('f', format=StaticMethods)
    atomic_store.open('f', format=ClassMethods)
    atomic_store.open('f', format=msgspec.json.Encoder())  # type: ignore[arg-type]
    atomic_store.open('f', format=HalfAPair())  # type: ignore[arg-type]
    atomic_store.open('f', format=NotFunctions())  # type: ignore[arg-type]
    atomic_store.open('f', format=object())  # type: ignore[arg-type]
    atomic_store.open('f', format=dict)  # type: ignore[arg-type]
    atomic_store.open('f', format=(json.dumps, json.loads))  # type: ignore[arg-type]


class Lines(atomic_store.AbstractFormatFile):
    def dump(self, value: list[str], file: IO[str]) -> None:
        file.writelines(value)

    def load(self, file: IO[str]) -> list[str]:
        return file.readlines()


class WithOptions(atomic_store.AbstractFormatFile):
    def dump(self, value: Any, file: IO[bytes], *, level: int = 9) -> None: ...
    def load(self, file: IO[bytes], **kwargs: Any) -> Any: ...


class OtherNames(atomic_store.AbstractFormatFile):
    def dump(self, obj: object, stream: IO[bytes], protocol: int = 4) -> int:
        return 0

    def load(self, stream: IO[bytes], encoding: str = 'ascii') -> object: ...


class StaticFile(atomic_store.AbstractFormatFile):
    @staticmethod
    def dump(value: object, file: IO[bytes]) -> None: ...
    @staticmethod
    def load(file: IO[bytes]) -> object: ...


class ToReadOnly(atomic_store.AbstractFormatFile):
    def load(self, file: IO[bytes]) -> bytes:
        return file.read()


class ToWriteOnly(atomic_store.AbstractFormatBstr):
    def dumps(self, value: bytes) -> bytes:
        return value


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class Points(atomic_store.AbstractFormatBstr):
    def dumps(self, value: Point, /, *, width: int = 4) -> bytes:
        return b''

    def loads(self, data: bytes, *args: Any, **kwargs: Any) -> Point:
        return Point(1)


class Text(atomic_store.AbstractFormatBstr):
    def dumps(self, value: str) -> str:
        return value

    def loads(self, data: str) -> str:
        return data


class ClassMethodsOfBase(atomic_store.AbstractFormatBstr):
    @classmethod
    def dumps(cls, value: object) -> bytes:
        return b''

    @classmethod
    def loads(cls, data: bytes) -> object: ...


class TakesArguments(atomic_store.AbstractFormatBstr):
    def __init__(self, codec: str) -> None:
        self.codec = codec

    def dumps(self, value: str) -> bytes:
        return value.encode(self.codec)

    def loads(self, data: bytes) -> str:
        return data.decode(self.codec)


class LoadIsNoFunction(atomic_store.AbstractFormatFile):
    load = 1  # type: ignore[assignment]


def subclasses() -> None:
    atomic_store.open('f', format=Lines(), is_binary=False)
    atomic_store.open('f', format=Lines, is_binary=False)
    atomic_store.open('f', format=WithOptions(), dump_kwargs={'level': 1})
    atomic_store.open('f', format=OtherNames())
    atomic_store.open('f', format=StaticFile())
    atomic_store.open('f', format=StaticFile)
    atomic_store.open('f', format=ToReadOnly)
    atomic_store.open('f', format=ToWriteOnly)
    atomic_store.open('f', format=Points())
    atomic_store.open('f', format=Points)
    atomic_store.open('f', format=Text(), is_binary=False)
    atomic_store.open('f', format=ClassMethodsOfBase)
    atomic_store.open('f', format=TakesArguments('utf-8'))
    atomic_store.open('f', format=atomic_store.AbstractFormatFile)


class Wrapper(atomic_store.WrapBinaryFormat):
    def dump(self, value: object, file: IO[bytes], **kwargs: Any) -> None:
        super().dump(value, file, **kwargs)

    def load(self, file: IO[bytes], **kwargs: Any) -> object:
        return super().load(file, **kwargs)


def wrapped(file: IO[bytes], text: IO[str]) -> None:
    wrapper = atomic_store.WrapBinaryFormat(pickle)
    atomic_store.open('f', format=wrapper)
    wrapper.dump({}, file, protocol=5)
    wrapper.load(file, encoding='ascii')
    assert_type(wrapper.load(file), Any)
    wrapper.format_bstr.dumps(1)
    atomic_store.WrapBinaryFormat(json).dump([], text)
    atomic_store.WrapBinaryFormat(format_bstr=Points())
    atomic_store.WrapBinaryFormat(Points)
    atomic_store.WrapBinaryFormat(StaticMethods)
    atomic_store.open('f', format=Wrapper(pickle))
    atomic_store.WrapBinaryFormat()  # type: ignore[call-arg]
    atomic_store.WrapBinaryFormat('pickle')  # type: ignore[arg-type]
    atomic_store.WrapBinaryFormat(Lines())  # type: ignore[arg-type]
    wrapper.dump({})  # type: ignore[call-arg]


def contexts_and_commits() -> None:
    store = atomic_store.open('f', default={'runs': 0})
    assert_type(store, AtomicStore)
    with store as entered:
        assert_type(entered, AtomicStore)
        with entered:
            store.value['runs'] += 1
        with atomic_store.open('g') as one, atomic_store.open('h') as other:
            one.value = other.value
    store.commit()
    store.commit(1)  # type: ignore[call-arg]
    store.save()  # type: ignore[attr-defined]
    store['runs'] = 1  # type: ignore[index]
    with atomic_store.open as store:  # type: ignore[attr-defined]
        pass


class Settings(TypedDict):
    theme: str
    window: list[int]


def type_of_the_value() -> None:
    settings: AtomicStore[Settings] = atomic_store.open('s.json', default={})
    assert_type(settings.value, Settings)
    assert_type(settings.value['window'], list[int])
    settings.value = {'theme': 'dark', 'window': [640, 480]}
    settings.value['theme'] = 1  # type: ignore[typeddict-item]
    settings.value['size'] = 1  # type: ignore[typeddict-unknown-key]
    settings.value = []  # type: ignore[assignment]
    with settings as entered:
        assert_type(entered, AtomicStore[Settings])
        assert_type(entered.value['theme'], str)
    declared: AtomicStore[Settings]
    with atomic_store.open('s.json', default={}) as declared:
        assert_type(declared.value, Settings)
        declared.value['theme'] = 1  # type: ignore[typeddict-item]
    names: AtomicStore[set[str]] = atomic_store.open('names', set(), 'pickle')
    with names:
        names.value.add('Ada')
        names.value.add(1)  # type: ignore[arg-type]


def nobody_has_to_annotate_anything() -> None:
    with atomic_store.open('runs.json', default=[]) as store:
        assert_type(store, AtomicStore[Any])
        assert_type(store.value, Any)
        store.value.append('run')
    bare: AtomicStore = atomic_store.open('runs.json')
    bare.value = 1
    built = AtomicStore('f', 0, pickle, True, None, None, None)
    assert_type(built, AtomicStore[Any])
    built.value = 'no int'
    stores: list[AtomicStore] = [store, bare, built]
    for each in stores:
        each.value = each.value + 1


class Subclass(AtomicStore):
    def runs(self) -> int:
        return int(self.value)


def store_of_its_own() -> None:
    store = Subclass('f', 0, pickle, True, None, None, False)
    with store as entered:
        assert_type(entered, Subclass)
    AtomicStore('f', {}, WithOptions(), True, {}, {}, None)
    AtomicStore('f', {}, 'json', False, None, None, False)  # type: ignore[arg-type]
    AtomicStore('f', {}, Points(), True, None, None, False)  # type: ignore[arg-type]
    AtomicStore('f')  # type: ignore[call-arg]


def attributes(store: AtomicStore) -> None:
    assert_type(store.value, Any)
    runs: int = store.value
    store.value = None
    store.value = {'runs': runs + 1}
    store.path = 'g'
    store.path = b'g'
    store.path = Path('g')
    store.path = BytesPath()
    store.format = pickle
    store.format = Lines()
    store.format = atomic_store.WrapBinaryFormat(Text())
    store.is_binary = True
    store.dump_kwargs = {'indent': 1}
    store.dump_kwargs['sort_keys'] = True
    store.load_kwargs = {}
    store.ignore_inner_exits = True
    assert_type(store.level, int)
    store.path = 1  # type: ignore[assignment]
    store.format = 'json'  # type: ignore[assignment]
    store.format = Points()  # type: ignore[assignment]
    store.is_binary = None  # type: ignore[assignment]
    store.level = 'a'  # type: ignore[assignment]
    store.values = {}  # type: ignore[attr-defined]
