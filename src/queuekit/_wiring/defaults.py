# SPDX-License-Identifier: Apache-2.0
"""The URL that is used when none was given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from queuekit._values.errors import InvalidURLError
from queuekit._values.platform import short_lived_platform
from queuekit._values.url import QueueURL

logger = logging.getLogger("queuekit")

VARIABLE = "QUEUEKIT_URL"
_FILE = "queuekit.db"


def default_url(environment: Mapping[str, str]) -> QueueURL:
    """``QUEUEKIT_URL``, or a SQLite file in the current folder.

    Args:
        environment: The process's environment variables.

    Raises:
        InvalidURLError: The variable is set and empty or malformed; or it is unset where files do not
            last, so that messages would be lost with the machine.
    """
    text = environment.get(VARIABLE)
    if text == "":
        msg = f"{VARIABLE} is set and empty; unset it, or give it a queue URL"
        raise InvalidURLError(msg)
    if text is not None:
        return QueueURL.parse(text)
    place = short_lived_platform(environment)
    if place:
        msg = f"{VARIABLE} is not set, and files do not last on {place}; set it to the URL of a queue service"
        raise InvalidURLError(msg)
    url = QueueURL(scheme="sqlite", path="/" + str(Path.cwd() / _FILE))
    logger.info("%s is not set; using %s", VARIABLE, url, extra={"action": "setup.default_url"})
    return url
