# SPDX-License-Identifier: Apache-2.0
"""Floor 4: what users hold: producers, consumers, deliveries, apps and workers."""
