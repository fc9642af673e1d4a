"""What a format is, and how to find one. Nothing here knows about paths."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from typing import IO, Any, Literal, Protocol

from . import _notes

_SLICE = 1 << 20
_NO_BSON = (
    "format='bson' needs a package that is not installed: install "
    'atomic-store[bson], or pymongo, which has a bson of its own'
)


class AbstractFormatFile:
    """Base class for a format that works on an open file.

    Override `dump` and `load`. To read only, override `load` alone. A method that is not
    overridden raises `NotImplementedError`.

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

    # Because of these *args and **kwargs, type checkers accept an override that takes
    # any arguments, or none, after the file.
    def dump(self, value: Any, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Write `value` to `file`, with the store's `dump_kwargs` as keyword arguments.

        The file takes ``bytes`` if the store is binary, otherwise ``str``.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override dump')

    def load(self, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value in `file`, with `load_kwargs` as keyword arguments.

        The file gives ``bytes`` if the store is binary, otherwise ``str``.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override load')


class AbstractFormatBstr:
    """Base class for a format that works on the whole content of a file.

    Override `dumps` and `loads`. To read only, override `loads` alone. A method that is
    not overridden raises `NotImplementedError`.

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
        """Return `value` as ``bytes``, or as ``str`` if the store is not binary.

        The keyword arguments are the store's `dump_kwargs`.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override dumps')

    def loads(self, data: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value in `data`: ``bytes``, or ``str`` if the store is not binary.

        The keyword arguments are the store's `load_kwargs`.
        """
        raise NotImplementedError(f'{type(self).__name__} does not override loads')


# Each format has its own keyword arguments. Parameters of type Any are compatible with
# all of them (typing specification, Callables).
class FileFormat(Protocol):
    def dump(self, *args: Any, **kwargs: Any) -> Any: ...
    def load(self, *args: Any, **kwargs: Any) -> Any: ...


class _BstrFormat(Protocol):
    def dumps(self, *args: Any, **kwargs: Any) -> Any: ...
    def loads(self, *args: Any, **kwargs: Any) -> Any: ...


class _CodecFormat(Protocol):
    def encode(self, *args: Any, **kwargs: Any) -> Any: ...
    def decode(self, *args: Any, **kwargs: Any) -> Any: ...


_Name = Literal['json', 'pickle', 'bson']
Format = _Name | FileFormat | _BstrFormat | _CodecFormat | None


class WrapBinaryFormat(AbstractFormatFile):
    """Turns a format with `dumps` and `loads` into one with `dump` and `load`.

    `open` does this for you. The keyword arguments are passed on.

    Parameters
    ----------
    format_bstr : module, class or instance
        Anything with `dumps` and `loads`. They work on ``str`` if the store is not
        binary. This is also an attribute.

    Examples
    --------
    >>> import atomic_store, io, pickle
    >>> file_format = atomic_store.WrapBinaryFormat(pickle)
    >>> file_format.load(io.BytesIO(pickle.dumps('value')))
    'value'
    """

    _names = 'dumps', 'loads'

    def __init__(self, format_bstr: _BstrFormat) -> None:
        self.format_bstr = format_bstr

    def __repr__(self) -> str:
        return f'WrapBinaryFormat({self.format_bstr!r})'

    def dump(self, value: Any, file: Any, /, *args: Any, **kwargs: Any) -> None:
        """Write what `dumps` returns for `value` to `file`.

        Raises `TypeError` if that is ``str`` for a binary file, ``bytes`` for a text
        file, or neither.
        """
        name = self._names[0]
        data = getattr(self.format_bstr, name)(value, *args, **kwargs)
        try:
            _write([data], file)
        except TypeError as error:
            if not isinstance(data, str | bytes | bytearray | memoryview):
                kind = type(data).__name__
                _notes.add(error, f'{name} returned {kind}, {_notes.NO_STRING}')
            raise

    def load(self, file: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return what `loads` returns for the content of `file`."""
        loads = getattr(self.format_bstr, self._names[1])
        return loads(file.read(), *args, **kwargs)


class _WrapCodec(WrapBinaryFormat):
    _names = 'encode', 'decode'


def find_format(format: Format) -> tuple[FileFormat, bool]:
    """Return an object with `dump` and `load`, and whether it wants a binary store."""
    found: Any = _named_format(format) if isinstance(format, str) else format
    if found is None or found is json:
        return _Json(), False
    if isinstance(found, type) and issubclass(
        found, AbstractFormatFile | AbstractFormatBstr
    ):
        try:
            found = found()
        except TypeError as error:
            _notes.explain_class(error, found)
            raise
    if _has(found, 'dump', 'load'):
        return found, True
    if _has(found, 'dumps', 'loads'):
        return WrapBinaryFormat(found), True
    if _has(found, 'encode', 'decode'):
        return _WrapCodec(found), True
    raise ValueError(
        f'unknown format {format!r}{_what_is_missing(found)}: '
        "give 'json', 'pickle' or 'bson', or a module, class or instance "
        'with the functions dump and load, dumps and loads, or encode and decode'
    )


def _has(format: Any, *names: str) -> bool:
    return all(callable(getattr(format, name, None)) for name in names)


def _what_is_missing(format: Any) -> str:
    if isinstance(format, str):
        return ' (for another module, give the module itself, not its name)'
    for dump, load in ('dump', 'load'), ('dumps', 'loads'), ('encode', 'decode'):
        if _has(format, dump):
            return f', which has {dump} but no {load}'
        if _has(format, load):
            base = 'AbstractFormatFile' if load == 'load' else 'AbstractFormatBstr'
            advice = f'to read only, call {load} in a subclass of {base}'
            return f', which has {load} but no {dump} ({advice})'
    return ''


def _named_format(name: str) -> Any:
    if name == 'bson':
        try:
            import bson  # a statement, so that PyInstaller and others see it
        except ImportError as error:
            raise ValueError(_NO_BSON) from error
        # Python can import any folder of this name, too.
        if _has(bson, 'dumps', 'loads') or _has(bson, 'encode', 'decode'):
            return bson
        raise ValueError(_NO_BSON)
    # Any other name stays a str, which is not a format.
    return {'json': json, 'pickle': pickle}.get(name, name)


class _Json(AbstractFormatFile):
    """The standard library's JSON."""

    def __repr__(self) -> str:
        return 'json'

    def dump(
        self, value: Any, file: IO[str], /, *, cls: Any = None, **kwargs: Any
    ) -> None:
        # Unlike json.dump(), json.dumps() uses the C encoder if it can. But it also
        # calls the class's `encode`, which json.dump() does not.
        if cls is None or _encodes_as_its_base(cls):
            try:
                # Like json.dumps(), but without joining the parts of a long text.
                defaults: Any = json.JSONEncoder.__init__.__kwdefaults__
                encoder = (cls or json.JSONEncoder)(**{**defaults, **kwargs})
                if isinstance(value, str):
                    return _write([encoder.encode(value)], file)
                parts = encoder.iterencode(value, True)
                parts = parts if isinstance(parts, list | tuple) else [''.join(parts)]
                return _write(parts, file)
            except MemoryError:
                # Try again, unless an object may have been used that gives its content
                # only once, as an iterator does.
                if file.tell() or cls or kwargs.get('default'):
                    raise
        json.dump(value, file, cls=cls, **kwargs)

    def load(self, file: IO[Any], /, **kwargs: Any) -> Any:
        data = file.read()
        if isinstance(data, str):
            data = data.removeprefix('\ufeff')  # editors on Windows write it
        return json.loads(data, **kwargs)


def _write(parts: Iterable[Any], file: IO[Any]) -> None:
    # A text file encodes each string as a whole. In slices, that needs little memory.
    for part in parts:
        if isinstance(part, str):
            for start in range(0, len(part) or 1, _SLICE):
                file.write(part[start : start + _SLICE])
        else:
            file.write(part)


def _encodes_as_its_base(cls: Any) -> bool:
    return all(
        getattr(cls, name, None) is getattr(json.JSONEncoder, name)
        for name in ('encode', 'iterencode')
    )
