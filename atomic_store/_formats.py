"""What a format is, how one is found, and JSON, which is written by the C encoder."""

from __future__ import annotations

import importlib
import json
import pickle
import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import IO, Any, Literal, Protocol


class AbstractFormatFile:
    """A format that writes a value to a file and reads it back, to be overridden.

    A subclass with only `load` can be used to read, one with only `dump` to
    write.

    Examples
    --------
    >>> from pathlib import Path
    >>> import atomic_store
    >>> class Lines(atomic_store.AbstractFormatFile):
    ...     def dump(self, value, file):
    ...         file.writelines(f'{line}\\n' for line in value)
    ...
    ...     def load(self, file):
    ...         return [line.rstrip('\\n') for line in file]
    >>> with atomic_store.open('names.txt', [], Lines(), is_binary=False) as store:
    ...     store.value += ['Ada', 'Grace']
    >>> print(Path('names.txt').read_text(), end='')
    Ada
    Grace
    """

    # *args and **kwargs of Any: a type checker then accepts an override that takes
    # other arguments, or none, after the file.
    def dump(self, value: Any, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Write a value to a file.

        Parameters
        ----------
        value : object
            The value of the store.
        file : file object
            Open for writing: ``bytes`` if the store is binary, otherwise ``str``.
        **kwargs
            The store's `dump_kwargs`.

        Raises
        ------
        NotImplementedError
            Unless overridden.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override dump')

    def load(self, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Read a value from a file.

        Parameters
        ----------
        file : file object
            Open for reading: ``bytes`` if the store is binary, otherwise ``str``.
        **kwargs
            The store's `load_kwargs`.

        Returns
        -------
        object
            The value.

        Raises
        ------
        NotImplementedError
            Unless overridden.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override load')


class AbstractFormatBstr:
    """A format that turns a value into a string and back, to be overridden.

    A subclass with only `loads` can be used to read, one with only `dumps` to
    write.

    Examples
    --------
    >>> import ast
    >>> from pathlib import Path
    >>> import atomic_store
    >>> class Literal(atomic_store.AbstractFormatBstr):
    ...     def dumps(self, value):
    ...         return repr(value).encode()
    ...
    ...     def loads(self, data):
    ...         return ast.literal_eval(data.decode())
    >>> with atomic_store.open('seen.txt', set(), Literal()) as store:
    ...     store.value.add((51.5, -0.1))
    >>> print(Path('seen.txt').read_text())
    {(51.5, -0.1)}
    """

    def dumps(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Turn a value into a string.

        Parameters
        ----------
        value : object
            The value of the store.
        **kwargs
            The store's `dump_kwargs`.

        Returns
        -------
        bytes or str
            ``bytes`` if the store is binary, otherwise ``str``.

        Raises
        ------
        NotImplementedError
            Unless overridden.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override dumps')

    def loads(self, data: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Turn a string into a value.

        Parameters
        ----------
        data : bytes or str
            What the file holds: ``bytes`` if the store is binary, otherwise ``str``.
        **kwargs
            The store's `load_kwargs`.

        Returns
        -------
        object
            The value.

        Raises
        ------
        NotImplementedError
            Unless overridden.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override loads')


# What the functions take is between the format and the keyword arguments that it is
# used with. Arguments of Any are compatible with all (typing specification, Callables).
class FileFormat(Protocol):
    def dump(self, *args: Any, **kwargs: Any) -> Any: ...
    def load(self, *args: Any, **kwargs: Any) -> Any: ...


class _BstrFormat(Protocol):
    def dumps(self, *args: Any, **kwargs: Any) -> Any: ...
    def loads(self, *args: Any, **kwargs: Any) -> Any: ...


class _CodecFormat(Protocol):
    def encode(self, *args: Any, **kwargs: Any) -> Any: ...
    def decode(self, *args: Any, **kwargs: Any) -> Any: ...


Format = (
    Literal['json', 'pickle', 'bson'] | FileFormat | _BstrFormat | _CodecFormat | None
)


class WrapBinaryFormat(AbstractFormatFile):
    """A format with `dump` and `load` made of one with `dumps` and `loads`.

    `open` makes one by itself where it is needed.

    Parameters
    ----------
    format_bstr : module, class or instance
        Anything with `dumps` and `loads`. They may give and take ``str`` as well, in
        a store that is not binary.

    Attributes
    ----------
    format_bstr
        The same object.

    Examples
    --------
    >>> import io, pickle
    >>> import atomic_store
    >>> file_format = atomic_store.WrapBinaryFormat(pickle)
    >>> file_format.load(io.BytesIO(pickle.dumps('value')))
    'value'
    """

    def __init__(self, format_bstr: _BstrFormat) -> None:
        self.format_bstr = format_bstr

    def __repr__(self) -> str:
        return f'WrapBinaryFormat({self.format_bstr!r})'

    def dump(self, value: Any, file: Any, /, *args: Any, **kwargs: Any) -> None:
        """Write what `dumps` makes of a value to a file.

        Parameters
        ----------
        value : object
            The value.
        file : file object
            Open for writing.
        **kwargs
            Passed on to `dumps`.

        Raises
        ------
        TypeError
            If `dumps` returns ``str`` and the file is binary, or the other way round.
        """
        file.write(self.format_bstr.dumps(value, *args, **kwargs))

    def load(self, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return what `loads` makes of a file.

        Parameters
        ----------
        file : file object
            Open for reading.
        **kwargs
            Passed on to `loads`.

        Returns
        -------
        object
            The value.
        """
        return self.format_bstr.loads(file.read(), *args, **kwargs)


def find_format(format: Format) -> tuple[FileFormat, bool]:
    """Return an object with `dump` and `load`, and whether it wants a binary store."""
    found: Any = format
    if isinstance(found, str):
        found = _named_format(found)
    if found is None or found is json:
        return _Json(), False
    if isinstance(found, type) and issubclass(
        found, AbstractFormatFile | AbstractFormatBstr
    ):
        found = found()
    if _has(found, 'dump', 'load'):
        return found, True
    if _has(found, 'dumps', 'loads'):
        return WrapBinaryFormat(found), True
    if _has(found, 'encode', 'decode'):
        return WrapBinaryFormat(
            SimpleNamespace(dumps=found.encode, loads=found.decode)
        ), True
    raise ValueError(
        f"unknown format {format!r}: give 'json', 'pickle' or 'bson', or a module, class or "
        'instance with the functions dump and load, dumps and loads, or encode and decode'
    )


def _named_format(name: str) -> Any:
    if name == 'json':
        return json
    if name == 'pickle':
        return pickle
    if name == 'bson':
        cause = None
        try:
            bson = importlib.import_module('bson')
            # A folder that merely has this name can be imported, too.
            if _has(bson, 'dumps', 'loads') or _has(bson, 'encode', 'decode'):
                return bson
        except ImportError as error:
            cause = error
        raise ValueError(
            "format='bson' needs a package that is not installed: install "
            'atomic-store[bson], or pymongo, which has a bson of its own'
        ) from cause
    return name  # which has no functions of a format, and ends in the error for it


def _has(format: Any, *names: str) -> bool:
    return all(callable(getattr(format, name, None)) for name in names)


class _Json(AbstractFormatFile):
    """JSON as the standard library writes it, sooner."""

    def __repr__(self) -> str:
        return 'json'

    def dump(
        self, value: Any, file: IO[str], /, *, cls: Any = None, **kwargs: Any
    ) -> None:
        encoder = partial(_json_encoder, json.JSONEncoder if cls is None else cls)
        json.dump(value, file, cls=encoder, **kwargs)  # type: ignore[arg-type]

    def load(self, file: IO[str], /, **kwargs: Any) -> Any:
        return json.load(file, **kwargs)


def _json_encoder(cls: Callable[..., Any], **kwargs: Any) -> Any:
    """Make the encoder for `json.dump`, which by itself has no use for the C one.

    It asks `iterencode` for the text a piece at a time, and only `json.dumps` asks
    for all at once, which is what the C encoder is for (Lib/json/encoder.py).
    """
    encoder = cls(**kwargs)
    if getattr(encoder.iterencode, '__func__', None) is json.JSONEncoder.iterencode:
        return SimpleNamespace(iterencode=partial(_iterencode_at_once, encoder))
    return encoder


def _iterencode_at_once(encoder: json.JSONEncoder, value: Any) -> Iterable[str]:
    """Encode all at once, unless that would come to something else.

    `json.dump` asks a list, tuple or dict whether it is empty, the C encoder looks for
    itself. A dict that makes its items when it is asked for them is `{}` to it.
    """
    method = getattr(encoder.default, '__func__', None)
    has_default = method is not json.JSONEncoder.default
    classes = _classes_that_tell_their_size()
    if classes and (has_default or _holds(value, classes)):
        return encoder.iterencode(value)
    c_encoder = _WithDefault(encoder) if has_default else encoder
    try:
        return json.JSONEncoder.iterencode(c_encoder, value, _one_shot=True)  # type: ignore[arg-type]
    except Exception:
        # The C encoder takes no proxies, and goes less deep in Python 3.12.
        if has_default and c_encoder.was_asked:  # type: ignore[union-attr]
            raise  # what `default` has given it may not give again
    return encoder.iterencode(value)


class _WithDefault:
    """An encoder for the C one, with a `default` that knows proxies.

    A proxy says to be of a class that JSON knows, but is not. `json.dump` believes it,
    the C encoder asks `default` instead.
    """

    def __init__(self, encoder: json.JSONEncoder) -> None:
        self.encoder = encoder
        self.encoder_default = encoder.default
        self.was_asked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def default(self, unknown: Any) -> Any:
        if isinstance(unknown, dict):
            return dict(unknown.items()) if unknown else {}
        if isinstance(unknown, list | tuple):
            return list(unknown) if unknown else []
        if isinstance(unknown, str | int | float):
            return json.JSONEncoder.default(self.encoder, unknown)  # an error
        self.was_asked = True
        return self.encoder_default(unknown)


def _classes_that_tell_their_size() -> set[type]:
    # Looking through all classes is much quicker than looking through the value,
    # which has to be done only where there is one.
    found = set()
    for kind in (list, tuple, dict):
        classes: list[type] = [kind]
        for cls in classes:
            classes += type.__subclasses__(cls)  # and then theirs, in the same loop
            if _tells_its_size(cls, kind) and not _is_standard(cls):
                found.add(cls)
    return found


def _tells_its_size(cls: Any, kind: Any) -> bool:
    return (
        cls.__len__ is not kind.__len__
        # Items that are not in memory; those of a dict come from its items().
        or (cls.__iter__ is not kind.__iter__ and kind is not dict)
        # The attribute may be its metaclass's.
        or (
            hasattr(cls, '__bool__') and any('__bool__' in vars(c) for c in cls.__mro__)
        )
    )


def _is_standard(cls: type) -> bool:
    # The standard library's come to the same in both encoders.
    package = str(cls.__module__).partition('.')[0]
    return package in sys.stdlib_module_names and package != 'builtins'


def _holds(value: Any, classes: set[type]) -> bool:
    """Whether lists, tuples and dicts hold an instance of one of the classes."""
    seen: dict[int, Any] = {}
    level = [value]
    while level:
        if not classes.isdisjoint(map(type, level)):
            return True
        seen.update(zip(map(id, level), level, strict=True))
        level = [
            item
            for container in level
            for item in _items(container)
            if isinstance(item, list | tuple | dict) and id(item) not in seen
        ]
    return False


def _items(container: Any) -> Iterable[Any]:
    # Of a proxy there are none: its own items are not to be used up here.
    if issubclass(type(container), dict):
        return dict.values(container)
    return container if issubclass(type(container), list | tuple) else ()
