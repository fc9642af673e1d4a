"""Fixtures and options for all tests."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import linux

from atomic_store import _replacement


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--no-skips', action='store_true', help='fail where a test would be skipped'
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption('--no-skips'):
        config.pluginmanager.register(_NoSkips())


# Tests that may be skipped all the same: this system will never have what they need.
_NEVER = (
    ('needs Linux', 'needs POSIX', 'needs root')
    if os.name == 'nt'
    else ('needs Windows',)
)


def _is_for_another_system(longrepr: object) -> bool:
    match longrepr:
        case (_, _, str(reason)):
            return reason.endswith(_NEVER)
    return False


class _NoSkips:
    @pytest.hookimpl(tryfirst=True)  # before the report is counted, and shown
    def pytest_runtest_logreport(
        self, report: pytest.TestReport | pytest.CollectReport
    ) -> None:
        if report.skipped and not _is_for_another_system(report.longrepr):
            report.outcome = 'failed'

    pytest_collectreport = pytest_runtest_logreport  # of files that are skipped whole


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which everybody may write. Others cannot enter pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(os.path.realpath(name))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, because thousands of commits would take long on a disk."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """Make gc.collect() ignore everything older than the test."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(
    params=[
        pytest.param('unnamed', marks=linux),
        'named',
        pytest.param('copied', marks=linux),
    ]
)
def temporary_file(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Run the test with each kind of temporary file that the system has.

    If hard links are refused, as on Android, a file without a name is copied. No file
    system in the tests refuses them, so here `os.link` does.
    """

    link = os.link

    def link_what_has_a_name(source: Any, name: Any, **kwargs: Any) -> None:
        if str(source).startswith('/proc/'):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        link(source, name, **kwargs)

    if request.param == 'named':
        monkeypatch.setattr(_replacement, '_O_TMPFILE', None)
    elif request.param == 'copied':
        monkeypatch.setattr(os, 'link', link_what_has_a_name)
    return str(request.param)
