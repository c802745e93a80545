# SPDX-License-Identifier: Apache-2.0
"""The Google Cloud Tasks backend, by Google's generated client. It sends; what the service pushes is read."""

from importlib.util import find_spec

from queuekit.backends.cloudtasks._backend import SPEC, CloudTasksBackend
from queuekit.backends.cloudtasks._errors import DifferentSettingsError
from queuekit.backends.cloudtasks._options import CloudTasksOptions

__all__ = ["SPEC", "CloudTasksBackend", "CloudTasksOptions", "DifferentSettingsError"]


def _is_installed() -> bool:
    try:
        return find_spec("google.cloud.tasks_v2") is not None
    except ModuleNotFoundError:
        return False


# Google's client is imported by the first call to the service; that it is not there is told when a queue is opened.
if not _is_installed():
    msg = "google-cloud-tasks is not installed"
    raise ImportError(msg, name="google.cloud.tasks_v2")
