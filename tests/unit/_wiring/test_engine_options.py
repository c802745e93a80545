# SPDX-License-Identifier: Apache-2.0
"""The options that every URL takes, whatever its scheme."""

from typing import Any

import pytest

import queuekit as qk
from queuekit._wiring.engine_options import engine_options, lanes_of
from queuekit._wiring.opening import Opener
from queuekit.backend import QueueURL, SystemClock

BAD = [
    "lanes=high",
    "lanes=high,high",
    "lanes=high,,low",
    "lanes=high,lo%20w",
    "lanes=a,b,c,d,e,f,g,h,i,j,k",
    "lane_weights=3,1",
    "lanes=high,low&lane_weights=3",
    "lanes=high,low&lane_weights=3,0",
    "lanes=high,low&lane_weights=3,1001",
    "lanes=high,low&lane_weights=3,x",
    "foreign=yes",
]


@pytest.mark.parametrize("options", BAD)
@pytest.mark.parametrize("place", ["memory://q?", "sqlite:///x.db?queue=q&"])
def test_what_makes_no_sense_is_refused_by_name(place: str, options: str) -> None:
    name = options.rpartition("&")[2].partition("=")[0]
    with pytest.raises(qk.InvalidURLError, match=name):
        Opener(SystemClock()).open(QueueURL.parse(place + options))


@pytest.mark.parametrize("keywords", [{"foreign": True}, {"lanes": "high,low", "lane_weights": "3,1"}], ids=str)
def test_an_option_may_be_a_keyword_but_must_not_contradict_the_url(keywords: dict[str, Any]) -> None:
    assert engine_options(QueueURL.parse("memory://q"), keywords) == engine_options(
        QueueURL.parse("memory://q").replace(options={n: str(v).lower() for n, v in keywords.items()}), {}
    )
    with pytest.raises(qk.InvalidURLError, match="differ"):
        engine_options(QueueURL.parse("memory://q?lanes=a,b&foreign=false"), keywords)


def test_lanes_are_the_highest_first() -> None:
    lanes = lanes_of(
        engine_options(QueueURL.parse("memory://q?lanes=high,low&lane_weights=3,1"), {}), scheme="memory"
    )
    assert lanes is not None
    assert (lanes.names, lanes.weights) == (("high", "low"), (3, 1))


def test_a_misspelt_option_is_answered_with_the_nearest_of_both_kinds() -> None:
    for wrong, right in (("lane", "lanes"), ("foriegn", "foreign"), ("spaec", "space")):
        with pytest.raises(qk.InvalidURLError, match=f"did you mean '{right}'"):
            Opener(SystemClock()).open(QueueURL.parse(f"memory://q?{wrong}=x"))
