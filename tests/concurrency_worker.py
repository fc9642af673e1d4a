"""A process of test_concurrency, to kill: `python concurrency_worker.py WORK PATH MARK`.

After each read or commit, it writes its mark (a byte) to its output. If it fails, it
writes `!`.
"""

from __future__ import annotations

import os
import random
import sys
import time

import atomic_store


def value_of(number: int) -> list[int]:
    """A value whose first item tells what the rest must be."""
    return [number] * (1, 200, 20000)[number % 3]


def read_whole(path: str | os.PathLike[str]) -> None:
    if os.name == 'nt':
        time.sleep(0.05)  # there, a file that is always open cannot be replaced
    value: list[int] = atomic_store.open(path).value
    assert value == value_of(value[0])


def work(kind: str, path: str | os.PathLike[str], mark: str, output: int) -> None:
    try:
        store = atomic_store.open(path)
        while True:
            if kind == 'read':
                read_whole(path)
            else:
                store.value = value_of(random.randrange(10**6))
                store.commit()
            os.write(output, mark.encode())
    finally:
        os.write(output, b'!')


if __name__ == '__main__':
    work(sys.argv[1], sys.argv[2], sys.argv[3], 1)
