"""Measure what a commit and a load cost, and what the same work costs elsewhere.

    pip install tinydb pickledb sqlitedict diskcache json-store orjson
    python tests/benchmark.py --output figures.json

Run it on a real disk and an idle machine; it never fails on a time. Libraries that
are not installed are left out, and without strace what it would tell.
"""

from __future__ import annotations

import argparse
import dbm
import gc
import importlib
import itertools
import json
import os
import pickle
import random
import re
import shelve
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from atomicwrites import AtomicWriter

import atomic_store

MB = 10**6
Case = Callable[[], Any]
Figures = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--folder', default='.', help='where to work (default: here)')
    parser.add_argument('--output', help='file for all figures, in seconds, as JSON')
    parser.add_argument('--quick', action='store_true', help='less of everything')
    arguments = parser.parse_args()
    quick = arguments.quick
    folder = os.path.realpath(arguments.folder)
    figures: dict[str, Any] = {'machine': describe_machine(folder)}
    print(*(f'{name}: {what}' for name, what in figures['machine'].items()), sep='\n')
    if figures['machine']['file system'].startswith(('tmpfs', 'ramfs')):
        print('WARNING: this is memory, where a sync costs nothing. Use --folder.')
    with tempfile.TemporaryDirectory(dir=folder) as folder:
        figures['ratios'] = measure_ratios(folder, quick)
        figures['memory'] = measure_memory(folder, 10 * MB if quick else 100 * MB)
        figures['import'] = measure_import(folder, 5 if quick else 50)
        figures['libraries'] = measure_libraries(folder, quick)
    if arguments.output is not None:
        Path(arguments.output).write_text(json.dumps(figures, indent=1) + '\n')


def describe_machine(folder: str) -> dict[str, str]:
    longest, file_system = '', 'unknown'
    for line in Path('/proc/self/mountinfo').read_text().splitlines():
        # The fifth field is the mount point; type and source follow a dash (proc(5)).
        place = line.split()[4].encode().decode('unicode_escape')
        covers = os.path.commonpath([folder, place]) == place
        if covers and len(place) >= len(longest):
            kind, source = line.partition(' - ')[2].split()[:2]
            longest, file_system = place, f'{kind} on {source}'
    system, python = ' '.join(os.uname()[::2]), sys.version.split()[0]
    return {'file system': file_system, 'system': system, 'Python': python}


def records(count: int) -> dict[str, Any]:
    """Return a value of small records, which take about 100 bytes each as JSON."""
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


class Size(int):
    def __str__(self) -> str:
        for unit, name in (MB, 'MB'), (1000, 'kB'):
            if self >= unit:
                return f'{self / unit:.3g} {name}'
        return f'{int(self)} B'


class Times(dict[str, float]):
    """Seconds: a median, and the quartiles to show how far it can be trusted."""

    def __init__(self, times: list[float]) -> None:
        low, median, high = statistics.quantiles(times, n=4, method='inclusive')
        super().__init__(median=median, low=low, high=high)

    def __str__(self) -> str:
        median, low, high = map(milliseconds, self.values())
        return f'{median} ({low}-{high})'


def milliseconds(seconds: float) -> str:
    return f'{seconds * 1000:.3g}' if seconds < 0.1 else f'{seconds * 1000:.0f}'


