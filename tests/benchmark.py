"""Measure a commit and a load against the least work they need, and against SQLite.

    python tests/benchmark.py

Run it on Linux, on a real disk (`--folder`) and an idle machine. It never fails
because of a time. orjson is left out if it is not installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

import atomic_store

Case = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--folder', default='.', help='where to work')
    parser.add_argument('--quick', action='store_true', help='less of everything')
    arguments = parser.parse_args()
    seconds = 0.3 if arguments.quick else 5.0  # for each figure
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        describe_machine(folder)
        compare_with_the_floor(folder, seconds)
        compare_with_sqlite(folder, seconds, 10_000 if arguments.quick else 100_000)
        compare_with_many_classes(seconds)
        compare_new_stores(folder, seconds, 1000 if arguments.quick else 10_000)
        compare_memory(folder)


def describe_machine(folder: str) -> None:
    df = ['df', '--output=fstype', folder]
    kind = subprocess.check_output(df, text=True).split()[1]
    print(f'{kind}, Linux {os.uname().release}, Python {sys.version.split()[0]}')
    if kind in ('tmpfs', 'ramfs'):
        print('WARNING: this is memory, where a sync costs nothing. Use --folder.')


def records(count: int) -> dict[str, Any]:
    """A value of small records, which take about 100 bytes each as JSON."""
    number = random.Random(0)
    return {
        f'user{i}': {
            'name': f'Ada Lovelace {i:07x}',
            'visits': number.randrange(10000),
            'score': round(number.random() * 100, 2),
            'tags': ['new', 'abroad'][i % 3 :],
        }
        for i in range(count)
    }


def in_turns(cases: Sequence[Case], seconds: float) -> list[float]:
    """The median time of each case, in ms. The cases take turns in changing order."""
    times: list[list[float]] = [[] for _ in cases]
    order = list(zip(cases, times, strict=True))
    end = time.monotonic() + seconds * len(cases)
    while time.monotonic() < end or len(times[0]) < 4:
        for case, its_times in order:
            start = time.perf_counter()
            case()
            its_times.append(time.perf_counter() - start)
        order.reverse()
    # The first run of each creates the file and fills the caches.
    return [statistics.median(each[1:]) * 1000 for each in times]


# The floor: the least work that a commit and a load need


def commit_by_hand(path: str, encode: Callable[[Any], bytes], value: Any) -> None:
    data = encode(value)
    with open(f'{path}.tmp', 'wb', buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    os.rename(f'{path}.tmp', path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def load_json_by_hand(path: str) -> Any:
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def load_pickle_by_hand(path: str) -> Any:
    with open(path, 'rb') as file:
        return pickle.load(file)


def load(path: str, format: Any) -> Any:
    return atomic_store.open(path, format=format).value


CODECS: dict[str, tuple[Callable[[Any], bytes], Callable[[str], Any]]] = {
    'json': (lambda value: json.dumps(value).encode(), load_json_by_hand),
    'pickle': (pickle.dumps, load_pickle_by_hand),
}


def compare_with_the_floor(folder: str, seconds: float) -> None:
    print(
        '\nAgainst the floor: encode, write, sync, rename, sync the folder; open, load'
    )
    print(f'{"as JSON":>24}{"floor, ms":>12}{"we, ms":>12}{"ratio":>8}')
    ours, theirs = f'{folder}/ours', f'{folder}/theirs'
    sizes = {'100 B': 1, '10 kB': 100, '1 MB': 10_000}
    for name, size in itertools.product(CODECS, sizes):
        encode, load_by_hand = CODECS[name]
        store = atomic_store.open(ours, format=name)  # type: ignore[arg-type]
        store.value = records(sizes[size])
        by_hand = partial(commit_by_hand, theirs, encode, store.value)
        loads = partial(load_by_hand, ours), partial(load, ours, name)
        for work, cases in ('commit', (by_hand, store.commit)), ('load', loads):
            floor, we = in_turns(cases, seconds)
            print(f'{work:8}{name:8}{size:>8}{floor:12.3f}{we:12.3f}{we / floor:8.2f}')
        os.unlink(ours)


# A new store in a folder with many files


def open_and_commit(numbers: Iterator[int], folder: str) -> None:
    atomic_store.open(f'{folder}/new{next(numbers)}', records(1)).commit()


def commit_new_by_hand(numbers: Iterator[int], folder: str) -> None:
    path = f'{folder}/new{next(numbers)}'
    with suppress(FileNotFoundError):
        open(path, 'rb').close()
    commit_by_hand(path, CODECS['json'][0], records(1))


def compare_new_stores(folder: str, seconds: float, most: int) -> None:
    print('\nA new store, against the floor with an open that fails')
    print(f'{"files":>24}{"floor, ms":>12}{"we, ms":>12}{"ratio":>8}')
    for count in 0, most:
        with tempfile.TemporaryDirectory(dir=folder) as full:
            for number in range(count):
                open(f'{full}/{number}', 'wb').close()
            cases = commit_new_by_hand, open_and_commit
            numbers = itertools.count()
            floor, we = in_turns(
                [partial(case, numbers, full) for case in cases], seconds
            )
            print(f'{count:24}{floor:12.3f}{we:12.3f}{we / floor:8.2f}')


# The memory that a commit takes beside the value


def peak(path: str, way: str) -> int:
    """The memory of a process that has made 50 MB of JSON, or nothing, in MB."""
    value = records(500_000)
    if way == 'json.dump':
        with open(path, 'w') as file:
            json.dump(value, file)
    elif way == 'commit':
        atomic_store.open(path, value).commit()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def compare_memory(folder: str) -> None:
    print('\nThe most memory of a process with a value of 50 MB as JSON, in MB')
    for way in 'nothing', 'json.dump', 'commit':
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
            megabytes = process.submit(peak, f'{folder}/{way}', way).result()
        print(f'{way:>24}{megabytes:12}')


# One of many records changed, and made durable


def change_in_store(store: atomic_store.AtomicStore) -> None:
    store.value['user7']['visits'] += 1
    store.commit()


def change_in_sqlite(database: sqlite3.Connection) -> None:
    (text,) = database.execute("SELECT record FROM t WHERE key = 'user7'").fetchone()
    record = json.loads(text)
    record['visits'] += 1
    database.execute("REPLACE INTO t VALUES ('user7', ?)", (json.dumps(record),))
    database.commit()


def compare_with_sqlite(folder: str, seconds: float, most: int) -> None:
    formats = ['json', 'pickle', *filter(find_spec, ['orjson'])]
    print(
        '\nOne of many records changed, in ms and in multiples of the smallest commit'
    )
    print(f'{"records":>9}', *(f'{name:>18}' for name in [*formats, 'SQLite']))
    smallest = 0.0
    for count in filter(most.__ge__, (10, 1000, 10_000, 100_000)):
        value = records(count)
        cases: list[Case] = []
        for name in formats:
            path = f'{folder}/{count}.{name}'
            store = atomic_store.open(path, value, import_module(name))
            cases.append(partial(change_in_store, store))
        database = sqlite3.connect(f'{folder}/{count}.sqlite')
        database.execute('CREATE TABLE t (key TEXT PRIMARY KEY, record TEXT)')
        rows = ((key, json.dumps(value[key])) for key in value)
        database.executemany('INSERT INTO t VALUES (?, ?)', rows)
        database.commit()
        times = in_turns([*cases, partial(change_in_sqlite, database)], seconds)
        database.close()
        smallest = smallest or times[0]
        print(f'{count:9}', *(f'{ms:9.3f} ={ms / smallest:6.1f} x' for ms in times))


# JSON in a process with many classes


def commit_among(classes: int, seconds: float) -> float:
    kept = [type(f'Class{i}', (dict,), {}) for i in range(classes)]
    # In memory, where a commit takes little longer than its JSON.
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        store = atomic_store.open(f'{folder}/state.json')
        store.value = records(100)
        (milliseconds,) = in_turns([store.commit], seconds)
    assert len(kept) == classes
    return milliseconds


def compare_with_many_classes(seconds: float) -> None:
    times: dict[int, list[float]] = {0: [], 4000: []}
    for _, classes in itertools.product(range(5), times):
        # Each in its own process, because classes may stay.
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
            work = process.submit(commit_among, classes, seconds / 5)
            times[classes].append(work.result())
    without, among = map(statistics.median, times.values())
    print('\nA commit of 10 kB of JSON, among 4000 classes derived from dict:')
    print(f'{among:.3f} ms, without them {without:.3f} ms, ratio {among / without:.2f}')


if __name__ == '__main__':
    main()
