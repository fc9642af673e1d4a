"""A format may use the file that it gets as plain code uses a file.

Nothing but the format writes to that file.
"""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import io
import lzma
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import commits, fails, linux, mounted, names, notes, posix, root

import atomic_store


def a_format(dump: Callable[[Any], object]) -> Any:
    """Make a format that dumps with this function, and loads what the file holds."""
    return SimpleNamespace(
        dump=lambda value, file: dump(file), load=lambda file: file.read()
    )


def written(folder: Path, dump: Callable[[Any], object], is_binary: bool) -> bytes:
    """Commit with this function. Return what the file then holds."""
    store = atomic_store.open(folder / 'state', None, a_format(dump), is_binary)
    (folder / 'state').write_bytes(b'old')
    store.commit()
    assert names(folder) == ['state']
    return (folder / 'state').read_bytes()


# Closed and detached


def closes(file: Any) -> None:
    file.write(b'new')
    file.close()
    file.close()


def writes_after_closing(file: Any) -> None:
    with file:
        file.write(b'n')
    file.write(b'ew')


def leaves_a_wrapper_to_be_collected(file: Any) -> None:
    io.TextIOWrapper(file).write('new')


def closes_a_wrapper(file: Any) -> None:
    with io.TextIOWrapper(file) as wrapper:
        wrapper.write('new')


def detaches_a_wrapper(file: Any) -> None:
    wrapper = io.TextIOWrapper(file)
    wrapper.write('new')
    wrapper.detach()


def detaches_the_file(file: Any) -> None:
    file.write(b'n')
    file.detach().write(b'ew')


def detaches_the_file_and_closes_it(file: Any) -> None:
    file.write(b'n')
    with file.detach() as raw:
        raw.write(b'ew')


def writes_through_a_descriptor(file: Any) -> None:
    with open(os.dup(file.fileno()), 'wb') as other:
        other.write(b'new')


def lets_a_child_write(file: Any) -> None:
    program = 'import os; os.write(1, b"new")'
    subprocess.run([sys.executable, '-c', program], stdout=file, check=True)


def closes_text_in_a_with_block(file: Any) -> None:
    with file:
        file.write('new')


def detaches_the_buffer(file: Any) -> None:
    file.write('n')
    file.detach().write(b'ew')


def detaches_the_buffer_and_closes_it(file: Any) -> None:
    file.write('n')
    with file.detach() as buffer:
        buffer.write(b'ew')


def detaches_both(file: Any) -> None:
    file.write('n')
    buffer = file.detach()
    buffer.write(b'e')
    buffer.detach().write(b'w')


def closes_the_buffer(file: Any) -> None:
    file.write('n')
    file.flush()
    with file.buffer as buffer:
        buffer.write(b'ew')


WITH_BYTES = (
    closes,
    writes_after_closing,
    leaves_a_wrapper_to_be_collected,
    closes_a_wrapper,
    detaches_a_wrapper,
    detaches_the_file,
    detaches_the_file_and_closes_it,
    writes_through_a_descriptor,
    lets_a_child_write,
)
WITH_TEXT = (
    closes_text_in_a_with_block,
    detaches_the_buffer,
    detaches_the_buffer_and_closes_it,
    detaches_both,
    closes_the_buffer,
)


@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize('dump', WITH_BYTES + WITH_TEXT)
def test_a_format_may_close_or_detach_its_file(
    tmp_path: Path, dump: Callable[[Any], None]
) -> None:
    assert written(tmp_path, dump, is_binary=dump in WITH_BYTES) == b'new'


def test_the_standard_librarys_writers_work_on_a_file(tmp_path: Path) -> None:
    def write_zip(file: Any) -> None:
        with file, zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('name', 'new')

    archive = io.BytesIO(written(tmp_path, write_zip, is_binary=True))
    assert zipfile.ZipFile(archive).read('name') == b'new'

    for module in gzip, bz2, lzma:

        def write_compressed(file: Any, module: Any = module) -> None:
            with module.open(file, 'wt') as stream:
                stream.write('new')

        content = written(tmp_path, write_compressed, is_binary=True)
        assert module.decompress(content) == b'new'

    def write_rows(file: Any) -> None:
        text = io.TextIOWrapper(file, newline='', write_through=True)
        csv.writer(text).writerows([['a', 'b'], [1, 2]])

    assert written(tmp_path, write_rows, is_binary=True) == b'a,b\r\n1,2\r\n'


