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

from passthrough import Passthrough, operation, shown

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
    """A commit, during which something may have been refused."""

    name: str
    refused: int
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


class Tally:
    """A count of the commits that did what they should, and a list of the others."""

    def __init__(self) -> None:
        self.right, self.wrong = 0, list[str]()

    def check(self, case: Case, expected: dict[str, object]) -> None:
        seen = case.seen()
        if seen == expected:
            self.right += 1
        else:
            odd = {
                what: found for what, found in seen.items() if found != expected[what]
            }
            self.wrong.append(f'{case.name}: {odd}')

    def close(self, what: str) -> None:
        print(f'{what}: {self.right} right, {len(self.wrong)} wrong')
        assert self.right
        assert not self.wrong, '\n'.join(self.wrong)


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
    pattern: str,
    errors: Mapping[str, int],
    files: Callable[[str], Iterable[str]] = files,
) -> Iterator[Case]:
    """Replace files while the file system refuses the operation with each error."""
    operations = Passthrough(base / 'source')
    with shown(operations, base / 'shown'):
        for name, number in errors.items():
            if name == 'ENOSYS' and pattern.startswith(NO_ENOSYS):
                continue
            refused = 0
            for file in files(name):
                path = a_file(base / 'source', file)
                before = who_may([path])
                store = atomic_store.open(base / 'shown/state.json')
                with operations.refusing(pattern, number):
                    error = commit(store)
                refused += operations.refused.value
                yield Case(
                    f'{name}, {file}',
                    operations.refused.value,
                    number,
                    path,
                    before,
                    error,
                )
            assert refused, f'not asked: {pattern}'


def only(file: str) -> Callable[[str], list[str]]:
    return lambda error: [file]


def is_hidden(case: Case, extra: str) -> bool:
    """Whether there is a list, and the file system says that there are no attributes."""
    return (
        ('to list' in extra or extra == 'listxattr')
        and case.number in (errno.EOPNOTSUPP, errno.ENOSYS)
        and 'Carol' in case.name
    )


@pytest.mark.parametrize('extra', EXTRAS)
def test_a_commit_goes_on_without_an_extra_and_opens_the_file_to_nobody(
    base: Path, extra: str
) -> None:
    tally = Tally()
    for case in refused_commits(base, EXTRAS[extra], ERRORS):
        if not is_hidden(case, extra):
            tally.check(case, case.success())
    tally.close(f'commits refused {extra}')


@pytest.mark.parametrize('need', NEEDS)
def test_what_a_commit_needs_is_an_error_and_keeps_the_old_value(
    base: Path, need: str
) -> None:
    tally = Tally()
    for case in refused_commits(base, NEEDS[need], ERRORS, only('Carol may')):
        tally.check(case, case.failure())
    tally.close(f'commits refused {need}')


@pytest.mark.parametrize('sync', SYNCS)
def test_what_cannot_be_synced_again_is_no_error_but_a_failed_sync_is(
    base: Path, sync: str
) -> None:
    tally = Tally()
    for case in refused_commits(base, SYNCS[sync], ERRORS, only('Carol may')):
        error = case.name.split(',')[0]
        if error in SCARCE or not (error in CANNOT_SYNC or 'to open' in sync):
            tally.check(case, case.failure('new'))
            hint = getattr(case.error, '__notes__', ['', ''])[1]
            assert hint.startswith('the file already holds the new value')
        else:
            tally.check(case, case.success())
    tally.close(f'commits refused {sync}')


def test_every_operation_of_a_commit_is_refused_in_some_test(base: Path) -> None:
    operations = Passthrough(base / 'source')
    asked = set()
    with shown(operations, base / 'shown'):
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
        (EXTRAS['to set owner and group'], '0644', 0o644),
        (EXTRAS['to set owner and group'], '0640', 0o600),
        (EXTRAS['to set owner and group'], '0604', 0o600),
        (EXTRAS['to set permissions'], '0644', 0o600),
    ],
)
def test_no_more_permissions_are_removed_than_necessary(
    base: Path, pattern: str, file: str, mode: int
) -> None:
    for case in refused_commits(base, pattern, {'EIO': errno.EIO}, only(file)):
        status = case.path.stat()
        assert stat.S_IMODE(status.st_mode) == mode
        owner = (0, 0) if pattern.startswith('chown') else (ALICE, TEAM)
        assert (status.st_uid, status.st_gid) == owner


# Access control lists of other kinds

LIST = 'system.nfs4_acl'
NOT_CAROL = b'644, but not Carol'


