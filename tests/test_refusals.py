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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import pytest
from support import NOBODY, names, root

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
        'ENOSYS',
    ]
}
FULL = {'ENOSPC': errno.ENOSPC, 'EDQUOT': errno.EDQUOT}
# NFS may return it, though no program should see it (linux/errno.h). FUSE cannot.
ENOTSUPP = {'ENOTSUPP': 524}

ALICE, CAROL, DAVE = 70001, 70003, 70004
TEAM, ROOT = 70010, 0
# Not Alice: she could give herself any access. Not root, who commits.
PEOPLE: dict[str, tuple[int, list[int]]] = {
    'a stranger': (DAVE, []),
    'Carol': (CAROL, []),
    'one of the team': (DAVE, [TEAM]),
    'Carol, of the team': (CAROL, [TEAM]),
    "one of root's group": (DAVE, [ROOT]),
}

ACCESS, DEFAULT = 'system.posix_acl_access', 'system.posix_acl_default'
NO_ONE = 0xFFFFFFFF


def acl(carol: int, group: int, mask: int, others: int) -> bytes:
    """Pack an access control list with an entry for Carol (linux/posix_acl_xattr.h)."""
    entries = (
        (0x01, 6, NO_ONE),
        (0x02, carol, CAROL),
        (0x04, group, NO_ONE),
        (0x10, mask, NO_ONE),
        (0x20, others, NO_ONE),
    )
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in entries)


CAROL_MAY, CAROL_MAY_NOT = acl(4, 0, 4, 0), acl(0, 4, 4, 4)

