# SPDX-License-Identifier: Apache-2.0
"""Options: read strictly, named in errors, never quoted."""

import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import pytest

from queuekit._values.errors import InvalidURLError
from queuekit._values.options import Range, Size, read_options

SECRET = "s3cr3t-canary-options"


@dataclass(frozen=True)
class Options:
    name: str = "n"
    count: int | None = field(default=None, metadata={"range": Range(1, 10)})
    ratio: float = field(default=0.5, metadata={"range": Range(0.0, 1.0)})
    fast: bool = False
    window: timedelta = field(default=timedelta(hours=1), metadata={"range": Range(timedelta(0), timedelta(days=7))})
    room: Size | None = field(default=None, metadata={"range": Range(1, 1 << 20)})
    mode: Literal["safe", "quick"] | None = None


def read(texts: dict[str, str] | None = None, **keywords: Any) -> Options:
    return read_options(Options, texts or {}, keywords, scheme="test")


def refused(texts: dict[str, str] | None = None, **keywords: Any) -> str:
    with pytest.raises(InvalidURLError) as caught:
        read(texts, **keywords)
    rendered = "".join(traceback.format_exception(caught.value))
    assert SECRET not in rendered
    assert "During handling" not in rendered
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert read() == Options()


def test_every_kind_is_read() -> None:
    texts = {
        "name": "x",
        "count": "10",
        "ratio": "0.25",
        "fast": "true",
        "window": "5m",
        "room": "256KiB",
        "mode": "quick",
    }
    assert read(texts) == Options("x", 10, 0.25, True, timedelta(minutes=5), 262144, "quick")


def test_keywords_are_taken_as_they_are_and_none_is_not_given() -> None:
    assert read(count=3, ratio=1, window=timedelta(0), room=None, mode="safe") == Options(
        count=3, ratio=1, window=timedelta(0), mode="safe"
    )


@pytest.mark.parametrize(
    ("given", "offered"), [("nmae", "name"), ("windw", "window"), ("Count", "count"), ("mod", "mode")]
)
def test_an_unknown_name_is_refused_and_the_nearest_offered(given: str, offered: str) -> None:
    assert refused({given: SECRET}) == f"no option {given!r} for test URLs; did you mean {offered!r}?"
    assert refused(**{given: SECRET}) == f"no option {given!r} for test URLs; did you mean {offered!r}?"


def test_an_unknown_name_that_is_near_to_none_gets_the_list() -> None:
    assert refused({"zzz": "1"}).endswith("known are count, fast, mode, name, ratio, room, window")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("count", text) for text in (SECRET, "1.0", "--5", "-", "+5", " 5", "5_0", "\u0665", "9" * 5000, "1e1")),
        *(("ratio", text) for text in (SECRET, "nan", "inf", "-inf", "1e-1", "0_1", ".5", "1,0", "\u0661", " 0.5")),
        *(("fast", text) for text in (SECRET, "True", "1", "yes", "on")),
        *(("window", text) for text in (SECRET, "5", "5 m", "-5m")),
        *(("room", text) for text in (SECRET, "5", "5K", "1.5B")),
        *(("mode", text) for text in (SECRET, "Safe", "")),
    ],
)  # fmt: skip
def test_a_text_of_the_wrong_form_is_refused(name: str, text: str) -> None:
    message = refused({name: text})
    assert message.startswith(f"the option {name!r} of a test URL: expected ")


@pytest.mark.parametrize(
    ("name", "text", "bounds"),
    [
        ("count", "0", "1 and 10"),
        ("count", "11", "1 and 10"),
        ("ratio", "1.01", "0.0 and 1.0"),
        ("ratio", "-0.1", "0.0 and 1.0"),
        ("window", "8d", "0ms and 7d"),
        ("room", "2MiB", "1 and 1048576"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_bounds(name: str, text: str, bounds: str) -> None:
    assert refused({name: text}) == f"the option {name!r} of a test URL must lie between {bounds}"


def test_a_keyword_out_of_range_is_refused() -> None:
    assert "must lie between" in refused(count=11)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", value) for value in ("5", 5.0, True)),
        *(("ratio", value) for value in ("0.5", float("nan"), True)),
        *(("fast", value) for value in (1, "true")),
        ("window", 5),
        ("room", "5B"),
        ("mode", SECRET),
        ("name", SECRET.encode()),
    ],
)
def test_a_keyword_of_the_wrong_type_is_refused(name: str, value: object) -> None:
    assert "is of the wrong type" in refused(**{name: value})


def test_a_keyword_that_differs_from_the_url_is_refused_and_an_equal_one_is_not() -> None:
    assert "keep one" in refused({"name": SECRET}, name=SECRET + "x")
    assert read({"window": "60s"}, window=timedelta(minutes=1)).window == timedelta(minutes=1)
