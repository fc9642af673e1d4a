"""What all tests can ask for."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from typing import Any

import pytest

from atomic_store import _files


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--no-skips', action='store_true', help='fail where a test would be skipped'
    )


def _fail_if_skipped(
    report: pytest.TestReport | pytest.CollectReport, config: pytest.Config
) -> None:
    if report.skipped and config.getoption('--no-skips'):
        report.outcome = 'failed'


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report, collector.config)
    return report


@pytest.fixture(params=['unnamed', 'named', 'copied'])
def temporary_file(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Run the test with each kind of temporary file.

    One without a name is copied where hard links are refused, as on Android. No file
    system of the tests does that, so there the function does.
    """

    link = os.link

    def link_what_has_a_name(source: Any, name: Any, **kwargs: Any) -> None:
        if str(source).startswith('/proc/'):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        link(source, name, **kwargs)

    if request.param == 'named':
        monkeypatch.setattr(_files, '_O_TMPFILE', None)
    elif request.param == 'copied':
        monkeypatch.setattr(os, 'link', link_what_has_a_name)
    return str(request.param)
