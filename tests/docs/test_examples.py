# SPDX-License-Identifier: Apache-2.0
"""Every Python block of the documentation and of the docstrings runs, or says why it does not."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from unittest import SkipTest

import pytest
from sybil.document import Document, PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

import queuekit
from queuekit.testing import reset_memory

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [
    path for path in sorted((ROOT / "src" / "queuekit").rglob("*.py")) if "```python" in path.read_text("utf-8")
]

_FENCE = re.compile(r"^[ \t]*```(\w*)", re.MULTILINE)
_SKIP = re.compile(r"<!--\s*skip:.*?-->")
_SKIP_WITH_REASON = re.compile(r'<!-- skip: next "[^"]{15,}" -->')


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(autouse=True)
def _place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples may write files, and read the environment of a newcomer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUEUEKIT_URL", raising=False)
    for variable in ("AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "CLOUD_RUN_JOB", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)
    yield
    reset_memory()


@pytest.fixture(autouse=True)
def _an_end() -> Iterator[None]:
    """A worker or an iteration that nobody stops would hold up the whole suite."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _too_long(_signal: int, _frame: FrameType | None) -> NoReturn:
    pytest.fail("a block of this document runs for longer than 60 s")


def run(document: Document) -> int:
    """Run the blocks from the top, sharing names as a reader would; how many ran."""
    ran = 0
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest:
            continue
        ran += example.region.evaluator is not None and "source" in example.region.lexemes
    return ran


def parsers() -> tuple[Any, Any]:
    return PythonCodeBlockParser(), SkipParser()


def blocks(text: str, language: str) -> int:
    return [each[1] for each in _FENCE.finditer(text)].count(language)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_the_blocks_of_a_page_run(path: Path) -> None:
    text = path.read_text("utf-8")
    document = Document.parse(str(path), *parsers())
    document.namespace["__name__"] = "__main__"
    assert run(document) == blocks(text, "python") - len(_SKIP.findall(text))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_the_examples_of_docstrings_run(path: Path) -> None:
    text = path.read_text("utf-8")
    document = PythonDocStringDocument.parse(str(path), *parsers())
    document.evaluators.clear()  # the module is not imported a second time, and its private names stay private
    document.namespace.update({each: getattr(queuekit, each) for each in queuekit.__all__})
    assert run(document) == blocks(text, "python") - len(_SKIP.findall(text))


@pytest.mark.parametrize("path", PAGES + SOURCES, ids=name)
def test_a_block_that_is_not_run_says_why(path: Path) -> None:
    text = path.read_text("utf-8")
    assert _SKIP.findall(text) == _SKIP_WITH_REASON.findall(text)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_block_names_its_language(path: Path) -> None:
    # Opening and closing fences take turns; an unnamed opening one would hide Python from the tests.
    fences = [each[1] for each in _FENCE.finditer(path.read_text("utf-8"))]
    assert len(fences) % 2 == 0
    assert [each for each in fences[::2] if each not in {"python", "console", "text", "toml", "json"}] == []
