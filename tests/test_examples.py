"""The examples of the README and of the docstrings do what they say."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from itertools import groupby
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

import atomic_store

README = Path(__file__).parent.parent / 'README.md'


def run(example: Example) -> None:
    """Run a block, and compare what it prints with what its comments say."""
    source = example.parsed
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, README, 'exec'), example.namespace)  # noqa: S102
    said = ''.join(f'{line}\n' for line in re.findall(r'print\(.*\)  # (.*)', source))
    if said:
        checker = doctest.OutputChecker()
        assert checker.check_output(said, printed.getvalue(), doctest.ELLIPSIS)


def compare(example: Example) -> None:
    """Compare a block with the file that the text before it names."""
    before = example.document.text[: example.region.start]
    name = re.findall(r'`(\w+\.\w+)`', before)[-1]
    assert Path(name).read_text(encoding='utf-8').strip() == example.parsed.strip()


def section(example: Example) -> str:
    before = example.document.text[: example.region.start]
    headings: list[str] = re.findall('^#+ (.*)', before, re.MULTILINE)
    return headings[-1]


PARSERS = [
    CodeBlockParser('python', run),
    *(CodeBlockParser(kind, compare) for kind in ('json', 'yaml', 'toml', 'text')),
]
SECTIONS = {
    name: list(examples)
    for name, examples in groupby(Sybil(PARSERS).parse(README).examples(), section)
}


@pytest.mark.parametrize('name', SECTIONS)
def test_readme(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in SECTIONS[name]:
        example.evaluate()


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
