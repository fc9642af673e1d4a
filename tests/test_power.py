"""What a disk holds after a power cut, with each file system.

The tests commit values on a disk that logs every write and every flush. The time of a
commit is the size of the log when it returns. For any time, the tests then make disks
as a power cut may leave them. Such a disk holds everything written before the last
flush. Of the later writes, it holds all, none, or some blocks. Each disk is mounted and
checked. `pytest -s` shows the tally. $POWER_CUTS is the number of power cuts. On a slow
machine, such as an emulated one, use fewer.
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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from support import command, mounted, root

import atomic_store

if sys.platform != 'linux':
    pytest.skip('needs Linux', allow_module_level=True)

from logging_disk import Entry, entries, logging_disk

POWER_CUTS = int(os.environ.get('POWER_CUTS', '400'))
BLOCK = 4096

# The options to make each file system, and those to mount it.
KINDS = {
    'ext4': (['-b', str(BLOCK)], 'loop'),
    'xfs': ([], 'loop,nouuid'),
    'btrfs': ([], 'loop'),
    'f2fs': ([], 'loop'),
}
if '\tf2fs\n' not in Path('/proc/filesystems').read_text():
    del KINDS['f2fs']  # many kernels do not have it

pytestmark = root
on_each_file_system = pytest.mark.parametrize(
    'kind', [pytest.param(kind, marks=command(f'mkfs.{kind}')) for kind in KINDS]
)


class Commit(NamedTuple):
    returned: int
    name: str
    content: str


@on_each_file_system
def test_no_power_cut_loses_a_commit_or_leaves_a_file(
    kind: str, tmp_path: Path
) -> None:
    tally = _cut_the_power(kind, POWER_CUTS, tmp_path)
    assert not tally['lost'] + tally['torn'] + tally['several left'], tally
    # There, the temporary file is synced under its name. So the name may stay if the
    # power is cut during a commit.
    assert not tally['left'] or kind == 'btrfs', tally


@on_each_file_system
@pytest.mark.parametrize('synced', ['nothing', 'files alone'])
def test_without_sync_the_same_check_finds_lost_commits(
    kind: str, synced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fsync_less(file: int) -> None:
        if synced == 'files alone' and stat.S_ISREG(os.fstat(file).st_mode):
            fsync(file)

    monkeypatch.setattr(os, 'fsync', fsync_less)
    assert _cut_the_power(kind, POWER_CUTS // 4, tmp_path)['lost']


def _cut_the_power(kind: str, times: int, tmp_path: Path) -> Counter[str]:
    """Commit, then cut the power at some times, and count the results."""
    to_make, to_mount = KINDS[kind]
    disk, image, flushed, log, mount_point = (
        tmp_path / name for name in ('disk', 'image', 'flushed', 'log', 'mounted')
    )
    with mounted(tmp_path, '-t', 'tmpfs', 'tmpfs'):
        mount_point.mkdir()
        flushed.touch()
        os.truncate(flushed, 300 << 20)  # mkfs.xfs refuses less
        _run(f'mkfs.{kind}', '-q', *to_make, flushed)
        _run('fallocate', '--dig-holes', flushed)
        _copy(flushed, image)
        with logging_disk(disk, image, log), mounted(mount_point, '-o', to_mount, disk):
            start, commits = _commit(mount_point / 'folder', log)
        history = list(entries(log))
        tally = Counter(
            commits=len(commits),
            writes=sum(bool(entry.data) for entry in history),
            flushes=sum(not entry.data for entry in history),
        )
        for time, blocks in _crashes(history, start, times, flushed):
            # Each disk is a new file: for the same file, mount might reuse the old loop
            # device and its cache.
            crashed = tmp_path / f'crashed {tally["crashes"]}'
            _copy(flushed, crashed)
            _write(crashed, blocks)
            with mounted(mount_point, '-o', to_mount, crashed):
                tally.update(_outcomes(mount_point / 'folder', commits, time))
            crashed.unlink()
            tally['crashes'] += 1
    counts = ('commits', 'writes', 'flushes', 'crashes', 'lost', 'torn', 'left')
    print(f'\n{kind}, Linux {platform.release()}:', {key: tally[key] for key in counts})
    return tally


def _commit(folder: Path, log: Path) -> tuple[int, list[Commit]]:
    """Commit to some files. Return the time before that, and the commits."""
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
                store = atomic_store.open(folder / name, default=None)
                store.value = f'{len(commits):10}' * (size // 10)
                store.commit()
                content = json.dumps(store.value)
                commits.append(Commit(log.stat().st_size, name, content))
    return start, commits


def _crashes(
    history: list[Entry], start: int, number: int, flushed: Path
) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """Choose crashes. For each, update `flushed`; yield its time and later writes."""
    chance = random.Random(number)
    possible = [
        (entry.end, kept)
        for entry in history
        if entry.end > start
        for kept in (['all', 'none', 'some'] if entry.data else ['all'])
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
            yield entry.end, [block for block in later if chance.random() < 0.5]


def _blocks(entry: Entry) -> Iterator[tuple[int, bytes]]:
    """Split a write into blocks. A disk writes each block whole or not at all."""
    end = entry.offset + len(entry.data)
    second = (entry.offset // BLOCK + 1) * BLOCK
    for first, last in itertools.pairwise(
        [entry.offset, *range(second, end, BLOCK), end]
    ):
        yield first, entry.data[first - entry.offset : last - entry.offset]


def _outcomes(folder: Path, commits: list[Commit], time: int) -> set[str]:
    """Compare a folder's files with the last commits before a time, and the next."""
    found = {file.name: file.read_text() for file in folder.iterdir()}
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