class OtherLists(Passthrough):
    """Lists like those of NFS and ZFS, kept where the real file system can.

    The kernel knows nothing of them: what they say is up to the file system.
    """

    is_kept_by_chmod = True

    @operation
    def listxattr(self, path: str) -> list[str]:
        return [name.replace('user.list', LIST) for name in os.listxattr(path)]

    @operation
    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(path, name.replace(LIST, 'user.list'))

    @operation
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(path, name.replace(LIST, 'user.list'), value, flags)

    @operation
    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(path, name.replace(LIST, 'user.list'))

    @operation
    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode & 0o7777)
        if not self.is_kept_by_chmod and 'user.list' in os.listxattr(path):
            os.removexattr(path, 'user.list')


class ListsWithAMode(OtherLists):
    """A list sets the mode, and chmod drops it (ZFS, aclmode=discard)."""

    is_kept_by_chmod = False

    @operation
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        os.setxattr(path, name.replace(LIST, 'user.list'), value, flags)
        if name == LIST:
            os.chmod(path, int(value[:3], 8))


class ListsThatChmodDrops(OtherLists):
    """Chmod drops a list, and a list leaves the mode: one of them cannot be kept."""

    is_kept_by_chmod = False


class ListsThatChmodReplaces(OtherLists):
    """After chmod, a list says no more than the mode."""

    @operation
    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode & 0o7777)
        if 'user.list' in os.listxattr(path):
            os.setxattr(path, 'user.list', f'{mode & 0o777:o}'.encode())


@pytest.mark.parametrize(
    ('kind', 'refused', 'mode', 'becomes'),
    [
        (OtherLists, 'nothing', 0o644, NOT_CAROL),
        (ListsWithAMode, 'nothing', 0o644, NOT_CAROL),
        (ListsThatChmodDrops, 'nothing', 0o600, None),
        (ListsThatChmodReplaces, 'nothing', 0o600, b'600'),
        *(
            (kind, rf'{operation} \S+ {LIST}', 0o600, None)
            for kind in (OtherLists, ListsWithAMode)
            for operation in ('getxattr', 'setxattr')
        ),
    ],
)
def test_a_list_of_another_kind_that_cannot_be_kept_closes_the_file(
    base: Path, kind: type[Passthrough], refused: str, mode: int, becomes: bytes | None
) -> None:
    operations = kind(base / 'source')
    path = a_file(base / 'source', '0644')
    os.setxattr(path, 'user.list', NOT_CAROL)
    with shown(operations, base / 'shown'):
        store = atomic_store.open(base / 'shown/state.json')
        with operations.refusing(refused, errno.EIO):
            assert commit(store) is None
    assert path.read_text() == '"new"'
    assert stat.S_IMODE(path.stat().st_mode) == mode
    kept = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    assert kept.pop('user.note') == b'kept'
    assert kept == ({'user.list': becomes} if becomes else {})


class RestlessFiles(Passthrough):
    """Files whose status changes between any two looks."""

    looks = 0

    @operation
    def getattr(self, path: str, file: int | None) -> dict[str, int]:
        self.looks = min(self.looks + 1, 1000)  # ends, in case a commit waits for that
        status = self.status(path, file)
        return status | {'st_ctime': status['st_ctime'] + self.looks}


@pytest.mark.parametrize('file', FILES)
def test_a_file_that_keeps_changing_is_closed_to_all_but_its_owner(
    base: Path, file: str
) -> None:
    with shown(RestlessFiles(base / 'source'), base / 'shown'):
        path = a_file(base / 'source', file)
        store = atomic_store.open(base / 'shown/state.json')
        assert commit(store) is None
    assert path.read_text() == '"new"'
    assert who_may([path]) == set()
    assert path.stat().st_uid == ALICE


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
@pytest.mark.parametrize('times', [1, 2, 10])
def test_a_file_that_seems_missing_for_a_moment_is_looked_for_again(
    base: Path, missed: str, times: int
) -> None:
    operations = Passthrough(base / 'source')
    with shown(operations, base / 'shown'):
        a_file(base / 'source', '0644')
        with operations.refusing(f'{missed} /state.json', errno.ENOENT, times):
            store = atomic_store.open(base / 'shown/state.json', 'default')
        assert operations.refused.value == times
        assert store.value == 'old'


def test_a_file_that_two_looks_miss_is_found_by_the_third_though_it_is_not_listed(
    base: Path,
) -> None:
    operations = Passthrough(base / 'source')
    with shown(operations, base / 'shown'):
        a_file(base / 'source', '0644')
        missed = '(open|getattr) /state.json|opendir /'
        # Each look makes two. Listing the folder would be the fifth: it is refused.
        with operations.refusing(missed, errno.ENOENT, times=5):
            store = atomic_store.open(base / 'shown/state.json', 'default')
        assert store.value == 'old'


