# SPDX-License-Identifier: Apache-2.0
"""The end of a model: idle check, eviction, stop, detection of its exit."""
