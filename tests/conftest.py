"""What all tests can ask for."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from atomic_store import _files


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--no-skips', action='store_true', help='fail where a test would be skipped'
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption('--no-skips'):
        report.outcome = 'failed'
    return report


@pytest.fixture(params=['unnamed', 'named'])
def temporary_file(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Run the test with both kinds of temporary file."""
    if request.param == 'named':
        monkeypatch.setattr(_files, '_O_TMPFILE', None)
    return str(request.param)