# The files to replace, and what is done to prepare each.
FILES: dict[str, Callable[[Path], object]] = {
    '0640': lambda path: path.chmod(0o640),
    '0644': lambda path: path.chmod(0o644),
    '0604': lambda path: path.chmod(0o604),
    'Carol may': lambda path: os.setxattr(path, ACCESS, CAROL_MAY),
    'Carol may not': lambda path: os.setxattr(path, ACCESS, CAROL_MAY_NOT),
    # A new file then has a list, but this one does not.
    'to new ones Carol may': lambda path: os.setxattr(path.parent, DEFAULT, CAROL_MAY),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Two folders whose files others can see. They cannot enter pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for place in 'source', 'shown':
            Path(name, place).mkdir()
        yield Path(name)


def prepare(source: Path, file: str) -> Path:
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


def access(path: Path) -> set[str]:
    """Find out who may read or write the file: ask the kernel as each user."""
    found = set()
    groups = os.getgroups()
    for who, (uid, theirs) in PEOPLE.items():
        os.setgroups(theirs)
        os.setegid(NOBODY)
        os.seteuid(uid)
        try:
            for right, bit in ('read', os.R_OK), ('write', os.W_OK):
                if os.access(path, bit, effective_ids=True):
                    found.add(f'{who} ({right})')
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
    return found


class Case(NamedTuple):
    """A commit, during which something may have been refused."""

    name: str
    refused: int
    number: int
    path: Path
    before: set[str]
    error: OSError | None

    def seen(self) -> dict[str, object]:
        """Everything that can be observed, for a comparison."""
        return {
            'value': json.loads(self.path.read_text()),
            'left': os.listdir(self.path.parent),
            'opened to': access(self.path) - self.before,
            'error': self.error and (type(self.error), self.error.errno),
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


def commit(store: atomic_store.AtomicStore) -> OSError | None:
    store.value = 'new'
    try:
        store.commit()
    except OSError as error:
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
    'to open the folder': 'opendir ',
}
NEEDS = {
    'to create a file': 'create ',
    'to write': 'write ',
    'to sync the file': 'fsync ',
    'to close the file': 'flush ',
    'to rename the file': 'rename ',
}
CANNOT_SYNC_FOLDERS = {'EINVAL', 'EOPNOTSUPP', 'ENOSYS', 'EBADF'}

# ENOSYS means that there is no such operation at all. The kernel then skips fsync and
# flush, and calls mknod instead of create. libfuse 3.14 crashes if opendir returns it.
NO_ENOSYS = {'create ', r'create /\.', 'fsync ', 'flush ', 'opendir '}


def refused_commits(
    folder: Path, pattern: str, errors: dict[str, int], files: Iterable[str] = FILES
) -> Iterator[Case]:
    """Replace each file while the file system refuses the operation with each error."""
    operations = Passthrough(folder / 'source')
    with shown(operations, folder / 'shown'):
        for name, number in errors.items():
            if name == 'ENOSYS' and pattern in NO_ENOSYS:
                continue
            refused = 0
            for file in files:
                path = prepare(folder / 'source', file)
                before = access(path)
                store = atomic_store.open(folder / 'shown/state.json')
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


def is_hidden(case: Case, extra: str) -> bool:
    """Whether a file has a list, and the file system says that it has no attributes."""
    number = case.number
    return (
        ('to list' in extra or extra == 'listxattr')
        and number in (errno.EOPNOTSUPP, errno.ENOSYS)
        and ', Carol' in case.name
    )


@pytest.mark.parametrize('extra', EXTRAS)
def test_a_commit_goes_on_without_an_extra_and_opens_the_file_to_nobody(
    folder: Path, extra: str
) -> None:
    tally = Tally()
    for case in refused_commits(folder, EXTRAS[extra], ERRORS):
        if not is_hidden(case, extra):
            tally.check(case, case.success())
    tally.close(f'commits refused {extra}')


# On a full disk, the second name is refused like the first.
@pytest.mark.parametrize('extra', [e for e in EXTRAS if 'dot' not in e])
def test_a_full_disk_or_quota_is_an_error_even_for_an_extra(
    folder: Path, extra: str
) -> None:
    tally = Tally()
    value = 'new' if extra == 'to open the folder' else 'old'
    for case in refused_commits(folder, EXTRAS[extra], FULL):
        tally.check(case, case.failure(value) if case.refused else case.success())
    tally.close(f'commits on a full disk, refused {extra}')


@pytest.mark.parametrize('need', NEEDS)
def test_what_a_commit_needs_is_an_error_and_keeps_the_old_value(
    folder: Path, need: str
) -> None:
    tally = Tally()
    for case in refused_commits(folder, NEEDS[need], FULL | ERRORS):
        tally.check(case, case.failure())
    tally.close(f'commits refused {need}')


def test_a_folder_without_sync_is_no_error_but_a_failed_sync_is(
    folder: Path,
) -> None:
    tally = Tally()
    for case in refused_commits(folder, 'fsyncdir ', FULL | ERRORS):
        if case.name.split(',')[0] in CANNOT_SYNC_FOLDERS:
            tally.check(case, case.success())
        else:
            tally.check(case, case.failure('new'))
            if case.error is not None:
                assert 'already holds the new value' in case.error.__notes__[1]
    tally.close('commits refused to sync the folder')


def test_every_operation_of_a_commit_is_refused_in_some_test(folder: Path) -> None:
    operations = Passthrough(folder / 'source')
    asked = set()
    with shown(operations, folder / 'shown'):
        for file in FILES:
            prepare(folder / 'source', file)
            store = atomic_store.open(folder / 'shown/state.json')
            Path(operations.log).write_text('')
            assert commit(store) is None
            asked |= set(Path(operations.log).read_text().splitlines())
    patterns = [*(EXTRAS | NEEDS).values(), 'fsyncdir ']
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
    folder: Path, pattern: str, file: str, mode: int
) -> None:
    for case in refused_commits(folder, pattern, {'EIO': errno.EIO}, [file]):
        status = case.path.stat()
        assert stat.S_IMODE(status.st_mode) == mode
        owner = (0, 0) if pattern.startswith('chown') else (ALICE, TEAM)
        assert (status.st_uid, status.st_gid) == owner


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
    folder: Path, file: str
) -> None:
    with shown(RestlessFiles(folder / 'source'), folder / 'shown'):
        path = prepare(folder / 'source', file)
        store = atomic_store.open(folder / 'shown/state.json')
        assert commit(store) is None
    assert path.read_text() == '"new"'
    assert access(path) == set()
    assert path.stat().st_uid == ALICE


