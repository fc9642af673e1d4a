"""What several test files need: reasons to skip, mounts, and code run as somebody else."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

linux = pytest.mark.skipif(sys.platform != 'linux', reason='needs Linux')
root = pytest.mark.skipif(
    not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs root'
)

NOBODY = 65534


def command(name: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f'needs {name}')


@contextmanager
def mounted(folder: Path, *options: str | Path) -> Iterator[None]:
    subprocess.run(['mount', *options, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


def in_child(
    function: Callable[[], Any],
    uid: int | None = None,
    gid: int | None = None,
    groups: list[int] | None = None,
) -> Any:
    """Call a function in a forked child, as a user if one is given.

    Returns what it returns, and raises what it raises, which both must be fit to be
    pickled.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            if uid is not None:
                os.setgroups(groups or [])
                os.setresgid(gid or uid, gid or uid, gid or uid)
                os.setresuid(uid, uid, uid)
            answer: tuple[Any, BaseException | None]
            try:
                answer = (function(), None)
            except BaseException as error:  # noqa: BLE001 - the parent raises it
                answer = (None, error)
            with open(write, 'wb') as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(write)
    with open(read, 'rb') as pipe:
        value, failure = pickle.load(pipe)
    os.waitpid(child, 0)
    if failure is not None:
        raise failure
    return value
