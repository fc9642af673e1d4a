"""What a disk holds after a power cut, with each file system.

The tests commit values on a disk that logs every write and every flush. The size of the
log serves as the time: for a commit, it is the size when the commit returns. At some
times, the tests then make disks as a power cut may leave them. Such a disk holds
everything written before the last flush. Of the later writes, it holds all, none, or
some blocks (without a journal, the first ones; if the kernel flushes too rarely, all).
Each disk is checked as at boot, mounted and read. `pytest -s` shows the tally.
$POWER_CUTS is the number of power cuts for each file system: `POWER_CUTS=100000 pytest
-s tests/test_power.py` tries all. On an emulated or slow machine, use fewer.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import random
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import atomicwrites
import pytest
from support import command, mounted, root

import atomic_store

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)

from logging_disk import Entry, entries, logging_disk

POWER_CUTS = int(os.environ.get('POWER_CUTS', '100'))
BLOCK = 4096


class Kind(NamedTuple):
    """How to make a file system, check it and mount it."""

    type: str
    make: str
    megabytes: int = 64
    options: str = ''
    has_journal: bool = True
    # The program that a system runs at boot, if the file system has no journal by which
    # to repair itself when it is mounted. There is no such program for udf.
    check: str = ''


_NO_JOURNAL = Kind(
    'ext4',
    f'mkfs.ext4 -q -b {BLOCK} -O ^has_journal',
    has_journal=False,
    check='fsck.ext4 -f -y',
)
_FAST_COMMIT = Kind('ext4', f'mkfs.ext4 -q -b {BLOCK} -O fast_commit')
SAFE = {
    'ext4': Kind('ext4', f'mkfs.ext4 -q -b {BLOCK}'),
    'ext4-fast_commit': _FAST_COMMIT,
    'ext4-data_journal': Kind(
        'ext4', f'mkfs.ext4 -q -b {BLOCK}', options='data=journal'
    ),
    'ext4-no_journal': _NO_JOURNAL,
    'ext2': _NO_JOURNAL._replace(type='ext2', make=f'mkfs.ext2 -q -b {BLOCK}'),
    # The upper folder of these is on such a file system.
    'overlay': _NO_JOURNAL,
    'overlay-fast_commit': _FAST_COMMIT,
    'xfs': Kind('xfs', 'mkfs.xfs -q', 300, 'nouuid'),  # mkfs.xfs refuses less
    'btrfs': Kind('btrfs', 'mkfs.btrfs -q', 128),
    'btrfs-notreelog': Kind('btrfs', 'mkfs.btrfs -q', 128, 'notreelog'),
    'f2fs': Kind('f2fs', 'mkfs.f2fs -q'),
    'udf': Kind('udf', 'mkfs.udf', has_journal=False),
    'minix': Kind('minix', 'mkfs.minix', 16, '', False, 'fsck.minix -a -f'),
}
# Here, the folder says where a file begins and how long it is. For a new file, it says
# this only after the rename, when the inode is written. No order of the steps is safe.
# (On exFAT, losses are too rare to compare: if a file's entry lies in two sectors, and
# only one of them is written, fsck.exfat removes the file.)
FAT = {'vfat': Kind('vfat', 'mkfs.vfat', 64, '', False, 'fsck.vfat -a')}
KINDS = SAFE | FAT

Write = Callable[[Path, str], object]


class Commit(NamedTuple):
    returned: int
    name: str
    content: str


def on(*kinds: str) -> pytest.MarkDecorator:
    """Run a test on each of these file systems that this kernel has."""
    known = Path('/proc/filesystems').read_text().split()
    params = [
        pytest.param(kind, marks=[command(program) for program in _programs(kind)])
        for kind in kinds
        if {KINDS[kind].type, kind.partition('-')[0]} <= {*known}
    ]
    return pytest.mark.parametrize('kind', params)


def _programs(kind: str) -> list[str]:
    return [line.split()[0] for line in (KINDS[kind].make, KINDS[kind].check) if line]


pytestmark = root


@on(*KINDS)
def test_no_power_cut_loses_a_commit_except_on_fat(kind: str, tmp_path: Path) -> None:
    tally = _cut_the_power(kind, POWER_CUTS, store, tmp_path)
    # A power cut during a commit may leave its temporary file.
    assert not tally['several left'], tally
    if kind in FAT:
        usual = _cut_the_power(kind, POWER_CUTS, plain, tmp_path)
        assert _failures(tally) <= _failures(usual) // 2, usual
    else:
        assert not _failures(tally), tally


@on('ext4', 'xfs', 'btrfs')
@pytest.mark.parametrize('synced', ['nothing', 'files alone'])
def test_without_sync_the_same_check_finds_lost_commits(
    kind: str, synced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fsync_less(file: int) -> None:
        if synced == 'files alone' and stat.S_ISREG(os.fstat(file).st_mode):
            fsync(file)

    monkeypatch.setattr(os, 'fsync', fsync_less)
    assert _failures(_cut_the_power(kind, POWER_CUTS // 4, store, tmp_path))


@on('ext4-fast_commit', 'ext4-no_journal', 'ext2', 'overlay-fast_commit')
def test_with_the_sync_before_the_name_the_same_check_finds_lost_commits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, link = os.fsync, os.link

    def sync_and_link(source: str, *args: Any, **kwargs: Any) -> None:
        fsync(int(os.path.basename(source)))  # of /proc/thread-self/fd
        link(source, *args, **kwargs)

    def fsync_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            fsync(file)

    monkeypatch.setattr(os, 'link', sync_and_link)
    monkeypatch.setattr(os, 'fsync', fsync_folders)
    assert _failures(_cut_the_power(kind, POWER_CUTS // 4, store, tmp_path))


def store(path: Path, value: str) -> None:
    opened = atomic_store.open(path, default=None)
    opened.value = value
    opened.commit()


def plain(path: Path, value: str) -> None:
    with atomicwrites.atomic_write(path, overwrite=True) as file:
        json.dump(value, file)


def _failures(tally: Counter[str]) -> int:
    return tally['lost'] + tally['torn'] + tally['unmountable']


def _cut_the_power(kind: str, times: int, write: Write, tmp_path: Path) -> Counter[str]:
    """Commit, then cut the power at some times, and count the results."""
    disk, image, flushed, log, point = (
        tmp_path / name for name in ('disk', 'image', 'flushed', 'log', 'mounted')
    )
    with mounted(tmp_path, '-t', 'tmpfs', 'tmpfs'):
        point.mkdir()
        flushed.touch()
        os.truncate(flushed, KINDS[kind].megabytes << 20)
        _run(*KINDS[kind].make.split(), flushed)
        _run('fallocate', '--dig-holes', flushed)
        _copy(flushed, image)
        with logging_disk(disk, image, log), _mounted(kind, disk, point):
            start, commits = _commit(point / 'folder', write, log)
        history = list(entries(log))
        tally = Counter(
            commits=len(commits),
            writes=sum(bool(entry.data) for entry in history),
            flushes=sum(not entry.data for entry in history),
        )
        # Without a journal, nothing helps against a disk that reorders its writes.
        # Syncing a folder writes the folder and the inodes, without a flush in between.
        # If only the inodes reach the disk, the old file is freed, but the folder still
        # leads to it. So for these file systems, the disk here keeps the order.
        in_order = not KINDS[kind].has_journal
        # And if the kernel does not flush the disk at each sync, as Linux 6.1 without a
        # journal, nothing helps against a disk that holds back what is not flushed.
        holds_back = not in_order or tally['flushes'] >= 2 * len(commits)
        for time, blocks in _crashes(
            history, start, times, flushed, in_order, holds_back
        ):
            # Each disk is a new file. For the same file, mount might reuse the old loop
            # device and its cache.
            crashed = tmp_path / f'crashed {tally["crashes"]}'
            _copy(flushed, crashed)
            _write(crashed, blocks)
            tally.update(_look(kind, crashed, point, commits, time))
            crashed.unlink()
            tally['crashes'] += 1
    counts = ('commits', 'writes', 'flushes', 'crashes')
    outcomes = ('lost', 'torn', 'unmountable', 'left', 'several left')
    print(
        f'\n{kind}, {write.__name__}, Linux {platform.release()}:',
        {key: tally[key] for key in counts + outcomes},
    )
    return tally


@contextmanager
def _mounted(kind: str, disk: Path, point: Path) -> Iterator[None]:
    type, options = KINDS[kind].type, KINDS[kind].options
    # -i: not by a program of the same name, such as ntfs-3g's.
    options = ','.join(filter(None, ['loop', options]))
    with mounted(point, '-i', '-t', type, '-o', options, disk):
        if not kind.startswith('overlay'):
            yield
            return
        for name in ('lower', 'upper', 'work'):
            (point / name).mkdir(exist_ok=True)
        folders = f'lowerdir={point}/lower,upperdir={point}/upper,workdir={point}/work'
        with mounted(point, '-t', 'overlay', '-o', folders, 'overlay'):
            yield


def _look(
    kind: str, crashed: Path, point: Path, commits: list[Commit], time: int
) -> set[str]:
    """Check a disk as at boot, mount it, and compare it with the commits."""
    if KINDS[kind].check:
        check = [*KINDS[kind].check.split(), os.fspath(crashed)]
        subprocess.run(check, check=False, capture_output=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(_mounted(kind, crashed, point))
        except subprocess.CalledProcessError:
            return {'unmountable'}
        return _outcomes(point / 'folder', commits, time)


def _commit(folder: Path, write: Write, log: Path) -> tuple[int, list[Commit]]:
    """Commit to several files. Return the time before that, and the commits."""
    folder.mkdir()
    _run('sync', '--file-system', folder)
    start = log.stat().st_size
    commits: list[Commit] = []
    for turn in range(3):
        if turn == 1:
            # From now on, all files but new ones are safely on the disk.
            _run('sync', '--file-system', folder)
        sizes = {'small': 100, 'medium': 3000, 'large': 100_000, f'new {turn}': 3000}
        for name, size in sizes.items():
            for _ in range(2):
                value = f'{len(commits):10}' * (size // 10)
                write(folder / name, value)
                commits.append(Commit(log.stat().st_size, name, json.dumps(value)))
    return start, commits


def _crashes(
    history: list[Entry],
    start: int,
    number: int,
    flushed: Path,
    in_order: bool,
    holds_back: bool,
) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """Choose crashes. For each, update `flushed`. Yield its time and later writes."""
    chance = random.Random(number)
    possible = [
        (entry.end, kept)
        for entry in history
        if entry.end > start
        for kept in (['all', 'none', 'some'] if entry.data and holds_back else ['all'])
    ]
    chosen = set(chance.sample(possible, min(number, len(possible))))
    later: list[tuple[int, bytes]] = []
    for entry in history:
        later += _blocks(entry)
        if not entry.data:
            _write(flushed, later)
            later = []
        if (entry.end, 'all') in chosen:
            yield entry.end, later
        if (entry.end, 'none') in chosen:
            yield entry.end, []
        if (entry.end, 'some') in chosen:
            yield (
                entry.end,
                (
                    later[: chance.randrange(len(later) + 1)]
                    if in_order
                    else [block for block in later if chance.random() < 0.5]
                ),
            )


def _blocks(entry: Entry) -> Iterator[tuple[int, bytes]]:
    """Split a write into blocks. A disk writes each block whole or not at all."""
    end = entry.offset + len(entry.data)
    second = (entry.offset // BLOCK + 1) * BLOCK
    for first, last in itertools.pairwise(
        [entry.offset, *range(second, end, BLOCK), end]
    ):
        yield first, entry.data[first - entry.offset : last - entry.offset]


def _outcomes(folder: Path, commits: list[Commit], time: int) -> set[str]:
    """Compare a folder's files with the commits before a time, and the next one."""
    try:
        found = {file.name: _content(file) for file in folder.iterdir()}
    except OSError:
        return {'lost'}
    returned = [commit for commit in commits if commit.returned <= time]
    begun = commits[: len(returned) + 1]
    outcomes = set()
    for name in {commit.name for commit in begun}:
        old = [commit.content for commit in returned if commit.name == name]
        contents = [None, *(commit.content for commit in begun if commit.name == name)]
        content = found.pop(name, None)
        if content not in contents:
            outcomes.add('torn')
        elif content not in contents[len(old) :]:
            outcomes.add('lost')
    if found:
        outcomes.add('left' if len(found) == 1 else 'several left')
    return outcomes


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        return repr(error)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _copy(image: Path, copy: Path) -> None:
    """Copy all but the holes. Running `cp` takes longer on an emulated machine."""
    with image.open('rb') as source, copy.open('xb') as target:
        target.truncate(image.stat().st_size)
        for start, end in _extents(source.fileno()):
            data = os.pread(source.fileno(), end - start, start)
            os.pwrite(target.fileno(), data, start)


def _extents(file: int) -> Iterator[tuple[int, int]]:
    end = 0
    with suppress(OSError):  # ENXIO: the rest is a hole
        while True:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
            yield start, end


def _write(image: Path, blocks: list[tuple[int, bytes]]) -> None:
    with image.open('r+b') as file:
        for offset, data in blocks:
            file.seek(offset)
            file.write(data)
