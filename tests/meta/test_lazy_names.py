# SPDX-License-Identifier: Apache-2.0
"""The three lists of public names in ``queuekit/__init__.py`` are one."""

import ast
import inspect
import subprocess
import sys

import pytest

import queuekit


def test_every_public_name_resolves_to_what_its_home_defines() -> None:
    for name in queuekit.__all__:
        assert getattr(queuekit, name) is getattr(sys.modules[queuekit._HOMES[name]], name)


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(inspect.getsource(queuekit))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == queuekit._HOMES
    assert sorted(seen) == list(queuekit.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Consumr'"):
        _ = queuekit.Consumr  # type: ignore[attr-defined]


def test_importing_the_package_alone_loads_no_engine() -> None:
    code = (
        "import sys, queuekit; print([m for m in sys.modules if m.startswith(('queuekit.', 'pydantic', 'tenacity'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