@pytest.mark.parametrize('fails', [False, True])
def test_what_a_format_has_kept_of_a_file_writes_no_more(
    tmp_path: Path, fails: bool
) -> None:
    kept: list[Any] = []

    def keep(file: Any) -> None:
        file.write(b'new')
        kept.extend([file, file.raw, io.TextIOWrapper(file)])
        kept[2].write('late')
        if fails:
            raise ZeroDivisionError

    with suppress(ZeroDivisionError):
        assert written(tmp_path, keep, is_binary=True) == b'new'
    # The next file may get the same descriptor.
    with (tmp_path / 'other').open('wb', buffering=0) as other:
        for file in kept:
            with pytest.raises(ValueError, match='closed'):
                file.write(b'late' if file is not kept[2] else 'late')
                file.flush()
        kept.clear()
        other.write(b'kept')
    assert (tmp_path / 'other').read_bytes() == b'kept'


@pytest.mark.usefixtures('temporary_file')
def test_no_descriptor_is_freed_while_a_format_could_write_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    close = os.close

    def keep(file: Any) -> None:
        file.write(b'new')
        kept.append(file.raw)

    def close_what_is_not_in_use(descriptor: int) -> None:
        assert all(raw.closed for raw in kept)
        close(descriptor)

    monkeypatch.setattr(os, 'close', close_what_is_not_in_use)
    assert written(tmp_path, keep, is_binary=True) == b'new'


@pytest.mark.parametrize('is_binary', [False, True])
def test_what_a_format_has_kept_of_a_file_still_has_its_name(
    tmp_path: Path, is_binary: bool
) -> None:
    kept: list[tuple[Any, object]] = []
    written(tmp_path, lambda file: kept.append((file, file.name)), is_binary)
    (file, name) = kept[0]
    assert file.name == name


# Errors that nobody sees


@pytest.fixture
def nearly_full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system with little space."""
    with mounted(tmp_path, '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs'):
        yield tmp_path


def leaves_text(file: Any) -> None:
    wrapper = io.TextIOWrapper(file)
    for _ in range(100):
        wrapper.write('x' * 1000)


def leaves_little_text(file: Any) -> None:
    file.write(b'x' * 63_000)
    io.TextIOWrapper(file).write('x' * 8000)


def leaves_a_large_buffer(file: Any) -> None:
    io.BufferedWriter(file, 1_000_000).write(bytes(100_000))


def leaves_a_compressor(file: Any) -> None:
    lzma.LZMAFile(file, 'wb').write(os.urandom(100_000))  # noqa: SIM115


def leaves_an_archive(file: Any) -> None:
    archive = zipfile.ZipFile(file, 'w')
    for number in range(150):  # the list of these names does not fit
        archive.writestr(f'{number:200}', b'')


def ignores_the_error(file: Any) -> None:
    for _ in range(100):
        with suppress(OSError):
            file.write(bytes(10_000))


@root
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.usefixtures('temporary_file')
@pytest.mark.parametrize(
    'dump',
    [
        leaves_text,
        leaves_little_text,
        leaves_a_large_buffer,
        leaves_a_compressor,
        leaves_an_archive,
        ignores_the_error,
    ],
)
def test_an_error_in_writing_that_a_wrapper_ignores_is_an_error_of_the_commit(
    nearly_full: Path, dump: Callable[[Any], None]
) -> None:
    """A wrapper may write only when it is collected. `__del__` cannot raise errors."""
    (nearly_full / 'state').write_bytes(b'old')
    store = atomic_store.open(nearly_full / 'state', None, a_format(dump))
    assert fails(store, errno.ENOSPC) == []
    store.value = b'new'
    store.format = a_format(lambda file: file.write(b'new'))
    commits(store)


# A dump that returns what it should write


def writes_and_returns(file: Any) -> bytes:
    file.write(b'new')
    return b'a checksum'


def writes_and_seeks_back_and_returns(file: Any) -> bytes:
    file.write(b'new')
    file.seek(0)
    return b'a checksum'


def writes_and_detaches_and_returns(file: Any) -> str:
    file.detach().write(b'new')
    return 'new'


@pytest.mark.parametrize(
    ('dump', 'is_binary'),
    [
        (writes_and_returns, True),
        (writes_and_seeks_back_and_returns, True),
        (writes_and_detaches_and_returns, False),
    ],
)
def test_a_dump_may_write_and_return_a_string(
    tmp_path: Path, dump: Callable[[Any], object], is_binary: bool
) -> None:
    assert written(tmp_path, dump, is_binary) == b'new'


@pytest.mark.parametrize('status', [True, 1, '', b'', None, [b'bytes']])
def test_a_dump_may_write_nothing_and_return_no_content(
    tmp_path: Path, status: object
) -> None:
    assert written(tmp_path, lambda file: status, is_binary=True) == b''


def closes_and_returns(file: Any) -> str:
    with file:
        return 'new'


@pytest.mark.parametrize('is_binary', [True, False])
@pytest.mark.parametrize(
    'dump', [lambda file: 'new', lambda file: b'new', closes_and_returns]
)
def test_a_dump_that_returns_the_content_and_writes_nothing_is_an_error(
    tmp_path: Path, dump: Callable[[Any], object], is_binary: bool
) -> None:
    with pytest.raises(TypeError, match='instead of writing it') as raised:
        written(tmp_path, dump, is_binary)
    assert notes(raised.value) == [f'while committing {str(tmp_path / "state")!r}']
    assert (tmp_path / 'state').read_bytes() == b'old'


# If a program has closed a standard stream, the next file opened gets its number

PROGRAM = """
import errno, os, resource, sys
import atomic_store
from atomic_store import _replacement

