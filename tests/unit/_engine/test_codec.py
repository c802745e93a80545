# SPDX-License-Identifier: Apache-2.0
import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
    model_serializer,
)
from typing_extensions import TypedDict

from queuekit import DecodeError, EncodeError, InvalidMessageError, QueueKitError, UsageError
from queuekit._engine.codec import codec_for

T = TypeVar("T")


class Address(BaseModel):
    street: str


class LongAddress(Address):
    country: str = "nowhere"


class Box(BaseModel, Generic[T]):
    inside: T


class Person(BaseModel):
    name: str
    address: Address | None = None
    addresses: list[Address] = []


@dataclasses.dataclass
class Point:
    x: float


@dataclasses.dataclass
class Point3(Point):
    z: float = 0.0


@dataclasses.dataclass
class Other:
    x: float


class Place(TypedDict):
    point: Point


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(value=JSON)
def test_json_comes_back_the_same(value: Any) -> None:
    codec = codec_for(Any)
    assert codec.decode(codec.encode(value), "application/json") == value


@given(body=st.binary())
def test_bytes_are_the_body(body: bytes) -> None:
    codec = codec_for(bytes)
    assert codec.encode(body) == body
    assert codec.decode(body, "text/plain") == body


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_utf_8(text: str) -> None:
    codec = codec_for(str)
    assert codec.decode(codec.encode(text), "text/plain; charset=utf-8") == text


@given(body=st.binary(), payload=st.sampled_from([str, int, Person, list[Point], Any, Place]))
def test_decoding_anything_either_works_or_is_a_decode_error(body: bytes, payload: Any) -> None:
    codec = codec_for(payload)
    with contextlib.suppress(DecodeError):
        codec.decode(body, None)


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Raising(BaseModel):
    name: str

    @field_serializer("name")
    def _fail(self, name: str) -> str:
        raise KeyError(name)


REFUSED: list[tuple[str, Any, Any]] = [
    ("bytes for text", bytes, "text"),
    ("a bytearray", bytes, bytearray(b"x")),
    ("a view", bytes, memoryview(b"x")),
    ("text for bytes", str, b"bytes"),
    ("another type", int, "five"),
    ("another model", Person, Address(street="x")),
    ("another model of an optional type", LongAddress | None, Person(name="x")),
    ("another model of a union", LongAddress | Point3, Person(name="x")),
    ("another dataclass", Other, Point(1.0)),
    ("a dict for a model", Person, {"name": "ada"}),
    ("a model with a wrong field", Person, Person.model_construct(name=5)),
    ("None", Person, None),
    ("None for a number", int, None),
    ("None in a list", list[int], [None]),
    ("None for a nested model", Box[Address], Box[Address].model_construct(inside=None)),
    ("a subclass", Address, LongAddress(street="x")),
    ("a nested subclass", Person, Person(name="x", address=LongAddress(street="x"))),
    ("a subclass in a list", Person, Person(name="x", addresses=[LongAddress(street="x")])),
    ("a subclass in a list of its parent", list[Address], [LongAddress(street="x")]),
    ("a subclass in a dict", dict[str, Address], {"a": LongAddress(street="x")}),
    ("a subclass of a dataclass", Point, Point3(1.0)),
    ("a subclass of a dataclass in a typed dict", Place, {"point": Point3(1.0)}),
    ("a subclass in a union", Address | Point, LongAddress(street="x")),
    ("inf", float, math.inf),
    ("nan", float, math.nan),
    ("minus inf in a list", list[float], [1.0, -math.inf]),
    ("nan in a model", Point, Point(math.nan)),
    ("nan in a dict", dict[str, float], {"a": math.nan}),
    ("nan as a key", dict[float, int], {math.nan: 1}),
    ("nan in a tuple", tuple[float, ...], (math.nan,)),
    ("nan in a set", set[float], {math.nan}),
    ("nan in a deque", deque[float], deque([math.nan])),
    ("nan deep in Any", Any, {"a": [{"b": (1, {"c": math.inf})}]}),
    ("nan in a dataclass in Any", Any, {"a": Point(math.nan)}),
    ("nan in a deque in Any", Any, deque([math.nan])),
    ("nan as a decimal", Decimal, Decimal("nan")),
    ("inf as a decimal in Any", Any, [Decimal("inf")]),
    ("a lone surrogate", list[str], ["\ud800"]),
    ("a lone surrogate as a key", dict[str, int], {"\ud800": 1}),
    ("a lone surrogate in a model", Person, Person.model_construct(name="\udcff")),
    ("an object", Any, object()),
    ("a function", Any, len),
    ("deep nesting", Any, deep(100_000)),
    ("a circle", Any, circle()),
    ("a serializer that raises", Raising, Raising(name="x")),
]


