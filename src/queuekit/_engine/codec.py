# SPDX-License-Identifier: Apache-2.0
"""Payloads to bytes and back: bytes as they are, text as UTF-8, all else as JSON by pydantic."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Generic, Protocol, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from queuekit._values.errors import DecodeError, EncodeError, InvalidMessageError, UsageError

T = TypeVar("T")

_ALWAYS_FINITE = frozenset({
    "bool", "bytes", "date", "datetime", "int", "none", "str", "time", "timedelta", "url", "uuid",
    "dataclass", "dataclass-args", "dataclass-field", "model", "model-field", "model-fields", "typed-dict",
    "typed-dict-field", "default", "definition-ref", "definitions", "nullable", "tagged-union", "union",
    "dict", "frozenset", "list", "set", "tuple",
})  # fmt: skip
"""Kinds of schema that bring no inf or nan of their own; whatever is missing here may."""
_NOT_FINITE = (b"null", b"NaN", b"nan", b"Infinity", b"inf")
"""How JSON by pydantic shows inf and nan, as values and as keys."""
_TAKES_NONE = frozenset({"any", "json", "none", "nullable"})
_REPLACED = "\ufffd".encode()
_JOINED_BYTES = 1 << 20
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Codec(Protocol[T]):
    """Turns values of one payload type into bytes and back.

    Concurrency:
        Safe from any thread.
    """

    @property
    def content_type(self) -> str:
        """What the bytes are, as a media type."""
        ...

    def encode(self, value: T) -> bytes:
        """The bytes of a value.

        Raises:
            EncodeError: The value is not of the payload type, or would not come back the same.
            InvalidMessageError: Text holds a lone surrogate, which has no UTF-8 form.
        """
        ...

    def encode_many(self, values: Sequence[T]) -> list[bytes] | None:
        """The bytes of many values at half the cost of the checks; None where one must be looked at by itself."""
        ...

    def decode(self, body: bytes, content_type: str | None) -> T:
        """The value of some bytes; without a content type, the codec's own is assumed.

        Raises:
            DecodeError: The body is something else. The message shows where, never what.
        """
        ...


def codec_for(payload: Any) -> Codec[Any]:
    """The codec of a payload type.

    Args:
        payload: ``bytes``, ``str``, or anything that pydantic's `TypeAdapter` takes.

    Raises:
        EncodeError: Values of this type cannot be sent: a part of them is secret or excluded.
        UsageError: pydantic has no schema for this type.
    """
    if payload is bytes:
        return _BytesCodec()
    if payload is str:
        return _TextCodec()
    return _JsonCodec(payload)


class _BytesCodec:
    content_type = "application/octet-stream"

    def encode(self, value: bytes) -> bytes:
        if type(value) is not bytes:
            msg = f"the payload type is bytes and the value is {_name(value)}; pass bytes, or open with its type"
            raise EncodeError(msg)
        return value

    def encode_many(self, values: Sequence[bytes]) -> list[bytes] | None:
        return list(values) if set(map(type, values)) <= {bytes} else None

    def decode(self, body: bytes, content_type: str | None) -> bytes:  # noqa: ARG002 - bytes are bytes
        return body


class _TextCodec:
    content_type = "text/plain"

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, str):
            msg = f"the payload type is str and the value is {_name(value)}; pass a str, or open with its type"
            raise EncodeError(msg)
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError:
            msg = "the text holds a lone surrogate, which has no UTF-8 form; remove it, or send bytes"
            raise InvalidMessageError(msg) from None

    def encode_many(self, values: Sequence[Any]) -> list[bytes] | None:
        try:
            return [value.encode("utf-8") for value in values] if set(map(type, values)) <= {str} else None
        except UnicodeEncodeError:
            return None

    def decode(self, body: bytes, content_type: str | None) -> str:
        if content_type is not None and not content_type.startswith("text/"):
            raise DecodeError(_unexpected(content_type, "text/plain"))
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError as error:
            msg = f"the body is not UTF-8: {error.reason} at byte {error.start}"
            raise DecodeError(msg) from None


class _JsonCodec(Generic[T]):
    content_type = "application/json"

    def __init__(self, payload: Any) -> None:
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(payload)
            # The two methods themselves: through the adapter each call costs half as much again.
            self._to_json: Callable[..., bytes] = self._adapter.serializer.to_json
            self._from_json: Callable[[bytes], T] = self._adapter.validator.validate_json
        except Exception as error:  # pydantic raises many kinds for a type that it cannot describe
            msg = f"pydantic cannot make a codec for the payload type {payload!r}; see the cause"
            raise UsageError(msg) from error
        classes: list[type] = []
        _look_through(self._adapter.core_schema, classes)
        # Bound here: looked up on a model's class for each message, it takes longer than it runs.
        self._subclasses: list[Callable[[], list[type]]] = [cls.__subclasses__ for cls in classes]
        self._classes = tuple(classes)
        self._always_finite = all(map(_is_always_finite, _nodes(self._adapter.core_schema)))
        self._roots = _roots(self._adapter.core_schema)
        self._takes_none = any(node.get("type") in _TAKES_NONE for node in _nodes(self._adapter.core_schema))

    def encode(self, value: T) -> bytes:
        if self._roots is not None and type(value) not in self._roots:
            self._refuse_other_class(value, tuple(self._roots))
        try:
            body = self._to_json(value, by_alias=True, round_trip=True, warnings="error")
        except (PydanticSerializationError, UnicodeEncodeError, RecursionError) as error:
            raise EncodeError(self._refusal(value, error)) from None
        if self._may_be_lossy(body) or self._has_subclasses():
            self._refuse_losses(value, body)
        return body

    def encode_many(self, values: Sequence[T]) -> list[bytes] | None:
        if self._roots is not None and not set(map(type, values)) <= self._roots:
            return None
        to_json = self._to_json
        try:
            bodies = [to_json(value, by_alias=True, round_trip=True, warnings="error") for value in values]
        except (PydanticSerializationError, UnicodeEncodeError, RecursionError):
            return None
        if self._has_subclasses() or (self._takes_none and b"null" in bodies):
            return None
        # Searched as one text: a search costs more to begin than to run over a short body.
        together = [b"\n".join(bodies)] if sum(map(len, bodies)) < _JOINED_BYTES else bodies
        return None if any(map(self._may_be_lossy, together)) else bodies

    def _may_be_lossy(self, body: bytes) -> bool:
        """Whether a body holds a sign of something that JSON or pydantic writes as something else."""
        # Looked for only where the type could hold it: a None, which is written as null too, is common.
        if not self._always_finite and any(text in body for text in _NOT_FINITE):
            return True
        # For short bodies `find` takes half as long as `in`, which tries its operand as a number first.
        if body == b"null" if self._takes_none else body.find(b"null") >= 0:
            return True
        return not body.isascii() and _REPLACED in body

    def _has_subclasses(self) -> bool:
        return any(subclasses() for subclasses in self._subclasses)

    def _refuse_losses(self, value: T, body: bytes) -> None:
        if not self._always_finite and any(text in body for text in _NOT_FINITE):
            self._refuse_not_finite(value)
        if body == b"null" if self._takes_none else b"null" in body:
            self._refuse_none(value, body)
        if _REPLACED in body:
            self._refuse_surrogates(value)
        if self._has_subclasses():
            self._refuse_lost_fields(value, body)

    def decode(self, body: bytes, content_type: str | None) -> T:
        if content_type is not None and content_type != "application/json" and not _is_json(content_type):
            raise DecodeError(_unexpected(content_type, "application/json"))
        try:
            return self._from_json(body)
        except ValidationError as error:
            raise DecodeError(_without_input(error)) from None
        except RecursionError:
            msg = "the body is nested too deeply"
            raise DecodeError(msg) from None

    def _refusal(self, value: T, error: Exception) -> str:
        # pydantic's text may show the value, so only its kind is told.
        kind = "nested too deeply" if isinstance(error, RecursionError) else "not what the payload type declares"
        if isinstance(error, UnicodeEncodeError) or "surrogates" in str(error):
            kind = "text with a lone surrogate, which has no UTF-8 form"
        return f"the value of type {_name(value)} is {kind}; pass a value of the payload type"

    def _refuse_not_finite(self, value: T) -> None:
        # JSON has no inf or nan, and pydantic writes null: the reader would get something else.
        plain = self._adapter.serializer.to_python(value, by_alias=True, round_trip=True, warnings="none")
        if _holds_not_finite(plain):
            msg = "the payload holds inf or nan, which JSON cannot carry; send None or a string instead"
            raise EncodeError(msg)

    def _refuse_other_class(self, value: T, roots: tuple[type, ...]) -> None:
        # pydantic writes those fields of it that the declared class has too, and says nothing.
        if not isinstance(value, roots):
            msg = f"the value of type {_name(value)} is not what the payload type declares; pass a value of that type"
            raise EncodeError(msg)

    def _refuse_none(self, value: T, body: bytes) -> None:
        # pydantic writes a None wherever it stands, and the reader would refuse it.
        try:
            self._from_json(body)
        except ValidationError:
            msg = f"the value of type {_name(value)} holds None where the payload type has none; pass a value"
            raise EncodeError(msg) from None

    def _refuse_surrogates(self, value: T) -> None:
        # In the keys of a dict pydantic replaces them: the reader would get another key.
        plain = self._adapter.serializer.to_python(value, by_alias=True, round_trip=True, warnings="none")
        if any(isinstance(each, str) and _SURROGATE.search(each) for each in _parts(plain)):
            msg = "the payload holds text with a lone surrogate, which has no UTF-8 form; remove it"
            raise EncodeError(msg)

    def _refuse_lost_fields(self, value: T, body: bytes) -> None:
        # A subclass instance is written with its parent's fields only; written as itself it differs. So
        # does a field with a form of its own, and therefore an instance must be there too.
        as_itself = self._to_json(value, by_alias=True, round_trip=True, warnings="none", serialize_as_any=True)
        if as_itself != body and any(_is_subclassed(type(each), self._classes) for each in _parts(value)):
            msg = "the payload holds an instance of a subclass whose own fields would be lost; declare that type"
            raise EncodeError(msg)


def _is_always_finite(node: dict[str, Any]) -> bool:
    """Whether this part of a schema by itself rules out inf and nan in what is written."""
    kind = node.get("type")
    if isinstance(kind, str) and kind not in _ALWAYS_FINITE:
        return False
    extra = node.get("extra_behavior", node.get("extra_fields_behavior"))
    return extra != "allow" and "serialization" not in node


def _holds_not_finite(value: Any) -> bool:
    return any(
        not math.isfinite(each) if isinstance(each, float) else isinstance(each, Decimal) and not each.is_finite()
        for each in _parts(value)
    )


def _is_subclassed(cls: type, classes: tuple[type, ...]) -> bool:
    return any(cls is not each and issubclass(cls, each) for each in classes)


def _parts(value: Any) -> Iterator[Any]:
    """Everything that a value is made of, itself included."""
    pending = [value]
    while pending:
        each = pending.pop()
        yield each
        if isinstance(each, Mapping):
            pending.extend(each.keys())
            pending.extend(each.values())
        elif isinstance(each, (list, tuple, set, frozenset, deque)):
            pending.extend(each)
        elif is_dataclass(each) and not isinstance(each, type):
            pending.extend(getattr(each, part.name) for part in fields(each))
        elif isinstance(each, BaseModel):
            pending.extend(vars(each).values())


def _look_through(schema: Any, classes: list[type]) -> None:
    """Collect the classes whose subclasses could lose fields, and refuse what would not come back.

    Raises:
        EncodeError: A part of the payload type is masked or left out when it is written.
    """
    from pydantic import Secret, SecretBytes, SecretStr  # the slowest of its modules, and text needs none of it

    secrets = (SecretStr, SecretBytes, Secret)
    for node in _nodes(schema):
        kind, cls = node.get("type"), node.get("cls")
        if isinstance(cls, type) and issubclass(cls, secrets):
            msg = f"the payload type holds a {cls.__name__}, which is masked when it is written; use str or bytes"
            raise EncodeError(msg)
        if node.get("serialization_exclude") is True and node.get("schema", {}).get("type") != "default":
            msg = "the payload type excludes a required field from what is written; give it a default"
            raise EncodeError(msg)
        if kind in {"model", "dataclass"} and isinstance(cls, type) and cls not in classes:
            classes.append(cls)


def _roots(schema: Any) -> frozenset[type] | None:
    """The classes that values can have, where the payload type is one class or some; None for all else."""
    kind = schema["type"]
    if kind in {"model", "dataclass"}:
        return frozenset({schema["cls"]})
    if kind in {"nullable", "definitions", "function-after", "function-before", "function-wrap"}:
        inner = _roots(schema["schema"])
        return inner if kind != "nullable" or inner is None else inner | {type(None)}
    if kind != "union":
        return None
    found = [_roots(each[0] if isinstance(each, tuple) else each) for each in schema["choices"]]
    known = [each for each in found if each is not None]
    return frozenset().union(*known) if len(known) == len(found) else None


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    pending, seen = [schema], set[int]()
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            yield cast("dict[str, Any]", each)
            pending.extend(value for key, value in each.items() if key != "metadata")
        elif isinstance(each, (list, tuple)):
            pending.extend(each)


def _without_input(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    shown = "; ".join(f"{_where(each['loc'])}{each['type']}" for each in details[:5])
    more = f" and {len(details) - 5} more" if len(details) > 5 else ""
    return f"the body does not fit the payload type: {shown}{more}"


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) + ": " if location else ""


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def _unexpected(content_type: str, wanted: str) -> str:
    return f"the message says that its body is {content_type!r}, and this payload type needs {wanted}"


def _name(value: Any) -> str:
    return type(value).__qualname__