# Names


def test_if_a_name_with_a_dot_is_refused_one_without_is_used(
    folder: Path,
) -> None:
    operations = Passthrough(folder / 'source')
    with shown(operations, folder / 'shown'):
        store = atomic_store.open(folder / 'shown/state.json')
        with operations.refusing(r'create /\.', errno.EINVAL):
            assert commit(store) is None
    log = Path(operations.log).read_text()
    hidden, other = re.findall(r'^create /(\S+)', log, re.MULTILINE)
    assert re.fullmatch(r'\..*atomic_store.*', hidden)
    assert re.fullmatch(r'[^.].*atomic_store.*', other)
    assert max(len(hidden), len(other)) <= 32
    assert os.listdir(folder / 'source') == ['state.json']


def test_a_file_that_already_has_the_name_is_left_alone(
    folder: Path, temporary_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, open_file, taken = os.link, os.open, list[Path]()

    def take(name: str) -> None:
        if not taken:
            taken.append(Path(name))
            taken[0].write_text("somebody else's")

    def link_later(source: Any, name: Any, **kwargs: Any) -> None:
        take(name)
        link(source, name, **kwargs)

    def open_later(name: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_EXCL and flags & os.O_TMPFILE != os.O_TMPFILE:
            take(name)
        return open_file(name, flags, *args, **kwargs)

    store = atomic_store.open(folder / 'source/state.json')
    monkeypatch.setattr(os, 'link', link_later)
    monkeypatch.setattr(os, 'open', open_later)
    assert commit(store) is None
    (path,) = taken
    assert path.read_text() == "somebody else's"
    assert sorted(path.parent.iterdir()) == sorted([path, path.with_name('state.json')])


class EachNameIsTaken(Passthrough):
    """Another program always creates the file first."""

    @operation
    def create(self, path: str, mode: int, flags: int) -> int:
        Path(path).write_text("somebody else's")
        raise FileExistsError(errno.EEXIST, path)


def test_if_all_names_are_taken_that_is_an_error(folder: Path) -> None:
    operations = EachNameIsTaken(folder / 'source')
    with shown(operations, folder / 'shown'):
        path = prepare(folder / 'source', '0640')
        error = commit(atomic_store.open(folder / 'shown/state.json'))
    assert isinstance(error, FileExistsError)
    assert path.read_text() == '"old"'
    names = re.findall(
        r'^create /(\S+)', Path(operations.log).read_text(), re.MULTILINE
    )
    assert len(names) > 1
    for name in names:
        assert (path.with_name(name)).read_text() == "somebody else's"


class CreatesWhatItCannotOpen(Passthrough):
    """Create a file, but then return an error."""

    @operation
    def create(self, path: str, mode: int, flags: int) -> int:
        Path(path).touch()
        raise PermissionError(errno.EACCES, path)


def test_a_file_that_was_created_despite_an_error_is_removed(folder: Path) -> None:
    operations = CreatesWhatItCannotOpen(folder / 'source')
    with shown(operations, folder / 'shown'):
        path = prepare(folder / 'source', '0640')
        error = commit(atomic_store.open(folder / 'shown/state.json'))
    assert isinstance(error, PermissionError)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == '"old"'


# The last copy


class DeletesWhatIsInTheWay(Passthrough):
    """Fail like the kernel on an SMB mount before Linux 6.17."""

    @operation
    def rename(self, path: str, new: str) -> None:
        os.unlink(self.source + new)
        raise PermissionError(errno.EACCES, new)


class ShowsWhatItHasDeleted(DeletesWhatIsInTheWay):
    """Fail like such a mount while another program has the file open."""

    @operation
    def getattr(self, path: str, file: int | None) -> dict[str, int]:
        try:
            return self.status(path, file)
        except FileNotFoundError:
            if not path.endswith('/state.json'):
                raise
            return self.status(self.source, None) | {
                'st_mode': stat.S_IFREG | 0o644,
                'st_nlink': 0,
            }


@pytest.mark.parametrize('kind', [DeletesWhatIsInTheWay, ShowsWhatItHasDeleted])
def test_the_new_file_stays_if_the_old_one_is_gone(
    folder: Path, kind: type[Passthrough]
) -> None:
    with shown(kind(folder / 'source'), folder / 'shown'):
        prepare(folder / 'source', '0640')
        error = commit(atomic_store.open(folder / 'shown/state.json'))
    assert isinstance(error, PermissionError)
    (path,) = (folder / 'source').iterdir()
    assert path.read_text() == '"new"'
    assert access(path) <= {'one of the team (read)', 'Carol, of the team (read)'}
    first, *others = error.__notes__
    assert first == f'while committing {os.fspath(folder / "shown/state.json")!r}'
    assert str(folder / 'shown' / path.name) in '\n'.join(others)


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
    folder: Path, missed: str, times: int
) -> None:
    operations = Passthrough(folder / 'source')
    with shown(operations, folder / 'shown'):
        prepare(folder / 'source', '0644')
        with operations.refusing(f'{missed} /state.json', errno.ENOENT, times):
            store = atomic_store.open(folder / 'shown/state.json', 'default')
        assert operations.refused.value == times
        assert store.value == 'old'


def test_a_file_that_two_looks_miss_is_found_by_the_third_though_it_is_not_listed(
    folder: Path,
) -> None:
    operations = Passthrough(folder / 'source')
    with shown(operations, folder / 'shown'):
        prepare(folder / 'source', '0644')
        missed = '(open|getattr) /state.json|opendir /'
        # Each look makes two. Listing the folder would be the fifth: it is refused.
        with operations.refusing(missed, errno.ENOENT, times=5):
            store = atomic_store.open(folder / 'shown/state.json', 'default')
        assert store.value == 'old'


@pytest.mark.parametrize('times', [1, 2, 3])
def test_a_file_behind_a_link_that_seems_missing_is_looked_for_again(
    folder: Path, times: int
) -> None:
    operations = Passthrough(folder / 'source')
    (folder / 'link').symlink_to('shown/state.json')
    with shown(operations, folder / 'shown'):
        prepare(folder / 'source', '0644')
        with operations.refusing('(open|getattr) /state.json', errno.ENOENT, times):
            store = atomic_store.open(folder / 'link', 'default')
        assert operations.refused.value == times
        assert store.value == 'old'


@pytest.mark.parametrize('name', ['shown/state.json', 'link'])
@pytest.mark.parametrize('mode', [0o600, 0o640, 0o644])
@pytest.mark.parametrize('times', [(1, 0), (3, 0), (0, 1), (0, 3)])
def test_a_commit_keeps_the_metadata_of_a_file_that_seems_missing_for_a_moment(
    folder: Path, name: str, mode: int, times: tuple[int, int]
) -> None:
    """It seems missing at first, or after the value is written."""
    operations = Passthrough(folder / 'source')
    modes = []

    def dump(value: str, file: IO[str]) -> None:
        modes.append(os.fstat(file.fileno()).st_mode & 0o777)
        file.write(value)
        operations.left.value = times[1]

    (folder / 'link').symlink_to('shown/state.json')
    with shown(operations, folder / 'shown'):
        path = prepare(folder / 'source', '0640')
        path.chmod(mode)
        store = atomic_store.open(folder / name)
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
    folder: Path, missed: str
) -> None:
    operations = Passthrough(folder / 'source')
    with shown(operations, folder / 'shown'):
        prepare(folder / 'source', '0644')
        with (
            operations.refusing(f'{missed} /state.json', errno.ENOENT),
            pytest.raises(FileNotFoundError, match=r'state\.json'),
        ):
            start = time.monotonic()
            atomic_store.open(folder / 'shown/state.json', 'default')
        assert time.monotonic() - start > 1


