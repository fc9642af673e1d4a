"""What other systems lack is done without. Here they are imitated, not tested."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import atomic_store
from atomic_store import _files


@pytest.mark.parametrize(
    'lacks',
    [
        pytest.param(['listxattr'], id='macOS'),
        pytest.param(['listxattr', 'fchown', 'O_DIRECTORY'], id='Windows'),
    ],
)
def test_a_commit_does_without_what_a_system_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: list[str]
) -> None:
    monkeypatch.setattr(_files, '_O_TMPFILE', None)
    for name in lacks:
        monkeypatch.delattr(os, name, raising=False)
    path = tmp_path / 'state.json'
    for value in 'first', 'second':
        with atomic_store.open(path) as store:
            store.value = value
        assert path.read_text() == f'"{value}"'
        assert list(tmp_path.iterdir()) == [path]
