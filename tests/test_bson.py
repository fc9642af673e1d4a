"""BSON with either of the two packages of that name, and everything else without them.

The tests use the package that is installed: the standalone `bson`, or PyMongo's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import left_alone, notes

import atomic_store

DOCUMENT = {'name': 'Zoë ♥', 'list': [1, 2.5, True, None], 'nested': {'bytes': b'\0'}}


@pytest.fixture
def bson() -> Any:
    return pytest.importorskip('bson', reason='needs bson')


@pytest.fixture(params=['name', 'module'])
def format(request: pytest.FixtureRequest, bson: Any) -> Any:
    return 'bson' if request.param == 'name' else bson


def encoded(bson: Any, document: Any) -> bytes:
    """What the package itself writes for a document. PyMongo's has no `dumps`."""
    data = bson.dumps(document) if hasattr(bson, 'dumps') else bson.encode(document)
    assert isinstance(data, bytes)
    return data


def test_a_document_is_written_as_the_package_writes_it(
    tmp_path: Path, bson: Any, format: Any
) -> None:
    path = tmp_path / 'store'
    with atomic_store.open(path, {}, format) as store:
        assert store.is_binary
        store.value.update(DOCUMENT)
    assert path.read_bytes() == encoded(bson, DOCUMENT)
    with atomic_store.open(path, None, format) as store:
        assert store.value == DOCUMENT
        store.value['nested'] = {}
    assert path.read_bytes() == encoded(bson, DOCUMENT | {'nested': {}})


@pytest.mark.parametrize('value', [[1], 'text', None, {'key': object()}])
def test_a_value_that_is_no_document_is_refused_and_the_file_left_alone(
    tmp_path: Path, bson: Any, format: Any, value: Any
) -> None:
    path = tmp_path / 'store'
    store = atomic_store.open(path, DOCUMENT, format)
    store.commit()
    store.value = value
    with pytest.raises(Exception, match=r'.') as expected:
        encoded(bson, value)
    with left_alone(tmp_path), pytest.raises(expected.type) as raised:
        store.commit()
    assert notes(raised.value) == [f'while committing {str(path)!r}']


WITHOUT_BSON = """
import os
import sys

import atomic_store

sys.path = ['.']  # on which there is no bson
if sys.argv[1:]:
    os.mkdir('bson')  # which can be imported, as a namespace package

try:
    atomic_store.open('store', format='bson')
except ValueError as error:
    assert 'atomic-store[bson]' in str(error), error
    assert 'pymongo' in str(error), error
    assert bool(error.__cause__) == (not sys.argv[1:])
else:
    raise AssertionError
for format in 'json', 'pickle':
    with atomic_store.open(format, [], format) as store:
        store.value.append(1)
    assert atomic_store.open(format, None, format).value == [1]
"""


@pytest.mark.parametrize('arguments', [[], ['folder']], ids=['', 'a folder'])
def test_without_bson_the_rest_works_and_the_error_says_what_to_install(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, '-P', '-c', WITHOUT_BSON, *arguments],
        cwd=tmp_path,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert not done.returncode, done.stderr
    assert not (tmp_path / 'store').exists()