def in_turns(
    cases: dict[str, Case], prepare: Case, seconds: float, least: int, most: int
) -> dict[str, Times]:
    """Time each case in turn, every other round backwards, and drop the first round.

    This goes on for some seconds, within the least and the most rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    end = time.monotonic() + seconds
    for done in range(-1, most):
        if done >= least and time.monotonic() > end:
            break
        for name in names:
            prepare()
            start = time.perf_counter()
            result = cases[name]()
            elapsed = time.perf_counter() - start
            del result  # which is not free
            if done >= 0:
                times[name].append(elapsed)
        names.reverse()
    return {name: Times(times[name]) for name in cases}


def print_table(title: str, figures: Figures) -> None:
    lines = [list(figures[0]), *([*map(show, row.values())] for row in figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(f'\n{title}\n')
    for first, *rest in lines:
        cells = map(str.rjust, rest, widths[1:])
        print('', first.ljust(widths[0]), *cells, sep='  ', flush=True)


def show(cell: object) -> str:
    return f'{cell:.3f}' if isinstance(cell, float) else str(cell)


# Part 1: against the floor, and what import takes


def commit_by_hand(path: str, encode: Callable[[Any], bytes], value: Any) -> None:
    data = encode(value)
    with open(f'{path}.tmp', 'wb', buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    os.rename(f'{path}.tmp', path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def load_by_hand(path: str, decode: Callable[[bytes], Any]) -> Any:
    with open(path, 'rb') as file:
        data = file.read()
    return decode(data)


def commit_by_json_dump(path: str, value: Any) -> None:
    with AtomicWriter(path, 'w', overwrite=True).open() as file:
        json.dump(value, file)


def load(path: str, format: Any) -> Any:
    return atomic_store.open(path, format=format).value


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


# The last is how many bytes a record takes, or a little less.
CODECS: dict[Any, tuple[Callable[[Any], bytes], Callable[[bytes], Any], int]] = {
    'json': (json_bytes, json.loads, 95),
    'pickle': (pickle.dumps, pickle.loads, 60),
}


def measure_ratios(folder: str, quick: bool) -> Figures:
    figures = []
    ours, theirs = f'{folder}/ours', f'{folder}/theirs'
    sizes = (100, 10_000, MB) if quick else (100, 10_000, MB, 10 * MB, 100 * MB)
    for size, format in itertools.product(sizes, CODECS):
        encode, decode, record_size = CODECS[format]
        value, large = records(size // record_size), size >= MB
        store = atomic_store.open(ours, format=format)
        store.value = value
        store.commit()
        our_load = partial(load, ours, format)
        floor: Case = partial(commit_by_hand, theirs, encode, value)
        floor_load = partial(load_by_hand, ours, decode)
        work: list[tuple[str, Case, str, Case, float]] = [
            ('commit', store.commit, 'floor', floor, 1.05 if large else 1.25),
            ('load', our_load, 'floor', floor_load, 1.05 if large else 1.5),
        ]
        if large and format == 'json':
            dump = partial(commit_by_json_dump, theirs, value)
            work.append(('commit', store.commit, 'json.dump', dump, 1 / 2.2))
        for action, we, against, they, target in work:
            # A sample is to pay for the garbage collections that it brings about, and
            # for no others. In small ones they are rare, and the median leaves them out.
            times = in_turns(
                {'they': they, 'we': we},
                gc.collect if large else lambda: None,
                *((1, 3, 30) if quick else (6, 5, 500)),
            )
            what = {'work': f'{action} {format}', 'size': Size(os.path.getsize(ours))}
            what |= {'against': against}
            ratio = times['we']['median'] / times['they']['median']
            figures.append({**what, **times, **judge(ratio, target)})
        os.unlink(ours)
        os.unlink(theirs)
    print_table(
        'Against the floor (encode, write, fsync, rename, fsync the folder; read, decode)\n'
        'and json.dump into an AtomicWriter: ms, median and quartiles; ratio of medians',
        figures,
    )
    return figures


def judge(ratio: float, target: float) -> dict[str, Any]:
    verdict = 'met' if ratio <= target else 'MISSED'
    return {'ratio': ratio, 'at most': target, '': verdict}


def measure_memory(folder: str, size: int) -> Figures:
    figures = []
    for work in 'commit', 'load':
        floor, we = (
            Size(in_new_process(peak_growth, f'{folder}/memory', size, work, is_floor))
            for is_floor in (True, False)
        )
        sizes = {'floor': floor, 'we': we}
        figures.append({'work': work, **sizes, **judge(we / floor, 1.1)})
    print_table(
        f'Peak memory of {Size(size)} of JSON: how far the resident set grows in the work,\n'
        'to which the value belongs when it is loaded, but not when it is committed',
        figures,
    )
    return figures


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as executor:
        return executor.submit(function, *arguments).result()


def peak_growth(path: str, size: int, work: str, is_floor: bool) -> int:
    case: Case = partial(load, path, 'json')
    if work == 'load' and is_floor:
        case = partial(load_by_hand, path, json.loads)
    elif work == 'commit':
        Path(path).unlink(missing_ok=True)  # what loads it would leave memory to reuse
        store = atomic_store.open(path)
        store.value = records(size // CODECS['json'][2])
        by_hand = partial(commit_by_hand, path, json_bytes, store.value)
        case = by_hand if is_floor else store.commit
    gc.collect()
    # Not ru_maxrss, which a child that was exec'd begins with its parent's peak. Writing
    # 5 sets the peak to what the process holds at that moment (proc(5), clear_refs).
    Path('/proc/self/clear_refs').write_text('5')
    before = peak()
    result = case()
    growth = peak() - before
    del result
    return growth


def peak() -> int:
    status = Path('/proc/self/status').read_text()
    return 1024 * int(re.findall(r'VmHWM:\s+(\d+) kB', status)[0])


def measure_import(folder: str, rounds: int) -> dict[str, Any]:
    # Bytecode is in a folder of its own, where the first round writes it.
    environment = {
        'PYTHONDONTWRITEBYTECODE': '',
        'PYTHONPYCACHEPREFIX': f'{folder}/pyc',
    }

    def run(code: str) -> str:
        command, variables = [sys.executable, '-c', code], {**os.environ, **environment}
        return subprocess.check_output(command, env=variables, text=True)

    times: dict[str, list[float]] = {'atomic_store': [], 'json, pickle, tempfile': []}
    for _, name in itertools.product(range(rounds + 1), times):
        code = f'import time; t = time.perf_counter(); import {name}'
        times[name].append(float(run(f'{code}; print(time.perf_counter() - t)')))
    figures: dict[str, Any] = {name: Times(times[name][1:]) for name in times}
    print('', *(f'import {name}: {figures[name]} ms' for name in times), sep='\n')
    code = 'import {}, sys; print(*sys.modules)'
    usual = run(code.format('json, os, pickle')).split()
    more = sorted(set(run(code.format('atomic_store')).split()).difference(usual))
    print('Modules beyond those that json, os and pickle import:', *more)
    return {**figures, 'more': more}


# Part 2: against what a script could use instead


class Store(NamedTuple):
    fill: Callable[[dict[str, Any]], object]
    set: Callable[[str, Any], object]
    save: Case
    get: Callable[[str], Any]
    close: Case


def mapping(store: Any, save: Case, close: Case = lambda: None) -> Store:
    return Store(store.update, store.__setitem__, save, store.get, close)


def open_atomic_store(path: str, format: str = 'json') -> Store:
    store = atomic_store.open(path, {}, importlib.import_module(format))
    return mapping(store.value, store.commit)


def open_shelve(path: str) -> Store:
    shelf = shelve.open(path)  # noqa: SIM115
    return mapping(shelf, shelf.sync, shelf.close)


def open_tinydb(path: str) -> Store:
    tinydb = importlib.import_module('tinydb')
    database = tinydb.TinyDB(path)
    is_key = tinydb.Query().key.__eq__
    return Store(
        lambda value: database.insert_multiple({'key': k, **value[k]} for k in value),
        lambda key, record: database.update(record, is_key(key)),
        lambda: None,
        lambda key: database.get(is_key(key)),
        database.close,
    )


def open_pickledb(path: str) -> Store:
    store = importlib.import_module('pickledb').PickleDB(path)
    store.load()
    return Store(store.db.update, store.set, store.save, store.get, lambda: None)


def open_sqlitedict(path: str) -> Store:
    store = importlib.import_module('sqlitedict').SqliteDict(path)
    return mapping(store, store.commit, store.close)


def open_diskcache(path: str) -> Store:
    cache = importlib.import_module('diskcache').Cache(path)

    def fill(value: dict[str, Any]) -> None:
        with cache.transact():
            MutableMapping.update(cache, value)

    return Store(fill, cache.__setitem__, lambda: None, cache.get, cache.close)


def open_json_store(path: str) -> Store:
    store = importlib.import_module('json_store').open(path)
    return mapping(store, store.sync)


def open_sqlite3(path: str) -> Store:
    database = sqlite3.connect(path)
    database.execute('CREATE TABLE IF NOT EXISTS t (key TEXT PRIMARY KEY, record TEXT)')
    put, get = 'REPLACE INTO t VALUES (?, ?)', 'SELECT record FROM t WHERE key = ?'

    def fill(value: dict[str, Any]) -> None:
        rows = ((key, json.dumps(value[key])) for key in value)
        database.executemany(put, rows)

    return Store(
        fill,
        lambda key, record: database.execute(put, (key, json.dumps(record))),
        database.commit,
        lambda key: json.loads(database.execute(get, (key,)).fetchone()[0]),
        database.close,
    )


# The module that must be there, and what opens a store of it. The first four are followed
# to more records than the rest.
LIBRARIES: dict[str, tuple[str, Callable[[str], Store]]] = {
    'atomic_store, JSON': ('json', open_atomic_store),
    'atomic_store, pickle': ('pickle', partial(open_atomic_store, format='pickle')),
    'atomic_store, orjson': ('orjson', partial(open_atomic_store, format='orjson')),
    'sqlite3': ('sqlite3', open_sqlite3),
    'shelve': ('shelve', open_shelve),
    'TinyDB': ('tinydb', open_tinydb),
    'pickleDB': ('pickledb', open_pickledb),
    'sqlitedict': ('sqlitedict', open_sqlitedict),
    'diskcache': ('diskcache', open_diskcache),
    'json-store': ('json_store', open_json_store),
}
FOLLOWED = list(LIBRARIES)[:4]
KEY = 'user7'


def change(store: Store, record: dict[str, Any], numbers: Iterator[int]) -> None:
    store.set(KEY, {**record, 'visits': next(numbers)})
    store.save()


def read(open_path: Callable[[str], Store], path: str) -> Any:
    store = open_path(path)
    record = store.get(KEY)
    store.close()
    return record


def measure_libraries(folder: str, quick: bool) -> Figures:
    figures: Figures = []
    traces: dict[str, dict[str, str]] = {}
    for count in (10, 1000, 10_000) if quick else (10, 1000, 10_000, 100_000, MB):
        value, numbers = records(count), itertools.count()
        stores: dict[str, Store] = {}
        changes: dict[str, Case] = {}
        reads: dict[str, Case] = {}
        sizes = {}
        with ExitStack() as stack:
            for name, (module, open_path) in LIBRARIES.items():
                if (count == MB and name not in FOLLOWED) or not find_spec(module):
                    continue
                own = tempfile.mkdtemp(dir=folder)
                stack.callback(shutil.rmtree, own)
                path = f'{own}/data'
                store = open_path(path)
                store.fill(value)
                store.save()
                store.close()
                if name not in traces:
                    traces[name] = trace(name, path)
                files = Path(own).rglob('*')
                sizes[name] = Size(sum(file.stat().st_size for file in files))
                stores[name] = store = open_path(path)
                stack.callback(store.close)
                changes[name] = partial(change, store, value[KEY], numbers)
                reads[name] = partial(read, open_path, path)
            # What one library leaves for the kernel to write, the sync of the next one
            # would wait for: so sync() before each.
            rounds = (0.5, 3, 10) if quick else (5, 5, 100)
            changed = in_turns(changes, os.sync, *rounds)
            cold = in_turns(reads, os.sync, *rounds)
            for name, store in stores.items():
                if store.get(KEY) != reads[name]():
                    raise RuntimeError(f'{name} has lost a change')
        rows = [
            {'library': name, 'change': changed[name], 'cold read': cold[name]}
            | {'size': sizes[name], **traces[name]}
            for name in changed
        ]
        print_table(
            f'One of {count} records changed, as durably as the library does by itself, and\n'
            'one read by a new object, in a process where the library is imported and the\n'
            'file is in the page cache: ms, median and quartiles',
            rows,
        )
        figures += [{'records': count, **row} for row in rows]
    for work in 'change', 'cold read':
        print_growth(work, figures)
    return figures


# Part 3: how the cost grows


def print_growth(work: str, figures: Figures) -> None:
    rows: dict[int, dict[str, Any]] = {}
    for figure in figures:
        if figure['library'] in FOLLOWED:
            start = {'records': figure['records'], 'as JSON': figure['size']}
            row = rows.setdefault(figure['records'], start)
            row[figure['library']] = milliseconds(figure[work]['median'])
    print_table(f'{work.capitalize()} of one record, in ms', list(rows.values()))


# How a change gets to the disk


MARK = 'here the change begins or ends'
CALLS = 'fsync,fdatasync,write,pwrite64,ftruncate,?rename,?renameat,renameat2,faccessat'


def trace(name: str, path: str) -> dict[str, str]:
    before = {str(file) for file in Path(path).parent.iterdir()}
    here, output = os.path.dirname(os.path.abspath(__file__)), f'{path}.strace'
    code = f'import sys; sys.path.insert(0, {here!r}); import benchmark as b; '
    code += f'b.change_between_marks({name!r}, {path!r})'
    options = ['-fyqs999', '-o', output, '-e', f'trace={CALLS},?access,?faccessat2']
    try:
        command = ['strace', *options, sys.executable, '-c', code]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return {'syncs': '?', 'replaces': '?'}
    calls = Path(output).read_text().split(MARK)[1]
    os.unlink(output)
    synced = re.findall(r'\bf(?:data)?sync\(\d+<(.+?)>', calls)
    written = set(re.findall(r'\b(?:write|pwrite64|ftruncate)\(\d+<(.+?)>', calls))
    renamed = set(re.findall(r'\brename.*"(.+?)"', calls))
    if any(file.endswith(('-journal', '-wal')) for file in written):
        replaces = 'by a journal'
    elif before & renamed and not before & written:
        replaces = 'by a rename'
    else:
        replaces = 'no'
    kinds = {'folder' if os.path.isdir(file) else 'file' for file in synced}
    if name == 'shelve':
        replaces += f' ({dbm.whichdb(path)})'
    return {'syncs': ' and '.join(sorted(kinds)) or 'no', 'replaces': replaces}


def change_between_marks(name: str, path: str) -> None:
    store = LIBRARIES[name][1](path)
    record, numbers = store.get(KEY), itertools.count()
    change(store, record, numbers)  # the first may do what the others need not
    os.access(MARK, os.F_OK)
    change(store, record, numbers)
    os.access(MARK, os.F_OK)
    store.close()


if __name__ == '__main__':
    main()