kind, obstacle, *closed = sys.argv[1:]
if kind == 'named':
    _replacement._O_TMPFILE = None

class Format:
    def dump(self, value, file):
        for number in 0, 1, 2:
            try:
                os.write(number, b'printed')
            except OSError as error:
                assert error.errno == errno.EBADF
        file.write(b'new')

    def load(self, file):
        return file.read()

def descriptors():
    found = []
    for number in range(20):
        try:
            found.append((number, os.fstat(number).st_ino))
        except OSError:
            pass
    return found

opened, open_file = [], os.open

def note_what_is_opened_to_write(path, flags, *args):
    number = open_file(path, flags, *args)
    if flags & os.O_RDWR:
        opened.append(number)
    return number

os.open = note_what_is_opened_to_write
store = atomic_store.open('state', None, Format())
if obstacle == 'an empty root':
    os.chroot('.')
for number in closed:
    os.close(int(number))
before = descriptors()
if obstacle == 'no descriptors':
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # except the streams'
try:
    store.commit()
except OSError as error:
    assert (obstacle, error.errno) == ('no descriptors', errno.EMFILE), error
else:
    assert obstacle != 'no descriptors'
assert descriptors() == before
# Not for a moment: a child of a fork in another thread would keep the number.
assert min(opened, default=3) > 2, opened
os._exit(77)
"""


@posix
@pytest.mark.parametrize('closed', ['0', '1', '2', '01', '12', '012'])
@pytest.mark.parametrize(
    'obstacle',
    ['none', 'no descriptors', pytest.param('an empty root', marks=root)],
)
def test_what_a_program_prints_to_a_closed_stream_never_gets_into_the_file(
    tmp_path: Path, temporary_file: str, obstacle: str, closed: str
) -> None:
    (tmp_path / 'state').write_bytes(b'old')
    done = subprocess.run(
        [sys.executable, '-P', '-c', PROGRAM, temporary_file, obstacle, *closed],
        cwd=tmp_path,
        check=False,
        stdin=subprocess.PIPE,
        capture_output=True,
    )
    assert done.returncode == 77, done.stderr.decode()
    content = b'old' if obstacle == 'no descriptors' else b'new'
    assert (tmp_path / 'state').read_bytes() == content
    assert names(tmp_path) == ['state']


@linux
def test_a_format_may_start_again_after_an_error_in_writing(tmp_path: Path) -> None:
    import resource

    def fail_once(file: Any) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(OSError, match='large'):
                file.write(bytes(1_000_000))  # more than a buffer holds
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        file.seek(0)
        file.truncate()
        file.write(b'short')

    assert written(tmp_path, fail_once, is_binary=True) == b'short'
