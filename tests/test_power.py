"""When the power goes: what a disk of each file system holds then.

The disk is an image, mounted through a loop device: the image holds what the device
was sent, and nothing that the kernel still keeps for later. Some writers commit into one
folder, report each commit that has returned, and stop at a random line of the next. The
image is then copied: the copy is the disk as a power cut leaves it. It is mounted,
looked at, and used for the next cut. Those who stop later sync the file system while
the others are in the middle of a commit. `pytest -s` shows the tally.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import atomicwrites
import pytest
from support import command, linux, root

import atomic_store

WRITERS = 8

pytestmark = [linux, root]
on_each_file_system = pytest.mark.parametrize(
    'kind',
    [pytest.param(k, marks=command(f'mkfs.{k}')) for k in ('ext4', 'xfs', 'btrfs')],
)


@on_each_file_system
def test_no_commit_that_returned_is_lost_and_nothing_is_left_behind(
    kind: str, tmp_path: Path
) -> None:
    tally = _cut_the_power(kind, 16, tmp_path)
    assert not tally['lost'] + tally['left behind'], tally
    assert tally['between'] < 3, tally
    # Cut in all parts of a commit, not always before the rename, nor always after it.
    assert min(tally['old'], tally['in flight']) > 0, tally


@on_each_file_system
def test_without_sync_the_same_check_finds_commits_lost(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (os, 'fsync'), (atomicwrites, '_proper_fsync'):
        monkeypatch.setattr(module, name, lambda file: None)
    assert _cut_the_power(kind, 3, tmp_path)['lost']


def _cut_the_power(kind: str, cuts: int, tmp_path: Path) -> Counter[str]:
    """Cut the power some times, and count what became of the commits."""
    tally: Counter[str] = Counter()
    disk, copy, mount_point = (tmp_path / name for name in ('disk', 'copy', 'mounted'))
    mount_point.mkdir()
    disk.touch()
    os.truncate(disk, 300 << 20)  # of less, mkfs.xfs makes nothing
    subprocess.run([f'mkfs.{kind}', '-q', disk], check=True, stdout=subprocess.DEVNULL)
    for cut in range(cuts):
        folder = mount_point / f'{kind}-{cut}'
        with _mounted(disk, mount_point) as device:
            folder.mkdir()
            subprocess.run(['sync', '--file-system', folder], check=True)
            read, report = os.pipe()
            with open(read, 'rb') as reports:
                with _stopped_writers(folder, report, tally):
                    _copy(disk, device, copy, tally)
                returned = reports.read()
            (folder / 'later').touch()  # so that nobody takes this disk for the copy
        copy.replace(disk)
        with _mounted(disk, mount_point):
            _look(folder, returned, tally)
    print(f'\n{kind}: {cuts=}', dict(tally))
    return tally


@contextmanager
def _mounted(disk: Path, mount_point: Path) -> Iterator[str]:
    attach = ['losetup', '--find', '--show', str(disk)]
    device = subprocess.check_output(attach, text=True).strip()
    try:
        subprocess.run(['mount', device, mount_point], check=True)
        try:
            yield device
        finally:
            subprocess.run(['umount', mount_point], check=True)
    finally:
        subprocess.run(['losetup', '--detach', device], check=True)


@contextmanager
def _stopped_writers(folder: Path, report: int, tally: Counter[str]) -> Iterator[None]:
    """Run the writers until each has stopped in a commit; kill them afterwards."""
    new_process = multiprocessing.get_context('fork').Process
    arguments = [(folder, writer, report) for writer in range(WRITERS)]
    writers = [new_process(target=_commit_on, args=args) for args in arguments]
    try:
        for writer in writers:
            writer.start()
        os.close(report)
        pids = [writer.pid for writer in writers if writer.pid]
        while True:
            for pid in pids:
                _, status = os.waitpid(pid, os.WUNTRACED)
                assert os.WIFSTOPPED(status), 'a writer has failed'
            if not any(name.startswith('.') for name in os.listdir(folder)):
                break
            # At one instant of a commit, just before the rename, the new file has a
            # name of its own. That is known, so the cut is a little later.
            tally['cut later'] += 1
            assert tally['cut later'] < 20, 'that is more than an instant'
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        yield
    finally:
        for writer in writers:
            writer.kill()
            writer.join()


def _commit_on(folder: Path, writer: int, report: int) -> None:
    """Commit to one file after the other, and stop from time to time."""
    chance = random.Random(f'{folder.name} {writer}')
    lines = chance.randrange(800)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_globals['__name__'] not in ('atomic_store._files', 'atomicwrites'):
            return None
        lines -= event == 'line'
        if lines < 0:
            lines = chance.randrange(100)
            os.kill(os.getpid(), signal.SIGSTOP)
        return trace

    sys.settrace(trace)
    for number in itertools.count():
        name, value, _ = _commit_of(writer, number)
        file_format = json if name.endswith('json') else pickle
        store = atomic_store.open(folder / name, format=file_format)
        store.value = value
        store.commit()
        os.write(report, bytes([writer]))


def _copy(disk: Path, device: str, copy: Path, tally: Counter[str]) -> None:
    """Copy what the device was sent, at a moment when it is sent nothing."""
    # Of the counters, the ninth is the number of requests under way, the others are
    # of those that are done (the kernel's Documentation/block/stat.rst).
    counters = Path('/sys/block', Path(device).name, 'stat')
    for _ in range(100):
        before = counters.read_text()
        subprocess.run(['cp', disk, copy], check=True)
        if before.split()[8] == '0' and before == counters.read_text():
            return
        tally['copied again'] += 1
    pytest.fail('the kernel never stopped writing')


def _look(folder: Path, returned: bytes, tally: Counter[str]) -> None:
    """Compare a folder with the commits into it that have returned."""
    found = {file.name: file.read_bytes() for file in folder.iterdir()}
    tally['commits'] += len(returned)
    for writer in range(WRITERS):
        files = [_commit_of(writer, n) for n in range(returned.count(writer) + 1)]
        new = {name: data for name, _, data in files}
        old = {name: data for name, _, data in files[:-1]}
        mine = {name: found.pop(name) for name in new if name in found}
        named = [name for name, data in found.items() if data == files[-1][2]]
        if mine == new:
            tally['in flight'] += 1
        elif mine != old:
            tally['lost'] += 1
        elif named and named[0].startswith('.atomic_store-'):
            # That instant again: another writer's sync has sent the name to the device,
            # and not the rename, which came later.
            del found[named[0]]
            tally['between'] += 1
        else:
            tally['old'] += 1
    tally['left behind'] += len(found)


def _commit_of(writer: int, number: int) -> tuple[str, list[int], bytes]:
    """Return a commit's file, its value, and what the file then holds."""
    name, size = (
        (f'new-{number}.json', 500),
        ('tiny.json', 1),
        ('kilobytes.pickle', 3000),
        ('large.json', 40000),
    )[number % 4]
    value = [WRITERS * number + writer] * size
    is_json = name.endswith('json')
    data = json.dumps(value).encode() if is_json else pickle.dumps(value)
    return f'{writer}-{name}', value, data
