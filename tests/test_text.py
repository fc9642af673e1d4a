"""Text is UTF-8 and unchanged, on every system and in every locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import atomic_store

ENDINGS = 'a\r\nb\rc\nd\u2028e\x85f\x0c\x1cg\r'


class Lines(atomic_store.AbstractFormatFile):
    """Writes pieces as they are, and reads by lines."""

    def dump(self, value: list[str], file: object) -> None:
        file.writelines(value)  # type: ignore[attr-defined]

    def load(self, file: object) -> list[str]:
        return list(file)  # type: ignore[call-overload, no-any-return]


def test_line_endings_are_not_changed_and_only_n_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / 'text'
    atomic_store.open(path, [ENDINGS], Lines(), is_binary=False).commit()
    assert path.read_bytes() == ENDINGS.encode()
    store = atomic_store.open(path, [], Lines(), is_binary=False)
    assert store.value == ['a\r\n', 'b\rc\n', 'd\u2028e\x85f\x0c\x1cg\r']


@pytest.mark.parametrize('text', ['äß', '日本', '🎉', 'a\u0301', '\ufeff', ENDINGS])
def test_text_is_utf_8(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'state.json'
    atomic_store.open(path, text, dump_kwargs={'ensure_ascii': False}).commit()
    assert path.read_bytes() == json.dumps(text, ensure_ascii=False).encode()
    assert atomic_store.open(path).value == text


IN_A_LOCALE_WITHOUT_UTF_8 = """
import locale, sys
import atomic_store
from test_text import ENDINGS, Lines

assert locale.getencoding().lower() not in {'utf-8', 'utf8'}, locale.getencoding()
path, text = sys.argv[1], '\\xe4\\u65e5\\U0001f389' + ENDINGS
store = atomic_store.open(path, [text], Lines(), is_binary=False)
store.commit()
assert ''.join(atomic_store.open(path, [], Lines(), is_binary=False).value) == text
"""


def test_text_is_utf_8_and_unchanged_in_the_locale_c(tmp_path: Path) -> None:
    path = tmp_path / 'grüße'
    subprocess.run(
        [sys.executable, '-P', '-Werror', '-c', IN_A_LOCALE_WITHOUT_UTF_8, path],
        env={
            **os.environ,
            'LC_ALL': 'C',
            'PYTHONUTF8': '0',
            'PYTHONCOERCECLOCALE': '0',
            'PYTHONPATH': os.pathsep.join(sys.path),
        },
        check=True,
        timeout=60,
    )
    assert path.read_bytes() == 'ä日🎉'.encode() + ENDINGS.encode()
    assert os.listdir(tmp_path) == ['grüße']
