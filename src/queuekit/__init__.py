# SPDX-License-Identifier: Apache-2.0
"""One producer and one consumer interface over many queue services; the backend is picked by a URL."""
