"""Count what kills leave behind: `python tests/kills.py`.

A process commits in a tight loop and is killed at a random moment, again and again: once
with this package, and once with plain atomicwrites. The table shows how many kills left
a temporary file. After each kill, the value must be whole.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import atomicwrites

import atomic_store

SIZES = {'100 B': 100, '1 MB': 10**6, '10 MB': 10**7}


def commit_forever(way: str, path: str, size: int) -> None:
    store = atomic_store.open(path)
    for number in range(sys.maxsize):
        store.value = str(number % 10) * size
        if way == 'atomic_store':
            store.commit()
        else:
            with atomicwrites.atomic_write(path, overwrite=True) as file:
                json.dump(store.value, file)
        if number == 0:
            print('started', flush=True)


def kill(way: str, size: int, kills: int) -> int:
    """Return how many kills left a file behind."""
    chance, left = random.Random(size), 0
    with tempfile.TemporaryDirectory(dir='.') as folder:
        path = Path(folder, 'state.json')
        atomic_store.open(path, '0' * size).commit()
        for _ in range(kills):
            command = [sys.executable, __file__, '--commit', way, str(path), str(size)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                assert process.stdout
                process.stdout.readline()
                # Long enough for a few commits, each of which takes up to 0.1 seconds.
                time.sleep(chance.uniform(0, 0.2))
                process.kill()
            value = atomic_store.open(path).value
            assert value == value[0] * size
            others = [other for other in Path(folder).iterdir() if other != path]
            left += bool(others)
            for other in others:
                other.unlink()
    return left


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--kills', type=int, default=60)
    parser.add_argument('--commit', nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.commit:
        way, path, size = arguments.commit
        commit_forever(way, path, int(size))
    print(f'kills that left a file, of {arguments.kills}:')
    for name, size in SIZES.items():
        for way in 'atomic_store', 'atomicwrites':
            left = kill(way, size, arguments.kills)
            print(f'{name:>6}  {way:12} {left:3}', flush=True)


if __name__ == '__main__':
    os.environ['PYTHONSAFEPATH'] = '1'
    main()
