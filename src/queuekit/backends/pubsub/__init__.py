# SPDX-License-Identifier: Apache-2.0
"""The Google Cloud Pub/Sub backend: one topic and one subscription of it, by Google's generated clients."""

from importlib.util import find_spec

from queuekit.backends.pubsub._backend import SPEC, PubSubBackend
from queuekit.backends.pubsub._costs import cost_per_million
from queuekit.backends.pubsub._errors import DifferentSettingsError, OtherTopicError
from queuekit.backends.pubsub._options import PubSubOptions

__all__ = ["SPEC", "DifferentSettingsError", "OtherTopicError", "PubSubBackend", "PubSubOptions", "cost_per_million"]


def _is_installed() -> bool:
    try:
        return find_spec("google.pubsub_v1") is not None
    except ModuleNotFoundError:
        return False


# Google's clients are imported by the first call to the service; that they are not there is told when a queue is
# opened.
if not _is_installed():
    msg = "google-cloud-pubsub is not installed"
    raise ImportError(msg, name="google.pubsub_v1")
