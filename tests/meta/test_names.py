# SPDX-License-Identifier: Apache-2.0
"""The public names: sorted, complete, and in pairs where they block."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import queuekit

PUBLIC = ["queuekit", "queuekit.backend", "queuekit.testing"]
PRIVATE = {"T"}  # type variables
NO_TWIN = {
    "send_soon": "returns a future, and suspends by itself",
}


def flatten(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, and those under an `if` such as ``if TYPE_CHECKING``."""
    for node in body:
        yield from node.body if isinstance(node, ast.If) else [node]


def own_names(module: Any) -> set[str]:
    """What a module defines, or imports from another module of queuekit."""
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    found: set[str] = set()
    for node in flatten(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("queuekit"):
            found |= {each.asname or each.name for each in node.names}
        elif isinstance(node, ast.Assign):
            found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {each for each in found if not each.startswith("_") and each not in PRIVATE} | (found & {"__version__"})


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as imports are sorted."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_all_is_sorted_and_complete(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__ == sorted(module.__all__, key=rank)
    assert set(module.__all__) == own_names(module)
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


def public_classes() -> Iterator[type[Any]]:
    for name in getattr(queuekit, "__all__", dir(queuekit)):
        found = getattr(queuekit, name)
        if inspect.isclass(found) and not issubclass(found, BaseException):
            yield found


def methods(cls: type[Any]) -> dict[str, Any]:
    return {
        name: each for name, each in inspect.getmembers(cls) if not name.startswith("_") and inspect.isroutine(each)
    }


def is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


TWINS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in public_classes()
    for name, each in methods(cls).items()
    if is_async(each)
]


def test_there_are_twins() -> None:
    assert len(TWINS) >= 5


@pytest.mark.parametrize(("cls", "name"), TWINS)
def test_an_async_method_has_a_blocking_twin_with_the_same_signature(cls: type[Any], name: str) -> None:
    assert name.startswith("a")
    blocking = methods(cls).get(name[1:])
    assert blocking is not None
    assert not is_async(blocking)
    ours, theirs = inspect.signature(methods(cls)[name]), inspect.signature(blocking)
    assert list(ours.parameters.values()) == list(theirs.parameters.values())
    assert str(ours.return_annotation).replace("Async", "") == str(theirs.return_annotation)


def blocks(function: Any) -> bool:
    # What can find the service unreachable talks to it.
    return "UnavailableError:" in (inspect.getdoc(function) or "") and not is_async(function)


@pytest.mark.parametrize("cls", [pytest.param(each, id=each.__name__) for each in public_classes()])
def test_a_method_that_talks_to_the_service_has_an_async_twin(cls: type[Any]) -> None:
    found = methods(cls)
    alone = [name for name, each in found.items() if blocks(each) and "a" + name not in found and name not in NO_TWIN]
    assert alone == []
