# SPDX-License-Identifier: Apache-2.0
"""The backends: each sees floors 0 and 1 and its own SDK, and never another backend."""
