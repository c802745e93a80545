# SPDX-License-Identifier: Apache-2.0
"""The rules of ``tests/conftest.py`` bite: shown by running them over small files that break them."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CONFTEST = (Path(__file__).parents[1] / "conftest.py").read_text("utf-8")
SECRET = "other-canary-77"  # another word, because the output of the inner run is output of ours

LEAKING = f"""
import logging, sys, warnings
import pytest

def test_print(): print("url is redis://user:{SECRET}@h")
def test_stderr(): sys.stderr.write("{SECRET}")
def test_log(): logging.getLogger("queuekit.x").debug("no answer from %s", "{SECRET}")
def test_log_extra(): logging.getLogger("queuekit").error("no answer", extra={{"url": "{SECRET}"}})
def test_log_traceback():
    try:
        raise ValueError("{SECRET}")
    except ValueError:
        logging.getLogger("queuekit").exception("failed")
@pytest.mark.filterwarnings("always")
def test_warning(): warnings.warn("{SECRET}", UserWarning, stacklevel=1)
def test_failure(): raise ValueError("{SECRET}")
@pytest.fixture
def loud():
    yield
    print("{SECRET}")
def test_teardown(loud): pass
def test_tidy(): print("redis://***@h")
"""


class Rules:
    """Files of tests under the rules.

    pytest's own `pytester` would put the modules of this process back to what they were, under the feet of threads
    that are importing some.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "conftest.py").write_text(CONFTEST.replace("s3cr3t-canary", "other-canary"), "utf-8")

    def write(self, *files: str) -> None:
        for number, tests in enumerate(files):
            (self._folder / f"test_{number}.py").write_text(textwrap.dedent(tests), "utf-8")

    def run(self, *options: str) -> pytest.RunResult:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
        ran = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False, timeout=300)
        return pytest.RunResult(ran.returncode, ran.stdout.splitlines(), ran.stderr.splitlines(), 0.0)


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return Rules(tmp_path)


def test_a_secret_fails_the_test_that_shows_it(rules: Rules) -> None:
    rules.write(LEAKING)
    result = rules.run("-p", "no:randomly", "-rA")
    result.assert_outcomes(failed=7, errors=1, passed=2)
    result.stdout.fnmatch_lines_random(
        [
            "PASSED *::test_tidy",
            "PASSED *::test_teardown",
            "ERROR *::test_teardown*",
            "The canary secret was found in: Captured stdout call*",
            "The canary secret was found in: Captured stderr call*",
            "The canary secret was found in: Captured log call, a log record of 'queuekit.x'*",
            "The canary secret was found in: a log record of 'queuekit'*",
            "The canary secret was found in: a UserWarning*",
            "The canary secret was found in: the report of its failure*",
        ]
    )


SKIPPING = """
import pytest
def test_skips(): pytest.skip("no server here")
@pytest.mark.skipif(True, reason="no server there")
def test_marked(): pass
@pytest.mark.xfail(strict=True)
def test_expected(): assert 0
def test_fine(): pass
"""
SKIPPING_WHOLE = "import pytest\npytest.importorskip('no_such_module')"


def test_in_ci_a_skip_is_a_failure(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEKIT_CI", "1")
    rules.write(SKIPPING)
    result = rules.run()
    result.stdout.fnmatch_lines_random(["In CI nothing is skipped, and this was: *no server here"])
    result.assert_outcomes(failed=1, errors=1, passed=1, xfailed=1)  # a mark skips in the setup, which errs


def test_in_ci_a_skipped_file_is_a_failure(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEKIT_CI", "1")
    rules.write(SKIPPING_WHOLE)
    result = rules.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines_random(["In CI nothing is skipped, and this was: *no_such_module*"])


def test_at_home_a_skip_is_a_skip(rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUEUEKIT_CI", raising=False)
    rules.write(SKIPPING, SKIPPING_WHOLE)
    rules.run().assert_outcomes(skipped=3, passed=1, xfailed=1)


def test_memory_is_empty_at_the_start_of_a_test(rules: Rules) -> None:
    rules.write(
        """
        import pytest
        from queuekit._values.clock import SystemClock
        from queuekit._values.url import QueueURL
        from queuekit._wiring.opening import Opener
        from queuekit.backend import OutgoingMessage

        @pytest.mark.parametrize("which", [1, 2])
        def test_alone(which):
            queue = Opener(SystemClock()).open(QueueURL.parse("memory://orders"))
            queue.send([OutgoingMessage("a", b"")], timeout_s=1)
            assert queue.stats().ready == 1
        """
    )
    rules.run().assert_outcomes(passed=2)
