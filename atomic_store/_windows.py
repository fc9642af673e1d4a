"""What only Windows needs: wait while another program has a file open.

There, a file may not be replaced, removed or even opened while another program has it
open: a reader, a virus scanner, a sync client. On other systems, nothing here waits or
raises an error of its own.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from atomicwrites import replace_atomic

from . import _notes

_T = TypeVar('_T')

# How long to retry, in seconds.
_PATIENCE = 5.0
_IN_USE = {5, 32, 33}  # access denied, sharing violation, lock violation


def is_in_use(error: OSError) -> bool:
    """Whether an error may mean that another program has the file open."""
    winerror = getattr(error, 'winerror', None)
    if winerror is not None:
        return winerror in _IN_USE
    # open() gets its errors from the C library, which sets no winerror.
    return os.name == 'nt' and error.errno == errno.EACCES


def wait_while_in_use(
    action: Callable[[], _T], why_in_vain: Callable[[], str | None] = lambda: None
) -> _T:
    """Call `action`, and retry for some seconds while the file is in use."""
    end = 0.0
    slept = 0.0  # the limit if a test has stopped the clock
    while True:
        try:
            return action()
        except OSError as error:
            if not is_in_use(error):
                raise
            reason = why_in_vain()
            end = end or time.monotonic() + _PATIENCE
            if not reason and (slept > _PATIENCE or time.monotonic() > end):
                reason = (
                    'another program has the file open, or you have no access to it: '
                    f'tried for {_PATIENCE:.0f} seconds'
                )
            if reason:
                _notes.add(error, reason)
                raise
        # The pause is random, so that two waiting programs do not collide every time.
        pause = 0.01 * os.urandom(1)[0] / 255
        with suppress(OSError):  # at shutdown, it has nothing to wait for
            time.sleep(pause)
        slept += pause


def replace(temporary: str, target: str) -> None:
    """Rename a file, and write the new name through to the disk."""

    def why_in_vain() -> str | None:
        with suppress(OSError):
            is_writable = os.stat(target).st_mode & stat.S_IWRITE
            return None if is_writable else 'the file is read-only'
        return None

    wait_while_in_use(partial(replace_atomic, temporary, target), why_in_vain)


def refuse_a_path_through_a_file(path: str) -> None:
    """Raise NotADirectoryError, as other systems do. Windows says: no such file."""
    parent = os.path.dirname(path)
    while parent != os.path.dirname(parent) and not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if os.path.isfile(parent):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
