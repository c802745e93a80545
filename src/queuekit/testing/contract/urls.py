# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the IDs of the cases are written as the contract writes them
"""URL: what a URL means, what is refused, and that opening touches nothing."""

from __future__ import annotations

import dataclasses
import pickle
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import pytest

from queuekit._engine.guard import Guard
from queuekit._values.errors import (
    AccessDeniedError,
    BackendMissingError,
    InvalidURLError,
    QueueNotFoundError,
    SetupError,
    UnknownSchemeError,
    UnsupportedError,
    UsageError,
)
from queuekit._values.options import read_options
from queuekit._values.url import Host, QueueURL
from queuekit._wiring import registry
from queuekit._wiring.opening import has_queue, queue_name
from queuekit.backend import BackendSpec, ErrorClass, ErrorCode
from queuekit.testing.contract.faces import Face
from queuekit.testing.contract.gates import requires
from queuekit.testing.contract.group import Group
from queuekit.testing.contract.harness import Harness
from queuekit.testing.contract.option_values import examples
from queuekit.testing.contract.spi import Queue
from queuekit.testing.faults import FaultyOpener, edit_answer, raise_before

SECRET = "p@ss/0?#% :&=+"  # noqa: S105  the point of the case
SDKS = ("boto3", "botocore", "redis", "google", "grpc", "pytest", "hypothesis", "typer")