@pytest.mark.parametrize(("payload", "value"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_would_not_come_back_the_same_is_refused(payload: Any, value: Any) -> None:
    with pytest.raises(EncodeError):
        codec_for(payload).encode(value)


def test_text_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidMessageError, match="surrogate"):
        codec_for(str).encode("\ud800")


@pytest.mark.parametrize(("payload", "value"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_one_that_is_refused_has_all_looked_at_singly(payload: Any, value: Any) -> None:
    assert codec_for(payload).encode_many([value]) is None
    assert codec_for(payload).encode_many([value, value]) is None


@pytest.mark.parametrize("kind", [SecretStr, SecretBytes, list[SecretStr], dict[str, SecretStr | None]])
def test_secret_types_are_refused_when_opening(kind: Any) -> None:
    class Login(BaseModel):
        secret: kind

    with pytest.raises(EncodeError, match="Secret"):
        codec_for(Login)


def test_an_excluded_required_field_is_refused_when_opening() -> None:
    class Partial(BaseModel):
        kept: int
        left_out: int = Field(exclude=True)

    with pytest.raises(EncodeError, match="exclude"):
        codec_for(Partial)


@pytest.mark.parametrize("payload", [len, 5, "NoSuchType", object()])
def test_what_pydantic_cannot_describe_is_a_usage_error(payload: Any) -> None:
    with pytest.raises(UsageError):
        codec_for(payload)


CANARY = "canary-7f3a"


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        (int, f'"{CANARY}"'),
        (Person, f'{{"name": 5, "address": "{CANARY}"}}'),
        (Person, f'{{"{CANARY}"'),
        (Literal["a"], f'"{CANARY}"'),
        (datetime, f'"{CANARY}"'),
        (UUID, f'"{CANARY}"'),
    ],
    ids=str,
)
def test_errors_do_not_show_the_input(payload: Any, body: str) -> None:
    with pytest.raises(DecodeError) as caught:
        codec_for(payload).decode(body.encode(), None)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_errors_of_encoding_do_not_show_the_value() -> None:
    for payload, value in ((int, CANARY), (Person, Person.model_construct(name=[CANARY]))):
        with pytest.raises(EncodeError) as caught:
            codec_for(payload).encode(value)
        assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/cloudevents+json", "Application/JSON; charset=utf-8"]
)
def test_every_kind_of_json_is_taken(content_type: str) -> None:
    assert codec_for(int).decode(b"5", content_type) == 5


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "", "application/octet-stream"])
def test_another_content_type_is_a_decode_error(content_type: str) -> None:
    with pytest.raises(DecodeError):
        codec_for(int).decode(b"5", content_type)


# Where the schema writes some types in a way of its own, a subclass somewhere must not make that a refusal.


class Styled(BaseModel):
    model_config = ConfigDict(ser_json_timedelta="float", ser_json_bytes="base64")

    took: timedelta
    blob: bytes
    at: Annotated[datetime, PlainSerializer(lambda value: value.isoformat(), when_used="json")]
    kind: Annotated[str, PlainSerializer(str.upper)] = "x"
    alias: int = Field(default=1, alias="theAlias")

    @field_serializer("took")
    def _took(self, took: timedelta) -> float:
        return took.total_seconds()

    @computed_field
    def extra(self) -> int:
        return 5


class MoreStyled(Styled):
    more: int = 0


class Custom(BaseModel):
    a: int

    @model_serializer
    def _write(self) -> dict[str, Any]:
        return {"a": self.a}


class MoreCustom(Custom):
    """Has a subclass now."""


class Row(NamedTuple):
    a: int


STYLED = Styled(took=timedelta(seconds=5), blob=b"\xff\x00", at=datetime(2020, 1, 1, tzinfo=UTC), theAlias=4)
TAKEN: list[tuple[Any, Any]] = [
    (Styled, STYLED),
    (list[Styled], [STYLED]),
    (Box[Styled], Box[Styled](inside=STYLED)),
    (Box[int], Box[int](inside=5)),
    (Custom, Custom(a=1)),
    (LongAddress, LongAddress(street="x")),
    (Address | LongAddress, Address(street="x")),
    (Person, Person(name="x", address=Address(street="y"), addresses=[Address(street="z")])),
    (Point, Point(1.0)),
    (LongAddress | None, None),
    (Person | Point, Point(1.0)),
    (Any, {"when": datetime(2020, 1, 1, tzinfo=UTC)}),
    (float | None, None),
    (list[float | None], [None, 1.5]),
    (str | int, "NaN"),
    (list[str], ["null", "NaN", "Infinity"]),
    (Row, Row(1)),
]


@pytest.mark.parametrize(("payload", "value"), TAKEN, ids=[f"{i}" for i in range(len(TAKEN))])
def test_what_comes_back_the_same_is_taken(payload: Any, value: Any) -> None:
    codec = codec_for(payload)
    body = codec.encode(value)
    if payload not in (Styled, list[Styled], Box[Styled], Any):
        assert codec.decode(body, None) == value


@pytest.mark.parametrize(("payload", "value"), TAKEN, ids=[f"{i}" for i in range(len(TAKEN))])
@pytest.mark.parametrize("joined_bytes", [0, 1 << 20])
def test_many_at_once_are_the_same_bytes_or_looked_at_singly(
    payload: Any, value: Any, joined_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queuekit._engine.codec._JOINED_BYTES", joined_bytes)
    codec = codec_for(payload)
    assert codec.encode_many([value, value]) in ([codec.encode(value)] * 2, None)
    assert not codec.encode_many([])


class Plain(BaseModel):
    text: str
    count: int


@given(st.lists(st.builds(Plain, text=TEXT, count=st.integers())))
def test_plain_models_go_at_once_whatever_their_text(values: list[Plain]) -> None:
    codec = codec_for(Plain)
    singly = [codec.encode(value) for value in values]
    at_once = codec.encode_many(values)
    odd = any("null" in value.text or "\ufffd" in value.text for value in values)
    assert at_once == singly or (odd and at_once is None)


@pytest.mark.parametrize("make", [lambda: deep(100_000), circle, object], ids=["deep", "circle", "object"])
def test_a_refusal_is_always_one_of_queuekits_errors(make: Callable[[], Any]) -> None:
    with pytest.raises(QueueKitError):
        codec_for(list[Any] | Any).encode(make())
