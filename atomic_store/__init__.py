"""Keep one value in one file, and replace that file atomically.

A script opens the store, changes the value as it likes, and leaves the
``with`` block. The file then holds the whole new value or, if anything went
wrong, still the whole old one::

    import atomic_store

    with atomic_store.open('state.json', default={}) as store:
        store.value['runs'] = store.value.get('runs', 0) + 1

``open`` opens a store, ``AtomicStore`` is what it returns. For a format of
your own, override the methods of ``AbstractFormatFile``, which work on a file,
or of ``AbstractFormatBstr``, which work on a string. ``WrapBinaryFormat`` makes
one of the first kind of one of the second, as ``open`` does by itself.
"""

from ._formats import AbstractFormatBstr, AbstractFormatFile, WrapBinaryFormat
from ._store import AtomicStore, open

__all__ = [
    'AbstractFormatBstr',
    'AbstractFormatFile',
    'AtomicStore',
    'WrapBinaryFormat',
    'open',
]
