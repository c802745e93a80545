# SPDX-License-Identifier: Apache-2.0
"""Floor 0: the values that every other floor speaks in. No I/O happens here."""
