# SPDX-License-Identifier: Apache-2.0
"""The Amazon SQS backend: standard and FIFO queues, by boto3."""

from importlib.util import find_spec

from queuekit.backends.sqs._backend import SPEC, SqsBackend
from queuekit.backends.sqs._costs import LIST_PRICES, Prices, cost_per_million
from queuekit.backends.sqs._errors import DamagedAnswerError, DifferentSettingsError
from queuekit.backends.sqs._options import SqsOptions

__all__ = [
    "LIST_PRICES",
    "SPEC",
    "DamagedAnswerError",
    "DifferentSettingsError",
    "Prices",
    "SqsBackend",
    "SqsOptions",
    "cost_per_million",
]

# boto3 is imported by the first call to the service; that it is not there is told when a queue is opened.
if find_spec("boto3") is None:
    msg = "boto3 is not installed"
    raise ImportError(msg, name="boto3")
