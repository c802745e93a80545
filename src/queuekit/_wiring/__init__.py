# SPDX-License-Identifier: Apache-2.0
"""Floor 2: from a URL to an open backend. Backends are named by string and imported when opened."""
