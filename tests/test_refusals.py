"""A commit fails only if the file system refuses to replace the file.

To replace a file, a commit must create, write, sync and rename one. Everything else is
an extra. If an extra is refused, with any error, the commit goes on without it. If that
would let more people in, the commit removes permissions. `pytest -s` shows the tally.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import pytest
from people import (
    ACCESS,
    ALICE,
    CAROL_MAY_NOT,
    CAROL_MAY_READ,
    DEFAULT,
    TEAM,
    who_may,
)
from support import names, root

import atomic_store

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)

from passthrough import LIST, LIST_KEPT_AS, Passthrough, operation, shown

pytestmark = root

ERRORS = {
    name: getattr(errno, name)
    for name in [
        'EPERM',
        'EACCES',
        'EINVAL',
        'ENODATA',
        'ERANGE',
        'E2BIG',
        'EBADF',
        'EROFS',
        'EIO',
        'EOPNOTSUPP',
        'ENOENT',
        'EOVERFLOW',
        'ESTALE',
        'EBUSY',
        'ETIMEDOUT',
        # An attribute does not fit, for example. If the disk is full, writing fails.
        'ENOSPC',
        'EDQUOT',
        'ENOSYS',  # the last: after it, the kernel asks no more
    ]
}


def let_carol_read_new_files(path: Path) -> None:
    """A new file then has a list, but this one does not."""
    path.chmod(0o640)  # in a list, 0o600 would give her nothing
    os.setxattr(path.parent, DEFAULT, CAROL_MAY_READ)


# The files to replace, and what is done to prepare each.
FILES: dict[str, Callable[[Path], object]] = {
    '0640': lambda path: path.chmod(0o640),
    '0644': lambda path: path.chmod(0o644),
    '0604': lambda path: path.chmod(0o604),
    'Carol may': lambda path: os.setxattr(path, ACCESS, CAROL_MAY_READ),
    'Carol may not': lambda path: os.setxattr(path, ACCESS, CAROL_MAY_NOT),
    'to new ones Carol may': let_carol_read_new_files,
}

# With each error, a commit replaces these: one without a list, one whose list keeps
# somebody out, and one whose new file gets a list. With a few errors, it replaces all:
# with one that says nothing, and with those that say that there are no attributes.
WITH_EACH_ERROR = '0640', 'Carol may not', 'to new ones Carol may'
WITH_ALL_FILES = 'EIO', 'EOPNOTSUPP', 'ENOSYS', 'ENOTSUPP'


def files(error: str) -> Iterable[str]:
    return FILES if error in WITH_ALL_FILES else WITH_EACH_ERROR


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder of two whose files others can see. They cannot enter pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for place in 'source', 'shown':
            Path(name, place).mkdir()
        yield Path(name)


@pytest.fixture
def operations(base: Path) -> Iterator[Passthrough]:
    """A file system that shows a file, and refuses what a test says."""
    operations = Passthrough(base / 'source')
    with shown(operations, base / 'shown'):
        a_file(base / 'source', '0640')
        yield operations


def a_file(source: Path, file: str) -> Path:
    """Make a file to replace, alone in its folder, and return its path."""
    for path in source.iterdir():
        path.unlink()
    for name in os.listxattr(source):
        os.removexattr(source, name)
    path = source / 'state.json'
    path.write_text('"old"')
    os.setxattr(path, 'user.note', b'kept')
    os.chown(path, ALICE, TEAM)
    path.chmod(0o600)
    FILES[file](path)
    return path


class Case(NamedTuple):
    """A commit, during which something was refused."""

    name: str
    number: int
    path: Path
    before: set[str]
    error: Exception | None

    def seen(self) -> dict[str, object]:
        """Everything that can be observed, for a comparison."""
        return {
            'value': json.loads(self.path.read_text()),
            'left': os.listdir(self.path.parent),
            'opened to': who_may([self.path]) - self.before,
            'error': self.error and (type(self.error), *self.error.args[:1]),
            'first note': getattr(self.error, '__notes__', [None])[0],
        }

    def success(self) -> dict[str, object]:
        return {
            'value': 'new',
            'left': ['state.json'],
            'opened to': set(),
            'error': None,
            'first note': None,
        }

    def failure(self, value: str = 'old') -> dict[str, object]:
        path = self.path.parent.with_name('shown') / self.path.name
        return self.success() | {
            'value': value,
            'error': (type(OSError(self.number, '')), self.number),
            'first note': f'while committing {os.fspath(path)!r}',
        }


def commit(store: atomic_store.AtomicStore) -> Exception | None:
    store.value = 'new'
    try:
        store.commit()
    except Exception as error:  # noqa: BLE001 - any of them is to be compared
        return error
    return None


def check(
    what: str, cases: Iterable[Case], expected: Callable[[Case], dict[str, object]]
) -> None:
    """Check that each commit did what it should, and show how many did."""
    right, wrong = 0, []
    for case in cases:
        should = expected(case)
        odd = {key: seen for key, seen in case.seen().items() if seen != should[key]}
        if odd:
            wrong.append(f'{case.name}: {odd}')
        right += not odd
    print(f'{what}: {right} right, {len(wrong)} wrong')
    assert right
    assert not wrong, '\n'.join(wrong)


# What a commit asks of a FUSE file system without needing it.
EXTRAS = {
    'to list the attributes of the old file': 'listxattr /state.json',
    'to list the attributes of the new file': r'listxattr /\S*atomic_store',
    'to read an attribute': r'getxattr \S+ user.note',
    'to read an access control list': rf'getxattr /state.json {ACCESS}',
    'to set an attribute': r'setxattr \S+ user.note',
    'to set an access control list': rf'setxattr \S+ {ACCESS}',
    'to remove an access control list': 'removexattr ',
    'to set owner and group': 'chown ',
    'to set permissions': 'chmod ',
    'a name that begins with a dot': r'create /\.',
}
NEEDS = {
    'to create a file': 'create ',
    'to write': 'write ',
    'to sync the file': r'fsync /\S*atomic_store',
    'to close the file': 'flush ',
    'to rename the file': 'rename ',
}
# After the rename, it syncs the file again, and its folder.
SYNCS = {
    'to sync the new file again': 'fsync /state.json',
    'to sync the folder': 'fsyncdir ',
    'to open the new file again': 'open /state.json',
    'to open the folder': 'opendir ',
}
CANNOT_SYNC = {'EINVAL', 'EOPNOTSUPP', 'ENOSYS', 'EBADF'}
SCARCE = {'ENOSPC', 'EDQUOT'}

# ENOSYS means that there is no such operation at all. The kernel then skips fsync and
# flush, and calls mknod instead of create. libfuse 3.14 crashes if opendir returns it.
NO_ENOSYS = 'create ', 'fsync ', 'flush ', 'open ', 'opendir '


def refused_commits(
    base: Path,
    operations: Passthrough,
    pattern: str,
    errors: Mapping[str, int] = ERRORS,
    file: str | None = None,
) -> Iterator[Case]:
    """Replace files while the file system refuses the operation with each error."""
    for name, number in errors.items():
        if name == 'ENOSYS' and pattern.startswith(NO_ENOSYS):
            continue
        refused = 0
        for each in [file] if file else files(name):
            path = a_file(base / 'source', each)
            before = who_may([path])
            store = atomic_store.open(base / 'shown/state.json')
            with operations.refusing(pattern, number):
                error = commit(store)
            refused += operations.refused.value
            yield Case(f'{name}, {each}', number, path, before, error)
        assert refused, f'not asked: {pattern}'


def is_hidden(case: Case, extra: str) -> bool:
    """Whether there is a list, and the file system says that there are no attributes."""
    return (
        extra.startswith(('to list', 'listxattr'))
        and case.number in (errno.EOPNOTSUPP, errno.ENOSYS)
        and 'Carol' in case.name
    )


@pytest.mark.parametrize('extra', EXTRAS)
def test_a_commit_goes_on_without_an_extra_and_opens_the_file_to_nobody(
    base: Path, operations: Passthrough, extra: str
) -> None:
    cases = refused_commits(base, operations, EXTRAS[extra])
    visible = (case for case in cases if not is_hidden(case, extra))
    check(f'commits refused {extra}', visible, Case.success)


@pytest.mark.parametrize('need', NEEDS)
def test_what_a_commit_needs_is_an_error_and_keeps_the_old_value(
    base: Path, operations: Passthrough, need: str
) -> None:
    cases = refused_commits(base, operations, NEEDS[need], file='Carol may')
    check(f'commits refused {need}', cases, Case.failure)


@pytest.mark.parametrize('sync', SYNCS)
def test_what_cannot_be_synced_again_is_no_error_but_a_failed_sync_is(
    base: Path, operations: Passthrough, sync: str
) -> None:
    def expected(case: Case) -> dict[str, object]:
        error = case.name.split(',')[0]
        if error not in SCARCE and (error in CANNOT_SYNC or 'to open' in sync):
            return case.success()
        hint = getattr(case.error, '__notes__', ['', ''])[1]
        assert hint.startswith('the file already holds the new value')
        return case.failure('new')

    cases = refused_commits(base, operations, SYNCS[sync], file='Carol may')
    check(f'commits refused {sync}', cases, expected)


def test_every_operation_of_a_commit_is_refused_in_some_test(
    base: Path, operations: Passthrough
) -> None:
    asked = set()
    for file in FILES:
        a_file(base / 'source', file)
        store = atomic_store.open(base / 'shown/state.json')
        operations.is_logging.value = 1
        assert commit(store) is None
        operations.is_logging.value = 0
        asked |= set(Path(operations.log).read_text().splitlines())
    patterns = (EXTRAS | NEEDS | SYNCS).values()
    others = {a for a in asked if not any(re.match(p, a) for p in patterns)}
    # The kernel looks up each path with getattr, and reads file capabilities before a
    # write. Nobody sees an error of release (fuse.h in libfuse).
    known = 'getattr |getxattr .* security.capability|release |releasedir '
    assert {other for other in others if not re.match(known, other)} == set()


# Exactly which permissions are removed


@pytest.mark.parametrize(
    ('pattern', 'file', 'mode'),
    [
        (EXTRAS['to list the attributes of the old file'], '0644', 0o644),
        (EXTRAS['to list the attributes of the old file'], '0640', 0o600),
        (EXTRAS['to list the attributes of the old file'], 'Carol may', 0o640),
        ('(listxattr|getxattr) /state.json', 'Carol may', 0o600),
        (EXTRAS['to read an access control list'], 'Carol may', 0o600),
        (EXTRAS['to set an access control list'], 'Carol may', 0o600),
        (EXTRAS['to set an access control list'], 'Carol may not', 0o600),
        (EXTRAS['to read an attribute'], '0640', 0o640),
        (EXTRAS['to set an attribute'], '0640', 0o640),
        (EXTRAS['to set permissions'], '0644', 0o600),
    ],
)
def test_no_more_permissions_are_removed_than_necessary(
    base: Path, operations: Passthrough, pattern: str, file: str, mode: int
) -> None:
    (case,) = refused_commits(base, operations, pattern, {'EIO': errno.EIO}, file)
    status = case.path.stat()
    assert stat.S_IMODE(status.st_mode) == mode
    assert (status.st_uid, status.st_gid) == (ALICE, TEAM)


# Access control lists of other kinds

NOT_CAROL = b'644, but not Carol'


class ListsThatChmodDrops(Passthrough):
    """Chmod drops a list, and a list leaves the mode: one of them cannot be kept."""

    @operation
    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode & 0o7777)
        if LIST_KEPT_AS in os.listxattr(path):
            os.removexattr(path, LIST_KEPT_AS)


class ListsWithAMode(ListsThatChmodDrops):
    """A list sets the mode, and chmod drops it (ZFS, aclmode=discard)."""

    @operation
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(path, name.replace(LIST, LIST_KEPT_AS), value, flags)
        if name == LIST:
            os.chmod(path, int(value[:3], 8))


class ListsThatChmodReplaces(Passthrough):
    """After chmod, a list says no more than the mode."""

    start = b''

    @operation
    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode & 0o7777)
        if LIST_KEPT_AS in os.listxattr(path):
            os.setxattr(path, LIST_KEPT_AS, self.start + f'{mode & 0o777:o}'.encode())


class ListsThatChmodReplacesByGreaterOnes(ListsThatChmodReplaces):
    start = b'mode '


@pytest.mark.parametrize(
    ('kind', 'refused', 'mode', 'becomes'),
    [
        (Passthrough, 'nothing', 0o644, NOT_CAROL),
        (ListsWithAMode, 'nothing', 0o644, NOT_CAROL),
        (ListsThatChmodDrops, 'nothing', 0o600, None),
        (ListsThatChmodReplaces, 'nothing', 0o600, b'600'),
        (ListsThatChmodReplacesByGreaterOnes, 'nothing', 0o600, b'mode 600'),
        *(
            (kind, rf'{operation} \S+ {LIST}', 0o600, None)
            for kind in (Passthrough, ListsWithAMode)
            for operation in ('getxattr', 'setxattr')
        ),
    ],
)
def test_a_list_of_another_kind_that_cannot_be_kept_closes_the_file(
    base: Path, kind: type[Passthrough], refused: str, mode: int, becomes: bytes | None
) -> None:
    operations = kind(base / 'source')
    path = a_file(base / 'source', '0644')
    os.setxattr(path, LIST_KEPT_AS, NOT_CAROL)
    with shown(operations, base / 'shown'):
        store = atomic_store.open(base / 'shown/state.json')
        with operations.refusing(refused, errno.EIO):
            assert commit(store) is None
    assert path.read_text() == '"new"'
    assert stat.S_IMODE(path.stat().st_mode) == mode
    kept = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    assert kept.pop('user.note') == b'kept'
    assert kept == ({LIST_KEPT_AS: becomes} if becomes else {})


# Names


class CreatesWhatItCannotOpen(Passthrough):
    """Create a file, but then return an error."""

    @operation
    def create(self, path: str, mode: int, flags: int) -> int:
        Path(path).touch()
        raise PermissionError(errno.EACCES, path)


def test_a_file_that_was_created_despite_an_error_is_removed(base: Path) -> None:
    operations = CreatesWhatItCannotOpen(base / 'source')
    with shown(operations, base / 'shown'):
        path = a_file(base / 'source', '0640')
        error = commit(atomic_store.open(base / 'shown/state.json'))
    assert isinstance(error, PermissionError)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == '"old"'


# Loading


# The file systems that do so while the file is replaced.
MISSED = pytest.mark.parametrize(
    'missed',
    [
        pytest.param('open', id='libfuse'),  # its issue 637
        pytest.param('(open|getattr)', id='ntfs-3g'),
    ],
)


@MISSED
@pytest.mark.parametrize('name', ['shown/state.json', 'link'])
@pytest.mark.parametrize('times', [1, 2, 10])
def test_a_file_that_seems_missing_for_a_moment_is_looked_for_again(
    base: Path, operations: Passthrough, name: str, missed: str, times: int
) -> None:
    (base / 'link').symlink_to('shown/state.json')
    with operations.refusing(f'{missed} /state.json', errno.ENOENT, times):
        store = atomic_store.open(base / name, 'default')
    assert operations.refused.value == times
    assert store.value == 'old'


def test_a_file_that_two_looks_miss_is_found_by_the_third_though_it_is_not_listed(
    base: Path, operations: Passthrough
) -> None:
    missed = '(open|getattr) /state.json|opendir /'
    # Each look makes two. Listing the folder would be the fifth: it is refused.
    with operations.refusing(missed, errno.ENOENT, times=5):
        store = atomic_store.open(base / 'shown/state.json', 'default')
    assert store.value == 'old'


@pytest.mark.parametrize('name', ['shown/state.json', 'link'])
@pytest.mark.parametrize('mode', [0o600, 0o640, 0o644])
@pytest.mark.parametrize('times', [(1, 0), (3, 0), (0, 1), (0, 3)])
def test_a_commit_keeps_the_metadata_of_a_file_that_seems_missing_for_a_moment(
    base: Path, operations: Passthrough, name: str, mode: int, times: tuple[int, int]
) -> None:
    """It seems missing at first, or after the value is written."""
    modes = []

    def dump(value: str, file: IO[str]) -> None:
        modes.append(os.fstat(file.fileno()).st_mode & 0o777)
        file.write(value)
        operations.left.value = times[1]

    (base / 'link').symlink_to('shown/state.json')
    path = base / 'source/state.json'
    path.chmod(mode)
    store = atomic_store.open(base / name)
    store.format = SimpleNamespace(dump=dump, load=None)
    store.value = 'new'
    with operations.refusing('getattr /state.json', errno.ENOENT, times[0]):
        store.commit()
    assert operations.refused.value == sum(times)
    assert path.read_text() == 'new'
    assert modes == [0o600]
    assert path.stat().st_mode & 0o777 == mode


@MISSED
def test_a_listed_file_that_always_seems_missing_is_an_error_and_not_the_default(
    base: Path, operations: Passthrough, missed: str
) -> None:
    start = time.monotonic()
    with (
        operations.refusing(f'{missed} /state.json', errno.ENOENT),
        pytest.raises(FileNotFoundError, match=r'state\.json'),
    ):
        atomic_store.open(base / 'shown/state.json', 'default')
    assert time.monotonic() - start > 1


def test_a_listed_file_that_always_seems_missing_is_not_replaced_by_a_new_one(
    base: Path, operations: Passthrough
) -> None:
    store = atomic_store.open(base / 'shown/state.json')
    store.value = 'new'
    with (
        operations.refusing('getattr /state.json', errno.ENOENT),
        pytest.raises(FileNotFoundError, match=r'state\.json'),
    ):
        store.commit()
    assert (base / 'source/state.json').read_text() == '"old"'
    assert names(base / 'source') == ['state.json']


# FUSE has no files without a name and no ENOTSUPP, and it cannot tell a commit's fstat from
# a look at the path. So here, functions of `os` refuse. (test_temporary: link and open.)


CALLS = [
    'listxattr',
    'getxattr',
    'setxattr',
    'removexattr',
    'fstat',
    'stat',
    'fchown',
    'fchmod',
]

# NFS may return ENOTSUPP, though no program should see it (linux/errno.h). Other types
# come from Python itself, from modules that replace its functions, or from a bug.
ANY_ERRORS: dict[str, Exception] = {
    name: OSError(number, 'refused')
    for name, number in {**ERRORS, 'ENOTSUPP': 524}.items()
} | {
    type(error).__name__: error
    for error in (
        struct.error('refused'),
        AttributeError('refused'),
        MemoryError('refused'),
        NotImplementedError('refused'),
        RuntimeError('refused'),
        TypeError('refused'),
        ValueError('refused'),
    )
}


def commits_refused_by(call: str, base: Path) -> Iterator[Case]:
    """Replace files while this call fails with each error."""
    function, refused = getattr(os, call), list[object]()
    for name, refusal in ANY_ERRORS.items():

        def refuse(*args: Any, refusal: Exception = refusal, **kwargs: Any) -> Any:
            if call == 'stat' and 'atomic_store-' not in str(args[0]):
                return function(*args, **kwargs)  # it is not the temporary file
            refused.append(args)
            raise refusal

        for file in files(name):
            path = a_file(base / 'shown', file)
            before = who_may([path])
            store = atomic_store.open(path)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, call, refuse)
                error = commit(store)
            number = getattr(refusal, 'errno', 0)
            yield Case(f'{name}, {file}', number, path, before, error)
    assert refused


@pytest.mark.parametrize(
    ('temporary_file', 'call'),
    [
        *(('unnamed', call) for call in CALLS),
        # A copy has a name, which nobody checks.
        *(('copied', call) for call in CALLS if call != 'stat'),
    ],
    indirect=['temporary_file'],
)
def test_a_commit_with_an_unnamed_file_goes_on_without_an_extra(
    base: Path, temporary_file: str, call: str
) -> None:
    cases = commits_refused_by(call, base)
    visible = (case for case in cases if not is_hidden(case, call))
    check(f'{temporary_file} file, {call}', visible, Case.success)
