# SPDX-License-Identifier: Apache-2.0
"""The request of an attempt: that of the task, with what the queue overrides and the service adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from queuekit.testing.emulators.cloud_tasks import _headers
from queuekit.testing.emulators.cloud_tasks._messages import WITH_BODY, UriOverride, method_name

_CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_IF_NOT_EXISTS = (
    UriOverride.DESCRIPTOR.enum_types_by_name["UriOverrideEnforceMode"].values_by_name["IF_NOT_EXISTS"].number
)
_HTTP = UriOverride.DESCRIPTOR.enum_types_by_name["Scheme"].values_by_name["HTTP"].number


@dataclass(frozen=True, slots=True)
class Token:
    """A token that is to be made when the request is sent.

    Attributes:
        kind: ``oidc`` or ``oauth``.
        email: The service account.
        what_for: The audience or the scope.
    """

    kind: str
    email: str
    what_for: str


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent.

    Attributes:
        method: Such as ``POST``.
        url: As it is called.
        headers: All but those of the connection and the token.
        body: Its bytes.
        token: For the Authorization header.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    token: Token | None


def request_of(task: Any, body: bytes, target: Any | None, about: Mapping[str, str]) -> Request:
    """The request of an attempt.

    Args:
        task: The task.
        body: Its body.
        target: The queue's own target, or None.
        about: What the service tells of the attempt, in headers.
    """
    own = task.http_request
    method = (target.http_method if target is not None else 0) or own.http_method
    url = _overridden(own.url, target.uri_override) if target is not None else own.url
    headers = dict(own.headers)
    token = _token(own, url)
    if target is not None:
        overrides = {each.header.key: each.header.value for each in target.header_overrides}
        replaced = {name.lower() for name in overrides}
        headers = {name: value for name, value in headers.items() if name.lower() not in replaced}
        headers |= _headers.taken(overrides)
        token = _token(target, url) or token
    if token is not None:
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return Request(method_name(method), url, {**headers, **about}, body if method in WITH_BODY else b"", token)


def encoded(url: str) -> str:
    """A URL with everything escaped that cannot stand in one."""
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]")


def _token(holder: Any, url: str) -> Token | None:
    match holder.WhichOneof("authorization_header"):
        case "oidc_token":
            return Token("oidc", holder.oidc_token.service_account_email, holder.oidc_token.audience or url)
        case "oauth_token":
            scope = holder.oauth_token.scope or _CLOUD_PLATFORM
            return Token("oauth", holder.oauth_token.service_account_email, scope)
        case _:
            return None


def _overridden(url: str, override: Any) -> str:
    always = override.uri_override_enforce_mode != _IF_NOT_EXISTS
    parts = urlsplit(url)
    scheme, path, query = parts.scheme, parts.path, parts.query
    if override.HasField("scheme") and always:
        scheme = "http" if override.scheme == _HTTP else "https"
    if override.HasField("path_override") and (always or path in {"", "/"}):
        path = override.path_override.path
        path = path if path.startswith("/") or not path else f"/{path}"
    if override.HasField("query_override") and (always or not query):
        query = override.query_override.query_params
    return encoded(urlunsplit((scheme, _authority(parts.netloc, override, always=always), path, query, "")))


def _authority(netloc: str, override: Any, *, always: bool) -> str:
    bracket = netloc.rfind("]")
    colon = netloc.find(":", bracket + 1)
    host, port = (netloc, "") if colon < 0 else (netloc[:colon], netloc[colon + 1 :])
    if override.HasField("host") and always:
        host = override.host
    if override.HasField("port") and (always or not port):
        port = str(override.port) if override.port else ""
    return f"{host}:{port}" if port else host
