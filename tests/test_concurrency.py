"""Many threads and processes with stores on one file, all at once.

`pytest -s` shows the figures.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import concurrency_worker
import pytest
from concurrency_worker import read_whole, value_of
from support import start_process

import atomic_store

KILLS = 30 if os.name == 'posix' else 12  # Wine is slow to start a process
TEMPORARY_NAME = r'\.atomic_store-[0-9a-f]{12}\.tmp'


def test_of_two_stores_on_one_path_the_later_commit_wins(tmp_path: Path) -> None:
    path = tmp_path / 'state.json'
    first, second = atomic_store.open(path, 'first'), atomic_store.open(path, 'second')
    for store in first, second, second, first, second, first:
        store.commit()
        assert atomic_store.open(path).value == store.value
    assert (first.value, second.value) == ('first', 'second')
    assert os.listdir(tmp_path) == ['state.json']


def test_threads_read_whole_values_while_threads_commit(tmp_path: Path) -> None:
    path = tmp_path / 'state.json'
    atomic_store.open(path, value_of(0)).commit()

    def commit(seed: int) -> None:
        chance = random.Random(seed)
        store = atomic_store.open(path)
        for _ in range(60):
            store.value = value_of(chance.randrange(10**6))
            store.commit()

    def read() -> int:
        reads = 0
        while not all(writer.done() for writer in writers):
            read_whole(path)
            reads += 1
        return reads

    with ThreadPoolExecutor(6) as threads:
        writers = [threads.submit(commit, seed) for seed in range(4)]
        readers = [threads.submit(read) for _ in range(2)]
        for writer in writers:
            writer.result()
        reads = sum(reader.result() for reader in readers)
    assert reads
    read_whole(path)
    assert os.listdir(tmp_path) == ['state.json']
    print(f'\n4 threads: 240 commits, {reads} reads, 0 torn')


@pytest.mark.parametrize('number_of_writers', [1, 4])
def test_a_kill_leaves_a_whole_value_and_at_most_a_temporary_file(
    tmp_path: Path, number_of_writers: int
) -> None:
    path = tmp_path / 'state.json'
    atomic_store.open(path, value_of(0)).commit()
    chance = random.Random(5)
    report, to_report = os.pipe()
    done: Counter[str] = Counter()
    ends: dict[str, list[Callable[[], object]]] = {}  # of each process

    def start(work: str, mark: str) -> None:
        if sys.platform == 'win32':
            worker = str(concurrency_worker.__file__)
            command: list[str | Path] = [sys.executable, worker, work, path, mark]
            started = start_process(command, stdout=to_report)
            ends[mark] = [started.kill, started.wait]
        else:  # where a fork saves most of the time
            child = multiprocessing.get_context('fork').Process(
                target=concurrency_worker.work, args=(work, path, mark, to_report)
            )
            child.start()
            ends[mark] = [child.kill, child.join]
        while mark not in wait():
            pass

    def wait() -> str:
        """Wait until a worker has written a mark, and return all marks."""
        marks = os.read(report, 2**16).decode()
        assert '!' not in marks
        done.update(marks)
        return marks

    def kill(mark: str) -> None:
        for end in ends.pop(mark):
            end()

    writers = list('abcd'[:number_of_writers])
    readers = ['1', '2']
    try:
        for mark in writers:
            start('commit', mark)
        for mark in readers:
            start('read', mark)
        for _ in range(KILLS):
            # At a moment that does not depend on what the writers do.
            time.sleep(chance.random() / 200)
            mark = writers.pop(chance.randrange(len(writers)))
            kill(mark)
            read_whole(path)
            # A mark that the killed worker cannot have left.
            writers.append(mark.swapcase())
            start('commit', writers[-1])
    finally:
        for mark in list(ends):
            kill(mark)
        os.close(report)
        os.close(to_report)

    read_whole(path)
    left = sorted(set(os.listdir(tmp_path)) - {'state.json'})
    kills = KILLS + len(writers)
    assert [name for name in left if not re.fullmatch(TEMPORARY_NAME, name)] == []
    assert len(left) <= kills
    for name in left:
        (tmp_path / name).unlink()
    atomic_store.open(path, default='nothing').commit()
    read_whole(path)
    assert os.listdir(tmp_path) == ['state.json']
    reads = sum(done[mark] for mark in readers)
    commits = done.total() - reads
    print(
        f'\n{number_of_writers} writers at a time: {commits} commits, {kills} kills, '
        f'{len(left)} left; {reads} reads, 0 torn'
    )
