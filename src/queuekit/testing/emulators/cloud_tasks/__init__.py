# SPDX-License-Identifier: Apache-2.0
"""An emulator of Google Cloud Tasks, which has no official one.

It follows the published interface and its documentation, as Google's own client speaks it; what it does not do stands
on the page of the backend. Needs ``pip install 'queuekit[emulator]'``.
"""

from __future__ import annotations

from queuekit.testing.emulators.cloud_tasks._local import LocalCloudTasks

__all__ = ["LocalCloudTasks"]