def test_a_listed_file_that_always_seems_missing_is_not_replaced_by_a_new_one(
    folder: Path,
) -> None:
    operations = Passthrough(folder / 'source')
    with shown(operations, folder / 'shown'):
        path = prepare(folder / 'source', '0640')
        store = atomic_store.open(folder / 'shown/state.json')
        store.value = 'new'
        with (
            operations.refusing('getattr /state.json', errno.ENOENT),
            pytest.raises(FileNotFoundError, match=r'state\.json'),
        ):
            store.commit()
    assert path.read_text() == '"old"'
    assert names(folder / 'source') == ['state.json']


# FUSE has no files without a name, no links to them and no ENOTSUPP, and it cannot tell
# a commit's fstat from a look at the path. So here, functions of `os` refuse.


def always(*args: Any) -> bool:
    return True


def is_unnamed(path: Any, flags: int, *args: Any) -> bool:
    return flags & os.O_TMPFILE == os.O_TMPFILE


def is_folder(path: Any, flags: int, *args: Any) -> bool:
    return bool(flags & os.O_DIRECTORY) and not is_unnamed(path, flags)


CALLS: dict[str, tuple[str, Callable[..., bool]]] = {
    'listxattr': ('listxattr', always),
    'getxattr': ('getxattr', always),
    'setxattr': ('setxattr', always),
    'removexattr': ('removexattr', always),
    'fstat': ('fstat', always),
    'fchown': ('fchown', always),
    'fchmod': ('fchmod', always),
    'link': ('link', always),
    'open, without a name': ('open', is_unnamed),
    'open, of the folder': ('open', is_folder),
}


