"""Everybody at once: stores on one file in many threads and processes.

`pytest -s` shows how much has happened.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
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

    def read(seed: int) -> int:
        reads = 0
        while not all(writer.done() for writer in writers):
            _read(path)
            reads += 1
        return reads

    with ThreadPoolExecutor(6) as threads:
        writers = [threads.submit(commit, seed) for seed in range(4)]
        readers = [threads.submit(read, seed) for seed in range(2)]
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

    kills = spared = 0
    readers = [start(_read_on) for _ in range(2)]
    writers = [start(_commit_on) for _ in range(3)]
    with open(read, 'rb') as reports:
        try:
            reported = b''
            while kills < 60:
                reported += reports.read(chance.randrange(1, 30))
                writer = chance.choice(writers)
                if _killed(writer, tmp_path):
                    kills += 1
                    writers.remove(writer)
                    writers.append(start(_commit_on))
                else:
                    spared += 1
            for process in readers + writers:
                while not _killed(process, tmp_path):
                    reported += reports.read(1)
        finally:
            for process in readers + writers:
                process.kill()
                process.join()
    _read(path)
    assert os.listdir(tmp_path) == ['state.json']
    commits, new_values_read = reported.count(b'c'), reported.count(b'r')
    assert min(commits, new_values_read) > 0
    print(f'\nprocesses: {kills=}, {spared=}, {commits=}, {new_values_read=}')


def _killed(process: ForkProcess, folder: Path) -> bool:
    """Kill a process, unless it may be where a kill leaves something behind.

    That is where a commit has given its new file a name, and not yet renamed it. A
    process that has stopped stays where it is, so that the folder then tells. The name
    may be another one's, too: then this one is spared without need.
    """
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), 'a writer or a reader has failed'
    if os.listdir(folder) != ['state.json']:
        os.kill(process.pid, signal.SIGCONT)
        return False
    process.kill()
    process.join()
    return True


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
