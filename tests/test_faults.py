"""If a commit fails or is killed at any of its system calls, the value is whole.

A child process commits, and strace tampers with one of its calls: the call returns an
error, or the child is killed there (strace(1), "Tampering").
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from people import ACCESS, CAROL_MAY_READ, DEFAULT
from support import command

import atomic_store
from atomic_store import _replacement

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)

FORMATS: dict[str, ModuleType] = {
    'file': pickle,
    'link to attributes': json,
    'new file': json,
    'dangling link': pickle,
}

pytestmark = [
    command('strace'),
    pytest.mark.parametrize('target', FORMATS),
    pytest.mark.parametrize('is_named', [False, True], ids=['unnamed', 'named']),
]

# The errors, and the calls that may fail with each. (EDQUOT is like ENOSPC: see
# test_refusals.)
ERRORS = {
    'EIO': '.*',
    'ENOSPC': 'open.*|write|fsync|fchown|fsetxattr|linkat|rename.*',
    'EMFILE': 'open.*',
    'EACCES': 'open.*|.*stat.*|readlink|.*getxattr|.*listxattr|rename.*',
    'EPERM': 'fchown|fchmod|fsetxattr|fremovexattr|linkat|rename.*',
    'EOPNOTSUPP': 'open.*|.*xattr',
    'ENOSYS': 'fchown|fchmod|fsetxattr|fremovexattr',
    'ENODATA': '.*getxattr|fremovexattr',
}

# The error which says that files have no ACLs here. A commit may believe it.
NO_ACLS = 'llistxattr', 'EOPNOTSUPP'

# So large that pickle writes it in more than one call.
VALUES = {name: name * 50_000 for name in ('old', 'new', 'next')}

MARK = '/before-and-after-the-first-commit'
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)  # linux/prctl.h

fork = multiprocessing.get_context('fork')


class Commit(NamedTuple):
    """The result of a commit in the child, and what was found after it."""

    error: int | None
    leaked: set[str]
    warnings: list[str]
    is_opened: bool
    value: str
    left: list[str]


@pytest.fixture
def base(memory: Path, tmp_path: Path) -> Path:
    """A folder in memory, or on the disk if Linux before 6.6 keeps no attributes there."""
    with contextlib.suppress(OSError):
        os.setxattr(memory, 'user.x', b'')
        return memory / 'base'
    return tmp_path / 'base'


def encode(name: str, target: str) -> bytes:
    data: bytes | str = FORMATS[target].dumps(VALUES[name])
    return data if isinstance(data, bytes) else data.encode()


def prepare(base: Path, target: str) -> Path:
    """Make the file or link to open, and return its path."""
    shutil.rmtree(base, ignore_errors=True)
    path = base / 'folder' / 'value'
    path.parent.mkdir(parents=True)
    if target in ('file', 'link to attributes'):
        path.write_bytes(encode('old', target))
    if target == 'file':  # the folder gives new files a list, which must be removed
        os.setxattr(path.parent, DEFAULT, CAROL_MAY_READ)
    if target == 'link to attributes':
        os.setxattr(path, 'user.x', b'kept')
        os.setxattr(path, ACCESS, CAROL_MAY_READ)
    if 'link' in target:
        path = base / 'link'
        path.symlink_to('folder/value')
    return path


def look(base: Path, target: str) -> tuple[str, list[str]]:
    """Return which value the file holds, and the other names in the folder."""
    path = base / 'folder' / 'value'
    left = sorted({p.name for p in base.rglob('*')} - {'folder', 'value', 'link'})
    if not path.exists():
        return 'none', left
    whole = {encode(name, target): name for name in VALUES}
    return whole.get(path.read_bytes(), 'torn'), left


def is_opened(base: Path, target: str) -> bool:
    """Whether the file has lost its ACL but has the permissions of the ACL's mask."""
    path = base / 'folder' / 'value'
    return (
        target == 'link to attributes'
        and ACCESS not in os.listxattr(path)
        and path.stat().st_mode & 0o077 != 0
    )


def commit_twice(pipe: Connection, base: Path, target: str, is_named: bool) -> None:
    """Commit and report the error, each time the parent says so."""
    # Otherwise, strace tampers with what coverage.py does, too. It loses nothing: this
    # process is killed before it could report what it has measured.
    coverage = sys.modules.get('coverage')
    if coverage and (measuring := coverage.Coverage.current()):
        measuring.stop()
    # The Yama module may allow only a process's parents to trace it.
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
    if is_named:
        _replacement._O_TMPFILE = None
    warnings: list[str] = []
    sys.unraisablehook = lambda problem: warnings.append(str(problem.exc_value))
    store = atomic_store.open(prepare(base, target), format=FORMATS[target])
    pipe.send(None)
    for name in 'new', 'next':
        pipe.recv()
        store.value = VALUES[name]
        error = None
        os.access(MARK, os.F_OK)
        try:
            store.commit()
        except OSError as problem:
            error = problem.errno
        os.access(MARK, os.F_OK)
        pipe.send((error, warnings))
    pipe.recv()


