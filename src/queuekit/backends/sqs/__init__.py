# SPDX-License-Identifier: Apache-2.0
"""The Amazon SQS backend: standard and FIFO queues, by boto3."""

from queuekit.backends.sqs._backend import SPEC, SqsBackend
from queuekit.backends.sqs._errors import DamagedAnswerError
from queuekit.backends.sqs._options import SqsOptions

__all__ = ["SPEC", "DamagedAnswerError", "SqsBackend", "SqsOptions"]
