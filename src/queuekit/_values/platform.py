# SPDX-License-Identifier: Apache-2.0
"""Where this process runs, as far as its environment tells."""

from __future__ import annotations

from collections.abc import Mapping

_SHORT_LIVED = {
    "AWS_LAMBDA_FUNCTION_NAME": "AWS Lambda",
    "K_SERVICE": "Cloud Run",
    "CLOUD_RUN_JOB": "Cloud Run",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
}


def short_lived_platform(environment: Mapping[str, str]) -> str:
    """The platform whose own disks end with the process's machine; empty where there is no sign of one.

    Args:
        environment: The process's environment variables.
    """
    return next((place for variable, place in _SHORT_LIVED.items() if variable in environment), "")
