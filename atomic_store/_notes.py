"""Notes on errors: which file an error is about, and what to do.

`_CASES`, at the end, says which cases are tried for which error. The first note ends
the search, so that no two contradict each other. A wrong note is worse than none, so
each case checks that its note is true. It looks at files only after an error.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_Notes = Iterator[str]

# How interpreters complain when a file or a format gets the wrong kind of string, or a
# subclass of it. What `got` matches depends on which kind the format got.
_OTHER_KIND = r"(?!'?(?:None|NoneType|int|float|bool|list|tuple|dict|set)\b)"
_MIXED_UP = {
    is_binary: re.compile(
        f'bytes-like object is required, not {_OTHER_KIND}'
        f'|write\\(\\) argument must be str, not {_OTHER_KIND}'
        r"|must be str(?: or None)?, not '?bytes\b"
        f'|unicode argument expected, got {_OTHER_KIND}'  # PyPy
        f'|in binary mode|{got}'
    )
    for is_binary, got in {
        True: "'bytes' object has no attribute 'encode'|string pattern on a bytes-like",
        False: "'str' object has no attribute 'decode'|bytes pattern on a string-like",
    }.items()
}
_JSON_KEYS = re.compile(r'keys must be str, int, float, bool or None, not \S+')

# The end of the note on a format that returned neither bytes nor str.
NO_STRING = 'not bytes or str'

_HEAD = 4096

# FS_IOC_GETFLAGS, see ioctl_iflags(2). A few processors use another number.
_GET_FLAGS = 0x80006601 | struct.calcsize('l') << 16
_FLAGS = {0x10: 'immutable', 0x20: 'append-only'}


def add(error: BaseException, note: str) -> None:
    """Add a note to an error once, if it accepts one. A frozen dataclass does not."""
    with suppress(Exception):
        if note not in getattr(error, '__notes__', ()):
            BaseException.add_note(error, note)


def explain(error: Exception, stage: str, path: str, store: Any) -> None:
    """Add notes to an error that say which file it is about, and what to do.

    What is raised in 'dumping' comes again in 'committing', and has its notes then.
    """
    which_file = f'while {"loading" if stage == "loading" else "committing"} {path!r}'
    if which_file in getattr(error, '__notes__', ()):
        return
    with suppress(Exception):  # the error matters more than its notes
        add(error, which_file)
        error.__notes__.insert(0, error.__notes__.pop())  # before the format's own
    for cases in _CASES[stage]:
        with suppress(Exception):
            for note in cases(error, stage, path, store):
                return add(error, note)


def explain_class(error: TypeError, format: type) -> None:
    """Explain an error in calling a class without the arguments that it needs."""
    with suppress(Exception):
        if _missing_arguments(format):
            add(error, f'the format is a class: give an instance of {format.__name__}')


def _missing_arguments(function: Any, *args: Any, **kwargs: Any) -> list[str]:
    import inspect  # takes time

    # Ignore the signature of what a decorator wraps: it may supply the argument itself.
    signature = inspect.signature(function, follow_wrapped=False)
    given = signature.bind_partial(*args, **kwargs).arguments
    return [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in given
    ]


def _on_format(error: Exception, stage: str, path: str, store: Any) -> _Notes:
    if not isinstance(error, TypeError | AttributeError):
        return
    yield from (note for note in error.__notes__ if note.endswith(NO_STRING))
    is_loading = stage == 'loading'
    # WrapBinaryFormat wraps functions other than `dump` and `load`.
    name = getattr(store.format, '_names', ('dump', 'load'))[is_loading]
    format = getattr(store.format, 'format_bstr', store.format)
    function = getattr(format, name)
    code = getattr(function, '__code__', None)
    # If a method is called on its class, the value or the file becomes `self`.
    if isinstance(format, type) and code and code.co_varnames[:1] == ('self',):
        yield f'the format is a class: is {format.__name__}() meant?'
    if _MIXED_UP[bool(store.is_binary)].search(str(error)):
        yield (
            f'the store has is_binary={store.is_binary!r}: '
            f'does the format need is_binary={not store.is_binary}?'
        )
    if isinstance(format, type):
        return  # nobody knows which argument of its methods is `self`
    kwargs = 'load_kwargs' if is_loading else 'dump_kwargs'
    args = ('value', 'file') if name == 'dump' else ('file or data',)
    missing = _missing_arguments(function, *args, **getattr(store, kwargs))
    if name not in ('dump', 'load') and 'file' in missing:
        return  # it is written for the other base class
    if missing and all(repr(argument) in str(error) for argument in missing):
        values = dict.fromkeys(missing, '...')
        if 'Loader' in values and hasattr(format, 'SafeLoader'):  # as in PyYAML
            values['Loader'] = f'{format.__name__}.SafeLoader'
        example = ', '.join(f'{key!r}: {value}' for key, value in values.items())
        yield f'{name} needs {" and ".join(missing)}: give {kwargs}={{{example}}}'


def _on_value(error: Exception, stage: str, path: str, store: Any) -> _Notes:
    from ._formats import _Json  # which imports this module

    if isinstance(error, TypeError) and isinstance(store.value, type):
        name = store.value.__name__
        example = {'dict': '{}', 'list': '[]'}.get(name, f'{name}()')
        yield f'the value is a class: give an object, such as {example}'
    if not isinstance(error, TypeError) or not isinstance(store.format, _Json):
        return
    if _JSON_KEYS.fullmatch(str(error)):
        yield "JSON does not know such keys: use str(key), or format='pickle'"
    trace: Any = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    if trace.tb_frame.f_code is json.JSONEncoder.default.__code__:
        advice = "{'default': ...} (and back after loading)"
        if hasattr(trace.tb_frame.f_locals['o'], '__dataclass_fields__'):
            advice = "{'default': dataclasses.asdict} (it comes back as a dict)"
        yield (
            f'JSON does not know this type: convert it with dump_kwargs={advice}, '
            "or use format='pickle'"
        )


def _on_content(error: Exception, stage: str, path: str, store: Any) -> _Notes:
    if getattr(error, 'errno', None) or not os.path.isfile(path):
        return  # it was not opened, or there is no content to change
    with open(path, 'rb') as file:
        head = file.read(_HEAD)
    content = head.removeprefix(codecs.BOM_UTF8)
    if len(head) < _HEAD and not (content if store.is_binary else content.strip()):
        what = 'holds nothing but white space' if content else 'is empty'
        yield f'the file {what}: delete it to start from the default'
    encoding = 'utf-16'
    if not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # Most formats start with ASCII characters, and in those, one byte is NUL.
        encoding = 'utf-16-be' if any(head[1:4:2]) else 'utf-16-le'
        if any(head[1:4:2]) and any(head[0:4:2]):
            return
    is_text = all(
        char.isprintable() or char.isspace() for char in head.decode(encoding)
    )
    if is_text and not store.is_binary:
        yield 'the file looks like UTF-16: save it as UTF-8'


def _on_replacing(error: Exception, stage: str, path: str, store: Any) -> _Notes:
    if not isinstance(error, OSError):
        return
    folder = os.path.dirname(os.path.realpath(path))
    place = f'the folder {folder!r}'
    if os.path.islink(path):
        place += f', to which the link {path!r} leads,'
    if isinstance(error, FileNotFoundError) and not os.path.isdir(folder):
        note = f'{place} does not exist, and is not created'
        if os.fsdecode(store.path).startswith('~'):
            note += ': Python does not expand ~ in a path, use os.path.expanduser()'
        yield note
    target = error.filename2  # None unless the rename has failed
    is_forbidden = isinstance(error, PermissionError) or error.errno == errno.EROFS
    if is_forbidden and target is None and os.path.samefile(error.filename, folder):
        yield (
            f'a commit makes a new file in {place} but is not allowed to: a writable file '
            'is not enough. In a service or container, make the whole folder writable'
        )
    if error.errno == errno.EBUSY and _is_mount_point(target):
        yield 'the file is a mount point, as in containers: mount its folder'
    if error.errno == errno.EPERM and target is not None:
        with suppress(OSError):  # no right to read it, or a file system without flags
            if flag := _flag(target):
                yield f'the file is {flag}: see chattr(1)'
        parent, file = os.stat(folder), os.stat(target)
        others = os.geteuid() not in (0, parent.st_uid, file.st_uid)
        if parent.st_mode & stat.S_ISVTX and others:
            yield (
                f"the file is another user's, and {place} is sticky: only the owner of "
                'the file or the folder may replace it'
            )


def _is_mount_point(path: str) -> bool:
    name = os.fsencode(os.path.realpath(path))
    for char in b'\\', b' ', b'\t', b'\n':
        name = name.replace(char, b'\\%03o' % ord(char))  # proc(5)
    with open('/proc/thread-self/mountinfo', 'rb') as file:
        return any(line.split()[4] == name for line in file)


def _flag(path: str) -> str | None:
    import fcntl  # not on Windows

    with open(path, 'rb') as file:
        answer = fcntl.ioctl(file, _GET_FLAGS, bytes(8))
    flags = int.from_bytes(answer[:4], sys.byteorder)
    return next((name for flag, name in _FLAGS.items() if flags & flag), None)


_CASES = {
    'loading': (_on_format, _on_content),
    'dumping': (_on_format, _on_value),
    'committing': (_on_replacing,),
}
