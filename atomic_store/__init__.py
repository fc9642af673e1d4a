"""Keep one value in one file, and replace that file atomically.

Open the store, change the value, and leave the ``with`` block. The file then
holds the whole new value, or, if anything went wrong, the whole old one::

    import atomic_store

    with atomic_store.open('state.json', default={}) as store:
        store.value['runs'] = store.value.get('runs', 0) + 1

``open`` returns an ``AtomicStore``. To write your own format, override the
methods of ``AbstractFormatFile``, which work on a file, or of
``AbstractFormatBstr``, which work on a string. ``open`` turns the second kind
into the first with ``WrapBinaryFormat``.
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
