"""Whatever a file system refuses beside replacing the file costs no commit.

To replace a file takes creating, writing, syncing and renaming one. All else is an extra:
where it is refused, with whichever error, a commit goes on without it, and where that
would open the file to somebody, closes it further. `pytest -s` shows the tally.
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
from support import NOBODY, root

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
# What NFS may answer, and no program should see (linux/errno.h). FUSE cannot.
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

# The files that are replaced, by what is done to each.
FILES: dict[str, Callable[[Path], object]] = {
    '0640': lambda path: path.chmod(0o640),
    '0644': lambda path: path.chmod(0o644),
    '0604': lambda path: path.chmod(0o604),
    'Carol may': lambda path: os.setxattr(path, ACCESS, CAROL_MAY),
    'Carol may not': lambda path: os.setxattr(path, ACCESS, CAROL_MAY_NOT),
    # So that a new file has a list, and this one has not.
    'to new ones Carol may': lambda path: os.setxattr(path.parent, DEFAULT, CAROL_MAY),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Two folders, whose files others can see; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for place in 'source', 'shown':
            Path(name, place).mkdir()
        yield Path(name)


def prepare(source: Path, file: str) -> Path:
    """Make a file to be replaced, alone in its folder, and return its path."""
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
    """Find out who may read or write the file, by asking the kernel as each of them."""
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
    """A commit that may have met with a refusal."""

    name: str
    refused: int
    number: int
    path: Path
    before: set[str]
    error: OSError | None

    def seen(self) -> dict[str, object]:
        """What there is to be seen, in a form that can be compared."""
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
    """Which commits did what they should."""

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


# What a commit asks of a FUSE file system beside what it cannot do without.
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

# ENOSYS says that there is no such operation at all. The kernel then does without fsync
# and flush, and asks for mknod in place of create. libfuse 3.14 crashes if it comes from
# opendir.
NO_ENOSYS = {'create ', r'create /\.', 'fsync ', 'flush ', 'opendir '}


def refused_commits(
    folder: Path, pattern: str, errors: dict[str, int], files: Iterable[str] = FILES
) -> Iterator[Case]:
    """Commit over each file while the file system refuses this with each error."""
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


# With a full disk, the second name is refused like the first.
@pytest.mark.parametrize('extra', [e for e in EXTRAS if 'dot' not in e])
def test_a_full_disk_or_quota_is_an_error_of_an_extra_too(
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


def test_a_folder_that_cannot_be_synced_is_no_error_and_one_that_fails_to_is(
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


def test_a_commit_asks_for_nothing_that_is_not_refused_here(folder: Path) -> None:
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
    # Each path is looked up by getattr, the kernel asks for file capabilities by itself
    # (before a write), and an error of releasing reaches nobody (fuse.h in libfuse).
    known = 'getattr |getxattr .* security.capability|release |releasedir '
    assert {other for other in others if not re.match(known, other)} == set()


# What exactly a file is closed to


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
def test_what_cannot_be_kept_closes_the_file_no_further_than_it_must(
    folder: Path, pattern: str, file: str, mode: int
) -> None:
    for case in refused_commits(folder, pattern, {'EIO': errno.EIO}, [file]):
        status = case.path.stat()
        assert stat.S_IMODE(status.st_mode) == mode
        owner = (0, 0) if pattern.startswith('chown') else (ALICE, TEAM)
        assert (status.st_uid, status.st_gid) == owner


class RestlessFiles(Passthrough):
    """Files whose status has changed at each look."""

    looks = 0

    @operation
    def getattr(self, path: str, file: int | None) -> dict[str, int]:
        self.looks = min(self.looks + 1, 1000)  # if anybody waits for it to end
        status = self.status(path, file)
        return status | {'st_ctime': status['st_ctime'] + self.looks}


@pytest.mark.parametrize('file', FILES)
def test_a_file_that_never_stands_still_is_closed_to_all_but_its_owner(
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


def test_a_name_that_is_refused_for_its_dot_is_followed_by_one_without(
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


def test_a_name_that_is_taken_is_left_to_who_took_it(
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
    """Where somebody is quicker each time."""

    @operation
    def create(self, path: str, mode: int, flags: int) -> int:
        Path(path).write_text("somebody else's")
        raise FileExistsError(errno.EEXIST, path)


def test_names_that_are_all_taken_are_an_error_at_last(folder: Path) -> None:
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
    """Where a file that could be created is there, although that is an error."""

    @operation
    def create(self, path: str, mode: int, flags: int) -> int:
        Path(path).touch()
        raise PermissionError(errno.EACCES, path)


def test_what_was_created_in_spite_of_an_error_is_removed(folder: Path) -> None:
    operations = CreatesWhatItCannotOpen(folder / 'source')
    with shown(operations, folder / 'shown'):
        path = prepare(folder / 'source', '0640')
        error = commit(atomic_store.open(folder / 'shown/state.json'))
    assert isinstance(error, PermissionError)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == '"old"'


# The last copy


class DeletesWhatIsInTheWay(Passthrough):
    """As the kernel does on an SMB mount, before Linux 6.17."""

    @operation
    def rename(self, path: str, new: str) -> None:
        os.unlink(self.source + new)
        raise PermissionError(errno.EACCES, new)


class ShowsWhatItHasDeleted(DeletesWhatIsInTheWay):
    """As such a mount does as long as somebody has the file open."""

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
def test_the_new_file_stays_where_the_old_one_is_gone(
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


# Which file systems do so while the file is replaced.
MISSED = pytest.mark.parametrize(
    'missed',
    [
        pytest.param('open', id='libfuse'),  # its issue 637
        pytest.param('(open|getattr)', id='ntfs-3g'),
    ],
)


@MISSED
@pytest.mark.parametrize('times', [1, 2, 10])
def test_a_file_that_is_missed_for_a_moment_is_looked_for_again(
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
        # Two at each look. To list the folder would be the fifth, and be refused.
        with operations.refusing(missed, errno.ENOENT, times=5):
            store = atomic_store.open(folder / 'shown/state.json', 'default')
        assert store.value == 'old'


@pytest.mark.parametrize('times', [1, 2, 3])
def test_a_file_behind_a_link_that_is_missed_for_a_moment_is_looked_for_again(
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
def test_a_commit_keeps_what_a_file_has_that_is_missed_for_a_moment(
    folder: Path, name: str, mode: int, times: tuple[int, int]
) -> None:
    """It is missed at first, or once the value is written."""
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
def test_a_file_that_is_there_and_always_missed_is_an_error_and_not_the_default(
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


# FUSE shows neither files without a name, nor links to them, nor ENOTSUPP, and takes a
# commit's fstat for a look at the path. Here, functions of the module `os` refuse.


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
    """Commit over each file while this call ends with each error."""
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
def test_a_full_disk_or_quota_is_an_error_with_an_unnamed_file_too(
    folder: Path, temporary_file: str, call: str
) -> None:
    tally = Tally()
    value = 'new' if call == 'open, of the folder' else 'old'
    for case in commits_refused_by(call, folder, FULL):
        tally.check(case, case.failure(value) if case.refused else case.success())
    tally.close(f'{temporary_file} file on a full disk, {call}')
