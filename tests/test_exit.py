"""A program that exits with success commits, and commits work until the very end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import atomic_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / 'state.json'
    path.write_text('"old"')
    return path


@pytest.mark.parametrize(
    ('code', 'value'),
    [
        *((code, 'new') for code in (None, 0, False)),
        *((code, 'old') for code in (1, -1, True, 'message', '', 0.0, list[str]())),
    ],
)
def test_an_exit_commits_only_with_success_and_propagates(
    path: Path, code: Any, value: str
) -> None:
    store = atomic_store.open(path)
    with pytest.raises(SystemExit) as raised, store, store:
        store.value = 'new'
        sys.exit(code)
    assert raised.value.code is code
    assert not hasattr(raised.value, '__notes__')
    assert path.read_text() == f'"{value}"'
    assert store.level == 0


def test_an_exit_whose_commit_fails_raises_the_error_of_the_commit(path: Path) -> None:
    store = atomic_store.open(path)
    with pytest.raises(TypeError, match='not JSON serializable') as raised, store:
        store.value = object()
        sys.exit()
    assert isinstance(raised.value.__context__, SystemExit)
    assert path.read_text() == '"old"'
    assert store.level == 0


# By then, builtins such as `open` are gone.
PROGRAM = """
import atexit
import sys

import atomic_store


class AtExit:
    def __init__(self):
        self.open = atomic_store.open
        self.arguments = sys.argv[2], [], sys.argv[3]  # the path, the default, the format
        self.store = self.open(*self.arguments)

    def work(self):
        self.store.value.append('committed')
        self.store.commit()
        with self.open(*self.arguments) as store:
            store.value.append('loaded')


class AtDeletion(AtExit):
    def __del__(self):
        self.work()


def until_closed():
    state = AtExit()
    try:
        yield
    finally:
        state.work()


if sys.argv[1] == 'atexit':
    atexit.register(AtExit().work)
elif sys.argv[1] == '__del__':
    state = AtDeletion()
elif sys.argv[1] == '__del__ in a cycle':
    state = AtDeletion()
    state.itself = state
elif sys.argv[1] == 'generator':
    generator = until_closed()
    next(generator)
"""


@pytest.mark.parametrize('old', [[], ['old']], ids=['new', 'existing'])
@pytest.mark.parametrize('format', ['json', 'pickle'])
@pytest.mark.parametrize(
    'moment', ['atexit', '__del__', '__del__ in a cycle', 'generator']
)
def test_a_program_can_commit_and_load_while_it_shuts_down(
    tmp_path: Path, moment: str, format: str, old: list[str]
) -> None:
    path = tmp_path / 'state'
    if old:
        atomic_store.open(path, old, format).commit()  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, '-P', '-c', PROGRAM, moment, path, format],
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.stderr == ''
    store = atomic_store.open(path, None, format)  # type: ignore[arg-type]
    assert store.value == [*old, 'committed', 'loaded']
    assert list(tmp_path.iterdir()) == [path]
