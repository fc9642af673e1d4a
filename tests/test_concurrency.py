"""Everybody at once: many threads and processes with stores on one file.

`pytest -s` shows the tally.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import linux

import atomic_store

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess


def test_of_two_stores_on_one_path_the_later_commit_wins(tmp_path: Path) -> None:
    path = tmp_path / 'state.json'
    first, second = atomic_store.open(path, 'first'), atomic_store.open(path, 'second')
    for store in first, second, second, first, second, first:
        store.commit()
        assert atomic_store.open(path).value == store.value
    assert (first.value, second.value) == ('first', 'second')
    assert os.listdir(tmp_path) == ['state.json']


@pytest.mark.parametrize('shared', [True, False], ids=['one store', 'a store each'])
def test_threads_read_whole_values_while_threads_commit(
    shared: bool, tmp_path: Path
) -> None:
    path = tmp_path / 'state.json'
    one_store = atomic_store.open(path, _value_of(0))
    one_store.commit()

    def commit(seed: int) -> int:
        chance = random.Random(seed)
        store = one_store if shared else atomic_store.open(path)
        for _ in range(60):
            store.value = _value_of(chance.randrange(10**6))
            store.commit()
        return 60

    def read() -> int:
        reads = 0
        while not all(writer.done() for writer in writers):
            _read(path)
            reads += 1
        return reads

    with ThreadPoolExecutor(6) as threads:
        writers = [threads.submit(commit, seed) for seed in range(4)]
        readers = [threads.submit(read) for _ in range(2)]
        commits = sum(writer.result() for writer in writers)
        reads = sum(reader.result() for reader in readers)
    assert reads
    _read(path)
    assert os.listdir(tmp_path) == ['state.json']
    print(f'\nthreads: {commits=}, {reads=}')


@linux
def test_processes_read_whole_values_while_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / 'state.json'
    store = atomic_store.open(path, _value_of(0))
    store.commit()
    chance = random.Random(5)
    read, report = os.pipe()
    new_process = multiprocessing.get_context('fork').Process

    def start(work: Callable[..., None]) -> ForkProcess:
        arguments = (work, path, report, chance.random())
        process = new_process(target=_until_it_fails, args=arguments)
        process.start()
        return process

    tally: Counter[str] = Counter()
    reported = b''
    readers = [start(_read_on) for _ in range(2)]
    writers = [start(_commit_on) for _ in range(3)]
    with open(read, 'rb') as reports:
        try:
            while tally['kills'] < 60:
                reported += reports.read(chance.randrange(1, 30))
                writer = chance.choice(writers)
                if _kill(writer, tmp_path, tally):
                    writers.remove(writer)
                    writers.append(start(_commit_on))
            for process in readers + writers:
                while not _kill(process, tmp_path, tally):
                    reported += reports.read(1)
        finally:
            for process in readers + writers:
                process.kill()
                process.join()
            os.close(report)
    _read(path)
    assert os.listdir(tmp_path) == ['state.json']
    commits, new_values_read = reported.count(b'c'), reported.count(b'r')
    assert min(commits, new_values_read) > 0
    print(f'\nprocesses: {commits=}, {new_values_read=}', dict(tally))


def _kill(process: ForkProcess, folder: Path, tally: Counter[str]) -> bool:
    """Kill a process, unless it may be where a kill leaves something behind.

    That is where a commit has given its new file a name, and not yet renamed it. A
    process that has stopped stays where it is, so that the folder then tells. The name
    may be another one's, too: then this one is spared without need.
    """
    pid = process.pid if process.is_alive() else None
    assert pid, 'a writer or a reader has failed'
    os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), 'a writer or a reader has failed'
    if os.listdir(folder) == ['state.json']:
        process.kill()
        process.join()
        tally['kills'] += 1
        return True
    tally['spared'] += 1
    assert tally['spared'] < 30, 'that is more than an instant'
    os.kill(pid, signal.SIGCONT)
    return False


def _until_it_fails(
    work: Callable[..., None], path: Path, report: int, seed: float
) -> None:
    try:
        work(path, report, seed)
    finally:
        os.write(report, b'!' * 30)  # so that nobody waits for ever


def _commit_on(path: Path, report: int, seed: float) -> None:
    chance = random.Random(seed)
    store = atomic_store.open(path)
    while True:
        store.value = _value_of(chance.randrange(10**6))
        store.commit()
        os.write(report, b'c')


def _read_on(path: Path, report: int, seed: float) -> None:
    last = None
    while True:
        value = _read(path)
        if value != last:
            os.write(report, b'r')
        last = value


def _value_of(number: int) -> list[int]:
    return [number] * (1, 2000, 60000)[number % 3]


def _read(path: Path) -> list[int]:
    value: list[int] = atomic_store.open(path).value
    assert value == _value_of(value[0])
    return value