@pytest.mark.parametrize('times', [1, 2, 3])
def test_a_file_behind_a_link_that_seems_missing_is_looked_for_again(
    base: Path, times: int
) -> None:
    operations = Passthrough(base / 'source')
    (base / 'link').symlink_to('shown/state.json')
    with shown(operations, base / 'shown'):
        a_file(base / 'source', '0644')
        with operations.refusing('(open|getattr) /state.json', errno.ENOENT, times):
            store = atomic_store.open(base / 'link', 'default')
        assert operations.refused.value == times
        assert store.value == 'old'


@pytest.mark.parametrize('name', ['shown/state.json', 'link'])
@pytest.mark.parametrize('mode', [0o600, 0o640, 0o644])
@pytest.mark.parametrize('times', [(1, 0), (3, 0), (0, 1), (0, 3)])
def test_a_commit_keeps_the_metadata_of_a_file_that_seems_missing_for_a_moment(
    base: Path, name: str, mode: int, times: tuple[int, int]
) -> None:
    """It seems missing at first, or after the value is written."""
    operations = Passthrough(base / 'source')
    modes = []

    def dump(value: str, file: IO[str]) -> None:
        modes.append(os.fstat(file.fileno()).st_mode & 0o777)
        file.write(value)
        operations.left.value = times[1]

    (base / 'link').symlink_to('shown/state.json')
    with shown(operations, base / 'shown'):
        path = a_file(base / 'source', '0640')
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
    base: Path, missed: str
) -> None:
    operations = Passthrough(base / 'source')
    with shown(operations, base / 'shown'):
        a_file(base / 'source', '0644')
        with (
            operations.refusing(f'{missed} /state.json', errno.ENOENT),
            pytest.raises(FileNotFoundError, match=r'state\.json'),
        ):
            start = time.monotonic()
            atomic_store.open(base / 'shown/state.json', 'default')
        assert time.monotonic() - start > 1


def test_a_listed_file_that_always_seems_missing_is_not_replaced_by_a_new_one(
    base: Path,
) -> None:
    operations = Passthrough(base / 'source')
    with shown(operations, base / 'shown'):
        path = a_file(base / 'source', '0640')
        store = atomic_store.open(base / 'shown/state.json')
        store.value = 'new'
        with (
            operations.refusing('getattr /state.json', errno.ENOENT),
            pytest.raises(FileNotFoundError, match=r'state\.json'),
        ):
            store.commit()
    assert path.read_text() == '"old"'
    assert names(base / 'source') == ['state.json']


# FUSE has no files without a name and no ENOTSUPP, and it cannot tell a commit's fstat from
# a look at the path. So here, functions of `os` refuse. (test_temporary: link and open.)


def always(*args: Any) -> bool:
    return True


def is_temporary(path: Any) -> bool:
    return 'atomic_store-' in str(path)


CALLS: dict[str, tuple[str, Callable[..., bool]]] = {
    'listxattr': ('listxattr', always),
    'getxattr': ('getxattr', always),
    'setxattr': ('setxattr', always),
    'removexattr': ('removexattr', always),
    'fstat': ('fstat', always),
    'stat, of the temporary file': ('stat', is_temporary),
    'fchown': ('fchown', always),
    'fchmod': ('fchmod', always),
}

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
    name, is_refused = CALLS[call]
    function, refused = getattr(os, name), list[object]()
    for error_name, refusal in ANY_ERRORS.items():

        def refuse(*args: Any, refusal: Exception = refusal, **kwargs: Any) -> Any:
            if not is_refused(*args):
                return function(*args, **kwargs)
            refused.append(args)
            raise refusal

        for file in files(error_name):
            path = a_file(base / 'shown', file)
            before = who_may([path])
            store = atomic_store.open(path)
            refused.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, name, refuse)
                error = commit(store)
            case, number = f'{error_name}, {file}', getattr(refusal, 'errno', 0)
            yield Case(case, len(refused), number, path, before, error)


@pytest.mark.parametrize(
    ('temporary_file', 'call'),
    [
        *(('unnamed', call) for call in CALLS),
        # A copy has a name, which nobody checks.
        *(('copied', call) for call in CALLS if not call.startswith('stat')),
    ],
    indirect=['temporary_file'],
)
def test_a_commit_with_an_unnamed_file_goes_on_without_an_extra(
    base: Path, temporary_file: str, call: str
) -> None:
    tally, refused = Tally(), 0
    for case in commits_refused_by(call, base):
        refused += case.refused
        if not is_hidden(case, call):
            tally.check(case, case.success())
    assert refused
    tally.close(f'{temporary_file} file, {call}')
