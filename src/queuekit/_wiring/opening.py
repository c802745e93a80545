# SPDX-License-Identifier: Apache-2.0
"""From a URL and keyword options to an open backend; no I/O."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from queuekit._values.clock import Clock
from queuekit._values.errors import InvalidURLError
from queuekit._values.options import read_options
from queuekit._values.url import Host, QueueURL
from queuekit._wiring.engine_options import LANE_NAMES, NAMES, backend_options, engine_options, lanes_of
from queuekit._wiring.registry import find_spec, find_store
from queuekit.backend import Backend, BackendSpec, ClientPool, Opening
from queuekit.stores import IdempotencyStore

DEAD_SUFFIX = ".dead"
_LANED = "queuekit._engine.laned_abilities"
_QUEUE_NAME = re.compile(r"[^\x00-\x20\x7f-\x9f\s\ud800-\udfff]{1,255}")


class Opener:
    """Opens backends that share one clock and one pool of clients.

    An App owns one; a Producer or a Consumer on its own has its own.

    Args:
        clock: Time and chance for everything opened here.

    Concurrency:
        Safe from any thread. `close` comes after every backend was closed.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._clients = ClientPool()

    def open(self, url: QueueURL, keywords: Mapping[str, Any] | None = None) -> Backend:
        """Open the queue that a whole URL names.

        Raises:
            UnknownSchemeError: No backend has this scheme.
            BackendMissingError: The backend's packages are missing.
            InvalidURLError: The URL names no queue, or holds something that the backend does not know.
        """
        spec, keywords = find_spec(url.scheme), keywords or {}
        queue = queue_name(url, spec)
        lanes = lanes_of(engine_options(url, keywords), scheme=url.scheme)
        texts, others = backend_options(url, keywords)
        if spec.slot == "option":
            texts = {name: text for name, text in texts.items() if name != "queue"}
        options = read_options(spec.options, texts, others, scheme=url.scheme, beside=NAMES)
        plain = url.replace(options={name: text for name, text in url.options.items() if name not in NAMES})

        def open_one(whole: QueueURL, name: str) -> Backend:
            return spec.open(Opening(url=whole, queue=name, options=options, clock=self.clock, clients=self._clients))

        if lanes is None:
            return open_one(plain, queue)
        # Named by string: the engine stands above this floor.
        compose = importlib.import_module(_LANED).laned_backend
        names = [_lane_name(queue, each) for each in lanes.names]
        backends = [open_one(_with_queue(plain, name, spec), name) for name in names]
        made: Backend = compose(backends, weights=lanes.weights, clock=self.clock, queue=str(url))
        return made

    def open_store(self, url: QueueURL) -> IdempotencyStore:
        """Open the idempotency store that a URL names.

        Raises:
            UnknownSchemeError: No store has this scheme.
            BackendMissingError: The store's packages are missing.
            InvalidURLError: The URL cannot be one of this store.
        """
        return find_store(url.scheme).open(url, self.clock)

    def close(self) -> None:
        """Close the shared clients. Idempotent."""
        self._clients.close()


def queue_name(url: QueueURL, spec: BackendSpec) -> str:
    """The name in the URL's queue slot.

    Raises:
        InvalidURLError: The slot is empty or the name cannot be one.
    """
    name = _slot(url, spec)
    if not name:
        msg = f"the {url.scheme} URL names no queue; the form is {' or '.join(spec.forms)}"
        raise InvalidURLError(msg)
    if not _QUEUE_NAME.fullmatch(name):
        what = "a space, control character or lone surrogate, or over 255 characters"
        msg = f"the {url.scheme} URL names a queue with {what}"
        raise InvalidURLError(msg)
    return name


def has_queue(url: QueueURL) -> bool:
    """Whether the URL names a queue, or is an App's, with the slot left empty."""
    return bool(_slot(url, find_spec(url.scheme)))


def fill_queue(url: QueueURL, queue: str) -> QueueURL:
    """Put a queue's name into the slot of an App's URL.

    Raises:
        InvalidURLError: The slot is taken by another name, or the name cannot stand in it.
        UnknownSchemeError: No backend has this scheme.
        BackendMissingError: The backend's packages are missing.
    """
    spec = find_spec(url.scheme)
    taken = _slot(url, spec)
    if taken and taken != queue:
        msg = f"the {url.scheme} URL names the queue {taken!r} already; leave it out to use {queue!r}"
        raise InvalidURLError(msg)
    if spec.slot == "host":
        return url.replace(hosts=(Host(queue),))
    if spec.slot == "path":
        if "/" in queue:
            msg = f"a {url.scheme} queue name cannot hold a '/', and {queue!r} does"
            raise InvalidURLError(msg)
        return url if taken else url.replace(path=url.path.rstrip("/") + "/" + queue)
    return url.with_option("queue", queue)


def dead_letter_url(url: QueueURL) -> QueueURL:
    """The URL of the built-in dead-letter queue of a store that keeps it beside the queue itself.

    Raises:
        InvalidURLError: The URL names no queue.
    """
    spec = find_spec(url.scheme)
    return _with_queue(url, queue_name(url, spec) + DEAD_SUFFIX, spec)


def _with_queue(url: QueueURL, name: str, spec: BackendSpec) -> QueueURL:
    """The URL with another name in its queue slot."""
    if spec.slot == "host":
        return url.replace(hosts=(Host(name),))
    if spec.slot == "path":
        return url.replace(path=url.path.removesuffix("/").rpartition("/")[0] + "/" + name)
    return url.with_option("queue", name)


def lane_urls(url: QueueURL, keywords: Mapping[str, Any]) -> tuple[Sequence[QueueURL], Mapping[str, Any]]:
    """The queues that a whole URL stands for at the service, and the keywords that they are opened with.

    Raises:
        SetupError: The URL or its lanes are wrong.
    """
    lanes = lanes_of(engine_options(url, keywords), scheme=url.scheme)
    if lanes is None:
        return [url], keywords
    spec = find_spec(url.scheme)
    queue = queue_name(url, spec)
    plain = url.replace(options={name: text for name, text in url.options.items() if name not in LANE_NAMES})
    others = {name: value for name, value in keywords.items() if name not in LANE_NAMES}
    return [_with_queue(plain, _lane_name(queue, each), spec) for each in lanes.names], others


def _lane_name(queue: str, lane: str) -> str:
    """The queue of one lane; the dead letters of a lane stand in that lane's own dead-letter queue."""
    if queue.endswith(DEAD_SUFFIX):
        return f"{queue.removesuffix(DEAD_SUFFIX)}-{lane}{DEAD_SUFFIX}"
    return f"{queue}-{lane}"


def _slot(url: QueueURL, spec: BackendSpec) -> str:
    if spec.slot == "host":
        if len(url.hosts) > 1 or (url.hosts and url.hosts[0].port is not None):
            msg = f"the {url.scheme} URL takes a queue name where it has hosts; the form is {spec.forms[0]}"
            raise InvalidURLError(msg)
        return url.hosts[0].name if url.hosts else ""
    if spec.slot == "path":
        path = url.path.removeprefix("/").removesuffix("/")
        parts = path.split("/") if path else []
        if not spec.path_parts <= len(parts) <= spec.path_parts + 1 or not all(parts):
            forms = " or ".join(spec.forms)
            msg = f"the path of the {url.scheme} URL has too few parts, or too many; the form is {forms}"
            raise InvalidURLError(msg)
        return "".join(parts[spec.path_parts :])
    return url.options.get("queue", "")
