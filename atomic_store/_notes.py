"""Notes on errors: which file an error is about, and what to do.

A note that is wrong is worse than none. Each case below asks for what makes it true. What
it asks of the file system is asked only after an error.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

# How interpreters complain when a file or a format gets the wrong kind of string, or a
# subclass of it. The name of a missing method tells which kind it got.
_OTHER_KIND = r"(?!'?(?:None|NoneType|int|float|bool|list|tuple|dict|set)\b)"
_MIXED_UP = {
    is_binary: re.compile(
        f'bytes-like object is required, not {_OTHER_KIND}'
        f'|write\\(\\) argument must be str, not {_OTHER_KIND}'
        r"|must be str(?: or None)?, not '?bytes\b"
        f'|unicode argument expected, got {_OTHER_KIND}'  # PyPy
        '|pattern on a (?:bytes|string)-like object'
        f'|in binary mode|{method}'
    )
    for is_binary, method in {
        True: "'bytes' object has no attribute 'encode'",
        False: "'str' object has no attribute 'decode'",
    }.items()
}

# The end of the note on a format that returned neither bytes nor str.
NO_STRING = 'not bytes or str'


class Store(Protocol):
    """What the notes depend on: attributes of `AtomicStore`."""

    path: Any
    format: Any
    is_binary: bool
    value: Any


def add(error: BaseException, note: str) -> None:
    """Add a note to an error once, if it accepts one. A frozen dataclass does not."""
    with suppress(Exception):
        if note not in getattr(error, '__notes__', ()):
            BaseException.add_note(error, note)


def explain_loading(error: Exception, path: str, store: Store) -> None:
    """Add to an error which file could not be loaded, and what to do."""
    _explain(error, f'while loading {path!r}', _loading_hints(error, path, store))


def explain_committing(error: Exception, path: str, store: Store) -> None:
    """Add to an error which file could not be replaced, and what to do."""
    _explain(error, f'while committing {path!r}', _committing_hints(error, path, store))


def _explain(error: Exception, which_file: str, hints: Iterator[str]) -> None:
    with suppress(Exception):  # the error matters more than its notes
        before = list(getattr(error, '__notes__', ()))
        add(error, which_file)
        if which_file not in before:
            error.__notes__.insert(0, error.__notes__.pop())  # before the others
        for hint in hints:
            add(error, hint)


def _loading_hints(error: Exception, path: str, store: Store) -> Iterator[str]:
    if os.path.isfile(path) and not os.path.getsize(path):
        yield 'the file is empty: delete it to start from the default'
    if isinstance(error, TypeError | AttributeError):
        yield from _format_hints(str(error), store)


def _committing_hints(error: Exception, path: str, store: Store) -> Iterator[str]:
    if isinstance(error, OSError) and error.errno == errno.EBUSY and error.filename2:
        yield 'the file is a mount point, as in containers: mount its folder'
    if isinstance(error, FileNotFoundError):
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            yield f'the folder {folder!r} does not exist, and is not created'
            if os.fsdecode(store.path).startswith('~'):
                yield 'Python does not expand ~ in a path: use os.path.expanduser()'
    if isinstance(error, TypeError):
        if 'JSON serializable' in str(error):
            yield (
                "JSON does not know this type: convert it with dump_kwargs={'default': "
                "...}, or use format='pickle'"
            )
        if str(error).startswith('keys must be str'):
            yield "JSON does not know such keys: use str(key), or format='pickle'"
        if not any(NO_STRING in note for note in error.__notes__):
            yield from _format_hints(str(error), store)


def _format_hints(message: str, store: Store) -> Iterator[str]:
    given = getattr(store.format, 'format_bstr', store.format)
    if isinstance(given, type) and 'missing' in message:
        yield f'the format is a class: is {given.__name__}() meant?'
    if _MIXED_UP[bool(store.is_binary)].search(message):
        yield (
            f'the store has is_binary={store.is_binary!r}: '
            f'does the format need is_binary={not store.is_binary}?'
        )
