# SPDX-License-Identifier: Apache-2.0
"""Floor 3: the engine. Pure policies decide; threads carry out; the guard turns SDK errors into ours."""
