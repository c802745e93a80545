# SPDX-License-Identifier: Apache-2.0
"""What the backends of Google's services share. Nothing of Google's is imported before the first call needs it."""
