# SPDX-License-Identifier: Apache-2.0
"""Floor 1: the backend interface in its parts, all of which are public in, and imported from, `queuekit.backend`."""