def run(
    base: Path, target: str, is_named: bool, *tampering: str
) -> tuple[str, list[Commit], str]:
    """Return the value at first, the results of two commits, and the trace.

    A commit in which the child is killed has no result. Only the first one is traced.
    The rest is done here, because below strace, each system call takes long.
    """
    ours, theirs = fork.Pipe()
    child = fork.Process(
        target=commit_twice, args=(theirs, base, target, is_named), daemon=True
    )
    child.start()
    theirs.close()
    ours.recv()
    before, _ = look(base, target)
    descriptors = set(os.listdir(f'/proc/{child.pid}/fd'))

    def commit() -> Commit:
        ours.send('go')
        error, warnings = ours.recv()
        leaked = descriptors ^ set(os.listdir(f'/proc/{child.pid}/fd'))
        opened = is_opened(base, target)
        return Commit(error, leaked, warnings, opened, *look(base, target))

    commits = []
    strace = ['strace', '-p', str(child.pid), '-e', 'trace=!%memory', *tampering]
    with ours:
        with subprocess.Popen(strace, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            attached = tracer.stderr.readline()
            assert attached.endswith('attached\n'), attached
            with contextlib.suppress(EOFError):
                commits.append(commit())
                tracer.terminate()  # this detaches it
            trace = tracer.stderr.read()
        if commits:
            commits.append(commit())
    child.kill()
    child.join()
    return before, commits, trace


def calls(trace: str) -> list[tuple[str, int]]:
    """Return the system calls of the first commit, numbered as strace counts them."""
    numbers: Counter[str] = Counter()
    found = []
    marks = 0
    for call, arguments in re.findall(r'^(\w+)\((.*)', trace, re.MULTILINE):
        numbers[call] += 1
        if MARK in arguments:
            marks += 1
        elif marks == 1:
            found.append((call, numbers[call]))
    return found


def test_after_an_error_at_any_system_call_the_value_is_whole_and_nothing_is_left(
    base: Path, target: str, is_named: bool
) -> None:
    setting = base, target, is_named
    tally: Counter[str] = Counter()
    for call, number in calls(run(*setting)[2]):
        for error in [e for e in ERRORS if re.fullmatch(ERRORS[e], call)]:
            point = f'{call} number {number}: {error}'
            inject = f'inject={call}:error={error}:when={number}'
            before, commits, trace = run(*setting, '-e', inject)
            assert '(INJECTED)' in trace, point
            assert len(commits) == 2, point
            first, second = commits
            assert first.error in (None, getattr(errno, error)), point
            assert first.value == 'new' or (first.error and first.value == before), (
                point
            )
            assert (second.value, second.error) == ('next', None), point
            for commit in commits:
                assert not commit.left, point
                assert not commit.warnings, point
                assert not commit.is_opened or (call, error) == NO_ACLS, point
                # If strace makes close() fail, the descriptor stays open.
                assert not commit.leaked or call == 'close', point
            tally[first.value] += 1
    print(f'{tally.total()} errors: {dict(tally)}, 0 left behind')
    assert set(tally) == {before, 'new'}


def test_a_kill_at_any_system_call_leaves_a_whole_value_and_hardly_ever_a_file(
    base: Path, target: str, is_named: bool
) -> None:
    setting = base, target, is_named
    tally: Counter[str] = Counter()
    points: list[str] = []
    left: dict[str, list[str]] = {}
    for call, number in calls(run(*setting)[2]):
        point = f'{call} number {number}'
        points.append(point)
        inject = f'inject={call}:signal=KILL:when={number}'
        before, commits, trace = run(*setting, '-e', inject)
        assert not commits, point
        assert '+++ killed by SIGKILL +++' in trace, point
        value, others = look(base, target)
        assert value in (before, 'new'), point
        tally[value] += 1
        if others:
            left[point] = others
    print(f'{tally.total()} kills: {dict(tally)}, {len(left)} left behind')
    assert set(tally) == {before, 'new'}
    for (name,) in left.values():
        assert re.fullmatch(r'\..*atomic_store.*', name)
    if not is_named:
        # The file has a name only while it is synced: from its naming to the rename.
        naming, renaming = (
            next(point for point in points if point.startswith(call))
            for call in ('link', 'rename')
        )
        expected = points[points.index(naming) + 1 : points.index(renaming) + 1]
        assert list(left) == expected


def test_a_commit_syncs_the_file_once_when_it_has_a_name(
    base: Path, target: str, is_named: bool
) -> None:
    made = [call for call, _ in calls(run(base, target, is_named)[2])]
    steps = [
        step for call in made for step in re.findall('^(link|f.*sync|rename)', call)
    ]
    if is_named:  # it may be on FAT, which needs a second one after the rename
        assert steps == ['fsync', 'rename', 'fsync', 'fsync']
    else:
        assert steps == ['link', 'fsync', 'rename', 'fsync']
    assert made[made.index('fsync') + 1] == 'close'