def commits_refused_by(
    call: str, folder: Path, errors: dict[str, int]
) -> Iterator[Case]:
    """Replace each file while this call fails with each error."""
    name, is_refused = CALLS[call]
    function, refused = getattr(os, name), list[object]()
    for error_name, number in errors.items():

        def refuse(*args: Any, number: int = number, **kwargs: Any) -> Any:
            if not is_refused(*args):
                return function(*args, **kwargs)
            refused.append(args)
            raise OSError(number, 'refused')

        for file in FILES:
            path = prepare(folder / 'shown', file)
            before = access(path)
            store = atomic_store.open(path)
            refused.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, name, refuse)
                error = commit(store)
            case = f'{error_name}, {file}'
            yield Case(case, len(refused), number, path, before, error)


@pytest.mark.parametrize('temporary_file', ['unnamed', 'copied'], indirect=True)
@pytest.mark.parametrize('call', CALLS)
def test_a_commit_with_an_unnamed_file_goes_on_without_an_extra(
    folder: Path, temporary_file: str, call: str
) -> None:
    tally, refused = Tally(), 0
    for case in commits_refused_by(call, folder, ENOTSUPP | ERRORS):
        refused += case.refused
        if not is_hidden(case, call):
            tally.check(case, case.success())
    assert refused
    tally.close(f'{temporary_file} file, {call}')


@pytest.mark.parametrize('temporary_file', ['unnamed', 'copied'], indirect=True)
@pytest.mark.parametrize('call', [c for c in CALLS if c != 'fstat'])
def test_a_full_disk_or_quota_is_an_error_even_with_an_unnamed_file(
    folder: Path, temporary_file: str, call: str
) -> None:
    tally = Tally()
    value = 'new' if call == 'open, of the folder' else 'old'
    for case in commits_refused_by(call, folder, FULL):
        tally.check(case, case.failure(value) if case.refused else case.success())
    tally.close(f'{temporary_file} file on a full disk, {call}')
