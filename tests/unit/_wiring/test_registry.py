# SPDX-License-Identifier: Apache-2.0
"""The registry: entry points of real (temporary) distributions, read late and one at a time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from queuekit._values.errors import UnknownSchemeError
from queuekit._wiring.registry import BUILT_INS, find_spec, known_schemes

PLUGIN = """
    from dataclasses import dataclass
    from queuekit.backend import BackendSpec

    @dataclass(frozen=True)
    class Options:
        pass

    SPEC = BackendSpec(open=lambda opening: opening.queue, options=Options, slot="host", forms=("x://QUEUE",){more})
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run code in a fresh interpreter that sees the plug-ins, each ``name=(scheme, target, source)``."""

    def run(code: str, **plugins: tuple[str, str, str]) -> str:
        for name, (scheme, target, source) in plugins.items():
            (tmp_path / f"{name}.py").write_text(dedent(source))
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[queuekit.backends]\n{scheme} = {target}\n")
        script = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + dedent(code)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    return run


SHOW = """
    from queuekit._wiring.registry import find_spec
    try:
        print(find_spec({scheme!r}).forms)
    except Exception as error:
        print(type(error).__name__, error, "cause:", type(error.__cause__).__name__)
"""


def plugin(more: str = "") -> str:
    return dedent(PLUGIN).format(more=more)


def test_a_scheme_of_a_plugin_is_found(run: Run) -> None:
    assert run(SHOW.format(scheme="x"), one=("x", "one:SPEC", plugin())) == "('x://QUEUE',)\n"


def test_a_plugin_opens_from_its_url(run: Run) -> None:
    code = """
        from queuekit._values.clock import SystemClock
        from queuekit._values.url import QueueURL
        from queuekit._wiring.opening import Opener
        print(Opener(SystemClock()).open(QueueURL.parse("x://orders")))
    """
    assert run(code, one=("x", "one:SPEC", plugin())) == "orders\n"


@pytest.mark.row("S32")
def test_entry_points_are_not_read_for_a_built_in_scheme(run: Run) -> None:
    code = """
        import importlib.metadata
        importlib.metadata.entry_points = lambda **_: 1 / 0
        from queuekit._wiring import registry
        print(registry.find_spec("memory").forms[0])
    """
    assert run(code) == "memory://QUEUE\n"


@pytest.mark.row("S32")
def test_only_the_plugin_that_is_asked_for_is_imported(run: Run) -> None:
    code = """
        from queuekit._wiring.registry import find_spec, known_schemes
        print(known_schemes(), find_spec("x").forms, "two" in sys.modules)
    """
    said = run(code, one=("x", "one:SPEC", plugin()), two=("y", "two:SPEC", "raise SystemExit('broken')"))
    assert said.endswith("'x', 'y') ('x://QUEUE',) False\n")


@pytest.mark.parametrize("source", ["import no_such_module", "SPECK = 1", "def ("])
def test_a_broken_plugin_is_a_setup_error_with_its_cause(run: Run, source: str) -> None:
    said = run(SHOW.format(scheme="x"), one=("x", "one:SPEC", source))
    assert said.startswith(
        "SetupError the plug-in 'one:SPEC' for the scheme 'x' cannot be imported; see the cause cause:"
    )
    assert not said.endswith("NoneType\n")


def test_two_packages_with_one_scheme_are_refused(run: Run) -> None:
    said = run(SHOW.format(scheme="x"), one=("x", "one:SPEC", plugin()), two=("x", "two:SPEC", plugin()))
    assert said.startswith("SetupError two packages register the scheme 'x': one:SPEC, two:SPEC; uninstall one")


def test_one_package_seen_twice_is_one(run: Run) -> None:
    said = run(SHOW.format(scheme="x"), one=("x", "one:SPEC", plugin()), two=("x", "one:SPEC", ""))
    assert said == "('x://QUEUE',)\n"


def test_another_version_of_the_interface_is_refused(run: Run) -> None:
    said = run(SHOW.format(scheme="x"), one=("x", "one:SPEC", plugin(", spi_version=99")))
    assert said.startswith("SetupError the plug-in 'one:SPEC' was written for version 99 of the backend interface")


def test_something_else_than_a_spec_is_refused(run: Run) -> None:
    said = run(SHOW.format(scheme="x"), one=("x", "one:SPEC", "SPEC = object()"))
    assert said.startswith("SetupError the plug-in 'one:SPEC' for the scheme 'x' is no BackendSpec; ask its author")


def test_a_built_in_whose_packages_are_missing_names_the_command(run: Run) -> None:
    code = """
        from queuekit._wiring import registry
        registry.BUILT_INS = {"sqs": registry.BuiltIn("no_such_sdk:SPEC", "sqs")}
    """
    said = run(dedent(code) + dedent(SHOW.format(scheme="sqs")))
    assert "BackendMissingError" in said
    assert "pip install 'queuekit[sqs]' cause: ModuleNotFoundError" in said


def test_an_unknown_scheme_offers_the_nearest() -> None:
    with pytest.raises(UnknownSchemeError, match=r"^no backend for scheme 'memry'; did you mean 'memory'\?$"):
        find_spec("memry")


def test_an_unknown_scheme_that_is_near_to_none_gets_the_list() -> None:
    with pytest.raises(UnknownSchemeError, match=r"^no backend for scheme 'zz'; known are .*memory, .*sqlite"):
        find_spec("zz")


def test_every_built_in_is_known() -> None:
    assert set(BUILT_INS) <= set(known_schemes())
