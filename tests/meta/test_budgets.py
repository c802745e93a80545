# SPDX-License-Identifier: Apache-2.0
"""Sizes, licence lines and asserts. Raising a budget, or excepting a file, is a line here with its reason."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "queuekit"
FILES = sorted(SOURCE.rglob("*.py"))
EVERYTHING = sorted(
    path
    for folder in ("src", "tests", "examples", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)

FILE_LINES = 400
BACKEND_LINES = 650


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, without the docstring: prose is not what makes a function hard to read."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if is_docstring(first):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def is_stub(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return all(is_docstring(statement) for statement in function.body)


LENGTHS = {
    f"{name(path)}:{each.name}": length(each)
    for path in FILES
    for each in functions(ast.parse(path.read_text("utf-8")))
    if not is_stub(each)
}


def test_no_function_is_longer_than_sixty_lines() -> None:
    assert {where: lines for where, lines in LENGTHS.items() if lines > 60} == {}


def test_half_of_the_functions_have_at_most_eight_lines_and_nine_in_ten_at_most_thirty() -> None:
    assert median(LENGTHS.values()) <= 8
    assert quantiles(LENGTHS.values(), n=10)[-1] <= 30


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_fits_its_budget(path: Path) -> None:
    budget = BACKEND_LINES if "backends" in path.parts else FILE_LINES
    assert len(path.read_text("utf-8").splitlines()) <= budget


def test_no_assert_outside_testing() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path in FILES
        if path.relative_to(SOURCE).parts[0] != "testing"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_every_file_has_its_licence_line() -> None:
    spdx = "# SPDX-License-Identifier: Apache-2.0"
    missing = [
        str(path.relative_to(ROOT)) for path in EVERYTHING if path.read_text("utf-8").partition("\n")[0] != spdx
    ]
    assert missing == []
