# SPDX-License-Identifier: Apache-2.0
"""URL options that queuekit itself understands, whatever the scheme."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from queuekit._values.errors import InvalidURLError
from queuekit._values.options import read_options
from queuekit._values.url import QueueURL

_LANE = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)
_MOST_LANES = 10
_HEAVIEST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options that every URL takes.

    Attributes:
        foreign: Whether consumers other than queuekit's read the queue. Then nothing is bridged by copies,
            which they would not understand: a longer delay than the service's own is refused.
        lanes: Names of 2 to 10 lanes, the highest first, with commas between them: the queue ``q`` becomes
            one queue per lane, ``q-high`` and so on, and the priorities 0 to 9 are spread over them.
        lane_weights: A whole number of 1 to 1000 per lane, with commas between them: each lane's share of the
            polls while all have messages. Without it the highest lane that has messages comes first.
        strict: Whether a queue whose own settings can lose accepted messages is refused, at the first call, with
            `UnsafeSettingsError`; a worker does not start. What `doctor` calls a loss is meant.
        delay_via: Another queue's URL, percent-encoded inside a URL. Delays that the queue itself cannot keep wait
            there, and every worker of the queue forwards what is due. ``cloudtasks://`` forwards by itself.
    """

    foreign: bool = False
    lanes: str = ""
    lane_weights: str = ""
    strict: bool = False
    delay_via: str = ""


NAMES = tuple(each.name for each in dataclasses.fields(EngineOptions))
LANE_NAMES = ("lanes", "lane_weights")
"""The options that make one queue of several."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of one queue, the highest first.

    Attributes:
        names: One per lane.
        weights: One per lane; empty for strict order.
    """

    names: tuple[str, ...]
    weights: tuple[int, ...] = ()


def engine_options(url: QueueURL, keywords: Mapping[str, Any]) -> EngineOptions:
    """The options that queuekit itself understands, from a URL and from keywords of the same names.

    Raises:
        InvalidURLError: A value of the wrong form, or a keyword that contradicts the URL.
    """
    return read_options(EngineOptions, *_only(url, keywords, ours=True), scheme=url.scheme)


def backend_options(url: QueueURL, keywords: Mapping[str, Any]) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """What is left of the URL's options and of the keywords for the backend."""
    return _only(url, keywords, ours=False)


def _only(url: QueueURL, keywords: Mapping[str, Any], *, ours: bool) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    texts = {name: text for name, text in url.options.items() if (name in NAMES) is ours}
    return texts, {name: value for name, value in keywords.items() if (name in NAMES) is ours}


def lanes_of(options: EngineOptions, *, scheme: str) -> Lanes | None:
    """The lanes that a URL asks for; None where it asks for none.

    Raises:
        InvalidURLError: Too few or too many, a name twice or of the wrong form, or weights that do not fit.
    """
    if not options.lanes:
        if options.lane_weights:
            msg = f"a {scheme} URL gives lane_weights without lanes; name the lanes, the highest first"
            raise InvalidURLError(msg)
        return None
    names = tuple(options.lanes.split(","))
    if not 2 <= len(names) <= _MOST_LANES or len(set(names)) < len(names) or not all(map(_LANE.fullmatch, names)):
        msg = (
            f"the option 'lanes' of a {scheme} URL takes 2 to {_MOST_LANES} different names of letters, digits, "
            "'-' and '_', with commas between them"
        )
        raise InvalidURLError(msg)
    return Lanes(names, _weights(options.lane_weights, len(names), scheme))


def _weights(text: str, count: int, scheme: str) -> tuple[int, ...]:
    if not text:
        return ()
    parts = text.split(",")
    if len(parts) != count or not all(
        part.isascii() and part.isdigit() and len(part) < 5 and 1 <= int(part) <= _HEAVIEST for part in parts
    ):
        msg = (
            f"the option 'lane_weights' of a {scheme} URL takes one whole number of 1 to {_HEAVIEST} per lane, "
            f"of which there are {count}"
        )
        raise InvalidURLError(msg)
    return tuple(map(int, parts))
