"""The examples of the README and of the docstrings do what they say.

Each example of the README stands alone, and runs twice in one folder: the second run
finds the files of the first.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import sys
from itertools import groupby
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

import atomic_store

TESTS = Path(__file__).parent
README = TESTS.parent / 'README.md'
TEXT = README.read_text(encoding='utf-8')
TESTS_TEXT = (TESTS / 'README.md').read_text(encoding='utf-8')


def run(example: Example) -> None:
    """Run a block, and compare its output with its comments."""
    source = example.parsed
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, README, 'exec'), example.namespace)  # noqa: S102
    said = ''.join(f'{line}\n' for line in re.findall(r'print\(.*\)  # (.*)', source))
    if said:
        checker = doctest.OutputChecker()
        assert checker.check_output(said, printed.getvalue(), doctest.ELLIPSIS)


def section(example: Example) -> str:
    before = example.document.text[: example.region.start]
    headings: list[str] = re.findall('^#+ (.*)', before, re.MULTILINE)
    return headings[-1]


SECTIONS = {
    name: list(examples)
    for name, examples in groupby(
        Sybil([CodeBlockParser('python', run)]).parse(README).examples(), section
    )
}


@pytest.mark.parametrize('name', SECTIONS)
def test_readme(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        for example in SECTIONS[name]:
            example.namespace.clear()
            example.evaluate()


def packages() -> dict[str, str]:
    """Return the arguments of `open` for each package in the table of this folder."""
    table = TESTS_TEXT.partition('| `format` | other arguments |')[2]
    found = {}
    for row in table.partition('\n\n')[0].splitlines()[2:]:
        formats, arguments = row.split('|')[1:3]
        for name in re.findall('`(.+?)`', formats):
            found[name] = f'format={name}, {arguments.strip(" `")}'
    return found


@pytest.mark.parametrize('name', packages())
def test_a_package_works_as_it_is(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name.removesuffix('.YAML()'))
    root = name.partition('.')[0]
    arguments = eval(f'dict({packages()[name]})', {root: sys.modules[root]})
    value = {'name': 'Zoë', 'numbers': [1, 2.5]}
    atomic_store.open(tmp_path / 'file', value, **arguments).commit()
    assert atomic_store.open(tmp_path / 'file', **arguments).value == value


def test_links_of_the_readme_work_on_the_page_of_the_package_too() -> None:
    targets = re.findall(r'\]\((.*?)\)', TEXT)
    assert [target for target in targets if not target.startswith('#')] == []


def test_the_commands_of_the_readme_set_up_their_own_environment() -> None:
    commands = re.findall(r'^```sh\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    for command in commands:
        assert command.startswith('python3 -m venv .venv && .venv/bin/pip install ')
        assert '&& .venv/bin/py' in command


def test_each_test_file_is_listed_with_its_promise() -> None:
    rows = [line for line in TESTS_TEXT.splitlines() if line.startswith('|')]
    listed = [name for row in rows for name in re.findall(r'`(test_\w+\.py)`', row)]
    assert set(listed) == {file.name for file in TESTS.glob('test_*.py')}


DOCTESTS = [
    test
    for name in atomic_store.__all__
    for test in doctest.DocTestFinder().find(getattr(atomic_store, name), name)
    if test.examples
]


@pytest.mark.parametrize('test', DOCTESTS, ids=lambda test: test.name)
def test_docstring(
    test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_every_public_class_and_function_has_an_example() -> None:
    assert {test.name.partition('.')[0] for test in DOCTESTS} == set(
        atomic_store.__all__
    )