class Urls(Group):
    """One strict URL, read the same way for every backend."""

    def test_URL_01_open_by_scheme_table(self, harness: Harness) -> None:
        """Every URL form in the harness's table opens, with the queue and the options that it stands for."""
        name = harness.unique_name()
        table = {harness.url(name): (name, {}), **harness.url_table}
        for text, (queue, options) in table.items():
            url = QueueURL.parse(text)
            spec = registry.find_spec(url.scheme)
            assert queue_name(url, spec) == queue
            read = _read(spec, url)
            assert {key: getattr(read, key) for key in options} == options
        spec = _spec(harness)
        assert spec.forms
        for form in spec.forms:
            assert "QUEUE" in form
            assert registry.find_spec(form.partition("://")[0]) is spec

    def test_URL_02_unknown_scheme_lists_known(self, harness: Harness) -> None:
        """An unknown scheme is refused with the nearest known one, or with all of them."""
        scheme = QueueURL.parse(harness.url("queue")).scheme
        with pytest.raises(UnknownSchemeError, match=re.escape(scheme)):
            harness.opener.open(QueueURL.parse(f"{scheme}x://q"))
        with pytest.raises(UnknownSchemeError, match=r"memory.*sqlite"):
            harness.opener.open(QueueURL.parse("zzzzzz://q"))

    def test_URL_03_missing_dependency_hint(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        """A backend whose packages are missing names the install command; queuekit itself needs none of them."""
        ghost = registry.BuiltIn("queuekit_ghost_sdk:SPEC", "ghost")
        monkeypatch.setattr(registry, "BUILT_INS", MappingProxyType({**registry.BUILT_INS, "ghost": ghost}))
        with pytest.raises(BackendMissingError, match=r"pip install 'queuekit\[ghost\]'"):
            harness.opener.open(QueueURL.parse("ghost://q"))
        script = f"import sys, queuekit; print([name for name in {SDKS!r} if name in sys.modules])"
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        assert ran.stdout.strip() == "[]", f"import queuekit brought in {ran.stdout}"

    def test_URL_04_unknown_option_refused(self, harness: Harness) -> None:
        """A misspelt option is refused, in the URL and as a keyword, and the right name is offered."""
        names = [each.name for each in dataclasses.fields(_spec(harness).options)]
        url = QueueURL.parse(harness.url(harness.unique_name()))
        for name in names:
            typo = name + "x"
            with pytest.raises(InvalidURLError, match=f"no option '{typo}'.*'{name}"):
                harness.opener.open(url.with_option(typo, "1"))
            with pytest.raises(InvalidURLError, match=f"no option '{typo}'.*'{name}"):
                harness.opener.open(url, {typo: "1"})

    def test_URL_05_bad_value_refused(self, harness: Harness) -> None:
        """A value of the wrong type, unit or range is refused, and the option is named but not its value."""
        url = QueueURL.parse(harness.url(harness.unique_name()))
        for name, values in examples(_spec(harness).options).items():
            for bad in values.bad:
                with pytest.raises(InvalidURLError, match=name) as caught:
                    harness.opener.open(url.with_option(name, bad))
                assert len(bad) < 5 or bad not in str(caught.value)

    def test_URL_06_precedence(self, harness: Harness) -> None:
        """An option in the URL and as a keyword must agree: equal is fine, different is refused."""
        url = QueueURL.parse(harness.url(harness.unique_name()))
        for name, values in examples(_spec(harness).options).items():
            (one_text, one), (_other_text, other) = values.good
            if name in url.options or not _takes(harness, url.with_option(name, one_text), name):
                continue
            whole = url.with_option(name, one_text)
            for needed, text in values.beside.items():
                whole = whole.with_option(needed, text)
            harness.opener.open(whole, {name: one}).close()
            with pytest.raises(InvalidURLError, match=name):
                harness.opener.open(whole, {name: other})

    def test_URL_07_secrets_redacted(self, harness: Harness) -> None:
        """A password, a token or a signature is in no str, repr, format, pickle or error."""
        hidden = "s3cr3t-word"
        own = QueueURL.parse(harness.url(harness.unique_name()))
        guarded = own.replace(user="u", password=hidden).with_option("token", hidden)
        nested = own.with_option("target", f"https://user:{hidden}@host/?sig={hidden}")
        for url in (guarded, nested, own.replace(user=hidden)):
            shown = (str(url), repr(url), f"{url}", repr(Host("h")), repr({"url": url}), repr(pickle.dumps(url)))
            assert hidden not in "".join(shown)
            assert hidden in set(url.secrets())
            with pytest.raises(SetupError) as caught:
                harness.opener.open(url.with_option("no-such-option", hidden))
            assert hidden not in f"{caught.value!r} {caught.value} {caught.value.queue}"
        with pytest.raises(InvalidURLError) as torn:
            QueueURL.parse(f"redis://user:{hidden}#@host/0")
        assert hidden not in repr(torn.value)

    def test_URL_08_percent_encoding(self, harness: Harness) -> None:
        """Passwords and queue names with dots, slashes, signs and Unicode survive percent-encoding."""
        url = QueueURL.parse(f"redis://user:{quote(SECRET, safe='')}@host/0?queue=a%2Fb.c%26d")
        assert (url.password, url.options["queue"]) == (SECRET, "a/b.c&d")
        assert QueueURL.parse(url.reveal()) == url
        start = harness.unique_name()
        for name in (f"{start}.x", f"{start}-\u00fc\u65e5", f"{start}%2F", f"{start}/y", f"{start}+&=z"):
            if (queue := _open_if_legal(harness, name)) is not None:
                queue.put(name.encode())
                assert Queue(harness, name).take()[0].body == name.encode()

    def test_URL_09_open_makes_no_network(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        """Opening connects to nothing and writes nothing."""
        url = harness.url(harness.unique_name())

        def refuse(*_args: Any, **_kwargs: Any) -> None:
            pytest.fail("opening a queue made a connection")

        before = _files(harness.directory)
        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        backend = harness.opener.open(QueueURL.parse(url))
        assert backend.capabilities.max_message_bytes > 0
        assert _files(harness.directory) == before, "opening a queue wrote a file"
        backend.close()

    @requires("declared")
    def test_URL_10_nonexistent_queue_fails_on_first_use(self, harness: Harness) -> None:
        """A queue that does not exist is QueueNotFoundError at its first use, with the queue named."""
        name = harness.unique_name()
        missing = harness.opener.open(QueueURL.parse(harness.url_of(name)))
        guard = Guard(missing, name)
        with pytest.raises(QueueNotFoundError, match=name):
            guard.receive(max_messages=1, wait_s=0.0, lease_s=harness.lease_s)
        missing.close()

    def test_URL_11_check_reports_everything(self, harness: Harness, face: Face) -> None:
        """check() says in one go whether the queue is reached and what it lacks; it raises for neither."""
        producer = face.producer(harness.unique_name())
        report = face.check(producer)
        assert report.ok, report.problems
        other = harness.capabilities  # of another queue, with dead letters of its own
        assert report.capabilities == dataclasses.replace(
            other, dead_letter_queue=report.capabilities.dead_letter_queue
        )
        report.raise_for_problems()
        opener = FaultyOpener(harness.opener)
        opener.script.always("probe", raise_before(ErrorClass(ErrorCode.ACCESS_DENIED)))
        for opened in (
            face.producer(harness.unique_name(), opener=opener),
            face.consumer(harness.unique_name(), opener=opener),
        ):
            denied = face.check(opened)
            assert not denied.ok
            assert isinstance(denied.error, AccessDeniedError)
            with pytest.raises(AccessDeniedError):
                denied.raise_for_problems()

    def test_URL_12_require_mismatch_fails_at_connect(self, harness: Harness, face: Face) -> None:
        """What is required and missing is refused when opening, or at the first call if only the service knows;
        the error names each feature."""
        url = harness.unique_name()
        lacking = FaultyOpener(harness.opener, max_delay_s=0.0, cancel=False)
        for open_one in (face.producer, face.consumer):
            with pytest.raises(UnsupportedError, match=r"delay.*cancel"):
                open_one(url, opener=lacking, require=["delay", "cancel", "message_bytes"])
        with pytest.raises(UsageError, match="no feature"):
            face.producer(url, require=["no-such-feature"])
        assert lacking.script.calls() == []
        later = FaultyOpener(harness.opener, cancel=True)
        later.script.always("probe", edit_answer(lambda found: [dataclasses.replace(found[0], max_message_bytes=1)]))
        producer = face.producer(url, opener=later, require={"message_bytes": 100})
        with pytest.raises(UnsupportedError, match="message_bytes of 100"):
            face.send(producer, b"x")
        assert later.script.calls("send") == []

    def test_URL_13_entry_point_registration(
        self, harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A third party's backend is found when its scheme is asked for; two of one scheme are refused; a
        broken plug-in breaks only its own scheme."""
        scheme = QueueURL.parse(harness.url("queue")).scheme
        third = f"third_{uuid.uuid4().hex}"
        _install(tmp_path, "one", {"third": f"{third}:SPEC", "broken": "broken_backend:SPEC", "two": "a:SPEC"})
        _install(tmp_path, "two", {"two": "b:SPEC"})
        source = f"from queuekit._wiring.registry import find_spec\nSPEC = find_spec({scheme!r})\n"
        (tmp_path / f"{third}.py").write_text(source, encoding="utf-8")
        (tmp_path / "broken_backend.py").write_text("import queuekit_no_such_sdk\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert {"third", "broken", "two", scheme} <= set(registry.known_schemes())
        assert third not in sys.modules, "a plug-in is imported only when its scheme is opened"
        assert registry.find_spec("third") is _spec(harness)
        with pytest.raises(SetupError, match=r"a:SPEC.*b:SPEC"):
            registry.find_spec("two")
        with pytest.raises(SetupError, match="broken_backend"):
            registry.find_spec("broken")
        assert registry.find_spec(scheme) is _spec(harness)
        del sys.modules[third]

    def test_URL_14_registry_is_read_only(self, harness: Harness) -> None:
        """What is registered cannot be changed behind everybody's back."""
        with pytest.raises(TypeError):
            registry.BUILT_INS["memory"] = registry.BuiltIn("evil:SPEC")  # type: ignore[index]
        with pytest.raises(dataclasses.FrozenInstanceError):
            _spec(harness).slot = "path"  # type: ignore[misc]

    def test_URL_15_url_round_trip(self, harness: Harness) -> None:
        """Reading what was written gives the same URL, whatever stands in it."""
        pytest.importorskip("hypothesis")
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
        own = QueueURL.parse(harness.url(harness.unique_name()))
        names = st.text("abcxyz_", min_size=1, max_size=8)

        @settings(max_examples=60, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(user=text, password=text, path=text, options=st.dictionaries(names, text, max_size=3))
        def stable(user: str, password: str, path: str, options: dict[str, str]) -> None:
            url = own.replace(user=user, password=password, path="/" + path, options=options)
            again = QueueURL.parse(url.reveal())
            assert again == url
            assert again.reveal() == url.reveal()
            assert QueueURL.parse(str(url)).scheme == url.scheme

        stable()


def _takes(harness: Harness, url: QueueURL, name: str) -> bool:
    """Whether the URL's form takes the option; where it is for another form, the refusal names it."""
    try:
        harness.opener.open(url).close()
    except InvalidURLError as error:
        refusal = str(error)
    else:
        return True
    assert f"'{name}'" in refusal
    return False


def _spec(harness: Harness) -> BackendSpec:
    return registry.find_spec(QueueURL.parse(harness.url("queue")).scheme)


def _read(spec: BackendSpec, url: QueueURL) -> Any:
    texts = {name: text for name, text in url.options.items() if spec.slot != "option" or name != "queue"}
    return read_options(spec.options, texts, {}, scheme=url.scheme)


def _open_if_legal(harness: Harness, name: str) -> Queue | None:
    """The queue, or None where the service has no such names and the backend says so."""
    try:
        url = QueueURL.parse(harness.url(name))
        assert has_queue(url)
        if queue_name(url, registry.find_spec(url.scheme)) != name:
            pytest.fail(f"the queue {name!r} became another one in {url}")
        return Queue(harness, name)
    except InvalidURLError:
        return None


def _files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


def _install(directory: Path, package: str, entries: dict[str, str]) -> None:
    """Make a distribution that registers backends."""
    info = directory / f"queuekit_{package}-1.0.dist-info"
    info.mkdir()
    lines: Iterator[str] = (f"{name} = {target}" for name, target in entries.items())
    group = f"[{registry.ENTRY_POINT_GROUP}]\n" + "\n".join(lines) + "\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: queuekit-{package}\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(group, encoding="utf-8")
