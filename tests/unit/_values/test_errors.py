# SPDX-License-Identifier: Apache-2.0
"""Errors: each can be made, says the same after a pickle, and hangs on the one root."""

import inspect
import pickle
from typing import Any

import pytest

from queuekit._values import errors
from queuekit._values.errors import QueueKitError

CLASSES = sorted(
    (each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, QueueKitError)),
    key=lambda each: each.__name__,
)
EXTRAS: dict[str, dict[str, Any]] = {
    "MessageTooLargeError": {"size": 300, "limit": 256},
    "ThrottledError": {"retry_after_s": 1.5},
    "PartialFailureError": {"failures": ("one", "two")},
    "UnsafeSettingsError": {"findings": ("one", "two")},
}


def test_the_tree_was_found() -> None:
    assert len(CLASSES) >= 25


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_a_pickle(cls: type[QueueKitError]) -> None:
    extras = EXTRAS.get(cls.__name__, {})
    error = cls("fact; remedy", queue="redis://***@h", operation="send", code="own", retryable=True, **extras)
    error.add_note("a note")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), again.args, again.__dict__) == (str(error), error.args, error.__dict__)
    assert {name: getattr(again, name) for name in extras} == extras


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_code_and_a_kind_without_being_told(cls: type[QueueKitError]) -> None:
    error = cls("fact", **EXTRAS.get(cls.__name__, {}))
    assert (error.code, error.retryable) == (cls.default_code, cls.default_retryable)
    assert (error.queue, error.operation) == (None, None)


def test_codes_are_different() -> None:
    codes = [cls.default_code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_tree_is_at_most_four_classes_deep_and_names_end_in_error(cls: type[QueueKitError]) -> None:
    assert cls.__name__.endswith("Error")
    assert len(cls.__mro__) - len(Exception.__mro__) <= 4
    assert not hasattr(__builtins__, cls.__name__)
