# SPDX-License-Identifier: Apache-2.0
"""Queue URLs: one strict parser, and a value type that never shows a credential."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from queuekit._values.errors import InvalidURLError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\\#\ud800-\udfff]|\s")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(?::(?P<port>[0-9]{1,5}))?")
_IPV6 = re.compile(r"(?=.*:)[0-9A-Fa-f:.]+")
_SECRET_NAMES = re.compile(
    r"pass(word|wd|phrase)?|pwd|secret|token|key|credential|auth|sig(nature)?|sas", re.IGNORECASE
)
_NOT_SECRET = frozenset({"ordering_key"})
_LOGIN = re.compile(r":[^/@]*@")
_HIDDEN = "***"
_LONGEST = 8192
_DEEPEST = 8
_SAFE_IN_PATH = "/-._~!$'()*,;:="
_SAFE_IN_VALUE = "/-._~!$'()*,;:"


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a URL.

    Attributes:
        name: A name or an address, an IPv6 address without its brackets.
        port: The port, where one was given.
    """

    name: str
    port: int | None = None

    def __str__(self) -> str:
        name = f"[{self.name}]" if _IPV6.fullmatch(self.name) else quote(self.name, safe="-._~!$'()*;=")
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class QueueURL:
    """A parsed queue URL. Shown in any way, it is redacted; only `reveal` gives the whole.

    Attributes:
        scheme: What picks the backend.
        hosts: The authority's hosts, in the order given; empty where there is none.
        user: Decoded user name, where one was given. Hidden in every shown form.
        password: Decoded password, where one was given. Hidden in every shown form.
        path: Decoded path with its leading slash, or empty.
        options: Decoded query, name to value. Values that look secret are hidden in every shown form.

    Concurrency:
        Immutable.
    """

    scheme: str
    hosts: tuple[Host, ...] = ()
    user: str | None = None
    password: str | None = None
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> QueueURL:
        """Read a URL strictly: whatever is not understood is refused.

        Raises:
            InvalidURLError: The message says what is wrong and where, and quotes nothing secret.
        """
        return _parse(text)

    def replace(self, **changes: Any) -> QueueURL:
        """The same URL with other parts."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        return QueueURL(**(parts | changes))

    def with_option(self, name: str, value: str) -> QueueURL:
        """The same URL with one option set."""
        return self.replace(options={**self.options, name: value})

    def reveal(self) -> str:
        """The whole URL, secrets included. Only a backend that connects needs it."""
        return self._write(str, lambda _name, value: value)

    def secrets(self) -> Iterable[str]:
        """Every secret in here, so that a text which might hold one can be cleaned."""
        if self.password:
            yield self.password
        elif self.user:
            yield self.user  # alone, it is how some services write a token
        for name, value in self.options.items():
            if _hide(name, value) == _HIDDEN:
                yield value
            elif "://" in value:
                yield from _nested_secrets(value)

    def __str__(self) -> str:
        return self._write(lambda _: _HIDDEN, _hide)

    def __repr__(self) -> str:
        return f"QueueURL({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __hash__(self) -> int:
        options = frozenset(self.options.items())  # equality does not ask for their order
        return hash((self.scheme, self.hosts, self.user, self.password, self.path, options))

    def __copy__(self) -> QueueURL:
        return self

    def __deepcopy__(self, memo: object) -> QueueURL:
        return self  # by way of __reduce__ a copy would lose its credentials

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle is a way for a secret to leave the process: it carries the redacted form.
        return (QueueURL.parse, (str(self),))

    def _write(self, secret: Callable[[str], str], option: Callable[[str, str], str]) -> str:
        login = ""
        if self.user is not None:
            login = _quote_secret(secret(self.user))
            if self.password is not None:
                login += ":" + _quote_secret(secret(self.password))
            login += "@"
        elif self.password is not None:
            login = ":" + _quote_secret(secret(self.password)) + "@"
        authority = login + ",".join(map(str, self.hosts))
        query = "&".join(
            f"{quote(name, safe='')}={quote(option(name, value), safe=_SAFE_IN_VALUE)}"
            for name, value in self.options.items()
        )
        path = quote(self.path, safe=_SAFE_IN_PATH)
        return f"{self.scheme}://{authority}{path}" + (f"?{query}" if query else "")


def _quote_secret(text: str) -> str:
    return quote(text, safe="*")


def _hide(name: str, value: str) -> str:
    if name not in _NOT_SECRET and _SECRET_NAMES.search(name):
        return _HIDDEN
    if value.count("://") > _DEEPEST:
        return _HIDDEN  # nobody nests URLs like that but to exhaust the stack
    if "://" in value:
        try:
            return str(_parse(value))
        except InvalidURLError:
            return _HIDDEN
    return _HIDDEN if _LOGIN.search(value) else value


def _nested_secrets(value: str) -> Iterable[str]:
    try:
        yield from _parse(value).secrets()
    except InvalidURLError:
        yield value


def _parse(text: object) -> QueueURL:
    if not isinstance(text, str):
        msg = f"a queue URL is a str, not {type(text).__name__}"
        raise InvalidURLError(msg)
    if len(text) > _LONGEST:
        msg = f"a queue URL has at most {_LONGEST} characters"
        raise InvalidURLError(msg)
    scheme, separator, rest = text.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        msg = "a queue URL starts with a scheme and ://, as in sqlite:///jobs.db?queue=orders"
        raise InvalidURLError(msg)
    if bad := _FORBIDDEN.search(text):
        hint = f"write it as %{ord(bad[0]):02X}" if ord(bad[0]) < 128 else "percent-encode it"
        msg = f"a {scheme} URL holds a raw {_name_character(bad[0])}; {hint}"
        raise InvalidURLError(msg)
    if _BAD_PERCENT.search(text):
        msg = f"a {scheme} URL holds a '%' without two hexadecimal digits after it; write a literal one as %25"
        raise InvalidURLError(msg)
    before_query, question, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    if "@" in path:
        # An unescaped slash in a password moves its tail into the path: refuse rather than show it.
        msg = f"a {scheme} URL has a raw '@' in its path; percent-encode it, and any '/' in a password"
        raise InvalidURLError(msg)
    if "@" in query and ":" in authority and "@" not in authority:
        # What looks like a port may be the head of a password, and an option name its tail.
        msg = f"a {scheme} URL has a raw '@' in an option; write it as %40, and any '?' in a password as %3F"
        raise InvalidURLError(msg)
    user, password, hosts = _parse_authority(scheme, authority)
    return QueueURL(
        scheme=scheme,
        hosts=hosts,
        user=user,
        password=password,
        path=slash + _decode(path, scheme, "path"),
        options=_parse_query(scheme, query) if question else {},
    )


def _name_character(character: str) -> str:
    names = {
        "#": "'#'",
        "\\": "backslash",
        " ": "space",
        "\t": "tab",
        "\n": "line feed",
        "\r": "carriage return",
    }
    return names.get(character, f"character U+{ord(character):04X}")


def _parse_authority(scheme: str, authority: str) -> tuple[str | None, str | None, tuple[Host, ...]]:
    login, at, hosts = authority.rpartition("@")
    if "@" in login:
        msg = f"a {scheme} URL has a raw '@' in its user or password; write it as %40"
        raise InvalidURLError(msg)
    user, colon, password = login.partition(":")
    if ":" in password:
        msg = f"a {scheme} URL has a raw ':' in its password; write it as %3A"
        raise InvalidURLError(msg)
    return (
        (_decode(user, scheme, "user") or None) if at else None,
        _decode(password, scheme, "password") if colon else None,
        tuple(_parse_host(scheme, each) for each in hosts.split(",")) if hosts else (),
    )


def _parse_host(scheme: str, text: str) -> Host:
    match = _HOST.fullmatch(text)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        # The text is not quoted: with a missing '@' it may be a password.
        msg = f"a {scheme} URL has a host that is not NAME, NAME:PORT or [IPV6]:PORT"
        raise InvalidURLError(msg)
    return Host(_decode(match["name"].strip("[]"), scheme, "host"), port)


def _parse_query(scheme: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&"):
        raw_name, equals, raw_value = part.partition("=")
        name = _decode(raw_name, scheme, "option name")
        if not name or not equals:
            msg = f"a {scheme} URL has an option that is not NAME=VALUE"
            raise InvalidURLError(msg)
        if name in options:
            msg = f"a {scheme} URL gives the option {name!r} twice; give it once"
            raise InvalidURLError(msg)
        if not raw_value:
            msg = f"a {scheme} URL gives the option {name!r} no value; leave it out or give one"
            raise InvalidURLError(msg)
        options[name] = _decode(raw_value, scheme, f"option {name!r}")
    return options


def _decode(text: str, scheme: str, part: str) -> str:
    try:
        decoded = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        decoded = "\x00"
    if _CONTROL.search(decoded):
        msg = f"the {part} of a {scheme} URL decodes to a control character or to bytes that are not UTF-8"
        raise InvalidURLError(msg) from None
    return decoded
