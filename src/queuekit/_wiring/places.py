# SPDX-License-Identifier: Apache-2.0
"""Which queue a URL means, whatever else it says: so that two programs can tell that they mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from queuekit._values.errors import BackendMissingError, InvalidURLError, SetupError, UnknownSchemeError
from queuekit._values.url import QueueURL
from queuekit._wiring.engine_options import LANE_NAMES
from queuekit._wiring.opening import fill_queue, lane_urls, queue_name
from queuekit._wiring.registry import find_spec

Where = tuple[QueueURL, Mapping[str, Any]]
"""A URL, and the options that were given beside it."""


def place_of(url: QueueURL, keywords: Mapping[str, Any]) -> QueueURL:
    """The URL of the same queue with nothing in it but what says which queue it is: no login, and no settings.

    Raises:
        SetupError: No backend has its scheme.
    """
    spec = find_spec(url.scheme)
    known = ("queue", *spec.places, "lanes") if spec.slot == "option" else (*spec.places, "lanes")
    given = {**url.options, **{name: value for name, value in keywords.items() if value is not None}}
    options = {name: str(given[name]) for name in known if name in given}
    return QueueURL(scheme=url.scheme, hosts=url.hosts, path=url.path, options=options)


def places_of(url: QueueURL, keywords: Mapping[str, Any]) -> frozenset[QueueURL]:
    """The place of a queue, and of each of its lanes.

    Raises:
        SetupError: The URL or its lanes are wrong.
    """
    lanes, others = lane_urls(url, keywords)
    return frozenset({place_of(url, keywords), *(place_of(each, others) for each in lanes)})


def at_base(base: Where, place: QueueURL) -> Where | None:
    """What a place is opened with where it is a queue of an app's own URL; None where it is not.

    Args:
        base: The app's URL, and its options.
        place: From `place_of`.
    """
    url, keywords = base
    if place.scheme != url.scheme:
        return None
    plain = url.replace(options={name: text for name, text in url.options.items() if name not in LANE_NAMES})
    others = {name: value for name, value in keywords.items() if name not in LANE_NAMES}
    try:
        whole = fill_queue(plain, queue_name(place, find_spec(place.scheme)))
    except InvalidURLError:
        return None
    if "lanes" in place.options:
        others["lanes"] = place.options["lanes"]
    return (whole, others) if place_of(whole, others) == place else None


def read_place(text: str) -> QueueURL | None:
    """A place as a message names it, also of a service that is not known here; None for what is no place at all."""
    try:
        url = QueueURL.parse(text)
    except InvalidURLError:
        return None
    try:
        return url if queue_name(url, find_spec(url.scheme)) and place_of(url, {}) == url else None
    except (UnknownSchemeError, BackendMissingError):
        return url
    except SetupError:
        return None


def write_place(place: QueueURL) -> str:
    """A place as a message names it."""
    return place.reveal()
